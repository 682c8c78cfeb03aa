//! Reports on the results of an experiment.
//!
//! The results are made up, with numbers that are easy to work with by hand.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use swa_lab::experiment::record::{EvaluationRecord, Method, Record, RunRecord};
use swa_lab::run::config::{EvaluateOn, RunConfig, SgdSettings};

use crate::process::{Ended, cifar};
use crate::snapshot::Snapshot;

/// The epochs of a budget.
const BUDGET: usize = 4;

/// The lines of a run. Its live model has a test accuracy of 60 % from the first epoch on, its average
/// one of 62, 63, … % from the third on, both less `less`.
fn run(method: Method, seed: u64, less: f64) -> Vec<Record> {
    let is_swa = method == Method::Swa;
    let name = format!("{method}-seed{seed}");
    let epochs = if is_swa { BUDGET * 3 / 2 } else { BUDGET };
    let evaluation = |epoch: usize| {
        let average = (is_swa && epoch >= 3).then_some(59.0 + epoch as f64 - less);
        Record::Evaluation(EvaluationRecord {
            run: name.clone(),
            epoch,
            learning_rate: 0.05 / epoch as f64,
            train_loss: None,
            train_accuracy: None,
            live_test_loss: 1.0,
            live_test_accuracy: 60.0 - less,
            swa_test_loss: average.map(|_| 1.0),
            swa_test_accuracy: average,
            averaged: if is_swa { epoch.saturating_sub(2) } else { 0 },
            seconds: 1.0,
            reestimation_seconds: average.map(|_| 0.25),
        })
    };
    let mut records: Vec<Record> = (1..=epochs).map(evaluation).collect();
    records.push(Record::Run(RunRecord {
        run: name.clone(),
        data_set: "synthetic".to_owned(),
        model: "vgg16-bn".to_owned(),
        width_divisor: 8,
        method,
        budget: BUDGET,
        epochs,
        swa_start: is_swa.then_some(3),
        swa_lr: is_swa.then_some(0.01),
        sgd: SgdSettings {
            batch_size: 32,
            ..RunConfig::paper(&"vgg16-bn".parse().unwrap(), 10).sgd
        },
        seed,
        train_images: 200,
        test_images: 100,
        evaluate_on: EvaluateOn::Test,
        shared_epochs: 0,
        device: "flex".to_owned(),
        machine: "<made up> & of no make".to_owned(),
        command: "cifar experiment nothing".to_owned(),
        version: "0.1.0".to_owned(),
        burn_version: "0.22.1".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        finished: "2026-01-01T00:01:00Z".to_owned(),
        peak_memory_bytes: None,
    }));
    records
}

/// Two seeds of SGD and SWA, and a third of which SWA is under way.
fn results() -> Vec<Record> {
    let mut records = Vec::new();
    for (seed, less) in [(1, 0.0), (2, 2.0)] {
        records.extend(run(Method::Sgd, seed, less));
        records.extend(run(Method::Swa, seed, less));
    }
    records.extend(run(Method::Swa, 3, 0.0).into_iter().take(2));
    records
}

fn write(records: &[Record], folder: &Path) {
    let lines = records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap() + "\n");
    fs::write(folder.join("results.jsonl"), lines.collect::<String>()).unwrap();
}

