//! Workarounds for Burn 0.22.1.
//!
//! - `Learner::optimizer_step` holds a second handle on its model while `TrainStep::optimize` runs. Nothing in the model could be
//!   changed in place, so the average is behind a lock that all handles share.
//! - Every step of a training on several devices forks the whole model to each: `Swa` forks the live model alone.
//! - A worker of `ExecutionStrategy::ddp` marks the parameters of its replica by a mapper that panics for tensors without a
//!   graph: [`is_sharder`].
//! - A training can fail only with Burn's own errors: [`training_error`].
//! - A `ModuleLrScheduler`, which the configurations of schedules give, does not tell whether it has parameter groups:
//!   [`groups_of`].
//! - Tensors on CubeCL's devices are read later than asked, after steps of the training have changed them:
//!   [`read_tensors_when_asked`](swa_core::read_tensors_when_asked), called by `SwaConfig::init`.

use core::any::type_name;

use burn::data::dataset::DatasetError;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::module::ParamGroup;
use burn::optim::LearningRate;
use burn::train::{ModuleSharder, TrainingError};

use crate::SwaError;

/// Tells whether a mapper is the one of `Learner::grad_sharded`. With it, every worker of `ExecutionStrategy::ddp` marks the
/// parameters of its replica whose gradients are to be reduced. It panics for tensors without a graph, such as the average's,
/// which have no gradients.
///
/// It is recognised by its name, since a `TypeId` would need mappers to be `'static`.
pub(crate) fn is_sharder<Mapper>() -> bool {
    type_name::<Mapper>() == type_name::<ModuleSharder>()
}

/// The number of groups of a scheduler: 1 if it has one schedule for all parameters.
///
/// Its groups are private, and only its record numbers them. So this adds one that can be told from others, and looks for its
/// number.
pub(crate) fn groups_of(scheduler: &ModuleLrScheduler) -> usize {
    let probed = scheduler.clone().with_group(ParamGroup::all(), Probe);
    let record = probed.to_record();
    let is_probe = |group: &usize| record.record(&group.to_string()).scalar(PROBE) == Some(true);
    (1..).find(is_probe).unwrap_or(usize::MAX)
}

#[derive(Clone)]
struct Probe;

const PROBE: &str = "probe of swa-train";

impl LrScheduler for Probe {
    fn step(&mut self) -> LearningRate {
        0.0
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar(PROBE, true)
    }

    fn load_record(&mut self, _record: LrSchedulerRecord) {}
}

/// Our error as one of Burn's. None of Burn's variants is meant for it, but this one keeps the error as its source.
pub(crate) fn training_error(error: &SwaError) -> TrainingError {
    TrainingError::Dataset(DatasetError::new(error.clone()))
}
