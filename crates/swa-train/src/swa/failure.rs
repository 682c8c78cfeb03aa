//! Failures of averaging and of evaluation.

use std::sync::{Arc, OnceLock};

use crate::SwaError;

/// The first failures of a training, known to all its clones, forks, replicas and copies for validation.
#[derive(Default)]
pub(super) struct Failures {
    /// The failure that ended the averaging: an average lacks an update, or has those of another training, or it is not known
    /// when to update it.
    pub(super) of_averaging: OnceLock<Failed>,
    /// The failure that kept an averaged model from being made ready for use.
    pub(super) of_evaluation: OnceLock<Failed>,
    /// The first failure to keep a member of an ensemble. The training goes on.
    pub(super) of_members: OnceLock<Failed>,
    /// Set once the user was told which running statistics were not re-estimated.
    pub(super) kept_statistics_told: OnceLock<()>,
    /// Set once the length of the run was compared with the training.
    pub(super) run_checked: OnceLock<()>,
}

pub(super) struct Failed {
    error: Arc<SwaError>,
    /// The number of steps before the failure.
    pub(super) step: usize,
}

impl Failed {
    pub(super) fn new(error: SwaError, step: usize) -> Self {
        let error = Arc::new(error);
        Self { error, step }
    }

    /// Tells whether it ends the training, if there is an interrupter.
    pub(super) fn stops(&self) -> bool {
        !matches!(*self.error, SwaError::Member(_))
    }

    /// The failure, with its step.
    pub(super) fn error(&self) -> SwaError {
        SwaError::AfterStep {
            step: self.step,
            error: self.error.clone(),
        }
    }
}

impl Failures {
    /// The failure that matters most.
    pub(super) fn first(&self) -> Option<&Failed> {
        let of_averaging = self.of_averaging.get();
        let of_averages = of_averaging.or_else(|| self.of_evaluation.get());
        of_averages.or_else(|| self.of_members.get())
    }

    /// Keeps a failure, unless there was an earlier one of its kind. Tells whether it is to be shown: each member that is lacking is, and
    /// of other failures the first.
    pub(super) fn add(&self, failed: Failed) -> bool {
        let is_of_a_member = !failed.stops();
        let kept = match *failed.error {
            SwaError::Average(_)
            | SwaError::FurtherAverage { .. }
            | SwaError::Shared { .. }
            | SwaError::StepsChanged { .. }
            | SwaError::OtherRunLength { .. } => &self.of_averaging,
            SwaError::Member(_) => &self.of_members,
            _ => &self.of_evaluation,
        };
        kept.set(failed).is_ok() || is_of_a_member
    }
}
