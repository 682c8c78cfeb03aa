//! Models in files.

use std::fs;
use std::path::{Path, PathBuf};

use burn::store::{
    ApplyError, ApplyResult, BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter,
    SafetensorsStore,
};
use burn::tensor::Device;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Failure;
use crate::architecture::{Network, WithNetwork};
use crate::directory::write_whole;

/// What a file says of the network in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The network: see [`Architecture`](crate::architecture::Architecture).
    pub model: String,
    /// What its widths are divided by.
    pub width_divisor: usize,
    /// The classes it tells apart, in the order of its logits.
    pub class_names: Vec<String>,
}

/// The key of the description in a file's metadata.
const DESCRIPTION: &str = "cifar";

/// Why a model could not be saved or loaded.
#[derive(Debug, Error)]
pub enum ModelFileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },

    /// It is no safetensors file.
    #[error("{path} is not a whole safetensors file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// It does not say which network it holds.
    #[error("{path} does not say which network it holds: it was not written by `cifar train`")]
    NoDescription {
        /// The file.
        path: PathBuf,
    },

    /// It holds another network.
    #[error("{path} does not hold a {model}: {reason}")]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The network that was expected.
        model: String,
        /// What is wrong.
        reason: String,
    },
}

/// Writes a network to a safetensors file, under PyTorch's names and in PyTorch's layout.
///
/// # Errors
///
/// If the file cannot be written; what was there stays.
pub fn save<N: Network>(
    network: &N,
    description: &Description,
    path: &Path,
) -> Result<(), Failure> {
    // No entry but ours: several would be written in another order by every process, and the same run
    // should leave the same file.
    let mut store = SafetensorsStore::from_bytes(None)
        .with_to_adapter(BurnToPyTorchAdapter)
        .clear_metadata()
        .metadata(DESCRIPTION, serde_json::to_string(description)?);
    network.save_into(&mut store)?;
    Ok(write_whole(path, &store.get_bytes()?)?)
}

/// A model file that was read: its bytes, and the network it says it holds.
pub struct ModelFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The network in it.
    pub description: Description,
}

impl ModelFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`ModelFileError`] if it is no whole safetensors file, or does not say which network it holds.
    pub fn read(path: &Path) -> Result<Self, ModelFileError> {
        let path = path.to_owned();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => return Err(ModelFileError::Read { path, error }),
        };
        let metadata = SafeTensors::deserialize(&bytes)
            .and_then(|_| SafeTensors::read_metadata(&bytes))
            .map(|(_, metadata)| metadata.metadata().clone());
        let description = match metadata {
            Ok(metadata) => metadata.and_then(|metadata| metadata.get(DESCRIPTION).cloned()),
            Err(error) => {
                let reason = error.to_string();
                return Err(ModelFileError::Format { path, reason });
            }
        };
        let description = description.and_then(|text| serde_json::from_str(&text).ok());
        match description {
            None => Err(ModelFileError::NoDescription { path }),
            Some(description) => Ok(Self {
                path,
                bytes,
                description,
            }),
        }
    }

    /// Makes the network in the file on `device`, and does something with it.
    ///
    /// # Errors
    ///
    /// If there is no such network, or the file's tensors are not its parameters.
    pub fn with_network<W: WithNetwork>(
        self,
        device: &Device,
        with: W,
    ) -> Result<W::Output, Failure> {
        let Description {
            model,
            width_divisor,
            class_names,
        } = self.description.clone();
        let architecture: crate::architecture::Architecture = model.parse()?;
        architecture.with_network(
            class_names.len(),
            width_divisor,
            device,
            LoadThen { file: self, with },
        )?
    }
}

struct LoadThen<W> {
    file: ModelFile,
    with: W,
}

impl<W: WithNetwork> WithNetwork for LoadThen<W> {
    type Output = Result<W::Output, Failure>;

    fn with<N: Network>(self, mut network: N) -> Self::Output {
        // Burn's own verdict (0.22.1) is a page long, and passes over tensors that are left over.
        let mut store = SafetensorsStore::from_bytes(Some(self.file.bytes))
            .with_from_adapter(PyTorchToBurnAdapter)
            .allow_partial(true)
            .validate(false);
        let reason = match network.load_from(&mut store) {
            Ok(result) => misfit(&result),
            Err(error) => Some(error.to_string()),
        };
        match reason {
            None => Ok(self.with.with(network)),
            Some(reason) => Err(ModelFileError::OtherNetwork {
                path: self.file.path,
                model: self.file.description.model,
                reason,
            }
            .into()),
        }
    }
}

/// Why the tensors of a file are not a network's: the first that is not, and how many.
fn misfit(result: &ApplyResult) -> Option<String> {
    let mut misfits: Vec<String> = Vec::new();
    for error in &result.errors {
        misfits.push(match error {
            ApplyError::ShapeMismatch {
                path,
                expected,
                found,
            } => format!(
                "`{path}` has shape {:?}, expected {:?}",
                found.to_vec(),
                expected.to_vec()
            ),
            error => error.to_string(),
        });
    }
    let missing = result.missing.iter();
    misfits.extend(missing.map(|(path, _)| format!("`{path}` is not there")));
    let unused = result.unused.iter();
    misfits.extend(unused.map(|path| format!("`{path}` is no parameter of it")));

    match misfits.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        all => Some(format!(
            "{} tensors do not fit, the first: {}",
            all.len(),
            all[0]
        )),
    }
}
