//! The check of a device: whether averaging works there, and what it costs.

use std::sync::Arc;

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::Device;
use swa_core::{Average, EqualWeights, ReestimationConfig, Role, Weights, reestimate_batch_norm};
use swa_models::{NetworkConfig, PreResNet, PreResNetConfig};
use swa_train::{Collect, RunLength, Swa, SwaConfig};

use super::costs::batches;
use super::{Costs, images, learner, step, swa};
use crate::Failure;
use crate::data::Images;
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

    /// The number of times that everything is timed, once the times have settled
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = positive)]
    pub rounds: usize,
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("there must be at least one".to_owned()),
        number => number.map_err(|error| error.to_string()),
    }
}

/// The device's name: what it was called, and what it calls itself.
pub fn device_name(text: &str, device: &Device) -> String {
    // Burn (0.22.1) asks for it only where a backend of CubeCL is compiled.
    #[cfg(feature = "cubecl")]
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
const BATCH_SIZE: usize = 8;
/// The height and width of the images' corners that a BatchNorm is re-estimated from alone.
const PATCH: usize = 8;

/// Relative deviations of averaged models.
#[derive(Debug, Clone, Copy)]
pub struct Deviation {
    /// Of the weights.
    pub weights: f64,
    /// Of BatchNorm's statistics.
    pub statistics: f64,
}

impl Deviation {
    /// The largest that averages may have from those of flex, from the same weights and inputs: devices add in different orders.
    pub const OF_AVERAGING: f64 = 1e-6;

    /// The larger of the two, neither of which is NaN.
    pub fn largest(&self) -> f64 {
        self.weights.max(self.statistics)
    }
}

/// The arithmetic of a device's convolutions and products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arithmetic {
    /// Its name.
    pub name: &'static str,
    /// The largest deviation from flex that a few steps of training may have with it.
    pub allowed: f64,
}

impl Arithmetic {
    /// The arithmetic of the device that `--device` names.
    pub fn of(name: &str) -> Self {
        if device::multiplies_in_tf32(name) {
            // Factors of eleven bits, which are rounded to 5e-4.
            Self {
                name: "TF32 on tensor cores",
                allowed: 5e-3,
            }
        } else {
            // Some devices round a product's factors a little.
            Self {
                name: "f32",
                allowed: 1e-4,
            }
        }
    }
}

/// The deviations of averages on `device` from those on flex, of the same weights, and of the statistics of a BatchNorm of the same
/// inputs. Nothing is trained there, and no convolution is before it.
///
/// # Errors
///
/// If either cannot average.
pub fn averaging_from_flex(device: &Device) -> Result<Deviation, Failure> {
    let flex = device::parse("flex")?;
    let images = images(STEPS * BATCH_SIZE);
    let mut trained = Vec::new();
    train(&network(&flex)?, &images, &flex, |network| {
        trained.push(network.valid());
    })?;
    let average = |device: &Device| -> Result<Weights, Failure> {
        let on_device = trained
            .iter()
            .map(|network| network.clone().to_device(device));
        let on_device: Vec<_> = on_device.collect();
        let first = on_device.first().ok_or("no step was made")?;
        let mut average = Average::new(first, EqualWeights)?;
        for network in &on_device {
            average.update(network)?;
        }
        Ok(Weights::of(&average.model()?)?)
    };
    let statistics = |device: &Device| -> Result<Weights, Failure> {
        let norm: BatchNorm = BatchNormConfig::new(3).init(device);
        let batches = batches(&images, BATCH_SIZE, device)?;
        // Few values, since a long sum in f32 depends on the order, which is the device's own.
        let batches = batches.into_iter().map(|batch| {
            let rows = batch.images.narrow(2, 0, PATCH);
            rows.narrow(3, 0, PATCH)
        });
        let config = ReestimationConfig::new();
        let (norm, _) = reestimate_batch_norm(&norm, &config, batches, |norm, images| {
            norm.forward(images);
            BATCH_SIZE
        })?;
        Ok(Weights::of(&norm)?)
    };
    Ok(Deviation {
        weights: deviation(&average(device)?, &average(&flex)?, Role::Weight),
        statistics: deviation(
            &statistics(device)?,
            &statistics(&flex)?,
            Role::RunningStatistic,
        ),
    })
}

