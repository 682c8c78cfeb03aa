//! The training whose cost is measured: the paper's, on noise.

use std::sync::Arc;
use std::time::Instant;

use burn::optim::LearningRate;
use burn::tensor::Device;
use burn::train::{Learner, LearnerModel, TrainStep};
use swa_train::{Swa, SwaConfig};

use crate::Failure;
use crate::data::{Augmentation, EpochLoader, IMAGE_BYTES, ImageBatch, Images};
use crate::measure::seconds;
use crate::run::classifier::{Classifier, ImageNetwork};
use crate::run::config::SgdSettings;

/// Low, so that training on noise for a while keeps its weights finite.
pub const LEARNING_RATE: LearningRate = 1e-3;

/// A `Learner` with the paper's optimizer: SGD with momentum and weight decay.
pub fn learner<M: LearnerModel>(model: M, learning_rate: LearningRate) -> Learner<M> {
    let sgd = SgdSettings {
        batch_size: 128,
        lr: learning_rate,
        momentum: 0.9,
        weight_decay: 3e-4,
    };
    Learner::new(model, sgd.optimizer(), learning_rate)
}

/// `network` with its loss, in [`Swa`]. Its BatchNorm is re-estimated from `images`, in batches on
/// `device`.
///
/// # Errors
///
/// If there are no images, or the network cannot be averaged.
pub fn swa<N: ImageNetwork>(
    network: N,
    config: SwaConfig,
    images: &Arc<Images>,
    batch_size: usize,
    device: &Device,
) -> Result<Swa<Classifier<N>>, Failure> {
    let images = images.clone();
    let loader = EpochLoader::reestimation(images, batch_size, Augmentation::None, 0, device)?;
    let classifier = Classifier::new(network, Arc::default());
    Ok(config.init(classifier, Arc::new(loader))?)
}

/// The times of the parts of a step, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Forward and backward.
    pub backward: f64,
    /// The optimizer, and the hook after it.
    pub optimizer: f64,
}

impl Step {
    /// The time of the whole step.
    pub fn total(&self) -> f64 {
        self.backward + self.optimizer
    }
}

/// Makes a training step as `Learner` does, and waits for each part.
pub fn step<M>(learner: &mut Learner<M>, batch: &ImageBatch) -> Step
where
    M: LearnerModel + TrainStep<Input = ImageBatch>,
{
    let device = batch.images.device();
    let began = Instant::now();
    let output = learner.train_step(batch.clone());
    wait(&device);
    let backward = began.elapsed().as_secs_f64();
    let optimizer = seconds_on(&device, || {
        learner.lr_step();
        learner.optimizer_step(output.grads);
    });
    Step {
        backward,
        optimizer,
    }
}

/// Returns the time that `work` takes on a device, in seconds of wall-clock time.
pub(super) fn seconds_on(device: &Device, work: impl FnOnce()) -> f64 {
    seconds(|| {
        work();
        wait(device);
    })
}

/// Waits until a device has done its work. An error shows when something is read from the device.
fn wait(device: &Device) {
    let _ = device.sync();
}

/// Returns `count` images of noise, of ten classes.
pub fn images(count: usize) -> Arc<Images> {
    // A linear congruential generator (Knuth's MMIX), of which the high bits are good enough.
    let mut state = 1_u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let pixels = (0..count * IMAGE_BYTES).map(|_| byte()).collect();
    let labels = (0..count).map(|_| byte() % 10).collect();
    Arc::new(Images::new(pixels, labels))
}
