//! Runs that are asked to stop, and resumed.

use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::end_state::{Checkpoint, EndState, Metrics};
#[cfg(target_os = "linux")]
use crate::process::CIFAR;
use crate::process::{Ended, Process};
use crate::small_run::{
    STEPS_PER_EPOCH, SmallRun, checkpoint_files, has_checkpoint, has_logged, resume, train,
};

/// The exit status that shells give for a process that Ctrl-C ended: 128 + 2.
const INTERRUPTED: Option<i32> = Some(130);

/// The epoch and the batches after which a run was stopped, by the files that it left.
fn stopped_at(out: &Path) -> (usize, usize) {
    let files = checkpoint_files(out);
    let mut positions = files.iter().filter_map(|name| {
        let position = name.strip_prefix("model-")?.strip_suffix(".bpk")?;
        let (epoch, batches) = position.split_once('+')?;
        Some((epoch.parse().unwrap(), batches.parse().unwrap()))
    });
    let position = positions.next();
    assert_eq!(positions.next(), None, "{files:?}");
    position.unwrap_or_else(|| panic!("no checkpoint amid an epoch: {files:?}"))
}

/// Checks the output and files of a stopped process, and returns the epoch in which it stopped,
/// counted from 1.
pub(crate) fn check_stop(ended: &Ended, out: &Path) -> usize {
    assert_eq!(ended.status, INTERRUPTED, "{ended:?}");
    let (epoch, batches) = stopped_at(out);
    let last_words = format!(
        "Stopped in epoch {} after {batches} of {STEPS_PER_EPOCH} batches. Go on with:\n  \
         cifar train --resume --out {}\n",
        epoch + 1,
        out.display()
    );
    assert!(ended.output.ends_with(&last_words), "{}", ended.output);

    // Model and schedule have counted the same steps as the name of the file.
    let steps = epoch * STEPS_PER_EPOCH + batches;
    let checkpoint = Checkpoint::read(out, &format!("{epoch}+{batches}"));
    assert_eq!(checkpoint.integer("swa_train.steps"), steps);
    let schedule: Vec<_> = checkpoint.schedule().values().collect();
    let expected = [steps, STEPS_PER_EPOCH].map(|it| format!("UInt({it})"));
    assert_eq!(schedule, [&expected[0], &expected[1]]);
    epoch + 1
}

/// Stops a run twice, kills it as it goes on from the second stop, and lets it finish.
fn stop_by(signal: &str, run: SmallRun) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut stopped_in = Vec::new();

    let mut process = run.start(&out);
    assert!(process.runs_until(|| has_logged(&out, 1)));
    sleep(Duration::from_millis(100));
    process.signal(signal);
    let ended = process.end();
    assert!(ended.errors.contains("Stopping after this step"));
    stopped_in.push(check_stop(&ended, &out));

    let mut process = resume(&out);
    assert!(process.runs_until(|| has_logged(&out, stopped_in[0])));
    process.signal(signal);
    stopped_in.push(check_stop(&process.end(), &out));
    let (epoch, batches) = stopped_at(&out);

    let mut process = resume(&out);
    let going_on = format!(
        "\nGoing on in epoch {} after {batches} of {STEPS_PER_EPOCH} batches.\n",
        epoch + 1
    );
    assert!(process.runs_until_it_prints(&going_on));
    process.signal("KILL");
    process.end();

    resume(&out).end().success();
    assert!(
        checkpoint_files(&out)
            .iter()
            .all(|name| !name.contains('+'))
    );
    let uninterrupted = &run.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &stopped_in);
}

#[test]
fn a_run_stopped_by_ctrl_c_and_resumed_ends_with_the_same_bits() {
    stop_by("INT", SmallRun::Vgg);
}

#[test]
fn a_run_stopped_by_sigterm_and_resumed_ends_with_the_same_bits() {
    stop_by("TERM", SmallRun::PreResNet);
}

