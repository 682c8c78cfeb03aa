//! The wrapper that turns SWA on in a `Learner`.

use core::fmt;
use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::data::dataloader::DataLoader;
use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::optim::{
    GradientsParams, ModuleOptimizer, MultiGradientsParams,
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
};
use burn::tensor::Device;
use burn::train::{InferenceStep, Interrupter, LearnerModel, TrainOutput, TrainStep};
use swa_core::{
    Average, AveragingRule, BatchNormReestimation, BatchNormReport, Counter, EqualWeights, Pooling,
    read_tensors_when_asked,
};

use crate::burn_0_22::{is_sharder, training_error};
use crate::evaluation::{Evaluation, Reestimate};
use crate::{Collect, LiveAndAveraged, SwaError};

/// How to average: when, by which rule, and what to do about BatchNorm.
///
/// Every choice but the first has a default from the paper.
#[derive(Clone)]
pub struct SwaConfig {
    collect: Collect,
    rule: Arc<dyn AveragingRule>,
    reestimate: Reestimate,
    pooling: Pooling,
    averages_running_statistics: bool,
    device: Option<Device>,
    interrupter: Option<Interrupter>,
}

impl SwaConfig {
    /// SWA that collects when `collect` says: equal weights, BatchNorm re-estimated from the whole
    /// training set.
    pub fn new(collect: Collect) -> Self {
        Self {
            collect,
            rule: Arc::new(EqualWeights),
            reestimate: Reestimate::default(),
            pooling: Pooling::default(),
            averages_running_statistics: false,
            device: None,
            interrupter: None,
        }
    }

    /// Averages by another rule, such as [`Exponential`](swa_core::Exponential).
    pub fn with_rule(mut self, rule: impl AveragingRule + 'static) -> Self {
        self.rule = Arc::new(rule);
        self
    }

    /// From how much data BatchNorm's running statistics are re-estimated for a validation of the
    /// averaged model: all of the training loader's by default.
    pub fn with_reestimation(mut self, reestimate: Reestimate) -> Self {
        self.reestimate = reestimate;
        self
    }

    /// How the re-estimation pools the statistics of batches: exactly by default, or as a peer does.
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Averages BatchNorm's running statistics too, and does not re-estimate them: PyTorch's
    /// `use_buffers`, for an EMA that must cost nothing at validation.
    pub fn averaging_running_statistics(mut self) -> Self {
        self.averages_running_statistics = true;
        self.reestimate = Reestimate::Never;
        self
    }

    /// Keeps the average on `device` rather than the model's.
    pub fn on_device(mut self, device: &Device) -> Self {
        self.device = Some(device.clone());
        self
    }

    /// Stops the training through `interrupter` when averaging or re-estimating BatchNorm fails, with
    /// the reason in `LearningResult::error`. Without one the failure is logged and the training goes
    /// on, validated by the live model; an average that could not be updated keeps its last good value,
    /// and [`Swa::into_averaged`] returns the error.
    ///
    /// Pass the same to `SupervisedTraining::with_interrupter`.
    pub fn with_interrupter(mut self, interrupter: Interrupter) -> Self {
        self.interrupter = Some(interrupter);
        self
    }

    /// Wraps `model`, for `Learner::new` in its place.
    ///
    /// `train_loader` is what BatchNorm is re-estimated from: the loader that the training uses, or
    /// another one over the same data. It is used only if the model has BatchNorm layers. Its batches
    /// go through the model's own [`InferenceStep::step`], and count by the loader's progress in
    /// items, as that of all of Burn's loaders is. Under `multi` or `ddp` with one device, a shuffled loader that
    /// trains and re-estimates serves its batches in another order than if it only trained (Burn 0.22.1 draws from
    /// its generator to move it to a device): where that matters, give this a loader of its own.
    ///
    /// From here on the process [reads tensors when asked](read_tensors_when_asked), so that a checkpoint on an
    /// accelerator holds weights, average and the optimizer's state of one step.
    ///
    /// # Errors
    ///
    /// - [`SwaError::Average`] for a model that cannot be averaged, such as one with LoRA adapters.
    /// - [`SwaError::BatchNorm`] for one whose BatchNorm cannot be re-estimated, such as one in 16 bits, unless it
    ///   [never](Reestimate::Never) is to be.
    pub fn init<M>(
        self,
        model: M,
        train_loader: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    ) -> Result<Swa<M>, SwaError>
    where
        M: LearnerModel,
        <M as InferenceStep>::Input: Clone,
    {
        read_tensors_when_asked();
        self.reestimate.validate()?;
        if self.reestimate != Reestimate::Never {
            BatchNormReestimation::default().check(&model)?;
        }
        let mut average = Average::new(&model, SharedRule(self.rule))?;
        if self.averages_running_statistics {
            average = average.averaging_running_statistics();
        }
        if let Some(device) = &self.device {
            average = average.on_device(device);
        }
        Ok(Swa {
            model,
            steps: Counter::default(),
            collect: self.collect,
            collected: Arc::new(Mutex::new(Collected {
                average,
                last_step: 0,
            })),
            evaluation: Arc::new(Evaluation::new(train_loader, self.reestimate, self.pooling)),
            evaluated: OnceCell::new(),
            failure: Arc::new(Failure {
                last: Mutex::new(None),
                interrupter: self.interrupter,
            }),
            is_replica: false,
        })
    }
}

