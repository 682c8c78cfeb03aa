//! The cost of evaluating a plane, on flex.
//!
//! - Each point of a grid against a re-estimation of BatchNorm and a score of a network that is there, both over two batches of 32
//!   images. **Limit: 1.05 times as long**, for all points of a plane as for the few here. What a point adds is the combination of three
//!   vectors, and a copy of the module without its weights: timed alone too, since the passes of data vary more than that.
//!   It does not depend on the number of images: the 61 MB of VGG16-BN are beyond the limit on two batches, and about 1 % of an
//!   evaluation on a thousand images.
//! - The memory of a plane through three networks of VGG16 with BatchNorm, made and evaluated at some points, each with batches of 8
//!   images, against one such network that is re-estimated and scored. Each is a process of its own, and its peak that of its resident memory
//!   (`VmHWM`). **Limit: 4 f32 copies of the parameters more.** The plane itself is three, and the network at a point is the one that
//!   the other process has too.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use burn_swa_benches::{peak_megabytes, print_peak, rounds};
use swa_core::{ReestimationConfig, Weights, reestimate_batch_norm};
use swa_lab::measure::{Spread, by_turns, seconds};
use swa_lab::run::classifier::ImageNetwork;
use swa_landscape::{Evaluation, Grid, GridConfig, Plane, Points};
use swa_models::{PreResNetConfig, Vgg, VggConfig};

const ROUNDS: usize = 12;
const NETWORK: &str = "a network of the paper";
const BATCHES: usize = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [points] = arguments.as_slice()
        && ["one", "plane"].contains(&points.as_str())
    {
        if points == "one" {
            one();
        } else {
            plane();
        }
        print_peak();
        return;
    }
    let device = Device::flex();
    let preresnet = || PreResNetConfig::new(20).init(&device).expect(NETWORK);
    time("PreResNet-20", preresnet);
    time("VGG16-BN", vgg);
    memory();
}

fn vgg() -> Vgg {
    let config = VggConfig::new(16).with_batch_norm(true);
    config.init(&Device::flex()).expect(NETWORK)
}

fn images(batch_size: usize) -> Vec<Tensor<4>> {
    let shape = [batch_size, 3, 32, 32];
    let distribution = Distribution::Normal(0.0, 1.0);
    let images = || Tensor::random(shape, distribution, &Device::flex());
    (0..BATCHES).map(|_| images()).collect()
}

fn score<N: ImageNetwork>(network: &N, batches: &[Tensor<4>]) -> [f64; 1] {
    let logits = batches.iter().map(|images| network.logits(images.clone()));
    [logits.map(|logits| logits.sum().into_scalar::<f64>()).sum()]
}

fn forward<N: ImageNetwork>(network: &N, images: Tensor<4>) -> usize {
    let samples = images.dims()[0];
    network.logits(images.autodiff());
    samples
}

fn time<N: ImageNetwork + 'static>(name: &str, network: impl Fn() -> N) {
    let (model, batches) = (network(), images(32));
    let grid = grid(&model, network);
    let config = ReestimationConfig::new();
    let mut evaluation =
        Evaluation::new(&model, &config, || batches.clone(), forward).expect("layers of f32");
    let mut next = 0;
    let corners = grid.coordinates();
    let [alone, on_plane, making] = by_turns(
        rounds(ROUNDS),
        [
            &mut || {
                seconds(|| {
                    let (model, _) =
                        reestimate_batch_norm(&model, &config, batches.clone(), forward)
                            .expect("statistics");
                    score(&model, &batches)
                })
            },
            &mut || {
                // One point a round.
                next = (next + 1) % 4;
                let known = |index| (index != next).then_some([0.0]);
                seconds(|| {
                    let score = |model: &N| score(model, &batches);
                    let scores = evaluation.scores(&grid, known, score);
                    scores.collect::<Result<Vec<_>, _>>().expect("scores")
                })
            },
            &mut || {
                seconds(|| {
                    let weights = grid.weights(corners[3]).expect("a point");
                    weights.put_into(&model).expect("the same network")
                })
            },
        ],
    );
    println!(
        "{name}: an evaluation {:.0} ms, a point of a plane {:.3} times as long, limit 1.05; making its network {:.4} times",
        1e3 * Spread::of(alone.iter().copied()).median,
        Spread::of_ratios(&on_plane, &alone),
        Spread::of_ratios(&making, &alone),
    );
}

/// The four corners of a plane through a network and two others.
fn grid<N: Module>(model: &N, network: impl Fn() -> N) -> Grid {
    let other = || of(&network());
    let plane = Plane::through(of(model), other(), other()).expect("a plane");
    GridConfig::new()
        .with_points(2)
        .init(plane)
        .expect("a grid")
}

fn of(model: &impl Module) -> Weights {
    Weights::of(model).expect("plain parameters")
}

fn one() {
    let (model, batches) = (vgg(), images(8));
    for _ in 0..4 {
        let config = ReestimationConfig::new();
        let (model, _) =
            reestimate_batch_norm(&model, &config, batches.clone(), forward).expect("statistics");
        score(&model, &batches);
    }
}

fn plane() {
    let (model, batches) = (vgg(), images(8));
    let grid = grid(&model, vgg);
    let config = ReestimationConfig::new();
    let mut evaluation =
        Evaluation::new(&model, &config, || batches.clone(), forward).expect("layers of f32");
    let scores = evaluation.scores(&grid, |_| None, |model: &Vgg| score(model, &batches));
    assert_eq!(scores.filter(Result::is_ok).count(), 4);
}

fn memory() {
    let copy = (size_of::<f32>() * vgg().num_params()) as f64 / 1e6;
    let [one, plane] = by_turns(
        rounds(3),
        [&mut || peak_megabytes(&["one"]), &mut || {
            peak_megabytes(&["plane"])
        }],
    );
    let more = one
        .iter()
        .zip(&plane)
        .map(|(one, plane)| (plane - one) / copy);
    println!(
        "VGG16-BN: a network {:.0} MB, a plane through three {:.0} MB: {:.2} copies of the parameters ({copy:.0} MB) more, limit 4",
        Spread::of(one.iter().copied()).median,
        Spread::of(plane.iter().copied()).median,
        Spread::of(more),
    );
}
