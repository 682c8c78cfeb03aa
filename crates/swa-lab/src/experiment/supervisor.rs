//! The supervisor: the process that starts a worker for every run.

use std::fs;
use std::io::Write;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory::ExperimentDirectory;
use super::plan::PlannedRun;
use super::status;
use super::worker::OUT_OF_TIME;
use crate::Failure;
use crate::output::{note, say};
use crate::run::directory::{RunDirectory, io_error};
use crate::run::interruption::{INTERRUPTED, on_signals};
use crate::run::time_limit::TimeLimit;

/// Makes the runs of an experiment that are not finished, one after the other.
pub struct Supervisor<'a> {
    /// The experiment's folder.
    pub directory: &'a ExperimentDirectory,
    /// The runs of its plan.
    pub runs: &'a [PlannedRun],
    /// True if the models of a run stay when it is finished.
    pub keep_models: bool,
    /// The value of `--device`.
    pub device: &'a str,
    /// The time in which it ends, after an epoch, if that is limited.
    pub limit: Option<TimeLimit>,
    /// The command line, to be shown and recorded.
    pub command: String,
}

/// The end of a run.
enum RunEnd {
    Finished,
    Failed,
    Stopped,
    OutOfTime,
}

impl Supervisor<'_> {
    /// Makes the runs, and returns the program's exit status.
    ///
    /// If a run fails, the others are still made.
    ///
    /// # Errors
    ///
    /// If a run failed, or the folder is in use or cannot be written.
    pub fn run(&self) -> Result<i32, Failure> {
        let lock = self.directory.lock()?;
        self.clear_up()?;
        let stop = Arc::new(StopSignal::default());
        let (ctrl_c, others) = (stop.clone(), stop.clone());
        on_signals(
            move || ctrl_c.send(),
            move || {
                if !others.is_sent() {
                    others.send();
                }
            },
        )?;

        let results = self.directory.results().path().display().to_string();
        let total = self.runs.len();
        let left = self.unfinished()?;
        say(format!(
            "{total} runs in {}, {} of them finished; results in {results}",
            self.directory.path().display(),
            total - left.len(),
        ));
        let mut failed = Vec::new();
        let mut out_of_time = false;
        for run in left {
            lock.check()?;
            match self.make(run, &stop)? {
                RunEnd::Finished => {}
                RunEnd::Failed => failed.push(run.name.as_str()),
                RunEnd::OutOfTime => {
                    out_of_time = true;
                    break;
                }
                RunEnd::Stopped => {
                    say(format!(
                        "Stopped. The same command goes on:\n  {}",
                        self.command
                    ));
                    return Ok(INTERRUPTED);
                }
            }
        }
        if let Some(limit) = self.limit.filter(|_| out_of_time) {
            let finished = total - self.unfinished()?.len();
            let left = status::time_left(self.runs, &self.directory.results().read()?);
            say(format!(
                "Stopped to keep within {limit}: {finished} of {total} runs finished, {left}. The same command goes \
                 on:\n  {}",
                self.command
            ));
        }
        match failed.as_slice() {
            [] if out_of_time => Ok(0),
            [] => {
                say(format!("All {total} runs are finished."));
                Ok(0)
            }
            [only] => Err(format!("{only} failed: the same command tries it again").into()),
            several => Err(format!(
                "{} runs failed, the first of them {}: the same command tries them again",
                several.len(),
                several[0]
            )
            .into()),
        }
    }

    /// Cleans up after a process that was killed.
    fn clear_up(&self) -> Result<(), Failure> {
        let _lock = self.directory.lock_runs("clearing up")?;
        let results = self.directory.results();
        results.repair()?;
        let records = results.read()?;
        for run in self.runs {
            if records.run(&run.name).is_some() {
                clear_finished(self.directory, &run.name, self.keep_models)?;
            }
        }
        Ok(())
    }

    fn unfinished(&self) -> Result<Vec<&PlannedRun>, Failure> {
        let records = self.directory.results().read()?;
        let runs = self.runs.iter();
        Ok(runs
            .filter(|run| records.run(&run.name).is_none())
            .collect())
    }

    fn make(&self, run: &PlannedRun, stop: &StopSignal) -> Result<RunEnd, Failure> {
        // A run that shares its beginning with another takes two workers: the first one ends after
        // the shared epochs.
        const WORKERS: usize = 2;

        for _ in 0..WORKERS {
            if stop.is_sent() {
                return Ok(RunEnd::Stopped);
            }
            if !self.has_time_for(run)? {
                return Ok(RunEnd::OutOfTime);
            }
            let status = self.run_worker(run, stop)?;
            if stop.is_sent() || status.code() == Some(INTERRUPTED) {
                return Ok(RunEnd::Stopped);
            }
            if status.code() == Some(OUT_OF_TIME) {
                return Ok(RunEnd::OutOfTime);
            }
            if !status.success() {
                if status.code().is_none() {
                    // It could not say so itself.
                    note(format!("error: {} was killed ({status})", run.name));
                }
                return Ok(RunEnd::Failed);
            }
            if self.unfinished()?.iter().all(|left| left.name != run.name) {
                return Ok(RunEnd::Finished);
            }
        }
        note(format!("error: {} ended before it was finished", run.name));
        Ok(RunEnd::Failed)
    }

    /// Tells whether the next epoch of a run fits into the time that is left. One of a network that was not
    /// measured does if there is any.
    fn has_time_for(&self, run: &PlannedRun) -> Result<bool, Failure> {
        let Some(limit) = self.limit else {
            return Ok(true);
        };
        let records = self.directory.results().read()?;
        let next = status::next_epoch(run, self.runs, &records).unwrap_or(0.0);
        let left = 60.0 * limit.minutes_left();
        Ok(left > 0.0 && next <= left)
    }

    /// Starts a worker for a run, and waits for its end.
    fn run_worker(&self, run: &PlannedRun, stop: &StopSignal) -> Result<ExitStatus, Failure> {
        let program = std::env::current_exe()?;
        let mut worker = Command::new(program);
        worker
            .args(["experiment", "run"])
            .arg(self.directory.path())
            .arg(&run.name)
            .args(["--device", self.device, "--command", &self.command]);
        if let Some(limit) = self.limit {
            let left = limit.minutes_left().to_string();
            worker.args(["--until-minutes", &left]);
        }
        let mut child = worker.stdin(Stdio::piped()).spawn()?;
        stop.connect(child.stdin.take());
        let status = child.wait();
        stop.connect(None);
        Ok(status?)
    }
}

