//! The methods of training, and their settings.

use std::fmt;

use clap::{ArgMatches, Args};
use serde::{Deserialize, Serialize};
use swa_models::NetworkConfig;

use super::config::{ConfigError, at_least_one, at_most, number};

/// The method of training a network.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// SGD whose learning rate falls to a hundredth.
    Sgd,
    /// SGD under a learning rate that stays high, with its weights averaged.
    Swa,
    /// SGD as without SWA, with the weights of all steps averaged exponentially.
    Ema,
    /// Snapshot Ensembles: the networks at the ends of cycles of the learning rate.
    Snapshot,
    /// Fast Geometric Ensembling: the networks in the middles of short cycles, after a usual training.
    Fge,
    /// SWAG: SWA, with samples of a Gaussian around the average.
    Swag,
}

impl Method {
    /// Its name in texts and pictures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sgd => "SGD",
            Self::Swa => "SWA",
            Self::Ema => "EMA",
            Self::Snapshot => "Snapshot",
            Self::Fge => "FGE",
            Self::Swag => "SWAG",
        }
    }

    /// The keys of its settings in `config.json`.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Sgd => &[],
            Self::Swa => &["swa"],
            Self::Ema => &["ema"],
            Self::Snapshot => &["snapshot"],
            Self::Fge => &["fge"],
            Self::Swag => &["swa", "swag"],
        }
    }

    /// The methods that have settings under `key`.
    pub(super) fn with_key(key: &str) -> impl Iterator<Item = Self> {
        let all = <Self as clap::ValueEnum>::value_variants();
        let with_key = all
            .iter()
            .filter(move |method| method.keys().contains(&key));
        with_key.copied()
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its name in `config.json`, and on the command line.
        self.serialize(f)
    }
}

/// A method with its settings.
///
/// In `config.json` each of them is a key with an object. Plain SGD has `"swa": null`, as it had before there were other methods.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub enum MethodSettings {
    /// Plain SGD, which has no settings of its own.
    Sgd,
    /// SWA.
    Swa(SwaSettings),
    /// An exponential moving average.
    Ema(EmaSettings),
    /// Snapshot Ensembles.
    Snapshot(SnapshotSettings),
    /// Fast Geometric Ensembling.
    Fge(FgeSettings),
    /// SWA, and the Gaussian of SWAG around its average.
    Swag {
        /// The settings of SWA.
        swa: SwaSettings,
        /// Those of the Gaussian.
        swag: SwagSettings,
    },
}

/// The settings of SWA.
// An argument's id is its key in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct SwaSettings {
    /// Average from the end of this epoch on [default: 126 of PreResNet's 150, 161 of the others' 200,
    /// three quarters of any other number]
    #[arg(id = "swa.start", long = "swa-start", value_name = "E")]
    pub start: usize,

    /// Collect weights at the end of every so many epochs [default: 1]
    #[arg(id = "swa.every", long = "swa-every", value_name = "N")]
    pub every: usize,

    /// The learning rate under which weights are collected [default: 0.01; 0.05 for WideResNet, and
    /// for PreResNet on a hundred classes]
    #[arg(
        id = "swa.lr",
        long = "swa-lr",
        value_name = "X",
        allow_negative_numbers = true
    )]
    pub lr: f64,

    /// From that epoch on, let the rate fall from --swa-lr on a line to this one, and begin again after each collection
    /// [default: a constant rate]
    #[arg(
        id = "swa.lowest_lr",
        long = "swa-lowest-lr",
        value_name = "X",
        allow_negative_numbers = true
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_lr: Option<f64>,

    /// Re-estimate BatchNorm from this many batches of training images [default: all]
    #[arg(id = "swa.batch_norm_batches", long = "bn-batches", value_name = "N")]
    pub batch_norm_batches: Option<usize>,
}

/// The settings of an exponential moving average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct EmaSettings {
    /// The part of the average that a step leaves, after a warm-up [default: 0.999]
    #[arg(
        id = "ema.decay",
        long = "ema-decay",
        value_name = "X",
        allow_negative_numbers = true
    )]
    pub decay: f64,
}

/// The settings of Snapshot Ensembles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSettings {
    /// The number of cycles, at the end of each of which the network is kept [default: 5]
    #[arg(id = "snapshot.cycles", long = "cycles", value_name = "N")]
    pub cycles: usize,
}

