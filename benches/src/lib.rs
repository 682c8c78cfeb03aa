#![doc = include_str!("../README.md")]

mod timing;
mod training;

pub use timing::{Spread, by_turns, rounds, seconds};
pub use training::{images, learner, swa};
