//! The plan of an experiment.

mod text;

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swa_models::NetworkConfig;
use thiserror::Error;

use super::data_set::DataSet;
use super::record::Method;
use crate::Failure;
use crate::data::DataSource;
use crate::run::config::{ImageSettings, RunConfig, SgdSettings};
use crate::run::method::MethodSettings;
use text::BUILT_IN;

/// An experiment, as a TOML file describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The location of the images, as `--data` names it. A plan that has not begun need not have
    /// it.
    pub data: Option<String>,
    /// The seeds. Each run is made once for each of them.
    pub seeds: Vec<u64>,
    /// The numbers of budgets after which the average is scored. SWA is one run, as long as the
    /// largest.
    pub swa_budgets: Vec<f64>,
    /// The numbers of budgets that SGD is trained for, each in a run of its own: 1 if they are not given. More of them are the
    /// control of SWA, which has as many.
    #[serde(default = "one_budget", skip_serializing_if = "is_one_budget")]
    pub sgd_budgets: Vec<f64>,
    /// The methods: SGD and SWA if they are not given. SWAG takes the place of SWA, which is its mean.
    #[serde(default = "default_methods", skip_serializing_if = "is_default")]
    pub methods: Vec<Method>,
    /// True if the models of a run stay when it is finished, as they do if this is not given. Its results always stay.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub keep_models: bool,
    /// The images that are used.
    #[serde(flatten)]
    pub images: ImageSettings,
    /// The networks to train.
    pub models: Vec<ModelPlan>,
}

/// A network, and how it is trained on some data sets: with SWA, SWAG and SGD for as long as the plan says, and with the other
/// methods for a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPlan {
    /// The network, by its name: see [`NetworkConfig`].
    pub model: String,
    /// The data sets.
    pub data_sets: Vec<DataSet>,
    /// The divisor of the network's widths; 1 if it is not given.
    #[serde(default = "one")]
    pub width_divisor: usize,
    /// The epochs of a budget.
    pub budget: usize,
    /// The epoch, counted from 1, at whose end weights are first collected.
    pub swa_start: usize,
    /// The learning rate under which weights are collected.
    pub swa_lr: f64,
    /// The methods, if they are not the plan's.
    pub methods: Option<Vec<Method>>,
    /// The budgets of SGD, if they are not the plan's.
    pub sgd_budgets: Option<Vec<f64>>,
    /// The settings of SGD.
    #[serde(flatten)]
    pub sgd: SgdSettings,
    /// Those of the other methods.
    #[serde(flatten)]
    pub further: FurtherSettings,
}

/// The settings of the methods beyond SGD and SWA: those of their papers where they are not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct FurtherSettings {
    /// The decay of the exponential average.
    pub ema_decay: Option<f64>,
    /// The learning rate that each cycle of Snapshot Ensembles begins with.
    pub snapshot_lr: Option<f64>,
    /// The number of cycles of Snapshot Ensembles.
    pub cycles: Option<usize>,
    /// The epoch, counted from 1, with which the first cycle of Fast Geometric Ensembling begins.
    pub cycle_start: Option<usize>,
    /// The number of epochs in a cycle of Fast Geometric Ensembling.
    pub cycle_epochs: Option<usize>,
    /// The learning rate at both ends of that cycle.
    pub cycle_lr: Option<f64>,
    /// The learning rate in its middle.
    pub cycle_lowest_lr: Option<f64>,
    /// The number of deviations that SWAG keeps.
    pub rank: Option<usize>,
}

fn default_methods() -> Vec<Method> {
    vec![Method::Sgd, Method::Swa]
}

fn is_default(methods: &[Method]) -> bool {
    methods == default_methods()
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_yes(keep: &bool) -> bool {
    *keep
}

fn one_budget() -> Vec<f64> {
    vec![1.0]
}

fn is_one_budget(budgets: &[f64]) -> bool {
    budgets == one_budget()
}

/// A run of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// Its name, such as `cifar10-vgg16-bn-swa-seed1`.
    pub name: String,
    /// The data set that it is trained on.
    pub data_set: DataSet,
    /// The method of training.
    pub method: Method,
    /// The epochs of one budget.
    pub budget: usize,
    /// Its settings.
    pub config: RunConfig,
    /// The run of the other method that trains alike at the beginning, and the number of these
    /// epochs.
    pub shares: Option<(String, usize)>,
}