/// The settings of Fast Geometric Ensembling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct FgeSettings {
    /// Begin the first cycle with this epoch [default: the one after four fifths of all]
    #[arg(id = "fge.start", long = "cycle-start", value_name = "E")]
    pub start: usize,

    /// The number of epochs in a cycle, in whose middle the network is kept [default: 4 for VGG, else 2]
    #[arg(id = "fge.cycle_epochs", long = "cycle-epochs", value_name = "N")]
    pub cycle_epochs: usize,

    /// The learning rate at both ends of a cycle [default: 0.05]
    #[arg(
        id = "fge.lr",
        long = "cycle-lr",
        value_name = "X",
        allow_negative_numbers = true
    )]
    pub lr: f64,

    /// The learning rate in the middle of a cycle [default: 5e-4]
    #[arg(
        id = "fge.lowest_lr",
        long = "cycle-lowest-lr",
        value_name = "X",
        allow_negative_numbers = true
    )]
    pub lowest_lr: f64,
}

/// The settings of SWAG, beside those of SWA.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct SwagSettings {
    /// The number of the last deviations from the average that are kept [default: 20]
    #[arg(id = "swag.rank", long = "rank", value_name = "K")]
    pub rank: usize,
}

/// The settings by their keys in `config.json`. A file of an earlier version has `swa` alone.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Keys {
    swa: Option<SwaSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ema: Option<EmaSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fge: Option<FgeSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    swag: Option<SwagSettings>,
}

impl From<MethodSettings> for Keys {
    fn from(settings: MethodSettings) -> Self {
        let mut keys = Self::default();
        match settings {
            MethodSettings::Sgd => {}
            MethodSettings::Swa(swa) => keys.swa = Some(swa),
            MethodSettings::Ema(ema) => keys.ema = Some(ema),
            MethodSettings::Snapshot(snapshot) => keys.snapshot = Some(snapshot),
            MethodSettings::Fge(fge) => keys.fge = Some(fge),
            MethodSettings::Swag { swa, swag } => {
                keys.swa = Some(swa);
                keys.swag = Some(swag);
            }
        }
        keys
    }
}

impl TryFrom<Keys> for MethodSettings {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, Self::Error> {
        let Keys {
            swa,
            ema,
            snapshot,
            fge,
            swag,
        } = keys;
        match (swa, ema, snapshot, fge, swag) {
            (None, None, None, None, None) => Ok(Self::Sgd),
            (Some(swa), None, None, None, None) => Ok(Self::Swa(swa)),
            (Some(swa), None, None, None, Some(swag)) => Ok(Self::Swag { swa, swag }),
            (None, Some(ema), None, None, None) => Ok(Self::Ema(ema)),
            (None, None, Some(snapshot), None, None) => Ok(Self::Snapshot(snapshot)),
            (None, None, None, Some(fge), None) => Ok(Self::Fge(fge)),
            _ => Err(
                "expected the settings of one method under `swa`, `ema`, `snapshot`, `fge`, or `swa` and \
                 `swag`, and found others beside them",
            ),
        }
    }
}

impl MethodSettings {
    /// The settings of the method's own paper for `network` on so many `classes` in a run of so many `epochs`.
    ///
    /// SWA: Izmailov et al. 2018, section 4.1, and the commands of its code. EMA: the decay of timm's `ModelEmaV3`'s examples.
    /// Snapshot Ensembles: Huang et al. 2017, section 4.1. Fast Geometric Ensembling: Garipov et al. 2018, section 5. SWAG: Maddox et
    /// al. 2019, appendix.
    pub fn paper(method: Method, network: &NetworkConfig, classes: usize, epochs: usize) -> Self {
        match method {
            Method::Sgd => Self::Sgd,
            Method::Swa => Self::Swa(SwaSettings::paper(network, classes, epochs)),
            Method::Ema => Self::Ema(EmaSettings { decay: 0.999 }),
            Method::Snapshot => Self::Snapshot(SnapshotSettings { cycles: 5 }),
            Method::Fge => Self::Fge(FgeSettings::paper(network, epochs)),
            Method::Swag => Self::Swag {
                swa: SwaSettings::paper(network, classes, epochs),
                swag: SwagSettings { rank: 20 },
            },
        }
    }