impl fmt::Debug for SwaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwaConfig")
            .field("collect", &self.collect)
            .field("rule", &self.rule)
            .field("reestimate", &self.reestimate)
            .field("pooling", &self.pooling)
            .field(
                "averages_running_statistics",
                &self.averages_running_statistics,
            )
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SharedRule(Arc<dyn AveragingRule>);

impl AveragingRule for SharedRule {
    fn weight(&self, updates: usize) -> f64 {
        self.0.weight(updates)
    }
}

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

struct Failure {
    last: Mutex<Option<Failed>>,
    interrupter: Option<Interrupter>,
}

struct Failed {
    error: SwaError,
    /// How many steps were taken before.
    step: usize,
}

impl Failed {
    /// Whether the average lacks an update, or has those of another training.
    fn ends_averaging(&self) -> bool {
        matches!(self.error, SwaError::Average(_) | SwaError::Shared { .. })
    }
}

impl<M: LearnerModel> Swa<M>
where
    <M as InferenceStep>::Input: Clone,
{
    /// Shows the live model's validation metrics beside the averaged one's, at the price of a second
    /// forward pass.
    ///
    /// Metrics of validation then take a [`LiveAndAveraged`] output: those registered as they are show
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

    /// Counts an optimizer step, and collects the weights if it is time to.
    fn after_step(mut self) -> Self {
        self.steps.value += 1;
        self.evaluated = OnceCell::new();
        if self.is_replica {
            self.interrupt_with_the_others();
        }
        if self.failure.ended_averaging().is_some() {
            return self;
        }
        let averaged_step = self.collected().last_step;
        // Clones that train together are at most a step apart.
        if averaged_step > self.steps() + 1 {
            let step = self.steps();
            self.fail(SwaError::Shared {
                averaged_step,
                step,
            });
        } else if self.collect.is_due(self.steps()) {
            self.collect_weights();
        }
        self
    }

    /// Interrupts the training of a replica if any of them failed in an earlier step, or after it.
    ///
    /// Each step takes the gradients of all replicas, so that by its end all know what failed before it,
    /// and all stop here. What failed in this step, some may not know yet.
    fn interrupt_with_the_others(&self) {
        if let Some(failed) = &*lock(&self.failure.last)
            && failed.step < self.steps()
        {
            self.failure.interrupt(&failed.error);
        }
    }

    fn collect_weights(&self) {
        let mut collected = self.collected();
        if collected.last_step >= self.steps() {
            return;
        }
        collected.last_step = self.steps();
        // What was evaluated shares the average's memory, and would make the update copy it.
        self.evaluation.forget();
        let updated = collected.average.update_non_blocking(&self.model);
        drop(collected);
        if let Err(error) = updated {
            self.fail(error.into());
        }
    }

    /// Reads whether what the device averaged was finite: where this is called, waiting for the device
    /// costs nothing.
    fn check(&self) {
        let checked = self.collected().average.check();
        if let Err(error) = checked {
            self.fail(error.into());
        }
    }

    fn fail(&self, error: SwaError) {
        log::error!("SWA: {error}");
        let mut last = lock(&self.failure.last);
        if !last.as_ref().is_some_and(Failed::ends_averaging) {
            if !self.is_replica {
                self.failure.interrupt(&error);
            }
            let step = self.steps();
            *last = Some(Failed { error, step });
        }
    }

    /// The averaged model, ready for inference, or `None` while nothing has been averaged.
    fn evaluate(&self) -> Result<Option<M>, SwaError> {
        let average = {
            let collected = self.collected();
            if collected.average.updates() == 0 {
                return Ok(None);
            }
            collected.average.clone()
        };
        self.evaluation.evaluate(&average, &self.device()).map(Some)
    }

    /// The averaged model that validation goes by, if there is one, and no update of it has failed.
    fn evaluated(&self) -> Option<&M> {
        let evaluated = self.evaluated.get_or_init(|| {
            if self.failure.ended_averaging().is_some() {
                return None;
            }
            self.evaluate().unwrap_or_else(|error| {
                self.fail(error);
                None
            })
        });
        evaluated.as_ref()
    }
}

