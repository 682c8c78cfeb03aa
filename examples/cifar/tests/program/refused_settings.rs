//! Settings, devices and folders that are refused.

use std::fs;
use std::path::Path;

use crate::process::cifar;
use crate::small_run::{SmallRun, resume, train};
use crate::snapshot::Snapshot;

/// The program's message about settings of a new run.
fn refusal(settings: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings: Vec<&str> = settings.split(' ').collect();
    let refusal = train(&settings, &out).end().refusal();
    assert!(!out.exists(), "a run was begun");
    refusal
}

#[test]
fn a_model_that_there_is_not_is_named_with_those_that_there_are() {
    let refusal = refusal("--model resnet-18");
    assert!(refusal.contains("`resnet-18`"), "{refusal}");
    for model in ["vgg16", "vgg19", "-bn", "preresnet-110", "wrn-28-10"] {
        assert!(refusal.contains(model), "{refusal}");
    }
}

#[test]
fn a_depth_that_there_is_not_is_named_with_those_nearby() {
    // Basic blocks come in sixes and two, bottleneck blocks in nines and two.
    let basic = refusal("--model preresnet-22");
    assert!(
        basic.contains("no depth 22") && basic.ends_with("Use depth 20 or 26."),
        "{basic}"
    );
    let bottleneck = refusal("--model preresnet-111");
    assert!(
        bottleneck.ends_with("Use depth 110 or 119."),
        "{bottleneck}"
    );
    let vgg = refusal("--model vgg17");
    assert!(
        vgg.contains("no depth 17") && vgg.ends_with("Use depth 16 or 19."),
        "{vgg}"
    );
    let wide = refusal("--model wrn-30-10");
    assert!(wide.ends_with("Use depth 28 or 34."), "{wide}");
}

#[test]
fn a_width_that_does_not_divide_is_named_with_those_that_do() {
    let refusal = refusal("--model preresnet-8 --width-divisor 3");
    assert!(refusal.contains("3 times narrower"), "{refusal}");
    let remedy = "Use --width-divisor 1, 2, 4, 8 or 16.";
    assert!(refusal.ends_with(remedy), "{refusal}");

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/checkpoints");
    let file = format!("{folder}/bare.pt");
    for command in [
        ["evaluate", "--model-file", &file],
        ["check", "--rounds", "1"],
    ] {
        let network = ["--model", "preresnet-8", "--width-divisor", "3"];
        let refusal = cifar(command.into_iter().chain(network)).refusal();
        assert!(refusal.ends_with(remedy), "{refusal}");
    }
}

#[test]
fn an_unknown_device_is_named_with_those_that_there_are() {
    for device in ["gpu", "cuda:first", "flex:1"] {
        let refusal = refusal(&format!("--device {device}"));
        assert!(refusal.contains(&format!("`{device}`")), "{refusal}");
        assert!(
            refusal.contains("flex (the CPU), wgpu, vulkan, metal, cuda or rocm"),
            "{refusal}"
        );
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_device_that_is_not_built_in_is_named_with_how_to_build_it() {
    let refusal = refusal("--device cuda:1");
    assert!(refusal.contains("without `cuda`"), "{refusal}");
    assert!(
        refusal.contains("cargo build --release --bin cifar --features cuda"),
        "{refusal}"
    );
}

#[test]
fn an_average_that_would_start_after_the_end_is_refused() {
    let refusal = refusal("--epochs 10 --swa-start 11");
    assert!(
        refusal.contains("--swa-start 11 is after the last of 10 epochs"),
        "{refusal}"
    );
}

#[test]
fn numbers_that_cannot_be_used_are_refused_by_their_flags() {
    for (flag, value) in [
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--train-items", "0"),
        ("--lr", "nan"),
        ("--lr", "-0.1"),
        ("--momentum", "1"),
        ("--swa-lr", "0"),
        ("--swa-every", "0"),
        ("--bn-batches", "0"),
    ] {
        let refusal = refusal(&format!("{flag} {value}"));
        assert!(
            refusal.starts_with(&format!("{flag} must be ")),
            "{refusal}"
        );
    }
}

#[test]
fn a_learning_rate_that_diverges_is_said_to_be_too_high() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [SmallRun::PreResNet.settings(), vec!["--lr", "1e30"]].concat();
    let refusal = train(&settings, folder.path()).end().refusal();
    assert!(
        refusal.starts_with("after optimizer step 7: parameter `network.conv1.weight` holds a NaN"),
        "{refusal}"
    );
    assert!(refusal.contains("lower its learning rate"), "{refusal}");
}

#[test]
fn flags_that_there_are_not_are_refused_with_a_hint() {
    let ended = cifar(["train", "--epoch", "3"]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.errors.starts_with("error: "), "{}", ended.errors);
    assert!(ended.errors.contains("--epochs"), "{}", ended.errors);
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for out in [&file, &file.join("run"), Path::new("/proc/run")] {
        let refusal = train(&SmallRun::PreResNet.settings(), out).end().refusal();
        assert!(refusal.contains(out.to_str().unwrap()), "{refusal}");
        assert!(refusal.contains("os error"), "{refusal}");
    }
}

#[test]
fn a_folder_that_holds_a_run_is_left_alone() {
    let folder = SmallRun::PreResNet.finished();
    let before = Snapshot::of(folder.path());
    let refusal = train(&SmallRun::Vgg.settings(), folder.path())
        .end()
        .refusal();
    for remedy in ["--resume", "--overwrite", "--out"] {
        assert!(refusal.contains(remedy), "{refusal}");
    }
    assert!(Snapshot::of(folder.path()) == before);
}

#[test]
fn a_folder_of_something_else_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("metrics.csv"), "of something else").unwrap();
    let before = Snapshot::of(folder.path());
    let settings = [SmallRun::Vgg.settings(), vec!["--overwrite"]].concat();
    let refusal = train(&settings, folder.path()).end().refusal();
    assert!(refusal.contains("holds no run"), "{refusal}");
    assert!(Snapshot::of(folder.path()) == before);
}

#[test]
fn a_run_that_is_refused_does_not_overwrite_the_one_before() {
    let folder = SmallRun::PreResNet.finished();
    let before = Snapshot::of(folder.path());
    for wrong in [
        "--data /no/such/folder",
        "--model preresnet-9",
        "--epochs 0",
        "--device gpu",
    ] {
        let settings: Vec<&str> = wrong.split(' ').chain(["--overwrite"]).collect();
        train(&settings, folder.path()).end().refusal();
        assert!(Snapshot::of(folder.path()) == before, "{wrong}");
    }
}

#[test]
fn a_run_is_not_resumed_with_other_settings() {
    let folder = SmallRun::PreResNet.finished();
    let before = Snapshot::of(folder.path());
    let other = "--resume --batch-size 9 --lr 0.1 --model vgg16 --no-swa";
    let settings: Vec<&str> = other.split(' ').collect();
    let refusal = train(&settings, folder.path()).end().refusal();
    for difference in [
        "--batch-size is 9 here and 32 there",
        "--model is vgg16 here and preresnet-8 there",
        "--no-swa is given here",
    ] {
        assert!(refusal.contains(difference), "{refusal}");
    }
    // This is the rate it was started with.
    assert!(!refusal.contains("--lr"), "{refusal}");
    assert!(Snapshot::of(folder.path()) == before);
}

#[test]
fn nothing_is_resumed_where_there_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    for out in [folder.path(), &folder.path().join("nowhere")] {
        let refusal = resume(out).end().refusal();
        assert!(refusal.contains("holds no run to resume"), "{refusal}");
    }
    assert!(Snapshot::of(folder.path()).files.is_empty());
}