    /// The method.
    pub fn method(&self) -> Method {
        match self {
            Self::Sgd => Method::Sgd,
            Self::Swa(_) => Method::Swa,
            Self::Ema(_) => Method::Ema,
            Self::Snapshot(_) => Method::Snapshot,
            Self::Fge(_) => Method::Fge,
            Self::Swag { .. } => Method::Swag,
        }
    }

    /// The settings of SWA, if it is a part of the method.
    pub fn swa(&self) -> Option<SwaSettings> {
        match *self {
            Self::Swa(swa) | Self::Swag { swa, .. } => Some(swa),
            _ => None,
        }
    }

    /// The training, in words.
    pub fn in_words(&self) -> String {
        match *self {
            Self::Sgd => "SGD".to_owned(),
            Self::Swa(swa) => format!(
                "SGD, averaged from epoch {} on{}",
                swa.start,
                swa.rate_in_words()
            ),
            Self::Ema(ema) => format!(
                "SGD, averaged exponentially after every step with a decay of {}",
                ema.decay
            ),
            Self::Snapshot(snapshot) => format!(
                "SGD in {} cycles, with a snapshot at the end of each",
                snapshot.cycles
            ),
            Self::Fge(fge) => format!(
                "SGD, from epoch {} on in cycles of {} epoch{}, with a network in the middle of each",
                fge.start,
                fge.cycle_epochs,
                if fge.cycle_epochs == 1 { "" } else { "s" }
            ),
            Self::Swag { swa, swag } => format!(
                "SGD, averaged from epoch {} on, with the last {} deviations from the average for SWAG",
                swa.start, swag.rank
            ),
        }
    }

    /// The epoch, counted from 1, from whose end on there is an averaged model, if the method has one.
    pub(crate) fn averages_from(&self) -> Option<usize> {
        match self {
            Self::Ema(_) => Some(1),
            _ => self.swa().map(|swa| swa.start),
        }
    }

    /// The number of weights in the average at the end of `epoch`, counted from 1, if an epoch has so many steps.
    pub fn averaged_after(&self, epoch: usize, steps_per_epoch: usize) -> usize {
        match self {
            Self::Ema(_) => epoch * steps_per_epoch,
            _ => self.swa().map_or(0, |swa| swa.averaged_after(epoch)),
        }
    }

    /// Replaces the settings that are given on the command line.
    pub(super) fn update_from(&mut self, given: &ArgMatches) -> Result<(), ConfigError> {
        use clap::FromArgMatches;

        match self {
            Self::Sgd => {}
            Self::Swa(swa) => swa.update_from_arg_matches(given)?,
            Self::Ema(ema) => ema.update_from_arg_matches(given)?,
            Self::Snapshot(snapshot) => snapshot.update_from_arg_matches(given)?,
            Self::Fge(fge) => fge.update_from_arg_matches(given)?,
            Self::Swag { swa, swag } => {
                swa.update_from_arg_matches(given)?;
                swag.update_from_arg_matches(given)?;
            }
        }
        Ok(())
    }

    /// Adds the arguments of all methods to a command.
    pub(super) fn augment_args(command: clap::Command) -> clap::Command {
        let command = SwaSettings::augment_args_for_update(command);
        let command = SwagSettings::augment_args_for_update(command);
        let command = EmaSettings::augment_args_for_update(command);
        let command = SnapshotSettings::augment_args_for_update(command);
        FgeSettings::augment_args_for_update(command)
    }

    pub(super) fn validate(&self, epochs: usize) -> Result<(), ConfigError> {
        match self {
            Self::Sgd => Ok(()),
            Self::Swa(swa) => swa.validate(epochs),
            Self::Ema(ema) => ema.validate(),
            Self::Snapshot(snapshot) => snapshot.validate(epochs),
            Self::Fge(fge) => fge.validate(epochs),
            Self::Swag { swa, swag } => {
                swa.validate(epochs)?;
                swag.validate()?;
                swa.validate_twice(epochs)
            }
        }
    }