fn report(folder: &Path) -> Ended {
    cifar([Path::new("report"), folder])
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn column(table: &Value, index: usize) -> &Value {
    &table["rows"][0]["columns"][index]
}

#[test]
fn a_report_loads_nothing_and_its_pictures_and_table_agree() {
    let folder = tempfile::tempdir().unwrap();
    write(&results(), folder.path());
    let output = report(folder.path()).success();

    let files = Snapshot::of(folder.path());
    let expected = [
        "convergence-synthetic-vgg16-bn.png",
        "convergence-synthetic-vgg16-bn.svg",
        "report.html",
        "results.jsonl",
        "table.json",
    ];
    assert_eq!(files.names(), expected);
    for name in expected.iter().filter(|name| **name != "results.jsonl") {
        let path = folder.path().join(name);
        let line = format!("written: {}\n", path.display());
        assert!(output.contains(&line), "{output}");
    }
    let png = fs::read(folder.path().join(expected[0])).unwrap();
    let picture = image::load_from_memory(&png).unwrap().to_rgb8();
    // White where nothing is drawn, and the colour of the average somewhere.
    assert_eq!(picture.get_pixel(2, 2).0, [255; 3]);
    assert!(picture.pixels().any(|pixel| pixel.0 == [213, 94, 0]));
    let svg = fs::read_to_string(folder.path().join(expected[1])).unwrap();
    for word in [
        "SGD",
        "SWA average",
        "live models that SWA averages",
        "epoch",
        "learning rate",
    ] {
        assert!(svg.contains(&format!("\n{word}\n")), "{word}: {svg}");
    }

    // Accuracies of 60 and 58 for SGD; for the average 63 and 61 after four epochs, 64 and 62 after
    // five, 65 and 63 after six.
    let table: Value = serde_json::from_slice(&files.files[Path::new("table.json")]).unwrap();
    let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
    for (index, mean) in [59.0, 62.0, 63.0, 64.0].into_iter().enumerate() {
        let accuracy = &column(&table, index)["accuracy"];
        assert_eq!(accuracy["mean"], mean);
        assert_eq!(accuracy["n"], 2);
        let deviation = accuracy["deviation"].as_f64().unwrap();
        assert!((deviation - 2f64.sqrt()).abs() < 1e-9, "{deviation}");
        let written = format!("{mean:.2} ± 1.41");
        assert!(html.contains(&written), "{written}: {html}");
        assert!(output.contains(&written), "{written}: {output}");
    }
    // 64 - 59 = 5 points, in standard errors of sqrt(2/2 + 2/2).
    let less = &column(&table, 3)["less_sgd"];
    let errors = less["standard_errors"].as_f64().unwrap();
    assert!((errors - 5.0 / 2f64.sqrt()).abs() < 1e-9, "{errors}");
    assert_eq!(
        (&less["better_seeds"], &less["common_seeds"]),
        (&2.into(), &2.into())
    );
    // 3.5 standard errors, where two degrees of freedom ask for 4.3.
    assert_eq!(less["beyond_noise"], false);
    for text in [&html, &output] {
        assert!(text.contains("+5.00, 3.5 s.e."), "{text}");
        assert!(text.contains("within the noise"), "{text}");
        assert!(
            text.contains("nothing was published for synthetic"),
            "{text}"
        );
        assert!(text.contains("swa-seed3"), "{text}");
    }

    // Nothing but two links to follow leads out of the page.
    for loads in [
        "src=", "url(", "@import", "<link", "<script", "<iframe", "<image",
    ] {
        assert!(!html.contains(loads), "{loads}");
    }
    let links = html.matches("<a href=\"https://").count();
    assert_eq!((links, html.matches("://").count()), (2, 2));
    assert!(html.contains("&lt;made up&gt; &amp; of no make"), "{html}");
}

#[test]
fn sgd_for_as_long_as_swa_has_a_column_and_a_comparison() {
    let mut records = results();
    for (seed, less) in [(1, 0.0), (2, 2.0)] {
        // SWA's run has the epochs: its live models are those of an SGD, of 60 and 58 %.
        let mut control = run(Method::Swa, seed, less);
        for record in &mut control {
            let name = format!("sgd-1.5-budgets-seed{seed}");
            match record {
                Record::Evaluation(epoch) => (epoch.run, epoch.swa_test_accuracy) = (name, None),
                Record::Run(run) => {
                    (run.run, run.method) = (name, Method::Sgd);
                    (run.swa_start, run.swa_lr) = (None, None);
                }
                Record::Predictions(_) => {}
            }
        }
        records.extend(control);
    }
    let folder = tempfile::tempdir().unwrap();
    write(&records, folder.path());
    let output = report(folder.path()).success();
    let table = fs::read(folder.path().join("table.json")).unwrap();
    let table: Value = serde_json::from_slice(&table).unwrap();
    let control = column(&table, 4);
    assert_eq!(
        (&control["method"], &control["budgets"]),
        (&"sgd".into(), &1.5.into())
    );
    assert_eq!(
        (&control["accuracy"]["mean"], &control["accuracy"]["n"]),
        (&59.0.into(), &2.into())
    );
    // 65 and 63 for SWA after six epochs.
    let gain = &column(&table, 3)["less_sgd_at_equal_cost"];
    assert_eq!(
        (&gain["points"], &gain["better_seeds"]),
        (&5.0.into(), &2.into())
    );
    assert_eq!(column(&table, 2).get("less_sgd_at_equal_cost"), None);

    let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
    let words = [
        "<th scope=\"col\">SGD<br>1.5 budgets</th>",
        "the same,<br>at equal cost",
        "Of 1 comparison with SGD trained for as long",
        "The line of SGD for longer ends in the number of “SGD, 1.5 budgets”.",
    ];
    for word in words {
        assert!(html.contains(word), "{word}: {html}");
    }
    assert!(output.contains("SGD, 1.5 budgets\n"), "{output}");
    let line = output.lines().find(|line| line.contains(" equal cost "));
    assert!(line.unwrap().contains("+5.00, 3.5 s.e."), "{output}");
    assert!(!output.contains("missing: vgg16-bn"), "{output}");
}

#[test]
fn the_same_results_make_the_same_report() {
    let folder = tempfile::tempdir().unwrap();
    write(&results(), folder.path());
    report(folder.path()).success();
    let first = Snapshot::of(folder.path());
    report(folder.path()).success();
    assert!(first == Snapshot::of(folder.path()));
}

#[test]
fn an_unfinished_experiment_is_reported_as_far_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    write(&run(Method::Sgd, 1, 0.0)[..2], folder.path());
    let output = report(folder.path()).success();
    assert!(output.contains("sgd-seed1: 2 epochs so far"), "{output}");
    let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(html.contains("<td>sgd-seed1</td>"), "{html}");
}

