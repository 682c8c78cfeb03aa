//! Averages of networks in files.

mod average;
mod coefficients;
mod error;
mod file;
mod mean;
mod select;
mod soup;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch_norm::batch_norm_layers;
pub use average::CheckpointAverage;
pub use coefficients::Decay;
pub use error::{CheckpointError, Misfit};
use file::{Checkpoint, Layout};
pub use soup::{GreedySoup, Tried};

/// Files of the same network, to be averaged: SafeTensors files, Burn's `.bpk`, and what `torch.save` wrote (`.pt`, `.pth`), of any
/// network, and of several kinds at once.
///
/// ```
/// # use burn::nn::{Linear, LinearConfig};
/// # use burn::tensor::Device;
/// # use swa_store::StateDict;
/// use swa_store::{Checkpoints, Decay};
///
/// # let folder = tempfile::tempdir()?;
/// # let in_folder = |name: &str| folder.path().join(name);
/// # for step in [1, 2, 3] {
/// #     let layer: Linear = LinearConfig::new(2, 3).init(&Device::flex());
/// #     StateDict::of(&layer).write(in_folder(&format!("checkpoint_{step}.safetensors")))?;
/// # }
/// # let files = [1, 2, 3].map(|step| in_folder(&format!("checkpoint_{step}.safetensors")));
/// # let out = in_folder("averaged.safetensors");
/// let checkpoints = Checkpoints::open(files)?;
///
/// // The mean of the last two.
/// checkpoints.last(2)?.uniform().write(&out)?;
///
/// // All of them, as if the learning rate had decayed.
/// checkpoints.merged(Decay::MinusSqrt)?.write(&out)?;
///
/// // The three with the highest scores.
/// checkpoints.best(2, &[0.91, 0.93, 0.92])?.uniform().write(&out)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory
///
/// Opening a file reads the names of its tensors. An average reads a tensor at a time: next to the accumulator of one tensor, a part of
/// it of each file is in memory, or one whole tensor of a file of `torch.save`. (Only a file that PyTorch wrote before version 0.1.10, a
/// TAR archive, is in memory as a whole.)
///
/// # Names
///
/// All files must have the same tensors, by the names that stand in them. Burn's names and layout are not PyTorch's: files that say that
/// they are of different sides are refused.
///
/// # BatchNorm
///
/// Running statistics are averaged like other floats, as fairseq and timm do. They are not those of the averaged network:
/// re-estimate them from training data with [`reestimate_batch_norm`](swa_core::reestimate_batch_norm), if there are
/// [any](Self::batch_norm_layers).
#[derive(Debug, Clone)]
pub struct Checkpoints {
    files: Vec<Arc<Checkpoint>>,
    /// The files that were opened, those that were not chosen among them.
    opened: Arc<[PathBuf]>,
}

