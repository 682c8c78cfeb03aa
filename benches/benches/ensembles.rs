//! The cost of what ensembles collect and predict, on flex.
//!
//! - A collection of SWAG against an update of a plain average, of VGG16 (15.2 million parameters). An update moves each parameter
//!   four times (reads it twice, reads and writes the average). SWAG then reads the weights, the mean and the variance, and writes the
//!   variance and one deviation: nine times in all. **Limit: 2.5 times as long**, as the memory of a deviation is read before it is
//!   written. It never moves all of its `rank + 2` copies, which would take at least 22 moves.
//! - A sample of SWAG, which reads each of these copies once, against a copy of as many f32 on one core. It also draws a normal number
//!   a weight.
//! - The evaluation of an ensemble against that of its members one by one: their forward passes, whose logits are read from
//!   the device. **Limit: 1.02 times as long.**

use std::hint::black_box;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_swa_benches::rounds;
use rand::SeedableRng;
use rand::rngs::StdRng;
use swa_core::{Average, Covariance, EnsembleConfig, EqualWeights, Logits, evaluate_ensemble};
use swa_lab::measure::{Spread, by_turns, seconds};
use swa_models::{PreResNet, PreResNetConfig, Vgg, VggConfig};

const RANK: usize = 20;
const FINITE: &str = "finite weights";
const NETWORK: &str = "a network of the paper";

fn main() {
    collect();
    evaluate();
}

fn collect() {
    let model: Vgg = VggConfig::new(16).init(&Device::flex()).expect(NETWORK);
    let count = model.num_params();
    let mut plain = Average::new(&model, EqualWeights).expect(FINITE);
    let mut swag = Average::new(&model, EqualWeights).expect(FINITE);
    swag = swag.with_deviations(RANK).expect("a rank of two or more");
    // The first updates take memory. From here on, each takes the place of another deviation.
    for _ in 0..=RANK {
        plain.update(&model).expect(FINITE);
        swag.update(&model).expect(FINITE);
    }
    let [update, collection] = by_turns(
        rounds(41),
        [
            &mut || seconds(|| plain.update(&model).expect(FINITE)),
            &mut || seconds(|| swag.update(&model).expect(FINITE)),
        ],
    );
    let (from, mut to) = (vec![0.5_f32; count], vec![0.0_f32; count]);
    let mut next = 0.0;
    let mut noise = || {
        next = 0.5 - next;
        next
    };
    let [copies, sample, drawn] = by_turns(
        rounds(5),
        [
            &mut || {
                seconds(|| {
                    for _ in 0..RANK + 2 {
                        to.copy_from_slice(black_box(&from));
                    }
                })
            },
            &mut || seconds(|| swag.sample_from(0.5, Covariance::Full, &mut noise)),
            &mut || {
                let mut rng = StdRng::seed_from_u64(7);
                seconds(|| swag.sample(0.5, Covariance::Full, &mut rng))
            },
        ],
    );
    let milliseconds = |seconds: &[f64]| 1e3 * Spread::of(seconds.iter().copied()).median;
    println!(
        "VGG16, {:.1} million parameters, rank {RANK}: an update {:.2} ms, a collection of SWAG {:.2} ms",
        count as f64 / 1e6,
        milliseconds(&update),
        milliseconds(&collection),
    );
    println!(
        "  {:.2} times an update, limit 2.5; {:.2} times a copy of all that SWAG holds",
        Spread::of_ratios(&collection, &update),
        milliseconds(&collection) / milliseconds(&copies),
    );
    println!(
        "  a sample {:.0} ms, of which the combination {:.0} ms: {:.2} times that copy",
        milliseconds(&drawn),
        milliseconds(&sample),
        Spread::of_ratios(&sample, &copies),
    );
}

fn evaluate() {
    const MEMBERS: usize = 3;
    let device = Device::flex();
    let network = || PreResNetConfig::new(20).init(&device).expect(NETWORK);
    let members: Vec<PreResNet> = (0..MEMBERS).map(|_| network()).collect();
    let batches: Vec<(Tensor<4>, Tensor<1, Int>)> = (0..4)
        .map(|_| {
            let images = Tensor::random([100, 3, 32, 32], Distribution::Default, &device);
            let labels = (0..100).map(|image| image % 10).collect::<Vec<i64>>();
            (images, Tensor::from_ints(labels.as_slice(), &device))
        })
        .collect();
    let forward = |model: &PreResNet, (images, labels): (Tensor<4>, Tensor<1, Int>)| {
        (model.forward(images), labels)
    };
    let [alone, together] = by_turns(
        rounds(11),
        [
            &mut || {
                seconds(|| {
                    for member in &members {
                        let logits = Logits::of(member, batches.clone(), forward);
                        black_box(logits.expect("finite logits"));
                    }
                })
            },
            &mut || {
                let config = EnsembleConfig::new();
                seconds(|| {
                    let report = evaluate_ensemble(
                        &config,
                        members.iter().cloned(),
                        || batches.clone(),
                        forward,
                    );
                    black_box(report.expect("finite logits"));
                })
            },
        ],
    );
    println!(
        "{MEMBERS} members PreResNet-20 on 400 images: {:.0} ms one by one, {:.0} ms as an ensemble",
        1e3 * Spread::of(alone.iter().copied()).median,
        1e3 * Spread::of(together.iter().copied()).median,
    );
    println!(
        "  {:.3} times, limit 1.02",
        Spread::of_ratios(&together, &alone)
    );
}