/// The reason why a plan cannot be run.
#[derive(Debug, Error)]
pub enum PlanError {
    /// There is no such plan.
    #[error(
        "{name}: no such file, and no plan of this program's own, which are {}",
        BUILT_IN.map(|(name, _)| name).join(", ")
    )]
    NoSuchPlan {
        /// The name that was asked for.
        name: String,
    },

    /// It cannot be read.
    #[error("cannot read {name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// The reason.
        error: std::io::Error,
    },

    /// It is not a plan.
    #[error("{name}{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Syntax {
        /// The file or the plan's name.
        name: String,
        /// The line, if it is known.
        line: Option<usize>,
        /// The reason.
        reason: String,
    },

    /// A value of `--set` that is not of the form KEY=VALUE.
    #[error(
        "--set {0}: expected KEY=VALUE, such as lr=0.1 for every model or vgg16-bn.lr=0.1 for one, with \
         a value as in a plan (text in quotes)"
    )]
    Set(String),

    /// A value of `--set` for a model that the plan does not have.
    #[error("--set {setting}: the plan has no model {model}: name one of {models}")]
    NoSuchModel {
        /// The value.
        setting: String,
        /// The model that it names.
        model: String,
        /// Those of the plan.
        models: String,
    },

    /// A value that cannot be used.
    #[error("the plan's {key} must be {expected}, not {got}")]
    Invalid {
        /// The key.
        key: String,
        /// The values that are allowed.
        expected: &'static str,
        /// The value that was found.
        got: String,
    },

    /// There is no such model.
    #[error(transparent)]
    Model(#[from] swa_models::UnknownNetwork),

    /// Settings that are invalid.
    #[error("{run} cannot be run: {error}")]
    Run {
        /// The run.
        run: String,
        /// The reason.
        error: String,
    },

    /// Two runs would be the same.
    #[error("the plan has {run} twice: train a network on a data set in one way only")]
    Twice {
        /// The run.
        run: String,
    },
}

impl PlanError {
    /// The error for a run whose settings are invalid. Where `error` names an argument, as in
    /// `--swa-lr`, it names the plan's key, `swa_lr`.
    pub(super) fn of_run(run: &str, error: &impl Display) -> Self {
        let error = error.to_string();
        let words = error.split(' ').map(|word| match word.strip_prefix("--") {
            None => word.to_owned(),
            Some(argument) => argument.replace('-', "_"),
        });
        Self::Run {
            run: run.to_owned(),
            error: words.collect::<Vec<_>>().join(" "),
        }
    }
}

impl Plan {
    /// The same plan on images that are made up. If a network is trained differently on each data
    /// set, its first training is kept.
    pub fn on_synthetic_images(mut self) -> Self {
        let mut names = HashSet::new();
        self.models
            .retain(|model| names.insert(model.model.clone()));
        for model in &mut self.models {
            model.data_sets = vec![DataSet::Synthetic];
        }
        self
    }

    /// The data sets, each once.
    pub fn data_sets(&self) -> Vec<DataSet> {
        let mut data_sets = Vec::new();
        for set in self.models.iter().flat_map(|model| &model.data_sets) {
            if !data_sets.contains(set) {
                data_sets.push(*set);
            }
        }
        data_sets
    }

    /// The runs, in the order in which they are made. They go seed by seed, so that the whole table
    /// is complete for one seed before the next one begins. The SWA or SWAG run of a model comes before its
    /// SGD run of one budget, which takes over its beginning.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if one cannot be run.
    pub fn runs(&self) -> Result<Vec<PlannedRun>, PlanError> {
        self.validate()?;
        let data_sets = self.data_sets();
        let mut runs = Vec::new();
        for seed in &self.seeds {
            for data_set in &data_sets {
                let models = self.models.iter();
                for model in models.filter(|model| model.data_sets.contains(data_set)) {
                    runs.extend(self.of_model(model, *data_set, *seed)?);
                }
            }
        }
        let mut names = HashSet::new();
        for run in &runs {
            if !names.insert(&run.name) {
                return Err(PlanError::Twice {
                    run: run.name.clone(),
                });
            }
        }
        Ok(runs)
    }

