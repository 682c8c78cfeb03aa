use std::cell::Cell;
use std::io;
use std::sync::Arc;

use burn::module::Param;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{DType, Device, TensorData};

use super::*;

/// A model whose logits are its parameters, in f64.
#[derive(Module, Debug)]
struct Fixed {
    logits: Param<Tensor<2>>,
}

/// A model with these logits.
fn fixed<const N: usize>(rows: &[[f64; N]]) -> Fixed {
    let data = TensorData::new(rows.concat(), [rows.len(), N]);
    let logits = Tensor::from_data(data, (&Device::flex(), DType::F64));
    Fixed {
        logits: Param::from_tensor(logits),
    }
}

/// A model with these probabilities.
fn with_probabilities<const N: usize>(rows: &[[f64; N]]) -> Fixed {
    let logits: Vec<_> = rows.iter().map(|row| row.map(f64::ln)).collect();
    fixed(&logits)
}

fn labels(labels: &[i32]) -> Tensor<1, Int> {
    Tensor::from_ints(labels, &Device::flex())
}

fn forward(model: &Fixed, labels: &[i32]) -> (Tensor<2>, Tensor<1, Int>) {
    (model.logits.val(), self::labels(labels))
}

fn evaluate(
    config: &EnsembleConfig,
    members: Vec<Fixed>,
    labels: &[i32],
) -> Result<EnsembleReport, EnsembleError> {
    evaluate_ensemble(config, members, || [labels], forward)
}

fn logits<const N: usize>(rows: &[[f64; N]], labels: &[i32]) -> Result<Logits, PredictionError> {
    Logits::of(&fixed(rows), [labels], forward)
}

/// Two members of different opinions about item 1.
fn members() -> Vec<Fixed> {
    vec![
        with_probabilities(&[[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]),
        with_probabilities(&[[0.4, 0.35, 0.25], [0.1, 0.8, 0.1]]),
    ]
}

const LABELS: &[i32] = &[0, 1];

#[track_caller]
fn assert_scores(got: &Scores, [accuracy, nll, brier, ece]: [f64; 4]) {
    let pairs = [
        (got.accuracy, accuracy),
        (got.nll, nll),
        (got.brier, brier),
        (got.ece, ece),
    ];
    for (got, expected) in pairs {
        assert!((got - expected).abs() < 1e-14, "{pairs:?}");
    }
}

#[test]
fn each_prefix_has_the_scores_worked_out_by_hand() {
    let config = EnsembleConfig::new().with_bins(4);
    let report = evaluate(&config, members(), LABELS).unwrap();
    let [first, second] = report.members.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!((first.member, second.member), (1, 2));
    // Confidences 0.7 (right) and 0.6 (wrong), both in (0.5, 0.75].
    let expected = [0.5, -0.21f64.ln() / 2.0, (0.14 + 0.86) / 2.0, 0.15];
    assert_scores(&first.alone, expected);
    assert_eq!(first.ensemble, first.alone);
    // 0.4 and 0.8, in bins of their own, both right.
    let expected = [1.0, -0.32f64.ln() / 2.0, (0.545 + 0.06) / 2.0, 0.4];
    assert_scores(&second.alone, expected);
    // Their mean: (0.55, 0.275, 0.175) and (0.35, 0.55, 0.1).
    let expected = [1.0, -0.55f64.ln(), (0.30875 + 0.335) / 2.0, 0.45];
    assert_scores(&second.ensemble, expected);
    let mean = report.probabilities.values();
    for (got, expected) in mean.iter().zip([0.55, 0.275, 0.175, 0.35, 0.55, 0.1]) {
        assert!((got - expected).abs() < 1e-15, "{mean:?}");
    }
    assert_eq!(report.probabilities.labels(), [0, 1]);
    assert_eq!(report.probabilities.classes(), 3);
}

#[test]
fn weights_count_in_proportion() {
    let config = EnsembleConfig::new().with_bins(4);
    let config = config.with_weights(Some(vec![6.0, 2.0]));
    let report = evaluate(&config, members(), LABELS).unwrap();
    let mean = report.probabilities.values();
    let expected = [0.625, 0.2375, 0.1375, 0.475, 0.425, 0.1];
    for (got, expected) in mean.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-15, "{mean:?}");
    }
    assert_eq!(report.members[1].ensemble.accuracy, 0.5);
    assert_eq!(report.members[0].ensemble, report.members[0].alone);
}

