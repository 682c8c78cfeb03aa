//! The cost of an update of an average.
//!
//! [`Average::update`] on flex, in the same process and in turn with
//!
//! - the least that an update can cost, `average += w * (current - average)` in a plain loop on all cores: it moves each
//!   parameter three times (reads the average, reads the weights, writes the average), at the machine's memory bandwidth.
//!   **Limit: 1.5 times as long**;
//! - those three and a fourth, which reads the weights: an update takes all parameters or none, so all are checked for a NaN
//!   or an infinity before the first is averaged. If memory is read at the same speed there, the fourth takes half as long as
//!   the three, so that the limit of 1.5 is almost out of reach. In this ratio, everything above 1 is the library's own cost.
//!   **Limit: 1.2 times as long**;
//! - the fastest copy of as many f32: on all cores, into memory that was written before, so that no page has to be mapped.
//!   **Limit: 3 times as long.**
//!
//! First for VGG16 (15.2 million parameters, 61 MB), then for stacks of eight square linear layers from 100 thousand to
//! 200 million parameters, which shows whether the cost of a parameter stays the same.
//!
//! The speed of memory depends on its place: on one virtual machine, memory that was allocated first was slower by a third than
//! memory that was allocated later. So the baselines run over memory from before the model and over memory from after it, and
//! count as the mean of both.
//!
//! Then several averages of VGG16 in one pass ([`Average::update_all_from`]), in turn with as many passes, one for each average, and
//! with the least that it can cost: a plain loop that reads the weights once, and reads and writes `K` averages. By the bytes, one
//! pass moves each parameter `2 K + 2` times, with the check, and `K` passes move it `4 K` times. **Limit: 1.5 times the plain loop.**
//!
//! If `SWA_PYTHON` names a Python with PyTorch, the time of PyTorch's update follows. That update checks nothing
//! (`benches/average_update.py`).
//!
//! Then Divan's table: updates of other networks. They have many small parameters, whose number costs more
//! than their size.

use std::ffi::OsStr;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{available_parallelism, scope};

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use burn_swa_benches::rounds;
use burn_swa_test_support::parameters::shapes;
use divan::Bencher;
use swa_core::{Average, EqualWeights};
use swa_lab::measure::{Spread, by_turns, seconds};
use swa_models::{PreResNet, PreResNetConfig, Vgg, VggConfig};

const ROUNDS: usize = 41;
const FINITE: &str = "finite weights";

fn main() {
    compare("VGG16", vgg16, ROUNDS);
    compare("PreResNet-110", || preresnet(110), 10 * ROUNDS);
    for parameters in [100_000, 1_000_000, 10_000_000, 50_000_000, 200_000_000] {
        // Few rounds for large models, and many for those that finish before a second core has woken up.
        let rounds = (2_000_000_000 / parameters).clamp(7, 301);
        compare("linear layers", || linear_layers(parameters), rounds);
    }
    for averages in [1, 2, 4] {
        compare_several(averages);
    }
    println!();
    divan::main();
}

/// Two vectors of a baseline's own, like the update's: memory that another has just read would be in a cache.
struct Memory([Vec<f32>; 2]);

impl Memory {
    /// The memory of three baselines.
    fn of(count: usize) -> [Self; 3] {
        [(); 3].map(|()| Self([(); 2].map(|()| vec![0.5; count])))
    }

    fn copy(&mut self) -> f64 {
        let [to, from] = &mut self.0;
        seconds(|| on_all_cores(to, from, |to, from| to.copy_from_slice(black_box(from))))
    }

    fn three_passes(&mut self) -> f64 {
        let [average, current] = &mut self.0;
        seconds(|| on_all_cores(average, current, step))
    }

    fn four_passes(&mut self) -> f64 {
        let [average, current] = &mut self.0;
        seconds(|| {
            on_all_cores(average, current, |_, current| {
                black_box(all_bits(current));
            });
            on_all_cores(average, current, step);
        })
    }
}

fn compare<M: Module>(name: &str, model: impl Fn() -> M, most_rounds: usize) {
    let count = model().num_params();
    let rounds = rounds(most_rounds);
    let [mut copied, mut passed, mut checked] = Memory::of(count);
    let model = model();
    let mut average = average_of(&model);
    let [mut copied_after, mut passed_after, mut checked_after] = Memory::of(count);

    let [update, copy, plain, checked] = by_turns(
        rounds,
        [
            &mut || seconds(|| average.update(&model).expect(FINITE)),
            &mut || f64::midpoint(copied.copy(), copied_after.copy()),
            &mut || f64::midpoint(passed.three_passes(), passed_after.three_passes()),
            &mut || f64::midpoint(checked.four_passes(), checked_after.four_passes()),
        ],
    );

    let median = |seconds: &[f64]| Spread::of(seconds.iter().copied()).median;
    let gigabytes = (3 * size_of::<f32>() * count) as f64 / 1e9;
    println!(
        "{name}, {:.1} million parameters: an update {:.2} ms, {:.2} ns a parameter",
        count as f64 / 1e6,
        1e3 * median(&update),
        1e9 * median(&update) / count as f64,
    );
    println!(
        "  {:.2} times the three passes at {:.1} GB/s, limit 1.5; {:.2} times all four, limit 1.2; {:.2} times a copy, limit 3",
        Spread::of_ratios(&update, &plain),
        gigabytes / median(&plain),
        Spread::of_ratios(&update, &checked),
        Spread::of_ratios(&update, &copy),
    );
    if let Some(python) = std::env::var_os("SWA_PYTHON") {
        // In turn with the others, as above, so that the caches hold as much.
        let [update] = by_turns(
            rounds,
            [&mut || seconds(|| average.update(&model).expect(FINITE))],
        );
        let pytorch = pytorch(&python, &model, rounds);
        println!(
            "  alone, {:.2} ms; PyTorch {} on {} threads, without a check, {:.2} ms: {:.2} times",
            1e3 * median(&update),
            pytorch.version,
            pytorch.threads,
            pytorch.milliseconds,
            1e3 * median(&update) / pytorch.milliseconds,
        );
    }
}

