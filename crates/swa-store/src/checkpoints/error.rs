//! Errors of averaging files.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::DType;
use thiserror::Error;

/// The reason why files could not be averaged. Nothing is written then: a file that was there stays as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// No file was given.
    #[error("there is no file to average: name at least one")]
    NoFiles,

    /// A file was given twice, be it by another name.
    #[error("{} and {} are the same file, which would count twice: name it once", .first.display(), .second.display())]
    Twice {
        /// The file.
        first: PathBuf,
        /// The file again.
        second: PathBuf,
    },

    /// A file cannot be opened or read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },

    /// A file is of no known kind, or a damaged one.
    #[error(
        "{} is damaged, or no file of tensors: {reason}. Expected a SafeTensors file, a .bpk file of Burn, or what `torch.save` wrote",
        .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// A file has nothing under the given key.
    #[error("{} has nothing under `{key}`: its names begin with {}", .path.display(), .found.join(", "))]
    NoSuchKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The first parts of the names in the file.
        found: Vec<String>,
    },

    /// A tensor is quantised.
    #[error(
        "{} holds `{tensor}` quantised, of which there is no mean: average the networks before they are quantised",
        .path.display()
    )]
    Quantized {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// Some files are of PyTorch's layout and others of Burn's, where a linear layer's weight is transposed.
    #[error(
        "{} has PyTorch's names and layout, and {} Burn's: export that with `StateDict` first",
        .pytorch.display(),
        .burn.display()
    )]
    MixedLayouts {
        /// A file of PyTorch's layout.
        pytorch: PathBuf,
        /// A file of Burn's.
        burn: PathBuf,
    },

    /// Files hold other tensors than the first one.
    #[error(
        "files of one network have the same tensors; other than {} has{}{}",
        .first.display(),
        .others.iter().map(Misfit::to_string).collect::<String>(),
        burns_names(.others)
    )]
    Misfit {
        /// The first file.
        first: PathBuf,
        /// The files that differ from it.
        others: Vec<Misfit>,
    },

    /// A file does not say which step it is of.
    #[error(
        "{} does not say which step it is of: expected `step` in its metadata, or a number in its name, as in checkpoint_12.pt",
        .path.display()
    )]
    NoStep {
        /// The file.
        path: PathBuf,
    },

    /// Two files are of the same step.
    #[error("{} and {} are both of step {step}: name one of them", .first.display(), .second.display())]
    SameStep {
        /// The step.
        step: u64,
        /// A file.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },

    /// More files are asked for than there are, or none.
    #[error("{asked} of {available} files cannot be averaged: ask for 1 to {available}")]
    Count {
        /// The number that was asked for.
        asked: usize,
        /// The number of files.
        available: usize,
    },

    /// No file is of a step in the window.
    #[error("no file is of a step from {first} to {last}: their steps are {}", listed(.steps))]
    EmptyWindow {
        /// The first step of the window.
        first: u64,
        /// The last one.
        last: u64,
        /// The steps of the files.
        steps: Vec<u64>,
    },

    /// There is not one weight, or one score, for each file.
    #[error("{got} {what} for {files} files: give one for each")]
    NotOneForEach {
        /// `weights`, or `scores`.
        what: &'static str,
        /// The number that was given.
        got: usize,
        /// The number of files.
        files: usize,
    },

    /// Weights that do not define a mean.
    #[error("weights must be numbers whose sum is not 0, not {}", listed(.weights))]
    Weights {
        /// The weights.
        weights: Vec<f64>,
    },

    /// A score is no number.
    #[error("the score of {} is {score}: expected a number, higher for a better network", .path.display())]
    Score {
        /// The file.
        path: PathBuf,
        /// The score.
        score: f64,
    },

    /// A file holds a NaN, or an infinity where another one has another value. (An infinity that all have in the same place, such as
    /// in a mask, is a constant.)
    #[error(
        "{} holds {value} in `{tensor}`, of which there is no mean: leave the file out",
        .path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f64,
    },

    /// The mean is larger than the dtype's largest number.
    #[error(
        "the mean of `{tensor}` is too large for {dtype:?}: name a file first that has it in a wider dtype"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// The dtype.
        dtype: DType,
    },

    /// The output's name tells no kind of file.
    #[error("{} is no name for the average: expected one that ends in .safetensors or .bpk", .path.display())]
    OutputKind {
        /// The output.
        path: PathBuf,
    },

    /// The output would replace one of the files.
    #[error("{} is {}, which is one of the files: write the average to another one", .path.display(), .input.display())]
    OutputIsInput {
        /// The output.
        path: PathBuf,
        /// The file.
        input: PathBuf,
    },

    /// The output cannot be written. An existing file stays as it was.
    #[error("cannot write {}: {reason}", .path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// The tensors in which a file differs from the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The file.
    pub path: PathBuf,
    /// Tensors of the first file that it does not have.
    pub missing: Vec<String>,
    /// Tensors that the first file does not have.
    pub unknown: Vec<String>,
    /// Tensors of another shape or kind: name, what is there, and what the first file has.
    pub misshapen: Vec<String>,
}

impl Misfit {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "; {}: ", self.path.display())?;
        let parts = [
            ("missing", &self.missing),
            ("unknown", &self.unknown),
            ("of another shape or kind", &self.misshapen),
        ];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> = parts
            .map(|(what, names)| format!("{} {what}: {}", names.len(), names.join(", ")))
            .collect();
        formatter.write_str(&parts.join("; "))
    }
}

/// A remedy, if names differ as Burn's do from PyTorch's.
fn burns_names(others: &[Misfit]) -> &'static str {
    let mut names = others
        .iter()
        .flat_map(|other| other.missing.iter().chain(&other.unknown));
    if names.any(|name| name.ends_with(".gamma") || name.ends_with(".beta")) {
        ". `gamma` and `beta` are Burn's names: export those files with `StateDict` first"
    } else {
        ""
    }
}

fn listed<T: fmt::Display>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(T::to_string).collect();
    values.join(", ")
}
