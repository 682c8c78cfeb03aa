//! The check of a device: whether averaging works there, and what it costs.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use swa_core::{Average, EqualWeights, ReestimationConfig, RuleConfig, reestimate_batch_norm};
use swa_models::{Network, NetworkConfig, PreResNet, PreResNetConfig};
use swa_train::{Collect, RunLength, Swa, SwaConfig};

use super::{LEARNING_RATE, Spread, Step, by_turns, images, learner, seconds, step, swa, wait};
use crate::Failure;
use crate::data::{EpochLoader, ImageBatch, Images};
use crate::device;
use crate::output::say;
use crate::provenance::peak_memory_bytes;
use crate::run::classifier::Classifier;

/// Checks a device: that averaging computes there what it computes on the CPU, and what it costs.
///
/// Takes seconds on a GPU. Ends with one line to paste into an issue.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = "flex")]
    pub device: String,

    /// The network that is timed, as in `cifar train`
    #[arg(long, value_name = "NAME", default_value = "preresnet-20")]
    pub model: NetworkConfig,

    /// Makes the network that is timed narrower: all widths are divided by N
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub width_divisor: usize,

    /// The number of images in a step that is timed
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    pub batch_size: usize,

    /// The number of times that everything is timed, after one untimed round
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = positive)]
    pub rounds: usize,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("there must be at least one".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// The device's name: what it was called, and what it calls itself.
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
pub fn device_name(text: &str, device: &Device) -> String {
    match device.identity() {
        Some(identity) => format!("{text} ({})", identity.name),
        None => text.to_owned(),
    }
}

/// The device's name.
#[cfg(not(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
)))]
pub fn device_name(text: &str, _device: &Device) -> String {
    text.to_owned()
}

/// The most memory that this process had on the host, and the memory that it holds on the device.
pub fn memory(device: &Device) -> String {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let host = match peak_memory_bytes() {
        Some(bytes) => format!("{} MiB at most in the host's memory", mebibytes(bytes)),
        None => "unknown in the host's memory".to_owned(),
    };
    match device.memory_pool_usage() {
        // Pools only grow: the memory reserved at the end is that of the peak.
        Some(usage) => format!(
            "{} MiB on the device, {host}",
            mebibytes(usage.bytes_reserved)
        ),
        None => host,
    }
}

/// The number of training steps. The weights after the second and all later ones are averaged.
pub const STEPS: usize = 4;

/// Relative deviations of averaged models.
pub struct Deviation {
    /// Of the weights.
    pub weights: f64,
    /// Of BatchNorm's statistics.
    pub statistics: f64,
}

impl Deviation {
    /// The larger of the two, neither of which is NaN.
    pub fn largest(&self) -> f64 {
        if self.weights >= self.statistics {
            self.weights
        } else {
            self.statistics
        }
    }
}

/// The deviations of a model averaged on `device` from the same model averaged on flex.
///
/// # Errors
///
/// If either cannot train.
pub fn deviation_from_flex(device: &Device) -> Result<Deviation, Failure> {
    let flex = device::parse("flex")?;
    flex.seed(1);
    let config = PreResNetConfig::new(8).with_width_divisor(4);
    let network = config.init(&flex)?.valid();
    let here = averaged(&network, device)?;
    let there = averaged(&network, &flex)?;
    Ok(Deviation {
        weights: relative_l2(&here.weights, &there.weights),
        statistics: relative_l2(&here.statistics, &there.statistics),
    })
}

/// `|here - there| / |there|`, both L2 norms; infinite if a value is not a number.
fn relative_l2(here: &[f64], there: &[f64]) -> f64 {
    let difference: f64 = here.iter().zip(there).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = there.iter().map(|b| b.powi(2)).sum();
    match (difference / size).sqrt() {
        ratio if ratio.is_nan() => f64::INFINITY,
        ratio => ratio,
    }
}

/// A model's floats.
#[derive(Default)]
struct Floats {
    weights: Vec<f64>,
    /// BatchNorm's running means and variances.
    statistics: Vec<f64>,
    is_statistic: bool,
}

impl ModuleVisitor for Floats {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.is_statistic = matches!(name, "running_mean" | "running_var");
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data();
        if self.is_statistic {
            self.statistics.extend(values.iter::<f64>())
        } else {
            self.weights.extend(values.iter::<f64>())
        }
    }
}

/// Trains `network` on `device` for a few steps, with SWA, and returns the averaged model, with its
/// BatchNorm re-estimated.
fn averaged(network: &PreResNet, device: &Device) -> Result<Floats, Failure> {
    const BATCH_SIZE: usize = 8;
    let images = images(STEPS * BATCH_SIZE);
    let run = RunLength::new(1, STEPS)?;
    let config = SwaConfig::new(Collect::from_step(2, &run)?);
    let network = network.valid().to_device(device).train();
    let swa = swa(network, config, &images, BATCH_SIZE, device)?;
    // A rate as at the beginning of a training, so that every weight moves.
    let mut learner = learner(swa, 0.1);
    for batch in batches(&images, BATCH_SIZE, device)? {
        step(&mut learner, &batch);
    }
    let swa: Swa<Classifier<PreResNet>> = learner.model();
    let mut floats = Floats::default();
    swa.into_averaged()?.visit(&mut floats);
    Ok(floats)
}

