//! Runs of the methods beside SGD and SWA: killed, gone on with, and what they leave.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use safetensors::SafeTensors;

use crate::end_state::{EndState, Metrics};
use crate::small_run::{SmallRun, checkpoint_files, has_checkpoint, has_logged, resume, train};
use crate::snapshot::Snapshot;

/// The settings of a small run with a method. It has six epochs of seven steps.
fn settings(method: &str) -> Vec<&str> {
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --batch-size 32 --epochs 6 --method";
    settings.split(' ').chain(method.split(' ')).collect()
}

/// Stops a run of a method by a signal, kills it within epochs and at a checkpoint, and compares its end with that of a run that
/// nothing disturbed. Returns that one's.
fn kill_and_compare(method: &str) -> EndState {
    let folder = tempfile::tempdir().unwrap();
    let [whole, out] = ["whole", "killed"].map(|name| folder.path().join(name));
    train(&settings(method), &whole).end().success();
    let whole_end = EndState::of(&whole);

    let mut process = train(&settings(method), &out);
    assert!(process.runs_until(|| has_logged(&out, 1)));
    process.signal("TERM");
    assert_eq!(process.end().status, Some(130));
    let files = checkpoint_files(&out);
    let amid = files
        .iter()
        .find_map(|name| name.strip_prefix("model-")?.split_once('+'));
    let stopped_in = amid.unwrap().0.parse::<usize>().unwrap() + 1;

    let mut killed = 0;
    for (sign, milliseconds) in [
        ((|out| has_logged(out, 2)) as fn(&Path) -> bool, 20),
        (|out| has_checkpoint(out, 3), 0),
        (|out| has_logged(out, 4), 30),
        (|out| has_logged(out, 5), 10),
    ] {
        let mut process = resume(&out);
        if process.runs_until(|| sign(&out)) {
            sleep(Duration::from_millis(milliseconds));
            process.signal("KILL");
        }
        killed += usize::from(process.end().status.is_none());
    }
    assert!(killed >= 2, "{killed} were killed");
    resume(&out).end().success();
    EndState::of(&out).assert_same_bits(&whole_end, &[stopped_in]);
    assert_eq!(Snapshot::of(&out).names(), Snapshot::of(&whole).names());
    whole_end
}

#[test]
fn an_ema_killed_anywhere_ends_with_the_same_bits() {
    let end = kill_and_compare("ema --ema-decay 0.9");
    assert_eq!(end.models(), ["averaged.safetensors", "live.safetensors"]);
}

#[test]
fn snapshots_killed_anywhere_end_with_the_same_bits() {
    // 42 steps in cycles of 14.
    let end = kill_and_compare("snapshot --cycles 3");
    let members = [14, 28, 42].map(|step| format!("members/step-{step:08}.safetensors"));
    assert_eq!(end.models()[0], "live.safetensors");
    assert_eq!(end.models()[1..], members);
}

#[test]
fn fge_killed_anywhere_ends_with_the_same_bits() {
    // Cycles of 7 steps from the third epoch on, whose middles are 3 steps after 14, 21, 28 and 35.
    let end = kill_and_compare("fge --cycle-start 3 --cycle-epochs 1");
    let members = [17, 24, 31, 38].map(|step| format!("members/step-{step:08}.safetensors"));
    assert_eq!(end.models()[1..], members);
}

#[test]
fn swag_killed_anywhere_ends_with_the_same_bits() {
    let end = kill_and_compare("swag --swa-start 3 --rank 3");
    assert_eq!(end.models(), ["averaged.safetensors", "live.safetensors"]);
    assert!(end.tensors_of_swag() > 0);
}

#[test]
fn a_run_of_swag_has_the_bits_of_swa_and_its_deviations() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("swag");
    // With dropout.
    let settings = [SmallRun::Vgg.settings(), vec!["--method", "swag"]].concat();
    let output = train(&settings, &out).end().success();
    let swa = SmallRun::Vgg.finished();
    let file = fs::read(out.join("live.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let parameters = tensors.iter().filter(|(name, _)| {
        let is_statistic = name.contains("running_") || name.ends_with("num_batches_tracked");
        !is_statistic
    });
    let bytes: usize = parameters.map(|(_, tensor)| tensor.data().len()).sum();
    let cost = format!("{:.1} MiB in memory", 22.0 * bytes as f64 / 1_048_576.0);
    assert!(bytes > 10_000, "{bytes}");
    let line = format!("22 copies of the weights: {cost}, and in each checkpoint.\n");
    assert!(output.contains(&line), "{line}: {output}");
    for model in ["averaged.safetensors", "live.safetensors"] {
        let [swag, swa] = [&out, swa.path()].map(|run| fs::read(run.join(model)).unwrap());
        assert!(swag == swa, "{model} is another");
    }
}

#[test]
fn an_ema_trains_as_plain_sgd_and_averages_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let [ema, sgd] = ["ema", "sgd"].map(|method| {
        let out = folder.path().join(method);
        train(&settings(method), &out).end().success();
        out
    });
    let live = |run: &Path| fs::read(run.join("live.safetensors")).unwrap();
    assert!(live(&ema) == live(&sgd), "the live models differ");
    let (ema, sgd) = (Metrics::read(&ema), Metrics::read(&sgd));
    assert_eq!(ema.column("live_test_loss"), sgd.column("live_test_loss"));
    assert!(
        ema.column("swa_test_loss")
            .iter()
            .all(|loss| !loss.is_empty())
    );
}

#[test]
fn a_member_that_was_deleted_is_missed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    train(&settings("snapshot --cycles 3"), out).end().success();
    fs::remove_file(out.join("members/step-00000014.safetensors")).unwrap();
    let refusal = resume(out).end().refusal();
    assert!(
        refusal.contains("members holds 2 of 3 members"),
        "{refusal}"
    );
}

#[test]
fn overwriting_a_run_deletes_its_members_and_its_gaussian() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    train(&settings("snapshot --cycles 3"), out).end().success();
    let swag = [settings("swag --swa-start 3"), vec!["--overwrite"]].concat();
    train(&swag, out).end().success();
    assert!(!out.join("members").exists());
    assert!(out.join("swag.bpk").exists());
    let sgd = [settings("sgd"), vec!["--overwrite"]].concat();
    train(&sgd, out).end().success();
    assert!(!out.join("swag.bpk").exists());
}

#[test]
fn a_setting_of_another_method_is_refused_by_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |method: &str| train(&settings(method), folder.path()).end().refusal();
    let of_fge = refusal("snapshot --cycle-lr 0.1");
    let expected = "--cycle-lr belongs to --method fge, and this run's method is snapshot: ";
    assert!(of_fge.starts_with(expected), "{of_fge}");
    let of_swa = refusal("ema --swa-lr 0.1");
    assert!(
        of_swa.starts_with("--swa-lr belongs to --method swa or swag, "),
        "{of_swa}"
    );
    let long = refusal("snapshot --cycles 7");
    assert_eq!(
        long,
        "--cycles must be at most 6, the number of epochs, not 7"
    );
}

#[test]
fn another_method_is_refused_when_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    train(&settings("ema"), out).end().success();
    let other = train(&["--resume", "--method", "swa", "--cycles", "3"], out);
    let refusal = other.end().refusal();
    for difference in [
        "--method is swa here and ema there",
        "--cycles is 3 here and not given there",
    ] {
        assert!(refusal.contains(difference), "{refusal}");
    }
    train(&["--resume", "--method", "ema"], out).end().success();
}
