//! The settings that are given on the command line.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use clap::builder::EnumValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;
use swa_models::NetworkConfig;

use super::config::{ConfigError, InitialWeights, RunConfig, absolute, located};
use super::method::{Method, MethodSettings};
use super::recipe::{Paper, Recipe};
use crate::data::View;

/// The argument for the method.
const METHOD: &str = "method";

/// The argument by which images that cannot be read are left out.
const SKIP_UNREADABLE: &str = "view.skip_unreadable";

/// The settings that may be others when a run goes on.
const CAN_CHANGE: [&str; 3] = ["data", "epochs", SKIP_UNREADABLE];

/// Another argument for a run of plain SGD.
const NO_SWA: &str = "no_swa";

/// The settings given on the command line. Those that are not given keep their value in a run that
/// is resumed. In a new run they are those of a recipe for the model.
///
/// The arguments are the fields of [`RunConfig`].
#[derive(Debug, Clone)]
pub struct GivenSettings<R = Paper> {
    given: ArgMatches,
    recipe: PhantomData<R>,
}

impl<R: Recipe> Args for GivenSettings<R> {
    fn augment_args(command: Command) -> Command {
        Self::augment_args_for_update(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        let method = Arg::new(METHOD)
            .long("method")
            .value_name("NAME")
            .value_parser(EnumValueParser::<Method>::new())
            .help("The method of training [default: swa]");
        let no_swa = Arg::new(NO_SWA)
            .long("no-swa")
            .action(ArgAction::SetTrue)
            .conflicts_with(METHOD)
            .help("The same as --method sgd");
        let command = RunConfig::augment_args_for_update(command);
        let command = InitialWeights::augment_args_for_update(command);
        let command = View::augment_args_for_update(command);
        let command = MethodSettings::augment_args(command.arg(method).arg(no_swa));
        R::arguments(command)
    }
}

impl<R: Recipe> FromArgMatches for GivenSettings<R> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            given: matches.clone(),
            recipe: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given = matches.clone();
        Ok(())
    }
}

impl<R: Recipe> GivenSettings<R> {
    /// The settings of a new run on images of so many `classes`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an unknown model, or a number that cannot be used.
    pub fn new_run(&self, classes: usize) -> Result<RunConfig, ConfigError> {
        let default = R::settings(&R::MODEL.parse()?, classes);
        let network: NetworkConfig = self.on_top_of(default)?.model.parse()?;
        let method = self.method();
        self.check_flags(method)?;
        let mut config = R::settings(&network, classes);
        for derive in R::DERIVED {
            config = self.on_top_of(config)?;
            derive(&mut config, method, &network, classes);
        }
        let config = self.on_top_of(config)?;
        config.validate()?;
        Ok(config)
    }

    /// The method of a new run.
    fn method(&self) -> Method {
        if self.given.get_flag(NO_SWA) {
            return Method::Sgd;
        }
        let given = self.given.get_one::<Method>(METHOD);
        given.copied().unwrap_or(Method::Swa)
    }

    /// Checks that no setting of another method is given.
    fn check_flags(&self, method: Method) -> Result<(), ConfigError> {
        for argument in Self::augment_args(Command::new("")).get_arguments() {
            let path = argument.get_id().as_str();
            let Some((key, _)) = path.split_once('.') else {
                continue;
            };
            let methods: Vec<Method> = Method::with_key(key).collect();
            if self.has(path) && !methods.is_empty() && !methods.contains(&method) {
                return Err(ConfigError::OfAnotherMethod {
                    flag: format!("--{}", argument.get_long().unwrap_or(path)),
                    methods,
                    method,
                });
            }
        }
        Ok(())
    }

    /// `config` with what is given in place of its own.
    fn on_top_of(&self, mut config: RunConfig) -> Result<RunConfig, ConfigError> {
        let given = &self.given;
        config.update_from_arg_matches(given)?;
        config.data = located(&config.data);
        config.model = config.model.parse::<NetworkConfig>()?.name();
        if let Some(init) = &mut config.init {
            init.update_from_arg_matches(given)?;
        } else if self.has("init.file") {
            config.init = Some(InitialWeights::from_arg_matches(given)?);
        }
        if let Some(init) = &mut config.init {
            init.file = absolute(&init.file);
            if init.file.to_str().is_none() {
                return Err(ConfigError::Invalid {
                    flag: "--weights",
                    expected: "a path in UTF-8",
                    got: init.file.display().to_string(),
                });
            }
        }
        match &mut config.view {
            Some(view) => view.update_from_arg_matches(given)?,
            None => self.check_no_view()?,
        }
        config.method.update_from(given)?;
        Ok(config)
    }

