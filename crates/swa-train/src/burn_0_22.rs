//! Workarounds for Burn 0.22.1.
//!
//! - `Learner::optimizer_step` holds a second handle on its model while `TrainStep::optimize` runs. Nothing in the model could be
//!   changed in place, so the average is behind a lock that all handles share.
//! - Every step of a training on several devices forks the whole model to each: `Swa` forks the live model alone.
//! - A worker of `ExecutionStrategy::ddp` marks the parameters of its replica by a mapper that panics for tensors without a
//!   graph: [`is_sharder`].
//! - A training can fail only with Burn's own errors: [`training_error`].
//! - Tensors on CubeCL's devices are read later than asked, after steps of the training have changed them:
//!   [`read_tensors_when_asked`](swa_core::read_tensors_when_asked), called by `SwaConfig::init`.

use core::any::type_name;

use burn::data::dataset::DatasetError;
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

/// Our error as one of Burn's. None of Burn's variants is meant for it, but this one keeps the error as its source.
pub(crate) fn training_error(error: &SwaError) -> TrainingError {
    TrainingError::Dataset(DatasetError::new(error.clone()))
}
