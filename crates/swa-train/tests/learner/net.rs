//! A small classifier that remembers the weights it passes through, and its data.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use burn::data::dataloader::{
    DataLoader, DataLoaderBuilder, DataLoaderIterator, Progress, batcher::Batcher,
};
use burn::data::dataset::{DatasetError, InMemDataset};
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

/// Five batches, the last of them small.
pub(crate) const ITEMS: usize = 70;
pub(crate) const BATCH: usize = 16;

#[derive(Module, Debug)]
pub(crate) struct Net {
    input: Linear,
    norm: Option<BatchNorm>,
    output: Linear,
    /// The weights after every optimizer step.
    #[module(skip)]
    pub(crate) history: Arc<Mutex<Vec<Vec<f32>>>>,
    #[module(skip)]
    diverges_at: Option<usize>,
}

impl Net {
    /// Always the same network.
    pub(crate) fn new() -> Self {
        let device = Device::default().autodiff();
        let layer = |inputs: usize, outputs: usize| {
            let mut layer = LinearConfig::new(inputs, outputs).init(&device);
            let values: Vec<f32> = (0..inputs * outputs)
                .map(|index| ((index * 37 + 11) % 23) as f32 / 23.0 - 0.5)
                .collect();
            let values = TensorData::new(values, [inputs, outputs]);
            layer.weight = Param::from_data(values, &device);
            layer.bias = Some(Param::from_data(vec![0.1f32; outputs].as_slice(), &device));
            layer
        };
        Self {
            input: layer(2, 8),
            norm: Some(BatchNormConfig::new(8).init(&device)),
            output: layer(8, 3),
            history: Arc::default(),
            diverges_at: None,
        }
    }

    /// The same without BatchNorm.
    pub(crate) fn without_batch_norm(mut self) -> Self {
        self.norm = None;
        self
    }

    /// The same, whose weights are NaN after optimizer step `step`.
    pub(crate) fn diverging_at(mut self, step: usize) -> Self {
        self.diverges_at = Some(step);
        self
    }

    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
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

    pub(crate) fn running_statistics(&self) -> Vec<f32> {
        let norm = self.norm.as_ref().unwrap();
        let mean = norm.running_mean.value().into_data();
        let variance = norm.running_var.value().into_data();
        mean.iter::<f32>().chain(variance.iter::<f32>()).collect()
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

/// All weights of a module, in order, without running statistics.
pub(crate) fn weights<M: Module>(module: &M) -> Vec<f32> {
    #[derive(Default)]
    struct Weights(Vec<f32>, Vec<String>);
    impl ModuleVisitor for Weights {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.1.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !self.1.last().unwrap().starts_with("running_") {
                self.0.extend(param.val().into_data().iter::<f32>());
            }
        }
    }
    let mut weights = Weights::default();
    module.visit(&mut weights);
    weights.0
}

/// The paths of all parameters, as records spell them.
pub(crate) fn paths<M: Module>(module: &M) -> Vec<String> {
    #[derive(Default)]
    struct Paths(Vec<String>, Vec<String>);
    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.1.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
            self.0.push(self.1.join("."));
        }
        fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
            self.0.push(self.1.join("."));
        }
    }
    let mut paths = Paths::default();
    module.visit(&mut paths);
    paths.0
}

/// How many numbers the parameters of a module hold, running statistics included.
pub(crate) fn elements<M: Module>(module: &M) -> usize {
    struct Elements(usize);
    impl ModuleVisitor for Elements {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 += param.lazy_shape().num_elements();
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.0 += param.lazy_shape().num_elements();
        }
    }
    let mut elements = Elements(0);
    module.visit(&mut elements);
    elements.0
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

#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) input: Tensor<2>,
    pub(crate) targets: Tensor<1, Int>,
}

type Item = ([f32; 2], i64);

struct ToBatch;

impl Batcher<Item, Batch> for ToBatch {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        let input: Vec<f32> = items.iter().flat_map(|(input, _)| *input).collect();
        let targets: Vec<i64> = items.iter().map(|(_, target)| *target).collect();
        Batch {
            input: Tensor::from_data(TensorData::new(input, [items.len(), 2]), device),
            targets: Tensor::from_data(TensorData::new(targets, [items.len()]), device),
        }
    }
}

/// Points on a spiral, in three classes, in the same order every time.
pub(crate) fn loader() -> Arc<dyn DataLoader<Batch>> {
    loader_of(0..ITEMS, BATCH)
}

/// Some of these points, in this order, in batches of `batch_size`.
pub(crate) fn loader_of(
    points: impl IntoIterator<Item = usize>,
    batch_size: usize,
) -> Arc<dyn DataLoader<Batch>> {
    let item = |index: usize| {
        let t = index as f32 * 0.7;
        let target = (index % 3) as i64;
        ([t.cos() + target as f32, t.sin() * 3.0], target)
    };
    build(points.into_iter().map(item).collect(), batch_size)
}

/// A loader that counts how often it is passed over, and fails in one of these passes, counted from 1.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) passes: Arc<AtomicUsize>,
    fails_in: usize,
    loader: Arc<dyn DataLoader<Batch>>,
}

impl Watched {
    /// One that fails in pass `fails_in`, or never if that is 0.
    pub(crate) fn failing_in(fails_in: usize) -> Self {
        Self {
            passes: Arc::default(),
            fails_in,
            loader: loader(),
        }
    }
}

impl DataLoader<Batch> for Watched {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        match self.passes.fetch_add(1, Ordering::SeqCst) + 1 == self.fails_in {
            true => Box::new(Unreadable),
            false => self.loader.iter(),
        }
    }

    fn num_items(&self) -> usize {
        self.loader.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            loader: self.loader.to_device(device),
            ..self.clone()
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            loader: self.loader.slice(start, end),
            ..self.clone()
        })
    }
}

struct Unreadable;

impl Iterator for Unreadable {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(Err(DatasetError::new(io::Error::other("disk on fire"))))
    }
}

impl DataLoaderIterator<Batch> for Unreadable {
    fn progress(&self) -> Progress {
        Progress::new(0, ITEMS, None)
    }
}

/// A loader whose progress tells what is left, and so falls.
pub(crate) struct CountingDown(pub(crate) Arc<dyn DataLoader<Batch>>);

impl DataLoader<Batch> for CountingDown {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(Remaining(self.0.iter()))
    }

    fn num_items(&self) -> usize {
        self.0.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self(self.0.to_device(device)))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self(self.0.slice(start, end)))
    }
}

struct Remaining<'a>(Box<dyn DataLoaderIterator<Batch> + 'a>);

impl Iterator for Remaining<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl DataLoaderIterator<Batch> for Remaining<'_> {
    fn progress(&self) -> Progress {
        Progress::new(ITEMS - self.0.progress().items_processed, ITEMS, None)
    }
}

pub(crate) fn empty_loader() -> Arc<dyn DataLoader<Batch>> {
    loader_of([], BATCH)
}

fn build(items: Vec<Item>, batch_size: usize) -> Arc<dyn DataLoader<Batch>> {
    DataLoaderBuilder::new(ToBatch)
        .batch_size(batch_size)
        .build(InMemDataset::new(items))
}
