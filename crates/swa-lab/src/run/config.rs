//! The settings of a run: everything that its result depends on.
//!
//! Each setting is said once: its field is its key in `config.json`, its argument, and its help; the
//! range that it must lie in stands below its struct, and its value in the paper in
//! [`RunConfig::paper`]. What is given on the command line is put on top of these: see
//! [`GivenSettings`](super::given::GivenSettings).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig, decay::WeightDecayConfig};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swa_models::{ModelError, Network, NetworkConfig};
use swa_store::StateDictError;
use thiserror::Error;

use crate::Failure;
use crate::data::{Augmentation, DataSource, EpochLoader, ImageSet, Images, Padding, SIDE, View};
use crate::run::images::load_images;
use crate::run::method::{Method, MethodSettings, paper_budget};
use crate::run::model_file::read_state_dict;
use crate::run::progress::Progress;

/// The settings of a run, as `config.json` holds them.
///
/// Two runs with the same settings on the same device give the same bits. (The device is not a
/// setting: a run may be resumed on another one.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    // A folder's path is absolute, so that the run can be resumed from elsewhere.
    /// `synthetic`, `download`, `download100`, or a folder: images of 32x32 in the usual formats, as
    /// train/CLASS/* and test/CLASS/*, or CIFAR's binary files [default: synthetic]
    #[arg(long, value_name = "WHERE")]
    pub data: String,

    /// The images.
    #[command(flatten)]
    #[serde(flatten)]
    pub images: ImageSettings,

    /// The way in which images of any size are seen, if they are not CIFAR's.
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,

    /// vgg16, vgg19, either with -bn, preresnet-DEPTH, such as preresnet-110, or wrn-DEPTH-WIDENING,
    /// such as wrn-28-10 [default: preresnet-20]
    #[arg(long, value_name = "NAME")]
    pub model: String,

    /// Divide the network's widths by this, for small machines [default: 1]
    #[arg(long, value_name = "N")]
    pub width_divisor: usize,

    /// The weights that training starts from, if they are not drawn from the seed.
    #[arg(skip)]
    pub init: Option<InitialWeights>,

    /// The number of epochs [default: the paper's budget, 150 for PreResNet, else 200]
    #[arg(long, value_name = "N")]
    pub epochs: usize,

    /// The settings of SGD.
    #[command(flatten)]
    #[serde(flatten)]
    pub sgd: SgdSettings,

    /// Compute each batch in so many parts, one after the other, for a device that is too small for a whole one [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(default = "whole_batches", skip_serializing_if = "is_whole_batches")]
    pub accumulate: usize,

    /// The method, with its settings.
    // A default for the derived parser, which has no place for it: `GivenSettings` sets it.
    #[arg(skip = MethodSettings::Sgd)]
    #[serde(flatten)]
    pub method: MethodSettings,

    /// Keep averages of widths 0.05 and 0.10 and of equal weights every so many epochs, from which `cifar average` makes others
    /// [default: none]
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_averages: Option<usize>,

    /// The seed of weights, order, augmentation and dropout [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: u64,
}

/// The images of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct ImageSettings {
    /// Train on this many images, as many of each class [default: all]
    #[arg(long, value_name = "N")]
    pub train_items: Option<usize>,

    /// Hold this many of them out from the training, as many of each class [default: none]
    #[arg(long, value_name = "N")]
    #[serde(default)]
    pub validation_items: Option<usize>,

    /// Score on the test images, or on those held out, by which settings may be chosen [default: test]
    #[arg(long, value_enum, value_name = "WHICH")]
    #[serde(default)]
    pub evaluate_on: EvaluateOn,

    /// The padding of images, by 4 pixels, before they are cropped and flipped [default: zero]
    #[arg(long, value_enum)]
    #[serde(default)]
    pub padding: PaddingChoice,
}

/// The settings of SGD.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct SgdSettings {
    /// The number of images in a batch [default: 128]
    #[arg(long, value_name = "N")]
    #[serde(default = "paper_batch_size")]
    pub batch_size: usize,

    /// The learning rate that training starts with, and each cycle of snapshot [default: 0.05 for VGG,
    /// else 0.1; 0.2 for snapshot]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lr: f64,

    /// The momentum of SGD [default: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    #[serde(default = "paper_momentum")]
    pub momentum: f64,

    /// The weight decay of SGD [default: 3e-4 for PreResNet, else 5e-4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub weight_decay: f64,
}

