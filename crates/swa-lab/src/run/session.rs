//! A training session: a run that begins or goes on in this process, through Burn's `Learner`.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use burn::data::dataloader::DataLoader;
use burn::data::dataset::DatasetError;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::Module;
use burn::store::RecordError;
use burn::tensor::Device;
use burn::train::checkpoint::CheckpointerError;
use burn::train::metric::{
    AccuracyInput, AccuracyMetric, Adaptor, LearningRateMetric, LossInput, LossMetric,
};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, LearnerModel, LearningResult, SupervisedTraining,
    TrainStep, TrainingError,
};
use swa_models::Network;
use swa_store::MemberFiles;
use swa_train::{
    Collect, ModelMetric, ReestimationConfig, RunLength, RunningStatistics, Swa, SwaConfig,
};

use crate::Failure;
use crate::data::{EpochLoader, ImageBatch, ImageSet, Position, Watch};
use crate::output::say;
use crate::provenance;
use crate::run::checkpoint::{AfterLog, Checkpoints, Saved};
use crate::run::classifier::Classifier;
use crate::run::config::RunConfig;
use crate::run::directory::RunDirectory;
use crate::run::epoch_log::{EpochLog, EpochRow, read_rows};
use crate::run::evaluate::evaluated_at_once;
use crate::run::interruption::Interruption;
use crate::run::kept::KeptAverage;
use crate::run::log::RunLog;
use crate::run::members::RunMembers;
use crate::run::method::MethodSettings;
use crate::run::model_file::{self, Description};
use crate::run::progress::{PlainRenderer, Progress};
use crate::run::reestimation::{PassTime, ReestimationLoader};
use crate::run::terminal;
use crate::run::time_limit::{EndInTime, EndedInTime, TimeLimit};

/// A run that begins or goes on in this process.
pub struct Session<'a> {
    /// The run's settings.
    pub config: &'a RunConfig,
    /// The images that it trains on, and those that it is scored on.
    pub images: &'a ImageSet,
    /// The device that it computes on.
    pub device: &'a Device,
    /// Its folder.
    pub directory: RunDirectory,
    /// The position that it goes on from, if it does not begin.
    pub from: Option<Position>,
    /// The epoch after which the session ends, at most the run's last.
    pub until: usize,
    /// The time in which it ends, after an epoch, if that is limited.
    pub limit: Option<TimeLimit>,
    /// The way in which it shows its progress.
    pub show: Show,
    /// The interruption that can stop it.
    pub interruption: Arc<Interruption>,
    /// A function that is called with every epoch once it is over and in the run's metrics. An
    /// error ends the training.
    pub on_epoch: OnEpoch,
}

/// A function that takes the results of an epoch.
pub type OnEpoch = Arc<dyn Fn(&EpochRow) -> Result<(), Failure> + Send + Sync>;

/// The way in which a session shows its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// In Burn's terminal UI.
    TerminalUi,
    /// In a line an epoch, which begins with this text.
    Lines(String),
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The run is over, and its models are in its folder. The row is that of its last epoch.
    Finished(EpochRow),
    /// The session's last epoch is over, but not the run.
    Reached,
    /// There was no time for another epoch.
    OutOfTime {
        /// The last epoch, which is over and has its checkpoint.
        epoch: usize,
        /// The seconds that another one would have taken.
        next: f64,
    },
    /// Images could not be read. The position is that of the last checkpoint, if there is one.
    Lacking {
        /// The reason.
        error: String,
        /// The position of the last checkpoint, if there is one.
        checkpoint: Option<Position>,
    },
    /// The session was asked to stop. The position is that of the last checkpoint, if there is one.
    Stopped(Option<Position>),
}

/// A model that a session can train.
pub(crate) trait Trained:
    LearnerModel
    + TrainStep<Input = ImageBatch, Output = ClassificationOutput>
    + InferenceStep<Input = ImageBatch>
{
}

impl<M> Trained for M where
    M: LearnerModel
        + TrainStep<Input = ImageBatch, Output = ClassificationOutput>
        + InferenceStep<Input = ImageBatch>
{
}

