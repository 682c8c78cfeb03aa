//! From images to tensors.

use std::sync::{Arc, LazyLock};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::augmentation::Augmentation;
use super::error::DataError;
use super::file_list::FileList;
use super::images::{CHANNELS, Content, IMAGE_BYTES, Images};
use super::normalization::{Normalization, write_planes};
use super::random::{Purpose, Stream};
use super::resize;
use super::resized_crop::Region;

/// Images and labels, as a network is trained on them.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// The images, normalised: `[batch, 3, side, side]`.
    pub images: Tensor<4>,
    /// The class of each image: `[batch]`.
    pub labels: Tensor<1, Int>,
}

/// The threads that images in files are decoded in: one for each core, for all loaders together.
static DECODERS: LazyLock<ThreadPool> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool.thread_name(|index| format!("decoder {index}"));
    pool.build().expect("the operating system has threads")
});

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

impl Variation {
    /// The numbers by which image `index` varies. They depend on nothing else.
    fn stream(&self, index: usize) -> Stream {
        Stream::new(self.purpose, self.seed, &[self.epoch, index])
    }
}

/// Makes the batches of one pass, on the host.
#[derive(Debug)]
pub(super) struct BatchMaker {
    /// The images to choose from.
    images: Arc<Images>,
    /// The indices of the pass's images, in its order.
    order: Vec<u32>,
    /// Images in a batch; the last one may have fewer.
    batch_size: usize,
    /// The variation of each image.
    variation: Variation,
    /// True if no batch may be empty.
    never_empty: bool,
    /// The value of each byte in each channel.
    table: [[f32; 256]; CHANNELS],
}

impl BatchMaker {
    /// With `never_empty`, a batch of which no image can be read has the next one that can, so that there are as many batches as a
    /// schedule counts.
    pub(super) fn new(
        images: Arc<Images>,
        order: Vec<u32>,
        batch_size: usize,
        variation: Variation,
        never_empty: bool,
    ) -> Self {
        let normalization = match images.content {
            Content::Decoded(_) => Normalization::CIFAR10,
            Content::Files(_) => Normalization::IMAGENET,
        };
        Self {
            images,
            order,
            batch_size,
            variation,
            never_empty,
            table: normalization.table(),
        }
    }

    /// The number of threads that make batches side by side.
    pub(super) fn threads(&self) -> usize {
        match self.images.content {
            Content::Decoded(_) => 1,
            // While the last images of a batch are decoded, there are decoders without work: they begin with the next.
            Content::Files(_) => 2,
        }
    }

    /// Batch number `batch` of the pass. Of images in files, those that cannot be read are left out, if so asked.
    pub(super) fn batch(&self, batch: usize) -> Result<HostBatch, DataError> {
        let start = batch * self.batch_size;
        let end = self.order.len().min(start + self.batch_size);
        match &self.images.content {
            Content::Decoded(_) => Ok(self.of_decoded(&self.order[start..end])),
            Content::Files(files) => {
                let batch = self.of_files(files, &self.order[start..end])?;
                if batch.len() == 0 && self.never_empty {
                    self.next_readable(files, end)
                } else {
                    Ok(batch)
                }
            }
        }
    }

    /// A batch of the next image in the order that can be read, from `place` on.
    fn next_readable(&self, files: &FileList, place: usize) -> Result<HostBatch, DataError> {
        let (before, after) = self.order.split_at(place);
        for index in after.iter().chain(before) {
            let batch = self.of_files(files, std::slice::from_ref(index))?;
            if batch.len() > 0 {
                return Ok(batch);
            }
        }
        Err(DataError::NoneReadable {
            images: self.order.len(),
        })
    }

    fn of_decoded(&self, order: &[u32]) -> HostBatch {
        let mut pixels = vec![0.0; order.len() * IMAGE_BYTES];
        for (&index, pixels) in order.iter().zip(pixels.chunks_exact_mut(IMAGE_BYTES)) {
            let index = index as usize;
            let mut stream = self.variation.stream(index);
            let placement = self.variation.augmentation.placement(&mut stream);
            placement.write(self.images.image(index), &self.table, pixels);
        }
        self.with_labels(pixels, order.iter())
    }

    fn of_files(&self, files: &FileList, order: &[u32]) -> Result<HostBatch, DataError> {
        let side = self.images.side();
        let values = CHANNELS * side * side;
        let mut pixels = vec![0.0; order.len() * values];
        let decoded: Vec<Result<(), DataError>> = DECODERS.install(|| {
            let outputs = pixels.par_chunks_exact_mut(values).with_max_len(1);
            let images = order.par_iter().zip(outputs);
            images
                .map(|(&index, pixels)| self.write_file(files, index as usize, pixels))
                .collect()
        });

        let mut readable = Vec::with_capacity(order.len());
        for (place, (&index, decoded)) in order.iter().zip(decoded).enumerate() {
            match decoded {
                Ok(()) => {
                    let source = place * values;
                    pixels.copy_within(source..source + values, readable.len() * values);
                    readable.push(index);
                }
                Err(error) => files.leave_out(index as usize, error)?,
            }
        }
        pixels.truncate(readable.len() * values);
        Ok(self.with_labels(pixels, readable.iter()))
    }

    /// Writes the view of an image in a file.
    fn write_file(
        &self,
        files: &FileList,
        index: usize,
        pixels: &mut [f32],
    ) -> Result<(), DataError> {
        let view = files.view();
        let image = files.decode(index)?;
        let (samples, flip) = if self.variation.augmentation == Augmentation::None {
            (resize::centre(&image, view), false)
        } else {
            let mut stream = self.variation.stream(index);
            let size = [image.width, image.height];
            let region = Region::random(size, view.least_scale, &mut stream);
            (resize::crop(&image, region, view), stream.coin())
        };
        write_planes(&samples, flip, view.side, &self.table, pixels);
        Ok(())
    }

    fn with_labels<'a>(
        &self,
        pixels: Vec<f32>,
        indices: impl Iterator<Item = &'a u32>,
    ) -> HostBatch {
        let label = |index: &u32| i32::from(self.images.label(*index as usize));
        HostBatch {
            pixels,
            labels: indices.map(label).collect(),
            side: self.images.side(),
        }
    }
}

/// A batch on its way to a device.
#[derive(Debug, PartialEq)]
pub(super) struct HostBatch {
    pixels: Vec<f32>,
    labels: Vec<i32>,
    side: usize,
}

impl HostBatch {
    /// The number of images.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Puts it on a device.
    pub(super) fn into_tensors(self, device: &Device) -> ImageBatch {
        let (items, side) = (self.len(), self.side);
        ImageBatch {
            images: Tensor::from_data(
                TensorData::new(self.pixels, [items, CHANNELS, side, side]),
                device,
            ),
            labels: Tensor::from_data(TensorData::new(self.labels, [items]), device),
        }
    }
}
