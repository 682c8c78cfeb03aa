//! From images to tensors.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::augmentation::Augmentation;
use super::images::{CHANNELS, IMAGE_BYTES, Images, SIDE};
use super::random::Purpose;

/// Images and labels, as a network is trained on them.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// The images, normalised: `[batch, 3, 32, 32]`.
    pub images: Tensor<4>,
    /// The class of each image: `[batch]`.
    pub labels: Tensor<1, Int>,
}

/// The variation of each image of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variation {
    /// The kind of variation.
    pub(super) augmentation: Augmentation,
    /// The streams that it is drawn from.
    pub(super) purpose: Purpose,
    /// The seed of the run.
    pub(super) seed: u64,
    /// The epoch.
    pub(super) epoch: usize,
}

/// Makes the batches of one pass, on the host.
#[derive(Debug)]
pub(super) struct BatchMaker {
    /// The images to choose from.
    pub(super) images: Arc<Images>,
    /// The indices of the pass's images, in its order.
    pub(super) order: Vec<u32>,
    /// Images in a batch; the last one may have fewer.
    pub(super) batch_size: usize,
    /// The variation of each image.
    pub(super) variation: Variation,
    /// The value of each byte in each channel.
    pub(super) table: [[f32; 256]; CHANNELS],
}

impl BatchMaker {
    /// Batch number `batch` of the pass.
    pub(super) fn batch(&self, batch: usize) -> HostBatch {
        let start = batch * self.batch_size;
        let end = self.order.len().min(start + self.batch_size);
        let order = &self.order[start..end];
        let Variation {
            augmentation,
            purpose,
            seed,
            epoch,
        } = self.variation;

        let mut pixels = vec![0.0; order.len() * IMAGE_BYTES];
        let mut labels = Vec::with_capacity(order.len());
        for (&index, pixels) in order.iter().zip(pixels.chunks_exact_mut(IMAGE_BYTES)) {
            let index = index as usize;
            augmentation.placement(purpose, seed, epoch, index).write(
                self.images.image(index),
                &self.table,
                pixels,
            );
            labels.push(i32::from(self.images.label(index)));
        }
        HostBatch { pixels, labels }
    }
}

/// A batch on its way to a device.
#[derive(Debug, PartialEq)]
pub(super) struct HostBatch {
    pixels: Vec<f32>,
    labels: Vec<i32>,
}

impl HostBatch {
    /// The number of images.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Puts it on a device.
    pub(super) fn into_tensors(self, device: &Device) -> ImageBatch {
        let items = self.len();
        ImageBatch {
            images: Tensor::from_data(
                TensorData::new(self.pixels, [items, CHANNELS, SIDE, SIDE]),
                device,
            ),
            labels: Tensor::from_data(TensorData::new(self.labels, [items]), device),
        }
    }
}
