//! PyTorch state dicts: the tensors of a network by PyTorch's names, in files that both sides read.

mod error;
mod load;
mod read;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use burn::store::burn_pack::Tensor as Entry;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::{DType, Shape, TensorData};

use crate::burn_0_22::settled;
pub use error::StateDictError;

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
/// `gamma` and `beta` ([`burn::store::PyTorchToBurnAdapter`]). Floats take on the dtype of the module that they are loaded into.
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
        let mut entries = BTreeMap::new();
        for entry in tensors(&settled(model)) {
            if let Some(layer) = entry.name.strip_suffix(".running_mean") {
                let count = scalar(format!("{layer}.{BATCHES_TRACKED}"), 0);
                entries.insert(count.name.clone(), count);
            }
            entries.insert(entry.name.clone(), entry);
        }
        Self {
            path: PathBuf::from("a state dict in memory"),
            key: None,
            entries,
            metadata: BTreeMap::new(),
        }
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

    /// Adds an entry to the file's metadata, which PyTorch ignores. With one entry, the same tensors give the same file, byte for
    /// byte.
    pub fn with_metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// An entry of the file's metadata. SafeTensors files can have some.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

/// The float tensors of a module with PyTorch's names and layout. Their data is read when it is asked for.
fn tensors<M: Module>(model: &M) -> Vec<Entry> {
    let entries = model.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    // Burn's flags and counters, such as a layer's `training`, are no part of a state dict.
    let is_count_or_flag = |dtype: DType| dtype.is_int() || dtype.is_uint() || dtype.is_bool();
    entries
        .into_iter()
        .filter(|entry| !is_count_or_flag(entry.dtype))
        .collect()
}

/// A count as PyTorch keeps it: a tensor without dimensions.
fn scalar(name: String, value: i64) -> Entry {
    bridge::from_data(TensorData::new(vec![value], Shape::new([])), name, None)
}

#[cfg(test)]
mod tests {
    use burn::module::{Param, ParamId};
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::{Device, FloatDType, Tensor};
    use swa_models::{VggConfig, WideResNetConfig};

    use super::*;

    #[derive(Module, Debug)]
    struct Net {
        norm: BatchNorm,
        fc: Linear,
    }