#[test]
fn a_bin_is_open_below_and_closed_above() {
    // Probabilities of exactly 1/2, 1 and 1/4.
    let rows = [
        [0.0, 0.0, -1e3, -1e3],
        [-1e3, 0.0, -1e3, -1e3],
        [0.0, 0.0, 0.0, 0.0],
    ];
    let scores = logits(&rows, &[0, 1, 3]).unwrap().softmax();
    let scores = scores.scores(4).unwrap();
    let bin = |lower, upper, confidence, accuracy| ReliabilityBin {
        lower,
        upper,
        count: 1,
        confidence,
        accuracy,
    };
    let expected = [
        bin(0.0, 0.25, 0.25, 0.0),
        bin(0.25, 0.5, 0.5, 1.0),
        bin(0.75, 1.0, 1.0, 1.0),
    ];
    assert_eq!(scores.reliability, expected);
    assert_eq!(scores.ece, 0.25);
}

#[test]
fn a_probability_of_0_for_the_label_is_finite_in_likelihood() {
    let scores = logits(&[[0.0, -1e3]], &[1]).unwrap().softmax();
    let nll = scores.scores(15).unwrap().nll;
    assert_eq!(nll, -f64::MIN_POSITIVE.ln());
    assert!((nll - 708.4).abs() < 0.01);
}

#[test]
fn one_member_is_in_memory_at_a_time() {
    #[derive(Module, Debug)]
    struct Counted {
        fixed: Fixed,
        #[module(skip)]
        alive: Arc<()>,
    }
    let alive = Arc::new(());
    let asked = Cell::new(0);
    let made = members().into_iter().cycle().take(5).map(|fixed| {
        asked.set(asked.get() + 1);
        assert_eq!(Arc::strong_count(&alive), 1, "member {}", asked.get());
        Ok::<_, io::Error>(Counted {
            fixed,
            alive: alive.clone(),
        })
    });
    let config = EnsembleConfig::new();
    let forward = |model: &Counted, labels: &[i32]| forward(&model.fixed, labels);
    let report = evaluate_ensemble(&config, made, || [LABELS], forward).unwrap();
    assert_eq!(report.members.len(), 5);
    assert_eq!(asked.get(), 5);
}

#[test]
fn batches_are_joined_and_those_without_items_do_not_count() {
    let rows = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.5]];
    let labels = [0, 1, 1];
    let whole = logits(&rows, &labels).unwrap();
    let parts = [0..0, 0..1, 1..1, 1..3];
    let loaded = parts.map(Ok::<_, io::Error>);
    let parted = Logits::of(&fixed(&rows), loaded, |model, range: std::ops::Range<_>| {
        let labels = self::labels(&labels[range.clone()]);
        (model.logits.val().slice(range), labels)
    });
    assert_eq!(parted.unwrap(), whole);
}

