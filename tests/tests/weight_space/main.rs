//! Arithmetic on weights, planes, rays and curves, learning rates in cycles, SWAG, averages of files and ensembles of predictions give
//! what the papers' own formulas and codes give.
//!
//! `cargo test --release --test weight_space -- --nocapture` prints the deviations.

mod checkpoints;
mod curves;
mod ensembles;
mod linear_algebra;
mod network;
mod schedules;
mod swag;

/// The tolerance for float32 against float64, as in the vectors' README: ten times the deviation by rounding alone.
const FLOAT32: f64 = 2.1e-6;

const FLOAT64: f64 = 1e-12;
