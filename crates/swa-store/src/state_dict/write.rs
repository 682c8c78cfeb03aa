//! Writing a state dict to a SafeTensors file.

use std::path::Path;

use super::{StateDict, StateDictError};
use crate::safetensors_file::{self, write_values};

impl StateDict {
    /// Writes a SafeTensors file, for `load_state_dict(safetensors.torch.load_file(...), strict=True)`.
    ///
    /// Its metadata say `format: pt`, as those of PyTorch's own files do, unless [`with_metadata`](Self::with_metadata) set
    /// another format. The same state dict gives the same file, byte for byte.
    ///
    /// # Errors
    ///
    /// [`StateDictError::Write`]. The file is written under another name and then moved, so an existing file stays as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), StateDictError> {
        let path = path.as_ref();
        let entries = self.entries.values();
        let written = safetensors_file::write(path, entries, &self.metadata, write_values);
        written.map_err(|reason| StateDictError::Write {
            path: path.to_owned(),
            reason,
        })
    }
}