/// A file of weights that training starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct InitialWeights {
    // Its path is absolute.
    /// Start from the weights in this file: of another run, or of PyTorch (.safetensors, or .pt and
    /// .pth of torch.save) [default: weights drawn from the seed]
    #[arg(
        id = "init.file",
        long = "weights",
        alias = "init",
        value_name = "FILE"
    )]
    pub file: PathBuf,

    /// The key of the network in that file, if it is there several times: state_dict,
    /// swa_state_dict
    #[arg(
        id = "init.key",
        long = "weights-key",
        alias = "init-key",
        value_name = "KEY",
        requires = "init.file"
    )]
    pub key: Option<String>,

    /// Draw this part of the network from the seed all the same: fc, the last layer of a PreResNet or ResNet,
    /// or classifier, that of a DenseNet, where the file's network tells other classes apart
    #[arg(
        id = "init.without",
        long = "weights-without",
        alias = "init-without",
        value_name = "PART",
        requires = "init.file"
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<String>,
}

/// The images that a run's scores are of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EvaluateOn {
    /// The test images.
    #[default]
    Test,
    /// The training images that are held out. Settings may be chosen by these, and must not be
    /// chosen by the test images.
    Validation,
}

/// The padding of images before they are cropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PaddingChoice {
    /// With black, as in the paper.
    #[default]
    Zero,
    /// With the image's reflection, as fast.ai does.
    Reflect,
    /// No padding, crop or flip at all.
    None,
}

/// Settings that are invalid.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No such network.
    #[error(transparent)]
    Model(#[from] swa_models::UnknownNetwork),

    /// A network that cannot be made.
    // Its width is a field in Rust, and an argument here.
    #[error("{}", .0.to_string().replace("width_divisor", "--width-divisor"))]
    Network(#[from] ModelError),

    /// A number that cannot be used.
    #[error("{flag} must be {expected}, not {got}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// The values that are allowed.
        expected: &'static str,
        /// The value that was given.
        got: String,
    },

    /// A network that does not take images of this size.
    #[error(
        "{model} takes images of {}x{0} pixels{}, and these have {side}x{side}: choose another \
         --model{}",
        .sides.start(),
        if .sides.start() == .sides.end() { "" } else { " and more" },
        if *.side == SIDE { "" } else { " or --image-size" }
    )]
    ImageSide {
        /// The network.
        model: String,
        /// The heights and widths that it takes.
        sides: RangeInclusive<usize>,
        /// The height and width of the images.
        side: usize,
    },

    /// A setting for images of any size, in a run on images of CIFAR's.
    #[error("{flag} is for images of any size, as `imagenet finetune` takes them: leave it out")]
    NoView {
        /// The flag.
        flag: String,
    },

    /// SWA would start after the end.
    #[error(
        "--swa-start {start} is after the last of {epochs} epochs, so nothing would be averaged: \
         start earlier, train longer, or say --no-swa"
    )]
    NeverAverages {
        /// The epoch at which SWA would start.
        start: usize,
        /// The number of epochs.
        epochs: usize,
    },

    /// SWAG would collect weights once.
    #[error(
        "--method swag needs weights of two collections, and {epochs} epochs have one, from --swa-start {start} \
         with --swa-every {every}: start earlier, collect more often, or train longer"
    )]
    CollectsOnce {
        /// The epoch at which SWA starts.
        start: usize,
        /// The number of epochs from one collection to the next.
        every: usize,
        /// The number of epochs.
        epochs: usize,
    },

    /// Fast Geometric Ensembling would have no member.
    #[error(
        "--cycle-start {start} and --cycle-epochs {cycle_epochs} put the middle of the first cycle after the last of \
         {epochs} epochs, so no network would be kept: start earlier, take shorter cycles, or train longer"
    )]
    NoMember {
        /// The epoch with which cycles start.
        start: usize,
        /// The number of epochs in a cycle.
        cycle_epochs: usize,
        /// The number of epochs.
        epochs: usize,
    },

    /// Averages are to be kept of a method without any.
    #[error(
        "--keep-averages needs a training that averages, and --method {method} does not: choose --method swa, ema or swag"
    )]
    KeepsNoAverage {
        /// The method.
        method: Method,
    },

    /// A run that goes on would end before it collects what its method needs.
    #[error("--epochs must be at least {least}, {reason}, not {epochs}")]
    EndsBeforeCollecting {
        /// The least number of epochs.
        least: usize,
        /// The reason for that number.
        reason: &'static str,
        /// The number of epochs.
        epochs: usize,
    },

    /// A setting of another method.
    #[error(
        "{flag} belongs to --method {}, and this run's method is {method}: leave it out, or choose that method",
        .methods.iter().map(Method::to_string).collect::<Vec<_>>().join(" or ")
    )]
    OfAnotherMethod {
        /// The flag.
        flag: String,
        /// The methods that have it.
        methods: Vec<Method>,
        /// The method of the run.
        method: Method,
    },

    /// There are no images to score on.
    #[error(
        "--evaluate-on validation has nothing to score on: hold out some of the training images with \
         --validation-items"
    )]
    NothingHeldOut,

    /// A number that is too large for the images or the epochs that there are.
    #[error("{flag} must be at most {most}, {reason}, not {got}")]
    AtMost {
        /// The flag.
        flag: &'static str,
        /// The largest number that can be asked for.
        most: usize,
        /// The reason for that number.
        reason: &'static str,
        /// The number that was asked for.
        got: usize,
    },

    /// Arguments that cannot be read.
    #[error(transparent)]
    Arguments(#[from] clap::Error),

    /// A run that is resumed with other settings.
    #[error(
        "the run was started with other settings: {}. \
         Leave them out to go on with it, or start a run in another folder with --out",
        .0.join(", ")
    )]
    Differs(Vec<String>),
}

