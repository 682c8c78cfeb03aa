//! The wrapper that adds SWA to a `Learner`.

mod collector;
mod config;
mod failure;
mod metrics;
mod module;
mod record;
mod state;
mod step;

use core::fmt;
use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::Module;
use burn::tensor::Device;
use burn::train::{InferenceStep, Interrupter, LearnerModel};
use rand::Rng;
use swa_core::{
    Average, AveragingRule, BatchNormReport, Counter, Covariance, KeptReason, Member, MemberSink,
    Members,
};

use crate::burn_0_22::training_error;
use crate::{Collect, SwaError, terminal};
pub(crate) use collector::MAIN;
use collector::{Collectors, MemberCollector};
pub(crate) use config::needs_data;
pub use config::{AverageConfig, RunningStatistics, SwaConfig};
use config::{check_length, check_one_sink};
use failure::{Failed, Failures};
pub use metrics::SwaMetrics;
pub(crate) use record::{Below, Contents, PREFIX};
use state::{Averaged, State};

/// A model with its average, in place of the model in a `Learner`.
///
/// Trains the *live* model just as it would be trained alone, collects its weights after the optimizer
/// steps that [`Collect`](crate::Collect) names, and validates with the averaged model, its BatchNorm re-estimated.
/// While nothing has been averaged, it validates with the live model. So do early stopping and the choice of the best checkpoint,
/// which go by validation. Metrics, checkpoints, resuming, early
/// stopping, gradient accumulation, several devices and the terminal UI are Burn's own, untouched:
///
/// - the optimizer sees the live model alone, with the parameter paths it always had;
/// - a record is that of the live model, with the average and the number of steps beside it, so that a checkpoint resumes all of
///   them: see [Records](#records);
/// - clones and forks share one average, which is updated once a step. So each training needs a `Swa` of
///   its own. `valid` makes a copy that later steps leave alone.
///
/// # Records
///
/// A record has the live model's entries, and beside them those of SWA, below `swa_train`: each average that has averaged something,
/// with its number of updates (`average`, and the further ones by their names in `averages`), the members of an ensemble by step and
/// learning rate (`members`), the snapshots likewise with their numbers of updates, by the names of their averages (`snapshots`), the number of steps (`steps`) and of those in an epoch (`steps_per_epoch`), and the number of this format (`format`). If an average was validated after its last
/// update, or taken by [`averaged_model`](Self::averaged_model), the record has the running statistics that were re-estimated for it,
/// so that it holds the model that validation showed (`statistics_of` is then the number of updates): [`load_averaged`] gives it. A plain model refuses the record over
/// entries that are all called `swa_train`.
///
/// `load_record` also takes records of earlier versions, and those of trainings without SWA (see
/// [`RunLength::with_plain_epochs`](crate::RunLength::with_plain_epochs)). As a part of another module, a `Swa` takes this version's
/// alone, and those in which an average has averaged nothing yet with `allow_partial(true)`.
///
/// [`load_averaged`]: crate::load_averaged
///
/// # Resuming with other steps
///
/// With another batch size, gradient accumulation or number of devices, an epoch has another number of optimizer steps. Give the
/// new one to [`RunLength`](crate::RunLength). If it is not the one that a record says, and the record is of the end of an epoch,
/// [`steps`](Self::steps) is converted: it is as if all epochs had had so many steps. A record from within an epoch cannot be
/// converted, and the first step fails with [`SwaError::StepsChanged`]. Records of earlier versions do not say it.
///
/// # Several devices
///
/// Under `ExecutionStrategy::multi`, in both modes of its optimizer, only the live model is sent to the
/// devices, and there is one average. Under `ExecutionStrategy::ddp`, every worker averages its own
/// replica on its own device, so that nothing is sent for it: replicas have the same weights, and so
/// the same average. Burn validates, checkpoints and returns that of the first device. Under both,
/// BatchNorm is re-estimated on the first device only.
///
/// A failure, unless it is of a member, interrupts all workers of `ddp` after the same step, the next one (see
/// [`with_interrupter`](Self::with_interrupter)): a worker that went on alone would wait forever for the
/// gradients of the others. After the last step there is nothing to interrupt: there,
/// [`failure`](Self::failure) and [`averaged_model`](Self::averaged_model) return the error.
///
/// `ddp` was tested through Burn's own strategy, with threads that add their gradients up in the host's
/// memory. It was not tested with the collectives of several GPUs, since none were at hand. For the costs in
/// bytes, and for several machines, see
/// [`docs/several-machines.md`](https://github.com/burn-swa/burn-swa/blob/main/docs/several-machines.md).
///
/// Made by [`SwaConfig::init`], or without an average by [`Swa::ensemble`].
pub struct Swa<M: LearnerModel> {
    model: M,
    /// Optimizer steps taken, over all resumed parts of the run.
    steps: Counter,
    /// The number of them when this training began, or was resumed.
    first_step: usize,
    /// The number of the format of its records.
    format: Counter,
    /// The number of optimizer steps in an epoch.
    steps_per_epoch: Counter,
    /// The number of updates that the running statistics of a loaded average are of.
    statistics_of: Counter,
    /// The reason why the steps of a record could not be converted to this number. It is the failure of the first step.
    steps_changed: Option<SwaError>,
    /// Behind a lock, and not a plain field, so that an update owns the average and can change it in place: see
    /// [`burn_0_22`](crate::burn_0_22).
    state: Arc<Mutex<State<M>>>,
    /// In a copy for validation, the averages at the time when it was made.
    snapshot: Option<Collectors<M>>,
    /// The contents of the record that is being loaded.
    loaded: Option<Contents>,
    /// The averaged model of this value's validation, if there is one. Set by the first validation step.
    evaluated: OnceCell<Option<M>>,
    failures: Arc<Failures>,
    interrupter: Option<Interrupter>,
    /// True for the replicas that `ExecutionStrategy::ddp` trains side by side.
    is_replica: bool,
}

