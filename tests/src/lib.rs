//! What the tests that cross the crates share: PyTorch's reference vectors, and comparing with them.

pub mod comparison;
pub mod generator;
pub mod state_dict;
pub mod vectors;
