//! Errors of SWA in a training.

use std::sync::Arc;

use swa_core::{AverageError, BatchNormError};
use thiserror::Error;

/// The reason why SWA could not be set up, or could not go on.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SwaError {
    /// An invalid setting, such as a length of zero, a rate that is not positive, or the same name twice.
    #[error("{name} must be {expected}, not {got}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The values that are valid.
        expected: &'static str,
        /// The value that was given.
        got: String,
    },

    /// Collecting would start after the run's end.
    #[error(
        "SWA would collect for the first time after step {first_step}, but the run ends after \
         {total_steps}: start earlier (the paper starts at three quarters of the run) or train longer"
    )]
    NeverCollects {
        /// The optimizer step after which the first weights were to be collected.
        first_step: usize,
        /// The number of optimizer steps of the run.
        total_steps: usize,
    },

    /// The training ended before it collected anything.
    #[error(
        "nothing was averaged: the training ended after {steps} optimizer steps, and SWA collects for the first time \
         after step {first_step} of the {total_steps} that `RunLength` says. If it was stopped before its end, train on \
         or start earlier; `into_live()` is the trained model. If it was not, an epoch takes fewer steps than \
         `RunLength` says: tell it of accumulated gradients and several devices (`with_gradient_accumulation`, `of_items`)"
    )]
    NothingCollected {
        /// The optimizer step after which the first weights were to be collected.
        first_step: usize,
        /// The number of optimizer steps that were taken.
        steps: usize,
        /// The number of optimizer steps of the run, as its length was given.
        total_steps: usize,
    },

    /// A name that no average has.
    #[error(
        "there is no model called `{name}` here, only `{}`: see `SwaConfig::further_averages`",
        .known.join("`, `")
    )]
    UnknownAverage {
        /// The name.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },

    /// A record from within an epoch was loaded into a training whose epochs have another number of steps.
    #[error(
        "the checkpoint was written within an epoch, after {steps} optimizer steps at {before} an epoch, and this training has \
         {now} an epoch, so that it is not known where to go on: resume from a checkpoint of the end of an epoch, or with the \
         batch size, gradient accumulation and number of devices of before (tell `RunLength` which)"
    )]
    StepsChanged {
        /// The number of optimizer steps before the checkpoint.
        steps: usize,
        /// The number of optimizer steps in an epoch before it.
        before: usize,
        /// The number of optimizer steps in an epoch of this training.
        now: usize,
    },

    /// Another training has averaged with a clone of the wrapper.
    #[error(
        "the average is at step {averaged_step} of another training with a clone of this `Swa`, and this training at \
         step {step}: clones share one average. Make a `Swa` for each training, with `SwaConfig::init`"
    )]
    Shared {
        /// The optimizer step after which the average was updated last.
        averaged_step: usize,
        /// The number of optimizer steps that this training has taken.
        step: usize,
    },

    /// A further average could not be made or updated.
    #[error("average `{name}`: {error}")]
    FurtherAverage {
        /// Its name.
        name: String,
        /// The reason.
        error: Box<AverageError>,
    },

    /// The average could not be made or updated.
    #[error(transparent)]
    Average(#[from] AverageError),

    /// BatchNorm could not be re-estimated.
    #[error(transparent)]
    BatchNorm(Arc<BatchNormError>),
}

impl From<BatchNormError> for SwaError {
    fn from(error: BatchNormError) -> Self {
        Self::BatchNorm(Arc::new(error))
    }
}