/// The number of the format of a [`Swa`]'s records. Up to format 2, the live model's entries were below `model`, and SWA's on the
/// first level. Format 0 had no entry `format`, and formats 0 and 1 had no entry `steps_per_epoch`.
pub const RECORD_FORMAT: usize = 3;

/// The name of the live model, for metrics.
const LIVE: &str = "live";

/// Settings that a configuration cannot hold, and the results.
impl<M: LearnerModel> Swa<M> {
    /// Sets the rule of the first average, from the next update on: a rule of your own, for example. An
    /// [ensemble](Self::ensemble) has none, and stays as it is.
    pub fn with_rule(self, rule: impl AveragingRule + 'static) -> Self {
        let mut collectors = self.collectors();
        if let Some(main) = collectors.main_mut() {
            *main = main.clone().with_rule(rule);
        }
        self.with_collectors(collectors)
    }

    /// Hands the live model to `sink` after the optimizer steps that `collect` names, beside the averages: for an ensemble of the
    /// networks on the way. Burn's checkpoints know which members there are, and a training that is resumed neither loses nor repeats
    /// one. Validation stays as it is. For an ensemble alone, see [`Swa::ensemble`].
    ///
    /// A member that the sink does not take, as on a full disk, or that is gone when the training is resumed, is a
    /// [`failure`](Self::failure) that is logged and shown. The training goes on. After a failure of an average or of the run's length,
    /// no more members are collected, as no more weights are averaged.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if the averages are of a run whose epochs have other lengths, and if the members have a sink already.
    pub fn with_members(
        self,
        collect: Collect,
        sink: impl MemberSink<M> + 'static,
    ) -> Result<Self, SwaError> {
        let mut collectors = self.collectors();
        check_length("members", &collect, &collectors)?;
        check_one_sink(collectors.members.as_ref(), "members")?;
        let members = Members::new(sink).to_device(&self.device());
        collectors.members = Some(MemberCollector { collect, members });
        Ok(self.with_collectors(collectors))
    }

