//! The paper's experiment: the runs of a plan, and their results.
//!
//! A [`Plan`] names networks, data sets, methods and seeds. Each run is a training as `cifar train` makes
//! it, in a folder of its own. It is made by a [`worker`]: on the CPU a process of its own, so that its memory can be
//! measured, on an accelerator one process for all runs, so that kernels are compiled once. The results of all runs are
//! [`record`]s in one file, the [`results_file`].

mod data_set;
mod directory;
mod plan;
mod predictions;
pub mod record;
pub mod results_file;
mod state;
pub mod status;
pub mod supervisor;
pub mod worker;

pub use data_set::DataSet;
pub use directory::ExperimentDirectory;
pub use plan::{FurtherSettings, ModelPlan, Plan, PlanError, PlannedRun, epoch_after};
