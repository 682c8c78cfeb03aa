//! `cifar train`: SGD with or without SWA, through Burn's `Learner`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::module::Module;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{OptimizerRecord, SgdConfig, decay::WeightDecayConfig};
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn::train::metric::{
    AccuracyInput, AccuracyMetric, Adaptor, LearningRateMetric, LossInput, LossMetric,
};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, LearnerModel, LearningResult, SupervisedTraining,
    TrainStep, TrainingError,
};
use swa_train::{Collect, Live, PaperLrScheduler, Reestimate, RunLength, SwaConfig};

use crate::Failure;
use crate::architecture::{Architecture, Network, WithNetwork};
use crate::checkpoint::{AfterLog, Checkpoints, PartCheckpointer};
use crate::classifier::Classifier;
use crate::config::{GivenSettings, PaddingChoice, RunConfig, SwaSettings};
use crate::data::{Augmentation, EpochLoader, ImageBatch, ImageSet, Padding, Position};
use crate::device;
use crate::directory::RunDirectory;
use crate::epoch_log::{EpochLog, EpochRow, Score, read_rows};
use crate::evaluate::BATCH_SIZE;
use crate::interruption::Interruption;
use crate::model_file::{self, Description};
use crate::output::say;
use crate::progress::{PlainRenderer, Progress, ShownLoader};

/// The exit status of a run that was asked to stop: 128 + SIGINT, as shells have it.
pub const INTERRUPTED: i32 = 130;

/// What `--device` is if it is not given.
const DEFAULT_DEVICE: &str = "flex";

/// Trains a network with SWA, or with plain SGD.
///
/// Without settings it is the paper's training of a PreResNet-20 on images that are made up: say
/// --data to train on real ones.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    given: GivenSettings,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = DEFAULT_DEVICE)]
    device: String,

    /// The folder for settings, checkpoints, metrics and models
    #[arg(long, value_name = "DIR", default_value = "runs/cifar")]
    out: PathBuf,

    /// Go on with the run in --out from its last checkpoint
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,

    /// Delete the run that is in --out
    #[arg(long)]
    overwrite: bool,

    /// Print a line an epoch on a terminal too, instead of Burn's terminal UI
    #[arg(long)]
    plain: bool,
}

/// Runs `cifar train`, and returns the program's exit status.
///
/// # Errors
///
/// With one line that says what is wrong and what to do.
pub fn run(args: &TrainArgs) -> Result<i32, Failure> {
    let device = device::parse(&args.device)?;
    let resumed = match args.resume {
        false => None,
        true => Some(RunDirectory::open(&args.out)?),
    };
    let config = match &resumed {
        None => args.given.new_run()?,
        Some((_, config)) => {
            args.given.agree_with(config)?;
            config.clone()
        }
    };
    let architecture: Architecture = config.model.parse()?;

    let mut progress = Progress::of_images();
    let mut images = load_images(&config.data, &mut progress)?;
    if let Some(items) = config.train_items {
        images.train = Arc::new(images.train.subset(items, config.seed)?);
    }

    let classes = images.class_names.len();
    let autodiff = device.clone().autodiff();
    let training = Training {
        config: &config,
        images: &images,
        device: &device,
        directory: resumed.map(|(directory, _)| directory),
        args,
    };
    architecture.with_network(classes, config.width_divisor, &autodiff, training)?
}

/// Loads what `--data` names, and shows how far it is.
///
/// # Errors
///
/// [`DataError`](crate::data::DataError), of one line.
pub fn load_images(data: &str, progress: &mut Progress) -> Result<ImageSet, Failure> {
    let source: crate::data::DataSource = data.parse()?;
    progress.begin("loading", 0);
    let shown = Mutex::new(progress.clone());
    let images = source.load(&|done, total| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.set_total(total);
        shown.set(done);
    });
    progress.end();
    Ok(images?)
}

/// A run about to begin or to go on, whose network's type is not known yet.
struct Training<'a> {
    config: &'a RunConfig,
    images: &'a ImageSet,
    device: &'a Device,
    /// The folder, if it is one of a run that goes on.
    directory: Option<RunDirectory>,
    args: &'a TrainArgs,
}

