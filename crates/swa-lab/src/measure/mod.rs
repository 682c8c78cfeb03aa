//! Measuring what averaging costs: timing against a baseline of the same run, and a training to be timed.

pub mod bench;
pub mod beside;
mod costs;
pub mod device_check;
mod launches;
mod timing;
mod training;

pub use costs::Costs;
pub use timing::{Spread, by_turns, by_turns_once_settled, seconds};
use training::seconds_on;
pub use training::{LEARNING_RATE, Step, images, learner, step, swa};
