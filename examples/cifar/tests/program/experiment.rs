//! `cifar experiment`: runs of a plan, stopped and gone on with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::process::{CIFAR, Ended, Process, cifar};
use crate::small_run::{checkpoint_files, train};
use crate::snapshot::Snapshot;

/// The plan `small`, on images that are made up, and a matter of seconds. Each network is trained for
/// six epochs with SWA, averaged from the third on, and for four without; they share the first two. The plan's control, SGD for
/// as long as SWA, is left to the test that adds it.
const SETTINGS: &str = "small --data synthetic --seeds 1 --set train_items=240 \
    --set validation_items=40 --set batch_size=32 --set budget=4 --set swa_start=3 \
    --set vgg16-bn.width_divisor=64 --set preresnet-14.width_divisor=16 --set preresnet-14.sgd_budgets=[1.0]";

const RUNS: [&str; 4] = [
    "synthetic-vgg16-bn-swa-seed1",
    "synthetic-vgg16-bn-sgd-seed1",
    "synthetic-preresnet-14-swa-seed1",
    "synthetic-preresnet-14-sgd-seed1",
];

fn arguments(out: &Path) -> Vec<&str> {
    let settings = ["experiment"]
        .into_iter()
        .chain(SETTINGS.split_whitespace());
    settings.chain(["--out", out.to_str().unwrap()]).collect()
}

fn start(out: &Path) -> Process {
    Process::start(Command::new(CIFAR).args(arguments(out)))
}

/// The end state of an experiment that nothing interrupts. It is made once.
struct Uninterrupted {
    output: String,
    folder: Snapshot,
}

fn uninterrupted() -> &'static Uninterrupted {
    static UNINTERRUPTED: OnceLock<Uninterrupted> = OnceLock::new();
    UNINTERRUPTED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("experiment");
        let output = start(&out).end().success();
        Uninterrupted {
            output: output.replace(out.to_str().unwrap(), "OUT"),
            folder: Snapshot::of(&out),
        }
    })
}

/// The records in `results.jsonl`, without the values that differ in every process, and without the
/// training metrics of these epochs of these runs.
fn records(out: &Path, resumed_amid: &[(&str, usize)]) -> Vec<Value> {
    let text = fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let fields = record.as_object_mut().unwrap();
        let of_time = ["seconds", "reestimation_seconds", "started", "finished"];
        for field in of_time.into_iter().chain(["peak_memory_bytes", "command"]) {
            fields.remove(field);
        }
        let amid = resumed_amid.iter().any(|(run, epoch)| {
            fields["run"] == *run && fields.get("epoch") == Some(&(*epoch).into())
        });
        if amid {
            fields.remove("train_loss");
            fields.remove("train_error");
        }
        record
    };
    let mut records: Vec<Value> = text.lines().map(record).collect();
    // A worker that is killed after predictions makes them again: the last ones count.
    let key = |record: &Value| {
        let tempered = record["temperature"].is_null();
        (record["record"] == "predictions")
            .then(|| (record["run"].clone(), record["models"].clone(), tempered))
    };
    let keys: Vec<_> = records.iter().map(key).collect();
    let mut index = 0;
    records.retain(|_| {
        index += 1;
        let this = &keys[index - 1];
        this.is_none() || !keys[index..].contains(this)
    });
    records
}

/// The number of complete records.
fn lines(out: &Path) -> usize {
    let text = fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    text.matches('\n').count()
}

/// All files of the runs but settings, logs and metrics: these should be models.
fn models(folder: &Snapshot) -> Vec<(&Path, &[u8])> {
    let runs = folder
        .files
        .iter()
        .filter(|(name, _)| name.starts_with("runs"));
    let kept = [
        "config.json",
        "experiment.log",
        "images.json",
        "lock",
        "metrics.csv",
        "state.json",
    ];
    let runs = runs.filter(|(name, _)| !kept.iter().any(|kept| name.ends_with(kept)));
    runs.map(|(name, bytes)| (name.as_path(), bytes.as_slice()))
        .collect()
}

