//! Tests of state dicts.

use burn::module::{Param, ParamId};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, BoolStore, DType, Device, FloatDType, Int, Tensor};
use swa_models::{DenseNet, DenseNetConfig, VggConfig, WideResNetConfig};

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
fn a_layer_alone_has_the_names_that_pytorch_gives_it() {
    let device = Device::flex();
    let layer: BatchNorm = BatchNormConfig::new(2).init(&device);
    let state_dict = through_a_file(&StateDict::of(&layer));
    let names: Vec<&str> = state_dict.entries.keys().map(String::as_str).collect();
    // `list(torch.nn.BatchNorm2d(2).state_dict())`, sorted.
    let expected = [
        "bias",
        "num_batches_tracked",
        "running_mean",
        "running_var",
        "weight",
    ];
    assert_eq!(names, expected);
    state_dict.load(layer).unwrap();
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
    let input = Tensor::<2>::from_floats([[0.0, 10.0], [2.0, 30.0]], &Device::flex().autodiff());
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

/// The metadata of the file that the state dict is written to, as SafeTensors reads them.
fn metadata_in_file(state_dict: &StateDict) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    state_dict.write(&file).unwrap();
    let bytes = std::fs::read(file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().clone().unwrap().into_iter().collect()
}

#[test]
fn every_file_says_that_its_format_is_pytorchs() {
    let state_dict = StateDict::of(&net(0.0));
    let format = ("format".to_owned(), "pt".to_owned());
    for state_dict in [state_dict.clone(), state_dict.clone().averaged(2)] {
        assert!(
            metadata_in_file(&state_dict)
                .into_iter()
                .eq([format.clone()])
        );
    }
    let with_more = state_dict.with_metadata("by", "burn");
    let by = ("by".to_owned(), "burn".to_owned());
    assert!(metadata_in_file(&with_more).into_iter().eq([by, format]));
    // And one that was read says so once more.
    let again = metadata_in_file(&through_a_file(&with_more));
    assert_eq!(again["format"], "pt");
}

#[test]
fn the_same_state_dict_is_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut state_dict = StateDict::of(&net(0.0));
    for key in ["a", "b", "c", "d", "e", "f"] {
        state_dict = state_dict.with_metadata(key, "value");
    }
    let write = |name: &str| {
        let file = folder.path().join(name);
        state_dict.clone().write(&file).unwrap();
        std::fs::read(file).unwrap()
    };
    let first = write("first");
    for name in ["second", "third"] {
        assert_eq!(write(name), first);
    }
}

#[test]
fn a_file_without_metadata_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("earlier.safetensors");
    let data = [0; 8];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &data);
    safetensors::serialize_to_file([("weight", view.unwrap())], None, &file).unwrap();
    let state_dict = StateDict::read(&file).unwrap();
    assert_eq!(values(&state_dict.entries["weight"]), [0.0, 0.0]);
}

/// A network with a table of indices and a mask.
#[derive(Module, Debug)]
struct Tables {
    fc: Linear,
    indices: Param<Tensor<2, Int>>,
    mask: Param<Tensor<1, Bool>>,
}

fn tables(first: i32, mask: [bool; 3]) -> Tables {
    let device = Device::flex().autodiff();
    let indices = Tensor::from_data([[first, -2, 3], [4, 5, 600]], &device);
    let mask = Tensor::from_data(mask, &device);
    Tables {
        fc: LinearConfig::new(2, 3).init(&device),
        indices: Param::initialized(ParamId::new(), indices),
        mask: Param::initialized(ParamId::new(), mask),
    }
}

fn indices(tables: &Tables) -> Vec<i64> {
    tables.indices.val().into_data().iter::<i64>().collect()
}

fn mask(tables: &Tables) -> Vec<bool> {
    tables.mask.val().into_data().iter::<bool>().collect()
}

#[test]
fn ints_and_bools_go_both_ways() {
    let written = tables(1, [true, false, true]);
    let file = through_a_file(&StateDict::of(&written));
    assert_eq!(file.entries["mask"].dtype, DType::Bool(BoolStore::Native));
    assert_eq!(file.entries["indices"].dtype, written.indices.val().dtype());
    let loaded = file.load(tables(0, [false; 3])).unwrap();
    assert_eq!(indices(&loaded), [1, -2, 3, 4, 5, 600]);
    assert_eq!(mask(&loaded), [true, false, true]);
    assert_eq!(loaded.indices.val().dtype(), written.indices.val().dtype());
    assert_eq!(loaded.mask.val().dtype(), written.mask.val().dtype());
}

