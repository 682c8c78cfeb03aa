//! SWA on CIFAR-10 and CIFAR-100 from the command line: the library behind the program `cifar`.
//!
//! [`session`] is the program's heart: a network, a `Learner`, and [`Swa`](swa_train::Swa) around the
//! model. The rest is what a program needs around that.

pub mod check;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod data;
pub mod device;
pub mod directory;
pub mod epoch_log;
pub mod evaluate;
pub mod experiment;
pub mod export;
#[cfg(test)]
mod hostile_files;
pub mod interruption;
pub mod measure;
pub mod model_file;
pub mod output;
pub mod paper_training;
pub mod progress;
mod provenance;
pub mod report;
pub mod session;
pub mod terminal;
pub mod timed_loader;
pub mod train;

/// An error to be shown in one line.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
