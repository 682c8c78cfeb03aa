//! Averages of files: of every kind, of every dtype, and of files that cannot be averaged.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::store::{BurnpackStore, ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use swa_core::Weights;
use swa_models::{PreResNet, PreResNetConfig};
use swa_store::{CheckpointError, Checkpoints, Decay, StateDict};
use tempfile::TempDir;

/// A tensor of a file: dtype, shape and bytes.
type Raw = (Dtype, Vec<usize>, Vec<u8>);

fn raw<const N: usize>(dtype: Dtype, elements: impl ExactSizeIterator<Item = [u8; N]>) -> Raw {
    (dtype, vec![elements.len()], elements.flatten().collect())
}

fn f32s(values: &[f32]) -> Raw {
    raw(Dtype::F32, values.iter().map(|it| it.to_le_bytes()))
}

fn f64s(values: &[f64]) -> Raw {
    raw(Dtype::F64, values.iter().map(|it| it.to_le_bytes()))
}

fn i64s(values: &[i64]) -> Raw {
    raw(Dtype::I64, values.iter().map(|it| it.to_le_bytes()))
}

/// 16-bit floats by their bits.
fn bits(dtype: Dtype, values: &[u16]) -> Raw {
    raw(dtype, values.iter().map(|it| it.to_le_bytes()))
}

/// A folder of files.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A SafeTensors file that says nothing of its format.
    fn file(&self, name: &str, tensors: &[(&str, Raw)]) -> PathBuf {
        self.file_with(name, tensors, &[])
    }

    fn file_with(&self, name: &str, tensors: &[(&str, Raw)], metadata: &[(&str, &str)]) -> PathBuf {
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (
                *name,
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        });
        let metadata = metadata.iter();
        let metadata = metadata.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        // SafeTensors (0.8.0) writes a damaged header for no tensor and empty metadata.
        let metadata: HashMap<String, String> = metadata.collect();
        let metadata = Some(metadata).filter(|it| !it.is_empty());
        let path = self.path(name);
        safetensors::serialize_to_file(views, metadata, &path).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

/// The tensors of a SafeTensors file.
fn read(path: &Path) -> BTreeMap<String, Raw> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().map(|(name, tensor)| {
        let (shape, data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        (name.to_owned(), (tensor.dtype(), shape, data))
    });
    tensors.collect()
}

fn metadata(path: &Path) -> HashMap<String, String> {
    let bytes = fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    metadata.metadata().clone().unwrap_or_default()
}

