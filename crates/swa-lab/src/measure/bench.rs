//! The speed of a device: training with and without averaging, as lines of JSON.

use serde::{Deserialize, Serialize};
use swa_models::NetworkConfig;

use super::costs::Costs;
use super::device_check::{device_name, positive};
use crate::Failure;
use crate::device;
use crate::output::note;
use crate::provenance::{BURN_VERSION, VERSION, machine};
use crate::run::config::ConfigError;

/// Times a device: training, averaging, BatchNorm and inference of the paper's networks, in a line of JSON each.
///
/// benches/pytorch_peer.py prints PyTorch's figures in the same fields, and --beside puts them next to ours. On the CPU the
/// defaults take a few minutes.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = "flex")]
    pub device: String,

    /// The networks, as in `cifar train` [default: the paper's on an accelerator, preresnet-20 and vgg16 on flex]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',')]
    pub models: Vec<NetworkConfig>,

    /// Makes the networks narrower: all widths are divided by N
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub width_divisor: usize,

    /// The numbers of images in a step [default: 128,512,1024 on an accelerator, 128 on flex]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = positive)]
    pub batch_sizes: Vec<usize>,

    /// The number of times that everything is timed, once the times have settled [default: 30 on an accelerator, 3 on flex]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rounds: Option<usize>,

    /// Take our figures from what an earlier call printed to FILE, and time nothing
    #[arg(long, value_name = "FILE")]
    pub from: Option<std::path::PathBuf>,

    /// Print a table beside the figures in FILE, with ratios
    #[arg(long, value_name = "FILE")]
    pub beside: Option<std::path::PathBuf>,
}

/// The figures of a network with batches of a size: medians. `fp32` and `tf32` name the arithmetic of convolutions and products;
/// what a program does not tell is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The network.
    pub model: String,
    /// The number of images in a step.
    pub batch: usize,
    /// The device, as it calls itself.
    #[serde(default)]
    pub device: String,
    /// The version of Burn, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn: Option<String>,
    /// The version of this program, if it measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cifar: Option<String>,
    /// The version of PyTorch, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch: Option<String>,
    /// The divisor of the network's widths, if it is not 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width_divisor: Option<usize>,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The figures themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Images a second of training: forward, backward, SGD with momentum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_fp32_images_per_s: Option<f64>,
    /// Milliseconds of such a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_fp32_ms: Option<f64>,
    /// Images a second of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_tf32_images_per_s: Option<f64>,
    /// Milliseconds of such a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_tf32_ms: Option<f64>,
    /// A step with SWA, which collects once an epoch of 50,000 images, divided by one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_with_swa_ratio: Option<f64>,
    /// A step with EMA, which averages at every one, divided by one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_with_ema_ratio: Option<f64>,
    /// Milliseconds of an update of SWA's average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_swa_ms: Option<f64>,
    /// Milliseconds of an update of an exponential average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_ema_ms: Option<f64>,
    /// The kernels that an update of SWA's average launches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_swa_launches: Option<f64>,
    /// Milliseconds of a batch of re-estimating BatchNorm; of PyTorch, of a forward pass in training mode, as `update_bn` makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_mode_forward_ms: Option<f64>,
    /// Milliseconds of a batch of inference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_ms: Option<f64>,
    /// Mebibytes on the device for training.
    #[serde(rename = "peak_MiB_fp32", skip_serializing_if = "Option::is_none")]
    pub peak_mib_fp32: Option<f64>,
    /// Mebibytes on the device for training.
    #[serde(rename = "peak_MiB_tf32", skip_serializing_if = "Option::is_none")]
    pub peak_mib_tf32: Option<f64>,
}

impl Measurement {
    /// The measurement as a line of JSON.
    pub fn line(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string(self)?)
    }
}

