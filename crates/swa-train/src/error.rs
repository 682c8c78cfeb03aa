//! Errors of SWA in a training.

use core::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use swa_core::{AverageError, BatchNormError, MemberError};
use thiserror::Error;

use crate::RunLength;

/// The reason why SWA could not be set up, or could not go on.
///
/// Its `Debug` is its message too: that is what a program shows that ends with `?` or `unwrap`.
#[derive(Clone, Error)]
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
    #[error("nothing was averaged: {}", nothing_averaged(*.first_step, *.steps, *.run))]
    NothingCollected {
        /// The optimizer step after which the first weights were to be collected.
        first_step: usize,
        /// The number of optimizer steps that were taken.
        steps: usize,
        /// The length of the run, as it was given.
        run: Option<RunLength>,
    },

    /// The first epoch of the training had another number of optimizer steps than [`RunLength`] says.
    #[error(
        "an epoch of this training has {taken} optimizer steps, and `RunLength` says {said}: tell it of what divides the batches \
         into steps (`with_gradient_accumulation`, the batch size, several devices or workers of the loader), or write \
         `RunLength::new({epochs}, {taken})`. If a loop of your own validates at other times than after every epoch, and {said} is \
         right, say `unchecked()`"
    )]
    OtherRunLength {
        /// The number of epochs of the run.
        epochs: usize,
        /// The number of optimizer steps in an epoch, as it was given.
        said: usize,
        /// The number of optimizer steps up to the first validation.
        taken: usize,
    },

    /// The record of a training without SWA was loaded, which does not say how many steps it is of.
    #[error(
        "the checkpoint is of a training without SWA, and does not say after how many epochs it was written: give `RunLength` \
         the number that `checkpoint(n)` has, by `with_plain_epochs(n)`"
    )]
    PlainRecord,

    /// BatchNorm is to be re-estimated, and there are no data to do it from.
    #[error(
        "the model has BatchNorm layers that train, and averaged weights need other statistics than those of the training: give \
         the loader of the training to `SwaConfig::init`, or set `running_statistics` to `RunningStatistics::Averaged`"
    )]
    NoData,

    /// The averaged model of a checkpoint has BatchNorm layers whose statistics are still those of the training.
    #[error(
        "{}: the statistics of the averaged model's BatchNorm layers were not re-estimated after its last update, since no validation \
         followed before it was written: load it into a wrapper with data, by `SwaConfig::init(model, train_loader)` and \
         `try_load_file(file)`, and take its `averaged_model()`",
        .file.display()
    )]
    NotReestimated {
        /// The file.
        file: PathBuf,
    },

    /// A failure within a training.
    #[error("after optimizer step {step}: {error}")]
    AfterStep {
        /// The number of optimizer steps that were taken before.
        step: usize,
        /// The failure.
        error: Arc<SwaError>,
    },

    /// A checkpoint could not be read or written.
    #[error("{}: {reason}", .file.display())]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// The reason, and what to do.
        reason: String,
    },

    /// A member of an ensemble is lacking. The training goes on without it.
    #[error("{0}. The training goes on without it")]
    Member(#[from] MemberError),

    /// An average was asked for from a training that has none.
    #[error(
        "this training collects the members of an ensemble, and no average: `members()` says which there are, and `SwaConfig::init` \
         with `with_members` has both"
    )]
    NoAverage,

    /// The model does not have a part that was to be copied.
    #[error(
        "the model has no part `{part}`, which `SwaConfig::copied` names: near it are `{}`",
        .parts.join("`, `")
    )]
    NoSuchPart {
        /// The part.
        part: String,
        /// The parts that are near it, by their paths.
        parts: Vec<String>,
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

/// The cause that applies, and what to do, where a training of `steps` steps collected nothing.
fn nothing_averaged(first_step: usize, steps: usize, run: Option<RunLength>) -> String {
    if steps == 0 {
        return "no optimizer step was taken. `into_live()` is the model".to_owned();
    }
    let Some(run) = run else {
        return format!(
            "no optimizer step was taken with this average after the {steps} of the checkpoint. `into_live()` is the trained model"
        );
    };
    let (epochs, rest) = (steps / run.steps_per_epoch(), steps % run.steps_per_epoch());
    let ended = if rest == 0 {
        format!(
            "the training ended at the end of epoch {epochs} of {} (by early stopping, an interrupt, or `num_epochs`)",
            run.epochs()
        )
    } else {
        format!(
            "the training was stopped within epoch {} of {}, after optimizer step {steps}",
            epochs + 1,
            run.epochs()
        )
    };
    let start = first_step.div_ceil(run.steps_per_epoch());
    format!(
        "{ended}, and SWA collects for the first time in epoch {start}, after step {first_step}. `into_live()` is the trained \
         model. Start earlier, or train on from a checkpoint"
    )
}

impl fmt::Debug for SwaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BatchNormError> for SwaError {
    fn from(error: BatchNormError) -> Self {
        Self::BatchNorm(Arc::new(error))
    }
}
