//! PyTorch state dicts: the tensors of a network by PyTorch's names, in files that both sides read.

mod error;
mod load;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::burn_pack::Tensor as Entry;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::{Shape, TensorData};

use crate::batch_norm::batch_norm_layers;
use crate::burn_0_22::settled;
use crate::safetensors_file::{self, write_values};
pub use error::StateDictError;
pub use load::NotLoaded;

/// The tensors of a network by PyTorch's names and in PyTorch's layout, like PyTorch's `model.state_dict()`.
///
/// It can be read and written, for any module whose fields are named as in PyTorch, such as those of `swa-models`:
///
/// ```
/// use burn::tensor::Device;
/// use swa_models::PreResNetConfig;
/// use swa_store::StateDict;
///
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("weights.safetensors");
/// let device = Device::flex();
/// let model = PreResNetConfig::new(20).init(&device)?;
///
/// // For `model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))`.
/// StateDict::of(&model).write(&file)?;
///
/// // From that, or from what `torch.save` wrote.
/// let model = PreResNetConfig::new(20).init(&device)?;
/// let model = StateDict::read(&file)?.load(model)?;
/// # let _ = model;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Translation
///
/// A linear layer's weight is `[out, in]` in PyTorch and `[in, out]` in Burn; BatchNorm's `weight` and `bias` are Burn's
/// `gamma` and `beta` ([`burn::store::PyTorchToBurnAdapter`]). Tensors take on the dtype of the module that they are loaded into.
/// Int and bool parameters, such as a table of indices or a mask, are PyTorch's buffers of that name.
///
/// `num_batches_tracked`, PyTorch's count of the batches that a BatchNorm layer has seen, is not read, since Burn does not count
/// them. It is written as 0, since `load_state_dict` asks for it. It matters only to layers with `momentum=None`.
///
/// # The running variance
///
/// Running statistics are not changed, so that inference is the same. In *training*, PyTorch updates the running variance with
/// a batch's unbiased variance (`n - 1`), and Burn with the biased one (`n`). Both normalise the batch by the biased one. The
/// difference is `1 / n`, for `n` = batch x height x width values of a channel.
#[derive(Debug, Clone)]
pub struct StateDict {
    /// The file that it was read from.
    path: PathBuf,
    /// The key in the file under which to look.
    key: Option<String>,
    /// The parts of the network that keep their values.
    without: Vec<String>,
    /// True if it was read from a file that an earlier version wrote, without the network's ints and bools.
    lacks_ints: bool,
    /// All tensors of the file by their names, with dots between the keys of nested dictionaries.
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// The name under which PyTorch's `AveragedModel` keeps the network that it averages.
const AVERAGED_MODEL: &str = "module.";

/// The name under which PyTorch's `AveragedModel` keeps the number of updates.
const UPDATES: &str = "n_averaged";

/// The last part of the name under which a BatchNorm layer counts batches.
const BATCHES_TRACKED: &str = "num_batches_tracked";

impl StateDict {
    /// The state dict of `model`. It includes the running statistics of the last step.
    pub fn of<M: Module>(model: &M) -> Self {
        let entries = tensors(&settled(model)).into_iter();
        let mut entries: BTreeMap<String, Entry> =
            entries.map(|entry| (entry.name.clone(), entry)).collect();
        let layers = batch_norm_layers(entries.keys());
        let counts = layers.map(|layer| match layer {
            "" => BATCHES_TRACKED.to_owned(),
            layer => format!("{layer}.{BATCHES_TRACKED}"),
        });
        for name in counts.collect::<Vec<String>>() {
            // A module may count batches itself.
            entries
                .entry(name.clone())
                .or_insert_with(|| scalar(name, 0));
        }
        let path = Path::new("a state dict in memory");
        Self::from_file(path, entries, BTreeMap::new())
    }

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

    /// The same in the form of PyTorch's `torch.optim.swa_utils.AveragedModel`: every name under `module.`, and the average's
    /// number of `updates` as `n_averaged`.
    pub fn averaged(self, updates: usize) -> Self {
        let mut entries: BTreeMap<_, _> = self
            .entries
            .into_values()
            .map(|mut entry| {
                entry.name = format!("{AVERAGED_MODEL}{}", entry.name);
                (entry.name.clone(), entry)
            })
            .collect();
        let updates = i64::try_from(updates).unwrap_or(i64::MAX);
        entries.insert(UPDATES.to_owned(), scalar(UPDATES.to_owned(), updates));
        Self { entries, ..self }
    }

