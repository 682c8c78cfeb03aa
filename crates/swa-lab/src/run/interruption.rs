//! A stop by Ctrl-C that loses no work.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::train::Interrupter;
use burn::train::renderer::MetricsRenderer;

use crate::output::note;
#[cfg(unix)]
use crate::provenance;
use crate::run::terminal;

/// The exit status of a run that was asked to stop: 128 + SIGINT, as shells have it.
pub const INTERRUPTED: i32 = 130;

/// A signal this soon after the first counts as the same one: `timeout`, for example, sends it to
/// the process and then to its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Stops a training after a step, and keeps the state that Burn would not hand out: its `Learner`
/// returns the model alone, and a checkpoint needs the optimizer's state as well (Burn 0.22.1).
#[derive(Default)]
pub struct Interruption {
    /// The interrupter of the `Learner`.
    interrupter: Interrupter,
    /// The interrupter that the terminal UI uses. It is not that of the `Learner`: the UI of Burn
    /// 0.22.1 would reset that one at the end of the training, before the reason for the end is
    /// read.
    ui: Interrupter,
    shows_ui: AtomicBool,
    scores_points: AtomicBool,
    /// The time at which a signal first asked for a stop.
    signalled: Mutex<Option<Instant>>,
    /// Optimizer steps of the training under way.
    steps: AtomicUsize,
    optimizer: Mutex<Option<OptimizerRecord>>,
}

impl Interruption {
    /// The interrupter of the `Learner`.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Burn's terminal UI, which can ask for a stop too.
    pub fn terminal_ui(&self, checkpoint: Option<usize>) -> Box<dyn MetricsRenderer> {
        self.shows_ui.store(true, Ordering::SeqCst);
        terminal::ui(self.ui.clone(), checkpoint)
    }

    /// Takes note that a training begins. A process may make several, one after the other.
    pub(crate) fn begin_training(&self) {
        self.steps.store(0, Ordering::SeqCst);
    }

    /// Takes note that points are scored from now on, and no training is under way.
    pub(crate) fn begin_points(&self) {
        self.scores_points.store(true, Ordering::SeqCst);
    }

    /// Counts an optimizer step, and stops after it if that was asked for.
    pub(crate) fn after_step(&self, optimizer: &ModuleOptimizer) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        if lock(&self.signalled).is_some() || self.ui.should_stop() {
            *lock(&self.optimizer) = Some(optimizer.to_record());
            self.interrupter.stop(Some("asked to stop"));
        }
    }

    /// The number of optimizer steps of the training, and the optimizer's state after the last one,
    /// if it stopped there.
    pub fn stopped_after(&self) -> Option<(usize, OptimizerRecord)> {
        let record = lock(&self.optimizer).take()?;
        Some((self.steps.load(Ordering::SeqCst), record))
    }

    /// Makes Ctrl-C, and on Unix a termination signal and the loss of the terminal, ask for a stop. A
    /// second Ctrl-C ends the process at once. The others may come one after the other, as at a
    /// logout, and ask for the same stop.
    ///
    /// # Errors
    ///
    /// If the process handles the signals already.
    pub fn on_signals(self: &Arc<Self>) -> io::Result<()> {
        let (ctrl_c, others) = (self.clone(), self.clone());
        on_signals(move || ctrl_c.signal(), move || others.ask())
    }

    /// True once a signal, or something that means the same, has asked for a stop.
    pub(crate) fn is_asked(&self) -> bool {
        lock(&self.signalled).is_some()
    }

    /// Asks for a stop, unless that was done before.
    fn ask(&self) {
        if lock(&self.signalled).is_none() {
            self.signal();
        }
    }

    /// Takes note of Ctrl-C, or of something that means the same.
    pub(crate) fn signal(&self) {
        let shows_ui = self.shows_ui.load(Ordering::SeqCst);
        if shows_ui {
            terminal::outlive_ui();
        }
        let mut signalled = lock(&self.signalled);
        match *signalled {
            Some(first) if first.elapsed() < SAME_SIGNAL => {}
            Some(_) => {
                if shows_ui {
                    terminal::leave_ui();
                }
                std::process::exit(INTERRUPTED);
            }
            None => {
                *signalled = Some(Instant::now());
                if self.scores_points.load(Ordering::SeqCst) {
                    note("\nStopping after this point. Ctrl-C again stops at once, and loses it.");
                } else if !shows_ui {
                    note(
                        "\nStopping after this step, with a checkpoint (a validation under way is \
                         finished first). Ctrl-C again stops at once, and loses the epoch under way.",
                    );
                }
            }
        }
    }
}

/// Calls `ctrl_c` for Ctrl-C, and on Unix `others` for a termination signal and for SIGHUP, which the loss
/// of the terminal sends. SIGHUP is left alone where it is ignored, as under `nohup`. Only Linux tells
/// if it is: on other systems it is always left alone, and ends the process.
///
/// # Errors
///
/// If the process handles the signals already.
pub(crate) fn on_signals(
    ctrl_c: impl Fn() + Send + 'static,
    others: impl Fn() + Send + 'static,
) -> io::Result<()> {
    ctrlc::set_handler(ctrl_c).map_err(io::Error::other)?;
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGHUP, SIGTERM};
        use signal_hook::iterator::Signals;

        let mut signals = Signals::new([SIGTERM])?;
        if provenance::ignored_signals().is_some_and(|ignored| !ignored.contains(&SIGHUP)) {
            signals.add_signal(SIGHUP)?;
        }
        std::thread::spawn(move || signals.forever().for_each(|_| others()));
    }
    Ok(())
}

/// Locks a mutex, even a poisoned one: its value is written in one go, and so is valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Interruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interruption")
            .field("signalled", &self.signalled)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_at_once_is_one() {
        let interruption = Interruption::default();
        interruption.signal();
        // This would end the process if it counted as another signal.
        interruption.signal();
        assert!(lock(&interruption.signalled).is_some());
    }
}
