//! Ctrl-C that keeps what was earned.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::train::Interrupter;

use crate::output::note;

/// Stops a training after a step, and keeps the state that Burn would not hand out: its `Learner`
/// returns the model alone, and a checkpoint needs the optimizer's state as well (Burn 0.22.1).
#[derive(Default)]
pub struct Interruption {
    interrupter: Interrupter,
    requested: AtomicBool,
    /// Optimizer steps of this process.
    steps: AtomicUsize,
    optimizer: Mutex<Option<OptimizerRecord>>,
}

impl Interruption {
    /// What stops the `Learner`.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Asks for a stop after the step under way.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Counts an optimizer step, and stops after it if that was asked for, here or in Burn's terminal
    /// UI.
    pub(crate) fn after_step(&self, optimizer: &ModuleOptimizer) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        if self.requested.load(Ordering::SeqCst) || self.interrupter.should_stop() {
            let mut record = self
                .optimizer
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *record = Some(optimizer.to_record());
            self.interrupter.stop(Some("asked to stop"));
        }
    }

    /// How many optimizer steps this process made, and the optimizer's state after the last, if the
    /// training stopped there.
    pub fn stopped_after(&self) -> Option<(usize, OptimizerRecord)> {
        let mut record = self
            .optimizer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        record
            .take()
            .map(|record| (self.steps.load(Ordering::SeqCst), record))
    }

    /// Makes Ctrl-C (and a termination signal) ask for a stop, and a second one end the process at
    /// once.
    ///
    /// # Errors
    ///
    /// If the process handles the signal already.
    pub fn on_ctrl_c(self: &Arc<Self>) -> Result<(), ctrlc::Error> {
        let interruption = self.clone();
        ctrlc::set_handler(move || {
            if interruption.requested.swap(true, Ordering::SeqCst) {
                std::process::exit(crate::train::INTERRUPTED);
            }
            note(
                "\nStopping after this step, with a checkpoint (a validation under way is finished \
                 first). Ctrl-C again stops at once, and loses the epoch under way.",
            );
        })
    }
}

impl std::fmt::Debug for Interruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interruption")
            .field("requested", &self.requested)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
