//! A run: its settings, its folder, its checkpoints, and the training itself.
//!
//! [`session`] is the heart: a network, a `Learner`, and [`Swa`](swa_train::Swa) around the model.

pub mod average;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod directory;
pub mod ensemble;
pub mod epoch_log;
pub mod evaluate;
pub mod export;
pub mod given;
pub mod how_to_average;
pub mod images;
pub mod interruption;
pub mod kept;
mod length;
pub(crate) mod lock;
mod log;
mod members;
pub mod method;
pub mod model_file;
pub(crate) mod prediction;
pub mod predictors;
pub mod progress;
pub mod recipe;
pub mod reestimation;
mod schedule;
pub mod session;
pub mod terminal;
pub mod time_limit;
pub mod train;
pub mod view;
