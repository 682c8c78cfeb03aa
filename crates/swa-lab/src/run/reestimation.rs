//! The passes over the training images that re-estimate BatchNorm: timed, and shown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::data::dataloader::{self, DataLoader, DataLoaderIterator};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use super::progress::Progress;
use crate::data::ImageBatch;

/// The time that passes took since it was last asked for.
#[derive(Debug, Clone, Default)]
pub struct PassTime(Arc<Mutex<Option<Duration>>>);

impl PassTime {
    /// The seconds since the last call, if there was a pass.
    pub fn take(&self) -> Option<f64> {
        let time = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        time.map(|time| time.as_secs_f64())
    }

    fn add(&self, time: Duration) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = Some(sum.unwrap_or_default() + time);
    }
}

/// A loader whose passes are timed, together with the work on their batches: from before the first
/// batch until the iterator is dropped and the device has done its work. They may be shown, too.
pub struct ReestimationLoader {
    loader: Arc<dyn DataLoader<ImageBatch>>,
    device: Device,
    time: PassTime,
    progress: Option<Progress>,
}

impl ReestimationLoader {
    /// `loader`, whose batches are on `device`.
    pub fn new(loader: impl DataLoader<ImageBatch> + 'static, device: &Device) -> Self {
        Self {
            loader: Arc::new(loader),
            device: device.clone(),
            time: PassTime::default(),
            progress: None,
        }
    }

    /// The same, of which `time` tells the time that its passes took.
    #[must_use]
    pub fn timed_by(self, time: &PassTime) -> Self {
        let time = time.clone();
        Self { time, ..self }
    }

    /// The same, whose passes `progress` shows.
    #[must_use]
    pub fn shown_in(self, progress: &Progress) -> Self {
        let progress = Some(progress.clone());
        Self { progress, ..self }
    }

    fn with(
        &self,
        loader: Arc<dyn DataLoader<ImageBatch>>,
        device: &Device,
    ) -> Arc<dyn DataLoader<ImageBatch>> {
        Arc::new(Self {
            loader,
            device: device.clone(),
            time: self.time.clone(),
            progress: self.progress.clone(),
        })
    }
}

impl DataLoader<ImageBatch> for ReestimationLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        let mut progress = self.progress.clone();
        if let Some(progress) = &mut progress {
            progress.begin("re-estimating BatchNorm", self.loader.num_items());
        }
        Box::new(Pass {
            began: Instant::now(),
            batches: self.loader.iter(),
            progress,
            loader: self,
        })
    }

    fn num_items(&self) -> usize {
        self.loader.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        self.with(self.loader.to_device(device), device)
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        self.with(self.loader.slice(start, end), &self.device)
    }
}

struct Pass<'a> {
    began: Instant,
    batches: Box<dyn DataLoaderIterator<ImageBatch> + 'a>,
    progress: Option<Progress>,
    loader: &'a ReestimationLoader,
}

impl Iterator for Pass<'_> {
    type Item = Result<ImageBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next();
        if let Some(progress) = &mut self.progress {
            progress.set(self.batches.progress().items_processed);
        }
        batch
    }
}

impl DataLoaderIterator<ImageBatch> for Pass<'_> {
    fn progress(&self) -> dataloader::Progress {
        self.batches.progress()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // An error shows where the results are read. Here it matters for the time only.
        let _ = self.loader.device.sync();
        self.loader.time.add(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Augmentation, EpochLoader, IMAGE_BYTES, Images};

    #[test]
    fn a_pass_is_timed_from_beginning_to_end_and_told_once() {
        let device = Device::flex();
        let images = Arc::new(Images::new(vec![0; 2 * IMAGE_BYTES], vec![0, 1]));
        let loader = EpochLoader::reestimation(images, 1, Augmentation::None, 1, &device).unwrap();
        let time = PassTime::default();
        let loader = ReestimationLoader::new(loader, &device).timed_by(&time);
        let loader = loader.to_device(&device);
        assert_eq!(time.take(), None);
        for _ in 0..2 {
            for batch in loader.iter() {
                batch.unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(time.take().is_some_and(|seconds| seconds >= 0.04));
        assert_eq!(time.take(), None);
    }
}