#[test]
fn a_record_of_too_many_epochs_is_reported_in_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut records = results();
    for record in &mut records {
        if let Record::Run(run) = record
            && run.run == "sgd-seed1"
        {
            run.epochs = 99_999_999_999_999;
        }
    }
    write(&records, folder.path());
    let output = report(folder.path()).success();
    let expected =
        "missing: sgd-seed1: no record of 99999999999995 epochs from 5 to 99999999999999.";
    assert!(output.contains(expected), "{output}");
}

#[test]
fn what_cannot_be_reported_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || {
        let refusal = report(folder.path()).refusal();
        refusal.replace(folder.path().to_str().unwrap(), "DIR")
    };
    assert!(refusal().starts_with("DIR: expected results.jsonl in it, found none"));

    write(&results(), folder.path());
    let file = folder.path().join("results.jsonl");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, [&whole, "epoch 3\n".as_bytes()].concat()).unwrap();
    let torn = refusal();
    let line = results().len() + 1;
    assert!(
        torn.starts_with(&format!("DIR/results.jsonl, line {line}: ")),
        "{torn}"
    );
    assert!(torn.contains("restore the line or delete it"), "{torn}");
    assert!(!folder.path().join("report.html").exists());

    fs::write(&file, "").unwrap();
    assert!(refusal().starts_with("DIR/results.jsonl: is empty"));

    let missing = report(&folder.path().join("nowhere")).refusal();
    assert!(missing.contains("nowhere: no such folder"), "{missing}");
    let not_a_folder = report(&file).refusal();
    assert!(
        not_a_folder.contains("results.jsonl: is a file"),
        "{not_a_folder}"
    );
}

#[test]
fn the_experiment_small_is_reported_as_it_was() {
    let results = root().join("results/small");
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        results.join("results.jsonl"),
        folder.path().join("results.jsonl"),
    )
    .unwrap();
    report(folder.path()).success();
    let reported = Snapshot::of(folder.path());
    assert_eq!(reported.names().len(), 7);
    for name in reported.names() {
        let (now, then) = (folder.path().join(name), results.join(name));
        assert!(fs::read(now).unwrap() == fs::read(then).unwrap(), "{name}");
    }
}

#[test]
fn the_readme_says_what_the_results_of_the_experiment_small_say() {
    let table = fs::read_to_string(root().join("results/small/table.json")).unwrap();
    let readme = fs::read_to_string(root().join("results/README.md")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let columns = row["columns"].as_array().unwrap().iter().map(|column| {
            let accuracy = &column["accuracy"];
            if accuracy.is_null() {
                return " - |".to_owned();
            }
            let number = |name: &str| accuracy[name].as_f64().unwrap();
            format!(" {:.1} ± {:.1} |", number("mean"), number("deviation"))
        });
        let network = row["network"].as_str().unwrap();
        let line = format!("\n| {network} |{}\n", columns.collect::<String>());
        assert!(readme.contains(&line), "results/README.md lacks {line}");
    }
}