    /// Checks that nothing is said of images of any size.
    fn check_no_view(&self) -> Result<(), ConfigError> {
        let arguments = View::augment_args_for_update(Command::new(""));
        let given = arguments
            .get_arguments()
            .find(|argument| self.has(argument.get_id().as_str()));
        match given {
            None => Ok(()),
            Some(argument) => Err(ConfigError::NoView {
                flag: format!("--{}", argument.get_long().unwrap_or_default()),
            }),
        }
    }

    /// The settings of a run that goes on, of which those that it was begun with are `run`'s. The
    /// location of the images and the number of epochs are what is given, if they are given, and images that cannot be read are left
    /// out from now on, if that is given.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Differs`] if anything else that is given differs from the run.
    pub fn resumed(&self, run: &RunConfig) -> Result<RunConfig, ConfigError> {
        let given = self.on_top_of(run.clone())?;
        let (here, mut there) = (by_path(&given), by_path(run));
        let method = run.method.method();
        there.insert(METHOD.to_owned(), method.to_string());
        let mut differences = Vec::new();
        for argument in Self::augment_args(Command::new("")).get_arguments() {
            let path = argument.get_id().as_str();
            if !self.has(path) || CAN_CHANGE.contains(&path) {
                continue;
            }
            let flag = argument.get_long().unwrap_or(path);
            if path == NO_SWA {
                if method != Method::Sgd {
                    differences.push(format!("--{flag} is given here and not there"));
                }
                continue;
            }
            // A run has no place for the settings of another method.
            let here = here.get(path).cloned().or_else(|| self.raw(path));
            let here = here.unwrap_or_default();
            match there.get(path) {
                Some(there) if *there == here => {}
                Some(there) => {
                    differences.push(format!("--{flag} is {here} here and {there} there"));
                }
                None => differences.push(format!("--{flag} is {here} here and not given there")),
            }
        }
        if !differences.is_empty() {
            return Err(ConfigError::Differs(differences));
        }
        let mut config = RunConfig {
            data: given.data,
            epochs: given.epochs,
            ..run.clone()
        };
        if let (Some(view), true) = (&mut config.view, self.has(SKIP_UNREADABLE)) {
            view.skip_unreadable = true;
        }
        config.validate_begun()?;
        Ok(config)
    }

    fn has(&self, id: &str) -> bool {
        self.given.value_source(id) == Some(ValueSource::CommandLine)
    }

    fn raw(&self, id: &str) -> Option<String> {
        let value = self.given.get_raw(id)?.next()?;
        Some(value.to_string_lossy().into_owned())
    }
}