impl WithNetwork for Training<'_> {
    type Output = Result<i32, Failure>;

    fn with<N: Network>(self, network: N) -> Self::Output {
        // Burn draws initial weights when they are first used. Here that is now, in order.
        self.device.seed(self.config.seed);
        let _ = network.valid();
        let has_checkpoint = match &self.directory {
            None => false,
            Some(directory) => Checkpoints::new(directory.checkpoints())?.last()?.is_some(),
        };
        let network = match &self.config.init {
            Some(init) if !has_checkpoint => init.load(network)?,
            _ => network,
        };

        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => RunDirectory::create(&self.args.out, self.config, self.args.overwrite)?,
        };
        let length = RunLength::of_items(
            self.config.epochs,
            self.images.train.len(),
            self.config.batch_size,
        )?;
        let checkpoints = Checkpoints::new(directory.checkpoints())?;
        let from = match self.directory {
            None => None,
            Some(_) => {
                checkpoints.delete_unfinished()?;
                checkpoints.last()?
            }
        };
        let session = Session {
            config: self.config,
            images: self.images,
            device: self.device,
            device_name: &self.args.device,
            plain: self.args.plain || !std::io::stdout().is_terminal(),
            directory,
            checkpoints,
            length,
            from,
            interruption: Arc::default(),
            progress: Progress::of_images(),
        };
        session.announce(self.args);
        session.directory.check_log()?;
        session.interruption.on_signals()?;
        match self.config.swa {
            Some(swa) => session.train_swa(network, swa),
            None => session.train_sgd(network),
        }
    }
}

/// A run under way in this process.
struct Session<'a> {
    config: &'a RunConfig,
    images: &'a ImageSet,
    device: &'a Device,
    /// What `--device` says.
    device_name: &'a str,
    plain: bool,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    length: RunLength,
    /// Where the run goes on, if it does not begin.
    from: Option<Position>,
    interruption: Arc<Interruption>,
    progress: Progress,
}