/// All batches, on the device with autodiff, as training takes them.
fn batches(
    images: &Arc<Images>,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<ImageBatch>, Failure> {
    let loader = EpochLoader::evaluation(images.clone(), batch_size, &device.clone().autodiff())?;
    let batches: Result<Vec<_>, _> = loader.iter().collect();
    Ok(batches?)
}

/// The number of batches in an epoch of CIFAR-10.
fn batches_per_epoch(args: &CheckArgs) -> usize {
    50_000_usize.div_ceil(args.batch_size)
}

/// The measured times in seconds, round by round.
pub struct Costs {
    bare: Vec<Step>,
    ema: Vec<Step>,
    collection: Vec<f64>,
    inference: Vec<f64>,
    reestimation: Vec<f64>,
}

/// Times a network on a device.
pub fn time(args: &CheckArgs, device: &Device, network: Network) -> Result<Costs, Failure> {
    /// Enough batches that the first, which is passed twice, hardly counts.
    const REESTIMATION_BATCHES: usize = 16;
    let images = images(args.batch_size);
    let batches = batches(&images, args.batch_size, device)?;
    let batch = batches.first().ok_or("no images")?;

    let run = RunLength::new(1, batches_per_epoch(args))?;
    let every_step = SwaConfig::new(Collect::from_step(1, &run)?)
        .with_rule(RuleConfig::Exponential { decay: 0.999 });
    // This model has its own parameters: a graph can be used for one backward pass only.
    let hooked = network.valid().train();
    let hooked = swa(hooked, every_step, &images, args.batch_size, device)?;
    let mut hooked = learner(hooked, LEARNING_RATE);
    let mut average = Average::new(&network, EqualWeights)?;
    for _ in 0..2 {
        average.update_non_blocking(&network)?;
    }
    let inference = network.valid();
    let plain = batch.images.clone().inner();
    let collected = network.clone();
    let mut bare = learner(Classifier::new(network, Arc::default()), LEARNING_RATE);

    let mut failure = None;
    let [bare, ema, collection, inference, reestimation] = by_turns(
        args.rounds,
        [
            &mut || step(&mut bare, batch),
            &mut || step(&mut hooked, batch),
            &mut || {
                only(seconds(|| {
                    if let Err(error) = average.update_non_blocking(&collected) {
                        failure = Some(Failure::from(error));
                    }
                    wait(device);
                }))
            },
            &mut || {
                only(seconds(|| {
                    for _ in 0..REESTIMATION_BATCHES {
                        inference.forward(plain.clone());
                    }
                    wait(device);
                }))
            },
            &mut || {
                only(seconds(|| {
                    let config = ReestimationConfig::new();
                    let batches = std::iter::repeat_n(batch.images.clone(), REESTIMATION_BATCHES);
                    let reestimated =
                        reestimate_batch_norm(&inference, &config, batches, |model, images| {
                            model.forward(images);
                            args.batch_size
                        });
                    wait(device);
                    reestimated.map(|_| ())
                }))
            },
        ],
    );
    average.check()?;
    if let Some(error) = failure {
        return Err(error);
    }
    if let Some(error) = hooked.model().failure() {
        return Err(error.into());
    }
    let totals = |steps: Vec<Step>| steps.iter().map(Step::total).collect();
    Ok(Costs {
        bare,
        ema,
        collection: totals(collection),
        inference: totals(inference),
        reestimation: totals(reestimation),
    })
}

/// A time that has no parts.
fn only(seconds: f64) -> Step {
    Step {
        backward: seconds,
        optimizer: 0.0,
    }
}

impl Costs {
    /// The time of a step with SWA, which collects once an epoch, divided by that of a bare step.
    fn swa(&self, args: &CheckArgs) -> Spread {
        let share = 1.0 / batches_per_epoch(args) as f64;
        let rounds = self.bare.iter().zip(&self.collection);
        Spread::of(rounds.map(|(bare, collection)| 1.0 + share * collection / bare.total()))
    }

    fn ema(&self) -> Spread {
        let rounds = self.bare.iter().zip(&self.ema);
        Spread::of(rounds.map(|(bare, ema)| ema.total() / bare.total()))
    }

    fn reestimation(&self) -> Spread {
        Spread::of_ratios(&self.reestimation, &self.inference)
    }

    fn images_per_second(&self, args: &CheckArgs) -> Spread {
        let rates = self
            .bare
            .iter()
            .map(|bare| args.batch_size as f64 / bare.total());
        Spread::of(rates)
    }

    /// Prints the medians.
    pub fn print(&self, args: &CheckArgs) {
        let milliseconds =
            |seconds: &mut dyn Iterator<Item = f64>| Spread::of(seconds.map(|it| 1e3 * it));
        say(format!(
            "\n{}, steps of {} images; medians of {} rounds, and quartiles",
            args.model.name(),
            args.batch_size,
            args.rounds
        ));
        let lines = [
            (
                "a step without the hook",
                format!(
                    "{:.1} ms, {:.0} images/s",
                    milliseconds(&mut self.bare.iter().map(Step::total)),
                    self.images_per_second(args).median
                ),
            ),
            (
                "with SWA, once an epoch",
                format!("{:.4} times", self.swa(args)),
            ),
            (
                "with EMA, at every step",
                format!("{:.3} times", self.ema()),
            ),
            (
                "an update of the average",
                format!(
                    "{:.2} ms",
                    milliseconds(&mut self.collection.iter().copied())
                ),
            ),
            (
                "re-estimating BatchNorm",
                format!("{:.2} times inference", self.reestimation()),
            ),
        ];
        for (name, value) in lines {
            say(format!("  {name:<24}  {value}"));
        }
    }

    /// The medians in a line.
    pub fn in_short(&self, args: &CheckArgs) -> String {
        format!(
            "{:.0} images/s, SWA {:.4}, EMA {:.3}, BatchNorm {:.2}",
            self.images_per_second(args).median,
            self.swa(args).median,
            self.ema().median,
            self.reestimation().median,
        )
    }
}