impl RunConfig {
    /// The settings with which the paper trains `network` with SWA on CIFAR-10, or on CIFAR-100 if there are a
    /// hundred `classes` (Izmailov et al. 2018, section 4.1, and the commands of the paper's code).
    pub fn paper(network: &NetworkConfig, classes: usize) -> Self {
        let (lr, weight_decay) = match network {
            NetworkConfig::Vgg(_) => (0.05, 5e-4),
            NetworkConfig::PreResNet(_) => (0.1, 3e-4),
            NetworkConfig::WideResNet(_) => (0.1, 5e-4),
            NetworkConfig::ResNet(_) | NetworkConfig::DenseNet(_) => (0.1, 1e-4),
        };
        let epochs = paper_budget(network);
        Self {
            data: "synthetic".to_owned(),
            images: ImageSettings {
                train_items: None,
                validation_items: None,
                evaluate_on: EvaluateOn::Test,
                padding: PaddingChoice::Zero,
            },
            view: None,
            model: network.name(),
            width_divisor: 1,
            init: None,
            epochs,
            sgd: SgdSettings {
                batch_size: paper_batch_size(),
                lr,
                momentum: paper_momentum(),
                weight_decay,
            },
            accumulate: whole_batches(),
            method: MethodSettings::paper(Method::Swa, network, classes, epochs),
            keep_averages: None,
            seed: 1,
        }
    }

    /// Sets the method, and its paper's settings for this number of epochs.
    pub(crate) fn set_method(&mut self, method: Method, network: &NetworkConfig, classes: usize) {
        self.method = MethodSettings::paper(method, network, classes, self.epochs);
        if method == Method::Snapshot {
            self.sgd.lr = SNAPSHOT_LR;
        }
    }

