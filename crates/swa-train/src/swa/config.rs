//! The settings of the wrapper.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex};

use burn::config::Config;
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::train::{InferenceStep, LearnerModel};
use swa_core::{
    Average, AverageError, BatchNormError, BatchSize, Counter, ExponentialConfig, Layout,
    MemberSink, ReestimationConfig, RuleConfig, WarmUp, Weights, read_tensors_when_asked,
    reestimate_batch_norm,
};

use super::collector::{Collector, Collectors, MAIN, MemberCollector, error_of};
use super::state::State;
use super::{LIVE, RECORD_FORMAT, Swa};
use crate::evaluation::{Data, Evaluation};
use crate::{Collect, SwaError, terminal};

/// The settings of SWA in a training: when to collect weights, how to average them, and what to do about BatchNorm.
///
/// All but the first have defaults, which are the paper's. They are saved and loaded like Burn's:
///
/// ```
/// use burn::config::Config;
/// use swa_train::{Collect, RuleConfig, RunLength, SwaConfig};
///
/// let run = RunLength::of_items(200, 50_000, 128)?;
/// let config = SwaConfig::new(Collect::from_epoch(161, &run)?)
///     .with_rule(RuleConfig::exponential(0.999));
/// # let directory = tempfile::tempdir()?;
/// # let file = directory.path().join("swa.json");
/// config.save(&file)?;
/// assert_eq!(SwaConfig::load(&file)?, config);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct SwaConfig {
    /// The optimizer steps after which weights are collected.
    pub collect: Collect,
    /// The rule of the average: equal weights by default. For a rule of your own, see [`Swa::with_rule`].
    #[config(default = "RuleConfig::EqualWeights")]
    pub rule: RuleConfig,
    /// The treatment of BatchNorm's running statistics: re-estimated by default, from the whole training set.
    #[config(default = "RunningStatistics::Reestimated(ReestimationConfig::new())")]
    pub running_statistics: RunningStatistics,
    /// Averages beside the first, which is the one that is validated: none by default. All that are due after a step take it in one
    /// pass over memory. If one fails, all stop, and each keeps its last good value.
    #[config(default = "Vec::new()")]
    pub further_averages: Vec<AverageConfig>,
    /// The parts of the model whose weights are not averaged, but are the training's latest in all averages: none by default. A part
    /// is named by its path in the record, such as `backbone` for a layer with all that is in it, or `head.bias` for a parameter.
    ///
    /// This is for frozen backbones: their average would be themselves, at the price of one more copy. Adapters such as LoRA's are no
    /// parts, since the weights that they change are averaged by their effective values: see [`Average`]. The setting is not in
    /// records, no more than the rule is: a training that is resumed with another one goes on from the values that an average has.
    #[config(default = "Vec::new()")]
    pub copied: Vec<String>,
    /// The optimizer steps after which the first average is written into the live model, once it has averaged something: none by
    /// default. Switch EMA (Li et al. 2024) does it after each epoch, Keras' `ema_overwrite_frequency` after so many steps.
    ///
    /// Collections that are due after the same step come first. The next step begins with the overwritten weights, and the next update reads
    /// what it made of them; the average itself stays as it is. Ids and `require_grad` stay, and the optimizer keeps its state, such
    /// as SGD's momentum. Running statistics are overwritten if they are [averaged](RunningStatistics::Averaged), and else stay the
    /// training's. See [`Average::overwrite`].
    pub write_back: Option<Collect>,
    /// The number of deviations from the first average that are kept for SWAG (Maddox et al. 2019), at least 2: none by default. The
    /// paper keeps 20. [`Swa::sample`] then draws models. Memory and checkpoints hold as many copies of the weights, and two more:
    /// see [`Average::with_deviations`].
    pub swag_rank: Option<usize>,
}

/// The treatment of running statistics, such as those of BatchNorm layers, in all averages.
#[derive(Config, Debug, PartialEq)]
pub enum RunningStatistics {
    /// Re-estimated from data whenever an averaged model is needed, for validation or for use: as in the paper, and as by
    /// PyTorch's `update_bn`. Frozen layers, layers that the pass does not reach, and running states of other layers than BatchNorm
    /// keep the training's latest: see [`reestimate_batch_norm`](swa_core::reestimate_batch_norm).
    Reestimated(ReestimationConfig),
    /// Averaged like weights: PyTorch's `use_buffers`, for an EMA that must cost nothing at validation.
    Averaged,
    /// The training's latest: timm's `exclude_buffers`.
    Latest,
}

