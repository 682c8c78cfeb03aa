//! The wrapper that turns SWA on in a `Learner`.

mod config;
mod failure;
mod module;
mod step;

use core::fmt;
use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::tensor::Device;
use burn::train::{InferenceStep, LearnerModel};
use swa_core::{Average, BatchNormReport, Counter};

use crate::evaluation::Evaluation;
use crate::lock::lock;
use crate::{Collect, SwaError};
pub use config::SwaConfig;
use failure::Failure;

/// A model with its average, in a `Learner` in the model's place.
///
/// Trains the *live* model just as it would be trained alone, collects its weights after the optimizer
/// steps that [`Collect`] names, and validates with the averaged model, its BatchNorm re-estimated
/// (with the live one, while nothing has been averaged). Metrics, checkpoints, resuming, early
/// stopping, gradient accumulation, several devices and the terminal UI are Burn's own, untouched:
///
/// - the optimizer sees the live model alone, with the parameter paths it always had;
/// - the average, the number of updates and of steps are recorded with the live weights, under
///   `average` and `steps` beside `model`, so that a checkpoint resumes all of them;
/// - clones and forks share one average, which is updated once a step, so that each training needs a
///   `Swa` of its own; `valid` makes a copy that later steps leave alone.
///
/// # Several devices
///
/// Under `ExecutionStrategy::multi`, in both modes of its optimizer, the devices are sent the live model
/// alone, and there is one average. Under `ExecutionStrategy::ddp` every worker averages its own
/// replica, on its own device, so that nothing is sent for it: replicas have the same weights, and so
/// the same average. Burn validates, checkpoints and hands over that of the first device. BatchNorm is
/// re-estimated on the first device alone under both.
///
/// A failure interrupts the workers of `ddp` after the next step, all of them after the same one (see
/// [`SwaConfig::with_interrupter`]): one that went on alone would wait forever for the others'
/// gradients. After the last step there is nothing to interrupt, and [`failure`](Self::failure) and
/// [`into_averaged`](Self::into_averaged) tell.
///
/// `ddp` was tested with threads that add their gradients up in the host's memory, through Burn's own
/// strategy, and not with the collectives of several GPUs: none were at hand. What each part costs in
/// bytes, and what goes on past one machine:
/// [`docs/several-machines.md`](https://github.com/burn-swa/burn-swa/blob/main/docs/several-machines.md).
///
/// Made by [`SwaConfig::init`].
///
/// `LIVE` is true after [`with_live_metrics`](Self::with_live_metrics).
pub struct Swa<M: LearnerModel, const LIVE: bool = false> {
    model: M,
    /// Optimizer steps taken, over all resumed parts of the run.
    steps: Counter,
    collect: Collect,
    /// Behind a lock and not a plain field, so that an update owns the average and can work in place: see
    /// [`burn_0_22`](crate::burn_0_22).
    collected: Arc<Mutex<Collected<M>>>,
    evaluation: Arc<Evaluation<M>>,
    /// The averaged model that this value validates with, if there is one, once it has validated.
    evaluated: OnceCell<Option<M>>,
    failure: Arc<Failure>,
    /// Whether this is one of the replicas that `ExecutionStrategy::ddp` trains side by side.
    is_replica: bool,
}

struct Collected<M> {
    average: Average<M>,
    /// The step of the last update. Clones that a strategy of the user's own trains side by side reach
    /// each step together and with the same weights: the first to arrive makes the update.
    last_step: usize,
}

impl<M: LearnerModel> Swa<M>
where
    <M as InferenceStep>::Input: Clone,
{
    /// Shows the live model's validation metrics beside the averaged one's, at the price of a second
    /// forward pass.
    ///
    /// Metrics of validation then take a [`LiveAndAveraged`](crate::LiveAndAveraged) output: those registered as they are show
    /// the averaged model, and those wrapped in [`Live`](crate::Live) the live one, under a name that
    /// says so, as on the [crate's front page](crate).
    pub fn with_live_metrics(self) -> Swa<M, true> {
        Swa {
            model: self.model,
            steps: self.steps,
            collect: self.collect,
            collected: self.collected,
            evaluation: self.evaluation,
            evaluated: self.evaluated,
            failure: self.failure,
            is_replica: self.is_replica,
        }
    }
}

