//! The way of a step: the user's `optimize`, what is collected after it, and the model that validation goes by.

use std::cell::OnceCell;

use burn::optim::{
    GradientsParams, ModuleOptimizer, MultiGradientsParams,
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
};
use burn::train::{InferenceStep, LearnerModel, TrainOutput, TrainStep};

use super::Swa;
use super::failure::Failed;
use crate::lock::lock;
use crate::{LiveAndAveraged, SwaError};

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

impl<M: LearnerModel, const LIVE: bool> Swa<M, LIVE> {
    /// Counts an optimizer step, and collects the weights if it is time to.
    pub(super) fn after_step(mut self) -> Self {
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
    pub(super) fn check(&self) {
        let checked = self.collected().average.check();
        if let Err(error) = checked {
            self.fail(error.into());
        }
    }

    pub(super) fn fail(&self, error: SwaError) {
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
    pub(super) fn evaluate(&self) -> Result<Option<M>, SwaError> {
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
    pub(super) fn evaluated(&self) -> Option<&M> {
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