    /// Checks the settings against each other and their ranges.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let Self {
            images,
            view,
            epochs,
            sgd,
            accumulate,
            method,
            keep_averages,
            ..
        } = self;
        images.validate()?;
        if let Some(view) = view {
            view.validate()?;
        }
        self.validate_side()?;
        at_least_one("--epochs", *epochs)?;
        at_most("--epochs", *epochs, MOST_EPOCHS, "the most that a run has")?;
        sgd.validate()?;
        at_least_one("--accumulate", *accumulate)?;
        at_most(
            "--accumulate",
            *accumulate,
            sgd.batch_size,
            "the number of images in a batch",
        )?;
        method.validate(*epochs)?;
        if let Some(every) = *keep_averages {
            at_least_one("--keep-averages", every)?;
            if method.averages_from().is_none() {
                let method = method.method();
                return Err(ConfigError::KeepsNoAverage { method });
            }
            at_most("--keep-averages", every, *epochs, "the number of epochs")?;
        }
        Ok(())
    }

    /// Checks that the network takes images of the size that they have.
    fn validate_side(&self) -> Result<(), ConfigError> {
        let side = self.view.map_or(SIDE, |view| view.side);
        check_side(&self.model.parse()?, side)
    }

    /// Checks the settings of a run that was begun, of which the number of epochs alone can change.
    pub(crate) fn validate_begun(&self) -> Result<(), ConfigError> {
        let of_method = self.method.least_epochs();
        let kept = self.keep_averages.unwrap_or(0);
        let kept = (
            kept,
            "the number of epochs from one kept average to the next",
        );
        let (least, reason) = if kept.0 > of_method.0 {
            kept
        } else {
            of_method
        };
        let epochs = self.epochs;
        if epochs < least {
            return Err(ConfigError::EndsBeforeCollecting {
                least,
                reason,
                epochs,
            });
        }
        self.validate()
    }

    /// The network, which tells `classes` apart, with new weights on `device`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Model`] or [`Network`](ConfigError::Network) if there is no such network.
    pub fn network(&self, classes: usize, device: &Device) -> Result<Network, ConfigError> {
        let network: NetworkConfig = self.model.parse()?;
        let network = network
            .with_classes(classes)
            .with_width_divisor(self.width_divisor);
        Ok(network.init(device)?)
    }

    /// The augmentation of its training images.
    pub(crate) fn augmentation(&self) -> Augmentation {
        match (self.images.padding, self.view) {
            (PaddingChoice::None, _) => Augmentation::None,
            (_, Some(_)) => Augmentation::ResizedCropAndFlip,
            (PaddingChoice::Zero, None) => Augmentation::CropAndFlip(Padding::Zero),
            (PaddingChoice::Reflect, None) => Augmentation::CropAndFlip(Padding::Reflect),
        }
    }

    /// The number of images that are computed at once: a batch, or a part of one.
    pub(crate) fn images_at_once(&self) -> usize {
        // Settings that are not checked yet may be 0.
        self.sgd.batch_size.div_ceil(self.accumulate.max(1)).max(1)
    }

    /// The images that `data` names, as the run sees them.
    ///
    /// # Errors
    ///
    /// [`DataError`](crate::data::DataError), of one line.
    pub fn load_images(&self, progress: &Progress) -> Result<ImageSet, Failure> {
        load_images(&self.data, self.view, progress)
    }

    /// The run's training images as BatchNorm is re-estimated from them after the training, on `device` or its autodiff device.
    ///
    /// # Errors
    ///
    /// If there are no images.
    pub(crate) fn reestimation_images(
        &self,
        train: &Arc<Images>,
        device: &Device,
    ) -> Result<EpochLoader, Failure> {
        // A re-estimation puts BatchNorm into training mode by the device.
        let device = device.clone().autodiff();
        let (batch_size, augmentation) = (self.images_at_once(), self.augmentation());
        let images = train.clone();
        Ok(EpochLoader::reestimation(
            images,
            batch_size,
            augmentation,
            self.seed,
            &device,
        )?)
    }

    /// The images that something may be chosen by after the training: those that are held out, be the run scored on them or not.
    pub(crate) fn validation_images(
        &self,
        used: &ImageSet,
        held_out: Option<Arc<Images>>,
    ) -> Option<Arc<Images>> {
        match self.images.evaluate_on {
            EvaluateOn::Validation => Some(used.test.clone()),
            EvaluateOn::Test => held_out,
        }
    }

    /// The images that the run uses from a whole data set: those that it trains on, and as test images those that it is scored on;
    /// and the training images that are neither, if there are any.
    ///
    /// # Errors
    ///
    /// [`ConfigError::AtMost`] if there are fewer than the run needs.
    pub(crate) fn with_held_out(
        &self,
        mut images: ImageSet,
    ) -> Result<(ImageSet, Option<Arc<Images>>), ConfigError> {
        if let Some(items) = self.images.train_items {
            let there_are = images.train.len();
            let reason = "the number of training images";
            let subset = images.train.subset(items, self.seed);
            images.train = Arc::new(subset.map_err(|_| ConfigError::AtMost {
                flag: "--train-items",
                most: there_are,
                reason,
                got: items,
            })?);
        }
        let Some(items) = self.images.validation_items else {
            return Ok((images, None));
        };
        let most = images.train.len().saturating_sub(1);
        let refused = ConfigError::AtMost {
            flag: "--validation-items",
            most,
            reason: "or no image is left to train on",
            got: items,
        };
        match images.train.split(items, self.seed) {
            Ok((held_out, rest)) if !rest.is_empty() => {
                images.train = Arc::new(rest);
                let held_out = Arc::new(held_out);
                if self.images.evaluate_on == EvaluateOn::Validation {
                    images.test = held_out;
                    Ok((images, None))
                } else {
                    Ok((images, Some(held_out)))
                }
            }
            _ => Err(refused),
        }
    }
}