impl BenchArgs {
    /// The measurements that are to be made, network by network and batch size by batch size, without their figures.
    ///
    /// # Errors
    ///
    /// If there is no such network.
    pub fn planned(&self) -> Result<Vec<Measurement>, Failure> {
        let is_cpu = self.is_on_cpu();
        let named = |names: &[&str]| -> Result<Vec<NetworkConfig>, Failure> {
            let models = names.iter().map(|name| Ok(name.parse()?));
            models.collect()
        };
        let models = match (self.models.as_slice(), is_cpu) {
            ([], true) => named(&["preresnet-20", "vgg16"])?,
            ([], false) => named(&[
                "vgg16",
                "vgg16-bn",
                "preresnet-20",
                "preresnet-110",
                "preresnet-164",
                "wrn-28-10",
            ])?,
            (models, _) => models.to_vec(),
        };
        let batch_sizes = match (self.batch_sizes.as_slice(), is_cpu) {
            ([], true) => &[128][..],
            ([], false) => &[128, 512, 1024],
            (batch_sizes, _) => batch_sizes,
        };
        let planned = models.iter().flat_map(|model| {
            batch_sizes.iter().map(|batch| Measurement {
                model: model.name(),
                batch: *batch,
                width_divisor: Some(self.width_divisor).filter(|divisor| *divisor != 1),
                ..Measurement::default()
            })
        });
        Ok(planned.collect())
    }

    /// Times the device, and calls `each` with every measurement.
    ///
    /// # Errors
    ///
    /// If there is no such device or network, or averaging fails there.
    pub fn measure(
        &self,
        mut each: impl FnMut(Measurement) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let device = device::parse(&self.device)?;
        let is_cpu = self.is_on_cpu();
        let rounds = self.rounds.unwrap_or(if is_cpu { 3 } else { 30 });
        let name = if is_cpu {
            machine()
        } else {
            device_name(&self.device, &device)
        };
        let in_tf32 = device::multiplies_in_tf32(&self.device);
        for planned in self.planned()? {
            let Measurement { model, batch, .. } = &planned;
            note(format!(
                "{model}, batches of {batch}: timing {rounds} rounds ..."
            ));
            let network: NetworkConfig = model.parse()?;
            let network = network.with_width_divisor(self.width_divisor);
            let network = network.init(&device.clone().autodiff());
            let network = network.map_err(ConfigError::from)?;
            let costs = Costs::of(network, &device, *batch, rounds)?;
            each(Measurement {
                device: name.clone(),
                burn: Some(BURN_VERSION.to_owned()),
                cifar: Some(VERSION.to_owned()),
                figures: Figures::of(&costs, in_tf32),
                ..planned
            })?;
        }
        Ok(())
    }

    fn is_on_cpu(&self) -> bool {
        self.device == device::DEFAULT_DEVICE
    }
}

impl Figures {
    fn of(costs: &Costs, in_tf32: bool) -> Self {
        // Microseconds are all that is left of a number in milliseconds, and four digits of any.
        let rounded = |number: f64| (1e4 * number).round() / 1e4;
        let speed = Some(costs.images_per_second.round());
        let step = Some(rounded(costs.step.median));
        let mebibytes = |bytes: u64| (bytes as f64 / f64::from(1 << 20)).round();
        let memory = costs.training_bytes.map(mebibytes);
        let mut figures = Self {
            step_with_swa_ratio: Some(rounded(costs.swa.median)),
            step_with_ema_ratio: Some(rounded(costs.ema.median)),
            update_swa_ms: Some(rounded(costs.update.median)),
            update_ema_ms: Some(rounded(costs.ema_update.median)),
            update_swa_launches: costs.update_launches.map(|launches| launches as f64),
            train_mode_forward_ms: costs.reestimation.map(|it| rounded(it.median)),
            inference_ms: Some(rounded(costs.inference.median)),
            ..Self::default()
        };
        if in_tf32 {
            (figures.train_tf32_images_per_s, figures.step_tf32_ms) = (speed, step);
            figures.peak_mib_tf32 = memory;
        } else {
            (figures.train_fp32_images_per_s, figures.step_fp32_ms) = (speed, step);
            figures.peak_mib_fp32 = memory;
        }
        figures
    }
}