/// The error of averaging files into `out`, which must be one line.
fn refused(files: &[&PathBuf], out: &Path) -> String {
    let written = Checkpoints::open(files).and_then(|files| files.uniform().write(out));
    let error = written.unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn floats_are_averaged_and_ints_are_those_of_the_last_file() {
    let folder = Folder::new();
    let tensors = |w: [f32; 2], batches: i64| {
        let scalar = (Dtype::F32, vec![], w[0].to_le_bytes().to_vec());
        [
            ("w", f32s(&w)),
            ("scalar", scalar),
            ("batches", i64s(&[batches])),
            ("empty", f32s(&[])),
        ]
    };
    let files = [
        folder.file("a", &tensors([1.0, -2.0], 3)),
        folder.file("b", &tensors([2.0, 6.0], 9)),
    ];
    let files = Checkpoints::open(files).unwrap();
    let out = folder.path("out.safetensors");
    files.uniform().write(&out).unwrap();
    assert_eq!(
        read(&out),
        tensors([1.5, 2.0], 9)
            .map(|(name, raw)| (name.to_owned(), raw))
            .into()
    );

    files.weighted(&[3.0, 1.0]).unwrap().write(&out).unwrap();
    assert_eq!(read(&out)["w"], f32s(&[1.25, 0.0]));
    files.weighted(&[-1.0, 2.0]).unwrap().write(&out).unwrap();
    assert_eq!(read(&out)["w"], f32s(&[3.0, 14.0]));
}

#[test]
fn sixteen_bits_are_accumulated_in_more() {
    let folder = Folder::new();
    // 256, 1 and 1. In bfloat16, 256 + 1 is 256.
    let files = [
        ("a", 0x4380, 0x5C00),
        ("b", 0x3F80, 0x3C00),
        ("c", 0x3F80, 0x3C00),
    ];
    let files = files.map(|(name, brain, half)| {
        let (brain, half) = (bits(Dtype::BF16, &[brain]), bits(Dtype::F16, &[half]));
        folder.file(name, &[("brain", brain), ("half", half)])
    });
    let out = folder.path("out.safetensors");
    Checkpoints::open(files)
        .unwrap()
        .uniform()
        .write(&out)
        .unwrap();
    // 86 in both.
    assert_eq!(read(&out)["brain"], bits(Dtype::BF16, &[0x42AC]));
    assert_eq!(read(&out)["half"], bits(Dtype::F16, &[0x5560]));
}

#[test]
fn dtypes_are_those_of_the_first_file() {
    let folder = Folder::new();
    let single = folder.file("single", &[("w", f32s(&[1.0]))]);
    let double = folder.file("double", &[("w", f64s(&[2.0 + 1e-12]))]);
    let half = folder.file("half", &[("w", bits(Dtype::F16, &[0x4200]))]);
    let out = folder.path("out.safetensors");
    let average = |files: [&PathBuf; 3]| {
        Checkpoints::open(files)
            .unwrap()
            .uniform()
            .write(&out)
            .unwrap();
        read(&out)["w"].clone()
    };
    assert_eq!(average([&single, &double, &half]), f32s(&[2.0]));
    assert_eq!(
        average([&half, &single, &double]),
        bits(Dtype::F16, &[0x4000])
    );
    let (dtype, _, bytes) = average([&double, &single, &half]);
    let value = f64::from_le_bytes(bytes.try_into().unwrap());
    assert_eq!(dtype, Dtype::F64);
    assert!((value - (2.0 + 1e-12 / 3.0)).abs() < 1e-15, "{value}");

    let large = folder.file("large", &[("w", f32s(&[1e6]))]);
    let error = refused(&[&half, &large], &out);
    assert!(
        error.starts_with("the mean of `w` is too large for F16"),
        "{error}"
    );
    let largest = folder.file("largest", &[("w", f32s(&[f32::MAX]))]);
    let beyond = Checkpoints::open([&largest, &single])
        .unwrap()
        .weighted(&[3.0, -1.0]);
    let error = beyond.unwrap().write(&out).unwrap_err();
    assert!(matches!(error, CheckpointError::TooLarge { .. }), "{error}");
}

#[test]
fn a_tensor_of_many_parts_is_averaged_as_a_whole() {
    let folder = Folder::new();
    let count = 9 * (1 << 16) + 5;
    let values = |factor: usize| -> Vec<f32> {
        (0..count)
            .map(|place| (place * factor % 1013) as f32)
            .collect()
    };
    let (a, b) = (values(3), values(7));
    let files = [
        folder.file("a", &[("w", f32s(&a))]),
        folder.file("b", &[("w", f32s(&b))]),
    ];
    let out = folder.path("out.safetensors");
    Checkpoints::open(files)
        .unwrap()
        .uniform()
        .write(&out)
        .unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
    assert!(read(&out)["w"] == f32s(&expected));
}

#[derive(Module, Debug)]
struct Net {
    norm: BatchNorm,
    fc: Linear,
}

/// A network of Burn's with `value` in its weights.
fn net(value: f32) -> Net {
    let device = Device::flex();
    let weight = Tensor::<2>::from_floats([[1.0, 3.0], [2.0, 4.0]], &device).mul_scalar(value);
    let mut fc = LinearConfig::new(2, 2).init(&device);
    fc.weight = Param::from_tensor(weight);
    let mut norm = BatchNormConfig::new(2).init(&device);
    norm.gamma = Param::from_tensor(Tensor::full([2], value, &device));
    Net { norm, fc }
}

fn save_burnpack(net: &Net, path: &Path) {
    net.save_into(&mut BurnpackStore::from_file(path)).unwrap();
}

#[test]
fn files_of_burn_of_both_kinds_average_together() {
    let folder = Folder::new();
    let (packed, safe) = (folder.path("2.bpk"), folder.path("4.safetensors"));
    save_burnpack(&net(2.0), &packed);
    net(4.0)
        .save_into(&mut SafetensorsStore::from_file(&safe))
        .unwrap();
    let files = Checkpoints::open([&packed, &safe]).unwrap();
    assert_eq!(files.batch_norm_layers(), ["norm"]);

    let [mut from_pack, mut from_safe] = [net(0.0), net(0.0)];
    let out = folder.path("out.bpk");
    files.uniform().write(&out).unwrap();
    from_pack
        .load_from(&mut BurnpackStore::from_file(&out))
        .unwrap();
    let out = folder.path("out.safetensors");
    files.uniform().write(&out).unwrap();
    from_safe
        .load_from(&mut SafetensorsStore::from_file(&out))
        .unwrap();
    assert_eq!(metadata(&out)["format"], "safetensors");
    for loaded in [from_pack, from_safe] {
        let (norm, fc) = (loaded.norm.gamma.val(), loaded.fc.weight.val());
        assert_eq!(norm.into_data(), net(3.0).norm.gamma.val().into_data());
        assert_eq!(fc.into_data(), net(3.0).fc.weight.val().into_data());
    }
}

#[test]
fn layouts_of_burn_and_of_pytorch_are_not_mixed() {
    let folder = Folder::new();
    let (burn, pytorch) = (folder.path("burn.bpk"), folder.path("pytorch.safetensors"));
    save_burnpack(&net(2.0), &burn);
    StateDict::of(&net(4.0)).write(&pytorch).unwrap();
    let out = folder.path("out.safetensors");
    let error = refused(&[&burn, &pytorch], &out);
    assert!(
        error.ends_with("burn.bpk Burn's: export that with `StateDict` first"),
        "{error}"
    );

    // Files that do not say what they are.
    let burn = folder.file("burn", &[("norm.gamma", f32s(&[1.0]))]);
    let pytorch = folder.file("pytorch", &[("norm.weight", f32s(&[1.0]))]);
    let error = refused(&[&burn, &pytorch], &out);
    assert!(
        error.contains("1 missing: norm.gamma; 1 unknown: norm.weight"),
        "{error}"
    );
    assert!(error.contains("are Burn's names: export"), "{error}");
}

/// A file that PyTorch wrote.
fn of_pytorch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/checkpoints");
    folder.join(name)
}

