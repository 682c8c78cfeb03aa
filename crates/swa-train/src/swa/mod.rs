//! The wrapper that turns SWA on in a `Learner`.

mod collector;
mod config;
mod failure;
mod metrics;
mod module;
mod state;
mod step;

use core::fmt;
use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;
use burn::train::{InferenceStep, Interrupter, LearnerModel};
use swa_core::{Average, AveragingRule, BatchNormReport, Counter};

use crate::SwaError;
use crate::burn_0_22::training_error;
use collector::Collectors;
pub(crate) use collector::MAIN;
pub use config::{AverageConfig, RunningStatistics, SwaConfig};
use failure::{Failed, Failures};
pub use metrics::SwaMetrics;
use state::{Averaged, State};

/// A model with its average, in a `Learner` in the model's place.
///
/// Trains the *live* model just as it would be trained alone, collects its weights after the optimizer
/// steps that [`Collect`](crate::Collect) names, and validates with the averaged model, its BatchNorm re-estimated
/// (with the live one, while nothing has been averaged). Metrics, checkpoints, resuming, early
/// stopping, gradient accumulation, several devices and the terminal UI are Burn's own, untouched:
///
/// - the optimizer sees the live model alone, with the parameter paths it always had;
/// - the average, the number of updates and of steps are recorded with the live weights, under
///   `average` and `steps` beside `model`, so that a checkpoint resumes all of them; further averages are under their names in
///   `averages`, and `format` is the number of the record's format. A record of an earlier version, which has no `format`, is
///   loaded by `load_record` of the wrapper itself; as a part of another module it takes `allow_partial(true)`;
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
/// [`with_interrupter`](Self::with_interrupter)): one that went on alone would wait forever for the others'
/// gradients. After the last step there is nothing to interrupt, and [`failure`](Self::failure) and
/// [`into_averaged`](Self::into_averaged) tell.
///
/// `ddp` was tested with threads that add their gradients up in the host's memory, through Burn's own
/// strategy, and not with the collectives of several GPUs: none were at hand. What each part costs in
/// bytes, and what goes on past one machine:
/// [`docs/several-machines.md`](https://github.com/burn-swa/burn-swa/blob/main/docs/several-machines.md).
///
/// Made by [`SwaConfig::init`].
pub struct Swa<M: LearnerModel> {
    model: M,
    /// Optimizer steps taken, over all resumed parts of the run.
    steps: Counter,
    /// The number of the format of its records.
    format: Counter,
    /// Behind a lock and not a plain field, so that an update owns the average and can work in place: see
    /// [`burn_0_22`](crate::burn_0_22).
    state: Arc<Mutex<State<M>>>,
    /// The averages as they were when this copy for validation was made, if it is one.
    snapshot: Option<Collectors<M>>,
    /// The averaged model that this value validates with, if there is one, once it has validated.
    evaluated: OnceCell<Option<M>>,
    failures: Arc<Failures>,
    interrupter: Option<Interrupter>,
    /// Whether this is one of the replicas that `ExecutionStrategy::ddp` trains side by side.
    is_replica: bool,
}

/// The number of the format of a [`Swa`]'s records, which is their entry `format`: 1 since they say it, and 0 before.
pub const RECORD_FORMAT: usize = 1;

/// The name of the live model, for metrics.
const LIVE: &str = "live";

/// What a configuration cannot hold: it is given to what [`SwaConfig::init`] makes.
impl<M: LearnerModel> Swa<M> {
    /// Averages by a rule of your own from the next update on, in the first average.
    pub fn with_rule(self, rule: impl AveragingRule + 'static) -> Self {
        let mut collectors = self.collectors();
        collectors.main.average = collectors.main.average.with_rule(rule);
        self.with_collectors(collectors)
    }

    /// Keeps all averages on `device` rather than the model's.
    pub fn with_device(self, device: &Device) -> Self {
        let collectors = self.collectors();
        self.with_collectors(collectors.with_each(|average| average.with_device(device)))
    }

