//! The supervisor: the process that starts the workers.

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
use crate::device;
use crate::output::{note, say};
use crate::run::directory::{RunDirectory, io_error};
use crate::run::interruption::{INTERRUPTED, on_signals};
use crate::run::time_limit::TimeLimit;

/// Makes the runs of an experiment that are not finished, one after the other.
///
/// On the CPU, each has a worker of its own, so that its memory can be measured. On a device for which kernels are compiled, one
/// worker makes all, so that they are compiled once, and tuned once: only a failure has another one go on with the runs after it.
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

/// The end of a worker.
enum WorkerEnd {
    Finished,
    /// It failed at the run with this index among its runs.
    Failed(usize),
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
        let mut left = self.unfinished()?;
        say(format!(
            "{total} runs in {}, {} of them finished; results in {results}",
            self.directory.path().display(),
            total - left.len(),
        ));
        let mut failed = Vec::new();
        let mut out_of_time = false;
        while !left.is_empty() {
            lock.check()?;
            let given = if device::compiles_kernels(self.device) {
                left.len()
            } else {
                1
            };
            match self.make(&left[..given], &stop)? {
                WorkerEnd::Finished => {
                    left.drain(..given);
                }
                WorkerEnd::Failed(at) => {
                    failed.push(left[at].name.as_str());
                    left.drain(..=at);
                }
                WorkerEnd::OutOfTime => {
                    out_of_time = true;
                    break;
                }
                WorkerEnd::Stopped => {
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

    /// Has a worker make `runs`, in this order.
    fn make(&self, runs: &[&PlannedRun], stop: &StopSignal) -> Result<WorkerEnd, Failure> {
        if stop.is_sent() {
            return Ok(WorkerEnd::Stopped);
        }
        let records = self.directory.results().read()?;
        if !status::has_time_for(self.limit, runs[0], self.runs, &records) {
            return Ok(WorkerEnd::OutOfTime);
        }
        let status = self.run_worker(runs, stop)?;
        if stop.is_sent() || status.code() == Some(INTERRUPTED) {
            return Ok(WorkerEnd::Stopped);
        }
        if status.code() == Some(OUT_OF_TIME) {
            return Ok(WorkerEnd::OutOfTime);
        }
        let records = self.directory.results().read()?;
        let unfinished = runs.iter().position(|run| records.run(&run.name).is_none());
        let at = match unfinished {
            None if status.success() => return Ok(WorkerEnd::Finished),
            None => runs.len() - 1,
            Some(at) => at,
        };
        // If it failed in another way, it has said so itself.
        if status.success() {
            note(format!(
                "error: {} ended before it was finished",
                runs[at].name
            ));
        } else if status.code().is_none() {
            note(format!("error: {} was killed ({status})", runs[at].name));
        }
        Ok(WorkerEnd::Failed(at))
    }

    /// Starts a worker for runs, and waits for its end.
    fn run_worker(&self, runs: &[&PlannedRun], stop: &StopSignal) -> Result<ExitStatus, Failure> {
        let program = std::env::current_exe()?;
        let mut worker = Command::new(program);
        worker
            .args(["experiment", "run"])
            .arg(self.directory.path())
            .args(runs.iter().map(|run| &run.name))
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