/// The settings of a run that have a value, by their path in `config.json`, such as `swa.lr`.
fn by_path(config: &RunConfig) -> BTreeMap<String, String> {
    fn collect(path: String, value: Value, values: &mut BTreeMap<String, String>) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (key, value) in fields {
                    let separator = if path.is_empty() { "" } else { "." };
                    collect(format!("{path}{separator}{key}"), value, values);
                }
            }
            Value::String(text) => {
                values.insert(path, text);
            }
            value => {
                values.insert(path, value.to_string());
            }
        }
    }
    let mut values = BTreeMap::new();
    collect(String::new(), serde_json::json!(config), &mut values);
    values
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The settings given by these arguments.
    pub(crate) fn given(arguments: &str) -> GivenSettings {
        of_recipe(arguments)
    }

    /// The same in the program of another recipe.
    pub(crate) fn of_recipe<R: Recipe>(arguments: &str) -> GivenSettings<R> {
        let command = GivenSettings::<R>::augment_args(Command::new("").no_binary_name(true));
        let given = command.get_matches_from(arguments.split_whitespace());
        GivenSettings::from_arg_matches(&given).unwrap()
    }

    #[test]
    fn settings_that_are_not_given_are_the_papers() {
        let run = given("--model vgg16-bn").new_run(10).unwrap();
        let sgd = run.sgd;
        assert_eq!((run.epochs, sgd.lr, sgd.weight_decay), (200, 0.05, 5e-4));
        assert_eq!((sgd.batch_size, sgd.momentum), (128, 0.9));
        let swa = run.method.swa().unwrap();
        assert_eq!((swa.start, swa.lr, swa.every), (161, 0.01, 1));
    }

    #[test]
    fn on_a_hundred_classes_preresnet_averages_at_the_papers_rate() {
        let lr = |arguments: &str, classes: usize| {
            let run = given(arguments).new_run(classes);
            run.unwrap().method.swa().unwrap().lr
        };
        assert_eq!(lr("--model preresnet-110", 10), 0.01);
        assert_eq!(lr("--model preresnet-110", 100), 0.05);
        assert_eq!(lr("--model preresnet-110 --swa-lr 0.02", 100), 0.02);
        assert_eq!(lr("--model vgg16", 100), 0.01);
    }

    #[test]
    fn a_shorter_run_averages_its_last_quarter() {
        let start = |arguments: &str| {
            let run = given(arguments).new_run(10).unwrap();
            run.method.swa().unwrap().start
        };
        assert_eq!(start("--epochs 20"), 15);
        assert_eq!(start("--epochs 6"), 5);
        assert_eq!(start("--epochs 1"), 1);
        assert_eq!(start("--epochs 20 --swa-start 3"), 3);
    }

    #[test]
    fn plain_sgd_and_initial_weights_are_given_too() {
        let run = given("--no-swa --weights a.pt --weights-key best").new_run(10);
        let run = run.unwrap();
        assert_eq!(run.method, MethodSettings::Sgd);
        let init = run.init.unwrap();
        assert_eq!(init.file, std::env::current_dir().unwrap().join("a.pt"));
        assert_eq!(init.key.as_deref(), Some("best"));
    }

    #[test]
    fn invalid_settings_are_refused_by_flag() {
        for (arguments, expected) in [
            ("--lr -0.1", "--lr must be above 0, not -0.1"),
            ("--epochs 0", "--epochs must be at least 1, not 0"),
            ("--momentum 1", "--momentum must be"),
            ("--swa-lr nan", "--swa-lr must be"),
            (
                "--swa-start 151",
                "--swa-start 151 is after the last of 150",
            ),
            ("--evaluate-on validation", "--validation-items"),
        ] {
            let error = given(arguments).new_run(10).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn weights_in_a_file_whose_name_is_no_utf_8_are_refused() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;

        let command = GivenSettings::<Paper>::augment_args(Command::new("").no_binary_name(true));
        let file = OsString::from_vec(b"caf\xE9.pt".to_vec());
        let given = command.get_matches_from(["--weights".into(), file]);
        let given = GivenSettings::<Paper>::from_arg_matches(&given).unwrap();
        let run = RunConfig::paper(&"preresnet-20".parse().unwrap(), 10);
        for refused in [given.new_run(10), given.resumed(&run)] {
            let error = refused.unwrap_err().to_string();
            assert!(
                error.starts_with("--weights must be a path in UTF-8"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_run_is_resumed_with_its_own_settings_only() {
        let run = given("--epochs 20 --lr 0.2").new_run(10).unwrap();
        for same in ["", "--epochs 20 --lr 2e-1 --data synthetic"] {
            assert_eq!(given(same).resumed(&run).unwrap(), run);
        }

        let refusal = |arguments: &str, run: &RunConfig| {
            let refused = given(arguments).resumed(run);
            refused.unwrap_err().to_string()
        };
        let error = refusal(
            "--batch-size 30 --bn-batches 5 --padding none --weights a.pt",
            &run,
        );
        for difference in [
            "--batch-size is 30 here and 128 there",
            "--bn-batches is 5 here and not given",
            "--padding is none here and zero there",
            "a.pt here and not given",
        ] {
            assert!(error.contains(difference), "{error}");
        }
        assert!(!error.contains("--lr"), "{error}");
        let error = refusal("--no-swa", &run);
        assert!(
            error.contains("--no-swa is given here and not there"),
            "{error}"
        );

        let sgd = given("--no-swa").new_run(10).unwrap();
        let error = refusal("--swa-lr 0.5", &sgd);
        assert!(
            error.contains("--swa-lr is 0.5 here and not given"),
            "{error}"
        );
    }

    #[test]
    fn images_may_move_and_epochs_be_added_when_a_run_goes_on() {
        let run = given("--epochs 20 --data old").new_run(10).unwrap();
        let resumed = given("--epochs 30 --data new").resumed(&run).unwrap();
        assert_eq!(resumed.epochs, 30);
        assert!(resumed.data.ends_with("new"), "{}", resumed.data);
        let error = given("--epochs 10").resumed(&run).unwrap_err().to_string();
        assert!(
            error
                .starts_with("--epochs must be at least 15, the epoch from which the run averages"),
            "{error}"
        );
        assert!(
            !error.contains("--swa-start") && !error.contains("--no-swa"),
            "{error}"
        );
    }
}