    /// A network whose `fc` maps 2 to 3 features. In Burn's layout, its weight counts up from `first`.
    fn net(first: f32) -> Net {
        let device = Device::flex().autodiff();
        let weight = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &device);
        let weight = weight.add_scalar(first).reshape([2, 3]);
        let mut fc = LinearConfig::new(2, 3).init(&device);
        fc.weight = Param::initialized(ParamId::new(), weight.require_grad());
        Net {
            norm: BatchNormConfig::new(2).init(&device),
            fc,
        }
    }

    fn values(entry: &Entry) -> Vec<f32> {
        bridge::to_data(entry).unwrap().iter::<f32>().collect()
    }

    /// The same state dict, written to a file and read again.
    fn through_a_file(state_dict: &StateDict) -> StateDict {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        state_dict.write(&file).unwrap();
        StateDict::read(&file).unwrap()
    }

    #[test]
    fn names_and_layouts_are_those_of_pytorch() {
        let state_dict = through_a_file(&StateDict::of(&net(0.0)));
        let names: Vec<&str> = state_dict.entries.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "fc.bias",
                "fc.weight",
                "norm.bias",
                "norm.num_batches_tracked",
                "norm.running_mean",
                "norm.running_var",
                "norm.weight",
            ]
        );
        // [[0, 1, 2], [3, 4, 5]], transposed.
        let weight = &state_dict.entries["fc.weight"];
        assert_eq!(weight.shape.to_vec(), [3, 2]);
        assert_eq!(values(weight), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let count = &state_dict.entries["norm.num_batches_tracked"];
        assert_eq!((count.dtype, count.shape.to_vec()), (DType::I64, vec![]));
    }

    #[test]
    fn what_was_loaded_trains_on() {
        let state_dict = through_a_file(&StateDict::of(&net(7.0)));
        let loaded = state_dict.load(net(0.0)).unwrap();
        assert_eq!(
            loaded.fc.weight.val().into_data(),
            net(7.0).fc.weight.val().into_data()
        );
        assert!(loaded.fc.weight.is_require_grad());
        assert!(loaded.fc.weight.val().is_autodiff());
    }

    #[test]
    fn floats_take_on_the_dtype_of_the_module() {
        let state_dict = StateDict::of(&net(1.0));
        let mut half = net(0.0);
        half.fc.weight = half.fc.weight.map(|weight| weight.cast(FloatDType::BF16));
        let loaded = state_dict.load(half).unwrap();
        assert_eq!(loaded.fc.weight.val().dtype(), DType::BF16);
        let bf16 = through_a_file(&StateDict::of(&loaded));
        assert_eq!(bf16.entries["fc.weight"].dtype, DType::BF16);
        let loaded = bf16.load(net(0.0)).unwrap();
        assert_eq!(
            loaded.fc.weight.val().into_data(),
            net(1.0).fc.weight.val().into_data()
        );
    }

    #[test]
    fn the_number_of_updates_goes_along() {
        let state_dict = StateDict::of(&net(0.0));
        assert_eq!(state_dict.updates().unwrap(), None);
        let averaged = through_a_file(&state_dict.averaged(12));
        assert_eq!(averaged.updates().unwrap(), Some(12));
        assert!(averaged.entries.contains_key("module.fc.weight"));

        let mut broken = averaged;
        broken
            .entries
            .insert(UPDATES.to_owned(), scalar(UPDATES.to_owned(), -1));
        let error = broken.updates().unwrap_err().to_string();
        assert!(error.contains("expected at least 0, got -1"), "{error}");
        let float = bridge::from_data(TensorData::new(vec![1.0f32; 2], [2]), UPDATES.into(), None);
        broken.entries.insert(UPDATES.to_owned(), float);
        let error = broken.updates().unwrap_err().to_string();
        assert!(error.contains("expected one integer, got [2]"), "{error}");
    }

    /// The entries of the state dict under `key`, for a file that holds more.
    fn nested(key: &str, state_dict: StateDict) -> BTreeMap<String, Entry> {
        let entries = state_dict.entries.into_values().map(|mut entry| {
            entry.name = format!("{key}.{}", entry.name);
            (entry.name.clone(), entry)
        });
        entries.collect()
    }

    #[test]
    fn the_number_of_updates_is_found_where_the_network_is() {
        let mut file = StateDict::of(&net(0.0));
        file.entries = nested("swa", StateDict::of(&net(1.0)).averaged(3));
        assert_eq!(file.updates().unwrap(), Some(3));
        file.load(net(0.0)).unwrap();

        file.entries
            .extend(nested("ema", StateDict::of(&net(2.0)).averaged(5)));
        let expected = "has the network several times: name one of the keys ";
        let error = file.load(net(0.0)).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("{expected}`ema.module`, `swa.module`")),
            "{error}"
        );
        let error = file.updates().unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("{expected}`ema`, `swa`")),
            "{error}"
        );
        for key in ["ema", "ema.module"] {
            let ema = file.clone().under(key);
            assert_eq!(ema.updates().unwrap(), Some(5));
            let loaded = ema.load(net(0.0)).unwrap();
            assert_eq!(
                loaded.fc.weight.val().into_data(),
                net(2.0).fc.weight.val().into_data()
            );
        }
    }

    #[test]
    fn the_network_at_a_key_is_taken_and_those_below_are_unknown() {
        let mut file = StateDict::of(&net(1.0));
        file.entries.extend(nested("ema", StateDict::of(&net(2.0))));
        file.entries
            .extend(nested("ema.old", StateDict::of(&net(3.0))));
        let old = file.clone().under("ema.old").load(net(0.0)).unwrap();
        let expected = net(3.0).fc.weight.val().into_data();
        assert_eq!(old.fc.weight.val().into_data(), expected);

        let error = file.load(net(0.0)).unwrap_err().to_string();
        assert!(error.contains("; 12 unknown: ema.fc.bias, "), "{error}");
        let error = file.under("ema").load(net(0.0)).unwrap_err().to_string();
        assert!(error.contains("; 6 unknown: old.fc.bias, "), "{error}");
    }

    #[test]
    fn a_key_that_there_is_not_is_named_with_those_that_there_are() {
        let mut file = StateDict::of(&net(0.0));
        file.entries = nested("swa", StateDict::of(&net(1.0)));
        let error = file.clone().under("ema").load(net(0.0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a state dict in memory has nothing under `ema`: name one of the keys `swa`"
        );
        file.entries.clear();
        let error = file.load(net(0.0)).unwrap_err().to_string();
        assert!(error.contains("it holds no tensor"), "{error}");
    }

    #[test]
    fn pending_running_statistics_go_along_and_do_not_come_back() {
        let stepped = net(0.0);
        let input =
            Tensor::<2>::from_floats([[0.0, 10.0], [2.0, 30.0]], &Device::flex().autodiff());
        stepped.norm.forward(input.clone());
        // A tenth of the means 1 and 20.
        let state_dict = StateDict::of(&stepped);
        for (mean, expected) in values(&state_dict.entries["norm.running_mean"])
            .iter()
            .zip([0.1, 2.0])
        {
            assert!((mean - expected).abs() < 1e-6, "{mean}");
        }

        let fresh = StateDict::of(&net(0.0));
        let stepped = net(0.0);
        stepped.norm.forward(input);
        let loaded = fresh.load(stepped).unwrap().valid();
        assert_eq!(
            loaded
                .norm
                .running_mean
                .value()
                .into_data()
                .iter::<f32>()
                .collect::<Vec<_>>(),
            [0.0, 0.0]
        );
    }

    #[test]
    fn a_quantised_network_is_neither_written_nor_loaded() {
        use burn::module::Quantizer;
        use burn::tensor::quantization::{Calibration, QuantScheme};

        let mut quantizer = Quantizer::new(Calibration::MinMax, QuantScheme::default());
        let linear: Linear = LinearConfig::new(32, 32).init(&Device::flex());
        let quantised = linear.clone().quantize_weights(&mut quantizer);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        let error = StateDict::of(&quantised)
            .write(&file)
            .unwrap_err()
            .to_string();
        assert!(error.contains("before it is quantised"), "{error}");
        assert!(StateDict::of(&linear).load(quantised).is_err());
    }

    #[test]
    fn metadata_goes_along() {
        let state_dict = StateDict::of(&net(0.0)).with_metadata("by", "burn");
        let read = through_a_file(&state_dict);
        assert_eq!(read.metadata("by"), Some("burn"));
        assert_eq!(read.metadata("for"), None);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        std::fs::write(&file, "precious").unwrap();
        let mut state_dict = StateDict::of(&net(0.0));
        let int = bridge::from_data(TensorData::new(vec![1i32], [1]), "int".to_owned(), None);
        state_dict.entries.insert("int".to_owned(), int);
        let error = state_dict.write(&file).unwrap_err().to_string();
        assert!(error.contains("`int` is of I32"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_as_readable_as_any_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let [file, new] = ["weights.safetensors", "new"].map(|name| folder.path().join(name));
        StateDict::of(&net(0.0)).write(&file).unwrap();
        std::fs::write(&new, "").unwrap();
        let permissions = |file| std::fs::metadata(file).unwrap().permissions();
        assert_eq!(permissions(&file), permissions(&new));
    }

    /// Asserts that `other` has all tensors of `network` after loading them from a file.
    fn check<M: Module>(network: &M, other: M) {
        let state_dict = StateDict::of(network);
        let loaded = StateDict::of(&through_a_file(&state_dict).load(other).unwrap());
        for (name, entry) in &state_dict.entries {
            let values = bridge::to_data(entry).unwrap();
            assert_eq!(
                bridge::to_data(&loaded.entries[name]).unwrap(),
                values,
                "{name}"
            );
        }
    }

    #[test]
    fn every_network_goes_both_ways() {
        let device = Device::flex();
        let vgg = VggConfig::new(19)
            .with_batch_norm(true)
            .with_width_divisor(64);
        let vgg = || vgg.init(&device).unwrap();
        check(&vgg(), vgg());
        let wide = WideResNetConfig::new(10, 2).with_width_divisor(16);
        let wide = || wide.init(&device).unwrap();
        through_a_file(&StateDict::of(&wide()))
            .load(wide())
            .unwrap();
    }
}
