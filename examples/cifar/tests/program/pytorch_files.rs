//! Weights that come from PyTorch and go back there.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use crate::data_folder::write_image_folder;
use crate::process::cifar;
use crate::small_run::{SmallRun, resume, train};

/// A file of PyTorch's, of a PreResNet-8 a sixteenth as wide.
fn checkpoint(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/checkpoints");
    format!("{folder}/{name}")
}

const NETWORK: [&str; 4] = ["--model", "preresnet-8", "--width-divisor", "16"];

/// A command with paths among its words.
fn run(words: &[&str], file: &str, more: &[&str]) -> crate::process::Ended {
    cifar(words.iter().chain(&[file]).chain(more))
}

/// The score on all images that `cifar evaluate` ends with.
fn score(file: &str, more: &[&str]) -> String {
    let output = run(&["evaluate", "--model-file"], file, more).success();
    let all = output.lines().find(|line| line.starts_with("all "));
    all.unwrap_or_else(|| panic!("{output}")).to_owned()
}

/// The folder of a run, with what it left.
fn small_run() -> (tempfile::TempDir, PathBuf) {
    let folder = SmallRun::PreResNet.finished();
    let averaged = folder.path().join("averaged.safetensors");
    (folder, averaged)
}

#[test]
fn files_of_pytorchs_are_evaluated() {
    let bare = score(&checkpoint("bare.pt"), &NETWORK);
    assert_eq!(score(&checkpoint("model_state.pth"), &NETWORK), bare);
    let averaged = score(&checkpoint("averaged_model.pt"), &NETWORK);
    assert_ne!(averaged, bare);

    let paper = checkpoint("paper.pt");
    let with_key = |key| [NETWORK.as_slice(), &["--key", key]].concat();
    assert_eq!(score(&paper, &with_key("state_dict")), bare);
    assert_eq!(score(&paper, &with_key("swa_state_dict")), averaged);
    let refusal = run(&["evaluate", "--model-file"], &paper, &NETWORK).refusal();
    assert!(
        refusal.ends_with("name one of the keys `state_dict`, `swa_state_dict` with --key"),
        "{refusal}"
    );
}