impl ImageSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        if let Some(items) = self.train_items {
            at_least_one("--train-items", items)?;
        }
        if let Some(items) = self.validation_items {
            at_least_one("--validation-items", items)?;
        } else if self.evaluate_on == EvaluateOn::Validation {
            return Err(ConfigError::NothingHeldOut);
        }
        Ok(())
    }
}

impl SgdSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        let Self {
            batch_size,
            lr,
            momentum,
            weight_decay,
        } = *self;
        at_least_one("--batch-size", batch_size)?;
        number("--lr", lr, lr > 0.0, "above 0")?;
        let expected = "at least 0 and below 1";
        number(
            "--momentum",
            momentum,
            (0.0..1.0).contains(&momentum),
            expected,
        )?;
        number(
            "--weight-decay",
            weight_decay,
            weight_decay >= 0.0,
            "at least 0",
        )
    }

    /// The optimizer. Its dampening is 0, as in PyTorch's SGD and so in the paper; Burn's default is
    /// 0.1.
    pub fn optimizer(&self) -> ModuleOptimizer {
        let momentum = MomentumConfig::new()
            .with_momentum(self.momentum)
            .with_dampening(0.0);
        let weight_decay = WeightDecayConfig::new(self.weight_decay as f32);
        SgdConfig::new()
            .with_momentum(Some(momentum))
            .with_weight_decay(Some(weight_decay))
            .init()
    }

    /// The settings by their names, as a report shows them.
    pub fn by_name(&self) -> [(&'static str, String); 4] {
        [
            ("batch", self.batch_size.to_string()),
            ("learning rate", self.lr.to_string()),
            ("momentum", self.momentum.to_string()),
            ("weight decay", self.weight_decay.to_string()),
        ]
    }
}

impl InitialWeights {
    /// `network` with the weights of the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or holds another network.
    pub fn load(&self, network: Network) -> Result<Network, Failure> {
        let mut state_dict = read_state_dict(&self.file, self.key.as_deref())?;
        if let Some(part) = &self.without {
            state_dict = state_dict.without(&[part]);
        }
        state_dict.load(network).map_err(|error| {
            let remedy = match &error {
                StateDictError::Ambiguous { .. } | StateDictError::NoSuchKey { .. } => {
                    " with --weights-key"
                }
                StateDictError::NoSuchPart { .. } => " with --weights-without",
                StateDictError::Misfit { misshapen, .. } => {
                    return match part_of(misshapen) {
                        None => format!("{error}: say which it is with --model").into(),
                        Some(part) => format!(
                            "{error}, or draw {part} from the seed with --weights-without {part}, where the file's \
                             network tells other classes apart"
                        )
                        .into(),
                    };
                }
                _ => "",
            };
            format!("{error}{remedy}").into()
        })
    }
}

/// Checks that `network` takes images of this height and width.
pub(super) fn check_side(network: &NetworkConfig, side: usize) -> Result<(), ConfigError> {
    let sides = network.image_sides();
    if sides.contains(&side) {
        Ok(())
    } else {
        Err(ConfigError::ImageSide {
            model: network.name(),
            sides,
            side,
        })
    }
}

/// The part of a network that all these tensors are in, whose names their descriptions begin with.
fn part_of(tensors: &[String]) -> Option<&str> {
    let mut parts = tensors
        .iter()
        .map(|tensor| Some(tensor.split(' ').next()?.rsplit_once('.')?.0));
    let first = parts.next()??;
    if parts.all(|part| part == Some(first)) {
        Some(first)
    } else {
        None
    }
}

/// The learning rate that each cycle of Snapshot Ensembles begins with (Huang et al. 2017, section 4.1).
pub(crate) const SNAPSHOT_LR: f64 = 0.2;

/// The largest number of epochs: hundreds of times a paper's. The rates of all their steps are gone through.
const MOST_EPOCHS: usize = 100_000;

fn whole_batches() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_whole_batches(accumulate: &usize) -> bool {
    *accumulate == whole_batches()
}

fn paper_batch_size() -> usize {
    128
}

fn paper_momentum() -> f64 {
    0.9
}

pub(super) fn at_least_one(flag: &'static str, value: usize) -> Result<(), ConfigError> {
    number(flag, value as f64, value > 0, "at least 1")
}

pub(super) fn at_most(
    flag: &'static str,
    got: usize,
    most: usize,
    reason: &'static str,
) -> Result<(), ConfigError> {
    if got <= most {
        Ok(())
    } else {
        Err(ConfigError::AtMost {
            flag,
            most,
            reason,
            got,
        })
    }
}

