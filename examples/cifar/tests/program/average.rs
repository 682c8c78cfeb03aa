//! `cifar average`: one network of several files.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::process::{Ended, cifar};
use crate::small_run::train;

/// The members of a run of FGE that holds 40 images out.
struct Members {
    folder: TempDir,
    files: Vec<String>,
}

impl Members {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --validation-items 40 --batch-size 32 --epochs 5 \
                        --method fge --cycle-start 3 --cycle-epochs 1";
        train(&settings.split_whitespace().collect::<Vec<_>>(), &run)
            .end()
            .success();
        let members = fs::read_dir(run.join("members")).unwrap();
        let members = members.map(|member| member.unwrap().path().to_str().unwrap().to_owned());
        let mut files: Vec<String> = members.collect();
        files.sort();
        assert_eq!(files.len(), 3);
        Self { folder, files }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Averages the members.
    fn average(&self, out: &str, more: &[&str]) -> Ended {
        average(&self.files, out, more)
    }
}

fn average(files: &[String], out: &str, more: &[&str]) -> Ended {
    let files = files.iter().map(String::as_str);
    let out = ["--out", out].into_iter().chain(more.iter().copied());
    cifar(["average"].into_iter().chain(files).chain(out))
}

/// The elements of a tensor in a model file.
fn tensor(file: &str, name: &str) -> Vec<f32> {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (numbers, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// The mean of a tensor in several files.
fn mean(files: &[String], name: &str) -> Vec<f64> {
    let all: Vec<Vec<f32>> = files.iter().map(|file| tensor(file, name)).collect();
    let sums =
        (0..all[0].len()).map(|place| all.iter().map(|it| f64::from(it[place])).sum::<f64>());
    sums.map(|sum| sum / files.len() as f64).collect()
}

fn is_close(found: &[f32], expected: &[f64]) -> bool {
    let mut pairs = found.iter().zip(expected);
    found.len() == expected.len() && pairs.all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6)
}

#[test]
fn an_average_of_files_is_written_and_says_what_is_left() {
    let members = Members::new();
    let out = members.path("averaged.safetensors");
    let output = members.average(&out, &["--how", "last:2"]).success();
    assert!(
        output.contains(&format!("   0.500000  {}\n", members.files[2])),
        "{output}"
    );
    assert!(!output.contains(&members.files[0]), "{output}");
    let note = "Note: the running statistics of 7 BatchNorm layers are averages too";
    assert!(output.contains(note), "{output}");
    for name in ["fc.weight", "bn.running_mean"] {
        assert!(
            is_close(&tensor(&out, name), &mean(&members.files[1..], name)),
            "{name}"
        );
    }
    // It says which network it holds, as the members do.
    cifar(["evaluate", "--model-file", &out]).success();
}

#[test]
fn a_known_network_is_re_estimated_and_scored() {
    let members = Members::new();
    let out = members.path("averaged.safetensors");
    let output = members.average(&out, &["--data", "synthetic"]).success();
    assert!(
        output.contains(", with 7 BatchNorm layers re-estimated: "),
        "{output}"
    );
    assert!(output.ends_with(" on 40 held-out images\n"), "{output}");
    assert!(is_close(
        &tensor(&out, "fc.weight"),
        &mean(&members.files, "fc.weight")
    ));
    let statistics = "bn.running_mean";
    assert!(!is_close(
        &tensor(&out, statistics),
        &mean(&members.files, statistics)
    ));
    cifar(["evaluate", "--model-file", &out]).success();
}

#[test]
fn files_that_describe_one_network_make_an_average_that_does() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --batch-size 32 --epochs 3 --swa-start 2";
    train(&settings.split(' ').collect::<Vec<_>>(), &run)
        .end()
        .success();
    // One of them says that it is the average of two.
    let files = ["live", "averaged"].map(|name| run.join(format!("{name}.safetensors")));
    let files = files.map(|file| file.to_str().unwrap().to_owned());
    let out = folder.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    for more in [[].as_slice(), &["--data", "synthetic"]] {
        average(&files, out, more).success();
        cifar(["evaluate", "--model-file", out]).success();
    }
    let greedy = ["--data", "synthetic", "--how", "greedy"];
    let error = average(&files, out, &greedy).refusal();
    assert!(
        error.ends_with("live.safetensors holds none out: train one with --validation-items"),
        "{error}"
    );

    let mut bytes = fs::read(&files[1]).unwrap();
    let divisor = b"width_divisor\\\":16";
    let place = bytes.windows(divisor.len()).position(|it| it == divisor);
    bytes[place.unwrap() + divisor.len() - 1] = b'8';
    let other = folder.path().join("other.safetensors");
    fs::write(&other, bytes).unwrap();
    let files = [files[0].clone(), other.to_str().unwrap().to_owned()];
    let error = average(&files, out, &[]).refusal();
    assert!(
        error.contains("holds a preresnet-8, its widths divided by 16, and ")
            && error.ends_with(
                "a preresnet-8, its widths divided by 18: name files of the same network"
            ),
        "{error}"
    );
    let error = average(&files, "nowhere/out.safetensors", &[]).refusal();
    assert!(error.contains("there is no such folder"), "{error}");
}

