//! Errors of state dicts.

use std::path::PathBuf;

use thiserror::Error;

/// The reason why a state dict could not be read, loaded or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateDictError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },

    /// The file is no state dict, or a damaged one.
    #[error(
        "{} is damaged, or no state dict: {reason}. Expected a SafeTensors file, or what `torch.save` wrote",
        .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// The network is in the file several times.
    #[error("{} has the network several times: name one of the keys {}", .path.display(), listed(.keys))]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// The keys of the copies.
        keys: Vec<String>,
    },

    /// There is nothing under the given key.
    #[error(
        "{} has nothing under `{key}`: name one of the keys {}",
        .path.display(),
        listed(.keys)
    )]
    NoSuchKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The first parts of the names in the file.
        keys: Vec<String>,
    },

    /// There is nothing of the name of a part that was to be left as it is.
    #[error(
        "neither {} nor the network has a part `{part}`, which was to be left as it is: name one of {}",
        .path.display(),
        listed(.parts)
    )]
    NoSuchPart {
        /// The file.
        path: PathBuf,
        /// The name.
        part: String,
        /// The first parts of the names of both.
        parts: Vec<String>,
    },

    /// Two tensors would have one name after [`StateDict::renamed`](super::StateDict::renamed).
    #[error(
        "{} has two tensors that would be called `{name}`: give every tensor another name",
        .path.display()
    )]
    SameName {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },

    /// The file holds other tensors than the network has. [`StateDict::load_partly`](super::StateDict::load_partly) loads what
    /// fits.
    #[error(
        "{} does not fit the network of {tensors} tensors{}{}{}. Load it into the network that it was saved from",
        .path.display(),
        part("missing", .missing),
        part("unknown", .unknown),
        part("of another shape or kind", .misshapen)
    )]
    Misfit {
        /// The file.
        path: PathBuf,
        /// The number of tensors of the network.
        tensors: usize,
        /// Tensors of the network that are not in the file, by PyTorch's names.
        missing: Vec<String>,
        /// Tensors of the file that the network does not have.
        unknown: Vec<String>,
        /// Tensors of another shape or kind: name, shape found and shape expected, in PyTorch's layout.
        misshapen: Vec<String>,
    },

    /// The file cannot be written. An existing file stays as it was.
    #[error("cannot write {}: {reason}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

fn listed(keys: &[String]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    keys.join(", ")
}

fn part(what: &str, names: &[String]) -> String {
    match names.len() {
        0 => String::new(),
        count => format!("; {count} {what}: {}", names.join(", ")),
    }
}
