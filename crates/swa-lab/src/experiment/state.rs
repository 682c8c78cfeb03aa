//! What is to be remembered of a run from one process to the next.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::run::directory::{io_error, write_whole};

/// What the record of a run will say, and no other file of its folder does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunState {
    /// When its first process began, in UTC, as in RFC 3339.
    pub(super) started: Option<String>,
    /// How many epochs it has taken over from another run.
    pub(super) shared_epochs: usize,
    /// The most memory that any of its processes had, in bytes.
    pub(super) peak_memory_bytes: Option<u64>,
}

impl RunState {
    const FILE: &str = "state.json";

    /// That of the run in `folder`; of one that has not begun if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn read(folder: &Path) -> Result<Self, Failure> {
        let file = folder.join(Self::FILE);
        let text = match fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            text => text.map_err(io_error("read", &file))?,
        };
        serde_json::from_slice(&text).map_err(|error| {
            let file = file.display();
            format!("{file} does not hold the state of a run ({error}): delete it").into()
        })
    }

    /// Writes it to the folder of the run.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self)?;
        Ok(write_whole(&folder.join(Self::FILE), &text)?)
    }

    /// The same after this process has had so much memory.
    pub(super) fn with_memory(mut self, bytes: Option<u64>) -> Self {
        self.peak_memory_bytes = self.peak_memory_bytes.max(bytes);
        self
    }
}