/// `state_dict` with this in the place of a tensor.
fn with(mut state_dict: StateDict, name: &str, data: TensorData) -> StateDict {
    let entry = bridge::from_data(data, name.to_owned(), None);
    state_dict.entries.insert(name.to_owned(), entry);
    state_dict
}

#[test]
fn ints_and_bools_take_on_the_dtype_of_the_module() {
    let state_dict = StateDict::of(&tables(1, [true, false, true]));
    let wide = TensorData::new(vec![9_i64, 8, 7, 6, 5, 4], [2, 3]);
    let unsigned = TensorData::new(vec![9_u64, 8, 7, 6, 5, 4], [2, 3]);
    let narrow = TensorData::new(vec![9_i8, 8, 7, 6, 5, 4], [2, 3]);
    let half = TensorData::new(vec![9_u16, 8, 7, 6, 5, 4], [2, 3]);
    let dtype = tables(0, [false; 3]).indices.val().dtype();
    for data in [wide, unsigned, narrow, half] {
        let file = through_a_file(&with(state_dict.clone(), "indices", data));
        let loaded = file.load(tables(0, [false; 3])).unwrap();
        assert_eq!(indices(&loaded), [9, 8, 7, 6, 5, 4]);
        assert_eq!(loaded.indices.val().dtype(), dtype);
    }
    // PyTorch's masks were bytes once.
    for data in [
        TensorData::new(vec![0_u8, 1, 1], [3]),
        TensorData::new(vec![0_i64, 1, 1], [3]),
        TensorData::new(vec![false, true, true], [3]),
    ] {
        let file = through_a_file(&with(state_dict.clone(), "mask", data));
        let loaded = file.load(tables(0, [false; 3])).unwrap();
        assert_eq!(mask(&loaded), [false, true, true]);
        assert!(loaded.mask.val().dtype().is_bool());
    }
}

#[test]
fn an_int_or_a_bool_whose_value_would_change_is_refused() {
    let state_dict = StateDict::of(&tables(1, [true, false, true]));
    let too_large = TensorData::new(vec![u64::MAX; 6], [2, 3]);
    let two = TensorData::new(vec![0_u8, 1, 2], [3]);
    let neither = TensorData::from_bytes_vec(vec![0, 1, 7], [3], DType::Bool(BoolStore::Native));
    for (name, data, found) in [
        (
            "indices",
            too_large,
            "indices is [2, 3] of U64 and holds values that are none of I",
        ),
        (
            "mask",
            two,
            "mask is [3] of U8 and holds values that are none of Bool",
        ),
        (
            "mask",
            neither,
            "mask is [3] of Bool(Native) and holds values that are none of Bool",
        ),
        (
            "mask",
            TensorData::new(vec![0.0_f32; 3], [3]),
            "mask is [3], expected [3] of Bool",
        ),
        (
            "fc.bias",
            TensorData::new(vec![0_i64; 3], [3]),
            "fc.bias is [3] of I64, expected [3]",
        ),
    ] {
        let file = with(state_dict.clone(), name, data);
        let error = file.load(tables(0, [false; 3])).unwrap_err().to_string();
        let expected = format!("; 1 of another shape or kind: {found}");
        assert!(error.contains(&expected), "{error}");
        let (loaded, left) = file.load_partly(tables(0, [false; 3])).unwrap();
        assert_eq!(left.misshapen.len(), 1);
        assert!(left.misshapen[0].starts_with(found), "{left:?}");
        assert_eq!(indices(&loaded)[1..], [-2, 3, 4, 5, 600]);
    }
}

#[test]
fn ints_and_bools_that_an_earlier_version_did_not_write_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("earlier.safetensors");
    let data = vec![0; 24];
    let view = |shape| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &data).unwrap()
    };
    let bias = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3], &data[..12]);
    let tensors = [("fc.weight", view(vec![3, 2])), ("fc.bias", bias.unwrap())];
    let write = |metadata: Option<_>| {
        safetensors::serialize_to_file(tensors.clone(), metadata, &file).unwrap();
        StateDict::read(&file).unwrap().load(tables(7, [true; 3]))
    };
    let loaded = write(None).unwrap();
    assert_eq!((indices(&loaded)[0], mask(&loaded)), (7, vec![true; 3]));
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let error = write(Some(format)).unwrap_err().to_string();
    assert!(error.contains("; 2 missing: indices, mask"), "{error}");
}

#[test]
fn missing_ints_and_bools_are_named() {
    let mut file = StateDict::of(&tables(1, [true; 3]));
    file.entries.retain(|name, _| name.starts_with("fc."));
    let error = file.load(tables(0, [false; 3])).unwrap_err().to_string();
    assert!(error.contains("; 2 missing: indices, mask"), "{error}");
}

