//! The cost of re-estimating BatchNorm.
//!
//! The averaged model passes batches of 128 images through its BatchNorm layers in training mode, which computes each
//! layer's mean and variance, and pools these, on flex. **Limit: 1.15 times the inference pass over the same batches.**
//!
//! The parts: a pass in training mode alone, and the pooling. In training mode, BatchNorm reads each activation once more than
//! at inference, where it is a scale and a shift. That is Burn's own layer, and explains everything above the limit. The first
//! batch is passed twice, to measure the layers' momenta. That is a quarter of a per cent of an epoch's 391 batches, and not in
//! the ratio.

use burn::tensor::{Device, Tensor};
use burn_swa_benches::rounds;
use swa_core::{ReestimationConfig, reestimate_batch_norm};
use swa_lab::measure::{Spread, by_turns, seconds};
use swa_lab::run::classifier::ImageNetwork;
use swa_models::{PreResNetConfig, VggConfig};

const ROUNDS: usize = 7;
const BATCH_SIZE: usize = 128;

fn main() {
    let device = Device::flex();
    let preresnet = PreResNetConfig::new(20).init(&device);
    split(
        "PreResNet-20",
        &preresnet.expect("a network of the paper"),
        2,
    );
    let vgg = VggConfig::new(16).with_batch_norm(true).init(&device);
    split("VGG16-BN", &vgg.expect("a network of the paper"), 1);
}

/// Times each with this number of batches.
fn split<N: ImageNetwork>(name: &str, network: &N, batches: usize) {
    let device = Device::flex();
    let shape = [BATCH_SIZE, 3, 32, 32];
    let images = Tensor::<4>::random(shape, burn::tensor::Distribution::Normal(0.0, 1.0), &device);
    let on_autodiff = images.clone().autodiff();
    // Of the networks here, only VGG has dropout in the timed part, of 512 values per image.
    let training = network.valid().train().no_grad();
    let config = ReestimationConfig::new();
    let reestimate = |batches: usize| {
        let batches = std::iter::repeat_n(on_autodiff.clone(), batches);
        reestimate_batch_norm(network, &config, batches, |network, images| {
            network.logits(images);
            BATCH_SIZE
        })
        .expect("statistics")
    };
    let [inference, training, reestimation] = by_turns(
        rounds(ROUNDS),
        [
            &mut || {
                seconds(|| {
                    for _ in 0..batches {
                        network.logits(images.clone());
                    }
                })
            },
            &mut || {
                seconds(|| {
                    for _ in 0..batches {
                        training.logits(on_autodiff.clone());
                    }
                })
            },
            // Without the first batch, which is passed twice.
            &mut || seconds(|| reestimate(batches + 1)) - seconds(|| reestimate(1)),
        ],
    );
    let milliseconds = Spread::of(inference.iter().map(|it| 1e3 * it / batches as f64));
    println!("{name}, a batch of {BATCH_SIZE} images: inference {milliseconds:.0} ms");
    println!(
        "  re-estimating BatchNorm: {:.3} times, limit 1.15",
        Spread::of_ratios(&reestimation, &inference)
    );
    println!(
        "  of which the pass in training mode: {:.3} times",
        Spread::of_ratios(&training, &inference)
    );
}