fn assert_same(out: &Path, resumed_amid: &[(&str, usize)]) {
    let folder = tempfile::tempdir().unwrap();
    uninterrupted().folder.write_to(folder.path());
    assert_eq!(
        records(out, resumed_amid),
        records(folder.path(), resumed_amid)
    );
    let (there, here) = (Snapshot::of(out), &uninterrupted().folder);
    let names = |models: Vec<(&Path, _)>| -> Vec<_> {
        models
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    assert_eq!(names(models(&there)), names(models(here)));
    assert!(models(&there) == models(here), "the models are others");
}

#[test]
fn an_experiment_leaves_records_of_epochs_and_runs_and_models() {
    let folder = tempfile::tempdir().unwrap();
    uninterrupted().folder.write_to(folder.path());
    let records = records(folder.path(), &[]);
    let evaluations: Vec<_> = records
        .iter()
        .filter(|record| record["record"] == "evaluation")
        .map(|record| {
            let epoch = record["epoch"].as_u64().unwrap();
            let averaged = record["averaged"].as_u64().unwrap();
            assert_eq!(record["swa_test_error"].is_null(), averaged == 0);
            (record["run"].as_str().unwrap(), epoch, averaged)
        })
        .collect();
    let swa = [(1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 4)];
    let sgd = [(1, 0), (2, 0), (3, 0), (4, 0)];
    let expected = RUNS.iter().zip([&swa[..], &sgd, &swa, &sgd]);
    let expected: Vec<_> = expected
        .flat_map(|(run, epochs)| {
            epochs
                .iter()
                .map(|(epoch, averaged)| (*run, *epoch, *averaged))
        })
        .collect();
    assert_eq!(evaluations, expected);

    let runs: Vec<_> = records
        .iter()
        .filter(|record| record["record"] == "run")
        .collect();
    let names: Vec<_> = runs
        .iter()
        .map(|run| run["run"].as_str().unwrap())
        .collect();
    assert_eq!(names, RUNS);
    let sgd = runs[1];
    for (key, value) in [
        ("data_set", Value::from("synthetic")),
        ("method", "sgd".into()),
        ("budget", 4.into()),
        ("epochs", 4.into()),
        ("swa_start", Value::Null),
        ("width_divisor", 64.into()),
        ("train_images", 200.into()),
        ("test_images", 2_000.into()),
        ("shared_epochs", 2.into()),
        ("device", "flex".into()),
        ("burn_version", "0.22.1".into()),
    ] {
        assert_eq!(sgd[key], value, "{key}");
    }
    assert_eq!(
        (&runs[0]["epochs"], &runs[0]["shared_epochs"]),
        (&6.into(), &0.into())
    );

    let models: Vec<_> = models(&uninterrupted().folder)
        .iter()
        .map(|(name, _)| name.to_str().unwrap())
        .collect();
    assert_eq!(
        models,
        [
            format!("runs/{}/live.safetensors", RUNS[3]),
            format!("runs/{}/averaged.safetensors", RUNS[2]),
            format!("runs/{}/live.safetensors", RUNS[2]),
            format!("runs/{}/live.safetensors", RUNS[1]),
            format!("runs/{}/averaged.safetensors", RUNS[0]),
            format!("runs/{}/live.safetensors", RUNS[0]),
        ]
    );
}

#[test]
fn runs_that_share_their_beginning_end_with_the_same_bits() {
    let networks = [
        (
            "vgg16-bn",
            "--width-divisor 64 --lr 0.02 --weight-decay 5e-4",
            "0.01",
        ),
        (
            "preresnet-14",
            "--width-divisor 16 --lr 0.2 --weight-decay 3e-4",
            "0.1",
        ),
    ];
    for (network, settings, swa_lr) in networks {
        let both = format!(
            "--model {network} {settings} --train-items 240 --validation-items 40 --batch-size 32"
        );
        let sgd = format!("{both} --epochs 4 --no-swa");
        let swa = format!("{both} --epochs 6 --swa-start 3 --swa-lr {swa_lr}");
        for (method, settings, files) in [
            ("sgd", sgd, &["live.safetensors"][..]),
            ("swa", swa, &["live.safetensors", "averaged.safetensors"]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let settings: Vec<&str> = settings.split_whitespace().collect();
            train(&settings, folder.path()).end().success();
            for file in files {
                let alone = fs::read(folder.path().join(file)).unwrap();
                let run = format!("runs/synthetic-{network}-{method}-seed1/{file}");
                let shared = &uninterrupted().folder.files[Path::new(&run)];
                assert!(alone == *shared, "{run} is another");
            }
        }
    }
}

#[test]
fn an_experiment_killed_at_any_moment_has_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let mut killed = 0;
    // The shared beginning ends after two records; the first run after eight, the second after fifteen, both with
    // predictions just before their ends.
    for (records, milliseconds) in [
        (1, 30),
        (2, 0),
        (2, 120),
        (5, 60),
        (7, 0),
        (10, 90),
        (14, 0),
        (17, 0),
    ] {
        let mut process = start(&out);
        if process.runs_until(|| lines(&out) >= records) {
            sleep(Duration::from_millis(milliseconds));
            process.signal("KILL");
        }
        killed += usize::from(process.end().status.is_none());
        if records == 5 {
            // As if the machine had failed with half a line on its disk.
            let file = out.join("results.jsonl");
            let text = fs::read_to_string(&file).unwrap();
            fs::write(file, format!("{text}{{\"record\":\"eval")).unwrap();
        }
    }
    assert!(killed >= 5, "{killed} were killed");
    start(&out).end().success();
    assert_same(&out, &[]);
}

/// The last words of an experiment that was asked to stop.
fn check_stop(ended: &Ended, out: &Path) {
    assert_eq!(ended.status, Some(130), "{ended:?}");
    let settings = SETTINGS.split_whitespace().map(|word| {
        // A shell would take brackets for a pattern.
        if word.contains('[') {
            format!("'{word}'")
        } else {
            word.to_owned()
        }
    });
    let settings = settings.collect::<Vec<_>>().join(" ");
    let last_words = format!(
        "Stopped. The same command goes on:\n  cifar experiment {settings} --out {}\n",
        out.display()
    );
    assert!(ended.output.ends_with(&last_words), "{}", ended.output);
    assert!(ended.errors.contains("Stopping after this step"));
}

#[test]
fn ctrl_c_stops_an_experiment_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let mut process = start(&out);
    assert!(process.runs_until(|| lines(&out) >= 3));
    process.signal("INT");
    check_stop(&process.end(), &out);

    let done = records(&out, &[]).len();
    let files = checkpoint_files(&out.join("runs").join(RUNS[0]));
    assert!(files.iter().any(|name| name.contains('+')), "{files:?}");
    let status = cifar(["experiment", "status", out.to_str().unwrap()]).success();
    let line = format!(
        "{}  {:>10}  unfinished",
        RUNS[0].to_owned() + "    ",
        format!("{done} of 6")
    );
    assert!(status.contains(&line), "{status}");
    assert!(status.contains("\n0 of 4 runs done, about "), "{status}");

    start(&out).end().success();
    assert_same(&out, &[(RUNS[0], done + 1)]);
}

