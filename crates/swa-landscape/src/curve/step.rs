//! A step: the network at one point, its gradients, and those of the bends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::DeviceOps;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::train::{InferenceStep, LearnerModel, TrainOutput, TrainStep};
use swa_core::Weights;

use super::Curve;
use super::bends::gradients_of_bends;
use super::path::combined;
use crate::LandscapeError;
use crate::random::Random;

impl<M: LearnerModel> Curve<M> {
    /// A training step at `t`: the output of the network there, and the gradients of the bends. For a training loop of your own that
    /// draws `t` itself; [`TrainStep::step`] draws it.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] if the bends were changed so that their weights cannot be combined.
    pub fn step_at(
        &self,
        t: f64,
        batch: <M as TrainStep>::Input,
    ) -> Result<TrainOutput<<M as TrainStep>::Output>, LandscapeError> {
        Ok(self.step_of(self.point(t)?, t, batch))
    }

    fn step_of(
        &self,
        point: M,
        t: f64,
        batch: <M as TrainStep>::Input,
    ) -> TrainOutput<<M as TrainStep>::Output> {
        let point = point.train();
        let output = TrainStep::step(&point, batch);
        let coefficients = self.config.shape.coefficients(t, self.bends.len() + 2);
        let of_bends = &coefficients[1..=self.bends.len()];
        let weight_decay = self.config.weight_decay;
        TrainOutput {
            grads: gradients_of_bends(&self.bends, of_bends, &point, output.grads, weight_decay),
            item: output.item,
        }
    }

    /// The network at `t`, in validation mode. It shares nothing that changes with any other.
    fn point(&self, t: f64) -> Result<M, LandscapeError> {
        let bends = self.bends.iter().map(Weights::of);
        let bends = bends.collect::<Result<Vec<Weights>, _>>()?;
        let [start, end] = &self.ends;
        let points: Vec<&Weights> = [start].into_iter().chain(&bends).chain([end]).collect();
        Ok(combined(self.config.shape, t, &points)?.put_into(&self.skeleton)?)
    }

    /// The `t` of the next batch, from the seed, the step, the device's index and the batch within the step.
    fn next_t(&self) -> f64 {
        let device = self.device().as_dispatch().id().index_id;
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = batches.entry(device).or_default();
        let place = [self.steps.value as u64, device.into(), *batch];
        *batch += 1;
        Random::at(self.config.seed, &place).uniform()
    }

    /// Counts an optimizer step.
    fn after_step(mut self) -> Self {
        self.steps.value = self.steps.value.saturating_add(1);
        self.batches = Arc::new(Mutex::new(HashMap::new()));
        self
    }

    /// The network in the middle, ready for inference.
    fn validated(&self) -> &M {
        self.middle.get_or_init(|| {
            let middle = self.point(0.5).and_then(|middle| match &self.reestimate {
                Some(reestimate) => Ok(reestimate(&middle)?),
                None => Ok(middle),
            });
            middle.unwrap_or_else(|error| {
                self.fail(error);
                self.skeleton.valid()
            })
        })
    }
}

impl<M: LearnerModel> TrainStep for Curve<M> {
    type Input = <M as TrainStep>::Input;
    type Output = <M as TrainStep>::Output;

    fn step(&self, batch: Self::Input) -> TrainOutput<Self::Output> {
        let t = self.next_t();
        match self.point(t) {
            Ok(point) => self.step_of(point, t, batch),
            Err(error) => {
                // Burn's trait has no room for an error. Without gradients, the bends stay as they are.
                self.fail(error);
                let output = TrainStep::step(&self.skeleton.valid().train(), batch);
                TrainOutput {
                    grads: GradientsParams::new(),
                    item: output.item,
                }
            }
        }
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        optimizer.step(learning_rate, self, gradients).after_step()
    }

    fn optimize_multi(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        optimizer
            .step_multi(learning_rate, self, gradients)
            .after_step()
    }
}

/// Validation, with the network in the middle.
impl<M: LearnerModel> InferenceStep for Curve<M> {
    type Input = <M as InferenceStep>::Input;
    type Output = <M as InferenceStep>::Output;

    fn step(&self, item: Self::Input) -> Self::Output {
        InferenceStep::step(self.validated(), item)
    }
}
