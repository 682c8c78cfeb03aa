//! The settings of a run: everything that its result depends on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swa_models::{Network, NetworkConfig};
use swa_store::{StateDict, StateDictError};
use thiserror::Error;

use crate::data::{DataError, DataSource, ImageSet};
use crate::run::paper_training::PaperTraining;

/// The settings of a run, as `config.json` holds them.
///
/// Two runs with the same settings on the same device give the same bits. (The device is not a
/// setting: a run may be resumed on another one.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The source of the images: see [`DataSource`]. A folder's path is absolute, so that the run
    /// can be resumed from elsewhere.
    pub data: String,
    /// The number of training images that are used, if not all.
    pub train_items: Option<usize>,
    /// The number of these that are held out from the training, if any.
    #[serde(default)]
    pub validation_items: Option<usize>,
    /// The images that the epochs' scores are of.
    #[serde(default)]
    pub evaluate_on: EvaluateOn,
    /// The padding of images before they are cropped: `zero`, `reflect`, or `none` for no
    /// augmentation.
    pub padding: PaddingChoice,
    /// The network, by its name: see [`NetworkConfig`].
    pub model: String,
    /// The divisor of the network's widths.
    pub width_divisor: usize,
    /// The weights that training starts from, if they are not drawn from the seed.
    pub init: Option<InitialWeights>,
    /// The number of epochs.
    pub epochs: usize,
    /// The number of images in a batch.
    pub batch_size: usize,
    /// The learning rate that training starts with.
    pub lr: f64,
    /// The momentum of SGD.
    pub momentum: f64,
    /// The weight decay of SGD.
    pub weight_decay: f64,
    /// The settings of SWA; none for plain SGD.
    pub swa: Option<SwaSettings>,
    /// The seed of initial weights, order and augmentation of the images, and dropout.
    pub seed: u64,
}

/// A file of weights that training starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialWeights {
    /// The file: its path is absolute.
    pub file: PathBuf,
    /// The key of the network in the file, if it needs one: see [`StateDict::under`].
    pub key: Option<String>,
}

impl InitialWeights {
    /// `network` with the weights of the file.
    ///
    /// # Errors
    ///
    /// [`StateDictError`] if the file cannot be read, or holds another network.
    pub fn load(&self, network: Network) -> Result<Network, StateDictError> {
        let state_dict = StateDict::read(&self.file)?;
        match &self.key {
            None => state_dict.load(network),
            Some(key) => state_dict.under(key).load(network),
        }
    }
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

/// The settings of SWA.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwaSettings {
    /// The epoch at whose end weights are first collected.
    pub start: usize,
    /// The number of epochs from one collection to the next.
    pub every: usize,
    /// The learning rate under which weights are collected.
    pub lr: f64,
    /// The number of batches from which BatchNorm is re-estimated, if not all.
    pub batch_norm_batches: Option<usize>,
}

impl SwaSettings {
    /// The number of weights in the average at the end of `epoch`, counted from 1.
    pub fn averaged_after(&self, epoch: usize) -> usize {
        match epoch.checked_sub(self.start) {
            None => 0,
            Some(epochs) => epochs / self.every + 1,
        }
    }
}

/// The padding of images before they are cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PaddingChoice {
    /// With black, as in the paper.
    Zero,
    /// With the image's reflection, as fast.ai does.
    Reflect,
    /// No padding, crop or flip at all.
    None,
}

