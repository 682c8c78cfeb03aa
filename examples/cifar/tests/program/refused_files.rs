//! Files of a run that are damaged, or those of another run.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

use crate::data_folder::write_image_folder;
use crate::end_state::EndState;
use crate::process::cifar;
use crate::small_run::{SmallRun, resume};
use crate::snapshot::Snapshot;

const MODEL: &str = "checkpoint/model-6.bpk";
const OPTIMIZER: &str = "checkpoint/optim-6.bpk";
const SCHEDULER: &str = "checkpoint/scheduler-6.bpk";

/// Puts the other network's files in their places.
fn swap_in(out: &Path, files: &[&str]) {
    let other = &SmallRun::Vgg.uninterrupted().folder.files;
    for file in files {
        fs::write(out.join(file), &other[Path::new(file)]).unwrap();
    }
}

fn truncate(file: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(bytes).unwrap();
}

/// Checks the refusal of a run whose checkpoint cannot be resumed from. It names the file, the
/// reason and the remedy, and deletes nothing.
fn refusal_to_resume(out: &Path, file: &str, reason: &str) {
    let before = Snapshot::of(out).files;
    let refusal = resume(out).end().refusal();
    let file = out.join(file);
    assert!(refusal.starts_with(file.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains(reason), "{refusal}");
    // Only what is damaged is to be deleted.
    let remedy = if reason.contains("of another") {
        "moved elsewhere, to go on from the checkpoint before"
    } else {
        "Delete it to go on from the checkpoint before"
    };
    assert!(refusal.ends_with(remedy), "{refusal}");
    assert!(Snapshot::of(out).files == before);
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let run = SmallRun::PreResNet.finished();
    swap_in(run.path(), &[MODEL, OPTIMIZER, SCHEDULER]);
    refusal_to_resume(run.path(), MODEL, "that of another model");
}

#[test]
fn an_optimizer_of_another_run_is_refused() {
    let run = SmallRun::PreResNet.finished();
    swap_in(run.path(), &[OPTIMIZER]);
    refusal_to_resume(run.path(), OPTIMIZER, "that of another run");
}

#[test]
fn a_truncated_checkpoint_is_refused_by_the_file_that_is() {
    for file in [MODEL, OPTIMIZER, SCHEDULER] {
        // In the header, in the table of contents, and in the last number.
        for keep in [0, 20, u64::MAX] {
            let run = SmallRun::PreResNet.finished();
            let path = run.path().join(file);
            let keep = keep.min(fs::metadata(&path).unwrap().len() - 1);
            if file == SCHEDULER && keep > 100 {
                // Its end is padding.
                continue;
            }
            truncate(&path, keep);
            refusal_to_resume(run.path(), file, "damaged");
        }
    }
}

#[test]
fn the_remedy_for_a_damaged_checkpoint_is_one() {
    let run = SmallRun::PreResNet.finished();
    fs::remove_file(run.path().join(OPTIMIZER)).unwrap();
    let output = resume(run.path()).end().success();
    assert!(output.contains("Going on after epoch 5."), "{output}");
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(run.path()).assert_same_bits(uninterrupted, &[]);
}

#[test]
fn damaged_settings_are_refused() {
    let run = SmallRun::PreResNet.finished();
    let file = run.path().join("config.json");
    truncate(&file, 50);
    let refusal = resume(run.path()).end().refusal();
    assert!(refusal.starts_with(file.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains("mend it"), "{refusal}");
    assert!(refusal.contains("--out"), "{refusal}");
}

#[test]
fn a_log_that_cannot_be_written_is_named() {
    let run = SmallRun::PreResNet.finished();
    let log = run.path().join("experiment.log");
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let refusal = resume(run.path()).end().refusal();
    assert!(
        refusal.starts_with(&format!("cannot write {}", log.display())),
        "{refusal}"
    );
}

#[test]
fn a_last_epoch_lost_from_the_metrics_is_not_replaced() {
    let run = SmallRun::PreResNet.finished();
    let file = run.path().join("metrics.csv");
    let text = fs::read_to_string(&file).unwrap();
    let rows: Vec<&str> = text.lines().take(6).collect();
    fs::write(&file, rows.join("\n")).unwrap();
    let refusal = resume(run.path()).end().refusal();
    assert!(refusal.contains("has lost the last epoch"), "{refusal}");
    assert!(refusal.contains("cifar evaluate"), "{refusal}");
}

/// The message of `cifar evaluate` about a file, with `FILE` for its path.
fn refusal_to_evaluate(file: &Path) -> String {
    let path = file.to_str().unwrap();
    let refusal = cifar(["evaluate", "--model-file", path]).refusal_with_a_list();
    refusal.replace(path, "FILE")
}

/// A file that holds these bytes.
fn model_file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    fs::write(&file, bytes).unwrap();
    (folder, file)
}

fn averaged_model() -> &'static [u8] {
    let files = &SmallRun::PreResNet.uninterrupted().folder.files;
    &files[Path::new("averaged.safetensors")]
}

