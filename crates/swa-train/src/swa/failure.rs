//! Failures of averaging, and what they stop.

use std::sync::Mutex;

use burn::train::Interrupter;

use crate::SwaError;
use crate::burn_0_22::training_error;
use crate::lock::lock;

pub(super) struct Failure {
    pub(super) last: Mutex<Option<Failed>>,
    pub(super) interrupter: Option<Interrupter>,
}

pub(super) struct Failed {
    pub(super) error: SwaError,
    /// How many steps were taken before.
    pub(super) step: usize,
}

impl Failed {
    /// Whether the average lacks an update, or has those of another training.
    pub(super) fn ends_averaging(&self) -> bool {
        matches!(self.error, SwaError::Average(_) | SwaError::Shared { .. })
    }
}

impl Failure {
    /// What keeps the average from being updated, if anything does.
    pub(super) fn ended_averaging(&self) -> Option<SwaError> {
        let last = lock(&self.last);
        let ended = last.as_ref().filter(|failed| failed.ends_averaging());
        ended.map(|failed| failed.error.clone())
    }

    /// No failure, with the same interrupter.
    pub(super) fn of_its_own(&self) -> Self {
        Self {
            last: Mutex::new(None),
            interrupter: self.interrupter.clone(),
        }
    }

    pub(super) fn interrupt(&self, error: &SwaError) {
        if let Some(interrupter) = &self.interrupter {
            interrupter.fail(training_error(error));
        }
    }
}
