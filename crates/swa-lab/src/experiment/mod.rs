//! The paper's experiment: runs of a plan, their results, and a report.
//!
//! A [`Plan`] names networks, data sets and seeds. Each of its runs is a training as `cifar train`
//! makes it, in a folder of its own, and a process of its own, so that its memory is its own. What the
//! runs come to is in one file, [`results_file`], of [`record`]s.

mod data_set;
mod directory;
mod lock;
mod plan;
pub mod record;
pub mod results_file;
mod state;
pub mod status;
pub mod supervisor;
pub mod worker;

pub use data_set::DataSet;
pub use directory::ExperimentDirectory;
pub use plan::{ModelPlan, Plan, PlanError, PlannedRun, epoch_after};
