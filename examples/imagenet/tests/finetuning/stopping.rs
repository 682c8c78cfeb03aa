//! Runs that stop within an epoch, and go on.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::files::copy;
use crate::program::{SHAPES, begin, evaluate, imagenet, resume};

const THREE_EPOCHS: [&str; 4] = ["--epochs", "3", "--swa-start", "2"];

/// The bytes of the models that a run ends with.
fn models(out: &Path) -> [Vec<u8>; 2] {
    ["live", "averaged"].map(|name| fs::read(out.join(format!("{name}.safetensors"))).unwrap())
}

/// Tells whether the log of the run in `out` has come to this step of some epoch.
fn has_made(out: &Path, step: usize) -> bool {
    let log = fs::read_to_string(out.join("experiment.log")).unwrap_or_default();
    log.contains(&format!("Iteration {step}"))
}

#[test]
fn a_run_that_is_stopped_or_killed_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = Path::new(SHAPES);
    let whole = folder.path().join("whole");
    begin(shapes, &whole, &THREE_EPOCHS).end().success();

    let stopped = folder.path().join("stopped");
    let mut process = begin(shapes, &stopped, &THREE_EPOCHS);
    assert!(process.runs_until(|| has_made(&stopped, 4)));
    process.signal("INT");
    let ended = process.end();
    assert_eq!(ended.status, Some(130), "{ended:?}");
    let go_on = "Go on with:\n  imagenet finetune --resume --out ";
    assert!(
        ended.output.contains("Stopped in epoch 1 after "),
        "{ended:?}"
    );
    assert!(ended.output.contains(go_on), "{ended:?}");

    // Killed in the second epoch, it goes on from the end of the first.
    let mut process = resume(&stopped, &[]);
    let first = stopped.join("checkpoint/model-1.bpk");
    assert!(process.runs_until(|| first.exists()));
    sleep(Duration::from_millis(50));
    process.kill();
    let _ = process.end();
    let output = resume(&stopped, &[]).end().success();
    assert!(output.contains("Going on after epoch 1."), "{output}");
    assert!(models(&whole) == models(&stopped), "other bits");
}

#[test]
fn a_run_that_loses_a_file_keeps_what_it_has_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    copy(Path::new(SHAPES), &data);
    let [lost, aside] = [
        data.join("train/square/13.jpg"),
        folder.path().join("13.jpg"),
    ];
    let mut process = begin(&data, &out, &["--epochs", "40"]);
    assert!(process.runs_until(|| has_made(&out, 4)));
    fs::rename(&lost, &aside).unwrap();
    let ended = process.end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let error = ended.errors.lines().last().unwrap();
    assert!(
        error.starts_with(&format!("error: {}: cannot be read", lost.display())),
        "{error}"
    );
    assert!(
        error.ends_with(", or leave such images out with --skip-unreadable"),
        "{error}"
    );
    assert!(ended.output.contains("Stopped in epoch "), "{ended:?}");

    // The data are another now, until the file is back.
    let refusal = resume(&out, &[]).end().refusal();
    assert!(
        refusal.contains("there are 119 images to train on, and there were 120"),
        "{refusal}"
    );
    fs::rename(&aside, &lost).unwrap();
    let mut process = resume(&out, &[]);
    assert!(process.runs_until_it_prints("Going on in epoch "));
    process.signal("INT");
    assert_eq!(process.end().status, Some(130));
}

#[test]
fn a_validation_that_lacks_a_file_loses_no_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    copy(Path::new(SHAPES), &data);
    let damaged = data.join("val/circle/03.jpg");
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, &whole[..whole.len() / 2]).unwrap();
    let ended = begin(&data, &out, &["--epochs", "2"]).end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended
            .output
            .contains("Stopped in epoch 1 after 15 of 15 batches."),
        "{ended:?}"
    );
    assert!(
        ended
            .errors
            .contains("val/circle/03.jpg: not a readable image"),
        "{ended:?}"
    );

    assert!(!ended.output.contains("NaN"), "{ended:?}");

    let ended = resume(&out, &["--skip-unreadable"]).end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.errors.starts_with("left out: "), "{ended:?}");
    assert!(
        ended
            .output
            .contains("Going on in epoch 1 after 15 of 15 batches."),
        "{ended:?}"
    );
    let whole = folder.path().join("whole");
    begin(Path::new(SHAPES), &whole, &["--epochs", "2"])
        .end()
        .success();
    assert!(models(&whole) == models(&out), "other bits");
    let averaged = out.join("averaged.safetensors");
    let ended = evaluate(&averaged, &data, &["--skip-unreadable"]);
    assert!(
        ended
            .output
            .ends_with("\nImages left out, as they could not be read: 1\n"),
        "{ended:?}"
    );
    // A file of the run is seen as the run sees its images.
    let paths = [&averaged, &data].map(|path| path.to_str().unwrap());
    let together = imagenet(["ensemble", paths[0], "--data", paths[1]]);
    assert_eq!(together.status, Some(0), "{together:?}");
}