    /// Tells whether this plan has all runs of another one, as they are there. It may have further ones.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if a run of either cannot be run.
    pub(super) fn has_all_runs_of(&self, other: &Self) -> Result<bool, PlanError> {
        let runs = self.runs()?;
        let is_same = |run: &PlannedRun, other: &PlannedRun| {
            run.name == other.name && run.config == other.config && run.budget == other.budget
        };
        let mut others = other.runs()?.into_iter();
        Ok(others.all(|other| runs.iter().any(|run| is_same(run, &other))))
    }

    /// The methods with which `model` is trained, in the order of its runs.
    fn methods<'a>(&'a self, model: &'a ModelPlan) -> impl Iterator<Item = Method> + 'a {
        const ORDER: [Method; 6] = [
            Method::Swa,
            Method::Swag,
            Method::Sgd,
            Method::Ema,
            Method::Snapshot,
            Method::Fge,
        ];
        let methods = model.methods.as_ref().unwrap_or(&self.methods);
        let is_swa_of_swag =
            |method: Method| method == Method::Swa && methods.contains(&Method::Swag);
        ORDER
            .into_iter()
            .filter(move |method| methods.contains(method) && !is_swa_of_swag(*method))
    }

    /// The numbers of budgets that `model` is trained for with a method, in the order of its runs. SWA's are one run.
    fn budgets(&self, model: &ModelPlan, method: Method) -> Vec<f64> {
        let longest = self.swa_budgets.iter().copied().fold(1.0, f64::max);
        match method {
            Method::Swa | Method::Swag => vec![longest],
            Method::Sgd => {
                let own = model.sgd_budgets.as_ref();
                own.unwrap_or(&self.sgd_budgets).clone()
            }
            Method::Ema | Method::Snapshot | Method::Fge => one_budget(),
        }
    }

    /// The runs of a model: one a method, and of SGD one a number of budgets.
    fn of_model(
        &self,
        model: &ModelPlan,
        data_set: DataSet,
        seed: u64,
    ) -> Result<Vec<PlannedRun>, PlanError> {
        let network: NetworkConfig = model.model.parse()?;
        let methods = self.methods(model).flat_map(|method| {
            let budgets = self.budgets(model, method).into_iter();
            budgets.map(move |budgets| (method, budgets))
        });
        let mut runs = Vec::new();
        for (method, budgets) in methods {
            let length = if method == Method::Sgd && budgets != 1.0 {
                format!("-{budgets}-budgets")
            } else {
                String::new()
            };
            let name = format!("{data_set}-{}-{method}{length}-seed{seed}", network.name());
            let mut config = self.config(model, &network, data_set, method, seed);
            config.epochs = epoch_after(budgets, model.budget);
            let validated = config.validate();
            validated.map_err(|error| PlanError::of_run(&name, &error))?;
            runs.push(PlannedRun {
                name,
                data_set,
                method,
                budget: model.budget,
                config,
                shares: None,
            });
        }
        let averaging = runs
            .iter()
            .position(|run| run.config.method.swa().is_some());
        // Of SGD's runs, the others slow down later, and begin by themselves.
        let plain = runs
            .iter()
            .position(|run| run.method == Method::Sgd && run.config.epochs == run.budget);
        if let (Some(averaging), Some(plain)) = (averaging, plain) {
            let before_collecting = model.swa_start - 1;
            let (swa, sgd) = (&runs[averaging], &runs[plain]);
            let shared = swa.config.epochs_alike(&sgd.config, before_collecting);
            let shared = shared.map_err(|error| PlanError::of_run(&swa.name, &error))?;
            if shared > 0 {
                let names = [swa.name.clone(), sgd.name.clone()];
                let [swa, sgd] = names;
                runs[averaging].shares = Some((sgd, shared));
                runs[plain].shares = Some((swa, shared));
            }
        }
        Ok(runs)
    }

