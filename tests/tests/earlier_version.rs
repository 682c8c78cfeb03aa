//! Files of an earlier version, which `earlier_version/README.md` names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::store::burn_pack::Reader;
use burn::tensor::Device;
use safetensors::SafeTensors;
use swa_lab::data::{Augmentation, EpochLoader, IMAGE_BYTES, Images};
use swa_lab::run::classifier::Classifier;
use swa_models::{PreResNet, PreResNetConfig};
use swa_store::StateDict;
use swa_train::{Collect, RunLength, Swa, SwaConfig};

fn file(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("earlier_version").join(name)
}

fn network() -> PreResNet {
    let config = PreResNetConfig::new(8).with_width_divisor(16);
    config.init(&Device::flex().autodiff()).unwrap()
}

/// The wrapper of the run: six epochs of seven steps, averaged from the third on.
fn swa() -> Swa<Classifier<PreResNet>> {
    let run = RunLength::new(6, 7).unwrap();
    let images = Arc::new(Images::new(vec![0; IMAGE_BYTES], vec![0]));
    let device = Device::flex().autodiff();
    let loader = EpochLoader::reestimation(images, 1, Augmentation::None, 1, &device).unwrap();
    SwaConfig::new(Collect::from_epoch(3, &run).unwrap())
        .init(Classifier::new(network(), Arc::default()), Arc::new(loader))
        .unwrap()
}

/// A tensor of a record: its id, dtype, shape and bytes.
type Content = (Option<u64>, String, Vec<usize>, Vec<u8>);

/// Every tensor in a record's file, by its path.
fn record(file: &Path) -> BTreeMap<String, Content> {
    let tensors = Reader::from_file_exact(file).unwrap().into_tensors();
    let content = tensors.unwrap().into_iter().map(|tensor| {
        let bytes = tensor.to_bytes().unwrap().to_vec();
        let dtype = format!("{:?}", tensor.dtype);
        let shape = tensor.shape.to_vec();
        // Burn (0.22.1) gives running statistics new ids when it loads them.
        let is_statistic = tensor.name.contains(".running_");
        let id = tensor.param_id.filter(|_| !is_statistic);
        (tensor.name.clone(), (id, dtype, shape, bytes))
    });
    content.collect()
}

#[test]
fn a_checkpoint_loads_with_the_same_bits() {
    let earlier = file("run/checkpoint/model-5+1.bpk");
    let swa = swa().try_load_file(&earlier).unwrap();
    assert_eq!((swa.updates(), swa.steps()), (3, 36));

    let folder = tempfile::tempdir().unwrap();
    let now = folder.path().join("now.bpk");
    swa.save_file(&now).unwrap();
    let mut now = record(&now);
    // Later versions added these.
    for (entry, expected) in [("format", 2), ("steps_per_epoch", 7)] {
        let (.., bytes) = now.remove(entry).expect("a record says it");
        assert_eq!(bytes[0], expected);
    }
    let earlier = record(&earlier);
    let different = earlier
        .iter()
        .filter(|(path, content)| now.get(*path) != Some(content));
    let different: Vec<_> = different.map(|(path, _)| path).collect();
    assert!(different.is_empty(), "{different:?}");
    assert_eq!(now.len(), earlier.len());
}

#[test]
fn a_model_file_loads_with_the_same_bits() {
    let earlier = file("averaged.safetensors");
    let network = StateDict::read(&earlier).unwrap().load(network()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let now = folder.path().join("now.safetensors");
    StateDict::of(&network).write(&now).unwrap();

    let [earlier, now] = [earlier, now].map(|file| fs::read(file).unwrap());
    let [earlier, now] = [&earlier, &now].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(earlier.len(), now.len());
    for (name, tensor) in earlier.tensors() {
        assert!(now.tensor(&name).unwrap() == tensor, "{name}");
    }
}