#[test]
fn an_experiment_that_ends_in_time_goes_on_to_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let start = |minutes: &'static str| {
        let limit = ["--until-minutes", minutes];
        cifar(arguments(&out).into_iter().chain(limit)).success()
    };
    // A worker needs longer than this to begin, however fast the machine is, and then makes one epoch.
    let output = start("0.001");
    let stopped = "Stopped to keep within 0.001 minutes: 0 of 4 runs finished, about ";
    assert!(output.contains(stopped), "{output}");
    assert!(output.contains(". The same command goes on:\n  cifar experiment small "));
    assert_eq!(lines(&out), 1, "{output}");
    let files = checkpoint_files(&out.join("runs").join(RUNS[0]));
    assert!(files.contains(&"model-1.bpk".to_owned()), "{files:?}");

    let mut calls = 0;
    while !start("0.05").ends_with("All 4 runs are finished.\n") {
        calls += 1;
        assert!(calls < 100, "no progress");
    }
    assert_same(&out, &[]);
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_on_a_terminal_stops_an_experiment_once() {
    use std::io::Write;

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let command = [vec![CIFAR], arguments(&out)].concat().join(" ");
    let mut terminal = crate::process::Terminal::start(&command);
    assert!(terminal.process.runs_until(|| lines(&out) >= 3));
    terminal.keyboard.write_all(b"\x03").unwrap();
    let ended = terminal.process.end();
    assert_eq!(ended.status, Some(130), "{ended:?}");
    assert!(
        ended.output.contains("Stopped. The same command goes on:"),
        "{ended:?}"
    );
    let files = checkpoint_files(&out.join("runs").join(RUNS[0]));
    assert!(files.iter().any(|name| name.contains('+')), "{files:?}");
    // The lines are those of `cifar train`, without the run's name.
    let line = "      1/6  0.02000 ";
    assert!(ended.output.contains(line), "{ended:?}");
    let named = format!("{}{line}", RUNS[0]);
    assert!(!ended.output.contains(&named), "{ended:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn status_tells_what_runs_while_another_process_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let status = || cifar(["experiment", "status", out.to_str().unwrap()]).success();
    let mut process = start(&out);
    assert!(process.runs_until(|| lines(&out) >= 9));
    // The experiment is this far when it is looked at, however slow the machine is.
    process.signal_all("STOP");
    let table = status();
    let lines: Vec<&str> = table.lines().collect();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(lines[0]), "run epochs state");
    let done = format!("{} 6 of 6 done: test accuracy ", RUNS[0]);
    assert!(words(lines[1]).starts_with(&done), "{table}");
    assert!(words(lines[1]).ends_with(" % after 1.5 budgets"), "{table}");
    assert!(words(lines[2]).ends_with(" of 4 running"), "{table}");
    assert_eq!(words(lines[3]), format!("{} 0 of 6 left", RUNS[2]));
    let left = "1 of 4 runs done, about ";
    assert!(lines[6].starts_with(left), "{table}");
    let unknown = " left without preresnet-14 on synthetic, not yet measured";
    assert!(lines[6].ends_with(unknown), "{table}");

    let refusal = start(&out).end().refusal();
    assert!(
        refusal.ends_with("another process is writing there: wait for it, or stop it"),
        "{refusal}"
    );
    process.signal_all("CONT");
    process.end().success();
    assert!(status().ends_with("\n4 of 4 runs done, nothing left\n"));
}

