//! The worker: the process that makes runs, one after the other.

use std::collections::HashSet;
use std::fs;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Device;
use swa_models::Network;

use super::directory::ExperimentDirectory;
use super::plan::{Plan, PlanError, PlannedRun};
use super::predictions::Predictions;
use super::record::{EvaluationRecord, Record, RunRecord};
use super::state::RunState;
use super::status;
use super::supervisor::clear_finished;
use crate::Failure;
use crate::data::{ImageSet, Images, Position};
use crate::device;
use crate::output::say;
use crate::provenance;
use crate::run::checkpoint::Checkpoints;
use crate::run::config::RunConfig;
use crate::run::directory::{RunDirectory, io_error};
use crate::run::epoch_log::{EpochRow, read_rows, write_rows};
use crate::run::interruption::{INTERRUPTED, Interruption};
use crate::run::predictors::FinishedRun;
use crate::run::progress::Progress;
use crate::run::session::{End, OnEpoch, Session, Show};
use crate::run::time_limit::TimeLimit;

/// The arguments that the supervisor gives a worker.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// The folder of the experiment
    dir: PathBuf,

    /// The runs, in order
    #[arg(required = true)]
    runs: Vec<String>,

    /// The device
    #[arg(long)]
    device: String,

    /// The command that started the experiment, or went on with it
    #[arg(long)]
    command: String,

    /// The time that is left for it
    #[arg(long, value_parser = TimeLimit::parse)]
    until_minutes: Option<TimeLimit>,
}

/// The exit status of a worker that had no time for another epoch: `EX_TEMPFAIL`, as `sysexits.h` has it.
pub(super) const OUT_OF_TIME: i32 = 75;

/// Makes runs, and returns the program's exit status.
///
/// # Errors
///
/// With one line that says what is wrong and what to do. Then the runs after the one at which it failed are left.
pub fn run(args: &WorkerArgs) -> Result<i32, Failure> {
    let interruption = Arc::new(Interruption::default());
    interruption.on_signals()?;
    stop_with_parent(interruption.clone());

    let (directory, plan) = ExperimentDirectory::open(&args.dir)?;
    let mut lock = directory.lock_runs(&args.runs[0])?;
    let planned = plan.runs()?;
    let own = args.runs.iter().map(|name| {
        let run = planned.iter().find(|run| run.name == *name);
        run.ok_or_else(|| format!("the plan has no run {name}"))
    });
    let own: Vec<&PlannedRun> = own.collect::<Result<_, _>>()?;
    let device = device::parse(&args.device)?;
    for (index, run) in own.iter().enumerate() {
        lock.set_purpose(&run.name)?;
        let images = run.config.load_images(&Progress::of_images())?;
        run.data_set.check(&images, &run.config.data)?;
        let images = run.config.with_held_out(images);
        let (images, held_out) = images.map_err(|error| PlanError::of_run(&run.name, &error))?;
        let worker = Worker {
            args,
            plan: &plan,
            runs: &planned,
            run,
            images: &images,
            held_out,
            device: &device,
            directory: directory.clone(),
            interruption: interruption.clone(),
        };
        let made = worker.make();
        if let Some(status) = made.map_err(|error| format!("{}: {error}", run.name))? {
            return Ok(status);
        }
        if let Some(next) = own.get(index + 1)
            && let Some(status) = worker.ends_before(next)?
        {
            return Ok(status);
        }
        // The next run begins without the device memory of this one. Compiled kernels stay.
        device.memory_cleanup();
    }
    Ok(0)
}

/// Stops when the supervisor says so on standard input, and ends when the supervisor is gone: the
/// next supervisor starts another worker for this run.
fn stop_with_parent(interruption: Arc<Interruption>) {
    std::thread::spawn(move || {
        let mut bytes = std::io::stdin().lock().bytes();
        while let Some(Ok(_)) = bytes.next() {
            interruption.signal();
        }
        std::process::exit(INTERRUPTED);
    });
}

