//! The check of a device: whether averaging works there, and what it costs.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::tensor::Device;
use swa_core::{
    Average, EqualWeights, ReestimationConfig, Role, RuleConfig, Weights, reestimate_batch_norm,
};
use swa_models::{Network, NetworkConfig, PreResNet, PreResNetConfig};
use swa_train::{Collect, RunLength, Swa, SwaConfig};

use super::{LEARNING_RATE, Spread, by_turns, images, learner, seconds_on, step, swa};
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
    match text.parse::<usize>() {
        Ok(0) => Err("there must be at least one".to_owned()),
        number => number.map_err(|error| error.to_string()),
    }
}

/// The device's name: what it was called, and what it calls itself.
pub fn device_name(text: &str, device: &Device) -> String {
    // Burn (0.22.1) asks for it only where a backend of CubeCL is compiled.
    #[cfg(any(
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "cuda",
        feature = "rocm"
    ))]
    if let Some(identity) = device.identity() {
        return format!("{text} ({})", identity.name);
    }
    let _ = device;
    text.to_owned()
}

/// The most memory that this process had on the host, and the memory that it holds on the device.
pub fn memory(device: &Device) -> String {
    let mebibytes = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let host = match peak_memory_bytes() {
        Some(bytes) => mebibytes(bytes) + " at most in the host's memory",
        None => "unknown in the host's memory".to_owned(),
    };
    match device.memory_pool_usage() {
        // Pools only grow: the memory reserved at the end is that of the peak.
        Some(usage) => mebibytes(usage.bytes_reserved) + " on the device, " + &host,
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
        self.weights.max(self.statistics)
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
    let deviation = |role| relative_l2(&values(&here, role), &values(&there, role));
    Ok(Deviation {
        weights: deviation(Role::Weight),
        statistics: deviation(Role::RunningStatistic),
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

/// All values of the parameters with a role.
fn values(weights: &Weights, role: Role) -> Vec<f64> {
    let parameters = weights.layout().parameters().iter();
    let parameters = parameters.filter(|parameter| parameter.role == role);
    let tensors = parameters.filter_map(|parameter| weights.parameter(&parameter.path));
    let data = tensors.map(|tensor| tensor.into_data());
    data.flat_map(|data| data.iter().collect::<Vec<f64>>())
        .collect()
}

/// Trains `network` on `device` for a few steps, with SWA, and returns the weights of the averaged
/// model, with its BatchNorm re-estimated.
fn averaged(network: &PreResNet, device: &Device) -> Result<Weights, Failure> {
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
    Ok(Weights::of(&swa.averaged_model()?)?)
}

/// All batches, on the device with autodiff, as training takes them.
fn batches(
    images: &Arc<Images>,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<ImageBatch>, Failure> {
    let loader = EpochLoader::evaluation(images.clone(), batch_size, &device.clone().autodiff())?;
    Ok(loader.iter().collect::<Result<_, _>>()?)
}

/// The costs of averaging with a network on a device.
pub struct Costs {
    /// The images a second of steps without the hook: the median.
    images_per_second: f64,
    /// Such a step, in milliseconds.
    step: Spread,
    /// The time of a step with SWA, which collects once an epoch, divided by that of a bare step.
    swa: Spread,
    /// The same of EMA, which averages at every step.
    ema: Spread,
    /// An update of the average, in milliseconds.
    update: Spread,
    /// The time of re-estimating BatchNorm, divided by that of inference.
    reestimation: Spread,
}

impl Costs {
    /// Times a network on a device.
    ///
    /// # Errors
    ///
    /// If it cannot be averaged there.
    pub fn of(args: &CheckArgs, device: &Device, network: Network) -> Result<Self, Failure> {
        /// Enough batches that the first, which is passed twice, hardly counts.
        const REESTIMATION_BATCHES: usize = 16;
        let images = images(args.batch_size);
        let batches = batches(&images, args.batch_size, device)?;
        let batch = batches.first().ok_or("no images")?;

        // Of CIFAR-10.
        let batches_per_epoch = 50_000_usize.div_ceil(args.batch_size);
        let run = RunLength::new(1, batches_per_epoch)?;
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
        let mut update = || {
            let updated = average.update_non_blocking(&collected);
            failure = updated.err().or(failure.take());
        };
        let infer = || {
            for _ in 0..REESTIMATION_BATCHES {
                inference.forward(plain.clone());
            }
        };
        let reestimate = || {
            let batches = std::iter::repeat_n(batch.images.clone(), REESTIMATION_BATCHES);
            let config = ReestimationConfig::new();
            let count = |model: &Network, images| {
                model.forward(images);
                args.batch_size
            };
            drop(reestimate_batch_norm(&inference, &config, batches, count));
        };
        let [bare, ema, collection, inference, reestimation] = by_turns(
            args.rounds,
            [
                &mut || step(&mut bare, batch).total(),
                &mut || step(&mut hooked, batch).total(),
                &mut || seconds_on(device, &mut update),
                &mut || seconds_on(device, infer),
                &mut || seconds_on(device, reestimate),
            ],
        );
        average.check()?;
        failure.map_or(Ok(()), Err)?;
        hooked.model().failure().map_or(Ok(()), Err)?;
        let milliseconds = |times: &[f64]| Spread::of(times.iter().map(|it| 1e3 * it));
        let share = 1.0 / batches_per_epoch as f64;
        let rounds = bare.iter().zip(&collection);
        Ok(Self {
            images_per_second: Spread::of(bare.iter().map(|it| args.batch_size as f64 / it)).median,
            step: milliseconds(&bare),
            swa: Spread::of(rounds.map(|(bare, collection)| 1.0 + share * collection / bare)),
            ema: Spread::of_ratios(&ema, &bare),
            update: milliseconds(&collection),
            reestimation: Spread::of_ratios(&reestimation, &inference),
        })
    }

    /// Prints them.
    pub fn print(&self, args: &CheckArgs) {
        let (name, images, rounds) = (args.model.name(), args.batch_size, args.rounds);
        say(format!(
            "\n{name}, steps of {images} images; medians of {rounds} rounds, and quartiles"
        ));
        let (step, rate) = (self.step, self.images_per_second);
        say(format!(
            "  a step without the hook   {step:.1} ms, {rate:.0} images/s"
        ));
        say(format!("  with SWA, once an epoch   {:.4} times", self.swa));
        say(format!("  with EMA, at every step   {:.3} times", self.ema));
        say(format!("  an update of the average  {:.2} ms", self.update));
        let reestimation = self.reestimation;
        say(format!(
            "  re-estimating BatchNorm   {reestimation:.2} times inference"
        ));
    }

    /// The medians in a line.
    pub fn in_short(&self) -> String {
        format!(
            "{:.0} images/s, SWA {:.4}, EMA {:.3}, BatchNorm {:.2}",
            self.images_per_second, self.swa.median, self.ema.median, self.reestimation.median,
        )
    }
}
