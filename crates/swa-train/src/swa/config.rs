//! The settings of the wrapper.

use core::fmt;
use std::cell::OnceCell;
use std::sync::{Arc, Mutex};

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn::train::{InferenceStep, Interrupter, LearnerModel};
use swa_core::{
    Average, AveragingRule, BatchNormReestimation, Counter, EqualWeights, Pooling,
    read_tensors_when_asked,
};

use super::failure::Failure;
use super::{Collected, Swa};
use crate::evaluation::{Evaluation, Reestimate};
use crate::{Collect, SwaError};

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