    /// The settings of a model's run with a method.
    fn config(
        &self,
        model: &ModelPlan,
        network: &NetworkConfig,
        data_set: DataSet,
        method: Method,
        seed: u64,
    ) -> RunConfig {
        let data = self.data.as_deref().unwrap_or("synthetic");
        let further = model.further;
        let mut config = RunConfig {
            data: data_set.location(data, self.data_sets().len() > 1),
            images: self.images,
            view: None,
            model: network.name(),
            init: None,
            width_divisor: model.width_divisor,
            epochs: model.budget,
            sgd: model.sgd,
            accumulate: 1,
            method: MethodSettings::Sgd,
            keep_averages: None,
            seed,
        };
        config.set_method(method, network, data_set.classes());
        match &mut config.method {
            MethodSettings::Sgd => {}
            MethodSettings::Ema(ema) => set(&mut ema.decay, further.ema_decay),
            MethodSettings::Snapshot(snapshot) => {
                set(&mut snapshot.cycles, further.cycles);
                set(&mut config.sgd.lr, further.snapshot_lr);
            }
            MethodSettings::Fge(fge) => {
                set(&mut fge.start, further.cycle_start);
                set(&mut fge.cycle_epochs, further.cycle_epochs);
                set(&mut fge.lr, further.cycle_lr);
                set(&mut fge.lowest_lr, further.cycle_lowest_lr);
            }
            MethodSettings::Swag { swag, .. } => set(&mut swag.rank, further.rank),
            MethodSettings::Swa(_) => {}
        }
        if let MethodSettings::Swa(swa) | MethodSettings::Swag { swa, .. } = &mut config.method {
            swa.start = model.swa_start;
            swa.lr = model.swa_lr;
        }
        config
    }

    fn validate(&self) -> Result<(), PlanError> {
        let check = |key: &str, expected, fits: bool, got: String| {
            if fits {
                Ok(())
            } else {
                Err(PlanError::Invalid {
                    key: key.to_owned(),
                    expected,
                    got,
                })
            }
        };
        let fits = are_distinct(&self.seeds);
        let got = format!("{:?}", self.seeds);
        check("seeds", "at least one number, each once", fits, got)?;

        let budgets = |budgets: &f64| (1.0..=100.0).contains(budgets);
        let fits = !self.swa_budgets.is_empty() && self.swa_budgets.iter().all(budgets);
        let got = format!("{:?}", self.swa_budgets);
        check("swa_budgets", "numbers from 1 to 100", fits, got)?;
        let are_budgets = |list: &[f64], budget: Option<usize>| {
            let lengths = list.iter().map(|budgets| match budget {
                // Two numbers may be as many epochs.
                Some(budget) => epoch_after(*budgets, budget) as u64,
                None => budgets.to_bits(),
            });
            list.iter().all(budgets) && are_distinct(lengths)
        };
        let expected_lengths = "numbers from 1 to 100, each of them another number of epochs";
        let got = format!("{:?}", self.sgd_budgets);
        let fits = are_budgets(&self.sgd_budgets, None);
        check("sgd_budgets", expected_lengths, fits, got)?;

        check(
            "models",
            "at least one",
            !self.models.is_empty(),
            "none".to_owned(),
        )?;
        let expected = "one or more of sgd, swa, ema, snapshot, fge and swag, each once";
        let listed = |methods: &[Method]| {
            let names: Vec<String> = methods.iter().map(Method::to_string).collect();
            format!("[{}]", names.join(", "))
        };
        let fits = are_distinct(&self.methods);
        check("methods", expected, fits, listed(&self.methods))?;
        for model in &self.models {
            let key = |key: &str| format!("{key} of {}", model.model);
            if let Some(methods) = &model.methods {
                let fits = are_distinct(methods);
                check(&key("methods"), expected, fits, listed(methods))?;
            }
            let got = model.budget.to_string();
            check(&key("budget"), "at least 1", model.budget >= 1, got)?;
            let lengths = model.sgd_budgets.as_ref().unwrap_or(&self.sgd_budgets);
            let fits = are_budgets(lengths, Some(model.budget));
            let got = format!("{lengths:?}");
            check(&key("sgd_budgets"), expected_lengths, fits, got)?;
            let no_data = model.data_sets.is_empty();
            let got = "none".to_owned();
            check(&key("data_sets"), "at least one", !no_data, got)?;
            let start = (1..=model.budget).contains(&model.swa_start);
            let expected = "at least 1 and at most its budget";
            let got = model.swa_start.to_string();
            check(&key("swa_start"), expected, start, got)?;
        }
        Ok(())
    }
}

