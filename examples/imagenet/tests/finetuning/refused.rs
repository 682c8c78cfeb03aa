//! Things that cannot be trained on or evaluated, each refused in one line.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::copy;
use crate::program::{SHAPES, SMALL, begin, evaluate, imagenet};

/// The program's message about a copy of the shapes that `change` has changed.
fn refusal(change: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    copy(Path::new(SHAPES), &data);
    change(&data);
    let refusal = begin(&data, &out, &[]).end().refusal();
    assert!(!out.exists(), "a run was begun");
    refusal.replace(data.to_str().unwrap(), "DATA")
}

#[test]
fn folders_that_are_no_data_set_are_named() {
    let remove = |folder: PathBuf| fs::remove_dir_all(folder).unwrap();
    let empty = refusal(|data| {
        remove(data.join("train/circle"));
        fs::create_dir(data.join("train/circle")).unwrap();
    });
    assert!(empty.starts_with("DATA/train/circle: no images"), "{empty}");

    let differ = refusal(|data| {
        remove(data.join("val/circle"));
        fs::create_dir(data.join("val/hexagon")).unwrap();
        fs::copy(
            data.join("val/square/01.jpg"),
            data.join("val/hexagon/01.jpg"),
        )
        .unwrap();
    });
    assert!(
        differ.contains("circle") && differ.contains("hexagon"),
        "{differ}"
    );

    let missing = refusal(|data| remove(data.join("val")));
    assert!(missing.contains("val/"), "{missing}");
}

#[test]
fn models_and_settings_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let shapes = Path::new(SHAPES);
    for (settings, expected) in [
        (&["--weights", "nowhere.pt"][..], "nowhere.pt"),
        (&["--model", "vgg16"], "vgg16 takes images of 32x32"),
        (&["--model", "resnet-18"], "there is no model `resnet-18`"),
    ] {
        let mut command = vec!["finetune", "--data", SHAPES, "--image-size", "64"];
        command.extend(["--out", out.to_str().unwrap()]);
        command.extend(settings);
        let refusal = imagenet(&command).refusal();
        assert!(refusal.contains(expected), "{refusal}");
    }
    begin(shapes, &out, &["--epochs", "1"]).end().success();
    let live = out.join("live.safetensors");
    let other = folder.path().join("other");
    copy(shapes, &other);
    for split in ["train", "val"] {
        fs::rename(
            other.join(split).join("square"),
            other.join(split).join("star"),
        )
        .unwrap();
    }
    let refusal = evaluate(&live, &other, &[]).refusal();
    assert!(
        refusal.contains("tells circle, square, triangle apart"),
        "{refusal}"
    );

    let weights = [
        "finetune",
        "--data",
        SHAPES,
        "--weights",
        live.to_str().unwrap(),
    ];
    let other = [
        "--model",
        "resnet34",
        "--overwrite",
        "--out",
        out.to_str().unwrap(),
    ];
    let refusal = imagenet(weights.into_iter().chain(other)).refusal_with_a_list();
    assert!(
        refusal.ends_with("say which it is with --model"),
        "{refusal}"
    );
    assert!(live.exists());
}

#[test]
fn help_names_the_settings_of_this_program_alone() {
    let help = imagenet(["finetune", "--help"]).success();
    for word in [
        "[default: resnet50]",
        "--swa-lowest-lr",
        "--image-size",
        "8192",
    ] {
        assert!(help.contains(word), "{word}");
    }
    for word in ["preresnet", "--padding", "synthetic", "--width-divisor"] {
        assert!(!help.contains(word), "{word}");
    }
    assert_eq!(SMALL[2], "--width-divisor");
}