/// Compares averages of VGG16 in one pass with a pass for each, and with the least that one pass can cost.
fn compare_several(averages: usize) {
    let model = vgg16();
    let count = model.num_params();
    let [mut together, mut apart] = [(); 2].map(|()| {
        let all = (0..averages).map(|_| average_of(&model));
        all.collect::<Vec<Average<Vgg>>>()
    });
    let mut plain = vec![vec![0.5; count]; averages];
    let current = vec![0.5; count];

    let [together, apart, plain] = by_turns(
        rounds(ROUNDS),
        [
            &mut || {
                seconds(|| {
                    let weights = together[0].read(&model).expect(FINITE);
                    let mut all: Vec<&mut Average<Vgg>> = together.iter_mut().collect();
                    Average::update_all_from(&mut all, weights).expect(FINITE);
                })
            },
            &mut || {
                seconds(|| {
                    let weights = apart[0].read(&model).expect(FINITE);
                    for average in &mut apart {
                        average.update_from(weights.clone()).expect(FINITE);
                    }
                })
            },
            &mut || seconds(|| step_all(&mut plain, &current)),
        ],
    );

    let median = |seconds: &[f64]| Spread::of(seconds.iter().copied()).median;
    let gigabytes = ((2 * averages + 1) * size_of::<f32>() * count) as f64 / 1e9;
    println!(
        "VGG16, {averages} averages: {:.2} ms in one pass, {:.2} ms apart",
        1e3 * median(&together),
        1e3 * median(&apart),
    );
    println!(
        "  {:.2} times as long as apart; {:.2} times {} passes at {:.1} GB/s, limit 1.5",
        Spread::of_ratios(&together, &apart),
        Spread::of_ratios(&together, &plain),
        2 * averages + 1,
        gigabytes / median(&plain),
    );
}

/// Averages `current` into all, on all cores: it is read from memory once, and from a cache after that.
fn step_all(averages: &mut [Vec<f32>], current: &[f32]) {
    const BLOCK: usize = 1 << 13;
    let cores = available_parallelism().map_or(1, usize::from);
    let part = current.len().div_ceil(cores);
    scope(|scope| {
        let mut averages: Vec<_> = averages.iter_mut().map(|it| it.chunks_mut(part)).collect();
        for current in current.chunks(part) {
            let parts = averages.iter_mut().filter_map(Iterator::next);
            let mut parts: Vec<_> = parts.map(|it| it.chunks_mut(BLOCK)).collect();
            scope.spawn(move || {
                for current in current.chunks(BLOCK) {
                    for average in parts.iter_mut().filter_map(Iterator::next) {
                        step(average, current);
                    }
                }
            });
        }
    });
}

/// PyTorch's report of its own update.
struct PyTorch {
    version: String,
    threads: String,
    milliseconds: f64,
}

fn pytorch(python: &OsStr, model: &impl Module, rounds: usize) -> PyTorch {
    let shapes: Vec<_> = shapes(model).into_iter().map(|(_, shape)| shape).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("average_update.py");
    let mut process = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a Python at SWA_PYTHON");
    let input = format!("[{shapes:?}, {rounds}]");
    let mut stdin = process.stdin.take().expect("a pipe");
    stdin
        .write_all(input.as_bytes())
        .expect("a process that reads");
    drop(stdin);
    let output = process.wait_with_output().expect("an output");
    assert!(output.status.success(), "PyTorch at SWA_PYTHON failed");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = output.split_whitespace().map(str::to_owned);
    let mut next = || words.next().expect("version, threads and milliseconds");
    PyTorch {
        version: next(),
        threads: next(),
        milliseconds: next().parse().expect("milliseconds"),
    }
}

fn step(average: &mut [f32], current: &[f32]) {
    for (average, current) in average.iter_mut().zip(current) {
        *average += 0.1 * (current - *average);
    }
}

/// Reads all values, and does as little with them as a check can.
fn all_bits(values: &[f32]) -> u32 {
    values.iter().fold(0, |bits, value| bits | value.to_bits())
}

/// Eight square linear layers, with about this number of parameters.
fn linear_layers(parameters: usize) -> Vec<Linear> {
    let width = (parameters as f64 / 8.0).sqrt() as usize;
    let layer = || LinearConfig::new(width, width).init(&Device::flex());
    (0..8).map(|_| layer()).collect()
}

/// Does `work` on equal parts of two slices, one per core, or on one core if the slices are short.
fn on_all_cores(to: &mut [f32], from: &[f32], work: fn(&mut [f32], &[f32])) {
    let cores = available_parallelism().map_or(1, usize::from);
    // Below this size, starting a thread takes longer than the work.
    let part = to.len().div_ceil(cores).max(1 << 18);
    if part >= to.len() {
        return work(to, from);
    }
    scope(|scope| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(move || work(to, from));
        }
    });
}

/// An average after its first two updates. The first shares the model's memory, and the second takes its
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
