//! A step: the user's `optimize`, then the collecting of weights; and the model that is validated.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::optim::{
    GradientsParams, ModuleOptimizer, MultiGradientsParams,
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
};
use burn::train::{InferenceStep, Interrupter, LearnerModel, TrainOutput, TrainStep};

use super::Swa;
use super::collector::{Collectors, MAIN};

impl<M: LearnerModel> TrainStep for Swa<M> {
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
        let rate = learning_rate.base();
        self.model = self.model.optimize(optimizer, learning_rate, gradients);
        self.after_step(rate)
    }

    fn optimize_multi(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        let rate = learning_rate.base();
        self.model = self
            .model
            .optimize_multi(optimizer, learning_rate, gradients);
        self.after_step(rate)
    }
}

impl<M: LearnerModel> InferenceStep for Swa<M> {
    type Input = <M as InferenceStep>::Input;
    type Output = <M as InferenceStep>::Output;

    fn step(&self, item: Self::Input) -> Self::Output {
        InferenceStep::step(self.evaluated(), item)
    }
}

impl<M: LearnerModel> Swa<M> {
    /// Counts an optimizer step at this learning rate, and collects the weights if it is time to.
    pub(super) fn after_step(mut self, learning_rate: f64) -> Self {
        self.steps.value = self.steps.value.saturating_add(1);
        self.evaluated = OnceCell::new();
        if self.snapshot.is_some() {
            // This is a copy for validation that is trained after all.
            let collectors = self.collectors();
            self = self.with_collectors(collectors);
        }
        if self.is_replica {
            self.interrupt_with_the_others();
        }
        if self.failures.of_averaging.get().is_none()
            && let Some(error) = &self.steps_changed
        {
            self.fail(error.clone());
        }
        if self.failures.of_averaging.get().is_none() {
            let mut state = self.state();
            let mut lacking = if self.steps() == self.first_step.saturating_add(1) {
                // A file may have been removed before the training was resumed.
                state.collectors.check_members()
            } else {
                Vec::new()
            };
            let collected = state.collect(self.steps(), &self.model, learning_rate);
            let written_back = collected.and_then(|not_kept| {
                lacking.extend(not_kept);
                state.collectors.written_back(self.steps(), &self.model)
            });
            drop(state);
            match written_back {
                Ok(Some(model)) => self.model = model,
                Ok(None) => {}
                Err(error) => self.fail(error),
            }
            for error in lacking {
                self.fail(error.into());
            }
        }
        self
    }

    /// Interrupts the training of a replica if a replica has failed before this step, unless a member alone is lacking.
    ///
    /// Each step takes the gradients of all replicas. So at its end, all know of failures before it, and
    /// all stop here. Some may not know yet of failures in this step.
    fn interrupt_with_the_others(&self) {
        if let Some(failed) = self.failures.first()
            && failed.stops()
            && failed.step < self.steps()
        {
            self.interrupt(failed);
        }
    }

    /// The model that is validated: the averaged one, or the live one while nothing has been averaged, and after an update has
    /// failed.
    pub(super) fn evaluated(&self) -> &M {
        let evaluated = self.evaluated.get_or_init(|| {
            self.check_run_length();
            self.check_live_weights();
            self.try_evaluate(MAIN)
        });
        evaluated.as_ref().unwrap_or(&self.model)
    }

    /// Compares the length of the run with the first epoch, once, at the first item of its validation. Burn (0.22.1) makes a copy for
    /// validation after a training that was stopped within an epoch, too, and under `ddp` with early stopping, it passes an item
    /// through it.
    fn check_run_length(&self) {
        // While it trains, a learner or a loop holds the state as well.
        let is_in_training = Arc::strong_count(&self.state) > 1;
        let is_stopping = || {
            self.interrupter
                .as_ref()
                .is_some_and(Interrupter::should_stop)
        };
        let run = self.read(Collectors::run);
        if let Some(run) = run
            && is_in_training
            && !is_stopping()
            && self.steps() > self.first_step
            && self.failures.run_checked.set(()).is_ok()
            && let Err(error) = run.check(self.first_step, self.steps())
        {
            self.fail(error);
        }
    }

    /// Fails if weights are not finite that the first average would not take, so that a training which diverges before its first
    /// collection is known to at the end of that epoch.
    fn check_live_weights(&self) {
        if self.steps() > self.first_step
            && self.updates() == 0
            && self.failures.of_averaging.get().is_none()
            && let Ok(mut average) = self.average()
            && let Err(error) = average.update(&self.model)
        {
            self.fail(error.into());
        }
    }

    /// The model of the average called `name`, if there is one and no update has failed.
    pub(super) fn try_evaluate(&self, name: &str) -> Option<M> {
        let has_averages = self.read(|collectors| collectors.main().is_some());
        if !has_averages || self.failures.of_averaging.get().is_some() {
            return None;
        }
        self.evaluate(name).unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }
}