pub(super) fn number(
    flag: &'static str,
    value: f64,
    fits: bool,
    expected: &'static str,
) -> Result<(), ConfigError> {
    if value.is_finite() && fits {
        Ok(())
    } else {
        let got = value.to_string();
        Err(ConfigError::Invalid {
            flag,
            expected,
            got,
        })
    }
}

/// A source of images with a folder's path made absolute.
pub(crate) fn located(data: &str) -> String {
    let Ok(source) = data.parse();
    match source {
        DataSource::Folder(path) => DataSource::Folder(absolute(&path)).to_string(),
        source => source.to_string(),
    }
}

/// An absolute path, without a separator at its end.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IMAGE_BYTES;
    use crate::run::given::tests::given;

    #[test]
    fn a_run_finds_its_data_from_any_folder() {
        assert_eq!(located("synthetic"), "synthetic");
        let here = std::env::current_dir().unwrap();
        let expected = here.join("data/cifar10");
        for data in ["data/cifar10", "./data/cifar10/"] {
            assert_eq!(located(data), expected.to_str().unwrap());
        }
    }

    #[test]
    fn held_out_images_are_not_trained_on_and_scored_if_asked() {
        let images = |pixel: u8, n: usize| {
            let labels: Vec<u8> = (0..n).map(|index| (index % 2) as u8).collect();
            Arc::new(Images::new(vec![pixel; n * IMAGE_BYTES], labels))
        };
        let set = ImageSet {
            train: images(1, 20),
            test: images(2, 8),
            class_names: vec!["cat".to_owned(), "dog".to_owned()],
            notes: Vec::new(),
        };
        let taken = |arguments: &str| {
            given(arguments)
                .new_run(2)
                .unwrap()
                .with_held_out(set.clone())
        };
        let held_out = "--train-items 16 --validation-items 4";
        let (images, _) = taken(held_out).unwrap();
        assert_eq!(images.train.len(), 12);
        assert_eq!((images.test.len(), images.test.image(0)[0]), (8, 2));

        let (images, _) = taken(&format!("{held_out} --evaluate-on validation")).unwrap();
        assert_eq!(images.train.len(), 12);
        assert_eq!((images.test.len(), images.test.image(0)[0]), (4, 1));

        for (arguments, expected) in [
            (
                "--train-items 21",
                "--train-items must be at most 20, the number of training images, not 21",
            ),
            (
                "--validation-items 20",
                "--validation-items must be at most 19, or no image is left to train on, not 20",
            ),
            (
                "--train-items 16 --validation-items 17",
                "--validation-items must be at most 15, or no",
            ),
        ] {
            let error = taken(arguments).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_run_that_goes_on_collects_and_keeps_what_it_began_to() {
        let error = |began: &str, epochs: usize| {
            let began = given(began).new_run(10).unwrap();
            let shorter = RunConfig { epochs, ..began };
            shorter.validate_begun().unwrap_err().to_string()
        };
        let kept = "--epochs 20 --swa-start 5 --keep-averages 10";
        assert_eq!(
            error(kept, 8),
            "--epochs must be at least 10, the number of epochs from one kept average to the next, not 8"
        );
        assert_eq!(
            error(kept, 4),
            "--epochs must be at least 10, the number of epochs from one kept average to the next, not 4"
        );
        assert_eq!(
            error("--epochs 20 --swa-start 5 --keep-averages 2", 4),
            "--epochs must be at least 5, the epoch from which the run averages, not 4"
        );
        // What has nothing to do with epochs is said as it is.
        let mut damaged = given("").new_run(10).unwrap();
        damaged.accumulate = 1000;
        assert_eq!(
            damaged.validate_begun().unwrap_err().to_string(),
            "--accumulate must be at most 128, the number of images in a batch, not 1000"
        );
        assert_eq!(
            error("", usize::MAX),
            format!(
                "--epochs must be at most 100000, the most that a run has, not {}",
                usize::MAX
            )
        );
    }

    #[test]
    fn settings_survive_their_file() {
        let run = given("--weights a.pt --validation-items 5")
            .new_run(10)
            .unwrap();
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&text).unwrap(), run);

        let unknown = text.replace("\"momentum\"", "\"momentun\"");
        let error = serde_json::from_str::<RunConfig>(&unknown).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `momentun`"),
            "{error}"
        );
    }
}
