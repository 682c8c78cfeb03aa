//! The output of the program.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::data_folder::write_image_folder;
use crate::end_state::Metrics;
use crate::process::{CIFAR, cifar};
use crate::small_run::{SmallRun, train};

/// The words of the lines after the table's heading: a name, the loss, the accuracy, the file.
fn table(output: &str) -> Vec<Vec<&str>> {
    let (_, table) = output.split_once("\n\n").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect());
    let heading: Vec<&str> = lines.next().unwrap();
    assert_eq!(
        heading,
        ["test", "loss", "test", "accuracy", "model", "file"]
    );
    lines.collect()
}

#[test]
fn a_training_prints_its_settings_a_line_an_epoch_and_a_table() {
    let run = SmallRun::PreResNet.uninterrupted();
    let lines: Vec<&str> = run.output.lines().collect();
    assert_eq!(
        lines[0],
        "preresnet-8, widths divided by 16, on flex: 200 training and 2000 test images of synthetic"
    );
    assert!(
        lines[1].starts_with("6 epochs of SGD, averaged from epoch 3 on;"),
        "{}",
        lines[1]
    );
    assert!(lines[1].ends_with(" OUT"), "{}", lines[1]);

    // Two lines of headings, six of epochs.
    let folder = tempfile::tempdir().unwrap();
    run.folder.write_to(folder.path());
    let metrics = Metrics::read(folder.path());
    for (index, line) in lines[4..10].iter().enumerate() {
        let rounded = |column: &str, decimals: usize| match metrics.column(column)[index] {
            "" => "-".to_owned(),
            number => format!("{:.decimals$}", number.parse::<f64>().unwrap()),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                format!("{}/6", index + 1),
                rounded("learning_rate", 5),
                rounded("train_loss", 4),
                rounded("train_accuracy", 2),
                rounded("live_test_loss", 4),
                rounded("live_test_accuracy", 2),
                rounded("swa_test_loss", 4),
                rounded("swa_test_accuracy", 2),
                rounded("seconds", 1),
            ]
        );
    }

    let last = |column: &str| metrics.column(column)[5].parse::<f64>().unwrap();
    let row = |name: &str| {
        format!(
            "{:.4} {:.2}",
            last(&format!("{name}_test_loss")),
            last(&format!("{name}_test_accuracy"))
        )
    };
    let table = table(&run.output);
    assert_eq!(table[0][..3].join(" "), format!("live {}", row("live")));
    assert_eq!(table[0][4], "OUT/live.safetensors");
    // At the ends of epochs 3, 4, 5 and 6.
    assert_eq!(table[1][..3].join(" "), "SWA, 4 averaged");
    assert_eq!(table[1][3..5].join(" "), row("swa"));
    assert_eq!(table[1][6], "OUT/averaged.safetensors");
    assert_eq!(table.len(), 2);
    assert_eq!(lines.len(), 14);
}

#[test]
fn an_evaluation_of_a_model_file_prints_the_tables_score() {
    for run in [SmallRun::Vgg, SmallRun::PreResNet] {
        let folder = tempfile::tempdir().unwrap();
        let run = run.uninterrupted();
        run.folder.write_to(folder.path());
        let table = table(&run.output);
        let averaged = (&table[1][3..5], "averaged.safetensors");
        for (score, file) in [(&table[0][1..3], "live.safetensors"), averaged] {
            let file = folder.path().join(file);
            let output = cifar(["evaluate", "--model-file", file.to_str().unwrap()]).success();
            let lines: Vec<Vec<&str>> = output
                .lines()
                .map(|line| line.split_whitespace().collect())
                .collect();
            let classes = &lines[3..13];
            assert!(classes.iter().all(|class| class[1] == "200"), "{output}");
            // The classes are of one size: their mean accuracy is that of all.
            let accuracies = classes.iter().map(|class| class[3].parse::<f64>().unwrap());
            let mean = accuracies.sum::<f64>() / 10.0;
            let all = &lines[13];
            assert_eq!(all[..2], ["all", "2000"]);
            assert_eq!(all[2..4], *score);
            assert_eq!(all[3], format!("{mean:.2}"));
        }
    }
}