    /// Hands snapshots of the average called `name` to `sink` after the optimizer steps that `collect` names, once it has averaged
    /// something: so that its width, or its start, can be chosen after the training. Each is a [`Member`] with its number of
    /// [`updates`](Member::updates), and `sink` is [told](MemberSink::describe) the rule. Snapshots are resumed, and may fail, as
    /// [members](Self::with_members) do. Call it after [`with_rule`](Self::with_rule).
    ///
    /// Two power-function averages, from which any width can be put together (EDM2), as the crate `swa-store` writes them:
    ///
    /// ```
    /// use burn::train::LearnerModel;
    /// use swa_train::swa_core::MemberSink;
    /// use swa_train::{AverageConfig, Collect, RuleConfig, RunLength, Swa, SwaConfig, SwaError};
    ///
    /// fn wrap<M: LearnerModel>(
    ///     model: M,
    ///     run: &RunLength,
    ///     [of_narrow, of_wide]: [impl MemberSink<M> + 'static; 2],
    /// ) -> Result<Swa<M>, SwaError> {
    ///     let every_epoch = Collect::from_epoch(1, run)?;
    ///     let wide = AverageConfig::new("wide".into(), Collect::every_step());
    ///     SwaConfig::new(Collect::every_step())
    ///         .with_rule(RuleConfig::PowerFunction { width: 0.05 })
    ///         .with_further_averages(vec![wide.with_rule(RuleConfig::PowerFunction { width: 0.10 })])
    ///         .init_without_data(model)?
    ///         .with_snapshots("averaged", every_epoch, of_narrow)?
    ///         .with_snapshots("wide", every_epoch, of_wide)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SwaError::UnknownAverage`], [`SwaError::NoAverage`], and [`SwaError::Invalid`] if another collection is of a run whose epochs
    /// have other lengths, and if the snapshots of this average have a sink already.
    pub fn with_snapshots(
        self,
        name: &str,
        collect: Collect,
        sink: impl MemberSink<M> + 'static,
    ) -> Result<Self, SwaError> {
        let mut collectors = self.collectors();
        check_length("snapshots", &collect, &collectors)?;
        let named = collectors.named_mut(name)?;
        check_one_sink(named.snapshots.as_ref(), name)?;
        let members = Members::of_average(sink, name, named.average.rule());
        let members = members.to_device(&self.device());
        named.snapshots = Some(MemberCollector { collect, members });
        Ok(self.with_collectors(collectors))
    }

    /// Keeps all averages on `device`, and not on the model's device: in the host's memory, for example, SWAG's deviations.
    pub fn with_device(self, device: &Device) -> Self {
        let collectors = self.collectors();
        self.with_collectors(collectors.with_each(|average| average.with_device(device)))
    }

    /// The same for the average called `name` alone: `averaged`, or one of [`SwaConfig::further_averages`].
    ///
    /// # Errors
    ///
    /// [`SwaError::UnknownAverage`], and [`SwaError::NoAverage`] for an [ensemble](Self::ensemble).
    pub fn with_device_of(self, name: &str, device: &Device) -> Result<Self, SwaError> {
        let mut collectors = self.collectors();
        let average = &mut collectors.named_mut(name)?.average;
        *average = average.clone().with_device(device);
        Ok(self.with_collectors(collectors))
    }

    /// Continues the first average from `averaged`, the average of `updates` earlier updates, such as that of a PyTorch
    /// `AveragedModel` with its `n_averaged`. The steps of this run are counted from its beginning.
    ///
    /// # Errors
    ///
    /// [`SwaError::Average`] if `averaged` is another model than the live one, or not finite, and [`SwaError::NoAverage`] for an
    /// [ensemble](Self::ensemble).
    pub fn with_initial_average(self, averaged: &M, updates: usize) -> Result<Self, SwaError> {
        let mut collectors = self.collectors();
        let main = collectors.main_mut().ok_or(SwaError::NoAverage)?;
        *main = main.clone().with_initial_average(averaged, updates)?;
        Ok(self.with_collectors(collectors))
    }