#[test]
fn members_are_evaluated_in_validation_mode() {
    #[derive(Module, Debug)]
    struct Dropping {
        fixed: Fixed,
        dropout: Dropout,
    }
    let model = Dropping {
        fixed: fixed(&[[1.0, 2.0], [3.0, 4.0]]),
        dropout: DropoutConfig::new(0.9).init(),
    };
    let model = model.train();
    let logits = Logits::of(&model, [LABELS], |model, labels| {
        let input = model.fixed.logits.val().autodiff();
        (model.dropout.forward(input), self::labels(labels))
    });
    assert_eq!(logits.unwrap().values(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn the_best_temperature_is_the_one_worked_out_by_hand() {
    // One logit for all items, and three of four right: the probability is 3/4 at T = 2 / ln 3.
    let rows = [[2.0, 0.0]; 4];
    let temperature = logits(&rows, &[0, 0, 1, 0]).unwrap().temperature();
    assert!((temperature - 2.0 / 3f64.ln()).abs() < 1e-12);
    let scores = logits(&rows, &[0, 0, 1, 0]).unwrap();
    let scores = scores.with_temperature(temperature).unwrap().softmax();
    assert!(scores.scores(15).unwrap().ece < 1e-12);
    // Ten times the logits, ten times the temperature.
    let rows = [[20.0, 0.0]; 4];
    let temperature = logits(&rows, &[0, 0, 1, 0]).unwrap().temperature();
    assert!((temperature - 20.0 / 3f64.ln()).abs() < 1e-11);
}

#[test]
fn a_temperature_outside_the_bracket_is_the_nearest_end() {
    let temperature = |logit, labels: &[i32]| {
        let rows = [[logit, 0.0]; 4];
        logits(&rows, labels).unwrap().temperature()
    };
    assert!((temperature(0.1, &[0, 0, 0, 0]) - 0.01).abs() < 1e-12);
    assert!((temperature(2.0, &[1, 1, 0, 1]) - 100.0).abs() < 1e-10);
    // No temperature changes anything.
    assert_eq!(temperature(0.0, &[1, 1, 0, 1]), 1.0);
}

#[test]
fn a_temperature_that_is_not_positive_is_an_error() {
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320] {
        let error = logits(&[[1.0, 0.0]], &[0])
            .unwrap()
            .with_temperature(temperature)
            .unwrap_err();
        let PredictionError::InvalidTemperature { temperature: got } = error else {
            panic!("{error}");
        };
        assert_eq!(got.to_bits(), temperature.to_bits());
    }
}

#[test]
fn no_members_and_no_items_are_errors() {
    let config = EnsembleConfig::new();
    let error = evaluate(&config, vec![], LABELS).unwrap_err();
    assert!(error.to_string().contains("and there was none"), "{error}");
    let none = || Vec::<&[i32]>::new();
    let error = evaluate_ensemble(&config, members(), none, forward).unwrap_err();
    assert!(error.to_string().starts_with("member 1"), "{error}");
    assert!(error.to_string().contains("loader is not empty"), "{error}");
}

#[test]
fn a_member_that_cannot_be_loaded_is_named() {
    let file = || io::Error::other("cannot read run/member-2.bpk");
    let read = members().into_iter().take(1).map(Ok);
    let read = read.chain([Err(file())]);
    let config = EnsembleConfig::new();
    let error = evaluate_ensemble(&config, read, || [LABELS], forward).unwrap_err();
    assert_eq!(
        error.to_string(),
        "member 2 of the ensemble could not be loaded: cannot read run/member-2.bpk"
    );
}

#[test]
fn a_batch_that_cannot_be_loaded_names_the_member() {
    let config = EnsembleConfig::new();
    let batches = || [Err::<&[i32], _>(io::Error::other("no image 7"))];
    let error = evaluate_ensemble(&config, members(), batches, forward).unwrap_err();
    assert!(error.to_string().contains("member 1"), "{error}");
    assert!(error.to_string().contains("no image 7"), "{error}");
}

#[test]
fn members_of_other_items_or_classes_are_named() {
    let evaluate = |second: Fixed, labels: [&'static [i32]; 2]| {
        let members = [with_probabilities(&[[0.7, 0.3], [0.4, 0.6]]), second];
        let mut labels = labels.into_iter();
        let batches = || labels.next();
        evaluate_ensemble(&EnsembleConfig::new(), members, batches, forward).unwrap_err()
    };
    let error = evaluate(fixed(&[[0.5, 0.5]]), [LABELS, &[0]]);
    assert!(
        matches!(
            error,
            EnsembleError::ItemCount {
                member: 2,
                expected: 2,
                got: 1
            }
        ),
        "{error}"
    );
    let error = evaluate(fixed(&[[0.5; 3], [0.5; 3]]), [LABELS, LABELS]);
    assert!(
        matches!(
            error,
            EnsembleError::ClassCount {
                member: 2,
                expected: 2,
                got: 3
            }
        ),
        "{error}"
    );
    let error = evaluate(fixed(&[[0.5, 0.5], [0.5, 0.5]]), [LABELS, &[0, 0]]);
    assert!(
        matches!(
            error,
            EnsembleError::LabelsDiffer {
                member: 2,
                item: 1,
                expected: 1,
                got: 0
            }
        ),
        "{error}"
    );
}

#[test]
fn labels_that_name_no_class_are_errors() {
    for label in [-1, 2] {
        let error = logits(&[[0.5, 0.5], [0.5, 0.5]], &[0, label]).unwrap_err();
        let message = error.to_string();
        let start = format!("the label of item 1 (counted from 0) is {label}, expected");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[test]
fn shapes_that_do_not_fit_name_the_batch() {
    let error = logits(&[[0.5, 0.5], [0.5, 0.5]], &[0]).unwrap_err();
    assert!(error.to_string().contains("2 items and 1 labels"));

    let (first, second) = (fixed(&[[0.5; 3]]), fixed(&[[0.5; 2]]));
    let batches = [&first, &second];
    let error = Logits::of(&first, batches, |_, batch: &Fixed| forward(batch, &[0]));
    let message = error.unwrap_err().to_string();
    assert!(
        message.starts_with("batch 2 has logits of 2 classes, expected 3"),
        "{message}"
    );
}

#[test]
fn a_member_that_is_not_finite_is_an_error_or_left_out() {
    let broken = |value| fixed(&[[1.0, 0.0, 0.0], [0.0, value, 0.0]]);
    let mut config = EnsembleConfig::new();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut members = members();
        members.insert(1, broken(value));
        let error = evaluate(&config, members, LABELS).unwrap_err();
        let message = error.to_string();
        let start = "member 2 of the ensemble: the logit of item 1 (counted from 0) for class 1 is";
        assert!(message.starts_with(start), "{message}");
    }

    config.leave_out_not_finite = true;
    let expected = evaluate(&config, members(), LABELS).unwrap();
    let mut some = members();
    some.insert(1, broken(f64::NAN));
    let report = evaluate(&config, some, LABELS).unwrap();
    assert_eq!(report.left_out, [2]);
    assert_eq!(report.members[1].member, 3);
    assert_eq!(report.members[1].ensemble, expected.members[1].ensemble);

    let error = evaluate(&config, vec![broken(f64::NAN)], LABELS).unwrap_err();
    assert!(error.to_string().contains("none but 1"), "{error}");
}

#[test]
fn weights_that_are_invalid_are_errors() {
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MAX] {
        let weights = vec![f64::MAX, weight];
        let config = EnsembleConfig::new().with_weights(Some(weights));
        let error = evaluate(&config, members(), LABELS).unwrap_err();
        let expected = matches!(error, EnsembleError::InvalidWeight { member: 2, .. });
        assert!(expected, "{error}");
    }
    for count in [1, 3] {
        let config = EnsembleConfig::new().with_weights(Some(vec![1.0; count]));
        let of_known_length = evaluate(&config, members(), LABELS);
        let others = members().into_iter().filter(|_| true);
        let of_unknown_length = evaluate_ensemble(&config, others, || [LABELS], forward);
        for result in [of_known_length, of_unknown_length] {
            let error = result.unwrap_err();
            let EnsembleError::WeightCount { weights, members } = error else {
                panic!("{error}");
            };
            assert_eq!((weights, members), (count, 2));
        }
    }
}

#[test]
fn bins_without_an_item_take_no_memory() {
    let config = EnsembleConfig::new().with_bins(usize::MAX);
    let report = evaluate(&config, members(), LABELS).unwrap();
    // Confidences 0.7 (right) and 0.6 (wrong), in bins of their own.
    let expected = [0.5, -0.21f64.ln() / 2.0, (0.14 + 0.86) / 2.0, 0.45];
    let scores = &report.members[0].alone;
    assert_scores(scores, expected);
    let bins = &scores.reliability;
    for (bin, confidence) in bins.iter().zip([0.6, 0.7]) {
        assert!((bin.lower - confidence).abs() < 1e-14, "{bin:?}");
        assert!(bin.lower <= bin.confidence && bin.confidence <= bin.upper);
    }
    assert_eq!(bins.len(), 2);
}

#[test]
fn no_bins_are_an_error() {
    let config = EnsembleConfig::new().with_bins(0);
    let error = evaluate(&config, members(), LABELS).unwrap_err();
    assert!(matches!(error, EnsembleError::ZeroBins), "{error}");
    let probabilities = logits(&[[1.0, 0.0]], &[0]).unwrap().softmax();
    let error = probabilities.scores(0).unwrap_err();
    assert!(matches!(error, PredictionError::ZeroBins), "{error}");
}