impl Session<'_> {
    fn announce(&self, args: &TrainArgs) {
        let config = self.config;
        let method = match config.swa {
            None => "SGD".to_owned(),
            Some(swa) => format!("SGD, averaged from epoch {} on", swa.start),
        };
        say(format!(
            "{}, widths divided by {}, on {}: {} training and {} test images of {}\n\
             {} epochs of {method}; settings, checkpoints, metrics and models in {}",
            config.model,
            config.width_divisor,
            self.device_name,
            self.images.train.len(),
            self.images.test.len(),
            config.data,
            config.epochs,
            self.directory.path().display(),
        ));
        if args.resume {
            match self.from {
                None => say("No checkpoint yet: beginning."),
                Some(Position { epoch, batches: 0 }) => {
                    say(format!("Going on after epoch {epoch}."))
                }
                Some(Position { epoch, batches }) => say(format!(
                    "Going on in epoch {} after {batches} of {} batches.",
                    epoch + 1,
                    self.length.steps_per_epoch()
                )),
            }
        }
    }

    fn train_swa<N: Network>(self, network: N, swa: SwaSettings) -> Result<i32, Failure> {
        let collect = Collect::from_epoch(swa.start, &self.length)?.every_epochs(swa.every)?;
        let reestimate = match swa.batch_norm_batches {
            None => Reestimate::AllBatches,
            Some(batches) => Reestimate::FirstBatches(batches),
        };
        let train_images = EpochLoader::reestimation(
            self.images.train.clone(),
            self.config.batch_size,
            self.augmentation(),
            self.config.seed,
            self.device,
        )?;
        let train_images: Arc<dyn DataLoader<ImageBatch>> = match self.plain {
            false => Arc::new(train_images),
            true => Arc::new(ShownLoader::new(
                Arc::new(train_images),
                "re-estimating BatchNorm",
                self.progress.clone(),
            )),
        };
        let model = SwaConfig::new(collect)
            .with_reestimation(reestimate)
            .with_interrupter(self.interruption.interrupter())
            .init(self.classifier(network), train_images)?
            .with_live_metrics();
        let schedule = PaperLrScheduler::swa(self.config.lr, swa.lr, swa.start, &self.length)?;

        let trained = self.fit(model, schedule, |training| {
            training
                .metric_valid_numeric(Live::new(AccuracyMetric::new()))
                .metric_valid_numeric(Live::new(LossMetric::new()))
        })?;
        let Some(model) = trained else {
            return Ok(INTERRUPTED);
        };
        let updates = model.updates();
        let live = model.live().clone().into_network();
        self.save(&live, self.directory.live_model(), None)?;
        let averaged = model.into_averaged()?.into_network();
        self.save(&averaged, self.directory.averaged_model(), Some(updates))?;

        let last = self.last_row()?;
        let averages = format!("SWA, {updates} averaged");
        let mut scores = vec![("live", last.live(), self.directory.live_model())];
        if let Some(score) = last.averaged() {
            scores.push((averages.as_str(), score, self.directory.averaged_model()));
        }
        print_scores(&scores);
        Ok(0)
    }

    fn train_sgd<N: Network>(self, network: N) -> Result<i32, Failure> {
        let schedule = PaperLrScheduler::sgd(self.config.lr, &self.length)?;
        let model = self.classifier(network);
        let Some(model) = self.fit(model, schedule, |training| training)? else {
            return Ok(INTERRUPTED);
        };
        self.save(&model.into_network(), self.directory.live_model(), None)?;
        let score = self.last_row()?.live();
        print_scores(&[("SGD", score, self.directory.live_model())]);
        Ok(0)
    }

    fn classifier<N: Network>(&self, network: N) -> Classifier<N> {
        Classifier::new(network, self.interruption.clone())
    }

    fn augmentation(&self) -> Augmentation {
        match self.config.padding {
            PaddingChoice::Zero => Augmentation::CropAndFlip(Padding::Zero),
            PaddingChoice::Reflect => Augmentation::CropAndFlip(Padding::Reflect),
            PaddingChoice::None => Augmentation::None,
        }
    }

    /// Trains to the end, or until it is asked to stop: then it leaves a checkpoint, says how to go on,
    /// and returns nothing.
    fn fit<M>(
        &self,
        model: M,
        schedule: PaperLrScheduler,
        more_metrics: impl FnOnce(SupervisedTraining<M>) -> SupervisedTraining<M>,
    ) -> Result<Option<M>, Failure>
    where
        M: LearnerModel
            + TrainStep<Input = ImageBatch, Output = ClassificationOutput>
            + InferenceStep<Input = ImageBatch>,
        <M as InferenceStep>::Output: Adaptor<AccuracyInput> + Adaptor<LossInput>,
    {
        let config = self.config;
        if let Some(from) = self.from {
            self.check_checkpoint(&model, from)?;
        }
        let train_images = EpochLoader::training(
            self.images.train.clone(),
            config.batch_size,
            self.augmentation(),
            config.seed,
            self.device,
        )?
        .starting_at(self.from.unwrap_or_default())?;
        let test_images =
            EpochLoader::evaluation(self.images.test.clone(), BATCH_SIZE, self.device)?;

        let [model_files, optimizer_files, schedule_files] =
            self.checkpoints.checkpointers(self.from);
        let mut training = SupervisedTraining::new(
            self.directory.path(),
            Arc::new(train_images),
            Arc::new(test_images),
        )
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .metric_train_numeric(LearningRateMetric::new())
        .with_interrupter(self.interruption.interrupter())
        .with_custom_checkpointers(model_files, optimizer_files, schedule_files)
        .with_checkpointing_strategy(AfterLog)
        .num_epochs(config.epochs);
        if let Some(from) = self.from {
            training = training.checkpoint(from.epoch);
        }
        training = training.with_metric_logger(self.epoch_log(&schedule)?);
        training = training.renderer(match self.plain {
            true => {
                EpochRow::HEADINGS.into_iter().for_each(say);
                Box::new(PlainRenderer::new(self.progress.clone()))
            }
            false => {
                let checkpoint = self.from.map(|from| from.epoch);
                self.interruption.terminal_ui(checkpoint)
            }
        });

        let optimizer = SgdConfig::new()
            // Dampening 0, as in PyTorch's SGD and so in the paper; Burn's default is 0.1.
            .with_momentum(Some(
                MomentumConfig::new()
                    .with_momentum(config.momentum)
                    .with_dampening(0.0),
            ))
            .with_weight_decay(Some(WeightDecayConfig::new(config.weight_decay as f32)))
            .init();
        let learner = Learner::new(model, optimizer, schedule.clone());
        let LearningResult {
            model,
            renderer,
            interrupted,
            error,
        } = more_metrics(training).launch(learner);
        // Gives the terminal back: what is printed before is lost with the UI's screen.
        drop(renderer);

        if let Some(error) = error {
            return Err(match &*error {
                // What stops SWA goes by this name too: Burn has none for it.
                TrainingError::Dataset(error) => error.to_string(),
                error => error.to_string(),
            }
            .into());
        }
        if interrupted.is_none() {
            return Ok(Some(model));
        }
        self.leave_checkpoint(model, schedule)?;
        Ok(None)
    }

    /// Writes a checkpoint of a training that stopped within an epoch, and says how to go on.
    fn leave_checkpoint<M: Module>(
        &self,
        model: M,
        mut schedule: PaperLrScheduler,
    ) -> Result<(), Failure> {
        let per_epoch = self.length.steps_per_epoch();
        if let Some((steps, optimizer)) = self.interruption.stopped_after() {
            let from = self.from.unwrap_or_default();
            let steps = from.epoch * per_epoch + from.batches + steps;
            for _ in 0..steps {
                schedule.step();
            }
            // An epoch whose last step was made is not over: its validation is still to come.
            let epoch = (steps - 1) / per_epoch;
            let position = Position {
                epoch,
                batches: steps - epoch * per_epoch,
            };
            let schedule = ModuleLrScheduler::new(schedule).to_record();
            self.checkpoints
                .save(position, model.into_record(), optimizer, schedule)?;
        }
        let stopped = match self.checkpoints.last()? {
            None => "Stopped before the first checkpoint.".to_owned(),
            Some(Position { epoch, batches: 0 }) => format!("Stopped after epoch {epoch}."),
            Some(Position { epoch, batches }) => format!(
                "Stopped in epoch {} after {batches} of {per_epoch} batches.",
                epoch + 1
            ),
        };
        let device = match self.device_name {
            DEFAULT_DEVICE => String::new(),
            name => format!(" --device {name}"),
        };
        say(format!(
            "{stopped} Go on with:\n  cifar train --resume --out {}{device}",
            self.directory.path().display()
        ));
        Ok(())
    }

    /// Finds out what is wrong with a checkpoint before Burn would panic over it.
    fn check_checkpoint<M: Module>(&self, model: &M, from: Position) -> Result<(), Failure> {
        let [model_files, optimizer_files, schedule_files] =
            self.checkpoints.checkpointers(Some(from));
        let refuse = |files: &PartCheckpointer, problem: String| -> Failure {
            format!(
                "{} cannot be resumed from: {}. Delete it to go on from the checkpoint before",
                files.file().display(),
                in_brief(&problem)
            )
            .into()
        };
        let damaged = |files, problem: String| refuse(files, format!("it is damaged ({problem})"));
        let record: ModuleRecord = model_files
            .read()
            .map_err(|problem| damaged(&model_files, problem))?;
        model.valid().try_load_record(record).map_err(|error| {
            refuse(
                &model_files,
                format!("it is that of another model ({error})"),
            )
        })?;
        let _: OptimizerRecord = optimizer_files
            .read()
            .map_err(|problem| damaged(&optimizer_files, problem))?;
        let _: LrSchedulerRecord = schedule_files
            .read()
            .map_err(|problem| damaged(&schedule_files, problem))?;
        // Burn takes the state of foreign parameters without a word, and does not use it.
        let parameters = model_files.parameter_ids()?;
        if !optimizer_files.parameter_ids()?.is_subset(&parameters) {
            let problem = "it is that of another run".to_owned();
            return Err(refuse(&optimizer_files, problem));
        }
        Ok(())
    }

    fn epoch_log(&self, schedule: &PaperLrScheduler) -> Result<EpochLog, Failure> {
        let done = self.from.map_or(0, |from| from.epoch);
        let mut rows = read_rows(&self.directory.metrics())?;
        rows.retain(|row| row.epoch <= done);
        let (plain, epochs, progress) = (self.plain, self.config.epochs, self.progress.clone());
        Ok(EpochLog::new(
            self.directory.metrics(),
            rows,
            schedule.lr(done),
            self.config.swa.map(|swa| swa.start),
            move |row| {
                if plain {
                    progress.print(&row.line(epochs));
                }
            },
        ))
    }

    fn last_row(&self) -> Result<EpochRow, Failure> {
        let file = self.directory.metrics();
        let rows = read_rows(&file)?;
        let last = rows.into_iter().find(|row| row.epoch == self.config.epochs);
        last.ok_or_else(|| {
            format!(
                "{} has lost the last epoch: the models are in {}, find out with `cifar evaluate` how \
                 good they are",
                file.display(),
                self.directory.path().display()
            )
            .into()
        })
    }

    fn save<N: Network>(
        &self,
        network: &N,
        file: PathBuf,
        averaged: Option<usize>,
    ) -> Result<(), Failure> {
        let description = Description {
            model: self.config.model.clone(),
            width_divisor: self.config.width_divisor,
            class_names: self.images.class_names.clone(),
            averaged,
        };
        model_file::save(network, &description, &file)
    }
}

/// The beginning of a message that may be as long as a network has parameters.
fn in_brief(message: &str) -> String {
    const LENGTH: usize = 160;

    match message.char_indices().nth(LENGTH) {
        None => message.to_owned(),
        Some((end, _)) => format!("{} …", &message[..end]),
    }
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