#[test]
fn the_best_files_and_soups_are_chosen_by_held_out_images() {
    let members = Members::new();
    let out = members.path("averaged.safetensors");
    let scores: Vec<String> = members
        .files
        .iter()
        .zip(["0.1", "0.9", "0.5"])
        .map(|(file, score)| format!("--score={file}={score}"))
        .collect();
    let scores: Vec<&str> = scores.iter().map(String::as_str).collect();
    let best = [["--how", "best:1"].as_slice(), &scores].concat();
    members.average(&out, &best).success();
    assert_eq!(
        tensor(&out, "fc.weight"),
        tensor(&members.files[1], "fc.weight")
    );

    // Each alone has the score that the best are chosen by.
    let accuracies = |output: &str| -> Vec<f64> {
        let lines = output
            .lines()
            .take_while(|line| !line.contains("coefficient"));
        let first = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok());
        first.collect()
    };
    let output = members
        .average(&out, &["--how", "best:1", "--data", "synthetic"])
        .success();
    let alone = accuracies(&output);
    assert_eq!(alone.len(), 3, "{output}");
    let best = alone.iter().copied().fold(0.0, f64::max);
    assert!(
        output.contains(&format!("{best:.2} % and a loss of ")),
        "{output}"
    );

    let output = members
        .average(&out, &["--how", "greedy", "--data", "synthetic"])
        .success();
    let tried = accuracies(&output);
    assert_eq!((tried.len(), tried[0]), (3, best), "{output}");
    // The soup is as good as its best step.
    let reached = tried.iter().copied().fold(0.0, f64::max);
    assert!(
        output.contains(&format!("{reached:.2} % and a loss of ")),
        "{output}"
    );
}

/// A file of PyTorch's, of a PreResNet-8 a sixteenth as wide.
fn of_pytorch(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/checkpoints");
    format!("{folder}/{name}")
}

#[test]
fn files_of_pytorch_are_averaged_by_name_of_their_network() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("averaged.safetensors");
    let out = out.to_str().unwrap();
    let files = ["bare.pt", "bare_after_4.pt"].map(of_pytorch);
    average(&files, out, &[]).success();
    let network = ["--model", "preresnet-8", "--width-divisor", "16"];
    let evaluate = ["evaluate", "--model-file", out];
    cifar(evaluate.iter().chain(&network)).success();
    let with_images = ["--data", "synthetic", "--validation-items", "100"];
    let output = average(&files, out, &[network.as_slice(), &with_images].concat()).success();
    assert!(output.ends_with(" on 100 held-out images\n"), "{output}");
}

#[test]
fn what_cannot_be_averaged_is_refused_in_one_line() {
    let members = Members::new();
    let out = members.path("averaged.safetensors");
    fs::write(&out, "mine").unwrap();
    let file = &members.files[0];
    for (more, expected) in [
        (
            "--how last:4",
            "4 of 3 files cannot be averaged: ask for 1 to 3".to_owned(),
        ),
        (
            "--how weighted:1,2",
            "2 weights for 3 files: give one for each".to_owned(),
        ),
        (
            "--how greedy",
            "--how greedy scores averages: say with --data on which images".to_owned(),
        ),
        (
            "--how best:1",
            format!("{file} has no score, by which the best are chosen"),
        ),
        (
            "--score a.pt=1 --how best:1",
            "--score names a.pt, which is none of the files".to_owned(),
        ),
        (
            "--data synthetic --validation-items 5",
            format!("{file} is of the run in {}", members.path("run")),
        ),
    ] {
        let more: Vec<&str> = more.split(' ').collect();
        let refusal = members.average(&out, &more).refusal();
        assert!(refusal.starts_with(&expected), "{refusal}");
    }
    let refusal = members.average(file, &[]).refusal();
    assert!(
        refusal.ends_with("which is one of the files: write the average to another one"),
        "{refusal}"
    );
    let packed = members.path("averaged.bpk");
    let refusal = members.average(&packed, &["--data", "synthetic"]).refusal();
    assert!(
        refusal.contains("name a file that ends in .safetensors"),
        "{refusal}"
    );
    assert!(!Path::new(&packed).exists());

    // A NaN, whether the network is known or not.
    let bad = PathBuf::from(members.path("bad.safetensors"));
    crate::ensemble::with_nan(Path::new(file), &bad);
    let files = [members.files[1].clone(), bad.to_str().unwrap().to_owned()];
    let refusal = average(&files, &out, &[]).refusal();
    assert!(
        refusal.starts_with(&format!("{} holds NaN in `fc.bias`", files[1])),
        "{refusal}"
    );
    let refusal = average(&files, &out, &["--data", "synthetic"]).refusal_with_a_list();
    assert!(
        refusal.contains(&format!("{} holds NaN in `fc.bias`", files[1])),
        "{refusal}"
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
}