#[test]
fn a_training_without_swa_has_one_score_and_leaves_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    write_image_folder(&data, &["cat", "dog", "owl"], 5);
    let settings =
        "--no-swa --model preresnet-8 --width-divisor 16 --epochs 4 --batch-size 6 --data";
    let settings: Vec<&str> = settings
        .split(' ')
        .chain([data.to_str().unwrap()])
        .collect();
    let output = train(&settings, &out).end().success();

    let table = table(&output);
    assert_eq!((table.len(), table[0][0]), (1, "SGD"));
    assert!(out.join("live.safetensors").exists());
    assert!(!out.join("averaged.safetensors").exists());
    let metrics = Metrics::read(&out);
    assert_eq!(metrics.column("swa_test_loss"), [""; 4]);
    // By hand: 0.1 until half of the run is over, then down in a line to a hundredth at nine tenths.
    // After three of four epochs it is 0.1 (1 - 0.99 * 0.25 / 0.4).
    let rates = metrics.numbers("learning_rate");
    for (rate, expected) in rates.iter().zip([0.1, 0.1, 0.1, 0.038125]) {
        assert!((rate - expected).abs() < 1e-12, "{rates:?}");
    }

    let file = out.join("live.safetensors");
    let arguments = ["evaluate", "--model-file", file.to_str().unwrap(), "--data"];
    let output = cifar(arguments.into_iter().chain([data.to_str().unwrap()])).success();
    let last: Vec<&str> = output.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last[2..4], table[0][1..3]);
}

#[test]
fn nobody_has_to_listen_to_the_end() {
    let listens_to_nothing = |command: &mut Command| {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(process.stdout.take());
        let ended = process.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
        assert_eq!(ended.status.code(), Some(0));
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = Command::new(CIFAR);
    command.arg("train").args(SmallRun::PreResNet.settings());
    listens_to_nothing(command.arg("--out").arg(&out));

    let mut command = Command::new(CIFAR);
    command.args(["evaluate", "--model-file"]);
    listens_to_nothing(command.arg(out.join("averaged.safetensors")));
}

#[test]
fn every_command_explains_itself() {
    let help = |arguments: &[&str]| cifar(arguments).success();
    let program = help(&["--help"]);
    for command in ["train", "evaluate", "ensemble", "report"] {
        assert!(program.contains(command), "{program}");
    }
    let train = help(&["train", "--help"]);
    let flags = "--data --train-items --padding --model --width-divisor --epochs --batch-size --lr \
                 --momentum --weight-decay --method --no-swa --swa-start --swa-every --swa-lr --bn-batches --rank \
                 --ema-decay --cycles --cycle-start --cycle-epochs --cycle-lr --cycle-lowest-lr --seed \
                 --device --out --resume --overwrite --plain";
    for flag in flags.split_whitespace() {
        assert!(train.contains(flag), "{flag}");
    }
    let evaluate = help(&["evaluate", "--help"]);
    for flag in ["--model-file", "--data", "--device"] {
        assert!(evaluate.contains(flag), "{flag}");
    }
    let ensemble = help(&["ensemble", "--help"]);
    let flags = "--samples --scale --diagonal --seed --model --width-divisor --key --data --device \
                 --leave-out-not-finite --bins";
    for flag in flags.split_whitespace() {
        assert!(ensemble.contains(flag), "{flag}");
    }
    let report = help(&["report", "--help"]);
    assert!(report.contains("results.jsonl"), "{report}");
    let version = help(&["--version"]);
    assert_eq!(version, format!("cifar {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_program_without_a_command_says_which_there_are() {
    let ended = cifar::<&Path>([]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.errors.contains("evaluate"), "{}", ended.errors);
}
