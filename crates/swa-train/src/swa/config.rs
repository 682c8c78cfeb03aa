//! The settings of the wrapper.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex};

use burn::config::Config;
use burn::data::dataloader::DataLoader;
use burn::train::{InferenceStep, LearnerModel};
use swa_core::{Average, Counter, ReestimationConfig, RuleConfig, read_tensors_when_asked};

use super::collector::{Collector, Collectors, MAIN, error_of};
use super::state::State;
use super::{LIVE, RECORD_FORMAT, Swa};
use crate::evaluation::Evaluation;
use crate::{Collect, SwaError};

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
///     .with_rule(RuleConfig::Exponential { decay: 0.999 });
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
    /// Averages beside the first, which is the one that is validated: none by default. If one fails, all stop, and each keeps its
    /// last good value.
    #[config(default = "Vec::new()")]
    pub further_averages: Vec<AverageConfig>,
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

/// An average beside the first.
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
    /// Wraps `model`. Give the wrapper to `Learner::new` in place of the model.
    ///
    /// BatchNorm is re-estimated from `train_loader`: the loader that the training uses, or another one over the same
    /// data. It is used only if the model has BatchNorm layers that train. Its batches go through the model's own
    /// [`InferenceStep::step`]. The size of a batch is taken from the loader's progress, which counts items in all of
    /// Burn's loaders. For another pass, and for batches of other lengths along time or space, see
    /// [`Swa::with_reestimation_forward`]. Under `multi` or `ddp` with one device, a shuffled loader that trains and
    /// re-estimates serves its batches in another order than if it only trained (Burn 0.22.1 draws from its generator to
    /// move it to a device). If that matters, use a separate loader here.
    ///
    /// From here on, the process [reads tensors when asked](read_tensors_when_asked), so that in a checkpoint on an
    /// accelerator, the weights, the average and the optimizer's state are of the same step.
    ///
    /// # Errors
    ///
    /// - [`SwaError::Invalid`] for invalid names of averages, and for averages whose runs have epochs of different lengths.
    /// - [`SwaError::Average`] for a model that cannot be averaged, such as one with LoRA adapters or with a NaN in its weights,
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
        read_tensors_when_asked();
        let reestimation = match &self.running_statistics {
            RunningStatistics::Reestimated(config) => Some(config),
            RunningStatistics::Averaged | RunningStatistics::Latest => None,
        };
        if let Some(reestimation) = reestimation {
            reestimation.check(&model)?;
        }
        let first = self.collector(&model, MAIN, &self.collect, &self.rule)?;
        let mut collectors = Collectors::new(first);
        for AverageConfig {
            name,
            collect,
            rule,
        } in &self.further_averages
        {
            check_name(name, &collectors)?;
            let (steps, expected) = (
                collect.run().steps_per_epoch(),
                self.collect.run().steps_per_epoch(),
            );
            if steps != expected {
                return Err(SwaError::Invalid {
                    name: "the number of steps per epoch of a further average",
                    expected: "that of the first average, as they are of one training",
                    got: format!("{steps} (`{name}`) beside {expected}"),
                });
            }
            collectors.push(self.collector(&model, name, collect, rule)?);
        }
        let evaluation = Evaluation::new(train_loader, reestimation.cloned());
        Ok(Swa {
            model,
            steps: Counter::new(0),
            format: Counter::new(RECORD_FORMAT),
            steps_per_epoch: Counter::new(self.collect.run().steps_per_epoch()),
            steps_changed: None,
            state: Arc::new(Mutex::new(State::new(collectors, evaluation))),
            snapshot: None,
            evaluated: OnceCell::new(),
            failures: Arc::default(),
            interrupter: None,
            is_replica: false,
        })
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
        })
    }
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
