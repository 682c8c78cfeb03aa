//! Workarounds for Burn 0.22.1.
//!
//! - `Learner::optimizer_step` holds a second handle on its model while `TrainStep::optimize` runs, so that nothing in the model
//!   could be changed in place: the average is behind a lock, which all handles share.
//! - Every step of a training on several devices forks the whole model to each: `Swa` forks the live model alone.
//! - A worker of `ExecutionStrategy::ddp` marks the parameters of its replica by a mapper that panics for tensors without a
//!   graph: [`is_sharder`].
//! - A training has no error that is not one of Burn's: [`training_error`].
//! - The reading of tensors on CubeCL's devices is put off, past the steps of the training that change them:
//!   [`read_tensors_when_asked`](swa_core::read_tensors_when_asked), called by `SwaConfig::init`.

use core::any::type_name;

use burn::data::dataset::DatasetError;
use burn::train::{ModuleSharder, TrainingError};

use crate::SwaError;

/// Whether a mapper is the one with which every worker of `ExecutionStrategy::ddp` marks its replica's parameters as those whose
/// gradients are to be reduced (`Learner::grad_sharded`). It panics for tensors without a graph, as the average's are, which
/// have no gradients either.
///
/// By its name: mappers need not be `'static`, which their `TypeId` would take.
pub(crate) fn is_sharder<Mapper>() -> bool {
    type_name::<Mapper>() == type_name::<ModuleSharder>()
}

/// A failure of ours as one that Burn knows. None of its variants is for us; this one keeps the error as its source.
pub(crate) fn training_error(error: &SwaError) -> TrainingError {
    TrainingError::Dataset(DatasetError::new(error.clone()))
}