#[test]
fn a_run_that_ends_in_time_ends_after_an_epoch_and_goes_on() {
    for run in [SmallRun::Vgg, SmallRun::PreResNet] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        // Less than an epoch: each call makes one.
        let limit = ["--until-minutes", "0.0001"];
        let settings = run.settings();
        let resumed = ["--resume"];
        for (epoch, settings) in [(1, &settings[..]), (2, &resumed), (3, &resumed)] {
            let output = train(&[settings, &limit].concat(), &out).end().success();
            let (before, after) = output.rsplit_once("Stopped after epoch ").unwrap();
            assert_eq!(before.matches("/6 ").count(), 1, "{output}");
            let stopped =
                format!("{epoch} to keep within 0.0001 minutes: another one takes about ");
            assert!(after.starts_with(&stopped), "{output}");
            let how = format!(
                " s, and {} are left. Go on with:\n  cifar train --resume --out {}\n",
                6 - epoch,
                out.display()
            );
            assert!(after.ends_with(&how), "{output}");
            assert!(has_checkpoint(&out, epoch));
            assert!(
                checkpoint_files(&out)
                    .iter()
                    .all(|name| !name.contains('+'))
            );
        }
        resume(&out).end().success();
        EndState::of(&out).assert_same_bits(&run.uninterrupted().end, &[]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_that_loses_its_terminal_and_resumed_ends_with_the_same_bits() {
    stop_by("HUP", SmallRun::PreResNet);
}

#[test]
#[cfg(target_os = "linux")]
fn under_nohup_the_loss_of_the_terminal_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = Command::new("nohup");
    command.arg(CIFAR).arg("train");
    command
        .args(SmallRun::PreResNet.settings())
        .arg("--out")
        .arg(&out);
    let mut process = Process::start(&mut command);
    assert!(process.runs_until(|| has_logged(&out, 1)));
    process.signal("HUP");
    let ended = process.end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &[]);
}

#[test]
fn an_epoch_stopped_after_its_last_step_is_validated_later() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    // One batch an epoch: whenever it is stopped, it is after an epoch's last step.
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 20 --batch-size 20 \
                    --epochs 30 --swa-start 2";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    let mut process = train(&settings, out);
    assert!(process.runs_until(|| has_logged(out, 1)));
    process.signal("INT");
    assert_eq!(process.end().status, INTERRUPTED);
    let (epoch, batches) = stopped_at(out);
    assert_eq!(batches, 1);

    let output = resume(out).end().success();
    assert!(!output.contains("NaN"), "{output}");
    let metrics = Metrics::read(out);
    assert_eq!(metrics.rows.len(), 30);
    // No step of the epoch was left to say how the training went, or under which learning rate. By hand,
    // for a start at epoch 2: 0.1 while at most half of that is over, then 0.01 from epoch 3 on.
    assert_eq!(metrics.column("train_loss")[epoch], "");
    let rates = metrics.column("learning_rate");
    assert_eq!(rates[..2], ["0.1"; 2]);
    assert_eq!(rates[2..], ["0.01"; 28]);
    assert!(
        metrics
            .numbers("live_test_loss")
            .iter()
            .all(|loss| loss.is_finite())
    );
}

/// Starts a run, and waits until it is in its first step, which takes seconds.
fn in_a_step_of_seconds(out: &Path) -> Process {
    let settings = "--model vgg16 --train-items 256 --batch-size 256 --epochs 2 --swa-start 2";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    let mut process = train(&settings, out);
    assert!(process.runs_until_it_prints("\nepoch "));
    process
}

#[test]
#[cfg(target_os = "linux")]
fn the_signals_of_a_logout_are_one_after_the_other_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let mut process = in_a_step_of_seconds(out);
    process.signal("HUP");
    assert!(process.runs_until_it_prints("Stopping after this step"));
    // Sooner, it would count as the same even if it were Ctrl-C.
    sleep(Duration::from_millis(1_100));
    process.signal("TERM");
    let ended = process.end();
    assert_eq!(ended.status, INTERRUPTED);
    assert!(
        ended.output.contains("Stopped in epoch 1 after 1"),
        "{}",
        ended.output
    );
    assert_eq!(checkpoint_files(out).len(), 3);
}

#[test]
fn a_second_ctrl_c_ends_the_process_within_its_step() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let mut process = in_a_step_of_seconds(out);
    process.signal("INT");
    assert!(process.runs_until_it_prints("Ctrl-C again stops at once"));
    // An earlier signal would count as the same.
    sleep(Duration::from_millis(1_100));
    process.signal("INT");
    let ended = process.end();
    assert_eq!(ended.status, INTERRUPTED);
    assert!(!ended.output.contains("Stopped"), "{}", ended.output);
    assert_eq!(checkpoint_files(out), [""; 0]);
}
