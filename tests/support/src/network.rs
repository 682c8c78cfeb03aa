//! A small network with a loss, for Burn's `Learner`.

use std::sync::{Arc, Mutex};

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

use crate::parameters::{Values, weights};
use crate::points::Batch;
use crate::random::uniform;

/// A classifier of points, with one hidden layer and BatchNorm, that keeps its weights after every step.
#[derive(Module, Debug)]
pub struct Net {
    input: Linear,
    norm: Option<BatchNorm>,
    output: Linear,
    /// The weights after every optimizer step.
    #[module(skip)]
    pub history: Arc<Mutex<Vec<Values>>>,
    #[module(skip)]
    diverges_at: Option<usize>,
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

impl Net {
    /// Always the same network, on the default device.
    pub fn new() -> Self {
        let device = Device::default().autodiff();
        let layer = |stream: u64, inputs: usize, outputs: usize| {
            let mut layer = LinearConfig::new(inputs, outputs).init(&device);
            let values = uniform(stream, inputs * outputs, 1.0, 0.0);
            let values = TensorData::new(values, [inputs, outputs]);
            layer.weight = Param::from_data(values, &device);
            layer.bias = Some(Param::from_data(vec![0.1f32; outputs].as_slice(), &device));
            layer
        };
        Self {
            input: layer(0, 2, 8),
            norm: Some(BatchNormConfig::new(8).init(&device)),
            output: layer(1, 8, 3),
            history: Arc::default(),
            diverges_at: None,
        }
    }

    /// The same without BatchNorm.
    pub fn without_batch_norm(mut self) -> Self {
        self.norm = None;
        self
    }

    /// The same, with weights that are NaN after optimizer step `step`.
    pub fn diverging_at(mut self, step: usize) -> Self {
        self.diverges_at = Some(step);
        self
    }

    /// Logits `[batch, 3]` of points `[batch, 2]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let hidden = self.input.forward(input);
        let hidden = match &self.norm {
            Some(norm) => norm.forward(hidden),
            None => hidden,
        };
        self.output.forward(burn::tensor::activation::relu(hidden))
    }

    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let output = self.forward(batch.input);
        let loss = CrossEntropyLossConfig::new()
            .init(&output.device())
            .forward(output.clone(), batch.targets.clone());
        ClassificationOutput::new(loss, output, batch.targets)
    }

    fn after_step(mut self) -> Self {
        let mut history = self.history.lock().unwrap();
        if self.diverges_at == Some(history.len() + 1) {
            self.input.weight = self.input.weight.map(|weight| {
                let weight = weight.inner().mul_scalar(f32::NAN);
                Tensor::from_inner(weight).require_grad()
            });
        }
        history.push(weights(&self));
        drop(history);
        self
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
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

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}
