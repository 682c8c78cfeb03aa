//! The state of a run that one process leaves to the next.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::run::directory::{read_json, write_json};

/// The facts for the record of a run that no other file of its folder holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunState {
    /// The time at which its first process began, in UTC, as in RFC 3339.
    pub(super) started: Option<String>,
    /// The number of epochs that it has taken over from another run.
    pub(super) shared_epochs: usize,
    /// The most memory that any of its processes had, in bytes.
    pub(super) peak_memory_bytes: Option<u64>,
}

impl RunState {
    const FILE: &str = "state.json";

    /// Reads the state of the run in `folder`. Without a file, it is that of a run that has not
    /// begun.
    pub(super) fn read(folder: &Path) -> Result<Self, Failure> {
        let file = folder.join(Self::FILE);
        if file.exists() {
            Ok(read_json(&file, "the state of a run")?)
        } else {
            Ok(Self::default())
        }
    }

    /// Writes it to the folder of the run.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        Ok(write_json(&folder.join(Self::FILE), self)?)
    }

    /// The same state, after a process whose peak memory was `bytes`.
    pub(super) fn with_memory(mut self, bytes: Option<u64>) -> Self {
        self.peak_memory_bytes = self.peak_memory_bytes.max(bytes);
        self
    }
}