    /// The least number of epochs in which the method collects what it needs, and a name for it.
    pub(super) fn least_epochs(&self) -> (usize, &'static str) {
        match *self {
            Self::Sgd | Self::Ema(_) => (1, "the first epoch"),
            Self::Swa(swa) => (swa.start, "the epoch from which the run averages"),
            Self::Snapshot(snapshot) => (snapshot.cycles, "the number of the run's cycles"),
            Self::Fge(fge) => (
                fge.first_member_epoch().max(fge.cycle_epochs),
                "the epoch in which the run's first cycle has its middle",
            ),
            Self::Swag { swa, .. } => (
                swa.start.saturating_add(swa.every),
                "the epoch of the second collection, without which there is no SWAG",
            ),
        }
    }
}

impl SwaSettings {
    fn paper(network: &NetworkConfig, classes: usize, epochs: usize) -> Self {
        let (start, lr) = match (network, classes) {
            (NetworkConfig::Vgg(_), _) => (161, 0.01),
            (NetworkConfig::PreResNet(_), 100) => (126, 0.05),
            (NetworkConfig::PreResNet(_), _) => (126, 0.01),
            (NetworkConfig::WideResNet(_), _) => (161, 0.05),
            (NetworkConfig::ResNet(_) | NetworkConfig::DenseNet(_), _) => (68, 0.01),
        };
        let start = if epochs == paper_budget(network) {
            start
        } else {
            epochs.saturating_sub(epochs / 4).max(1)
        };
        Self {
            start,
            every: 1,
            lr,
            lowest_lr: None,
            batch_norm_batches: None,
        }
    }

    fn validate(&self, epochs: usize) -> Result<(), ConfigError> {
        let Self {
            start,
            every,
            lr,
            lowest_lr,
            batch_norm_batches,
        } = *self;
        at_least_one("--swa-start", start)?;
        at_least_one("--swa-every", every)?;
        at_least_one("--bn-batches", batch_norm_batches.unwrap_or(1))?;
        number("--swa-lr", lr, lr > 0.0, "above 0")?;
        if start > epochs {
            return Err(ConfigError::NeverAverages { start, epochs });
        }
        if let Some(lowest_lr) = lowest_lr {
            number(
                "--swa-lowest-lr",
                lowest_lr,
                lowest_lr > 0.0 && lowest_lr <= lr,
                "above 0 and at most --swa-lr",
            )?;
            let reason = "as the rate falls for so many epochs before --swa-start";
            at_most("--swa-every", every, start, reason)?;
        }
        Ok(())
    }

    /// Checks that weights are collected twice at least.
    fn validate_twice(&self, epochs: usize) -> Result<(), ConfigError> {
        if self.averaged_after(epochs) < 2 {
            let Self { start, every, .. } = *self;
            return Err(ConfigError::CollectsOnce {
                start,
                every,
                epochs,
            });
        }
        Ok(())
    }

    /// Its learning rate in words, if that is not constant.
    fn rate_in_words(&self) -> String {
        match self.lowest_lr {
            Some(lowest_lr) if lowest_lr < self.lr => {
                format!(
                    ", at a rate that falls from {} to {lowest_lr} in each cycle",
                    self.lr
                )
            }
            _ => String::new(),
        }
    }

    /// The epoch, counted from 1, with which the cycles of the learning rate begin, if it goes in cycles.
    pub(super) fn first_cycle(&self) -> Option<usize> {
        self.lowest_lr
            .map(|_| (self.start + 1).saturating_sub(self.every).max(1))
    }

    /// The number of weights in the average at the end of `epoch`, counted from 1.
    pub fn averaged_after(&self, epoch: usize) -> usize {
        match epoch.checked_sub(self.start) {
            None => 0,
            Some(epochs) => epochs / self.every + 1,
        }
    }
}

impl EmaSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        let fits = (0.0..1.0).contains(&self.decay);
        number("--ema-decay", self.decay, fits, "at least 0 and below 1")
    }
}

impl SnapshotSettings {
    fn validate(&self, epochs: usize) -> Result<(), ConfigError> {
        at_least_one("--cycles", self.cycles)?;
        at_most("--cycles", self.cycles, epochs, "the number of epochs")
    }
}

impl FgeSettings {
    fn paper(network: &NetworkConfig, epochs: usize) -> Self {
        let cycle_epochs = match network {
            NetworkConfig::Vgg(_) => 4,
            _residual => 2,
        };
        Self {
            start: Self::paper_start(epochs),
            cycle_epochs,
            lr: 0.05,
            lowest_lr: 5e-4,
        }
    }