/// An average beside the first. For a device of its own, see [`Swa::with_device_of`].
#[derive(Config, Debug, PartialEq)]
pub struct AverageConfig {
    /// Its name in records, in metrics, and for [`Swa::averaged`]. Names are unique, without a dot, and neither `averaged` nor
    /// `live`.
    pub name: String,
    /// The optimizer steps after which it collects weights.
    pub collect: Collect,
    /// Its rule: equal weights by default.
    #[config(default = "RuleConfig::EqualWeights")]
    pub rule: RuleConfig,
}

impl SwaConfig {
    /// An exponential moving average (EMA) of the weights after every optimizer step, in a run of any length: that of timm's
    /// `ModelEmaV3` with `use_warmup`. Its [decay warms up](swa_core::WarmUp::timm), so that it leaves the first weights
    /// behind at once, and it averages running statistics as Lightning's `EMAWeightAveraging` does, so that it needs no data.
    ///
    /// ```
    /// use burn::train::LearnerModel;
    /// use swa_train::{Swa, SwaConfig, SwaError};
    ///
    /// fn wrap<M: LearnerModel>(model: M) -> Result<Swa<M>, SwaError> {
    ///     SwaConfig::ema(0.999).init_without_data(model)
    /// }
    /// ```
    pub fn ema(decay: f64) -> Self {
        let warmed_up = ExponentialConfig::new(decay).with_warm_up(Some(WarmUp::timm()));
        Self::new(Collect::every_step())
            .with_rule(RuleConfig::Exponential(warmed_up))
            .with_running_statistics(RunningStatistics::Averaged)
    }

    /// Wraps `model`. Give the wrapper to `Learner::new` in place of the model.
    ///
    /// BatchNorm is re-estimated from `train_loader`: the loader that the training uses, or another one over the same
    /// data. It is used only if the model has BatchNorm layers that train. Its batches go through the model's own
    /// [`InferenceStep::step`]. The size of a batch is taken from the loader's progress, which counts items in all of
    /// Burn's loaders. For batches of another type, another pass, and batches of other lengths along time or space, see
    /// [`init_with_forward`](Self::init_with_forward). Under `multi` or `ddp` with one device, a shuffled loader that trains and
    /// re-estimates serves its batches in another order than if it only trained (Burn 0.22.1 draws from its generator to
    /// move it to a device). If that matters, use a separate loader here.
    ///
    /// From here on, the process [reads tensors when asked](read_tensors_when_asked), so that in a checkpoint on an
    /// accelerator, the weights, the average and the optimizer's state are of the same step.
    ///
    /// # Errors
    ///
    /// - [`SwaError::Invalid`] for invalid names of averages, and for averages whose runs have epochs of different lengths.
    /// - [`SwaError::NoSuchPart`] for a part to be [copied](Self::copied) that the model does not have.
    /// - [`SwaError::Average`] for a model that cannot be averaged, such as one with a NaN in its weights,
    ///   and for a decay outside of `[0, 1]`; [`SwaError::FurtherAverage`] for the same in a further average.
    /// - [`SwaError::BatchNorm`] if BatchNorm is to be re-estimated and cannot be, such as for a model in 16 bits, or from 0
    ///   batches.
    pub fn init<M>(
        &self,
        model: M,
        train_loader: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    ) -> Result<Swa<M>, SwaError>
    where
        M: LearnerModel,
        <M as InferenceStep>::Input: Clone,
    {
        self.init_with(model, Data::inferred(train_loader))
    }

    /// The same without data, for a model without BatchNorm, or whose running statistics are not re-estimated.
    ///
    /// # Errors
    ///
    /// Those of [`init`](Self::init), and [`SwaError::NoData`] if BatchNorm is to be re-estimated.
    pub fn init_without_data<M: LearnerModel>(&self, model: M) -> Result<Swa<M>, SwaError> {
        if let Some(config) = self.reestimation()
            && needs_data(&model, config)?
        {
            return Err(SwaError::NoData);
        }
        self.init_with(model, Data::none())
    }

