//! Records for tests, of an experiment that is made up.

use crate::experiment::record::tests::evaluation_record;
use crate::experiment::record::{
    MemberRecord, Method, PredictingModels, PredictionsRecord, Record, ReliabilityRecord,
    RunRecord, ScoresRecord,
};
use crate::report::results::FinishedRun;
use crate::run::config::{EvaluateOn, RunConfig, SgdSettings};

/// A run of SGD, for four epochs.
pub(crate) fn run_record(name: &str) -> RunRecord {
    RunRecord {
        run: name.to_owned(),
        data_set: "cifar10".to_owned(),
        model: "vgg16-bn".to_owned(),
        width_divisor: 8,
        method: Method::Sgd,
        budget: 4,
        epochs: 4,
        swa_start: None,
        swa_lr: None,
        sgd: SgdSettings {
            batch_size: 32,
            ..RunConfig::paper(&"vgg16-bn".parse().unwrap(), 10).sgd
        },
        seed: 1,
        train_images: 200,
        test_images: 100,
        evaluate_on: EvaluateOn::Test,
        shared_epochs: 0,
        device: "flex".to_owned(),
        machine: "a made-up processor, 2 threads".to_owned(),
        command: "cifar experiment small".to_owned(),
        version: "0.1.0".to_owned(),
        burn_version: "0.22.1".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        finished: "2026-01-01T00:01:00Z".to_owned(),
        peak_memory_bytes: Some(1 << 30),
    }
}

/// A record as a line of `results.jsonl`.
pub(crate) fn line(record: &Record) -> String {
    serde_json::to_string(record).unwrap() + "\n"
}

/// A finished run of SGD whose epochs have these test accuracies.
pub(crate) fn sgd_run(seed: u64, accuracies: &[f64]) -> FinishedRun {
    let name = format!("sgd-seed{seed}");
    let epochs = accuracies.iter().enumerate().map(|(index, accuracy)| {
        let mut evaluation = evaluation_record(&name, index + 1);
        evaluation.live_test_accuracy = *accuracy;
        (index + 1, evaluation)
    });
    FinishedRun {
        epochs: epochs.collect(),
        predictions: Vec::new(),
        record: RunRecord {
            seed,
            epochs: accuracies.len(),
            ..run_record(&name)
        },
    }
}

/// A finished run of SWA, averaged from epoch 3 on, whose average has these test accuracies.
pub(crate) fn swa_run(seed: u64, accuracies: &[f64]) -> FinishedRun {
    let mut run = sgd_run(seed, &vec![50.0; 2 + accuracies.len()]);
    run.record.run = format!("swa-seed{seed}");
    run.record.method = Method::Swa;
    run.record.swa_start = Some(3);
    run.record.swa_lr = Some(0.01);
    for (evaluation, accuracy) in run.epochs.values_mut().skip(2).zip(accuracies) {
        evaluation.swa_test_accuracy = Some(*accuracy);
        evaluation.swa_test_loss = Some(1.0);
        evaluation.seconds = 3.0;
        evaluation.reestimation_seconds = Some(0.75);
    }
    run
}

/// A finished run of another method, with the predictions of its models: accuracy, NLL, Brier score and
/// calibration error of the ensembles of the first one, the first two, … of them.
pub(crate) fn method_run(
    method: Method,
    seed: u64,
    models: PredictingModels,
    ensembles: &[[f64; 4]],
) -> FinishedRun {
    let mut run = match method {
        Method::Swa | Method::Swag => swa_run(seed, &[60.0; 4]),
        _ => sgd_run(seed, &[60.0; 4]),
    };
    run.record.run = format!("{method:?}-seed{seed}").to_lowercase();
    run.record.method = method;
    run.predictions
        .push(predictions(&run.record.run, models, ensembles));
    run
}

/// The predictions of models whose ensembles have these accuracies, NLLs, Brier scores and calibration
/// errors.
pub(crate) fn predictions(
    run: &str,
    models: PredictingModels,
    ensembles: &[[f64; 4]],
) -> PredictionsRecord {
    let member = |[accuracy, nll, brier, ece]: &[f64; 4]| {
        let ensemble = ScoresRecord {
            accuracy: *accuracy,
            nll: *nll,
            brier: *brier,
            ece: *ece,
        };
        let alone = ScoresRecord {
            accuracy: accuracy - 1.0,
            ..ensemble
        };
        MemberRecord {
            step: None,
            alone,
            ensemble,
        }
    };
    PredictionsRecord {
        run: run.to_owned(),
        models,
        temperature: None,
        images: 100,
        members: ensembles.iter().map(member).collect(),
        reliability: vec![bin(0.4, 25, 0.45, 0.5), bin(0.8, 75, 0.9, 0.8)],
        seconds: 1.0,
    }
}

/// A bin of reliability, a fifth wide at most.
pub(crate) fn bin(lower: f64, count: usize, confidence: f64, accuracy: f64) -> ReliabilityRecord {
    ReliabilityRecord {
        lower,
        upper: (lower + 0.2).min(1.0),
        count,
        confidence,
        accuracy,
    }
}