    /// Stops the training through `interrupter` when averaging or re-estimating BatchNorm fails, with
    /// the reason in `LearningResult::error`. Without an interrupter, the failure is logged and shown on the terminal, and the
    /// training goes on, validated with the live model. An average that could not be updated keeps its
    /// last good value, and [`averaged_model`](Self::averaged_model) returns the error.
    ///
    /// Weights that are not finite are found when an average collects them, or at the next validation if it has collected none yet.
    /// Those of members are not looked at.
    ///
    /// Give it that of the training:
    ///
    /// ```
    /// use burn::train::{LearnerModel, SupervisedTraining};
    /// use swa_train::Swa;
    ///
    /// fn stops<M: LearnerModel>(swa: Swa<M>, training: &SupervisedTraining<Swa<M>>) -> Swa<M> {
    ///     swa.with_interrupter(training.interrupter())
    /// }
    /// ```
    ///
    /// Burn's terminal UI (0.22.1) forgets the reason when it closes, and leaves `LearningResult::error` empty. So the reason is
    /// printed then, and [`averaged_model`](Self::averaged_model) returns it.
    pub fn with_interrupter(mut self, interrupter: Interrupter) -> Self {
        self.interrupter = Some(interrupter);
        self
    }

    /// Shows metrics of further models beside the averaged one's: of the `live` model, and of the averages in
    /// [`SwaConfig::further_averages`] by their names. Call it last: its result has no other `with_*`.
    ///
    /// Metrics of validation then take a [`ModelOutputs`](crate::ModelOutputs). Burn's own metrics show the averaged model, and a
    /// [`ModelMetric`](crate::ModelMetric) shows the model that it names. Each model costs a forward pass per batch. Each average
    /// also costs a re-estimation of BatchNorm per validation, and
    /// [`first_batches`](swa_core::ReestimationConfig::first_batches) sets how much data that takes. An average that has averaged
    /// nothing yet, or that failed, shows the live model's metrics.
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
    /// [`SwaError::UnknownAverage`] for another name, and [`SwaError::NoAverage`] for a name beside `live` without an average.
    pub fn with_metrics_of(self, names: &[&str]) -> Result<SwaMetrics<M>, SwaError>
    where
        <M as InferenceStep>::Input: Clone,
    {
        SwaMetrics::new(self, names)
    }
}

impl<M: LearnerModel> Swa<M> {
    /// The averaged model with its BatchNorm re-estimated: the user's own type, in validation mode,
    /// ready for inference. If the average has not changed since the last validation, the statistics of
    /// that are used, without another pass over the data. The wrapper stays as it is.
    ///
    /// # Errors
    ///
    /// - [`SwaError::NothingCollected`] if the training ended before it collected anything. The trained model is
    ///   [`into_live`](Self::into_live).
    /// - The error that kept the average from being updated, even if the training went on after it. The last good average is
    ///   [`average`](Self::average).
    /// - The error that keeps BatchNorm from being re-estimated now.
    pub fn averaged_model(&self) -> Result<M, SwaError> {
        self.averaged(MAIN)
    }

    /// The same for the average called `name`: `averaged`, or one of [`SwaConfig::further_averages`].
    ///
    /// # Errors
    ///
    /// Those of [`averaged_model`](Self::averaged_model), and [`SwaError::UnknownAverage`].
    pub fn averaged(&self, name: &str) -> Result<M, SwaError> {
        self.check_averaging()?;
        if let Some(averaged) = self.evaluate(name)? {
            return Ok(averaged);
        }
        let collect = self.read(|all| all.named(name).map(|collector| collector.collect))?;
        Err(SwaError::NothingCollected {
            first_step: collect.first_step(),
            steps: self.steps(),
            run: collect.run().copied(),
        })
    }

    /// The model that validation shows: of a copy for validation ([`Module::valid`](burn::module::Module::valid)), the averaged one,
    /// its BatchNorm re-estimated, or the live one while nothing has been averaged. For a training loop of your own that validates
    /// by more than [`InferenceStep::step`].
    ///
    /// ```
    /// use burn::module::Module;
    /// use burn::train::{Learner, LearnerModel};
    /// use swa_train::Swa;
    ///
    /// fn validate<M: LearnerModel>(learner: &Learner<Swa<M>>, loss_of: impl Fn(&M) -> f32) -> f32 {
    ///     loss_of(learner.model().valid().validated())
    /// }
    /// ```
    pub fn validated(&self) -> &M {
        self.evaluated()
    }

