//! The command that trains: a run that begins or goes on, from its settings to the table at its end.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Failure;
use crate::data::{ImageSet, Position};
use crate::device::{self, DEFAULT_DEVICE};
use crate::output::say;
use crate::provenance::command_line;
use crate::run::checkpoint::Checkpoints;
use crate::run::config::{EvaluateOn, RunConfig};
use crate::run::directory::RunDirectory;
use crate::run::epoch_log::{EpochRow, Score};
use crate::run::given::GivenSettings;
use crate::run::interruption::INTERRUPTED;
use crate::run::method::MethodSettings;
use crate::run::progress::Progress;
use crate::run::recipe::Recipe;
use crate::run::session::{End, Session, Show};
use crate::run::time_limit::TimeLimit;
use burn::module::Module;
use burn::tensor::Device;
use swa_core::Weights;
use swa_models::Network;

/// The arguments of a command that trains by a recipe.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainArgs<R: Recipe> {
    #[command(flatten)]
    given: GivenSettings<R>,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = DEFAULT_DEVICE)]
    device: String,

    /// The folder for settings, checkpoints, metrics and models
    #[arg(long, value_name = "DIR", default_value = R::OUT)]
    out: PathBuf,

    /// Go on with the run in --out from its last checkpoint
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,

    /// Delete the run that is in --out
    #[arg(long)]
    overwrite: bool,

    /// End by itself within so many minutes, after the last epoch that fits
    #[arg(long, value_name = "N", value_parser = TimeLimit::parse)]
    until_minutes: Option<TimeLimit>,

    /// Print a line an epoch on a terminal too, instead of Burn's terminal UI
    #[arg(long)]
    plain: bool,
}

/// The number of classes as long as the images are not read, which may have another.
const CIFAR_10: usize = 10;

/// Trains, and returns the program's exit status.
///
/// # Errors
///
/// With one line that says what is wrong and what to do.
pub fn train<R: Recipe>(args: &TrainArgs<R>) -> Result<i32, Failure> {
    let device = device::parse(&args.device)?;
    let resumed = if args.resume {
        let resumed = RunDirectory::open(&args.out)?;
        resumed.0.check_no_curve()?;
        Some(resumed)
    } else {
        RunDirectory::check_free(&args.out, args.overwrite)?;
        None
    };
    let config = match &resumed {
        None => args.given.new_run(CIFAR_10)?,
        Some((_, began)) => args.given.resumed(began)?,
    };

    let images = config.load_images(&Progress::of_images())?;
    let classes = images.class_names.len();
    let config = match &resumed {
        None => args.given.new_run(classes)?,
        Some(_) => config,
    };
    let (images, _) = config
        .with_held_out(images)
        .map_err(|error| match &resumed {
            None => Failure::from(error),
            Some((directory, _)) => directory.other_images(error.to_string()).into(),
        })?;
    let network = config.network(classes, &device.clone().autodiff())?;
    let training = Training {
        config: &config,
        images: &images,
        device: &device,
        args,
    };
    training.run(network, resumed)
}

/// A run about to begin or to go on.
struct Training<'a, R: Recipe> {
    config: &'a RunConfig,
    images: &'a ImageSet,
    device: &'a Device,
    args: &'a TrainArgs<R>,
}

