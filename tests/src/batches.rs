//! Generated images and labels, like those of the reference vectors (`vectors/README.md` gives the formulas).

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_swa_test_support::random::{bits, uniform};
use swa_lab::data::ImageBatch;

/// `count` CIFAR-sized images of `stream`, `[count, 3, 32, 32]`, uniform in ±1.
pub fn images(stream: u64, count: usize, device: &Device) -> Tensor<4> {
    images_of_size(32, stream, count, device)
}

/// `count` images of `stream`, `[count, 3, size, size]`, uniform in ±1.
pub fn images_of_size(size: usize, stream: u64, count: usize, device: &Device) -> Tensor<4> {
    let shape = [count, 3, size, size];
    let values = uniform(stream, shape.iter().product(), 2.0, 0.0);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// `count` labels of `stream`, each below `classes`.
pub fn labels(stream: u64, count: usize, classes: u64, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = bits(stream, count)
        .map(|bits| (bits % classes) as i64)
        .collect();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Generated batches, always in the same order. The images of each are from one stream, and its labels from the next.
#[derive(Debug, Clone)]
pub struct Batches {
    /// The stream of the first batch's images. Every later batch is two streams further.
    pub stream: u64,
    /// The number of images of every batch.
    pub sizes: Vec<usize>,
    /// The number of classes of the labels.
    pub classes: usize,
    /// The device of the batches.
    pub device: Device,
}

impl DataLoader<ImageBatch> for Batches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        Box::new(BatchesIterator {
            batches: self,
            next: 0,
        })
    }

    fn num_items(&self) -> usize {
        self.sizes.iter().sum()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        Arc::new(Self {
            device: device.clone(),
            ..self.clone()
        })
    }

    /// All batches, for any range of items: nothing here trains on a part.
    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        Arc::new(self.clone())
    }
}

struct BatchesIterator<'a> {
    batches: &'a Batches,
    next: usize,
}

impl Iterator for BatchesIterator<'_> {
    type Item = Result<ImageBatch, DatasetError>;

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
        Some(Ok(ImageBatch {
            images: images(stream, size, device),
            labels: labels(stream + 1, size, *classes as u64, device),
        }))
    }
}

impl DataLoaderIterator<ImageBatch> for BatchesIterator<'_> {
    fn progress(&self) -> Progress {
        let done = self.batches.sizes[..self.next].iter().sum();
        Progress::new(done, self.batches.num_items(), None)
    }
}