    /// The live model, as the optimizer left it.
    pub fn live(&self) -> &M {
        &self.model
    }

    /// The live model, as the optimizer left it.
    pub fn into_live(self) -> M {
        self.model
    }

    /// A model drawn from SWAG's Gaussian around the first average, with its BatchNorm re-estimated, if
    /// [`SwaConfig::swag_rank`] is set: see [`Average::sample`]. The wrapper stays as it is.
    ///
    /// ```
    /// use burn::train::{LearningResult, LearnerModel};
    /// use rand::{SeedableRng, rngs::StdRng};
    /// use swa_train::swa_core::Covariance;
    /// use swa_train::{Swa, SwaError};
    ///
    /// fn samples<M: LearnerModel>(swa: &Swa<M>) -> impl Iterator<Item = Result<M, SwaError>> {
    ///     let mut rng = StdRng::seed_from_u64(1);
    ///     (0..30).map(move |_| swa.sample(0.5, Covariance::Full, &mut rng))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The error that kept the average from being updated, [`SwaError::NoAverage`], [`SwaError::Average`] for a sample that cannot
    /// be drawn, and [`SwaError::BatchNorm`].
    pub fn sample(
        &self,
        scale: f64,
        covariance: Covariance,
        rng: &mut impl Rng,
    ) -> Result<M, SwaError> {
        self.check_averaging()?;
        let average = self.average()?;
        let sampled = average.sample(scale, covariance, rng)?;
        let (updates, device) = (average.updates(), self.device());
        let pending = self.state().evaluation.pending(sampled, updates, &device);
        Ok(pending.evaluate()?.model)
    }

    /// A copy of the first average in its current state.
    ///
    /// # Errors
    ///
    /// [`SwaError::NoAverage`] for an [ensemble](Self::ensemble).
    pub fn average(&self) -> Result<Average<M>, SwaError> {
        self.read(|collectors| collectors.main().cloned().ok_or(SwaError::NoAverage))
    }

    /// The number of times that the first average has collected weights.
    pub fn updates(&self) -> usize {
        self.read(|collectors| collectors.main().map_or(0, Average::updates))
    }

    /// The members of the ensemble that were collected, in order: none without a [sink](Self::with_members).
    pub fn members(&self) -> Vec<Member> {
        self.read(|collectors| {
            let members = collectors.members.iter();
            members
                .flat_map(|collector| collector.members.kept().iter().copied())
                .collect()
        })
    }

    /// The snapshots of the average called `name`, in order: none without a [sink](Self::with_snapshots).
    ///
    /// # Errors
    ///
    /// [`SwaError::UnknownAverage`] and [`SwaError::NoAverage`].
    pub fn snapshots(&self, name: &str) -> Result<Vec<Member>, SwaError> {
        self.read(|collectors| {
            let snapshots = collectors.named(name)?.snapshots.iter();
            Ok(snapshots
                .flat_map(|collector| collector.members.kept().iter().copied())
                .collect())
        })
    }

    /// The number of optimizer steps that were taken, over all resumed parts of the run.
    pub fn steps(&self) -> usize {
        self.steps.value
    }

    /// The report of the last re-estimation of BatchNorm, if there was one for the first average in its current state.
    pub fn batch_norm_report(&self) -> Option<BatchNormReport> {
        let updates = self.updates();
        self.state().evaluation.report(MAIN, updates)
    }

    /// The first failure with its step ([`SwaError::AfterStep`]), if there was one: of an update, or else of an evaluation, or else of a
    /// member.
    pub fn failure(&self) -> Option<SwaError> {
        self.failures.first().map(Failed::error)
    }
}

