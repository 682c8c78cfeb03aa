//! `cifar experiment` with all methods.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::{CIFAR, Process, cifar};

/// The plan `small-methods`, on images that are made up, and a matter of seconds: five epochs of seven steps.
const SETTINGS: &str = "experiment small-methods --data synthetic --seeds 1 --set train_items=240 \
    --set validation_items=40 --set batch_size=32 --set width_divisor=16 --set budget=5 --set swa_start=3 \
    --set cycle_start=4";

fn start(out: &Path) -> Process {
    let mut command = Command::new(CIFAR);
    Process::start(
        command
            .args(SETTINGS.split_whitespace())
            .arg("--out")
            .arg(out),
    )
}

fn records(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn name(method: &str) -> String {
    format!("synthetic-preresnet-8-{method}-seed1")
}

#[test]
fn every_method_records_its_predictions_though_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("experiment");
    let predictions = |run: &str| {
        let records = records(&out).into_iter();
        let records = records.filter(|it| it["record"] == "predictions" && it["run"] == name(run));
        records.collect::<Vec<_>>()
    };
    let mut killed = 0;
    for moment in [("swag", 1), ("swag", 4), ("snapshot", 1)] {
        let mut process = start(&out);
        if process.runs_until(|| predictions(moment.0).len() >= moment.1) {
            process.signal("KILL");
        }
        killed += usize::from(process.end().status.is_none());
    }
    assert!(killed >= 2, "{killed} were killed");
    start(&out).end().success();

    let records = records(&out);
    let runs = records.iter().filter(|it| it["record"] == "run");
    let runs: Vec<&str> = runs.map(|run| run["method"].as_str().unwrap()).collect();
    // SWAG takes the place of SWA, and SGD takes over its beginning.
    assert_eq!(runs, ["swag", "sgd", "ema", "snapshot", "fge"]);
    // Of each, the last ones count: those before its run's record, after which there are none.
    let mut last = BTreeMap::new();
    for record in &records {
        if record["record"] == "predictions" {
            let run = record["run"].as_str().unwrap().to_owned();
            let models = record["models"].as_str().unwrap().to_owned();
            last.insert((run, models, !record["temperature"].is_null()), record);
        }
    }
    let members = |run: &str, models: &str, tempered: bool| {
        let record = last[&(name(run), models.to_owned(), tempered)];
        assert_eq!(record["images"], 2000);
        let counts = record["reliability"].as_array().unwrap().iter();
        let counts = counts.map(|bin| bin["count"].as_u64().unwrap());
        assert_eq!(counts.sum::<u64>(), 2000);
        let members = record["members"].as_array().unwrap();
        members
            .iter()
            .map(|member| member["step"].as_u64())
            .collect::<Vec<_>>()
    };
    assert_eq!(last.len(), 8);
    assert_eq!(members("sgd", "live", false), [None]);
    assert_eq!(members("sgd", "live", true), [None]);
    assert_eq!(members("ema", "averaged", false), [None]);
    assert_eq!(members("swag", "averaged", false), [None]);
    assert_eq!(members("swag", "samples", false), [None; 30]);
    assert_eq!(members("swag", "diagonal_samples", false), [None; 30]);
    assert_eq!(
        members("snapshot", "members", false),
        [7, 14, 21, 28, 35].map(Some)
    );
    // Three steps after 21 and 28.
    assert_eq!(members("fge", "members", false), [24, 31].map(Some));

    // They are what the runs predict.
    let of = |run: &str, models: &str| last[&(name(run), models.to_owned(), false)];
    for (run, models) in [("swag", "samples"), ("fge", "members"), ("ema", "averaged")] {
        let path = out.join("runs").join(name(run));
        let output = cifar(["ensemble", path.to_str().unwrap()]).success();
        let scores = of(run, models)["members"]
            .as_array()
            .unwrap()
            .last()
            .unwrap();
        let number = |key: &str| scores["ensemble"][key].as_f64().unwrap();
        let [accuracy, nll, brier, ece] = ["accuracy", "nll", "brier", "ece"].map(number);
        let row = format!("{accuracy:>7.2} % {nll:>7.4} {brier:>7.4} {ece:>7.4}   ");
        let line = output
            .lines()
            .take_while(|line| !line.contains("For comparison"))
            .filter(|line| line.contains(&row));
        assert!(line.count() >= 1, "{row}: {output}");
    }
    // The average's accuracy is that of its last epoch.
    let mut epochs = records
        .iter()
        .filter(|it| it["record"] == "evaluation" && it["run"] == name("swag"));
    let error = epochs.next_back().unwrap()["swa_test_error"]
        .as_f64()
        .unwrap();
    let averaged = of("swag", "averaged")["members"][0]["alone"]["accuracy"]
        .as_f64()
        .unwrap();
    assert!(
        (100.0 - error - averaged).abs() < 1e-9,
        "{error} {averaged}"
    );

    let status = cifar(["experiment", "status", out.to_str().unwrap()]).success();
    let line = |method: &str| {
        status
            .lines()
            .find(|line| line.starts_with(&name(method)))
            .unwrap()
    };
    assert!(line("snapshot").ends_with(" % by 5 networks"), "{status}");
    assert!(line("swag").ends_with(" % by 30 networks"), "{status}");
    assert!(
        status.ends_with("5 of 5 runs done, nothing left\n"),
        "{status}"
    );
}