    /// Goes on from `averaged`, the average of `updates` earlier updates, such as that of a PyTorch
    /// `AveragedModel` with its `n_averaged`: in the first average. The steps of this run are counted from its beginning.
    ///
    /// # Errors
    ///
    /// [`SwaError::Average`] if `averaged` is another model than the live one, or not finite.
    pub fn with_initial_average(self, averaged: &M, updates: usize) -> Result<Self, SwaError> {
        let mut collectors = self.collectors();
        let average = collectors.main.average;
        collectors.main.average = average.with_initial_average(averaged, updates)?;
        Ok(self.with_collectors(collectors))
    }

    /// Stops the training through `interrupter` when averaging or re-estimating BatchNorm fails, with
    /// the reason in `LearningResult::error`. Without one the failure is logged and the training goes
    /// on, validated by the live model; an average that could not be updated keeps its last good value,
    /// and [`into_averaged`](Self::into_averaged) returns the error.
    ///
    /// Pass the same to `SupervisedTraining::with_interrupter`.
    pub fn with_interrupter(mut self, interrupter: Interrupter) -> Self {
        self.interrupter = Some(interrupter);
        self
    }

    /// Shows metrics of further models beside the averaged one's: of the `live` model, and of the averages in
    /// [`SwaConfig::further_averages`] by their names. Call it last: the other `with_*` are the wrapper's.
    ///
    /// Metrics of validation then take a [`ModelOutputs`](crate::ModelOutputs): those registered as they are show
    /// the averaged model, and a [`ModelMetric`](crate::ModelMetric) the model that it names. Each model costs a forward pass a
    /// batch; an average's also a re-estimation of BatchNorm a validation, for which
    /// [`first_batches`](swa_core::ReestimationConfig::first_batches) sets how much data it takes. An average that has averaged
    /// nothing yet, or was not to be had, has the live model's metrics.
    ///
    /// ```
    /// use burn::train::metric::LossMetric;
    /// use burn::train::{InferenceStep, LearnerModel, RegressionOutput, SupervisedTraining};
    /// use swa_train::{ModelMetric, Swa, SwaError, SwaMetrics};
    ///
    /// fn show<M>(swa: Swa<M>) -> Result<SwaMetrics<M>, SwaError>
    /// where
    ///     M: LearnerModel + InferenceStep<Output = RegressionOutput>,
    ///     <M as InferenceStep>::Input: Clone,
    /// {
    ///     swa.with_metrics_of(&["live", "ema"])
    /// }
    ///
    /// fn register<M>(training: SupervisedTraining<SwaMetrics<M>>) -> SupervisedTraining<SwaMetrics<M>>
    /// where
    ///     M: LearnerModel + InferenceStep<Output = RegressionOutput>,
    ///     <M as InferenceStep>::Input: Clone,
    /// {
    ///     training
    ///         .metric_valid_numeric(LossMetric::new()) // "Loss", of the averaged model
    ///         .metric_valid_numeric(ModelMetric::new("live", LossMetric::new())) // "Loss (live)"
    ///         .metric_valid_numeric(ModelMetric::new("ema", LossMetric::new())) // "Loss (ema)"
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SwaError::UnknownAverage`] for another name.
    pub fn with_metrics_of(self, names: &[&str]) -> Result<SwaMetrics<M>, SwaError>
    where
        <M as InferenceStep>::Input: Clone,
    {
        SwaMetrics::new(self, names)
    }
}

impl<M: LearnerModel> Swa<M> {
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
        self.averaged(MAIN)
    }

    /// The same of the average called `name`: `averaged`, or one of [`SwaConfig::further_averages`].
    ///
    /// # Errors
    ///
    /// Those of [`into_averaged`](Self::into_averaged), and [`SwaError::UnknownAverage`].
    pub fn averaged(&self, name: &str) -> Result<M, SwaError> {
        self.check();
        if let Some(failed) = self.failures.of_averaging.get() {
            return Err(failed.error.clone());
        }
        if let Some(averaged) = self.evaluate(name)? {
            return Ok(averaged);
        }
        let collect = self.read(|all| all.named(name).map(|collector| collector.collect))?;
        Err(SwaError::NothingCollected {
            first_step: collect.first_step(),
            steps: self.steps(),
        })
    }

    /// The live model, as the optimizer left it.
    pub fn live(&self) -> &M {
        &self.model
    }

    /// The live model, as the optimizer left it.
    pub fn into_live(self) -> M {
        self.model
    }

    /// A copy of the first average, as it stands.
    pub fn average(&self) -> Average<M> {
        self.read(|collectors| collectors.main.average.clone())
    }

    /// How many times weights were collected in the first average.
    pub fn updates(&self) -> usize {
        self.read(|collectors| collectors.main.average.updates())
    }

    /// How many optimizer steps were taken, over all resumed parts of the run.
    pub fn steps(&self) -> usize {
        self.steps.value
    }

    /// What the last re-estimation of BatchNorm did, if there was one for the first average as it stands.
    pub fn batch_norm_report(&self) -> Option<BatchNormReport> {
        let updates = self.updates();
        self.state().evaluation.report(MAIN, updates)
    }

    /// What kept an average from being updated, or else from being evaluated, if anything did.
    pub fn failure(&self) -> Option<SwaError> {
        self.failures.first().map(|failed| failed.error.clone())
    }
}

impl<M: LearnerModel> Swa<M> {
    /// A poisoned lock is as good as another: a panic is on its way to whoever trains, and this must not hide it behind another.
    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what this collects, or what it had collected when this copy for validation was made.
    fn read<R>(&self, read: impl FnOnce(&Collectors<M>) -> R) -> R {
        match &self.snapshot {
            Some(snapshot) => read(snapshot),
            None => read(&self.state().collectors),
        }
    }

    fn collectors(&self) -> Collectors<M> {
        self.read(Collectors::clone)
    }

    /// The same with a state of its own, in which it collects with these.
    fn with_collectors(mut self, collectors: Collectors<M>) -> Self {
        let state = self.state().fresh(collectors);
        self.state = Arc::new(Mutex::new(state));
        self.snapshot = None;
        self.evaluated = OnceCell::new();
        self
    }

    /// The live model's device, or its first.
    fn device(&self) -> Device {
        self.model.devices().into_iter().next().unwrap_or_default()
    }

    /// The model of the average called `name`, ready for inference, or `None` while nothing has been averaged.
    fn evaluate(&self, name: &str) -> Result<Option<M>, SwaError> {
        let device = self.device();
        let averaged = self
            .state()
            .averaged(self.snapshot.as_ref(), name, &device)?;
        // The lock is open while data are passed: a loader may ask this how far it is.
        Ok(match averaged {
            None => None,
            Some(Averaged::Ready(model)) => Some(model),
            Some(Averaged::Pending(pending)) => {
                let evaluated = pending.evaluate()?;
                Some(self.state().evaluation.keep(name, evaluated))
            }
        })
    }

    /// Reads whether what the device averaged was finite: where this is called, waiting for the device
    /// costs nothing.
    fn check(&self) {
        // What a copy for validation has was checked when it was made.
        if self.snapshot.is_none() {
            let checked = self.state().collectors.check();
            if let Err(error) = checked {
                self.fail(error);
            }
        }
    }

    fn fail(&self, error: SwaError) {
        log::error!("SWA: {error}");
        let step = self.steps();
        let failed = Failed { error, step };
        if !self.is_replica {
            self.interrupt(&failed);
        }
        self.failures.add(failed);
    }

    fn interrupt(&self, failed: &Failed) {
        if let Some(interrupter) = &self.interrupter {
            interrupter.fail(training_error(&failed.error));
        }
    }
}

impl<M: LearnerModel> Clone for Swa<M> {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
            steps: self.steps.clone(),
            format: self.format.clone(),
            state: self.state.clone(),
            snapshot: self.snapshot.clone(),
            evaluated: OnceCell::new(),
            failures: self.failures.clone(),
            interrupter: self.interrupter.clone(),
            is_replica: self.is_replica,
        }
    }
}

impl<M: LearnerModel> fmt::Debug for Swa<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swa")
            .field("model", &self.model)
            .field("steps", &self.steps())
            .field("updates", &self.updates())
            .finish_non_exhaustive()
    }
}

/// As the model alone.
impl<M: LearnerModel> fmt::Display for Swa<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.model, f)
    }
}

#[cfg(test)]
mod tests;