#[test]
#[cfg(target_os = "linux")]
fn an_experiment_whose_folder_was_moved_stops_and_makes_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let mut process = start(&out);
    assert!(process.runs_until(|| lines(&out) >= 2));
    process.signal_all("STOP");
    std::fs::rename(&out, folder.path().join("moved")).unwrap();
    process.signal_all("CONT");
    let ended = process.end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let gone = |path: &Path| format!("{} was deleted, moved or replaced", path.display());
    let errors: Vec<&str> = ended.errors.lines().collect();
    assert_eq!(errors.len(), 2, "{ended:?}");
    // The worker was at its run, or was just beginning.
    let run = gone(&out.join("runs").join(RUNS[0]));
    let at_its_run = format!("error: {}: {run}", RUNS[0]);
    let beginning = format!("error: {} holds no experiment", out.display());
    assert!(
        errors[0].starts_with(&at_its_run) || errors[0].starts_with(&beginning),
        "{ended:?}"
    );
    let of_the_experiment = format!("error: {}", gone(&out));
    assert!(errors[1].starts_with(&of_the_experiment), "{ended:?}");
    assert!(!out.exists());
}

/// Starts a worker as an experiment on an accelerator does: for all runs.
fn start_worker_of_all_runs(out: &Path) -> Process {
    // The command that begins the experiment ends after an epoch.
    let limit = ["--until-minutes", "0.001"];
    cifar(arguments(out).into_iter().chain(limit)).success();
    let mut command = Command::new(CIFAR);
    command.args(["experiment", "run"]).arg(out).args(RUNS);
    command.args(["--device", "flex", "--command", "a test"]);
    Process::start_with_open_input(&mut command)
}