#[test]
fn a_file_of_pytorchs_needs_its_network_named() {
    let file = checkpoint("bare.pt");
    let refusal = run(&["evaluate", "--model-file"], &file, &[]).refusal();
    assert!(refusal.ends_with("name it with --model"), "{refusal}");

    let (_folder, ours) = small_run();
    let ours = ours.to_str().unwrap();
    let refusal = run(&["evaluate", "--model-file"], ours, &["--model", "vgg16"]).refusal();
    let expected = "says that it holds a preresnet-8, its widths divided by 16: leave --model and";
    assert!(refusal.contains(expected), "{refusal}");
    let narrower = ["--model", "preresnet-8", "--width-divisor", "8"];
    let refusal = run(&["evaluate", "--model-file"], ours, &narrower).refusal();
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
fn a_hostile_file_is_refused_and_runs_nothing() {
    let file = checkpoint("hostile.pt");
    let refusal = run(&["evaluate", "--model-file"], &file, &NETWORK).refusal();
    assert!(refusal.contains("it holds no tensor"), "{refusal}");
    assert!(!Path::new("hostile-pickle-was-run").exists());
}

#[test]
fn an_exported_model_is_the_same_model() {
    let (folder, averaged) = small_run();
    let averaged = averaged.to_str().unwrap();
    let out = folder.path().join("exported.safetensors");
    let out = out.to_str().unwrap();

    run(&["export"], averaged, &[out]).success();
    assert_eq!(score(out, &[]), score(averaged, &[]));
    let names = |file: &str| -> Vec<String> {
        let bytes = fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(
        names(out),
        names(&{
            let bare = folder.path().join("bare.safetensors");
            let bare = bare.to_str().unwrap().to_owned();
            let more = [[bare.as_str()].as_slice(), &NETWORK].concat();
            run(&["export"], &checkpoint("bare.pt"), &more).success();
            bare
        })
    );

    // `accelerate` refuses files whose metadata do not say this.
    let format = |file: &str| {
        let bytes = fs::read(file).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        header
            .metadata()
            .clone()
            .unwrap_or_default()
            .remove("format")
    };
    for file in [out, averaged] {
        assert_eq!(format(file).as_deref(), Some("pt"), "{file}");
    }

    // Epochs 3 to 6.
    let said = run(&["export", "--averaged-model"], averaged, &[out]).success();
    assert!(said.contains("as an AveragedModel of 4 updates"), "{said}");
    assert_eq!(names(out), names(&checkpoint("averaged_model.safetensors")));
    assert_eq!(score(out, &NETWORK), score(averaged, &[]));

    let live = folder.path().join("live.safetensors");
    let live = live.to_str().unwrap();
    let refusal = run(&["export", "--averaged-model"], live, &[out]).refusal();
    assert!(
        refusal.contains("how many weights it is the average of"),
        "{refusal}"
    );
}

/// Checks that a run has the weights of a file. At a learning rate close to 0, they do not change.
fn assert_unchanged(out: &Path, init: &str) {
    let weights = |file: &Path| -> Vec<f32> {
        let bytes = fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let prefixed = tensors.tensor("module.layer3.0.conv2.weight");
        let tensor = prefixed.or_else(|_| tensors.tensor("layer3.0.conv2.weight"));
        let (values, _) = tensor.unwrap().data().as_chunks::<4>();
        values
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    };
    let begun = weights(Path::new(init));
    for (trained, begun) in weights(&out.join("live.safetensors")).iter().zip(&begun) {
        assert!((trained - begun).abs() < 1e-6, "{trained} {begun}");
    }
}

#[test]
fn training_begins_with_the_weights_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings =
        "--train-items 200 --batch-size 32 --epochs 2 --no-swa --weight-decay 0 --lr 1e-9";
    let settings: Vec<&str> = settings.split(' ').chain(NETWORK).collect();
    let init = checkpoint("paper.pt");
    let start = [
        &settings,
        ["--weights", &init, "--weights-key", "swa_state_dict"].as_slice(),
    ]
    .concat();
    train(&start, &out).end().success();

    assert_unchanged(&out, &checkpoint("averaged_model.safetensors"));

    let other = train(&["--resume", "--weights", &checkpoint("bare.pt")], &out);
    let refusal = other.end().refusal();
    assert!(refusal.contains("--weights is "), "{refusal}");
    resume(&out).end().success();
}

#[test]
fn weights_that_tell_other_classes_apart_are_taken_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let [data, out] = ["data", "run"].map(|name| folder.path().join(name));
    write_image_folder(&data, &["cat", "dog"], 8);
    let data = ["--data", data.to_str().unwrap()];
    let training = "--batch-size 8 --epochs 1 --no-swa --weight-decay 0 --lr 1e-9";
    let training: Vec<&str> = training.split(' ').chain(NETWORK).chain(data).collect();
    let init = checkpoint("averaged_model.safetensors");
    let begin = |more: &[&str]| {
        let settings = [&training, ["--weights", &init].as_slice(), more].concat();
        train(&settings, &out).end()
    };
    let refusal = begin(&[]).refusal();
    assert!(
        refusal.contains("fc.weight is [10, 4], expected [2, 4]"),
        "{refusal}"
    );
    let remedy = ", or draw fc from the seed with --weights-without fc, where the file's network tells other classes \
                  apart";
    assert!(refusal.ends_with(remedy), "{refusal}");
    let refusal = begin(&["--weights-without", "linear"]).refusal();
    assert!(refusal.ends_with(" with --weights-without"), "{refusal}");
    assert!(!out.exists());

    begin(&["--weights-without", "fc"]).success();
    assert_unchanged(&out, &init);
    resume(&out).end().success();
    let other = ["--resume", "--weights", &init, "--weights-without", "conv1"];
    let refusal = train(&other, &out).end().refusal();
    let expected = "--weights-without is conv1 here and fc there";
    assert!(refusal.contains(expected), "{refusal}");
}
