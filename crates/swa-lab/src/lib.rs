//! The laboratory that reproduces the SWA paper's experiments on CIFAR-10 and CIFAR-100, in layers:
//!
//! | layer | holds |
//! |---|---|
//! | [`data`] | images, from files or made up, and their batches in the order of a seed |
//! | [`run`] | one training: settings, folder, checkpoints, metrics, the model's file |
//! | [`landscape`] | the geometry of trained networks: planes, rays, lines, curves, and their points' scores |
//! | [`post_hoc`] | averages of a run that are chosen after it, and their scores |
//! | [`experiment`] | the many runs of a plan, and their results |
//! | [`report`] | the pages, pictures and tables of an experiment, from its results alone |
//!
//! No layer uses a later one (`tests/layers.rs`). Beside the layers are [`device`], [`output`],
//! [`provenance`] and [`measure`], which times trainings. The programs that use them are
//! `examples/cifar` and `examples/imagenet`.

pub mod data;
pub mod device;
pub mod experiment;
#[cfg(test)]
mod hostile_files;
pub mod landscape;
pub mod measure;
pub mod output;
pub mod post_hoc;
pub mod provenance;
pub mod report;
pub mod run;

/// An error to be shown in one line.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