#[test]
fn runs_that_share_a_process_have_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let mut worker = start_worker_of_all_runs(&out);
    worker.runs_until(|| false);
    worker.end().success();
    assert_same(&out, &[]);
    // Each has logged to its own folder.
    for run in RUNS {
        let log = fs::read_to_string(out.join("runs").join(run).join("experiment.log")).unwrap();
        let is_swa = run.contains("-swa-");
        assert_eq!(log.contains("re-estimated BatchNorm"), is_swa, "{run}");
        for epoch in 3..=6 {
            let step = format!("Executing training step for epoch {epoch}");
            let trained = epoch <= 4 || is_swa;
            assert_eq!(log.matches(&step).count(), usize::from(trained), "{log}");
        }
    }
}

#[test]
fn a_process_of_several_runs_stops_amid_one_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let mut worker = start_worker_of_all_runs(&out);
    // Fifteen are the first two runs'. In the third epoch, the third shares nothing.
    assert!(worker.runs_until(|| lines(&out) >= 18));
    worker.signal("INT");
    worker.runs_until(|| false);
    let ended = worker.end();
    assert_eq!(ended.status, Some(130), "{ended:?}");
    let files = checkpoint_files(&out.join("runs").join(RUNS[2]));
    assert!(files.iter().any(|name| name.contains('+')), "{files:?}");
    let amid = records(&out, &[]);
    let amid = amid.iter().filter(|record| record["run"] == RUNS[2]);
    start(&out).end().success();
    assert_same(&out, &[(RUNS[2], amid.count() + 1)]);
}

#[test]
fn a_finished_experiment_is_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    uninterrupted().folder.write_to(out);
    // A process that was killed just before left these.
    let checkpoints = out.join("runs").join(RUNS[0]).join("checkpoint");
    fs::create_dir(&checkpoints).unwrap();
    fs::write(checkpoints.join("model-6.bpk"), "a checkpoint").unwrap();

    let output = start(out).end().success();
    assert!(output.ends_with("All 4 runs are finished.\n"), "{output}");
    assert!(!output.contains("run 1 of 4"), "{output}");
    let mut after = Snapshot::of(out);
    after.files.insert(
        "runs.lock".into(),
        uninterrupted().folder.files[Path::new("runs.lock")].clone(),
    );
    assert!(after == uninterrupted().folder);
}

#[test]
fn an_experiment_prints_its_runs_by_name_and_what_they_came_to() {
    let output = &uninterrupted().output;
    assert!(
        output.starts_with("4 runs in OUT, 0 of them finished; results in OUT/results.jsonl\n"),
        "{output}"
    );
    for line in [
        "run 1 of 4: synthetic-vgg16-bn-swa-seed1, epochs 1 to 2, which \
         synthetic-vgg16-bn-sgd-seed1 begins with too",
        "run 1 of 4: synthetic-vgg16-bn-swa-seed1, epochs 3 to 6",
        "run 2 of 4: synthetic-vgg16-bn-sgd-seed1, epochs 3 to 4",
    ] {
        assert!(output.contains(&format!("\n{line}\n")), "{output}");
    }
    // A line an epoch, of those that were not taken over.
    let epochs = |run: &str| {
        let lines = output.lines().filter(|line| line.starts_with(run));
        lines.filter(|line| line.contains('/')).count()
    };
    assert_eq!(RUNS.map(epochs), [6, 2, 6, 2]);
    let finished = "synthetic-preresnet-14-sgd-seed1 finished: test accuracy ";
    assert!(output.contains(&format!("\n{finished}")), "{output}");
}