/// Deletes the checkpoints of a run that is finished, and its models unless they are kept.
pub(super) fn clear_finished(
    directory: &ExperimentDirectory,
    run: &str,
    keep_models: bool,
) -> Result<(), Failure> {
    let run = RunDirectory::at(&directory.run(run));
    let mut paths = vec![run.checkpoints()];
    if !keep_models {
        paths.extend([
            run.live_model(),
            run.averaged_model(),
            run.swag(),
            run.members(),
        ]);
    }
    for path in paths {
        let deleted = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else if path.exists() {
            fs::remove_file(&path)
        } else {
            Ok(())
        };
        deleted.map_err(io_error("delete", &path))?;
    }
    Ok(())
}

/// The signal that stops a worker, through its standard input. A byte asks the worker to stop,
/// which works on every operating system. The end of the input ends the worker. That also happens
/// if this process is killed.
#[derive(Default)]
struct StopSignal {
    sent: AtomicBool,
    input: Mutex<Option<ChildStdin>>,
}

impl StopSignal {
    fn connect(&self, input: Option<ChildStdin>) {
        *self.input() = input;
        // The user may have asked for a stop just before.
        if self.is_sent() {
            self.send();
        }
    }

    fn send(&self) {
        self.sent.store(true, Ordering::SeqCst);
        if let Some(input) = self.input().as_mut() {
            // A worker that has ended needs no signal.
            let _ = input.write_all(b"\n").and_then(|()| input.flush());
        }
    }

    fn is_sent(&self) -> bool {
        self.sent.load(Ordering::SeqCst)
    }

    fn input(&self) -> MutexGuard<'_, Option<ChildStdin>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
