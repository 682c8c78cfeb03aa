//! The time that passes over the images take.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

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
/// batch until the iterator is dropped and the device has done its work.
pub struct TimedLoader {
    loader: Arc<dyn DataLoader<ImageBatch>>,
    device: Device,
    time: PassTime,
}

impl TimedLoader {
    /// `loader`, whose batches are on `device`. `time` tells the time that its passes took.
    pub fn new(loader: Arc<dyn DataLoader<ImageBatch>>, device: &Device, time: PassTime) -> Self {
        Self {
            loader,
            device: device.clone(),
            time,
        }
    }
}

impl DataLoader<ImageBatch> for TimedLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        Box::new(TimedIterator {
            began: Instant::now(),
            batches: self.loader.iter(),
            device: self.device.clone(),
            time: self.time.clone(),
        })
    }

    fn num_items(&self) -> usize {
        self.loader.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        let loader = self.loader.to_device(device);
        Arc::new(Self::new(loader, device, self.time.clone()))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        let loader = self.loader.slice(start, end);
        Arc::new(Self::new(loader, &self.device, self.time.clone()))
    }
}

struct TimedIterator<'a> {
    began: Instant,
    batches: Box<dyn DataLoaderIterator<ImageBatch> + 'a>,
    device: Device,
    time: PassTime,
}

impl Iterator for TimedIterator<'_> {
    type Item = Result<ImageBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

impl DataLoaderIterator<ImageBatch> for TimedIterator<'_> {
    fn progress(&self) -> Progress {
        self.batches.progress()
    }
}

impl Drop for TimedIterator<'_> {
    fn drop(&mut self) {
        // An error shows where the results are read. Here it matters for the time only.
        let _ = self.device.sync();
        self.time.add(self.began.elapsed());
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
        let loader = TimedLoader::new(Arc::new(loader), &device, time.clone()).to_device(&device);
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