#[test]
fn another_plan_in_the_same_folder_is_refused_with_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    uninterrupted().folder.write_to(out);
    let mut command = arguments(out);
    command.extend(["--set", "vgg16-bn.swa_lr=0.5", "--set", "train_items=200"]);
    let refusal = cifar(command).refusal();
    assert!(
        refusal.contains(
            "was begun with another plan: swa_lr of vgg16-bn on synthetic is 0.5 here and 0.01 there, \
             train_items is 200 here and 240 there. Go on with"
        ),
        "{refusal}"
    );
    assert!(Snapshot::of(out) == uninterrupted().folder);
    // The plan that is there goes on.
    let plan = out.join("plan.toml");
    let command = [
        "experiment",
        plan.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    cifar(command).success();
}

#[test]
fn an_experiment_gains_runs_by_a_plan_that_has_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    uninterrupted().folder.write_to(out);
    let gains = ["--set", "preresnet-14.sgd_budgets=[1.0, 1.5]"];
    let command = || arguments(out).into_iter().chain(gains);
    let output = cifar(command()).success();
    assert!(output.starts_with("5 runs in "), "{output}");
    assert!(output.contains(", 4 of them finished"), "{output}");
    let name = "synthetic-preresnet-14-sgd-1.5-budgets-seed1";
    let began = format!("\nrun 5 of 5: {name}, epochs 1 to 6\n");
    assert!(output.contains(&began), "{output}");
    assert_eq!(output.matches("\nrun ").count(), 1, "{output}");

    // Its rate falls over six epochs, as in a training of its own.
    let alone = tempfile::tempdir().unwrap();
    let settings = "--model preresnet-14 --width-divisor 16 --lr 0.2 --weight-decay 3e-4 --train-items 240 \
        --validation-items 40 --batch-size 32 --epochs 6 --no-swa";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    train(&settings, alone.path()).end().success();
    let model = |folder: &Path| fs::read(folder.join("live.safetensors")).unwrap();
    assert!(model(alone.path()) == model(&out.join("runs").join(name)));

    // The plan is the folder's now, and one without the new run is another.
    let plan = fs::read_to_string(out.join("plan.toml")).unwrap();
    assert!(plan.contains("\nsgd_budgets = [1.0, 1.5]\n"), "{plan}");
    let refusal = start(out).end().refusal();
    let differs = "sgd_budgets of preresnet-14 on synthetic is [1.0] here and [1.0, 1.5] there";
    assert!(refusal.contains(differs), "{refusal}");
    let output = cifar(command()).success();
    assert!(output.ends_with("All 5 runs are finished.\n"), "{output}");
}

#[test]
fn settings_of_a_plan_are_refused_by_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    for (setting, expected) in [
        (
            "width_divisor=3",
            "Use width_divisor 1, 2, 4, 8, 16, 32 or 64.",
        ),
        ("swa_lr=0", "cannot be run: swa_lr must be above 0, not 0"),
    ] {
        let out = folder.path().join("new");
        let command = arguments(&out).into_iter().chain(["--set", setting]);
        let refusal = cifar(command).refusal();
        assert!(refusal.ends_with(expected), "{refusal}");
        assert!(!out.exists());
    }
    // How many images there are is known when the first run begins.
    let mut command = arguments(folder.path());
    command.extend(["--set", "train_items=9999999"]);
    let errors = cifar(command).errors;
    let first = format!(
        "error: {} cannot be run: train_items must be at most ",
        RUNS[0]
    );
    assert!(errors.starts_with(&first), "{errors}");
}

