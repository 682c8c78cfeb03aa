//! The program on an accelerator: wgpu, for which Mesa's software Vulkan is enough.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::data_folder::write_image_folder;
use crate::end_state::{Checkpoint, EndState};
use crate::process::{CIFAR, Process, cifar};
use crate::small_run::{has_logged, train};

/// Starts a training of three epochs of three steps, averaged from the second on.
fn start(data: &Path, out: &Path) -> Process {
    let settings = "--device wgpu --model preresnet-8 --width-divisor 8 \
                    --batch-size 8 --epochs 3 --swa-start 2 --data";
    let mut settings: Vec<&str> = settings.split_whitespace().collect();
    settings.push(data.to_str().unwrap());
    train(&settings, out)
}

#[test]
fn a_run_on_wgpu_killed_and_resumed_ends_as_if_not_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_image_folder(&data, &["cat", "dog"], 10);
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));

    let output = start(&data, &whole).end().success();
    assert!(output.contains("averaged"), "{output}");

    let mut process = start(&data, &killed);
    assert!(process.runs_until(|| has_logged(&killed, 2)));
    process.signal("KILL");
    assert_eq!(process.end().status, None);
    let output = train(&["--resume", "--device", "wgpu"], &killed)
        .end()
        .success();
    assert!(output.contains("\nGoing on after epoch "), "{output}");

    for out in [&whole, &killed] {
        let checkpoint = Checkpoint::read(out, "3");
        let counts =
            ["swa_train.steps", "swa_train.average.updates"].map(|name| checkpoint.integer(name));
        assert_eq!(counts, [9, 2]);
    }
    let uninterrupted = EndState::after_epoch(&whole, 3);
    EndState::after_epoch(&killed, 3).assert_same_bits(&uninterrupted, &[]);

    let model = killed.join("averaged.safetensors");
    let evaluate = ["evaluate", "--device", "wgpu", "--model-file"];
    let arguments = evaluate.map(std::ffi::OsStr::new).into_iter();
    let arguments = arguments.chain([model.as_os_str(), "--data".as_ref(), data.as_os_str()]);
    let output = cifar(arguments).success();
    assert!(output.contains("accuracy"), "{output}");
}

/// A network of which each seed makes two runs: SWA for three epochs, averaged from the second on, and SGD for two. They share
/// the first.
const PLAN: &str = r#"
seeds = [1, 2]
swa_budgets = [1.5]
train_items = 64
validation_items = 16
evaluate_on = "validation"

[[models]]
model = "preresnet-8"
data_sets = ["synthetic"]
width_divisor = 8
budget = 2
swa_start = 2
lr = 0.1
swa_lr = 0.05
weight_decay = 3e-4
batch_size = 8
"#;

const RUNS: [&str; 4] = [
    "synthetic-preresnet-8-swa-seed1",
    "synthetic-preresnet-8-sgd-seed1",
    "synthetic-preresnet-8-swa-seed2",
    "synthetic-preresnet-8-sgd-seed2",
];

/// Starts an experiment in `experiment` of `folder`, which logs the kernels that it compiles to `kernels`.
fn start_experiment(folder: &Path, options: &[&str]) -> Process {
    let log = "[compilation.logger]\nlevel = \"full\"\nfile = \"kernels\"\n";
    fs::write(folder.join("cubecl.toml"), log).unwrap();
    fs::write(folder.join("plan.toml"), PLAN).unwrap();
    let mut command = Command::new(CIFAR);
    command.args(["experiment", "plan.toml", "--out", "experiment"]);
    command.args(["--data", "synthetic", "--device", "wgpu"]);
    Process::start(command.args(options).current_dir(folder))
}

/// The kernels that were compiled in `folder`, in order: a source and what it was compiled with.
fn kernels(folder: &Path) -> Vec<String> {
    let log = fs::read_to_string(folder.join("kernels")).unwrap_or_default();
    let kernels = log.split("[START_KERNEL_COMPILATION]").skip(1);
    kernels.map(str::to_owned).collect()
}

/// An experiment that nothing interrupts. It is made once.
fn uninterrupted_experiment() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        // There is no time for a run: the plan is checked, and the device is left alone.
        let output = start_experiment(folder.path(), &["--until-minutes", "1e-9"]);
        let output = output.end().success();
        assert!(output.contains("0 of 4 runs finished"), "{output}");
        assert_eq!(kernels(folder.path()), [""; 0]);

        let output = start_experiment(folder.path(), &[]).end().success();
        assert!(output.ends_with("All 4 runs are finished.\n"), "{output}");
        let compiled = kernels(folder.path());
        let distinct: HashSet<&String> = compiled.iter().collect();
        assert_eq!(compiled.len(), distinct.len());
        assert!(distinct.len() > 50, "{}", distinct.len());
        folder
    });
    folder.path()
}

/// The bytes of a file of a run of an experiment.
fn file_of(folder: &Path, run: &str, file: &str) -> Vec<u8> {
    fs::read(folder.join("experiment/runs").join(run).join(file)).unwrap()
}

#[test]
fn an_experiment_on_wgpu_compiles_each_kernel_once() {
    let folder = uninterrupted_experiment();
    // The third run of a process ends with the bits of one in a process of its own.
    let alone = tempfile::tempdir().unwrap();
    let settings = "--device wgpu --model preresnet-8 --width-divisor 8 --lr 0.1 --swa-lr 0.05 --weight-decay 3e-4 \
                    --train-items 64 --validation-items 16 --evaluate-on validation --batch-size 8 \
                    --epochs 3 --swa-start 2 --seed 2";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    train(&settings, alone.path()).end().success();
    for file in ["live.safetensors", "averaged.safetensors"] {
        let own = fs::read(alone.path().join(file)).unwrap();
        assert!(own == file_of(folder, RUNS[2], file), "{file} is another");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_killed_on_wgpu_costs_its_run_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let has_epoch = |run: &str, epoch: usize| {
        let results = fs::read_to_string(folder.join("experiment/results.jsonl"));
        let epoch = format!("\"run\":\"{run}\",\"epoch\":{epoch},");
        results.unwrap_or_default().contains(&epoch)
    };
    let mut process = start_experiment(folder, &[]);
    assert!(process.runs_until(|| has_epoch(RUNS[0], 2)));
    process.signal_children("KILL");
    // Another process goes on with the second run, and is stopped amid the third.
    assert!(process.runs_until(|| has_epoch(RUNS[2], 1)));
    process.signal("INT");
    let ended = process.end();
    assert_eq!(ended.status, Some(130), "{ended:?}");
    let killed = format!("error: {} was killed", RUNS[0]);
    assert!(ended.errors.starts_with(&killed), "{ended:?}");
    assert!(
        ended.output.contains(&format!("\n{} finished", RUNS[1])),
        "{ended:?}"
    );

    let output = start_experiment(folder, &[]).end().success();
    assert!(output.ends_with("All 4 runs are finished.\n"), "{output}");
    for run in RUNS {
        let averaged = run.contains("-swa-").then_some("averaged.safetensors");
        for file in ["live.safetensors"].into_iter().chain(averaged) {
            let uninterrupted = file_of(uninterrupted_experiment(), run, file);
            assert!(file_of(folder, run, file) == uninterrupted, "{run}: {file}");
        }
    }
}
