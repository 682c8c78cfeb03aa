//! Shared code of the tests of all crates.

pub mod network;
pub mod parameters;
pub mod path;
pub mod points;
pub mod process;
pub mod random;
pub mod renderer;