/// An encoder and a decoder with one weight, and their own biases.
#[derive(Module, Debug)]
struct Tied {
    encoder: Linear,
    decoder: Linear,
}

fn tied(value: f32) -> Tied {
    let encoder: Linear = LinearConfig::new(3, 3).init(&Device::flex());
    let weight = encoder.weight.clone();
    let mut decoder: Linear = LinearConfig::new(3, 3).init(&Device::flex());
    decoder.weight = weight.map(|weight| weight.ones_like() * value);
    Tied {
        encoder: Linear {
            weight: decoder.weight.clone(),
            ..encoder
        },
        decoder,
    }
}

fn weights(tied: &Tied) -> [Vec<f32>; 2] {
    [&tied.encoder, &tied.decoder].map(|it| it.weight.val().into_data().iter().collect())
}

#[test]
fn tied_weights_are_loaded_from_the_one_that_was_saved() {
    let state_dict = StateDict::of(&tied(2.0));
    assert!(
        through_a_file(&state_dict)
            .entries
            .contains_key("decoder.weight")
    );
    for left_out in ["decoder.weight", "encoder.weight"] {
        let mut file = state_dict.clone();
        file.entries.remove(left_out);
        let loaded = through_a_file(&file).load(tied(1.0)).unwrap();
        assert_eq!(weights(&loaded), [vec![2.0; 9], vec![2.0; 9]]);
        assert_eq!(loaded.encoder.weight.id, loaded.decoder.weight.id);
        // Under a key, and two of them.
        let mut several = file.clone();
        several.entries = nested("one", file.clone());
        several.entries.extend(nested("two", file));
        let error = several.load(tied(1.0)).unwrap_err().to_string();
        assert!(
            error.ends_with("name one of the keys `one`, `two`"),
            "{error}"
        );
        several.under("two").load(tied(1.0)).unwrap();
    }
    let mut none = state_dict;
    none.entries.retain(|name, _| name.ends_with("bias"));
    let error = none.load(tied(1.0)).unwrap_err().to_string();
    let expected = "; 2 missing: encoder.weight, decoder.weight";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_tensor_that_the_metadata_call_another_is_loaded_from_it() {
    // As `safetensors.torch.save_model` writes tied weights, here into a network that does not tie them.
    let untied = || {
        let mut network = tied(1.0);
        network.decoder.weight = network.decoder.weight.clone().map(|weight| weight);
        network.decoder.weight.id = ParamId::new();
        network
    };
    let mut file = StateDict::of(&tied(2.0)).with_metadata("decoder.weight", "encoder.weight");
    file.entries.remove("decoder.weight");
    let loaded = through_a_file(&file).load(untied()).unwrap();
    assert_eq!(weights(&loaded), [vec![2.0; 9], vec![2.0; 9]]);

    let renamed = file.clone().renamed(|name| format!("net.{name}"));
    let loaded = through_a_file(&renamed.unwrap()).load(untied()).unwrap();
    assert_eq!(weights(&loaded), [vec![2.0; 9], vec![2.0; 9]]);

    let astray = file.with_metadata("decoder.weight", "nowhere");
    let error = astray.load(untied()).unwrap_err().to_string();
    assert!(error.contains("; 1 missing: decoder.weight"), "{error}");
}

/// A network whose head tells `classes` apart.
fn of_classes(classes: usize) -> Net {
    Net {
        fc: LinearConfig::new(2, classes).init(&Device::flex()),
        ..net(0.0)
    }
}

#[test]
fn a_part_that_is_named_keeps_its_values() {
    let file = StateDict::of(&net(7.0));
    assert!(file.load(of_classes(5)).is_err());
    let loaded = file.clone().without(&["fc"]).load(of_classes(5)).unwrap();
    assert_eq!(loaded.fc.weight.dims(), [2, 5]);

    // By the name of a tensor, and where the file has none of that name.
    let fresh = net(0.0).fc.weight.val().into_data();
    let loaded = file.clone().without(&["fc.weight"]).load(net(0.0)).unwrap();
    assert_eq!(loaded.fc.weight.val().into_data(), fresh);
    let mut headless = file.clone();
    headless.entries.retain(|name, _| !name.starts_with("fc"));
    headless.clone().without(&["fc"]).load(net(0.0)).unwrap();
    assert!(headless.load(net(0.0)).is_err());
    // And one that only the file has.
    let mut more = file.clone();
    more.entries.extend(nested("aux", StateDict::of(&net(2.0))));
    assert!(more.load(net(0.0)).is_err());
    more.without(&["aux"]).load(net(0.0)).unwrap();

    // The beginning of a name is no part.
    for part in ["f", "head", ""] {
        let error = file.clone().without(&[part]).load(net(0.0)).unwrap_err();
        let expected = format!(
            "neither a state dict in memory nor the network has a part `{part}`, which was to be left as it is: \
             name one of `fc`, `norm`"
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn what_does_not_fit_is_left_and_listed() {
    let mut file = StateDict::of(&net(7.0));
    file.entries.remove("norm.weight");
    let file = with(file, "aux.weight", TensorData::new(vec![0.0_f32], [1]));
    let (loaded, left) = file.load_partly(of_classes(5)).unwrap();
    assert_eq!(left.missing, ["norm.weight"]);
    assert_eq!(left.unknown, ["aux.weight"]);
    assert_eq!(
        left.misshapen,
        [
            "fc.weight is [3, 2], expected [5, 2]",
            "fc.bias is [3], expected [5]"
        ]
    );
    assert!(!left.is_empty());
    assert_eq!(loaded.fc.weight.dims(), [2, 5]);
    let (_, left) = file.without(&["fc"]).load_partly(of_classes(5)).unwrap();
    assert_eq!(left.misshapen, [""; 0]);

    let (_, left) = StateDict::of(&net(7.0)).load_partly(net(0.0)).unwrap();
    assert!(left.is_empty());
}

#[test]
fn a_file_of_which_nothing_fits_is_refused_even_partly() {
    let error = StateDict::of(&net(7.0)).load_partly(tied(1.0)).unwrap_err();
    assert!(error.to_string().contains("; 4 missing: "), "{error}");
}

#[test]
fn of_two_networks_that_fit_equally_well_one_must_be_named() {
    let mut file = StateDict::of(&net(0.0));
    file.entries = nested("live", StateDict::of(&net(1.0)));
    file.entries.extend(nested("swa", StateDict::of(&net(2.0))));
    file.entries.retain(|name, _| !name.ends_with("fc.bias"));
    let error = file.load_partly(net(0.0)).unwrap_err().to_string();
    assert!(
        error.ends_with("name one of the keys `live`, `swa`"),
        "{error}"
    );
    let (loaded, left) = file.under("swa").load_partly(net(0.0)).unwrap();
    assert_eq!(left.missing, ["fc.bias"]);
    let expected = net(2.0).fc.weight.val().into_data();
    assert_eq!(loaded.fc.weight.val().into_data(), expected);
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    std::fs::write(&file, "precious").unwrap();
    let mut state_dict = StateDict::of(&net(0.0));
    let lost = bridge::deferred("fc.bias".into(), DType::F32, [3].into(), None, || {
        panic!("the device is lost")
    });
    state_dict.entries.insert("fc.bias".to_owned(), lost);
    let error = state_dict.write(&file).unwrap_err().to_string();
    assert!(error.contains("`fc.bias` cannot be read: "), "{error}");
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

/// The old names of a DenseNet's tensors: `norm.1.weight` for `norm1.weight`.
fn with_a_dot(name: &str) -> String {
    let layers = ["norm1", "conv1", "norm2", "conv2"];
    layers.iter().fold(name.to_owned(), |name, layer| {
        let (kind, number) = layer.split_at(4);
        name.replace(&format!(".{layer}."), &format!(".{kind}.{number}."))
    })
}

#[test]
fn a_densenet_with_old_names_loads_by_its_current_ones() {
    let device = Device::flex();
    let network = || {
        let config = DenseNetConfig::new(121).with_width_divisor(32);
        config.init(&device).unwrap()
    };
    let saved = StateDict::of(&network());
    let old = through_a_file(&saved.clone().renamed(with_a_dot).unwrap());
    let name = "features.denseblock4.denselayer16.conv.2.weight";
    assert!(old.entries.contains_key(name));
    assert!(old.load(network()).is_err());

    let current = old.renamed(DenseNet::current_name).unwrap();
    let loaded = StateDict::of(&current.load(network()).unwrap());
    let all = |state_dict: &StateDict| -> Vec<(String, Vec<f32>)> {
        let entries = state_dict.entries.iter();
        let entries = entries.map(|(name, entry)| (name.clone(), values(entry)));
        entries.collect()
    };
    assert_eq!(all(&loaded), all(&saved));
}

#[test]
fn two_tensors_of_one_name_are_an_error_that_names_it() {
    let joined = |name: &str| name.replace("norm.", "fc.");
    let error = StateDict::of(&net(0.0)).renamed(joined).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a state dict in memory has two tensors that would be called `fc.bias`: give every tensor another name"
    );
}
