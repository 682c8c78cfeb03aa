//! A network as Burn's `Learner` trains it.

use std::sync::{Arc, Mutex, PoisonError};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

use crate::generator;
use crate::network::Network;

/// A network with the mean cross-entropy as its loss, which it remembers of every training step.
#[derive(Module, Debug)]
pub struct Classifier<N: Network> {
    /// The network.
    pub network: N,
    #[module(skip)]
    losses: Arc<Mutex<Vec<f64>>>,
}

impl<N: Network> Classifier<N> {
    /// A classifier that has made no step.
    pub fn new(network: N) -> Self {
        Self {
            network,
            losses: Arc::default(),
        }
    }

    /// The losses of the training steps so far.
    pub fn losses(&self) -> Vec<f64> {
        let losses = self.losses.lock();
        losses.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let logits = self.network.logits(batch.images);
        let cross_entropy = CrossEntropyLossConfig::new().init(&logits.device());
        let loss = cross_entropy.forward(logits.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, logits, batch.labels)
    }
}

impl<N: Network> TrainStep for Classifier<N> {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        let loss = output.loss.clone().into_scalar::<f64>();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.push(loss);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl<N: Network> InferenceStep for Classifier<N> {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}

/// Images `[batch, 3, 32, 32]` and labels `[batch]`.
#[derive(Debug, Clone)]
pub struct Batch {
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

/// Generated batches, always in the same order: the images of each are of one stream, its labels of the next.
#[derive(Debug, Clone)]
pub struct Batches {
    /// The stream of the first batch's images. Every later batch is two streams further.
    pub stream: u64,
    /// The number of images of every batch.
    pub sizes: Vec<usize>,
    /// How many classes the labels are of.
    pub classes: usize,
    /// The device that they are made on.
    pub device: Device,
}

impl DataLoader<Batch> for Batches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(BatchesIterator {
            batches: self,
            next: 0,
        })
    }

    fn num_items(&self) -> usize {
        self.sizes.iter().sum()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            device: device.clone(),
            ..self.clone()
        })
    }

    /// Whole batches, however many items are asked for: nothing here trains on a part.
    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone())
    }
}

struct BatchesIterator<'a> {
    batches: &'a Batches,
    next: usize,
}

impl Iterator for BatchesIterator<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Batches {
            stream,
            sizes,
            classes,
            device,
        } = self.batches;
        let size = *sizes.get(self.next)?;
        let stream = stream + 2 * self.next as u64;
        self.next += 1;
        Some(Ok(Batch {
            images: generator::images(stream, size, device),
            labels: generator::labels(stream + 1, size, *classes as u64, device),
        }))
    }
}

impl DataLoaderIterator<Batch> for BatchesIterator<'_> {
    fn progress(&self) -> Progress {
        let done = self.batches.sizes[..self.next].iter().sum();
        Progress::new(done, self.batches.num_items(), None)
    }
}
