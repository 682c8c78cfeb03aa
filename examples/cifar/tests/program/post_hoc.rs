//! `cifar average` of runs: averages that are chosen after the training.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, cifar, program};
use crate::small_run::{resume, train};
use crate::snapshot::Snapshot;

const SETTINGS: &str = "--model preresnet-8 --width-divisor 16 --train-items 240 --validation-items 40 --batch-size 32 --epochs 5 \
                        --swa-start 4 --lr 0.1 --swa-lr 0.1 --keep-averages 2";

/// The epochs after which averages are kept: every second, and the last.
const KEPT: [usize; 3] = [2, 4, 5];

/// The steps in an epoch: 200 images in batches of 32.
const STEPS_PER_EPOCH: usize = 7;

fn start(out: &Path) -> Process {
    let settings: Vec<&str> = SETTINGS.split_whitespace().collect();
    train(&settings, out)
}

/// A run whose averages were kept, in a folder of its own. It is made once.
fn run() -> (TempDir, PathBuf) {
    static RUN: OnceLock<Snapshot> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        start(folder.path()).end().success();
        Snapshot::of(folder.path())
    });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run.write_to(&out);
    (folder, out)
}

fn average(run: &Path, out: &Path, more: &str) -> Process {
    let mut command = program();
    command.arg("average").arg(run).arg("--out").arg(out);
    command.args(more.split_whitespace());
    Process::start(&mut command)
}