impl Session<'_> {
    /// Trains `network`, from its own weights or from those of the checkpoint that the run goes on
    /// from.
    ///
    /// # Errors
    ///
    /// With one line that says what is wrong and what to do.
    pub fn train(self, network: Network) -> Result<End, Failure> {
        self.directory.check_log()?;
        match self.config.method {
            MethodSettings::Swa(_) | MethodSettings::Ema(_) | MethodSettings::Swag { .. } => {
                self.train_averaging(network)
            }
            MethodSettings::Snapshot(_) | MethodSettings::Fge(_) => self.train_ensemble(network),
            MethodSettings::Sgd => self.train_sgd(network),
        }
    }

    /// The length of the run.
    ///
    /// # Errors
    ///
    /// If it has no epoch or no image.
    pub fn length(&self) -> Result<RunLength, Failure> {
        self.config.length(self.images)
    }

    fn train_averaging(self, network: Network) -> Result<End, Failure> {
        let progress = Progress::of_images();
        let reestimation = PassTime::default();
        let model = self
            .averaging(network, &progress, &reestimation)?
            .with_metrics_of(&["live"])?;
        let metrics = |training: SupervisedTraining<_>| {
            training
                .metric_valid_numeric(ModelMetric::new("live", AccuracyMetric::new()))
                .metric_valid_numeric(ModelMetric::new("live", LossMetric::new()))
        };
        self.fit(model, progress, reestimation, metrics, |model| {
            let model = model.into_swa();
            let averaged = model.averaged_model()?.into_network();
            let updates = Some(model.updates());
            self.save(&averaged, self.directory.averaged_model(), updates)?;
            if let MethodSettings::Swag { .. } = self.config.method {
                let average = model.average()?;
                average
                    .save_file(self.directory.swag())
                    .map_err(|error| resumable(reason(&error)))?;
            }
            self.save_live(&model.live().clone().into_network())
        })
    }

    fn train_ensemble(self, network: Network) -> Result<End, Failure> {
        let length = self.length()?;
        let collect = self.config.collect(&length)?;
        let collect = collect.ok_or("the method collects nothing")?;
        let members = RunMembers::new(
            self.directory.clone(),
            self.directory.members(),
            &self.description(None),
        );
        let model = Swa::ensemble(self.classifier(network), collect, members)?;
        self.fit_alone(model, |model| {
            // Burn's checkpoint knows which members there were, and a file may have been deleted since.
            let files = MemberFiles::new(self.directory.members());
            let members = model.members();
            let kept = members.iter().filter(|it| files.path(it).is_file()).count();
            let failure = model.failure();
            self.save_live(&model.into_live().into_network())?;
            let steps = 1..=length.total_steps();
            let all = steps.filter(|step| collect.is_due(*step)).count();
            if kept < all {
                return Err(format!(
                    "{} holds {kept} of {all} members{}: make the run again with --overwrite to have all",
                    self.directory.members().display(),
                    failure.map_or(String::new(), |failure| format!(" ({failure})")),
                )
                .into());
            }
            Ok(())
        })
    }

    fn train_sgd(self, network: Network) -> Result<End, Failure> {
        let model = self.classifier(network);
        self.fit_alone(model, |model| self.save_live(&model.into_network()))
    }

    fn classifier(&self, network: Network) -> Classifier<Network> {
        let classifier = Classifier::new(network, self.interruption.clone());
        classifier.with_images_at_once(self.config.images_at_once())
    }

    /// The network with its average, which has averaged nothing yet.
    fn averaging(
        &self,
        network: Network,
        progress: &Progress,
        reestimation: &PassTime,
    ) -> Result<Swa<Classifier<Network>>, Failure> {
        let model = self.classifier(network);
        let length = self.length()?;
        let config = self.config;
        let further = match config.keep_averages {
            None => Vec::new(),
            Some(_) => {
                let kept = KeptAverage::ALL.iter().map(|kept| kept.config(&length));
                kept.collect::<Result<_, _>>()?
            }
        };
        let swa = match (config.method, config.collect(&length)?) {
            (MethodSettings::Ema(ema), _) => SwaConfig::ema(ema.decay)
                .with_further_averages(further)
                .init_without_data(model)?,
            (MethodSettings::Swa(swa) | MethodSettings::Swag { swa, .. }, Some(collect)) => {
                let batch_norm =
                    ReestimationConfig::new().with_first_batches(swa.batch_norm_batches);
                let rank = match config.method {
                    MethodSettings::Swag { swag, .. } => Some(swag.rank),
                    _ => None,
                };
                SwaConfig::new(collect)
                    .with_swag_rank(rank)
                    .with_further_averages(further)
                    .with_running_statistics(RunningStatistics::Reestimated(batch_norm))
                    .init(model, self.reestimation_images(progress, reestimation)?)?
            }
            (method, _) => return Err(format!("{} averages nothing", method.method()).into()),
        };
        let mut swa = swa.with_interrupter(self.interruption.interrupter());
        if let Some(every) = config.keep_averages {
            let collect = Collect::from_epoch(every, &length)?.every_epochs(every)?;
            let collect = collect.and_at_the_end();
            for kept in KeptAverage::ALL {
                let folder = self.directory.kept(kept);
                let files =
                    RunMembers::new(self.directory.clone(), folder, &self.description(None));
                swa = swa.with_snapshots(kept.name(), collect, files)?;
            }
        }
        Ok(swa)
    }

    /// The training images as BatchNorm is re-estimated from them.
    fn reestimation_images(
        &self,
        progress: &Progress,
        time: &PassTime,
    ) -> Result<Arc<dyn DataLoader<ImageBatch>>, Failure> {
        let images = &self.images.train;
        let images = self.config.reestimation_images(images, self.device)?;
        let images = images.with_watch(self.watch());
        let images = ReestimationLoader::new(images, self.device).timed_by(time);
        Ok(Arc::new(match self.show {
            Show::Lines(_) => images.shown_in(progress),
            Show::TerminalUi => images,
        }))
    }

    /// Copies the checkpoint `at` of this run to `to`, without the average. This run is one of SWA or
    /// SWAG, and a run of plain SGD can then go on from the copy.
    ///
    /// # Errors
    ///
    /// If a file is damaged, or cannot be written.
    pub fn hand_over(
        &self,
        network: Network,
        at: Position,
        to: &Checkpoints,
    ) -> Result<(), Failure> {
        let (progress, reestimation) = (Progress::of_images(), PassTime::default());
        let model = self.averaging(network, &progress, &reestimation)?;
        let checkpoints = Checkpoints::new(self.directory.checkpoints())?;
        let mut saved = self.read(&checkpoints, at, &model)?;
        let model = model.load_record(saved.model).into_live();
        saved.model = model.into_record();
        Ok(to.save(at, saved)?)
    }

    /// [`fit`](Self::fit), for a model that is neither averaged nor re-estimated.
    pub(crate) fn fit_alone<M>(
        &self,
        model: M,
        finish: impl FnOnce(M) -> Result<(), Failure>,
    ) -> Result<End, Failure>
    where
        M: Trained,
        <M as InferenceStep>::Output: Adaptor<AccuracyInput> + Adaptor<LossInput>,
    {
        let (progress, no_reestimation) = (Progress::of_images(), PassTime::default());
        self.fit(
            model,
            progress,
            no_reestimation,
            |training| training,
            finish,
        )
    }

    /// Trains until the session is over, or is asked to stop. Then it leaves a checkpoint. At the end of the run, `finish` gets
    /// the model.
    fn fit<M>(
        &self,
        model: M,
        progress: Progress,
        reestimation: PassTime,
        more_metrics: impl FnOnce(SupervisedTraining<M>) -> SupervisedTraining<M>,
        finish: impl FnOnce(M) -> Result<(), Failure>,
    ) -> Result<End, Failure>
    where
        M: Trained,
        <M as InferenceStep>::Output: Adaptor<AccuracyInput> + Adaptor<LossInput>,
    {
        // Even without SWA, a checkpoint on an accelerator must hold the state of a single step.
        swa_core::read_tensors_when_asked();
        let config = self.config;
        let length = self.length()?;
        let schedule = config.schedule(length)?;
        let done = self.from.unwrap_or_default().batches;
        self.interruption
            .begin_training(done, length.steps_per_epoch());
        let checkpoints = Checkpoints::new(self.directory.checkpoints())?;
        let saved = match self.from {
            None => None,
            Some(from) => Some(self.read(&checkpoints, from, &model)?),
        };
        // Images that do not fit the checkpoint are not the run's.
        self.directory.record(config, self.images)?;
        let train_images = EpochLoader::training(
            self.images.train.clone(),
            config.sgd.batch_size,
            config.augmentation(),
            config.seed,
            self.device,
        )?
        .starting_at(self.from.unwrap_or_default())?
        .with_watch(self.watch());
        let test_images = EpochLoader::evaluation(
            self.images.test.clone(),
            evaluated_at_once(&self.images.test),
            self.device,
        )?
        .with_watch(self.watch());

        let (model_files, optimizer_files, schedule_files) =
            checkpoints.checkpointers(&self.directory, saved);
        let unlogged = Arc::new(AtomicBool::new(false));
        let mut training = SupervisedTraining::new(
            self.directory.path(),
            Arc::new(train_images),
            Arc::new(test_images),
        )
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .metric_train_numeric(LearningRateMetric::new())
        .with_interrupter(self.interruption.interrupter())
        .with_application_logger(Some(RunLog::of(&self.directory)))
        .with_custom_checkpointers(model_files, optimizer_files, schedule_files)
        .with_checkpointing_strategy(AfterLog::new(unlogged.clone()))
        .num_epochs(self.until);
        if let Some(from) = self.from {
            training = training.checkpoint(from.epoch);
        }
        let mut ended = EndedInTime::default();
        if let Some(limit) = self.limit {
            let end_in_time = EndInTime::new(limit, self.until);
            ended = end_in_time.ended();
            training = training.early_stopping(end_in_time);
        }
        let log = self.epoch_log(&schedule, progress.clone(), reestimation, unlogged)?;
        training = training.with_metric_logger(log);
        training = training.renderer(match &self.show {
            Show::Lines(prefix) => {
                let space = " ".repeat(prefix.chars().count());
                let average = match config.method {
                    MethodSettings::Ema(_) => "EMA",
                    _ => "SWA",
                };
                for heading in EpochRow::headings(average) {
                    say(format!("{space}{heading}"));
                }
                Box::new(PlainRenderer::new(progress))
            }
            Show::TerminalUi => {
                let checkpoint = self.from.map(|from| from.epoch);
                self.interruption.terminal_ui(checkpoint)
            }
        });

        let learner = Learner::new(model, self.config.sgd.optimizer(), schedule.clone());
        let LearningResult {
            model,
            renderer,
            interrupted,
            error,
        } = more_metrics(training).launch(learner);
        // Lines printed before the UI's end would be lost with its screen.
        match self.show {
            Show::Lines(_) => drop(renderer),
            Show::TerminalUi => terminal::end_ui(renderer),
        }

        let lacking = self.interruption.is_lacking();
        if let (Some(error), None) = (error, &lacking) {
            // Whatever failed, a folder that is gone is the reason.
            self.directory.check()?;
            return Err(match &*error {
                // An error of SWA has this type too, because Burn has none for it.
                TrainingError::Dataset(error) => error.to_string().into(),
                TrainingError::Checkpoint(error) => unwritable(error),
                error => error.to_string().into(),
            });
        }
        if interrupted.is_some() || lacking.is_some() {
            self.leave_checkpoint(model, schedule, &checkpoints)?;
            let checkpoint = checkpoints.last()?;
            return Ok(match lacking {
                None => End::Stopped(checkpoint),
                Some(error) => End::Lacking { error, checkpoint },
            });
        }
        let ended = *ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((epoch, next)) = ended {
            Ok(End::OutOfTime { epoch, next })
        } else if self.until < config.epochs {
            Ok(End::Reached)
        } else {
            finish(model)?;
            Ok(End::Finished(self.last_row()?))
        }
    }

    /// The watch that tells the interruption of images that cannot be read.
    fn watch(&self) -> Watch {
        let interruption = self.interruption.clone();
        Watch::new(move |error| interruption.lacks(error))
    }

    /// Writes a checkpoint of a training that stopped within an epoch.
    fn leave_checkpoint<M: Module>(
        &self,
        model: M,
        mut schedule: ModuleLrScheduler,
        checkpoints: &Checkpoints,
    ) -> Result<(), Failure> {
        let Some((steps, optimizer)) = self.interruption.stopped_after() else {
            return Ok(());
        };
        let per_epoch = self.length()?.steps_per_epoch();
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
        let saved = Saved {
            model: model.into_record(),
            optimizer,
            schedule: schedule.to_record(),
        };
        self.directory.check()?;
        checkpoints
            .save(position, saved)
            .map_err(|error| unwritable(&error))
    }

    fn read<M: Module>(
        &self,
        checkpoints: &Checkpoints,
        at: Position,
        model: &M,
    ) -> Result<Saved, Failure> {
        let steps = at.epoch * self.length()?.steps_per_epoch() + at.batches;
        checkpoints.read(at, steps, model, &self.config.sgd.optimizer())
    }

    fn epoch_log(
        &self,
        schedule: &ModuleLrScheduler,
        progress: Progress,
        reestimation: PassTime,
        unlogged: Arc<AtomicBool>,
    ) -> Result<EpochLog, Failure> {
        let done = self.from.map_or(0, |from| from.epoch);
        let mut rows = read_rows(&self.directory.metrics())?;
        rows.retain(|row| row.epoch <= done);
        let (show, epochs) = (self.show.clone(), self.config.epochs);
        // The rate of the last step of the epoch under way.
        let mut schedule = schedule.clone();
        let steps = (done + 1) * self.length()?.steps_per_epoch();
        let learning_rate = (0..steps).fold(0.0, |_, _| schedule.step().base());
        let (on_epoch, interruption) = (self.on_epoch.clone(), self.interruption.clone());
        Ok(EpochLog::new(
            self.directory.clone(),
            rows,
            learning_rate,
            self.config.method.averages_from(),
            reestimation,
            move |row, written| {
                unlogged.store(written.is_err(), Ordering::SeqCst);
                // The validation of an epoch that lacks an image says nothing, and is made again.
                if interruption.is_lacking().is_some() {
                    return;
                }
                if let Show::Lines(prefix) = &show {
                    progress.print(&format!("{prefix}{}", row.line(epochs)));
                }
                if let Err(error) = written.map_err(resumable).and_then(|()| on_epoch(row)) {
                    let error = DatasetError::new(io::Error::other(error));
                    interruption
                        .interrupter()
                        .fail(TrainingError::Dataset(error));
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
                "{} has lost the last epoch: the models are in {}, find out with `{} evaluate` \
                 how good they are",
                file.display(),
                self.directory.path().display(),
                provenance::program()
            )
            .into()
        })
    }

    /// Writes the live model, without which a run is not finished: as the last file.
    fn save_live(&self, network: &Network) -> Result<(), Failure> {
        self.save(network, self.directory.live_model(), None)
    }

    fn save(
        &self,
        network: &Network,
        file: PathBuf,
        averaged: Option<usize>,
    ) -> Result<(), Failure> {
        self.directory.check()?;
        model_file::save(network, &self.description(averaged), &file).map_err(resumable)
    }

    fn description(&self, averaged: Option<usize>) -> Description {
        Description::new(self.config, &self.images.class_names, averaged)
    }
}

/// The error for a checkpoint that could not be written, with Burn's reason alone.
fn unwritable(error: &CheckpointerError) -> Failure {
    resumable(match error {
        CheckpointerError::Record(error) => reason(error),
        error => error.to_string(),
    })
}

/// The reason why a record could not be written.
fn reason(error: &RecordError) -> String {
    match error {
        RecordError::Io(reason) => reason.clone(),
        error => error.to_string(),
    }
}

/// The error for something that could not be written, and what to do about it.
fn resumable(problem: impl std::fmt::Display) -> Failure {
    format!(
        "{problem}. What was saved before is whole: see that there is room and that it may be written, and resume \
         the run"
    )
    .into()
}