    /// The same with a forward pass of your own for the re-estimation of BatchNorm: where the training's batches are of another
    /// type than those of validation, with an auxiliary head that only the training uses, or for batches of other lengths along
    /// time or space. `forward` passes a batch through the model and returns the batch's [size](BatchSize), as for
    /// [`reestimate_batch_norm`].
    ///
    /// Statistics that no pass reaches stay the training's latest. The first validation of an average names them on the terminal, and
    /// [`Swa::batch_norm_report`] lists them.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use burn::data::dataloader::DataLoader;
    /// use burn::tensor::Tensor;
    /// use burn::train::LearnerModel;
    /// use swa_train::{Swa, SwaConfig, SwaError};
    ///
    /// # trait WithHead { fn forward_with_auxiliary_head(&self, images: Tensor<4>) -> (Tensor<2>, Tensor<2>); }
    /// fn wrap<M: LearnerModel + WithHead>(
    ///     config: &SwaConfig,
    ///     model: M,
    ///     train_loader: Arc<dyn DataLoader<Tensor<4>>>,
    /// ) -> Result<Swa<M>, SwaError> {
    ///     config.init_with_forward(model, train_loader, |model, images| {
    ///         let samples = images.dims()[0];
    ///         model.forward_with_auxiliary_head(images);
    ///         samples
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`init`](Self::init).
    pub fn init_with_forward<M, B, S>(
        &self,
        model: M,
        train_loader: Arc<dyn DataLoader<B>>,
        forward: impl Fn(&M, B) -> S + Send + Sync + 'static,
    ) -> Result<Swa<M>, SwaError>
    where
        M: LearnerModel,
        B: Clone + 'static,
        S: BatchSize,
    {
        self.init_with(model, Data::passed(train_loader, forward))
    }

    fn init_with<M: LearnerModel>(&self, model: M, data: Data<M>) -> Result<Swa<M>, SwaError> {
        read_tensors_when_asked();
        terminal::print_at_the_end_of_this_thread();
        if let Some(reestimation) = self.reestimation() {
            reestimation.check(&model)?;
        }
        let mut first = self.collector(&model, MAIN, &self.collect, &self.rule)?;
        if let Some(rank) = self.swag_rank {
            first.average = first.average.with_deviations(rank)?;
        }
        let mut collectors = Collectors::new();
        collectors.push(first);
        for AverageConfig {
            name,
            collect,
            rule,
        } in &self.further_averages
        {
            check_name(name, &collectors)?;
            check_length(name, collect, &collectors)?;
            collectors.push(self.collector(&model, name, collect, rule)?);
        }
        if let Some(write_back) = self.write_back {
            check_length("write_back", &write_back, &collectors)?;
            // An average of what adapters make of the weights has no place in these.
            Weights::of(&model).map_err(AverageError::from)?;
            collectors.write_back = Some(write_back);
        }
        let evaluation = Evaluation::new(data, self.reestimation().cloned());
        Ok(Swa::of(model, collectors, evaluation))
    }

    fn reestimation(&self) -> Option<&ReestimationConfig> {
        match &self.running_statistics {
            RunningStatistics::Reestimated(config) => Some(config),
            RunningStatistics::Averaged | RunningStatistics::Latest => None,
        }
    }

    fn collector<M: LearnerModel>(
        &self,
        model: &M,
        name: &str,
        collect: &Collect,
        rule: &RuleConfig,
    ) -> Result<Collector<M>, SwaError> {
        let average = rule.init().and_then(|rule| Average::new(model, rule));
        let mut average = average.map_err(|error| error_of(name, error))?;
        if !self.copied.is_empty() {
            check_parts(&self.copied, average.weights().layout())?;
            let is_copied = |path: &str| self.copied.iter().any(|part| is_in(path, part));
            average = average
                .with_weights_averaged(|path| !is_copied(path))
                .map_err(|error| error_of(name, error))?;
        }
        if self.running_statistics == RunningStatistics::Averaged {
            average = average.with_running_statistics_averaged();
        }
        // A NaN in a frozen parameter, for example, would otherwise be an error at the end of the training.
        let updated = average.clone().update(model);
        updated.map_err(|error| error_of(name, error))?;
        Ok(Collector {
            name: name.into(),
            collect: *collect,
            average,
            snapshots: None,
        })
    }
}

impl<M: LearnerModel> Swa<M> {
    /// A wrapper for an ensemble of the networks that a training passes through, without an average: it hands the live model to `sink`
    /// after the optimizer steps that `collect` names, and validates with the live model.
    ///
    /// Snapshot Ensembles collect at the ends of a learning rate's cycles, and Fast Geometric Ensembling in their middles:
    ///
    /// ```
    /// use burn::train::LearnerModel;
    /// use swa_train::swa_core::MemberSink;
    /// use swa_train::{CyclicalLrScheduler, CyclicalLrSchedulerConfig, RunLength, Swa, SwaError};
    ///
    /// fn snapshot_ensemble<M: LearnerModel>(
    ///     model: M,
    ///     run: &RunLength,
    ///     sink: impl MemberSink<M> + 'static,
    /// ) -> Result<(Swa<M>, CyclicalLrScheduler), SwaError> {
    ///     let cycles = CyclicalLrSchedulerConfig::snapshot(0.2, 5, run)?;
    ///     let swa = Swa::ensemble(model, cycles.collect(run)?, sink)?;
    ///     Ok((swa, cycles.init()?))
    /// }
    /// ```
    ///
    /// The crate `swa-store` has a sink that writes files. After the training, [`members`](Self::members) says which there are, and
    /// [`evaluate_ensemble`](swa_core::evaluate_ensemble) scores them. See also [`with_members`](Self::with_members).
    ///
    /// Members are handed on as they are, also with weights that are not finite: see `EnsembleConfig::leave_out_not_finite`.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn ensemble(
        model: M,
        collect: Collect,
        sink: impl MemberSink<M> + 'static,
    ) -> Result<Self, SwaError> {
        read_tensors_when_asked();
        terminal::print_at_the_end_of_this_thread();
        let evaluation = Evaluation::new(Data::none(), None);
        Self::of(model, Collectors::new(), evaluation).with_members(collect, sink)
    }

    fn of(model: M, collectors: Collectors<M>, evaluation: Evaluation<M>) -> Self {
        Self {
            model,
            steps: Counter::new(0),
            first_step: 0,
            format: Counter::new(RECORD_FORMAT),
            steps_per_epoch: Counter::new(collectors.steps_per_epoch()),
            statistics_of: Counter::new(0),
            steps_changed: None,
            state: Arc::new(Mutex::new(State::new(collectors, evaluation))),
            snapshot: None,
            loaded: None,
            evaluated: OnceCell::new(),
            failures: Arc::default(),
            interrupter: None,
            is_replica: false,
        }
    }
}

