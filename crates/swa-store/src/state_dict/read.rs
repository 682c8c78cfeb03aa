//! Reading a state dict from either of PyTorch's two kinds of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::store::{ModuleStore, PytorchStore, SafetensorsStore};
use safetensors::SafeTensors;

use super::load::{is_a_count, is_whole};
use super::{Entry, StateDict, StateDictError};
use crate::safetensors_file::{FORMAT, first_bytes, is_safetensors};

impl StateDict {
    /// Reads a state dict from a SafeTensors file, or from a file that `torch.save` wrote (`.pt`, `.pth`). The kind of file is
    /// told from its first bytes, and not from its name.
    ///
    /// No code in the file is run. Of a pickle, tensors, dictionaries, lists and plain values are read, and calls of other
    /// functions are ignored. The tensors of a `torch.save` file are read when they are loaded.
    ///
    /// # Errors
    ///
    /// [`StateDictError::Read`] and [`StateDictError::Corrupt`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, StateDictError> {
        let path = path.as_ref();
        let first_bytes = first_bytes(path).map_err(|error| unreadable(path, error))?;
        if is_safetensors(&first_bytes) {
            Self::read_safetensors(path)
        } else {
            Self::read_pytorch(path)
        }
    }

    fn read_safetensors(path: &Path) -> Result<Self, StateDictError> {
        let bytes = fs::read(path).map_err(|error| unreadable(path, error))?;
        let metadata = SafeTensors::read_metadata(&bytes)
            .map_err(|error| corrupt(path, error))?
            .1;
        let metadata = metadata.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone()));
        let metadata = metadata.collect();
        let mut store = SafetensorsStore::from_bytes(Some(bytes));
        let entries = store
            .get_all_tensors()
            .map_err(|error| corrupt(path, error))?
            .clone();
        let state_dict = Self::from_file(path, entries, metadata);
        let mut ints = state_dict
            .entries
            .values()
            .filter(|entry| is_whole(entry.dtype));
        let lacks_ints =
            state_dict.metadata(FORMAT).is_none() && ints.all(|it| is_a_count(&it.name));
        Ok(Self {
            lacks_ints,
            ..state_dict
        })
    }

    fn read_pytorch(path: &Path) -> Result<Self, StateDictError> {
        // Burn's default renumbers the layers of a `Sequential` without gaps.
        let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
        let entries = store
            .get_all_tensors()
            .map_err(|error| corrupt(path, error))?
            .clone();
        Ok(Self::from_file(path, entries, BTreeMap::new()))
    }

    /// A state dict of tensors that stay in a file until they are loaded or written.
    pub(crate) fn from_file(
        path: &Path,
        entries: BTreeMap<String, Entry>,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            key: None,
            without: Vec::new(),
            lacks_ints: false,
            entries,
            metadata,
        }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> StateDictError {
    StateDictError::Read {
        path: path.to_owned(),
        error,
    }
}

fn corrupt(path: &Path, error: impl ToString) -> StateDictError {
    StateDictError::Corrupt {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
