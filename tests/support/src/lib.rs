//! What the tests of all crates share.

pub mod network;
pub mod parameters;
pub mod path;
pub mod points;
pub mod random;
pub mod renderer;
