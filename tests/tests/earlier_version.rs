//! Files of an earlier version, which `earlier_version/README.md` names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::store::burn_pack::Reader;
use burn::tensor::Device;
use burn_swa_test_support::parameters::floats;
use safetensors::SafeTensors;
use swa_lab::data::{Augmentation, EpochLoader, IMAGE_BYTES, Images};
use swa_lab::run::classifier::Classifier;
use swa_models::{PreResNet, PreResNetConfig};
use swa_store::StateDict;
use swa_train::{
    Collect, RECORD_FORMAT, RunLength, RunningStatistics, Swa, SwaConfig, SwaError, load_averaged,
    load_live,
};

fn file(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("earlier_version").join(name)
}

fn network() -> PreResNet {
    let config = PreResNetConfig::new(8).with_width_divisor(16);
    config.init(&Device::flex().autodiff()).unwrap()
}

/// The wrapper of a run of `epochs` epochs of seven steps, averaged from the third on.
fn swa(epochs: usize) -> Swa<Classifier<PreResNet>> {
    let run = RunLength::new(epochs, 7).unwrap();
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

/// Loads an earlier record, and compares all tensors with those that are recorded now.
fn assert_same(earlier: &Path, swa: Swa<Classifier<PreResNet>>, added: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let now = folder.path().join("now.bpk");
    swa.save_file(&now).unwrap();
    let mut now = record(&now);
    let format = now.remove("swa_train.format").expect("a record says it");
    assert_eq!(usize::from(format.3[0]), RECORD_FORMAT);
    let statistics_of = now.remove("swa_train.statistics_of");
    assert_eq!(statistics_of.expect("a record says it").3[0], 0);
    for entry in added {
        now.remove(*entry).expect("later versions added it");
    }
    let mut earlier = record(earlier);
    earlier.remove("format");
    let earlier: BTreeMap<String, Content> = earlier
        .into_iter()
        .map(|(path, content)| match path.strip_prefix("model.") {
            Some(live) => (live.to_owned(), content),
            None => (format!("swa_train.{path}"), content),
        })
        .collect();
    let paths = |record: &BTreeMap<String, Content>| record.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&now), paths(&earlier));
    let different = earlier
        .iter()
        .filter(|(path, content)| now.get(*path) != Some(content));
    let different: Vec<_> = different.map(|(path, _)| path).collect();
    assert!(different.is_empty(), "{different:?}");
}

#[test]
fn a_checkpoint_of_format_0_loads_with_the_same_bits() {
    let earlier = file("run/checkpoint/model-5+1.bpk");
    let swa = swa(6).try_load_file(&earlier).unwrap();
    assert_eq!((swa.updates(), swa.steps()), (3, 36));
    assert_same(&earlier, swa, &["swa_train.steps_per_epoch"]);
}

#[test]
fn a_checkpoint_of_format_2_loads_with_the_same_bits() {
    let earlier = file("format-2.bpk");
    let swa = swa(4).try_load_file(&earlier).unwrap();
    assert_eq!((swa.updates(), swa.steps()), (2, 28));
    assert_same(&earlier, swa, &[]);
}

#[test]
fn steps_of_an_epoch_that_a_record_lacks_are_not_converted() {
    let earlier = file("run/checkpoint/model-5+1.bpk");
    let run = RunLength::new(6, 9).unwrap();
    let config = SwaConfig::new(Collect::from_epoch(3, &run).unwrap());
    let config = config.with_running_statistics(RunningStatistics::Latest);
    let swa = config.init_without_data(Classifier::new(network(), Arc::default()));
    let swa = swa.unwrap().try_load_file(&earlier).unwrap();
    assert_eq!((swa.updates(), swa.steps()), (3, 36));
}

#[test]
fn models_are_taken_from_earlier_checkpoints() {
    for (name, epochs) in [("run/checkpoint/model-5+1.bpk", 6), ("format-2.bpk", 4)] {
        let swa = swa(epochs).try_load_file(file(name)).unwrap();
        let plain = || Classifier::new(network(), Arc::default());
        let live = load_live(file(name), plain()).unwrap();
        assert_eq!(floats(&live), floats(swa.live()));
        // Its statistics were never re-estimated.
        let error = load_averaged(file(name), plain()).unwrap_err();
        assert!(matches!(error, SwaError::NotReestimated { .. }), "{error}");
        // That takes data, and then the file of this version has them.
        let folder = tempfile::tempdir().unwrap();
        let now = folder.path().join("now.bpk");
        let averaged = swa.averaged_model().unwrap();
        swa.save_file(&now).unwrap();
        let loaded = load_averaged(&now, plain()).unwrap();
        assert_eq!(floats(&loaded), floats(&averaged));
    }
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
