//! Runs that are killed, and resumed.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use burn_swa_test_support::random::Random;

use crate::end_state::EndState;
use crate::process::Process;
use crate::small_run::{SmallRun, checkpoint_files, has_logged, resume, writes_checkpoint};
use crate::snapshot::Snapshot;

/// The moment at which to kill a process.
struct Moment {
    /// The sign to wait for in the run's folder.
    sign: fn(&Path) -> bool,
    /// The longest time that the process is left alone after that, in milliseconds.
    grace: usize,
}

impl Moment {
    const fn at(sign: fn(&Path) -> bool) -> Self {
        Self { sign, grace: 0 }
    }

    const fn after(sign: fn(&Path) -> bool, grace: usize) -> Self {
        Self { sign, grace }
    }
}

/// Kills a run at these moments, one after the other, and then lets it finish. Its end state must
/// be that of a run that nobody killed.
fn kill_at(run: SmallRun, moments: &[Moment], seed: u64) {
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let go_on = || {
        if out.join("config.json").exists() {
            resume(&out)
        } else {
            run.start(&out)
        }
    };
    let mut killed = 0;
    for moment in moments {
        let mut process: Process = go_on();
        if process.runs_until(|| (moment.sign)(&out)) {
            let wait = random.below(moment.grace + 1);
            sleep(Duration::from_millis(wait as u64));
            process.signal("KILL");
        }
        // One that was faster than the signal is resumed all the same.
        killed += usize::from(process.end().status.is_none());
    }
    assert!(killed >= 2, "{killed} of {} were killed", moments.len());

    go_on().end().success();
    let uninterrupted = &run.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &[]);
}

#[test]
fn a_run_with_dropout_killed_anywhere_ends_with_the_same_bits() {
    let moments = [
        Moment::at(|out| out.join("config.json").exists()),
        Moment::at(|out| writes_checkpoint(out, 1)),
        Moment::after(|out| has_logged(out, 1), 300),
        Moment::at(|out| writes_checkpoint(out, 3)),
        Moment::after(|out| has_logged(out, 3), 600),
        Moment::after(|out| has_logged(out, 4), 600),
        Moment::at(|out| writes_checkpoint(out, 6)),
    ];
    kill_at(SmallRun::Vgg, &moments, 1);
}

#[test]
fn a_residual_network_killed_anywhere_ends_with_the_same_bits() {
    let moments = [
        Moment::after(|out| out.join("checkpoint").exists(), 200),
        Moment::at(|out| has_logged(out, 1)),
        Moment::after(|out| writes_checkpoint(out, 2), 20),
        Moment::at(|out| has_logged(out, 3)),
        Moment::after(|out| writes_checkpoint(out, 3), 200),
        Moment::after(|out| has_logged(out, 5), 50),
        Moment::at(|out| out.join("live.safetensors").exists()),
    ];
    kill_at(SmallRun::PreResNet, &moments, 2);
}

#[test]
fn a_complete_run_is_resumed_to_the_same_files_and_table() {
    let uninterrupted = SmallRun::PreResNet.uninterrupted();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    uninterrupted.folder.write_to(out);
    for model in ["averaged.safetensors", "live.safetensors"] {
        fs::remove_file(out.join(model)).unwrap();
    }

    let output = resume(out).end().success();
    assert!(output.contains("\nGoing on after epoch 6.\n"), "{output}");
    let table = |output: &str| output[output.find("test loss").unwrap()..].to_owned();
    assert_eq!(
        table(&output).replace(out.to_str().unwrap(), "OUT"),
        table(&uninterrupted.output)
    );
    EndState::of(out).assert_same_bits(&uninterrupted.end, &[]);
}

#[test]
fn parts_of_a_checkpoint_are_not_used_and_cleared_away() {
    let uninterrupted = SmallRun::PreResNet.uninterrupted();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    uninterrupted.folder.write_to(out);
    for file in ["optim-6.bpk", "scheduler-6.bpk"] {
        fs::remove_file(out.join("checkpoint").join(file)).unwrap();
    }
    // Parts of files that the run will not write again.
    for file in ["model-7.bpk", "optim-5+2.bpk", "optim-7.bpk.4711-0.tmp"] {
        fs::write(out.join("checkpoint").join(file), "half").unwrap();
    }

    let output = resume(out).end().success();
    assert!(output.contains("\nGoing on after epoch 5.\n"), "{output}");
    EndState::of(out).assert_same_bits(&uninterrupted.end, &[]);
    let whole = ["model", "optim", "scheduler"]
        .map(|part| [5, 6].map(|epoch| format!("{part}-{epoch}.bpk")));
    assert_eq!(checkpoint_files(out), whole.concat());
}

#[test]
fn resuming_twice_from_one_state_leaves_the_same_model_files() {
    let uninterrupted = SmallRun::Vgg.uninterrupted();
    let models = || {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        uninterrupted.folder.write_to(out);
        for file in checkpoint_files(out) {
            if file.contains("-6.") {
                fs::remove_file(out.join("checkpoint").join(file)).unwrap();
            }
        }
        resume(out).end().success();
        let mut files = Snapshot::of(out).files;
        files.retain(|name, _| name.extension().is_some_and(|end| end == "safetensors"));
        files
    };
    assert!(models() == models());
}