/// The network in PyTorch's files.
fn network() -> PreResNet {
    let config = PreResNetConfig::new(8).with_width_divisor(16);
    config.init(&Device::flex()).unwrap()
}

fn load(path: &Path) -> PreResNet {
    StateDict::read(path).unwrap().load(network()).unwrap()
}

#[test]
fn files_of_pytorch_average_together_with_others() {
    let folder = Folder::new();
    let [first, second] = ["bare.pt", "bare_after_4.pt"].map(of_pytorch);
    let exported = folder.path("exported.safetensors");
    StateDict::of(&load(&second)).write(&exported).unwrap();
    let weights = |path: &Path| Weights::of(&load(path)).unwrap();
    let expected = weights(&first).lerp(&weights(&second), 0.25).unwrap();
    for second in [&second, &exported] {
        let out = folder.path("out.safetensors");
        let average = Checkpoints::open([&first, second])
            .unwrap()
            .weighted(&[3.0, 1.0]);
        let average = average.unwrap();
        average.write(&out).unwrap();
        let distance = weights(&out).distance(&expected).unwrap();
        assert!(distance < 1e-6 * expected.norm().unwrap(), "{distance}");
        let loaded = average.state_dict().load(network()).unwrap();
        assert_eq!(
            Weights::of(&loaded)
                .unwrap()
                .distance(&weights(&out))
                .unwrap(),
            0.0
        );
    }
}

#[test]
fn a_part_of_each_file_is_averaged_under_its_key() {
    let folder = Folder::new();
    let copy = folder.path("copy.pt");
    fs::copy(of_pytorch("paper.pt"), &copy).unwrap();
    let files = [of_pytorch("paper.pt"), copy];
    let out = folder.path("out.safetensors");
    Checkpoints::open_under("state_dict", &files)
        .unwrap()
        .uniform()
        .write(&out)
        .unwrap();
    let paper = StateDict::read(&files[0]).unwrap().under("state_dict");
    let paper = Weights::of(&paper.load(network()).unwrap()).unwrap();
    assert_eq!(
        Weights::of(&load(&out)).unwrap().distance(&paper).unwrap(),
        0.0
    );
    assert!(read(&out).keys().all(|name| !name.contains("state_dict")));

    let error = Checkpoints::open_under("model", &files)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("paper.pt has nothing under `model`: its names begin with "),
        "{error}"
    );
    assert!(error.contains("swa_state_dict"), "{error}");
}

