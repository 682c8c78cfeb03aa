//! What an update of an average costs.
//!
//! [`Average::update`] on VGG16 (15.2 million parameters, 61 MB) on flex, against copying the same
//! number of f32 once. **Limit: 3 times as long.**
//!
//! The copy of the ratio is the fastest there is: on all cores, into memory that was written before,
//! so that no page has to be mapped. Beside it, for information:
//!
//! - a copy on one core, which is how flex runs such operations (Burn 0.22.1), and a copy into newly
//!   allocated memory;
//! - the least that an update can cost, `average += w * (current - average)` in a plain loop on all
//!   cores: it moves each parameter three times (reads the average, reads the weights, writes the
//!   average), at the machine's memory bandwidth.
//!
//! Then Divan's table: updates of other networks, whose many small parameters cost more by their number
//! than by their size.

use std::hint::black_box;
use std::thread::{available_parallelism, scope};

use burn::module::Module;
use burn::tensor::Device;
use burn_swa_benches::{Spread, by_turns, rounds, seconds};
use divan::Bencher;
use swa_core::{Average, EqualWeights};
use swa_models::{PreResNet, PreResNetConfig, Vgg, VggConfig};

const ROUNDS: usize = 41;
const FINITE: &str = "finite weights";

fn main() {
    ratios();
    divan::main();
}

fn ratios() {
    let model = vgg16();
    let count = model.num_params();
    let mut average = average_of(&model);
    // Memory of its own for every case, as the update's is: what another has just read is in a cache.
    let values = || vec![0.5_f32; count];
    let (mut copy, copied) = (values(), values());
    let (mut copy_one_core, copied_one_core) = (values(), values());
    let copied_anew = values();
    let (mut plain, current) = (values(), values());

    let [update, copy, copy_one_core, copy_anew, plain] = by_turns(
        rounds(ROUNDS),
        [
            &mut || seconds(|| average.update(&model).expect(FINITE)),
            &mut || {
                seconds(|| {
                    on_all_cores(&mut copy, &copied, |copy, current| {
                        copy.copy_from_slice(black_box(current));
                    });
                })
            },
            &mut || seconds(|| copy_one_core.copy_from_slice(black_box(&copied_one_core))),
            &mut || seconds(|| black_box(&copied_anew).clone()),
            &mut || {
                seconds(|| {
                    on_all_cores(&mut plain, &current, |average, current| {
                        for (average, current) in average.iter_mut().zip(current) {
                            *average += 0.1 * (current - *average);
                        }
                    });
                })
            },
        ],
    );

    let milliseconds = |seconds: &[f64]| Spread::of(seconds.iter().map(|it| 1e3 * it)).median;
    let line = |name: &str, limit: &str, to: &[f64]| {
        println!(
            "Average::update {:.1} ms, {name} {:.1} ms: {:.2} times{limit}",
            milliseconds(&update),
            milliseconds(to),
            Spread::of_ratios(&update, to),
        );
    };
    line("a copy", ", limit 3", &copy);
    line("a copy on one core", "", &copy_one_core);
    line("a copy into new memory, on one core", "", &copy_anew);
    line("three passes at memory bandwidth", "", &plain);
    let gigabytes = (3 * size_of::<f32>() * count) as f64 / 1e9;
    let bandwidth = Spread::of(plain.iter().map(|seconds| gigabytes / seconds));
    println!("memory bandwidth {bandwidth:.1} GB/s\n");
}

/// Does `work` on equal parts of two slices, one a core.
fn on_all_cores(to: &mut [f32], from: &[f32], work: fn(&mut [f32], &[f32])) {
    let cores = available_parallelism().map_or(1, usize::from);
    let part = to.len().div_ceil(cores);
    scope(|scope| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(move || work(to, from));
        }
    });
}

/// An average past its first two updates, of which one shares the model's memory and the next takes its
/// own.
fn average_of<M: Module>(model: &M) -> Average<M> {
    let mut average = Average::new(model, EqualWeights).expect("a model that can be averaged");
    for _ in 0..2 {
        average.update(model).expect(FINITE);
    }
    average
}

fn vgg16() -> Vgg {
    let network = VggConfig::new(16).init(&Device::flex().autodiff());
    network.expect("a network of the paper")
}

fn preresnet(depth: usize) -> PreResNet {
    let network = PreResNetConfig::new(depth).init(&Device::flex().autodiff());
    network.expect("a network of the paper")
}

fn update<M: Module>(bencher: Bencher, model: &M) {
    let mut average = average_of(model);
    bencher.bench_local(|| average.update(model).expect(FINITE));
}

#[divan::bench]
fn update_vgg16(bencher: Bencher) {
    update(bencher, &vgg16());
}

#[divan::bench(args = [20, 110, 164])]
fn update_preresnet(bencher: Bencher, depth: usize) {
    update(bencher, &preresnet(depth));
}