    /// The epoch with which the first cycle begins in a run of so many: the one after four fifths of them.
    pub(crate) fn paper_start(epochs: usize) -> usize {
        epochs - epochs.div_ceil(5) + 1
    }

    fn validate(&self, epochs: usize) -> Result<(), ConfigError> {
        let Self {
            start,
            cycle_epochs,
            lr,
            lowest_lr,
        } = *self;
        at_least_one("--cycle-start", start)?;
        at_least_one("--cycle-epochs", cycle_epochs)?;
        number("--cycle-lr", lr, lr > 0.0, "above 0")?;
        number(
            "--cycle-lowest-lr",
            lowest_lr,
            lowest_lr > 0.0 && lowest_lr <= lr,
            "above 0 and at most --cycle-lr",
        )?;
        at_most(
            "--cycle-epochs",
            cycle_epochs,
            epochs,
            "the number of epochs",
        )?;
        if self.first_member_epoch() > epochs {
            return Err(ConfigError::NoMember {
                start,
                cycle_epochs,
                epochs,
            });
        }
        Ok(())
    }

    /// The epoch in which, or at whose end, the first cycle has its middle.
    fn first_member_epoch(&self) -> usize {
        self.start
            .saturating_sub(1)
            .saturating_add(self.cycle_epochs.div_ceil(2))
    }
}

impl SwagSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        number("--rank", self.rank as f64, self.rank >= 2, "at least 2")
    }
}