impl<M: LearnerModel> Swa<M> {
    /// The state, even behind a poisoned lock: the panic that poisoned it must not be hidden by a second one here.
    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the averages. In a copy for validation, these are the averages at the time when it was made.
    fn read<R>(&self, read: impl FnOnce(&Collectors<M>) -> R) -> R {
        match &self.snapshot {
            Some(snapshot) => read(snapshot),
            None => read(&self.state().collectors),
        }
    }

    fn collectors(&self) -> Collectors<M> {
        self.read(Collectors::clone)
    }

    /// The same, with a new state that holds these averages.
    fn with_collectors(mut self, collectors: Collectors<M>) -> Self {
        self.steps_per_epoch.value = collectors.steps_per_epoch();
        let state = self.state().fresh(collectors);
        self.state = Arc::new(Mutex::new(state));
        // Of what was loaded, and no longer of these.
        self.statistics_of.value = 0;
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
        // The lock is free during the pass over the data, since a loader may call methods of this value.
        Ok(match averaged {
            None => None,
            Some(Averaged::Ready(model)) => Some(model),
            Some(Averaged::Pending(pending)) => {
                let evaluated = pending.evaluate()?;
                self.tell_of_kept_statistics(&evaluated.report);
                Some(self.state().evaluation.keep(name, evaluated))
            }
        })
    }

    /// Reads from the device whether all averaged weights were finite. Call this only where waiting for
    /// the device costs nothing.
    fn check(&self) {
        // A copy for validation was checked when it was made.
        if self.snapshot.is_none() {
            let checked = self.state().collectors.check();
            if let Err(error) = checked {
                self.fail(error);
            }
        }
    }

    /// # Errors
    ///
    /// The failure that ended the averaging.
    fn check_averaging(&self) -> Result<(), SwaError> {
        self.check();
        match self.failures.of_averaging.get() {
            None => Ok(()),
            Some(failed) => Err(failed.error()),
        }
    }

    fn fail(&self, error: SwaError) {
        let failed = Failed::new(error, self.steps());
        let message = format!("SWA: {}", failed.error());
        log::error!("{message}");
        let stops = failed.stops();
        if stops && !self.is_replica {
            self.interrupt(&failed);
        }
        let is_first = self.failures.add(failed);
        // Whoever gave an interrupter has `LearningResult::error`, unless Burn's terminal UI resets it.
        let is_told = stops && self.interrupter.is_some() && !terminal::is_covered();
        if is_first && !is_told {
            terminal::show(message);
        }
    }

    /// Names the running statistics that could not be re-estimated, once for each training.
    fn tell_of_kept_statistics(&self, report: &BatchNormReport) {
        let kept = report.kept.iter();
        let kept = kept.filter(|it| it.reason != KeptReason::Frozen);
        let kept: Vec<String> = kept.map(ToString::to_string).collect();
        if !kept.is_empty() && self.failures.kept_statistics_told.set(()).is_ok() {
            let mut message = format!(
                "SWA: the averaged model has running statistics that were not re-estimated, but are the training's latest: {}",
                kept.join(", ")
            );
            if report
                .kept
                .iter()
                .any(|it| it.reason == KeptReason::NotUpdated)
            {
                message += ". Another forward pass may reach more layers: see `SwaConfig::init_with_forward`";
            }
            log::warn!("{message}");
            terminal::show(message);
        }
    }

    fn interrupt(&self, failed: &Failed) {
        if let Some(interrupter) = &self.interrupter {
            interrupter.fail(training_error(&failed.error()));
        }
    }
}

impl<M: LearnerModel> Clone for Swa<M> {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
            steps: self.steps.clone(),
            first_step: self.first_step,
            format: self.format.clone(),
            steps_per_epoch: self.steps_per_epoch.clone(),
            statistics_of: self.statistics_of.clone(),
            steps_changed: self.steps_changed.clone(),
            state: self.state.clone(),
            snapshot: self.snapshot.clone(),
            loaded: None,
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

/// Shows the model as if it were alone.
impl<M: LearnerModel> fmt::Display for Swa<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.model, f)
    }
}

#[cfg(test)]
mod tests;
