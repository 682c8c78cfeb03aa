//! PyTorch's files load into the networks, with the same results as in PyTorch. Our files load into PyTorch.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::constant::ConstantLr;
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use burn::train::{Learner, SupervisedTraining};
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::renderer::Recorder;
use burn_swa_tests::batches::{Batches, images};
use burn_swa_tests::comparison::relative_l2;
use swa_lab::data::{EpochLoader, ImageSet, Interpolation, View};
use swa_lab::run::classifier::{Classifier, ImageNetwork};
use swa_models::{
    NetworkConfig, PreResNet, PreResNetConfig, ResNetConfig, VggConfig, WideResNetConfig,
};
use swa_store::{StateDict, StateDictError};
use swa_train::swa_core::{Average, EqualWeights};
use swa_train::{Collect, RunLength, SwaConfig};

/// The stream of the images that `checkpoints/*.py` take.
const STREAM: u64 = 7 * 4096 + 4000;

fn checkpoint(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints");
    folder.join(name)
}

/// The network of the checkpoints, with other weights.
fn network() -> PreResNet {
    let config = PreResNetConfig::new(8).with_width_divisor(16);
    config.init(&Device::flex()).unwrap()
}

fn read(name: &str) -> StateDict {
    StateDict::read(checkpoint(name)).unwrap()
}

fn logits<N: ImageNetwork>(network: &N) -> Vec<f64> {
    values(network.valid().logits(images(STREAM, 2, &Device::flex())))
}

#[track_caller]
fn assert_agrees(network: &PreResNet, expected: &str, allowed: f64) {
    let file = fs::read(checkpoint("expected_logits.json")).unwrap();
    let all: BTreeMap<String, Vec<f64>> = serde_json::from_slice(&file).unwrap();
    let deviation = relative_l2(&logits(network), &all[expected]);
    assert!(deviation <= allowed, "{expected} deviates by {deviation:e}");
}

#[test]
fn a_state_dict_is_found_bare_under_a_key_and_behind_a_prefix() {
    for (file, expected, allowed) in [
        ("bare.pt", "live", 1e-5),
        ("model_state.pth", "live", 1e-5),
        ("averaged_model.pt", "averaged_3", 1e-5),
        ("averaged_model.safetensors", "averaged_3", 1e-5),
        // Eleven bits of precision.
        ("data_parallel_half.pt", "live", 5e-3),
    ] {
        let loaded = read(file).load(network()).unwrap();
        assert_agrees(&loaded, expected, allowed);
    }
}

#[test]
fn the_papers_checkpoints_have_two_networks_and_one_is_named() {
    let error = read("paper.pt").load(network()).unwrap_err().to_string();
    let keys = "has the network several times: name one of the keys `state_dict`, `swa_state_dict`";
    assert!(error.ends_with(keys), "{error}");

    for (key, expected) in [("state_dict", "live"), ("swa_state_dict", "averaged_3")] {
        let loaded = read("paper.pt").under(key).load(network()).unwrap();
        assert_agrees(&loaded, expected, 1e-5);
    }

    let error = read("paper.pt").under("ema").load(network()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has nothing under `ema`: name one of the keys `optimizer`, `state_dict`"),
        "{error}"
    );
}

#[test]
fn an_averaged_model_goes_on_here_and_back_there() -> Result<(), Box<dyn Error>> {
    let theirs = read("averaged_model.pt");
    let updates = theirs.updates()?.expect("an AveragedModel counts");
    assert_eq!(updates, 3);
    let average = Average::new(&network(), EqualWeights)?;
    let mut average = average.with_initial_average(&theirs.load(network())?, updates)?;
    assert_agrees(&average.model()?, "averaged_3", 1e-5);

    average.update(&read("bare_after_4.pt").load(network())?)?;
    assert_agrees(&average.model()?, "averaged_4", 1e-5);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("averaged.safetensors");
    let ours = StateDict::of(&average.model()?).averaged(average.updates());
    ours.write(&file)?;
    let back = StateDict::read(&file)?;
    assert_eq!(back.updates()?, Some(4));
    assert_agrees(&back.load(network())?, "averaged_4", 1e-5);
    Ok(())
}