/// Sets a setting to the value that is given, if one is.
fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

/// Tells whether there are values, each once.
fn are_distinct<T: Hash + Eq>(values: impl IntoIterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    values.into_iter().all(|value| seen.insert(value)) && !seen.is_empty()
}

impl PlannedRun {
    /// Checks, before anything is run, that there is such a network and that the data is there.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn check(&self, device: &Device) -> Result<(), Failure> {
        let Ok(source) = self.config.data.parse::<DataSource>();
        source.check()?;
        let network = self.config.network(self.data_set.classes(), device);
        Ok(network
            .map(drop)
            .map_err(|error| PlanError::of_run(&self.name, &error))?)
    }
}

/// The epoch, counted from 1, at whose end this number of `budgets` is over. It is rounded to the
/// nearest epoch, halves up, so that 1.25 budgets of 150 are 188 epochs.
pub fn epoch_after(budgets: f64, budget: usize) -> usize {
    (budgets * budget as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use swa_train::{Collect, PaperLrSchedulerConfig, RunLength};

    use super::*;
    use crate::run::config::EvaluateOn;

    pub(super) fn built_in(name: &str) -> Plan {
        Plan::parse(&Plan::text(name).unwrap(), name, &[]).unwrap()
    }

    /// A plan of one network, for these numbers of epochs.
    fn plan(budget: usize, swa_start: usize) -> Plan {
        let settings = [
            format!("budget={budget}"),
            format!("swa_start={swa_start}"),
            "seeds=[1]".to_owned(),
        ];
        let mut plan = Plan::parse(&Plan::text("small").unwrap(), "small", &settings).unwrap();
        plan.models.truncate(1);
        plan.on_synthetic_images()
    }

    /// Izmailov et al. 2018, section 4.1, and the commands of the paper's code.
    #[test]
    fn the_papers_plan_is_the_papers() {
        let plan = built_in("paper");
        assert_eq!(plan.seeds.len(), 3);
        assert_eq!(plan.swa_budgets, [1.0, 1.25, 1.5]);
        let images = plan.images;
        assert_eq!((images.train_items, images.validation_items), (None, None));
        assert_eq!(images.evaluate_on, EvaluateOn::Test);
        let rows: Vec<_> = plan
            .models
            .iter()
            .flat_map(|model| model.data_sets.iter().map(move |set| (model, set)))
            .map(|(model, set)| {
                assert_eq!((model.sgd.batch_size, model.sgd.momentum), (128, 0.9));
                assert_eq!(model.width_divisor, 1);
                let name = format!("{} {set}", model.model);
                let [budgets] = plan.budgets(model, Method::Swa)[..] else {
                    panic!("SWA is one run");
                };
                let longest = epoch_after(budgets, model.budget);
                let epochs = [model.budget, model.swa_start, longest];
                (
                    name,
                    epochs,
                    [model.sgd.lr, model.swa_lr, model.sgd.weight_decay],
                )
            })
            .collect();
        let row = |name: &str, epochs, rates| (name.to_owned(), epochs, rates);
        assert_eq!(
            rows,
            [
                row("vgg16 cifar10", [200, 161, 300], [0.05, 0.01, 5e-4]),
                row("vgg16 cifar100", [200, 161, 300], [0.05, 0.01, 5e-4]),
                row("preresnet-110 cifar10", [150, 126, 225], [0.1, 0.01, 3e-4]),
                row("preresnet-110 cifar100", [150, 126, 225], [0.1, 0.05, 3e-4]),
                row("preresnet-164 cifar10", [150, 126, 225], [0.1, 0.01, 3e-4]),
                row("preresnet-164 cifar100", [150, 126, 225], [0.1, 0.05, 3e-4]),
                row("wrn-28-10 cifar10", [200, 161, 300], [0.1, 0.05, 5e-4]),
                row("wrn-28-10 cifar100", [200, 161, 300], [0.1, 0.05, 5e-4]),
            ]
        );
    }

    /// The rates of the paper's VGG16 and PreResNets on CIFAR-10; starts after 25 of 30 epochs (125 of 150) and 16 of 20 (160 of 200).
    #[test]
    fn the_gpus_plan_is_the_papers_in_short_with_its_control() {
        let plan = built_in("gpu");
        assert!(!plan.keep_models);
        assert_eq!(
            (plan.images.train_items, plan.images.evaluate_on),
            (None, EvaluateOn::Test)
        );
        let paper = built_in("paper");
        for (model, like) in plan.models.iter().zip([&paper.models[1], &paper.models[0]]) {
            assert_eq!((model.sgd, model.swa_lr), (like.sgd, like.swa_lr));
            assert_eq!(model.width_divisor, 1);
        }
        let runs = plan.runs().unwrap();
        let of_a_seed: Vec<_> = runs[..6]
            .iter()
            .map(|run| (run.name.as_str(), run.config.epochs))
            .collect();
        assert_eq!(
            of_a_seed,
            [
                ("cifar10-preresnet-20-swa-seed1", 45),
                ("cifar10-preresnet-20-sgd-seed1", 30),
                ("cifar10-preresnet-20-sgd-1.5-budgets-seed1", 45),
                ("cifar10-vgg16-bn-swa-seed1", 30),
                ("cifar10-vgg16-bn-sgd-seed1", 20),
                ("cifar10-vgg16-bn-sgd-1.5-budgets-seed1", 30),
            ]
        );
        let starts = plan.models.iter().map(|model| model.swa_start);
        assert_eq!(starts.collect::<Vec<_>>(), [26, 17]);
        assert!(runs[6..].iter().all(|run| run.config.seed > 1));
    }

    /// Epochs counted from 0, as the paper's code counts them. VGG16, by hand:
    /// SGD at 150 of 200: t = 0.75, 0.05 * (1 - 0.99 * 0.25 / 0.4) = 0.0190625; at the end 0.0005.
    /// SWA at 120 of 161: t = 0.745342, 0.05 * (1 - 0.8 * 0.245342 / 0.4) = 0.0254658.
    /// PreResNet on CIFAR-100: SWA at 90 of 126: t = 0.714286, 0.1 * (1 - 0.5 * 0.214286 / 0.4) =
    /// 0.0732143.
    #[test]
    fn the_papers_runs_have_its_learning_rates_worked_by_hand() {
        let plan = built_in("paper");
        let schedules = |model: &ModelPlan| {
            let run = RunLength::new(model.budget, 1).unwrap();
            let sgd = PaperLrSchedulerConfig::sgd(model.sgd.lr, run)
                .init()
                .unwrap();
            let collect = Collect::from_epoch(model.swa_start, &run).unwrap();
            let swa = PaperLrSchedulerConfig::swa(model.sgd.lr, model.swa_lr, &collect);
            (sgd, swa.init().unwrap())
        };
        let near = |rate: f64, expected: f64| {
            assert!((rate - expected).abs() < 1e-7, "{rate} for {expected}");
        };
        let (sgd, swa) = schedules(&plan.models[0]);
        near(sgd.lr(100), 0.05);
        near(sgd.lr(150), 0.019_062_5);
        near(sgd.lr(199), 0.000_5);
        near(swa.lr(80), 0.05);
        near(swa.lr(120), 0.025_465_8);
        // Collected at a rate that stays, to the end of one and a half budgets.
        for epoch in [160, 199, 200, 299] {
            near(swa.lr(epoch), 0.01);
        }
        let (sgd, swa) = schedules(&plan.models[2]);
        near(swa.lr(90), 0.073_214_3);
        near(swa.lr(224), 0.05);
        // 112 of 150: t = 0.746667, 0.1 * (1 - 0.99 * 0.246667 / 0.4) = 0.03895.
        near(sgd.lr(112), 0.038_95);
    }

    #[test]
    fn sgd_and_swa_share_the_epochs_before_either_slows_down() {
        // SWA's rate falls after half of the epochs before its start: of 161, from epoch 81 (counted
        // from 0) on; of 126, from 64 on. SGD's falls later.
        let shared = |plan: &Plan| -> Vec<usize> {
            let pairs = plan.models.iter().map(|model| {
                let runs = plan.of_model(model, model.data_sets[0], 1).unwrap();
                runs[0].shares.as_ref().map_or(0, |(_, epochs)| *epochs)
            });
            pairs.collect()
        };
        assert_eq!(shared(&built_in("paper")), [81, 64, 64, 64, 64, 81]);
        // Half of 18 is 9: epochs 0 to 9.
        assert_eq!(shared(&plan(24, 18)), [10]);
        // Nothing that was averaged is shared.
        assert_eq!(shared(&plan(10, 2)), [1]);
        assert_eq!(shared(&plan(10, 1)), [0]);
    }

    #[test]
    fn runs_come_seed_by_seed_and_swa_before_the_sgd_it_starts() {
        let mut plan = built_in("small");
        plan.seeds = vec![1, 2];
        let runs = plan.runs().unwrap();
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "cifar10-vgg16-bn-swa-seed1",
                "cifar10-vgg16-bn-sgd-seed1",
                "cifar10-preresnet-14-swa-seed1",
                "cifar10-preresnet-14-sgd-seed1",
                "cifar10-preresnet-14-sgd-1.5-budgets-seed1",
                "cifar10-vgg16-bn-swa-seed2",
                "cifar10-vgg16-bn-sgd-seed2",
                "cifar10-preresnet-14-swa-seed2",
                "cifar10-preresnet-14-sgd-seed2",
                "cifar10-preresnet-14-sgd-1.5-budgets-seed2",
            ]
        );
        let [swa, sgd] = [&runs[0], &runs[1]];
        assert_eq!((swa.config.epochs, sgd.config.epochs), (36, 24));
        assert_eq!(swa.shares, Some((sgd.name.clone(), 10)));
        assert_eq!(sgd.shares, Some((swa.name.clone(), 10)));
        assert_eq!((swa.method, sgd.method), (Method::Swa, Method::Sgd));
    }

    #[test]
    fn sgd_is_trained_for_each_of_its_budgets_in_its_own_run() {
        let settings = ["sgd_budgets=[1.5, 1.0]", "seeds=[1]"].map(str::to_owned);
        let plan = Plan::parse(&Plan::text("small").unwrap(), "small", &settings).unwrap();
        let runs = plan.runs().unwrap();
        let of_vgg: Vec<_> = runs[..3]
            .iter()
            .map(|run| (run.name.as_str(), run.config.epochs, run.budget))
            .collect();
        assert_eq!(
            of_vgg,
            [
                ("cifar10-vgg16-bn-swa-seed1", 36, 24),
                ("cifar10-vgg16-bn-sgd-1.5-budgets-seed1", 36, 24),
                ("cifar10-vgg16-bn-sgd-seed1", 24, 24),
            ]
        );
        // SWA begins as SGD of one budget does. The other one's rate falls from epoch 19 on, and it takes nothing over.
        assert_eq!(runs[0].shares, Some((runs[2].name.clone(), 10)));
        assert_eq!(runs[1].shares, None);
        assert_eq!(runs[1].config.method, MethodSettings::Sgd);
        // A model has its own budgets, here in the plan itself.
        let lengths = runs[3..].iter().map(|run| (run.method, run.config.epochs));
        let expected = [(Method::Swa, 36), (Method::Sgd, 24), (Method::Sgd, 36)];
        assert_eq!(lengths.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_plan_with_swag_trains_no_swa_and_other_methods_last() {
        let of = |methods: &str, model: &str| -> Vec<String> {
            let settings = [methods, model, "seeds=[1]"].map(str::to_owned);
            let plan = Plan::parse(&Plan::text("small").unwrap(), "small", &settings);
            let runs = plan.unwrap().runs().unwrap();
            let runs = runs.iter().filter(|run| run.config.model == "preresnet-14");
            let runs = runs.filter(|run| !run.name.contains("budgets"));
            runs.map(|run| run.method.to_string()).collect()
        };
        let all = "methods=[\"fge\", \"sgd\", \"swa\", \"ema\", \"swag\", \"snapshot\"]";
        assert_eq!(
            of(all, "preresnet-14.budget=24"),
            ["swag", "sgd", "ema", "snapshot", "fge"]
        );
        // A model has its own methods.
        assert_eq!(
            of(all, "preresnet-14.methods=[\"ema\", \"swa\"]"),
            ["swa", "ema"]
        );
        assert_eq!(of("methods=[\"sgd\"]", "preresnet-14.budget=24"), ["sgd"]);
    }

    #[test]
    fn all_methods_but_swas_are_trained_for_one_budget() {
        let settings = ["methods=[\"sgd\", \"swag\", \"fge\", \"snapshot\", \"ema\"]"];
        let settings = settings.map(str::to_owned);
        let plan = Plan::parse(&Plan::text("small").unwrap(), "small", &settings).unwrap();
        let runs = plan.runs().unwrap();
        // The first network is a VGG16, with cycles of four epochs from the one after 19.2 of 24 on.
        let epochs = runs[..5].iter().map(|run| (run.method, run.config.epochs));
        assert_eq!(
            epochs.collect::<Vec<_>>(),
            [
                (Method::Swag, 36),
                (Method::Sgd, 24),
                (Method::Ema, 24),
                (Method::Snapshot, 24),
                (Method::Fge, 24),
            ]
        );
        assert_eq!(runs[0].shares, Some((runs[1].name.clone(), 10)));
        assert_eq!(runs[4].shares, None);
        let MethodSettings::Fge(fge) = runs[4].config.method else {
            panic!("FGE");
        };
        assert_eq!((fge.start, fge.cycle_epochs, fge.lr), (20, 4, 0.05));
        assert_eq!((runs[3].config.sgd.lr, runs[1].config.sgd.lr), (0.2, 0.02));
    }

    /// Garipov et al. 2018: of 200 epochs, 160 as plain SGD, and 120 of 150; Maddox et al. 2019: 20 deviations.
    #[test]
    fn the_papers_plan_has_fge_and_swag_where_their_papers_do() {
        let runs = built_in("paper").runs().unwrap();
        let of = |name: &str| {
            let run = runs.iter().find(|run| run.name == name);
            run.map(|run| run.config.clone())
        };
        for data_set in ["cifar10", "cifar100"] {
            for (network, start, cycle_epochs) in [
                ("vgg16", 161, 4),
                ("preresnet-164", 121, 2),
                ("wrn-28-10", 161, 2),
            ] {
                let fge = of(&format!("{data_set}-{network}-fge-seed1")).unwrap();
                let MethodSettings::Fge(fge) = fge.method else {
                    panic!("FGE");
                };
                assert_eq!((fge.start, fge.cycle_epochs), (start, cycle_epochs));
                assert_eq!((fge.lr, fge.lowest_lr), (0.05, 5e-4));
                let swag = of(&format!("{data_set}-{network}-swag-seed1")).unwrap();
                let MethodSettings::Swag { swag, .. } = swag.method else {
                    panic!("SWAG");
                };
                assert_eq!(swag.rank, 20);
                assert_eq!(of(&format!("{data_set}-{network}-swa-seed1")), None);
            }
            assert!(of(&format!("{data_set}-preresnet-110-swa-seed1")).is_some());
        }
    }
}