/// The settings given on the command line. Those that are not given keep their value in a run that
/// is resumed. In a new run they are the paper's for the model.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GivenSettings {
    /// `synthetic`, `download`, `download100`, or a folder: images of 32x32 in the usual formats, as train/CLASS/* and
    /// test/CLASS/*, or CIFAR's binary files [default: synthetic]
    #[arg(long, value_name = "WHERE")]
    pub data: Option<String>,

    /// Train on this many images, as many of each class [default: all]
    #[arg(long, value_name = "N")]
    pub train_items: Option<usize>,

    /// Hold this many of them out from the training, as many of each class [default: none]
    #[arg(long, value_name = "N")]
    pub validation_items: Option<usize>,

    /// Score on the test images, or on those held out, by which settings may be chosen [default: test]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub evaluate_on: Option<EvaluateOn>,

    /// The padding of images, by 4 pixels, before they are cropped and flipped [default: zero]
    #[arg(long, value_enum)]
    pub padding: Option<PaddingChoice>,

    /// vgg16, vgg19, either with -bn, preresnet-DEPTH, such as preresnet-110, or wrn-DEPTH-WIDENING,
    /// such as wrn-28-10 [default: preresnet-20]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// Divide the network's widths by this, for small machines [default: 1]
    #[arg(long, value_name = "N")]
    pub width_divisor: Option<usize>,

    /// Start from the weights in this file: of another run, or of PyTorch (.safetensors, or .pt and
    /// .pth of torch.save) [default: weights drawn from the seed]
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,

    /// The key of the network in that file, if it is there several times: state_dict,
    /// swa_state_dict
    #[arg(long, value_name = "KEY", requires = "init")]
    pub init_key: Option<String>,

    /// The number of epochs [default: the paper's budget, 150 for PreResNet, else 200]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// The number of images in a batch [default: 128]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,

    /// The learning rate that training starts with [default: 0.05 for VGG, else 0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lr: Option<f64>,

    /// The momentum of SGD [default: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub momentum: Option<f64>,

    /// The weight decay of SGD [default: 3e-4 for PreResNet, else
    /// 5e-4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,

    /// Plain SGD: no averaging, and the learning rate down to a hundredth
    #[arg(long, conflicts_with_all = ["swa_start", "swa_every", "swa_lr", "bn_batches"])]
    pub no_swa: bool,

    /// Average from the end of this epoch on [default: 126 of PreResNet's 150, 161 of the others' 200,
    /// three quarters of any other number]
    #[arg(long, value_name = "E")]
    pub swa_start: Option<usize>,

    /// Collect weights at the end of every so many epochs [default: 1]
    #[arg(long, value_name = "N")]
    pub swa_every: Option<usize>,

    /// The learning rate under which weights are collected [default: 0.01; 0.05 for WideResNet, and
    /// for PreResNet on a hundred classes]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub swa_lr: Option<f64>,

    /// Re-estimate BatchNorm from this many batches of training images [default: all]
    #[arg(long, value_name = "N")]
    pub bn_batches: Option<usize>,

    /// The seed of weights, order, augmentation and dropout [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Settings that are invalid.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No such network.
    #[error(transparent)]
    Model(#[from] swa_models::UnknownNetwork),

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

    /// There are no images to score on.
    #[error(
        "--evaluate-on validation has nothing to score on: hold out some of the training images with \
         --validation-items"
    )]
    NothingHeldOut,

    /// A run that is resumed with other settings.
    #[error(
        "the run was started with other settings: {}. \
         Leave them out to go on with it, or start a run in another folder with --out",
        .0.join(", ")
    )]
    Differs(Vec<String>),
}

impl GivenSettings {
    /// The settings of a new run.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an unknown model, or a number that cannot be used.
    pub fn new_run(&self) -> Result<RunConfig, ConfigError> {
        let model: NetworkConfig = self.model.as_deref().unwrap_or("preresnet-20").parse()?;
        let paper = PaperTraining::of(&model);
        let epochs = self.epochs.unwrap_or(paper.epochs);
        let paper_start = if epochs == paper.epochs {
            paper.swa_start
        } else {
            (epochs * 3).div_ceil(4).max(1)
        };
        let config = RunConfig {
            data: located(self.data.as_deref().unwrap_or("synthetic")),
            train_items: self.train_items,
            validation_items: self.validation_items,
            evaluate_on: self.evaluate_on.unwrap_or_default(),
            padding: self.padding.unwrap_or(PaddingChoice::Zero),
            model: model.name(),
            width_divisor: self.width_divisor.unwrap_or(1),
            init: self.init.as_deref().map(|file| InitialWeights {
                file: absolute(file),
                key: self.init_key.clone(),
            }),
            epochs,
            batch_size: self.batch_size.unwrap_or(128),
            lr: self.lr.unwrap_or(paper.lr),
            momentum: self.momentum.unwrap_or(0.9),
            weight_decay: self.weight_decay.unwrap_or(paper.weight_decay),
            swa: (!self.no_swa).then(|| SwaSettings {
                start: self.swa_start.unwrap_or(paper_start),
                every: self.swa_every.unwrap_or(1),
                lr: self.swa_lr.unwrap_or(paper.swa_lr),
                batch_norm_batches: self.bn_batches,
            }),
            seed: self.seed.unwrap_or(1),
        };
        config.validate()?;
        Ok(config)
    }

    /// The settings `config` of a new run, adapted to the number of classes in its data, on which
    /// the paper's learning rate of SWA depends.
    pub fn for_classes(&self, mut config: RunConfig, classes: usize) -> RunConfig {
        let paper = config
            .model
            .parse()
            .map(|model: NetworkConfig| PaperTraining::for_classes(&model, classes));
        if let (Some(swa), Ok(paper), None) = (&mut config.swa, paper, self.swa_lr) {
            swa.lr = paper.swa_lr;
        }
        config
    }