impl<M: LearnerModel, const LIVE: bool> Swa<M, LIVE> {
    /// Goes on from `averaged`, the average of `updates` earlier updates, such as that of a PyTorch
    /// `AveragedModel` with its `n_averaged`. The steps of this run are counted from its beginning.
    ///
    /// # Errors
    ///
    /// [`SwaError::Average`] if `averaged` is another model than the live one, or not finite.
    pub fn continuing(self, averaged: &M, updates: usize) -> Result<Self, SwaError> {
        let average = self.average().continuing(averaged, updates)?;
        Ok(self.with_average(|_| average))
    }

    /// The averaged model with its BatchNorm re-estimated: the user's own type, in validation mode,
    /// ready for inference. If the last validation was of the same average, its statistics are used,
    /// and there is no further pass over the data.
    ///
    /// # Errors
    ///
    /// - [`SwaError::NothingCollected`] if the training ended before it collected anything.
    /// - What kept the average from being updated, even if the training went on after it. The last good
    ///   average is what [`average`](Self::average) gives: take it before.
    /// - What keeps BatchNorm from being re-estimated now.
    pub fn into_averaged(self) -> Result<M, SwaError> {
        self.check();
        if let Some(error) = self.failure.ended_averaging() {
            return Err(error);
        }
        match self.evaluate()? {
            Some(averaged) => Ok(averaged),
            None => Err(SwaError::NothingCollected {
                first_step: self.collect.first_step(),
                steps: self.steps(),
            }),
        }
    }

    /// The live model, as the optimizer left it.
    pub fn live(&self) -> &M {
        &self.model
    }

    /// The live model, as the optimizer left it.
    pub fn into_live(self) -> M {
        self.model
    }

    /// A copy of the average, as it stands.
    pub fn average(&self) -> Average<M> {
        self.collected().average.clone()
    }

    /// How many times weights were collected.
    pub fn updates(&self) -> usize {
        self.collected().average.updates()
    }

    /// How many optimizer steps were taken, over all resumed parts of the run.
    pub fn steps(&self) -> usize {
        self.steps.value
    }

    /// What the last re-estimation of BatchNorm did, if there was one for the current average.
    pub fn batch_norm_report(&self) -> Option<BatchNormReport> {
        self.evaluation.report(self.updates())
    }

    /// What kept the average from being updated, or else from being evaluated, if anything did.
    pub fn failure(&self) -> Option<SwaError> {
        let last = lock(&self.failure.last);
        last.as_ref().map(|failed| failed.error.clone())
    }

    fn collected(&self) -> MutexGuard<'_, Collected<M>> {
        lock(&self.collected)
    }
}

impl<M: LearnerModel, const LIVE: bool> Swa<M, LIVE> {
    /// The same with an average of its own, changed by `change`, of which nothing was evaluated yet.
    fn with_average(mut self, change: impl FnOnce(Average<M>) -> Average<M>) -> Self {
        let average = change(self.average());
        self.evaluation = Arc::new(self.evaluation.of_its_own());
        self.collected = Arc::new(Mutex::new(Collected {
            average,
            last_step: 0,
        }));
        self.evaluated = OnceCell::new();
        self
    }

    /// The live model's device, or its first.
    fn device(&self) -> Device {
        self.model.devices().into_iter().next().unwrap_or_default()
    }
}

impl<M: LearnerModel, const LIVE: bool> Clone for Swa<M, LIVE> {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
            steps: self.steps.clone(),
            collect: self.collect,
            collected: self.collected.clone(),
            evaluation: self.evaluation.clone(),
            evaluated: OnceCell::new(),
            failure: self.failure.clone(),
            is_replica: self.is_replica,
        }
    }
}

impl<M: LearnerModel, const LIVE: bool> fmt::Debug for Swa<M, LIVE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swa")
            .field("model", &self.model)
            .field("steps", &self.steps())
            .field("collect", &self.collect)
            .field("updates", &self.updates())
            .finish_non_exhaustive()
    }
}

/// As the model alone.
impl<M: LearnerModel, const LIVE: bool> fmt::Display for Swa<M, LIVE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.model, f)
    }
}

#[cfg(test)]
mod tests;