/// A worker at one of its runs, with all that it needs.
struct Worker<'a> {
    args: &'a WorkerArgs,
    plan: &'a Plan,
    runs: &'a [PlannedRun],
    run: &'a PlannedRun,
    images: &'a ImageSet,
    held_out: Option<Arc<Images>>,
    device: &'a Device,
    directory: ExperimentDirectory,
    interruption: Arc<Interruption>,
}

impl Worker<'_> {
    /// Makes the run. Returns the program's exit status if the worker ends before the run does.
    fn make(&self) -> Result<Option<i32>, Failure> {
        let folder = self.open()?;
        loop {
            match self.train(&folder)? {
                End::Finished(_) => return self.finish(&folder),
                // The epochs that it shares with another run are over.
                End::Reached => {
                    if let Some(status) = self.ends_before(self.run)? {
                        return Ok(Some(status));
                    }
                }
                End::OutOfTime { .. } => return Ok(Some(OUT_OF_TIME)),
                End::Stopped(_) => return Ok(Some(INTERRUPTED)),
                End::Lacking { error, .. } => return Err(error.into()),
            }
        }
    }

    /// The program's exit status if the worker ends before a run begins, or goes on after the epochs that it shares.
    fn ends_before(&self, run: &PlannedRun) -> Result<Option<i32>, Failure> {
        if self.interruption.is_asked() {
            return Ok(Some(INTERRUPTED));
        }
        let (limit, records) = (self.args.until_minutes, self.directory.results().read()?);
        if status::has_time_for(limit, run, self.runs, &records) {
            Ok(None)
        } else {
            Ok(Some(OUT_OF_TIME))
        }
    }

    /// Trains the run to its end, or to that of the epochs that it shares with another.
    fn train(&self, folder: &RunDirectory) -> Result<End, Failure> {
        let classes = self.images.class_names.len();
        let device = self.device.clone().autodiff();
        let network = self.run.config.network(classes, &device)?;
        // The same steps, in the same order, as in `cifar train`.
        self.device.seed(self.run.config.seed);
        let _ = network.valid();

        folder.check()?;
        folder.check_images(self.images)?;
        let checkpoints = Checkpoints::new(folder.checkpoints())?;
        checkpoints.delete_unfinished()?;
        let from = checkpoints.last()?;
        let mut state = RunState::read(folder.path())?;
        state.started.get_or_insert_with(provenance::now);
        state.write(folder.path())?;
        self.record_epochs_until(folder, from.unwrap_or_default().epoch)?;

        let mut session = Session {
            config: &self.run.config,
            images: self.images,
            device: self.device,
            directory: folder.clone(),
            from,
            until: self.run.config.epochs,
            limit: self.args.until_minutes,
            show: self.show(),
            interruption: self.interruption.clone(),
            on_epoch: self.recorder(folder, state)?,
        };
        if let Some((taker, epochs)) = self.taker() {
            let at = from.unwrap_or_default();
            let end = Position {
                epoch: epochs,
                batches: 0,
            };
            if at == end {
                self.hand_over(&session, network.valid(), taker, end)?;
            } else if at.epoch < epochs {
                session.until = epochs;
            }
        }
        self.announce(&session);
        session.train(network)
    }

    /// Opens the folder of the run, and makes it if the run has not begun.
    fn open(&self) -> Result<RunDirectory, Failure> {
        let path = self.directory.run(&self.run.name);
        let folder = RunDirectory::at(&path);
        folder.delete_unfinished()?;
        if !folder.config_file().exists() {
            return Ok(RunDirectory::create(&path, &self.run.config, false)?);
        }
        let (folder, mut config) = RunDirectory::open(&path)?;
        // The plan says where the data is now.
        config.data.clone_from(&self.run.config.data);
        if config == self.run.config {
            Ok(folder)
        } else {
            Err(format!(
                "{} was begun with other settings than the plan's: go on with the plan that it was begun \
                 with, or move it elsewhere to begin it anew",
                path.display()
            )
            .into())
        }
    }

    /// The run that will take over the beginning of this one, and the number of epochs, unless that
    /// run has already begun.
    fn taker(&self) -> Option<(&PlannedRun, usize)> {
        let (name, epochs) = self.run.shares.as_ref()?;
        let taker = self.runs.iter().find(|run| run.name == *name)?;
        let is_first = self.run.config.method.swa().is_some();
        let waits = is_first && !self.directory.run(name).exists();
        waits.then_some((taker, *epochs))
    }

    /// Makes the folder of another run, as if that run had trained as far as this one.
    fn hand_over(
        &self,
        session: &Session<'_>,
        network: Network,
        taker: &PlannedRun,
        at: Position,
    ) -> Result<(), Failure> {
        // Made beside its place and then moved there, so that a folder in its place is complete.
        let path = self.directory.run_in_preparation(&taker.name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(io_error("delete", &path))?;
        }
        let folder = RunDirectory::create(&path, &taker.config, false)?;
        folder.record(&taker.config, self.images)?;
        session.hand_over(network, at, &Checkpoints::new(folder.checkpoints())?)?;
        let mut rows = read_rows(&session.directory.metrics())?;
        rows.retain(|row| row.epoch <= at.epoch);
        write_rows(&folder.metrics(), &rows)?;
        let state = RunState {
            shared_epochs: at.epoch,
            ..RunState::default()
        };
        state.write(&path)?;
        let place = self.directory.run(&taker.name);
        Ok(fs::rename(&path, &place).map_err(io_error("make the folder", &place))?)
    }

    fn show(&self) -> Show {
        // Beside a progress bar, the lines need no name.
        if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            Show::Lines(String::new())
        } else {
            Show::Lines(self.run.name.clone())
        }
    }

    fn announce(&self, session: &Session<'_>) {
        let number = self.runs.iter().position(|run| run.name == self.run.name);
        let at = session.from.unwrap_or_default();
        let last = session.until;
        let epochs = match at {
            Position { epoch, .. } if epoch >= last => format!("all {last} epochs trained"),
            Position { epoch, batches: 0 } if epoch + 1 == last => format!("epoch {last}"),
            Position { epoch, batches: 0 } => format!("epochs {} to {last}", epoch + 1),
            Position { epoch, batches } => {
                format!("epochs {} (batch {}) to {last}", epoch + 1, batches + 1)
            }
        };
        let sharing = match &self.run.shares {
            Some((taker, _)) if last < self.run.config.epochs => {
                format!(", which {taker} begins with too")
            }
            _ => String::new(),
        };
        say(format!(
            "\nrun {} of {}: {}, {epochs}{sharing}",
            number.map_or(0, |number| number + 1),
            self.runs.len(),
            self.run.name,
        ));
    }

    /// Returns a function that records the results of an epoch, unless an earlier process has.
    fn recorder(&self, folder: &RunDirectory, state: RunState) -> Result<OnEpoch, Failure> {
        let recorded = Mutex::new(self.recorded_epochs()?);
        let (results, run) = (self.directory.results(), self.run.name.clone());
        let (config, folder) = (self.run.config.clone(), folder.path().to_owned());
        let steps_per_epoch = self.steps_per_epoch()?;
        let device = self.args.device.clone();
        Ok(Arc::new(move |row| {
            let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
            if recorded.insert(row.epoch) {
                results.append(&evaluation(&run, &config, steps_per_epoch, row)?)?;
            }
            let state = state.clone();
            state.with_memory(peak_memory_bytes(&device)).write(&folder)
        }))
    }

    fn steps_per_epoch(&self) -> Result<usize, Failure> {
        Ok(self.run.config.length(self.images)?.steps_per_epoch())
    }

    fn recorded_epochs(&self) -> Result<HashSet<usize>, Failure> {
        let records = self.directory.results().read()?;
        Ok(records.of(&self.run.name).map(|row| row.epoch).collect())
    }

    /// Records the epochs that are in the run's metrics and not in the results: those taken over
    /// from another run, and one whose process was killed between writing the two.
    fn record_epochs_until(&self, folder: &RunDirectory, epoch: usize) -> Result<(), Failure> {
        let recorded = self.recorded_epochs()?;
        let steps_per_epoch = self.steps_per_epoch()?;
        for row in read_rows(&folder.metrics())? {
            if row.epoch <= epoch && !recorded.contains(&row.epoch) {
                let (name, config) = (&self.run.name, &self.run.config);
                let record = evaluation(name, config, steps_per_epoch, &row)?;
                self.directory.results().append(&record)?;
            }
        }
        Ok(())
    }

    /// Records what the run's models predict and that it is finished, and deletes its checkpoints. Its settings
    /// and metrics stay, and its models if the plan keeps them. Returns the program's exit status if the worker was asked to
    /// stop before.
    fn finish(&self, folder: &RunDirectory) -> Result<Option<i32>, Failure> {
        folder.check()?;
        let (run, config) = (self.run, &self.run.config);
        // Memory and time are the training's, without the predictions.
        let state =
            RunState::read(folder.path())?.with_memory(peak_memory_bytes(&self.args.device));
        state.write(folder.path())?;
        let finished = provenance::now();
        let predictions = Predictions {
            run: FinishedRun {
                directory: folder.clone(),
                config: config.clone(),
            },
            name: &run.name,
            images: self.images,
            held_out: self.held_out.as_ref(),
            device: self.device,
            interruption: &self.interruption,
        };
        let results = self.directory.results();
        for record in predictions.records() {
            match record {
                // A worker that goes on with this run makes all of them again.
                _ if self.interruption.is_asked() => return Ok(Some(INTERRUPTED)),
                record => results.append(&Record::Predictions(record?))?,
            }
        }
        let record = RunRecord {
            run: run.name.clone(),
            data_set: run.data_set.to_string(),
            model: config.model.clone(),
            width_divisor: config.width_divisor,
            method: run.method,
            budget: run.budget,
            epochs: config.epochs,
            swa_start: config.method.swa().map(|swa| swa.start),
            swa_lr: config.method.swa().map(|swa| swa.lr),
            sgd: config.sgd,
            seed: config.seed,
            train_images: self.images.train.len(),
            test_images: self.images.test.len(),
            evaluate_on: config.images.evaluate_on,
            shared_epochs: state.shared_epochs,
            device: self.args.device.clone(),
            machine: provenance::machine(),
            command: self.args.command.clone(),
            version: provenance::VERSION.to_owned(),
            burn_version: provenance::BURN_VERSION.to_owned(),
            started: state.started.unwrap_or_else(|| finished.clone()),
            finished,
            peak_memory_bytes: state.peak_memory_bytes,
        };
        results.append(&Record::Run(record))?;
        clear_finished(&self.directory, &run.name, self.plan.keep_models)?;
        let records = results.read()?;
        say(format!(
            "{} finished: {}",
            run.name,
            status::result(self.plan, run, &records)
        ));
        Ok(None)
    }
}