    /// Compares the given settings with those of a run that is to be resumed.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Differs`] if anything that is given differs from the run.
    pub fn agree_with(&self, run: &RunConfig) -> Result<(), ConfigError> {
        let mut differences = Vec::new();
        let mut compare = |flag: &str, given: Option<String>, run: Option<String>| {
            if let Some(given) = given
                && Some(&given) != run.as_ref()
            {
                let run = run.map_or_else(|| "not given".to_owned(), |run| format!("{run} there"));
                differences.push(format!("{flag} is {given} here and {run}"));
            }
        };
        fn text<T: ToString>(value: Option<T>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        let padding = |value: PaddingChoice| format!("{value:?}").to_lowercase();
        let evaluate_on = |value: EvaluateOn| format!("{value:?}").to_lowercase();
        let swa = run.swa.as_ref();

        compare(
            "--data",
            self.data.as_deref().map(located),
            Some(run.data.clone()),
        );
        compare(
            "--train-items",
            text(self.train_items),
            text(run.train_items),
        );
        compare(
            "--validation-items",
            text(self.validation_items),
            text(run.validation_items),
        );
        compare(
            "--evaluate-on",
            self.evaluate_on.map(evaluate_on),
            Some(evaluate_on(run.evaluate_on)),
        );
        compare(
            "--padding",
            self.padding.map(padding),
            Some(padding(run.padding)),
        );
        compare("--model", self.model.clone(), Some(run.model.clone()));
        compare(
            "--width-divisor",
            text(self.width_divisor),
            text(Some(run.width_divisor)),
        );
        let path = |file: &Path| absolute(file).display().to_string();
        let init = run.init.as_ref();
        compare(
            "--init",
            self.init.as_deref().map(path),
            init.map(|init| path(&init.file)),
        );
        compare(
            "--init-key",
            self.init_key.clone(),
            init.and_then(|init| init.key.clone()),
        );
        compare("--epochs", text(self.epochs), text(Some(run.epochs)));
        compare(
            "--batch-size",
            text(self.batch_size),
            text(Some(run.batch_size)),
        );
        compare("--lr", text(self.lr), text(Some(run.lr)));
        compare("--momentum", text(self.momentum), text(Some(run.momentum)));
        compare(
            "--weight-decay",
            text(self.weight_decay),
            text(Some(run.weight_decay)),
        );
        compare(
            "--swa-start",
            text(self.swa_start),
            text(swa.map(|swa| swa.start)),
        );
        compare(
            "--swa-every",
            text(self.swa_every),
            text(swa.map(|swa| swa.every)),
        );
        compare("--swa-lr", text(self.swa_lr), text(swa.map(|swa| swa.lr)));
        let batches = text(swa.and_then(|swa| swa.batch_norm_batches));
        compare("--bn-batches", text(self.bn_batches), batches);
        compare("--seed", text(self.seed), text(Some(run.seed)));
        if self.no_swa && swa.is_some() {
            differences.push("--no-swa is given here and not there".to_owned());
        }

        if differences.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Differs(differences))
        }
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
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().collect()
}