/// The deviations of a model trained and averaged on `device` from the same model on flex, with BatchNorm re-estimated through the
/// network.
///
/// # Errors
///
/// If either cannot train.
pub fn training_from_flex(device: &Device) -> Result<Deviation, Failure> {
    let flex = device::parse("flex")?;
    let images = images(STEPS * BATCH_SIZE);
    let network = network(&flex)?;
    let averaged = |device: &Device| -> Result<Weights, Failure> {
        let swa = train(&network, &images, device, |_| {})?;
        Ok(Weights::of(&swa.averaged_model()?)?)
    };
    let (here, there) = (averaged(device)?, averaged(&flex)?);
    Ok(Deviation {
        weights: deviation(&here, &there, Role::Weight),
        statistics: deviation(&here, &there, Role::RunningStatistic),
    })
}

/// A small network, on flex. It is the same each time.
fn network(flex: &Device) -> Result<PreResNet, Failure> {
    flex.seed(1);
    let config = PreResNetConfig::new(8).with_width_divisor(4);
    Ok(config.init(flex)?.valid())
}

/// The relative deviation of the parameters with a role.
fn deviation(here: &Weights, there: &Weights, role: Role) -> f64 {
    relative_l2(&values(here, role), &values(there, role))
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

/// Trains `network` on `device` for a few steps, with SWA. `each` is called with the network after every step.
fn train(
    network: &PreResNet,
    images: &Arc<Images>,
    device: &Device,
    mut each: impl FnMut(&PreResNet),
) -> Result<Swa<Classifier<PreResNet>>, Failure> {
    let run = RunLength::new(1, STEPS)?;
    let config = SwaConfig::new(Collect::from_step(2, &run)?);
    let network = network.valid().to_device(device).train();
    let swa = swa(network, config, images, BATCH_SIZE, device)?;
    // A rate as at the beginning of a training, so that every weight moves.
    let mut learner = learner(swa, 0.1);
    for batch in batches(images, BATCH_SIZE, device)? {
        step(&mut learner, &batch);
        each(&learner.model().live().clone().into_network());
    }
    Ok(learner.model())
}

impl Costs {
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
        let launches = self.update_launches;
        let launches = launches.map_or_else(String::new, |count| format!(", {count} launches"));
        say(format!(
            "  an update of the average  {:.2} ms{launches}",
            self.update
        ));
        if let Some(ratio) = self.reestimation_ratio {
            say(format!(
                "  re-estimating BatchNorm   {ratio:.2} times inference"
            ));
        }
    }

    /// The medians in a line.
    pub fn in_short(&self) -> String {
        let ratio = self.reestimation_ratio;
        let batch_norm =
            ratio.map_or_else(String::new, |it| format!(", BatchNorm {:.2}", it.median));
        format!(
            "{:.0} images/s, SWA {:.4}, EMA {:.3}{batch_norm}",
            self.images_per_second, self.swa.median, self.ema.median,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_relative_and_a_nan_infinite() {
        // |(3, 4)| = 5, and the difference is (0, 0.5).
        assert_eq!(relative_l2(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(relative_l2(&[f64::NAN], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn averages_of_the_weights_that_training_passes_are_the_same() {
        let flex = device::parse("flex").unwrap();
        let averaging = averaging_from_flex(&flex).unwrap();
        let training = training_from_flex(&flex).unwrap();
        assert_eq!([averaging.largest(), training.largest()], [0.0; 2]);

        // The weights move from step to step, so that an average is none of them.
        let images = images(STEPS * BATCH_SIZE);
        let mut passed = Vec::new();
        let swa = train(&network(&flex).unwrap(), &images, &flex, |network| {
            passed.push(Weights::of(network).unwrap());
        });
        assert_eq!(passed.len(), STEPS);
        let averaged = Weights::of(&swa.unwrap().averaged_model().unwrap()).unwrap();
        for weights in &passed {
            let deviation = deviation(&averaged, weights, Role::Weight);
            assert!(deviation > 100.0 * Deviation::OF_AVERAGING, "{deviation}");
        }
    }

    #[test]
    fn cuda_alone_multiplies_in_tf32() {
        for name in ["flex", "wgpu", "vulkan:1", "metal", "rocm"] {
            assert_eq!(Arithmetic::of(name).allowed, 1e-4, "{name}");
        }
        for name in ["cuda", "cuda:1"] {
            assert_eq!(Arithmetic::of(name).allowed, 5e-3, "{name}");
        }
    }
}