#[test]
fn all_differences_are_in_one_error() {
    let folder = Folder::new();
    let wide = (Dtype::F32, vec![2, 3], vec![0; 24]);
    let one = || f32s(&[1.0]);
    let a = folder.file("a", &[("u", one()), ("v", one()), ("w", wide)]);
    let b = folder.file("b", &[("v", i64s(&[1])), ("w", one()), ("x", one())]);
    let c = folder.file("c", &[("u", one()), ("v", one())]);
    let out = folder.path("out.safetensors");
    let expected = format!(
        "files of one network have the same tensors; other than {} has; {}: 1 missing: u; 1 unknown: x; 2 of another shape \
         or kind: v is [1] of I64, expected [1] of F32, w is [1] of F32, expected [2, 3] of F32; {}: 1 missing: w",
        a.display(),
        b.display(),
        c.display(),
    );
    assert_eq!(refused(&[&a, &b, &c], &out), expected);
    assert!(!out.exists());
}

#[test]
fn a_nan_is_named_and_the_output_stays_as_it_was() {
    let folder = Folder::new();
    let tensors = |last: f32| [("u", f32s(&[1.0])), ("w", f32s(&[1.0, last]))];
    let files = [
        folder.file("bad", &tensors(f32::NAN)),
        folder.file("good", &tensors(2.0)),
    ];
    for out in [folder.path("out.safetensors"), folder.path("out.bpk")] {
        fs::write(&out, "mine").unwrap();
        let error = refused(&[&files[1], &files[0]], &out);
        let expected = format!("{} holds NaN in `w`", files[0].display());
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
    }
    // A weight of zero does not hide it.
    let weighted = Checkpoints::open(&files)
        .unwrap()
        .weighted(&[0.0, 1.0])
        .unwrap();
    let error = weighted.write(folder.path("new.bpk")).unwrap_err();
    assert!(
        matches!(error, CheckpointError::NotFinite { .. }),
        "{error}"
    );
    assert_eq!(
        folder.names(),
        ["bad", "good", "out.bpk", "out.safetensors"]
    );
}