/// The epochs that the papers train a network for.
pub(super) fn paper_budget(network: &NetworkConfig) -> usize {
    match network {
        NetworkConfig::PreResNet(_) => 150,
        NetworkConfig::Vgg(_) | NetworkConfig::WideResNet(_) => 200,
        NetworkConfig::ResNet(_) | NetworkConfig::DenseNet(_) => 90,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::config::RunConfig;
    use crate::run::given::tests::given;

    fn of(arguments: &str) -> MethodSettings {
        given(arguments).new_run(10).unwrap().method
    }

    #[test]
    fn the_average_collects_every_few_epochs_from_its_start_on() {
        let swa = SwaSettings {
            start: 161,
            every: 1,
            lr: 0.01,
            lowest_lr: None,
            batch_norm_batches: None,
        };
        let averaged = [160, 161, 162, 200, 300].map(|epoch| swa.averaged_after(epoch));
        assert_eq!(averaged, [0, 1, 2, 40, 140]);
        let swa = SwaSettings { every: 3, ..swa };
        assert_eq!([163, 164].map(|epoch| swa.averaged_after(epoch)), [1, 2]);
    }

    #[test]
    fn each_methods_settings_are_those_of_its_paper() {
        assert_eq!(of("--method sgd"), MethodSettings::Sgd);
        assert_eq!(of("--method swa"), of(""));
        assert_eq!(
            of("--method ema"),
            MethodSettings::Ema(EmaSettings { decay: 0.999 })
        );
        // Huang et al. 2017: 5 cycles in 200 epochs.
        for epochs in ["", " --epochs 20"] {
            assert_eq!(
                of(&format!("--method snapshot{epochs}")),
                MethodSettings::Snapshot(SnapshotSettings { cycles: 5 })
            );
        }
        // Garipov et al. 2018: from epoch 160 of 200 (120 of 150) on, counted from 0.
        let fge = |start, cycle_epochs| {
            MethodSettings::Fge(FgeSettings {
                start,
                cycle_epochs,
                lr: 0.05,
                lowest_lr: 5e-4,
            })
        };
        assert_eq!(of("--method fge --model vgg16"), fge(161, 4));
        assert_eq!(of("--method fge --model wrn-28-10"), fge(161, 2));
        assert_eq!(of("--method fge --model preresnet-164"), fge(121, 2));
        // Four fifths of 24 are 19.2.
        assert_eq!(of("--method fge --epochs 24"), fge(20, 2));
        assert_eq!(of("--method fge --epochs 5"), fge(5, 2));
        let MethodSettings::Swag { swa, swag } = of("--method swag --model vgg16") else {
            panic!("SWAG");
        };
        assert_eq!((swa.start, swa.lr, swag.rank), (161, 0.01, 20));
    }

    #[test]
    fn settings_of_an_earlier_version_are_read_as_they_were() {
        let swa = r#"{"start":3,"every":1,"lr":0.01,"batch_norm_batches":null}"#;
        let read = |text: &str| serde_json::from_str::<MethodSettings>(text).unwrap();
        assert_eq!(read(r#"{"swa":null}"#), MethodSettings::Sgd);
        let averaged = read(&format!(r#"{{"swa":{swa}}}"#));
        assert_eq!(averaged.swa().unwrap().start, 3);
        assert_eq!(averaged.method(), Method::Swa);
        // They are written so, too.
        let written = |settings| serde_json::to_string::<MethodSettings>(&settings).unwrap();
        assert_eq!(written(MethodSettings::Sgd), r#"{"swa":null}"#);
        assert_eq!(written(averaged), format!(r#"{{"swa":{swa}}}"#));
    }

    #[test]
    fn the_settings_of_every_method_survive_their_file() {
        for method in ["sgd", "swa", "ema", "snapshot", "fge", "swag"] {
            let run = given(&format!("--method {method}")).new_run(10).unwrap();
            assert_eq!(run.method.method().to_string(), method);
            let text = serde_json::to_string(&run).unwrap();
            assert_eq!(serde_json::from_str::<RunConfig>(&text).unwrap(), run);
        }
    }

    #[test]
    fn settings_of_two_methods_in_one_file_are_refused() {
        let two = r#"{"swa":null,"ema":{"decay":0.9},"snapshot":{"cycles":5}}"#;
        let error = serde_json::from_str::<MethodSettings>(two).unwrap_err();
        assert!(
            error.to_string().contains("the settings of one method"),
            "{error}"
        );
        let without_swa = r#"{"swa":null,"swag":{"rank":20}}"#;
        serde_json::from_str::<MethodSettings>(without_swa).unwrap_err();
    }

    #[test]
    fn what_a_method_cannot_do_is_refused_by_flag() {
        for (arguments, expected) in [
            (
                "--method ema --ema-decay 1",
                "--ema-decay must be at least 0 and below 1, not 1",
            ),
            ("--method ema --ema-decay nan", "--ema-decay must be"),
            ("--method ema --ema-decay -0.1", "--ema-decay must be"),
            (
                "--method snapshot --cycles 0",
                "--cycles must be at least 1, not 0",
            ),
            (
                "--method snapshot --epochs 4",
                "--cycles must be at most 4, the number of epochs, not 5",
            ),
            ("--method snapshot --lr 0", "--lr must be above 0, not 0"),
            (
                "--method fge --epochs 10 --cycle-epochs 11",
                "--cycle-epochs must be at most 10, the number of epochs, not 11",
            ),
            (
                "--method fge --epochs 10 --cycle-start 10 --cycle-epochs 4",
                "put the middle of the first cycle after the last of 10 epochs",
            ),
            (
                "--method fge --epochs 10 --cycle-start 11",
                "put the middle of the first cycle after the last of 10 epochs",
            ),
            (
                "--method fge --cycle-start 0",
                "--cycle-start must be at least 1, not 0",
            ),
            (
                "--method fge --cycle-lr 0",
                "--cycle-lr must be above 0, not 0",
            ),
            (
                "--method fge --cycle-lowest-lr -1",
                "--cycle-lowest-lr must be above 0 and at most --cycle-lr, not -1",
            ),
            (
                "--method fge --cycle-lowest-lr 0.06",
                "--cycle-lowest-lr must be",
            ),
            ("--method swag --rank 1", "--rank must be at least 2, not 1"),
            (
                "--method swag --epochs 10 --swa-start 10",
                "needs weights of two collections",
            ),
            (
                "--method swag --epochs 10 --swa-start 8 --swa-every 3",
                "needs weights of two collections",
            ),
            (
                "--method swag --epochs 10 --swa-start 11",
                "--swa-start 11 is after the last",
            ),
        ] {
            let error = given(arguments).new_run(10).unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        // Just long enough.
        for arguments in [
            "--method snapshot --epochs 5",
            "--method fge --epochs 10 --cycle-start 9 --cycle-epochs 4",
            "--method fge --epochs 10 --cycle-start 10 --cycle-epochs 1",
            "--method swag --epochs 10 --swa-start 9",
        ] {
            given(arguments).new_run(10).unwrap();
        }
    }
}