impl Checkpoints {
    /// Opens files, in this order. The kind of each is told from its first bytes, and not from its name.
    ///
    /// # Errors
    ///
    /// - [`CheckpointError::NoFiles`] and [`CheckpointError::Twice`].
    /// - [`CheckpointError::Read`] and [`CheckpointError::Corrupt`], of a file.
    /// - [`CheckpointError::Quantized`], which names a tensor.
    /// - [`CheckpointError::Misfit`] if the files do not hold the same tensors. It lists all differences.
    /// - [`CheckpointError::MixedLayouts`] if they are of PyTorch and of Burn.
    pub fn open<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
    ) -> Result<Self, CheckpointError> {
        Self::open_part(paths, None)
    }

    /// Opens the part of each file under `key`, such as the `state_dict` of a training's checkpoint, which holds the state of an
    /// optimizer too. The names of the average are without the key.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and [`CheckpointError::NoSuchKey`].
    pub fn open_under<P: AsRef<Path>>(
        key: &str,
        paths: impl IntoIterator<Item = P>,
    ) -> Result<Self, CheckpointError> {
        Self::open_part(paths, Some(key))
    }

    fn open_part<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
        key: Option<&str>,
    ) -> Result<Self, CheckpointError> {
        let files = paths
            .into_iter()
            .map(|path| Checkpoint::open(path.as_ref(), key));
        let files: Vec<Checkpoint> = files.collect::<Result<_, _>>()?;
        check_each_once(&files)?;
        check_layouts(&files)?;
        let Some((first, others)) = files.split_first() else {
            return Err(CheckpointError::NoFiles);
        };
        let others = others.iter().map(|file| file.misfit(first));
        let others: Vec<Misfit> = others.filter(|misfit| !misfit.is_empty()).collect();
        if !others.is_empty() {
            return Err(CheckpointError::Misfit {
                first: first.path.clone(),
                others,
            });
        }
        Ok(Self {
            opened: files.iter().map(|file| file.path.clone()).collect(),
            files: files.into_iter().map(Arc::new).collect(),
        })
    }

    /// The same files with `value` under `key` in the metadata of each, so that an average has it too.
    #[must_use]
    pub fn with_metadata(mut self, key: &str, value: &str) -> Self {
        for file in &mut self.files {
            let metadata = &mut Arc::make_mut(file).metadata;
            metadata.insert(key.to_owned(), value.to_owned());
        }
        self
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Each file alone, as an average of one.
    pub fn each(&self) -> impl Iterator<Item = (&Path, CheckpointAverage)> {
        let files = self.files.iter();
        files.map(|file| {
            let alone = vec![(file.clone(), 1.0)];
            let alone = CheckpointAverage::new(alone, self.opened.clone());
            (file.path.as_path(), alone)
        })
    }

    /// The names of the layers that have running statistics, which an average leaves to be re-estimated.
    pub fn batch_norm_layers(&self) -> Vec<&str> {
        let names = self.files.first().map(|file| file.entries.keys());
        batch_norm_layers(names.into_iter().flatten()).collect()
    }

    /// The mean of all files.
    pub fn uniform(&self) -> CheckpointAverage {
        self.combined(coefficients::uniform(self.files.len()))
    }

    /// The mean with a weight for each file. They need not sum up to 1.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NotOneForEach`], and [`CheckpointError::Weights`] if one is no number, or their sum is 0.
    pub fn weighted(&self, weights: &[f64]) -> Result<CheckpointAverage, CheckpointError> {
        self.check_one_for_each("weights", weights.len())?;
        match coefficients::weighted(weights) {
            Some(coefficients) => Ok(self.combined(coefficients)),
            None => Err(CheckpointError::Weights {
                weights: weights.to_vec(),
            }),
        }
    }

    /// The mean that stands for a decay of the learning rate, of files collected at a constant one. They are put in the order of their
    /// steps, as for [`last`](Self::last).
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoStep`] and [`CheckpointError::SameStep`].
    pub fn merged(&self, decay: Decay) -> Result<CheckpointAverage, CheckpointError> {
        let in_order = self.last(self.files.len())?;
        Ok(in_order.combined(decay.coefficients(in_order.files.len())))
    }

    /// Some of the files.
    fn chosen(&self, files: Vec<Arc<Checkpoint>>) -> Self {
        let opened = self.opened.clone();
        Self { files, opened }
    }

    fn combined(&self, coefficients: Vec<f64>) -> CheckpointAverage {
        let terms = self.files.iter().cloned().zip(coefficients);
        CheckpointAverage::new(terms.collect(), self.opened.clone())
    }
}

/// Checks that no file is there twice, by links or other ways to write its path.
fn check_each_once(files: &[Checkpoint]) -> Result<(), CheckpointError> {
    let mut known: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    for file in files {
        let path = fs::canonicalize(&file.path).map_err(|error| CheckpointError::Read {
            path: file.path.clone(),
            error,
        })?;
        if let Some(first) = known.insert(path, &file.path) {
            return Err(CheckpointError::Twice {
                first: first.to_owned(),
                second: file.path.clone(),
            });
        }
    }
    Ok(())
}

/// Checks that no file is of PyTorch's layout if another one is of Burn's. A square weight of a linear layer would fit, transposed.
fn check_layouts(files: &[Checkpoint]) -> Result<(), CheckpointError> {
    let of = |layout| files.iter().find(|file| file.layout() == Some(layout));
    match (of(Layout::PyTorch), of(Layout::Burn)) {
        (Some(pytorch), Some(burn)) => Err(CheckpointError::MixedLayouts {
            pytorch: pytorch.path.clone(),
            burn: burn.path.clone(),
        }),
        _ => Ok(()),
    }
}
