//! The files that a training leaves in its folder.

use std::fs;

use safetensors::SafeTensors;

use crate::end_state::{Checkpoint, Metrics};
use crate::small_run::{SmallRun, train};
use crate::snapshot::Snapshot;

/// The files that a run of six epochs leaves.
const FILES: [&str; 13] = [
    "averaged.safetensors",
    "checkpoint/model-5.bpk",
    "checkpoint/model-6.bpk",
    "checkpoint/optim-5.bpk",
    "checkpoint/optim-6.bpk",
    "checkpoint/scheduler-5.bpk",
    "checkpoint/scheduler-6.bpk",
    "config.json",
    "experiment.log",
    "images.json",
    "live.safetensors",
    "lock",
    "metrics.csv",
];

#[test]
fn a_run_leaves_settings_metrics_models_and_two_checkpoints() {
    assert_eq!(SmallRun::Vgg.uninterrupted().folder.names(), FILES);
}

#[test]
fn the_metrics_are_a_row_an_epoch_at_the_papers_rates() {
    let folder = SmallRun::Vgg.finished();
    let metrics = Metrics::read(folder.path());
    assert_eq!(
        metrics.columns,
        [
            "epoch",
            "learning_rate",
            "train_loss",
            "train_accuracy",
            "live_test_loss",
            "live_test_accuracy",
            "swa_test_loss",
            "swa_test_accuracy",
            "seconds",
            "reestimation_seconds",
        ]
    );
    assert_eq!(metrics.column("epoch"), ["1", "2", "3", "4", "5", "6"]);
    // By hand: from 0.05 down to 0.01, in a line from half of the three epochs before the average starts
    // to nine tenths of them. Two thirds are 5/12 of that way, 0.05 - 0.04 * 5/12 = 1/30.
    let rates = metrics.numbers("learning_rate");
    for (rate, expected) in rates.iter().zip([0.05, 0.05, 1.0 / 30.0, 0.01, 0.01, 0.01]) {
        assert!((rate - expected).abs() < 1e-12, "{rates:?}");
    }
    let averaged = metrics.column("swa_test_loss");
    assert!(averaged[..2].iter().all(|loss| loss.is_empty()));
    assert!(averaged[2..].iter().all(|loss| !loss.is_empty()));
}

#[test]
fn the_averaged_model_is_the_mean_of_its_epochs_live_weights() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --batch-size 32 \
                    --epochs 3 --swa-start 2";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    train(&settings, out).end().success();

    let [second, third] = ["2", "3"].map(|epoch| Checkpoint::read(out, epoch));
    let file = fs::read(out.join("averaged.safetensors")).unwrap();
    let averaged = SafeTensors::deserialize(&file).unwrap();
    let mut moved = 0.0_f32;
    for (ours, theirs) in [
        ("conv1.weight", "conv1.weight"),
        ("layer2.0.conv2.weight", "layer2.0.conv2.weight"),
        (
            "layer3.0.downsample.0.weight",
            "layer3.0.downsample.0.weight",
        ),
        ("bn.gamma", "bn.weight"),
        ("bn.beta", "bn.bias"),
        ("fc.bias", "fc.bias"),
    ] {
        let weights = [&second, &third].map(|epoch| epoch.floats(&format!("network.{ours}")));
        let (bytes, []) = averaged.tensor(theirs).unwrap().data().as_chunks() else {
            panic!("{theirs} does not hold floats");
        };
        assert_eq!(bytes.len(), weights[0].len());
        for ((bytes, second), third) in bytes.iter().zip(&weights[0]).zip(&weights[1]) {
            let mean = f32::midpoint(*second, *third);
            let averaged = f32::from_le_bytes(*bytes);
            assert!(
                (averaged - mean).abs() < 1e-6,
                "{theirs}: {averaged} {mean}"
            );
            moved = moved.max((second - third).abs());
        }
    }
    // Neither of the two is the mean itself.
    assert!(moved > 1e-3, "{moved}");
}

#[test]
fn overwriting_a_run_replaces_what_it_wrote_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    SmallRun::PreResNet.uninterrupted().folder.write_to(out);
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fs::create_dir(out.join("figures")).unwrap();
    fs::write(out.join("figures/loss.png"), "mine").unwrap();

    let settings =
        "--overwrite --no-swa --model preresnet-8 --width-divisor 8 --train-items 20 --epochs 1";
    let settings: Vec<&str> = settings.split(' ').collect();
    train(&settings, out).end().success();

    let after = Snapshot::of(out);
    assert_eq!(
        after.names(),
        [
            "checkpoint/model-1.bpk",
            "checkpoint/optim-1.bpk",
            "checkpoint/scheduler-1.bpk",
            "config.json",
            "experiment.log",
            "figures/loss.png",
            "images.json",
            "live.safetensors",
            "lock",
            "metrics.csv",
            "notes.txt",
        ]
    );
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    assert_eq!(Metrics::read(out).column("epoch"), ["1"]);
    let log = fs::read_to_string(out.join("experiment.log")).unwrap();
    assert!(!log.contains("epoch 2"), "the old log is still there");
}
