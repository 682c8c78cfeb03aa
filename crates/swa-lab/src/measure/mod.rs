//! Measuring what averaging costs: timing against a baseline of the same run, and a training to be timed.

pub mod device_check;
mod timing;
mod training;

pub use timing::{Spread, by_turns, seconds};
use training::seconds_on;
pub use training::{LEARNING_RATE, Step, images, learner, step, swa};
