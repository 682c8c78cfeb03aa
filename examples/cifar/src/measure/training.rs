//! The training whose cost is measured: the paper's, on noise.

use std::sync::Arc;

use burn::optim::{LearningRate, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig};
use burn::tensor::Device;
use burn::train::{Learner, LearnerModel};
use cifar::architecture::Network;
use cifar::classifier::Classifier;
use cifar::data::{Augmentation, EpochLoader, IMAGE_BYTES, Images};
use swa_train::{Swa, SwaConfig};

/// Low, so that training on noise for a while keeps its weights finite.
const LEARNING_RATE: LearningRate = 1e-3;

/// A `Learner` with the paper's optimizer: SGD with momentum and weight decay.
pub fn learner<M: LearnerModel>(model: M) -> Learner<M> {
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let optimizer = SgdConfig::new()
        .with_momentum(Some(momentum))
        .with_weight_decay(Some(WeightDecayConfig::new(3e-4)))
        .init();
    Learner::new(model, optimizer, LEARNING_RATE)
}

/// `network` with its loss, in [`Swa`], its BatchNorm re-estimated from `images` in batches.
pub fn swa<N: Network>(
    network: N,
    config: SwaConfig,
    images: &Arc<Images>,
    batch_size: usize,
) -> Swa<Classifier<N>> {
    let images = images.clone();
    let device = Device::flex();
    let loader = EpochLoader::reestimation(images, batch_size, Augmentation::None, 0, &device);
    config
        .init(
            Classifier::new(network, Arc::default()),
            Arc::new(loader.expect("some images")),
        )
        .expect("a network that can be averaged")
}

/// So many images of noise, of ten classes.
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