impl Failure {
    /// What keeps the average from being updated, if anything does.
    fn ended_averaging(&self) -> Option<SwaError> {
        let last = lock(&self.last);
        let ended = last.as_ref().filter(|failed| failed.ends_averaging());
        ended.map(|failed| failed.error.clone())
    }

    /// No failure, with the same interrupter.
    fn of_its_own(&self) -> Self {
        Self {
            last: Mutex::new(None),
            interrupter: self.interrupter.clone(),
        }
    }

    fn interrupt(&self, error: &SwaError) {
        if let Some(interrupter) = &self.interrupter {
            interrupter.fail(training_error(error));
        }
    }
}

/// A poisoned lock is as good as another: a panic is on its way to whoever trains, and this must not
/// hide it behind another.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: LearnerModel, const LIVE: bool> TrainStep for Swa<M, LIVE> {
    type Input = <M as TrainStep>::Input;
    type Output = <M as TrainStep>::Output;

    fn step(&self, item: Self::Input) -> TrainOutput<Self::Output> {
        TrainStep::step(&self.model, item)
    }

    fn optimize(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        self.model = self.model.optimize(optimizer, learning_rate, gradients);
        self.after_step()
    }

    fn optimize_multi(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        self.model = self
            .model
            .optimize_multi(optimizer, learning_rate, gradients);
        self.after_step()
    }
}

impl<M: LearnerModel> InferenceStep for Swa<M, false> {
    type Input = <M as InferenceStep>::Input;
    type Output = <M as InferenceStep>::Output;

    fn step(&self, item: Self::Input) -> Self::Output {
        InferenceStep::step(self.evaluated().unwrap_or(&self.model), item)
    }
}

impl<M: LearnerModel> InferenceStep for Swa<M, true>
where
    <M as InferenceStep>::Input: Clone,
{
    type Input = <M as InferenceStep>::Input;
    type Output = LiveAndAveraged<<M as InferenceStep>::Output>;

    fn step(&self, item: Self::Input) -> Self::Output {
        LiveAndAveraged {
            averaged: self
                .evaluated()
                .map(|averaged| InferenceStep::step(averaged, item.clone())),
            live: InferenceStep::step(&self.model, item),
        }
    }
}

/// The container that the fields of a `Swa` are visited in.
const CONTAINER: &str = "Struct:Swa";

impl<M: LearnerModel, const LIVE: bool> Module for Swa<M, LIVE> {
    /// Where the live model is: the average follows it.
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.model.collect_devices(devices)
    }

    /// Forks the live model alone. Burn forks the whole module to every device at every step of a
    /// multi-device training, and no worker there needs the average.
    fn fork(mut self, device: &Device) -> Self {
        self.model = self.model.fork(device);
        self.evaluated = OnceCell::new();
        self
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.model = self.model.to_device(device);
        self.with_average(|average| average.to_device(device))
    }

    fn train(mut self) -> Self {
        self.model = self.model.train();
        self.evaluated = OnceCell::new();
        self
    }

    /// A copy for validation, which later steps of the training leave alone. What it evaluates is kept for
    /// [`Swa::into_averaged`].
    fn valid(&self) -> Self {
        self.check();
        let valid = Self {
            model: self.model.valid(),
            ..self.clone()
        };
        let evaluation = valid.evaluation.clone();
        Self {
            evaluation,
            ..valid.with_average(|average| average)
        }
    }

    fn materialize(mut self) -> Self {
        self.model = self.model.materialize();
        self
    }

    /// Of the live model, as if it were alone.
    fn num_params(&self) -> usize {
        self.model.num_params()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        // The live model first: its parameters have the same ids as the average's, and whoever looks
        // gradients up by id must meet them first.
        visitor.enter_module("model", CONTAINER);
        self.model.visit(visitor);
        visitor.exit_module("model", CONTAINER);

        visitor.enter_module("average", CONTAINER);
        self.collected().average.visit(visitor);
        visitor.exit_module("average", CONTAINER);

        visitor.enter_module("steps", CONTAINER);
        visitor.visit_int(&self.steps.param(&self.device()));
        visitor.exit_module("steps", CONTAINER);
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        mapper.enter_module("model", CONTAINER);
        self.model = self.model.map(mapper);
        mapper.exit_module("model", CONTAINER);

        if is_sharder::<Mapper>() {
            return self.into_replica();
        }

        mapper.enter_module("average", CONTAINER);
        self = self.with_average(|average| average.map(mapper));
        mapper.exit_module("average", CONTAINER);

        mapper.enter_module("steps", CONTAINER);
        let device = self.device();
        let before = self.steps();
        self.steps = self.steps.map(mapper, &device);
        if self.steps() != before {
            // A record's: what failed before is not of its steps.
            self.failure = Arc::new(self.failure.of_its_own());
        }
        mapper.exit_module("steps", CONTAINER);
        self
    }
}