impl<R: Recipe> Training<'_, R> {
    fn run(
        self,
        network: Network,
        resumed: Option<(RunDirectory, RunConfig)>,
    ) -> Result<i32, Failure> {
        // Burn draws initial weights when they are first used. Here that is now, in order.
        self.device.seed(self.config.seed);
        let _ = network.valid();
        let from = match &resumed {
            None => None,
            Some((directory, began)) => self.last_checkpoint(directory, began)?,
        };
        let network = match &self.config.init {
            Some(init) if from.is_none() => init.load(network)?,
            _ => network,
        };
        let directory = match resumed {
            Some((directory, _)) => directory,
            None => RunDirectory::create(&self.args.out, self.config, self.args.overwrite)?,
        };

        let plain = self.args.plain || !std::io::stdout().is_terminal();
        let session = Session {
            config: self.config,
            images: self.images,
            device: self.device,
            directory: directory.clone(),
            from,
            until: self.config.epochs,
            limit: self.args.until_minutes,
            show: if plain {
                Show::Lines(String::new())
            } else {
                Show::TerminalUi
            },
            interruption: Arc::default(),
            on_epoch: Arc::new(|_| Ok(())),
        };
        let steps_per_epoch = session.length()?.steps_per_epoch();
        self.announce(&directory, from, steps_per_epoch);
        if let MethodSettings::Swag { swag, .. } = self.config.method {
            announce_copies(swag.rank + 2, &network)?;
        }
        session.interruption.on_signals()?;
        match session.train(network)? {
            End::Finished(last) => {
                self.print_scores(&directory, &last);
                Ok(0)
            }
            // The session's end is the run's.
            End::Reached => Ok(0),
            End::OutOfTime { epoch, next } => {
                let limit = self.args.until_minutes;
                let limit = limit.map_or_else(String::new, |limit| limit.to_string());
                let left = self.config.epochs - epoch;
                self.say_how_to_go_on(
                    &directory,
                    &format!(
                        "Stopped after epoch {epoch} to keep within {limit}: another one takes about {:.1} s, \
                         and {left} are left.",
                        next
                    ),
                );
                Ok(0)
            }
            End::Stopped(checkpoint) => {
                self.say_where_it_stopped(&directory, checkpoint, steps_per_epoch);
                Ok(INTERRUPTED)
            }
            End::Lacking { error, checkpoint } => {
                self.say_where_it_stopped(&directory, checkpoint, steps_per_epoch);
                let may_skip = self.config.view.is_some_and(|view| !view.skip_unreadable);
                Err(if may_skip {
                    format!("{error}, or leave such images out with --skip-unreadable").into()
                } else {
                    error.into()
                })
            }
        }
    }

    /// The position from which to go on with the run that `began` with other settings, if its images
    /// have moved, or it is to have another number of epochs.
    fn last_checkpoint(
        &self,
        directory: &RunDirectory,
        began: &RunConfig,
    ) -> Result<Option<Position>, Failure> {
        directory.check_images(self.images)?;
        let checkpoints = Checkpoints::new(directory.checkpoints())?;
        checkpoints.delete_unfinished()?;
        directory.delete_unfinished()?;
        let from = checkpoints.last()?;
        if self.config.epochs != began.epochs {
            let length = self.config.length(self.images)?;
            let done = from.unwrap_or_default();
            say(self
                .config
                .lengthened(began, done, length.steps_per_epoch())?);
        }
        Ok(from)
    }
}