#[test]
fn a_file_of_ours_has_the_names_and_shapes_that_pytorch_gives() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ours.safetensors");
    StateDict::of(&network()).averaged(3).write(&file)?;

    let describe = |file: &Path| -> Result<BTreeMap<String, String>, Box<dyn Error>> {
        let bytes = fs::read(file)?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
        let tensors = tensors.iter();
        let described = tensors.map(|(name, tensor)| {
            let description = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            (name.to_owned(), description)
        });
        Ok(described.collect())
    };
    assert_eq!(
        describe(&file)?,
        describe(&checkpoint("averaged_model.safetensors"))?
    );
    Ok(())
}

#[test]
fn everything_that_does_not_fit_is_in_one_message() {
    let wider = PreResNetConfig::new(8).with_width_divisor(8);
    let wider = wider.init(&Device::flex()).unwrap();
    let error = read("bare.pt").load(wider).unwrap_err();
    let StateDictError::Misfit {
        tensors,
        missing,
        unknown,
        misshapen,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    // All except the last bias, whose size is the number of classes.
    assert_eq!(
        (missing.len(), unknown.len(), misshapen.len()),
        (0, 0, tensors - 1)
    );
    let message = error.to_string();
    for part in [
        "conv1.weight is [1, 3, 3, 3], expected [2, 3, 3, 3]",
        // The shapes are in PyTorch's layout.
        "fc.weight is [10, 4], expected [10, 8]",
    ] {
        assert!(message.contains(part), "{message}");
    }

    let deeper = PreResNetConfig::new(14).with_width_divisor(16);
    let deeper = deeper.init(&Device::flex()).unwrap();
    let error = read("bare.pt").load(deeper).unwrap_err().to_string();
    assert!(
        error.contains("; 30 missing: layer1.1.bn1.weight, "),
        "{error}"
    );

    let deeper = PreResNetConfig::new(14).with_width_divisor(16);
    let deeper = StateDict::of(&deeper.init(&Device::flex()).unwrap());
    let error = deeper.load(network()).unwrap_err().to_string();
    assert!(
        error.contains("; 30 unknown: layer1.1.bn1.bias, "),
        "{error}"
    );
}

#[test]
fn a_hostile_pickle_is_an_error_and_runs_nothing() {
    let error = read("hostile.pt").load(network()).unwrap_err();
    assert!(error.to_string().contains("it holds no tensor"), "{error}");
    assert!(!Path::new("hostile-pickle-was-run").exists());
}

#[test]
fn a_damaged_file_is_an_error_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bare.pt", "averaged_model.safetensors", "model_state.pth"] {
        let whole = fs::read(checkpoint(name)).unwrap();
        let file = folder.path().join(name);
        let load = || StateDict::read(&file).and_then(|it| it.load(network()));
        fs::write(&file, &whole).unwrap();
        load().unwrap();
        let ends = (0..whole.len()).step_by(97).chain([whole.len() - 1]);
        for end in ends {
            fs::write(&file, &whole[..end]).unwrap();
            let error = load().expect_err("half a file").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

#[test]
fn a_header_that_claims_more_than_the_file_has_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("claims.safetensors");
    let header = r#"{"conv1.weight":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#;
    for length in [header.len() as u64, u64::MAX, 1 << 40] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        fs::write(&file, &bytes).unwrap();
        let error = StateDict::read(&file).unwrap_err();
        assert!(matches!(error, StateDictError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_or_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nowhere").join("weights.safetensors");
    for error in [
        StateDict::read(&file).unwrap_err(),
        StateDict::of(&network()).write(&file).unwrap_err(),
    ] {
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}

/// The Python that has PyTorch and these `modules`: `SWA_PYTHON`, or `python3`. If it does not have them, prints this, and returns
/// `None`.
fn python_with(modules: &str) -> Option<String> {
    let python = std::env::var("SWA_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let check = format!("import {modules}");
    let found = Command::new(&python).args(["-c", &check]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    // Not `eprintln`, whose output is hidden if the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "skipped a test: {python} cannot `{check}`. To run it: pip install torch==2.9.1 torchvision==0.24.1 numpy \
         safetensors, and name that python in SWA_PYTHON"
    );
    None
}

/// The logits that PyTorch's network `name` makes after a `command` of `in_pytorch.py`.
fn in_pytorch(
    python: &str,
    command: &str,
    name: &str,
    file: &Path,
    more: &[&str],
) -> Result<Vec<f64>, Box<dyn Error>> {
    let script = checkpoint("in_pytorch.py");
    let mut process = Command::new(python);
    let output = process
        .arg(script)
        .args([command, name])
        .arg(file)
        .args(more)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Asserts that logits differ by rounding alone.
fn assert_same(name: &str, what: &str, ours: &[f64], theirs: &[f64]) {
    let deviation = relative_l2(ours, theirs);
    println!("{name}, {what}: PyTorch's logits differ by {deviation:.1e}");
    assert!(deviation <= 1e-5, "{name}, {what}: {deviation:e}");
}

#[test]
fn torchvisions_networks_load_here_and_go_back_there() -> Result<(), Box<dyn Error>> {
    let Some(python) = python_with("torchvision, safetensors.torch, numpy") else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let back = folder.path().join("back.safetensors");
    for name in ["resnet18", "resnet50", "densenet121"] {
        let config: NetworkConfig = name.parse()?;
        for file in ["saved.pt", "saved.safetensors"] {
            let saved = folder.path().join(file);
            let theirs = in_pytorch(&python, "save", name, &saved, &[])?;
            let network = config.init(&Device::flex())?;
            let network = StateDict::read(&saved)?.load(network)?;
            let ours = values(network.forward(images(STREAM, 2, &Device::flex())));
            assert_same(name, file, &ours, &theirs);

            StateDict::of(&network).write(&back)?;
            let theirs = in_pytorch(&python, "logits", name, &back, &[])?;
            assert_same(name, "back there", &ours, &theirs);
        }
    }
    Ok(())
}

/// The logits of a network, and the classes of the images.
#[derive(serde::Deserialize)]
struct OnImages {
    logits: Vec<f64>,
    labels: Vec<usize>,
}

impl OnImages {
    /// The number of images whose class has the largest logit.
    fn correct(&self) -> usize {
        let classes = self.logits.len() / self.labels.len();
        let pairs = self.logits.chunks(classes).zip(&self.labels);
        let is_correct = |(logits, label): &(&[f64], &usize)| {
            logits.iter().all(|logit| *logit <= logits[**label])
        };
        pairs.filter(is_correct).count()
    }
}

/// `SWA_IMAGES` and `SWA_WEIGHTS` name a folder of PNG files and the weights of a ResNet-18 for other images than the drawings of
/// `examples/imagenet`, and random weights.
#[test]
fn a_folder_of_images_has_the_same_logits_in_torchvision() -> Result<(), Box<dyn Error>> {
    const VIEW: View = View {
        side: 64,
        resize: 73,
        interpolation: Interpolation::Bilinear,
        least_scale: 1.0,
        skip_unreadable: false,
    };

    let Some(python) = python_with("torchvision, safetensors.torch") else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let given = |name| std::env::var_os(name).map(PathBuf::from);
    let images = match given("SWA_IMAGES") {
        Some(images) => images,
        None => {
            let drawings =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/imagenet/shapes");
            as_png(&drawings, folder.path())?;
            folder.path().to_owned()
        }
    };
    let device = Device::flex();
    let set = ImageSet::of_files(&images, VIEW, &|_, _| {})?;
    let config = ResNetConfig::new(18).with_classes(set.class_names.len());
    let network = config.init(&device)?;
    let (weights, network) = match given("SWA_WEIGHTS") {
        Some(weights) => (weights.clone(), StateDict::read(&weights)?.load(network)?),
        None => {
            let weights = folder.path().join("weights.safetensors");
            StateDict::of(&network).write(&weights)?;
            (weights, network)
        }
    };

    let mut ours = OnImages {
        logits: Vec::new(),
        labels: Vec::new(),
    };
    for batch in EpochLoader::evaluation(set.test.clone(), 50, &device)?.iter() {
        let batch = batch?;
        ours.logits.extend(values(network.forward(batch.images)));
        let labels = batch.labels.into_data();
        ours.labels
            .extend(labels.iter::<i64>().map(|label| label as usize));
    }
    let mut process = Command::new(python);
    process
        .arg(checkpoint("folder_in_pytorch.py"))
        .arg("resnet18");
    process.args([&weights, &images]);
    let output = process
        .args([VIEW.side, VIEW.resize].map(|it| it.to_string()))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let theirs: OnImages = serde_json::from_slice(&output.stdout)?;

    assert_eq!(ours.labels, theirs.labels);
    let deviation = relative_l2(&ours.logits, &theirs.logits);
    let correct = [ours.correct(), theirs.correct()];
    let count = ours.labels.len();
    println!(
        "logits of {count} images differ by {deviation:.1e}; correct are {} here and {} in torchvision",
        correct[0], correct[1]
    );
    assert!(deviation <= 1e-4, "{deviation:e}");
    assert_eq!(correct[0], correct[1]);
    Ok(())
}

/// Writes all images in `from`, and in the folders in it, to `to` as PNG files.
fn as_png(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            as_png(&path, &target)?;
        } else {
            let image = image::open(&path)?.into_rgb8();
            image.save(target.with_extension("png"))?;
        }
    }
    Ok(())
}

#[test]
fn what_pytorch_saves_trains_on_here_and_goes_back_there() -> Result<(), Box<dyn Error>> {
    let Some(python) = python_with("torch, safetensors.torch, numpy") else {
        return Ok(());
    };
    let device = Device::flex().autodiff();
    let vgg = VggConfig::new(16).with_batch_norm(true).with_dropout(0.0);
    there_and_back(&python, "vgg16_bn", vgg.init(&device)?)?;
    there_and_back(
        &python,
        "preresnet20",
        PreResNetConfig::new(20).init(&device)?,
    )?;
    there_and_back(
        &python,
        "wrn16_2",
        WideResNetConfig::new(16, 2).init(&device)?,
    )
}

fn there_and_back<N: ImageNetwork>(
    python: &str,
    name: &str,
    network: N,
) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let in_pytorch =
        |command: &str, file: &Path, more: &[&str]| in_pytorch(python, command, name, file, more);
    let agrees = |what: &str, ours: &[f64], theirs: &[f64]| assert_same(name, what, ours, theirs);

    let saved = folder.path().join("saved.pt");
    let theirs = in_pytorch("save", &saved, &[])?;
    let network = StateDict::read(&saved)?.load(network)?;
    agrees("as saved there", &logits(&network), &theirs);

    let batches = |sizes: &[usize]| {
        Arc::new(Batches {
            stream: STREAM + 10,
            sizes: sizes.to_vec(),
            classes: 10,
            device: Device::flex(),
        })
    };
    let run = RunLength::new(1, 3)?;
    let swa = SwaConfig::new(Collect::from_step(2, &run)?)
        .init(Classifier::new(network, Arc::default()), batches(&[8, 8]))?;
    let results = SupervisedTraining::new(folder.path(), batches(&[8, 8, 8]), batches(&[4]))
        .renderer(Box::new(Recorder::default()))
        .with_application_logger(None)
        .num_epochs(1)
        .launch(Learner::new(
            swa,
            SgdConfig::new().init(),
            ConstantLr::new(0.01),
        ));
    let (live, updates) = (
        results.model.live().valid().into_network(),
        results.model.updates(),
    );
    let averaged = results.model.averaged_model()?.into_network();
    assert_eq!(updates, 2);
    let (trained, averaged_logits) = (logits(&live), logits(&averaged));
    assert!(
        relative_l2(&trained, &theirs) > 1e-3,
        "training changed nothing"
    );

    let file = folder.path().join("back.safetensors");
    StateDict::of(&live).write(&file)?;
    agrees("trained here", &trained, &in_pytorch("logits", &file, &[])?);
    StateDict::of(&averaged).averaged(updates).write(&file)?;
    let theirs = in_pytorch("logits", &file, &["--averaged", "2"])?;
    agrees("averaged here", &averaged_logits, &theirs);
    Ok(())
}