    /// Selects the part of the file under `key`, such as the `swa_state_dict` of a checkpoint of the SWA paper's code, which
    /// has a `state_dict` too.
    ///
    /// A key is needed only if several parts of the file fit. A `module.` between the key and the names is found too.
    pub fn under(self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self
        }
    }

    /// Leaves the parts of the network with these names as they are: modules, or single tensors, by PyTorch's names. They are
    /// neither loaded nor missing, whatever the file has there.
    ///
    /// For another number of classes, the head keeps the weights that it was initialized with:
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use swa_models::PreResNetConfig;
    /// use swa_store::StateDict;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let file = folder.path().join("weights.safetensors");
    /// let device = Device::flex();
    /// # StateDict::of(&PreResNetConfig::new(20).init(&device)?).write(&file)?;
    /// let of_three_classes = || PreResNetConfig::new(20).with_classes(3).init(&device);
    /// let state_dict = StateDict::read(&file)?;
    /// let model = state_dict.clone().without(&["fc"]).load(of_three_classes()?)?;
    ///
    /// // The same without naming it: what does not fit is left, and listed.
    /// let (model, left) = state_dict.load_partly(of_three_classes()?)?;
    /// assert!(left.missing.is_empty() && left.unknown.is_empty());
    /// assert_eq!(
    ///     left.misshapen,
    ///     [
    ///         "fc.weight is [10, 64], expected [3, 64]",
    ///         "fc.bias is [10], expected [3]",
    ///     ]
    /// );
    /// # let _ = model;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without(mut self, parts: &[&str]) -> Self {
        self.without
            .extend(parts.iter().copied().map(str::to_owned));
        self
    }

    /// Gives every tensor of the file the name that `current` makes of its name, such as those of an earlier version of the
    /// network. It is given whole names, with the keys above the network.
    ///
    /// torchvision's weights of a DenseNet have old names, such as `norm.1.weight` for `norm1.weight`:
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use swa_models::{DenseNet, DenseNetConfig};
    /// use swa_store::StateDict;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let file = folder.path().join("densenet121.safetensors");
    /// let device = Device::flex();
    /// # let old = |name: &str| name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.");
    /// # let of_imagenet = DenseNetConfig::new(121).init(&device)?;
    /// # StateDict::of(&of_imagenet).renamed(old)?.write(&file)?;
    /// let model = DenseNetConfig::new(121).with_classes(37).init(&device)?;
    /// let state_dict = StateDict::read(&file)?.renamed(DenseNet::current_name)?;
    /// let model = state_dict.without(&["classifier"]).load(model)?;
    /// # let _ = model;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`StateDictError::SameName`] if two tensors would have one name.
    pub fn renamed(self, current: impl Fn(&str) -> String) -> Result<Self, StateDictError> {
        // The names of tied weights, as `safetensors.torch.save_model` writes them.
        let metadata = self.metadata.into_iter().map(|(key, value)| {
            if self.entries.contains_key(&value) {
                (current(&key), current(&value))
            } else {
                (key, value)
            }
        });
        let metadata = metadata.collect();
        let mut entries = BTreeMap::new();
        for (before, mut entry) in self.entries {
            let name = current(&before);
            entry.name = name.clone();
            if entries.insert(name.clone(), entry).is_some() {
                return Err(StateDictError::SameName {
                    path: self.path,
                    name,
                });
            }
        }
        Ok(Self {
            entries,
            metadata,
            ..self
        })
    }

    /// Adds an entry to the file's metadata, which PyTorch ignores.
    pub fn with_metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// An entry of the file's metadata. SafeTensors files can have some.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

/// The tensors of a module with PyTorch's names and layout. Their data is read when it is asked for. Burn's flags, such as a
/// layer's `training`, are no tensors.
fn tensors<M: Module>(model: &M) -> Vec<Entry> {
    model.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true)
}

/// A count as PyTorch keeps it: a tensor without dimensions.
fn scalar(name: String, value: i64) -> Entry {
    bridge::from_data(TensorData::new(vec![value], Shape::new([])), name, None)
}