/// Tells whether a model has BatchNorm layers to re-estimate.
///
/// # Errors
///
/// [`SwaError::BatchNorm`] if they cannot be.
pub(crate) fn needs_data<M: Module + 'static>(
    model: &M,
    config: &ReestimationConfig,
) -> Result<bool, SwaError> {
    let no_batches = std::iter::empty::<()>();
    match reestimate_batch_norm(model, config, no_batches, |_, ()| 0) {
        Err(BatchNormError::NoBatches) => Ok(true),
        other => Ok(other.map(|_| false)?),
    }
}

/// Tells whether a parameter is that of this path, or in the part of the model with this path.
fn is_in(path: &str, part: &str) -> bool {
    let rest = path.strip_prefix(part);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Checks that the model has all these parts.
///
/// # Errors
///
/// [`SwaError::NoSuchPart`], with the parts of the innermost part that is there.
fn check_parts(parts: &[String], layout: &Layout) -> Result<(), SwaError> {
    let paths = || layout.parameters().iter().map(|it| it.path.as_str());
    let unknown = |part: &&String| !paths().any(|path| is_in(path, part));
    let Some(part) = parts.iter().find(unknown) else {
        return Ok(());
    };
    let around = part.rmatch_indices('.').map(|(dot, _)| &part[..dot]);
    let around = around
        .into_iter()
        .find(|outer| paths().any(|path| is_in(path, outer)));
    let depth = around.map_or(0, |outer| outer.split('.').count());
    let near = paths().filter(|path| around.is_none_or(|outer| is_in(path, outer)));
    let near = near.map(|path| {
        path.split('.')
            .take(depth + 1)
            .collect::<Vec<_>>()
            .join(".")
    });
    let mut near: Vec<String> = near.collect();
    near.dedup();
    Err(SwaError::NoSuchPart {
        part: part.clone(),
        parts: near,
    })
}

fn check_name<M: LearnerModel>(name: &str, others: &Collectors<M>) -> Result<(), SwaError> {
    let expected = if name.is_empty() || name.contains('.') {
        "a name without a dot"
    } else if name == LIVE || others.named(name).is_ok() {
        "unlike `live`, `averaged` and the name of any other average"
    } else {
        return Ok(());
    };
    Err(SwaError::Invalid {
        name: "the name of an average",
        expected,
        got: format!("`{name}`"),
    })
}

/// Checks that members, or the snapshots of the average called `name`, have no sink yet.
///
/// # Errors
///
/// [`SwaError::Invalid`].
pub(super) fn check_one_sink<M: LearnerModel>(
    before: Option<&MemberCollector<M>>,
    name: &str,
) -> Result<(), SwaError> {
    match before {
        None => Ok(()),
        Some(_) => Err(SwaError::Invalid {
            name: "the sink of members or of an average's snapshots",
            expected: "given once",
            got: format!("a second time (`{name}`)"),
        }),
    }
}

/// Checks that a collector is of a run whose epochs are as long as those of the others.
///
/// # Errors
///
/// [`SwaError::Invalid`].
pub(super) fn check_length<M: LearnerModel>(
    name: &str,
    collect: &Collect,
    others: &Collectors<M>,
) -> Result<(), SwaError> {
    match (collect.run(), others.run()) {
        (Some(run), Some(other)) if run.steps_per_epoch() != other.steps_per_epoch() => {
            Err(SwaError::Invalid {
                name: "the number of steps per epoch of a further average or of members",
                expected: "that of the other averages, as they are of one training",
                got: format!(
                    "{} (`{name}`) beside {}",
                    run.steps_per_epoch(),
                    other.steps_per_epoch()
                ),
            })
        }
        _ => Ok(()),
    }
}