#[test]
fn a_run_that_diverges_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let mut command = arguments(out);
    command.extend(["--set", "vgg16-bn.lr=1e30"]);
    let ended = cifar(command);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let errors: Vec<&str> = ended.errors.lines().collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    // The average's failure comes first, where there is one.
    let failed = format!("error: {}: after optimizer step 7: parameter `", RUNS[0]);
    assert!(errors[0].starts_with(&failed), "{errors:?}");
    let diverged = format!("error: {}: diverged in epoch 1: ", RUNS[1]);
    assert!(errors[1].starts_with(&diverged), "{errors:?}");
    assert!(
        errors[2].starts_with("error: 2 runs failed, the first of them"),
        "{errors:?}"
    );
    let names: Vec<_> = records(out, &[]);
    let finished = names.iter().filter(|record| record["record"] == "run");
    assert!(
        finished
            .map(|run| run["run"].as_str().unwrap())
            .eq(RUNS[2..].iter().copied())
    );
}

#[test]
fn an_experiment_that_keeps_no_models_leaves_their_results() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let keeps_none = ["--set", "keep_models=false"];
    let command = || arguments(out).into_iter().chain(keeps_none);
    cifar(command()).success();
    assert_eq!(models(&Snapshot::of(out)), []);
    let kept = tempfile::tempdir().unwrap();
    uninterrupted().folder.write_to(kept.path());
    assert_eq!(records(out, &[]), records(kept.path(), &[]));

    // A process that was killed just after its record left this.
    let model = out.join("runs").join(RUNS[1]).join("live.safetensors");
    fs::write(&model, "a model").unwrap();
    cifar(command()).success();
    assert!(!model.exists());
}

#[test]
fn scores_are_of_the_images_held_out_if_the_plan_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let mut command = arguments(out);
    command.extend([
        "--set",
        "evaluate_on=\"validation\"",
        "--set",
        "swa_start=1",
    ]);
    command.extend(["--set", "budget=1", "--set", "swa_budgets=[1.0]"]);
    let output = cifar(command).success();
    assert!(
        output.contains(" finished: validation accuracy "),
        "{output}"
    );
    let records = records(out, &[]);
    let run = records
        .iter()
        .find(|record| record["record"] == "run")
        .unwrap();
    assert_eq!(
        (&run["train_images"], &run["test_images"]),
        (&200.into(), &40.into())
    );
}

#[test]
fn an_invalid_experiment_is_refused_and_nothing_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let refusal = |arguments: &[&str]| {
        let command = [
            &["experiment"],
            arguments,
            &["--out", out.to_str().unwrap()],
        ]
        .concat();
        let refusal = cifar(command).refusal();
        assert!(!out.exists(), "an experiment was begun");
        refusal
    };
    for (arguments, part) in [
        (
            &["large"][..],
            "large: no such file, and no plan of this program's own",
        ),
        (&["small"], "nothing says where the images are"),
        (
            &["small", "--data", "synthetic", "--set", "lr"],
            "--set lr: expected KEY=VALUE",
        ),
        (
            &["small", "--data", "synthetic", "--set", "speed=1"],
            "unknown field `speed`",
        ),
        (
            &["small", "--data", "synthetic", "--device", "gpu"],
            "no device `gpu`",
        ),
        (
            &[
                "small",
                "--data",
                "synthetic",
                "--set",
                "preresnet-14.model=\"preresnet-21\"",
            ],
            "no depth 21",
        ),
        (
            &["small", "--data", "no/such/folder"],
            "no/such/folder: no such folder",
        ),
    ] {
        let refusal = refusal(arguments);
        assert!(refusal.contains(part), "{refusal}");
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "precious").unwrap();
    let foreign = cifar(arguments(&out)).refusal();
    assert!(foreign.contains("holds no experiment"), "{foreign}");
    let status = cifar(["experiment", "status", out.to_str().unwrap()]).refusal();
    assert!(status.contains("holds no experiment"), "{status}");
}

#[test]
fn a_plan_is_printed_to_be_changed() {
    let paper = cifar(["experiment", "paper", "--print"]).success();
    assert!(paper.contains("model = \"preresnet-164\"\n"), "{paper}");
    assert!(paper.starts_with("# The paper's experiment"), "{paper}");
    let one_seed = cifar(["experiment", "paper", "--print", "--seeds", "7"]).success();
    assert!(one_seed.starts_with("seeds = [7]\n"), "{one_seed}");
}