/// The most memory that this process has had, unless its runs share it, as they do on an accelerator.
fn peak_memory_bytes(device: &str) -> Option<u64> {
    if device::compiles_kernels(device) {
        None
    } else {
        provenance::peak_memory_bytes()
    }
}

/// The record of an epoch.
///
/// # Errors
///
/// If the training has diverged. JSON cannot hold a loss that is not a number, and to go on would
/// be pointless.
fn evaluation(
    run: &str,
    config: &RunConfig,
    steps_per_epoch: usize,
    row: &EpochRow,
) -> Result<Record, Failure> {
    let losses = [Some(row.live_test_loss), row.train_loss, row.swa_test_loss];
    if !losses.into_iter().flatten().all(f64::is_finite) {
        return Err(format!(
            "diverged in epoch {}: its loss is not a finite number; lower its learning rates in the plan, for an \
             experiment in another folder",
            row.epoch
        )
        .into());
    }
    Ok(Record::Evaluation(EvaluationRecord {
        run: run.to_owned(),
        epoch: row.epoch,
        learning_rate: row.learning_rate,
        train_loss: row.train_loss,
        train_accuracy: row.train_accuracy,
        live_test_loss: row.live_test_loss,
        live_test_accuracy: row.live_test_accuracy,
        swa_test_loss: row.swa_test_loss,
        swa_test_accuracy: row.swa_test_accuracy,
        averaged: config.method.averaged_after(row.epoch, steps_per_epoch),
        seconds: row.seconds,
        reestimation_seconds: row.reestimation_seconds,
    }))
}