impl<R: Recipe> Training<'_, R> {
    fn announce(&self, directory: &RunDirectory, from: Option<Position>, steps_per_epoch: usize) {
        let config = self.config;
        let method = config.method.in_words();
        let scored = match config.images.evaluate_on {
            EvaluateOn::Test => "test",
            EvaluateOn::Validation => "held out",
        };
        self.announce_view();
        say(format!(
            "{}, widths divided by {}, on {}: {} training and {} {scored} images of {}\n\
             {} epochs of {method}; settings, checkpoints, metrics and models in {}",
            config.model,
            config.width_divisor,
            self.args.device,
            self.images.train.len(),
            self.images.test.len(),
            config.data,
            config.epochs,
            directory.path().display(),
        ));
        if self.args.resume {
            match from {
                None => say("No checkpoint yet: beginning."),
                Some(from) => say(format!("Going on {}.", in_words(from, steps_per_epoch))),
            }
        }
    }

    /// Says what is chosen for images of any size: what the network starts from and sees, and how much of it at once.
    fn announce_view(&self) {
        let config = self.config;
        let Some(view) = config.view else {
            return;
        };
        let weights = match &config.init {
            None => "Weights drawn from the seed".to_owned(),
            Some(init) => match &init.without {
                None => format!("Weights of {}", init.file.display()),
                Some(part) => format!(
                    "Weights of {}, but {part} drawn from the seed",
                    init.file.display()
                ),
            },
        };
        let side = view.side;
        let at_once = config.images_at_once();
        say(format!(
            "{weights}; images of {side}x{side} pixels, {at_once} at once"
        ));
        let batches = config.method.swa().and_then(|swa| swa.batch_norm_batches);
        if let Some(batches) = batches {
            let all = self.images.train.len();
            let images = all.min(batches.saturating_mul(at_once));
            say(format!(
                "BatchNorm is re-estimated from {images} of {all} training images."
            ));
        }
    }

    fn say_where_it_stopped(
        &self,
        directory: &RunDirectory,
        checkpoint: Option<Position>,
        steps_per_epoch: usize,
    ) {
        let stopped = match checkpoint {
            None => "Stopped before the first checkpoint.".to_owned(),
            Some(position) => format!("Stopped {}.", in_words(position, steps_per_epoch)),
        };
        self.say_how_to_go_on(directory, &stopped);
    }

    fn say_how_to_go_on(&self, directory: &RunDirectory, stopped: &str) {
        let out = directory.path().display().to_string();
        let mut command = vec![R::COMMAND, "--resume", "--out", &out];
        if self.args.device != DEFAULT_DEVICE {
            command.extend(["--device", &self.args.device]);
        }
        let command = command_line(command.into_iter().map(str::to_owned));
        say(format!("{stopped} Go on with:\n  {command}"));
    }

    fn print_scores(&self, directory: &RunDirectory, last: &EpochRow) {
        let method = self.config.method;
        let average = match method {
            MethodSettings::Ema(_) => "EMA".to_owned(),
            method => {
                let swa = method.swa();
                let averaged = swa.map_or(0, |swa| swa.averaged_after(last.epoch));
                format!("SWA, {averaged} averaged")
            }
        };
        let live = match method {
            MethodSettings::Sgd => "SGD",
            _ => "live",
        };
        let mut scores = vec![(live, last.live(), directory.live_model())];
        if let Some(score) = last.averaged() {
            scores.push((average.as_str(), score, directory.averaged_model()));
        }
        print_scores(&scores);
        let left_out = self.images.train.left_out();
        if left_out > 0 {
            say(format!(
                "\nTraining images left out, as they could not be read: {left_out}"
            ));
        }
        let ensemble = match method {
            MethodSettings::Snapshot(_) | MethodSettings::Fge(_) => {
                format!("members in {}", directory.members().display())
            }
            MethodSettings::Swag { .. } => {
                format!("Gaussian of SWAG in {}", directory.swag().display())
            }
            _ => return,
        };
        let command = [
            "ensemble".to_owned(),
            directory.path().display().to_string(),
        ];
        say(format!(
            "\n{ensemble}; what they predict together:\n  {}",
            command_line(command.into_iter())
        ));
    }
}

/// A position in a run whose epochs have so many steps.
fn in_words(position: Position, steps_per_epoch: usize) -> String {
    match position {
        Position { epoch, batches: 0 } => format!("after epoch {epoch}"),
        Position { epoch, batches } => format!(
            "in epoch {} after {batches} of {steps_per_epoch} batches",
            epoch + 1
        ),
    }
}

/// Says what SWAG costs: its mean, its variance and its deviations are a copy of the weights each.
fn announce_copies(copies: usize, network: &Network) -> Result<(), Failure> {
    let bytes = copies * Weights::of(network)?.num_elements() * size_of::<f32>();
    say(format!(
        "SWAG keeps up to {copies} copies of the weights: {:.1} MiB in memory, and in each checkpoint.",
        bytes as f64 / f64::from(1 << 20)
    ));
    Ok(())
}

/// The table at the end.
fn print_scores(scores: &[(&str, Score, PathBuf)]) {
    say(format!(
        "\n{:16} {:>9} {:>13}   model file",
        "", "test loss", "test accuracy"
    ));
    for (name, score, file) in scores {
        say(format!(
            "{name:16} {:>9.4} {:>11.2} %   {}",
            score.loss,
            score.accuracy,
            file.display()
        ));
    }
}