fn json(out: &Path) -> Value {
    let text = fs::read(out.join("post_hoc.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The files of the averages that a run kept, with their content.
fn kept(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for name in ["narrow", "wide", "equal"] {
        for epoch in KEPT {
            let step = epoch * STEPS_PER_EPOCH;
            let name = format!("averages/{name}/step-{step:08}.safetensors");
            let content = fs::read(run.join(&name)).unwrap();
            files.push((name, content));
        }
        let folder = run.join("averages").join(name);
        assert_eq!(fs::read_dir(folder).unwrap().count(), KEPT.len());
    }
    files
}

#[test]
fn the_best_average_is_chosen_on_images_that_were_held_out() {
    let (folder, run) = run();
    let out = folder.path().join("out");
    let more = "--width 0.1,0.15 --window 0:5,2:4";
    let output = average(&run, &out, more).end().success();
    assert!(
        output.starts_with("4 averages of 1 run on training images that were held out"),
        "{output}"
    );
    let json = json(&out);
    let of_run = &json["runs"][0];
    assert_eq!(of_run["validation_images"], 40);
    let candidates = of_run["candidates"].as_array().unwrap();
    let error = |candidate: &Value| candidate["validation"]["error"].as_f64().unwrap();
    let least = candidates.iter().map(error).fold(f64::INFINITY, f64::min);
    let chosen = &of_run["chosen"];
    let is_chosen = |candidate: &&Value| {
        candidate["width"] == chosen["width"] && candidate["window"] == chosen["window"]
    };
    let best = candidates.iter().find(is_chosen).unwrap();
    assert_eq!(error(best), least);
    // The file is the network that was scored.
    let file = out.join("best-run.safetensors");
    let evaluated = cifar(["evaluate", "--model-file", file.to_str().unwrap()]).success();
    let accuracy = 100.0 - chosen["test"]["error"].as_f64().unwrap();
    assert!(
        evaluated.contains(&format!("{accuracy:.2} %")),
        "{evaluated} {accuracy}"
    );
    for name in ["post-hoc.svg", "post-hoc.png"] {
        assert!(fs::metadata(out.join(name)).unwrap().len() > 1000);
    }
}

#[test]
fn the_files_of_kept_averages_are_of_their_run() {
    let (folder, run) = run();
    let out = folder.path().join("mean.safetensors");
    let mut command = program();
    command
        .arg("average")
        .current_dir(run.join("averages/equal"));
    let files = [4, 5].map(|epoch| format!("step-{:08}.safetensors", epoch * STEPS_PER_EPOCH));
    command
        .args(files)
        .args(["--data", "synthetic", "--out"])
        .arg(out);
    let output = Process::start(&mut command).end().success();
    assert!(output.ends_with(" on 40 held-out images\n"), "{output}");
}

#[test]
fn choosing_that_is_stopped_goes_on_and_takes_more() {
    let (folder, run) = run();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    average(&run, &whole, "--width 0.06,0.1,0.2 --window 2:5")
        .end()
        .success();
    let mut first = average(&run, &parts, "--width 0.06,0.1");
    // At any moment.
    sleep(Duration::from_millis(300));
    first.kill();
    first.end();
    average(&run, &parts, "--width 0.06,0.1").end().success();
    let output = average(&run, &parts, "--width 0.2,0.1 --window 2:5")
        .end()
        .success();
    assert!(
        output.starts_with("4 averages of 1 run (2 scored before)"),
        "{output}"
    );
    assert_eq!(
        json(&whole)["runs"][0]["candidates"],
        json(&parts)["runs"][0]["candidates"]
    );
    let best = |out: &Path| fs::read(out.join("best-run.safetensors")).unwrap();
    assert_eq!(best(&whole), best(&parts));
}

#[test]
fn a_run_that_is_killed_keeps_the_same_averages() {
    let (folder, run) = run();
    let out = folder.path().join("killed");
    let mut kills = 0;
    for wait in [900, 1200, 700, 1500] {
        let mut process = if out.join("config.json").exists() {
            resume(&out)
        } else {
            start(&out)
        };
        sleep(Duration::from_millis(wait));
        process.kill();
        kills += usize::from(process.end().status.is_none());
    }
    println!("{kills} kills");
    if out.join("config.json").exists() {
        resume(&out).end().success();
    } else {
        start(&out).end().success();
    }
    for ((name, whole), (_, resumed)) in kept(&run).into_iter().zip(kept(&out)) {
        assert!(whole == resumed, "{name}");
    }
    let averaged = |run: &Path| fs::read(run.join("averaged.safetensors")).unwrap();
    assert_eq!(averaged(&run), averaged(&out));
}

#[test]
fn what_cannot_be_chosen_is_refused_in_a_line() {
    let (folder, run) = run();
    let out = folder.path().join("out");
    let refused = |more: &str| average(&run, &out, more).end().refusal();
    for (more, expected) in [
        (
            "--window 1:5",
            "--window 1:5 needs averages that were kept after these epochs",
        ),
        (
            "--width 0.4",
            "--width 0.4: the width of a power-function average must be",
        ),
        ("--how uniform", "--how is for files"),
        (
            "--batch-norm-batches 0",
            "--batch-norm-batches must be at least 1",
        ),
    ] {
        let error = refused(more);
        assert!(error.contains(expected), "{more}: {error}");
    }
    assert!(!out.exists());

    let plain = folder.path().join("plain");
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 64 --batch-size 32 --epochs 1 --swa-start 1";
    let settings: Vec<&str> = settings.split(' ').collect();
    train(&settings, &plain).end().success();
    let error = average(&plain, &out, "").end().refusal();
    assert!(
        error.contains("kept no averages on the way: train it with --keep-averages 1"),
        "{error}"
    );

    let with = ["--keep-averages", "1"];
    let settings: Vec<&str> = settings.iter().copied().chain(with).collect();
    let none_held_out = folder.path().join("none-held-out");
    train(&settings, &none_held_out).end().success();
    let error = average(&none_held_out, &out, "").end().refusal();
    assert!(error.contains("held no training images out"), "{error}");

    let lost = run.join("averages/wide/step-00000028.safetensors");
    fs::remove_file(&lost).unwrap();
    let error = average(&run, &out, "").end().refusal();
    assert!(
        error.contains("step-00000028.safetensors is missing"),
        "{error}"
    );

    let settings: Vec<&str> = "--method sgd --keep-averages 1 --epochs 2"
        .split(' ')
        .collect();
    let error = train(&settings, &folder.path().join("sgd")).end().refusal();
    assert!(
        error.contains("choose --method swa, ema or swag"),
        "{error}"
    );
}