impl<M: LearnerModel, const LIVE: bool> Swa<M, LIVE> {
    /// A replica that averages by itself: an average that all shared would move from device to device,
    /// to whichever worker is the first at a step.
    fn into_replica(mut self) -> Self {
        self.is_replica = true;
        self.with_average(|average| average)
    }

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
mod tests {
    use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
    use burn::data::dataset::InMemDataset;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Tensor;
    use burn::train::RegressionOutput;

    use super::*;
    use crate::RunLength;

    #[derive(Module, Debug)]
    struct Net {
        layer: Linear,
    }

    impl TrainStep for Net {
        type Input = Tensor<2>;
        type Output = RegressionOutput;

        fn step(&self, input: Tensor<2>) -> TrainOutput<RegressionOutput> {
            let output = InferenceStep::step(self, input);
            TrainOutput::new(self, output.loss.backward(), output)
        }
    }

    impl InferenceStep for Net {
        type Input = Tensor<2>;
        type Output = RegressionOutput;

        fn step(&self, input: Tensor<2>) -> RegressionOutput {
            let output = self.layer.forward(input);
            RegressionOutput::new(output.clone().mean(), output.clone(), output)
        }
    }

    struct Rows;

    impl Batcher<f32, Tensor<2>> for Rows {
        fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
            Tensor::<1>::from_floats(items.as_slice(), device).unsqueeze_dim(1)
        }
    }

    fn swa() -> Swa<Net> {
        let model = Net {
            layer: LinearConfig::new(1, 1).init(&Device::default().autodiff()),
        };
        let loader = DataLoaderBuilder::new(Rows).build(InMemDataset::new(vec![1.0]));
        let run = RunLength::new(1, 10).unwrap();
        SwaConfig::new(Collect::from_step(1, &run).unwrap())
            .init(model, loader)
            .unwrap()
    }

    #[test]
    fn forks_for_workers_share_the_average_and_do_not_copy_it() {
        let swa = swa();
        let worker = swa.clone().fork(&Device::flex().autodiff());
        assert!(Arc::ptr_eq(&swa.collected, &worker.collected));
    }

    #[test]
    fn clones_that_train_together_update_the_average_once_a_step() {
        let workers = [swa()].map(|first| [first.clone(), first]).concat();
        let workers: Vec<_> = workers.into_iter().map(Swa::after_step).collect();
        assert_eq!(workers[0].updates(), 1);
        let workers: Vec<_> = workers.into_iter().map(Swa::after_step).collect();
        assert_eq!(workers[1].updates(), 2);
    }

    #[test]
    fn a_copy_for_validation_is_left_alone_by_later_steps() {
        let swa = swa().after_step();
        let valid = swa.valid();
        let swa = swa.after_step();
        assert_eq!((valid.updates(), swa.updates()), (1, 2));
    }

    fn weight(model: &Net) -> f32 {
        model.layer.weight.val().into_scalar()
    }

    #[test]
    fn what_was_evaluated_is_not_taken_for_another_records() {
        let evaluated = swa().after_step();
        evaluated.clone().into_averaged().unwrap();
        let other = swa().after_step();
        let record = other.clone().into_record();
        let loaded = evaluated.try_load_record(record).unwrap();
        let averaged = loaded.into_averaged().unwrap();
        assert_eq!(weight(&averaged), weight(other.live()));
    }

    #[test]
    fn weights_that_diverged_are_not_averaged_until_an_earlier_checkpoint_is_loaded() {
        let mut swa = swa().after_step();
        let record = swa.clone().into_record();
        assert!(swa.evaluated().is_some());
        let layer = &mut swa.model.layer;
        layer.weight = layer
            .weight
            .clone()
            .map(|weight| weight.mul_scalar(f32::NAN));
        let diverged = swa.after_step();
        assert!(diverged.evaluated().is_none());
        assert!(diverged.clone().into_averaged().is_err());
        let diverged = diverged.after_step();
        assert_eq!((diverged.updates(), diverged.steps()), (1, 3));

        let resumed = diverged.try_load_record(record).unwrap();
        assert!(resumed.failure().is_none());
        let resumed = resumed.after_step();
        assert_eq!((resumed.updates(), resumed.steps()), (2, 2));
        resumed.into_averaged().unwrap();
    }

    #[test]
    fn a_training_with_a_clone_of_what_another_has_trained_is_told() {
        let start = swa();
        let first = (0..4).fold(start.clone(), |swa, _| swa.after_step());
        let averaged = first.clone().into_averaged().unwrap();
        let error = start.after_step().into_averaged().unwrap_err();
        assert!(error.to_string().contains("SwaConfig::init"), "{error}");
        assert_eq!(weight(&averaged), weight(first.live()));
    }
}