impl RunConfig {
    /// The images that the run uses from a whole data set: those that it trains on, and as test
    /// images those that it is scored on.
    ///
    /// # Errors
    ///
    /// [`DataError`] if there are fewer than the run needs.
    pub fn images_of(&self, mut images: ImageSet) -> Result<ImageSet, DataError> {
        if let Some(items) = self.train_items {
            images.train = Arc::new(images.train.subset(items, self.seed)?);
        }
        if let Some(items) = self.validation_items {
            let (held_out, rest) = images.train.split(items, self.seed)?;
            images.train = Arc::new(rest);
            if self.evaluate_on == EvaluateOn::Validation {
                images.test = Arc::new(held_out);
            }
        }
        Ok(images)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let count = |flag, value: Option<usize>| match value {
            Some(0) => Err(ConfigError::Invalid {
                flag,
                expected: "at least 1",
                got: "0".to_owned(),
            }),
            _ => Ok(()),
        };
        let number = |flag, expected, value: f64, fits: bool| {
            if value.is_finite() && fits {
                Ok(())
            } else {
                Err(ConfigError::Invalid {
                    flag,
                    expected,
                    got: value.to_string(),
                })
            }
        };
        count("--train-items", self.train_items)?;
        count("--validation-items", self.validation_items)?;
        if self.evaluate_on == EvaluateOn::Validation && self.validation_items.is_none() {
            return Err(ConfigError::NothingHeldOut);
        }
        count("--epochs", Some(self.epochs))?;
        count("--batch-size", Some(self.batch_size))?;
        number("--lr", "above 0", self.lr, self.lr > 0.0)?;
        let momentum = (0.0..1.0).contains(&self.momentum);
        number(
            "--momentum",
            "at least 0 and below 1",
            self.momentum,
            momentum,
        )?;
        number(
            "--weight-decay",
            "at least 0",
            self.weight_decay,
            self.weight_decay >= 0.0,
        )?;
        if let Some(swa) = self.swa {
            count("--swa-start", Some(swa.start))?;
            count("--swa-every", Some(swa.every))?;
            count("--bn-batches", swa.batch_norm_batches)?;
            number("--swa-lr", "above 0", swa.lr, swa.lr > 0.0)?;
            if swa.start > self.epochs {
                return Err(ConfigError::NeverAverages {
                    start: swa.start,
                    epochs: self.epochs,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IMAGE_BYTES, Images};

    #[test]
    fn what_is_not_given_is_the_papers() {
        let given = GivenSettings {
            model: Some("vgg16-bn".to_owned()),
            ..GivenSettings::default()
        };
        let run = given.new_run().unwrap();
        assert_eq!((run.epochs, run.lr, run.weight_decay), (200, 0.05, 5e-4));
        assert_eq!((run.batch_size, run.momentum), (128, 0.9));
        let swa = run.swa.unwrap();
        assert_eq!((swa.start, swa.lr, swa.every), (161, 0.01, 1));
    }

    #[test]
    fn on_a_hundred_classes_preresnet_averages_at_the_papers_rate() {
        let lr = |model: &str, swa_lr: Option<f64>, classes: usize| {
            let given = GivenSettings {
                model: Some(model.to_owned()),
                swa_lr,
                ..GivenSettings::default()
            };
            let run = given.for_classes(given.new_run().unwrap(), classes);
            run.swa.unwrap().lr
        };
        assert_eq!(lr("preresnet-110", None, 10), 0.01);
        assert_eq!(lr("preresnet-110", None, 100), 0.05);
        assert_eq!(lr("preresnet-110", Some(0.02), 100), 0.02);
        assert_eq!(lr("vgg16", None, 100), 0.01);
    }

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
    fn a_shorter_run_averages_its_last_quarter() {
        let given = GivenSettings {
            epochs: Some(20),
            ..GivenSettings::default()
        };
        assert_eq!(given.new_run().unwrap().swa.unwrap().start, 15);
    }

    #[test]
    fn invalid_settings_are_refused_by_flag() {
        let check = |change: fn(&mut GivenSettings), expected: &str| {
            let mut given = GivenSettings::default();
            change(&mut given);
            let error = given.new_run().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            |given| given.lr = Some(-0.1),
            "--lr must be above 0, not -0.1",
        );
        check(
            |given| given.epochs = Some(0),
            "--epochs must be at least 1, not 0",
        );
        check(|given| given.momentum = Some(1.0), "--momentum");
        check(|given| given.swa_lr = Some(f64::NAN), "--swa-lr");
        check(
            |given| given.swa_start = Some(151),
            "--swa-start 151 is after the last of 150",
        );
    }

    #[test]
    fn a_run_is_resumed_with_its_own_settings_only() {
        let given = GivenSettings {
            epochs: Some(20),
            lr: Some(0.2),
            ..GivenSettings::default()
        };
        let run = given.new_run().unwrap();
        given.agree_with(&run).unwrap();
        GivenSettings::default().agree_with(&run).unwrap();

        let other = GivenSettings {
            epochs: Some(30),
            bn_batches: Some(5),
            ..given
        };
        let error = other.agree_with(&run).unwrap_err().to_string();
        assert!(
            error.contains("--epochs is 30 here and 20 there"),
            "{error}"
        );
        assert!(
            error.contains("--bn-batches is 5 here and not given"),
            "{error}"
        );
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
        let mut given = GivenSettings {
            train_items: Some(16),
            validation_items: Some(4),
            ..GivenSettings::default()
        };
        let taken = given.new_run().unwrap().images_of(set.clone()).unwrap();
        assert_eq!(taken.train.len(), 12);
        assert_eq!((taken.test.len(), taken.test.image(0)[0]), (8, 2));

        given.evaluate_on = Some(EvaluateOn::Validation);
        let taken = given.new_run().unwrap().images_of(set).unwrap();
        assert_eq!(taken.train.len(), 12);
        assert_eq!((taken.test.len(), taken.test.image(0)[0]), (4, 1));

        given.validation_items = None;
        let error = given.new_run().unwrap_err().to_string();
        assert!(error.contains("--validation-items"), "{error}");
    }

    #[test]
    fn the_average_collects_every_few_epochs_from_its_start_on() {
        let swa = SwaSettings {
            start: 161,
            every: 1,
            lr: 0.01,
            batch_norm_batches: None,
        };
        let averaged = [160, 161, 162, 200, 300].map(|epoch| swa.averaged_after(epoch));
        assert_eq!(averaged, [0, 1, 2, 40, 140]);
        let swa = SwaSettings { every: 3, ..swa };
        assert_eq!([163, 164].map(|epoch| swa.averaged_after(epoch)), [1, 2]);
    }

    #[test]
    fn settings_survive_their_file() {
        let run = GivenSettings::default().new_run().unwrap();
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&text).unwrap(), run);
    }
}