#[test]
fn an_infinity_that_all_files_have_is_a_constant() {
    let folder = Folder::new();
    let mask = |value: f32| [("mask", f32s(&[0.0, f32::NEG_INFINITY, value]))];
    let [a, b, infinite] = [("a", 1.0), ("b", 3.0), ("infinite", f32::INFINITY)]
        .map(|(name, value)| folder.file(name, &mask(value)));
    let files = Checkpoints::open([&a, &b]).unwrap();
    let out = folder.path("out.safetensors");
    files.uniform().write(&out).unwrap();
    assert_eq!(read(&out)["mask"], mask(2.0)[0].1);
    files.weighted(&[2.0, -1.0]).unwrap().write(&out).unwrap();
    assert_eq!(read(&out)["mask"], mask(-1.0)[0].1);

    for files in [[&a, &infinite], [&infinite, &a]] {
        let error = refused(&files, &out);
        let expected = format!("{} holds inf in `mask`", infinite.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let folder = Folder::new();
    let [a, b] =
        ["a.safetensors", "b.safetensors"].map(|name| folder.file(name, &[("w", f32s(&[1.0]))]));
    let hard_link = folder.path("hard.safetensors");
    fs::hard_link(&b, &hard_link).unwrap();
    let mut outputs = vec![b.clone(), folder.path("./a.safetensors"), hard_link];
    if cfg!(unix) {
        let link = folder.path("link.safetensors");
        std::os::unix::fs::symlink(&a, &link).unwrap();
        outputs.push(link);
    }
    let before = fs::read(&a).unwrap();
    for out in &outputs {
        let error = refused(&[&a, &b], out);
        assert!(
            error.ends_with("which is one of the files: write the average to another one"),
            "{error}"
        );
    }
    // So is one that was not chosen.
    let chosen = Checkpoints::open([&a, &b]).unwrap().best(1, &[0.0, 1.0]);
    let error = chosen.unwrap().uniform().write(&a).unwrap_err();
    assert!(
        matches!(error, CheckpointError::OutputIsInput { .. }),
        "{error}"
    );
    assert_eq!(fs::read(&a).unwrap(), before);
}

#[test]
fn outputs_that_cannot_be_written_are_refused() {
    let folder = Folder::new();
    let file = folder.file("a", &[("w", f32s(&[1.0]))]);
    for name in ["out.pt", "out"] {
        let error = refused(&[&file], &folder.path(name));
        assert!(
            error.ends_with("expected one that ends in .safetensors or .bpk"),
            "{error}"
        );
    }
    for name in ["gone/out.safetensors", "gone/out.bpk"] {
        let path = folder.path(name);
        let error = refused(&[&file], &path);
        assert!(
            error.starts_with(&format!("cannot write {}", path.display())),
            "{error}"
        );
    }
    assert_eq!(folder.names(), ["a"]);
}

#[test]
fn damaged_files_are_named() {
    let folder = Folder::new();
    let out = folder.path("out.safetensors");
    let (packed, safe) = (folder.path("whole.bpk"), folder.path("whole.safetensors"));
    save_burnpack(&net(2.0), &packed);
    StateDict::of(&net(2.0)).write(&safe).unwrap();
    let damaged = folder.path("damaged");
    for whole in [packed, safe, of_pytorch("bare.pt")] {
        let bytes = fs::read(&whole).unwrap();
        for length in [bytes.len() - 1, bytes.len() / 2, 12, 3, 0] {
            fs::write(&damaged, &bytes[..length]).unwrap();
            let error = refused(&[&damaged], &out);
            assert!(
                error.contains(&damaged.display().to_string()),
                "{length}: {error}"
            );
        }
    }
    let error = refused(&[&folder.path("gone")], &out);
    assert!(error.starts_with("cannot read "), "{error}");
    let error = refused(&[&folder.file("nothing", &[])], &out);
    assert!(error.contains("it holds no tensor"), "{error}");
    fs::write(
        &damaged,
        "a text of some length, which is no file of tensors",
    )
    .unwrap();
    let error = refused(&[&damaged], &out);
    assert!(
        error.contains("is damaged, or no file of tensors"),
        "{error}"
    );
    assert!(!out.exists());
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_named() {
    let folder = Folder::new();
    let out = folder.path("out.safetensors");
    fs::write(&out, "mine").unwrap();
    let (packed, safe) = (folder.path("a.bpk"), folder.path("a.safetensors"));
    save_burnpack(&net(2.0), &packed);
    StateDict::of(&net(2.0)).write(&safe).unwrap();
    for file in [packed, safe] {
        let average = Checkpoints::open([&file]).unwrap().uniform();
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let error = average.write(&out).unwrap_err();
        let CheckpointError::Corrupt { path, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(path, &file);
        fs::remove_file(&file).unwrap();
        let error = average.write(&out).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
    }
    assert_eq!(folder.names(), ["out.safetensors"]);
}

#[test]
fn the_average_of_one_file_is_a_copy_of_it() {
    let folder = Folder::new();
    let brain = bits(Dtype::BF16, &[0x42AC]);
    let tensors = [
        ("w", f32s(&[0.1, -3.0e-39])),
        ("brain", brain),
        ("n", i64s(&[7])),
    ];
    let file = folder.file("checkpoint_1", &tensors);
    let files = Checkpoints::open([&file]).unwrap();
    let out = folder.path("out.safetensors");
    files.uniform().write(&out).unwrap();
    assert_eq!(read(&out), read(&file));
    files.merged(Decay::MinusSqrt).unwrap().write(&out).unwrap();
    assert_eq!(read(&out), read(&file));
}

#[test]
fn choices_that_do_not_fit_the_files_are_refused() {
    let folder = Folder::new();
    let none: [PathBuf; 0] = [];
    assert!(matches!(
        Checkpoints::open(none),
        Err(CheckpointError::NoFiles)
    ));
    let file = |name: &str| folder.file(name, &[("w", f32s(&[1.0]))]);
    let paths = ["model-1.pt", "model-2.pt", "model-3.pt"].map(file);
    let files = Checkpoints::open(&paths).unwrap();
    let refusals = [
        files.last(4).unwrap_err(),
        files.last(0).unwrap_err(),
        files.best(2, &[1.0]).unwrap_err(),
        files.best(2, &[1.0, f64::NAN, 2.0]).unwrap_err(),
        files.window(7..=9).unwrap_err(),
        files.weighted(&[1.0, 2.0]).unwrap_err(),
        files.weighted(&[1.0, -2.0, 1.0]).unwrap_err(),
        files.weighted(&[1.0, f64::NAN, 1.0]).unwrap_err(),
    ];
    let second = paths[1].display();
    let expected = [
        "4 of 3 files cannot be averaged: ask for 1 to 3",
        "0 of 3 files cannot be averaged: ask for 1 to 3",
        "1 scores for 3 files: give one for each",
        &format!("the score of {second} is NaN: expected a number, higher for a better network"),
        "no file is of a step from 7 to 9: their steps are 1, 2, 3",
        "2 weights for 3 files: give one for each",
        "weights must be numbers whose sum is not 0, not 1, -2, 1",
        "weights must be numbers whose sum is not 0, not 1, NaN, 1",
    ];
    assert_eq!(refusals.map(|error| error.to_string()), expected);

    let again = file("again_2.pt");
    let error = Checkpoints::open([&paths[1], &again])
        .unwrap()
        .last(1)
        .unwrap_err();
    let expected = format!(
        "{second} and {} are both of step 2: name one of them",
        again.display()
    );
    assert_eq!(error.to_string(), expected);
    let unnumbered = Checkpoints::open([file("last.pt")]).unwrap();
    assert!(matches!(
        unnumbered.last(1),
        Err(CheckpointError::NoStep { .. })
    ));
    let error = Checkpoints::open([&paths[1], &folder.path("./model-2.pt")]).unwrap_err();
    assert!(matches!(error, CheckpointError::Twice { .. }), "{error}");
}

#[test]
fn a_step_in_metadata_goes_before_one_in_a_name() {
    let folder = Folder::new();
    let file = |name: &str, metadata: &[(&str, &str)]| {
        folder.file_with(name, &[("w", f32s(&[1.0]))], metadata)
    };
    let files = [
        file("1.safetensors", &[("step", "20")]),
        file("2.safetensors", &[("step", "10")]),
        file("15.safetensors", &[]),
    ];
    let last = Checkpoints::open(&files).unwrap().last(2).unwrap();
    let last: Vec<&Path> = last.paths().collect();
    assert_eq!(last, [&files[2], &files[0]]);
}

#[test]
fn the_best_stay_in_their_order_and_the_first_of_equals_goes_first() {
    let folder = Folder::new();
    let files = ["a", "b", "c", "d"].map(|name| folder.file(name, &[("w", f32s(&[1.0]))]));
    let best = Checkpoints::open(&files)
        .unwrap()
        .best(2, &[0.5, 0.7, 0.9, 0.7])
        .unwrap();
    let best: Vec<&Path> = best.paths().collect();
    assert_eq!(best, [&files[1], &files[2]]);
}

#[test]
fn metadata_that_all_files_agree_on_are_kept() {
    let folder = Folder::new();
    let file = |name: &str, step: &str| {
        let metadata = [("network", "a"), ("step", step), ("format", "pt")];
        folder.file_with(name, &[("w", f32s(&[1.0]))], &metadata)
    };
    let files = [file("a", "1"), file("b", "2")];
    let out = folder.path("out.safetensors");
    Checkpoints::open(&files)
        .unwrap()
        .uniform()
        .write(&out)
        .unwrap();
    let expected = [("network", "a"), ("format", "pt")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(metadata(&out), HashMap::from(expected));
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let folder = Folder::new();
    let files = [(1.0, "1.safetensors"), (2.0, "2.safetensors")].map(|(value, name)| {
        let path = folder.path(name);
        StateDict::of(&net(value)).write(&path).unwrap();
        path
    });
    for end in ["safetensors", "bpk"] {
        let [first, second] = ["x", "y"].map(|name| {
            let out = folder.path(&format!("{name}.{end}"));
            let files = Checkpoints::open(&files).unwrap();
            files.merged(Decay::MinusSqrt).unwrap().write(&out).unwrap();
            fs::read(out).unwrap()
        });
        assert!(first == second, "{end}");
    }
}

#[test]
fn progress_counts_the_bytes_of_the_average() {
    let folder = Folder::new();
    let file = folder.file("a", &[("u", f32s(&[1.0])), ("v", f64s(&[1.0, 2.0]))]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shown = seen.clone();
    let average = Checkpoints::open([&file]).unwrap().uniform();
    let average =
        average.with_progress(move |done, total| shown.lock().unwrap().push((done, total)));
    average.write(folder.path("out.safetensors")).unwrap();
    assert_eq!(*seen.lock().unwrap(), [(16, 20), (20, 20)]);
}

#[test]
fn a_soup_passes_errors_of_its_score_on() {
    let folder = Folder::new();
    let files = ["a", "b"].map(|name| folder.file(name, &[("w", f32s(&[1.0]))]));
    let files = Checkpoints::open(files).unwrap();
    let soup = files.greedy_soup(|_| Err::<f64, Box<dyn Error>>("no images".into()));
    assert_eq!(soup.unwrap_err().to_string(), "no images");
    let mut scores = [1.0, 2.0, f64::NAN].into_iter();
    let soup = files.greedy_soup(|_| Ok::<f64, CheckpointError>(scores.next().unwrap()));
    assert!(matches!(soup, Err(CheckpointError::Score { .. })));
}
