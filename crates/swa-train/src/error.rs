//! What can go wrong with SWA in a training.

use std::sync::Arc;

use swa_core::{AverageError, BatchNormError};
use thiserror::Error;

/// Why SWA could not be set up, or could not go on.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SwaError {
    /// A length, period or start that is zero or no share.
    #[error("{name} must be {expected}, not {got}")]
    Invalid {
        /// What it is.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is instead.
        got: String,
    },

    /// Collecting would start after the run's end.
    #[error(
        "SWA would collect for the first time after step {first_step}, but the run ends after \
         {total_steps}: start earlier (the paper starts at three quarters of the run) or train longer"
    )]
    NeverCollects {
        /// The optimizer step after which the first weights were to be collected.
        first_step: usize,
        /// The number of optimizer steps of the run.
        total_steps: usize,
    },

    /// The average could not be made or updated.
    #[error(transparent)]
    Average(#[from] AverageError),

    /// BatchNorm could not be re-estimated.
    #[error(transparent)]
    BatchNorm(Arc<BatchNormError>),
}

impl From<BatchNormError> for SwaError {
    fn from(error: BatchNormError) -> Self {
        Self::BatchNorm(Arc::new(error))
    }
}
