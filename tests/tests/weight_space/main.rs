//! Arithmetic on weights, planes, rays and curves, learning rates in cycles, moving averages, averages chosen after the training, averages
//! of files, SWAG and ensembles of predictions give what the papers' own formulas and codes give.
//!
//! `cargo test --release --test weight_space -- --nocapture` prints the deviations.

mod averages;
mod checkpoints;
mod curves;
mod decays;
mod ensembles;
mod linear_algebra;
mod network;
mod peers;
mod post_hoc;
mod schedules;
mod swag;

/// The tolerance for float32 against float64, as in the vectors' README: ten times the deviation by rounding alone.
const FLOAT32: f64 = 2.1e-6;

const FLOAT64: f64 = 1e-12;