#[test]
fn a_model_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = refusal_to_evaluate(&folder.path().join("none.safetensors"));
    assert!(
        refusal.starts_with("cannot read FILE: No such file"),
        "{refusal}"
    );
}

#[test]
fn a_truncated_model_file_is_named() {
    let whole = averaged_model();
    for keep in [0, 4, 1_000, whole.len() - 1] {
        let (_folder, file) = model_file(&whole[..keep]);
        let refusal = refusal_to_evaluate(&file);
        assert!(
            refusal.starts_with("FILE is damaged, or no state dict: "),
            "{refusal}"
        );
    }
}

#[test]
fn a_safetensors_file_of_something_else_is_named() {
    let data = [0; 8];
    let view = TensorView::new(Dtype::F32, vec![2], &data).unwrap();
    let bytes = safetensors::serialize([("weight", view)], None).unwrap();
    let (_folder, file) = model_file(&bytes);
    let refusal = refusal_to_evaluate(&file);
    assert!(
        refusal.starts_with("FILE does not say which network it holds"),
        "{refusal}"
    );
}

#[test]
fn a_model_file_that_does_not_fit_is_named_with_what_does_not() {
    let cases = [
        // Says that it is another network than it is, in as many letters.
        (
            r#""width_divisor\":16"#,
            r#""width_divisor\": 8"#,
            "of another shape or kind: conv1.weight is [1, 3, 3, 3], expected [2, 3, 3, 3]",
        ),
        ("preresnet-8", "preresnet-9", "PreResNet has no depth 9"),
        (
            "preresnet-8",
            "squeezenet8",
            "there is no model `squeezenet8`",
        ),
        (
            "fc.bias",
            "fc.bows",
            "; 1 missing: fc.bias; 1 unknown: fc.bows",
        ),
        (
            r#"layer1.0.conv1.weight":{"dtype":"F32","shape":[1,1,3,3]"#,
            r#"layer1.0.conv1.weight":{"dtype":"F32","shape":[1,1,1,9]"#,
            "; 1 of another shape or kind: layer1.0.conv1.weight is [1, 1, 1, 9], expected [1, 1, 3, 3]",
        ),
    ];
    for (from, to, expected) in cases {
        let bytes = replace(averaged_model(), from, to);
        let (_folder, file) = model_file(&bytes);
        let refusal = refusal_to_evaluate(&file);
        assert!(refusal.contains(expected), "{refusal}");
    }
}

/// The bytes with a text in them replaced by one of the same length.
fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let place = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes());
    let place = place.unwrap_or_else(|| panic!("no {from}"));
    let mut bytes = bytes.to_vec();
    bytes[place..][..to.len()].copy_from_slice(to.as_bytes());
    bytes
}

#[test]
fn a_model_of_other_classes_is_not_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // As many classes, but not the same.
    let classes = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    write_image_folder(&data, &classes, 1);
    let (_folder, file) = model_file(averaged_model());
    let arguments = ["evaluate", "--model-file"].map(PathBuf::from);
    let refusal = cifar(arguments.into_iter().chain([file, "--data".into(), data])).refusal();
    assert!(
        refusal.contains("horizontal, vertical, diagonal and 7 more"),
        "{refusal}"
    );
    assert!(refusal.contains("a, b, c and 7 more"), "{refusal}");
}
