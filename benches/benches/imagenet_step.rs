//! The memory and the time of a training step at ImageNet's size.
//!
//! Two SGD steps with momentum of ResNet-50 and of DenseNet-161 on flex, with batches of 8 images of 224x224. Each network is
//! trained in a process of its own. The peak is that of its resident memory (`VmHWM`), the time that of the second step.
//!
//! Beside the peak is the least that such a step keeps on any device, in f32:
//!
//! - three copies of the parameters: weights, gradients and momenta;
//! - for every image, three times the input of every BatchNorm: Burn 0.22.1 keeps what goes into the BatchNorm, into the ReLU
//!   after it, and into what comes after that. (The BatchNorm of a ResNet's `downsample` has no ReLU: once.)

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Tensor};
use burn_swa_benches::{output, print_peak, rounds};
use burn_swa_test_support::parameters::{elements, is_running_statistic, shapes};
use swa_models::{Network, NetworkConfig};

const BATCH_SIZE: usize = 8;
const SIDE: usize = 224;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [network_name, batch_size] = arguments.as_slice() {
        train(network(network_name), batch_size.parse().expect("a number"));
        print_peak();
        return;
    }
    let batch_size = rounds(BATCH_SIZE);
    for name in ["resnet50", "densenet161"] {
        let output = output(&[name, &batch_size.to_string()]);
        let mut lines = output.lines().map(|line| line.parse::<f64>());
        let mut next = || lines.next().expect("a line").expect("a number");
        let (seconds, peak) = (next(), next());
        let network = network(name);
        let kept = 3 * parameters(&network) + batch_size * kept_of_an_image(&network);
        println!(
            "{name}, batch of {batch_size}: {seconds:.1} s a step, peak {:.0} MB, at least {:.0} MB",
            peak / 1e6,
            (size_of::<f32>() * kept) as f64 / 1e6,
        );
    }
}

fn network(name: &str) -> Network {
    let config: NetworkConfig = name.parse().expect("a network of torchvision's");
    config
        .init(&Device::flex().autodiff())
        .expect("a depth of torchvision's")
}

/// Trains, and prints the seconds of the second step. The first makes the momenta.
fn train(mut network: Network, batch_size: usize) {
    let device = Device::flex().autodiff();
    let images = Tensor::<4>::random([batch_size, 3, SIDE, SIDE], Distribution::Default, &device);
    let labels = Tensor::arange(0..batch_size as i64, &device);
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let mut seconds = 0.0;
    for _ in 0..2 {
        let began = Instant::now();
        let logits = network.forward(images.clone());
        let loss = CrossEntropyLossConfig::new().init(&device);
        let gradients = loss.forward(logits, labels.clone()).backward();
        let gradients = GradientsParams::from_grads(gradients, &network);
        network = optimizer.step(0.01, network, gradients);
        seconds = began.elapsed().as_secs_f64();
    }
    println!("{seconds}");
}

/// The elements of all parameters.
fn parameters(network: &Network) -> usize {
    let shapes = shapes(network);
    let trained = shapes
        .iter()
        .filter(|(path, _)| !is_running_statistic(path));
    elements(trained)
}

/// The elements that BatchNorm, ReLU and the layer after it keep of one image.
fn kept_of_an_image(network: &Network) -> usize {
    let layers = shapes(network).into_iter().filter_map(|(path, shape)| {
        let layer = path.strip_suffix(".gamma")?;
        let side = side(layer);
        let times = if layer.contains(".downsample.") { 1 } else { 3 };
        Some(times * shape[0] * side * side)
    });
    layers.sum()
}

/// The height and width of a BatchNorm layer's input.
fn side(layer: &str) -> usize {
    let parts: Vec<&str> = layer.split('.').collect();
    let stage = |name: &str| {
        name.trim_start_matches(char::is_alphabetic)
            .parse::<usize>()
    };
    let after = |name: &str| SIDE >> (1 + stage(name).expect("a stage"));
    match parts.as_slice() {
        // The 3x3 convolution of a bottleneck block has the stride.
        [stage @ ("layer2" | "layer3" | "layer4"), "0", "bn1"] => 2 * after(stage),
        [stage, _, ..] if stage.starts_with("layer") => after(stage),
        ["features", block, _, ..] => after(block),
        ["features", "norm5"] => after("denseblock4"),
        _first => SIDE / 2,
    }
}
