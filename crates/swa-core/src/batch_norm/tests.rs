use std::convert::Infallible;
use std::io;

use burn::module::RunningState;
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use burn_swa_test_support::parameters::values;

use super::*;

#[derive(Module, Debug)]
struct Net {
    first: BatchNorm,
    dropout: Dropout,
    second: BatchNorm,
}

impl Net {
    fn new(momenta: [f64; 2]) -> Self {
        let device = Device::default().autodiff();
        let norm = |momentum| {
            let mut norm = BatchNormConfig::new(2)
                .with_momentum(momentum)
                .init(&device);
            norm.running_mean = RunningState::new(Tensor::from_floats([7.0, 7.0], &device));
            norm
        };
        Self {
            first: norm(momenta[0]),
            dropout: DropoutConfig::new(0.5).init(),
            second: norm(momenta[1]),
        }
    }

    /// `second` sees three times the input, plus one.
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.first.forward(input.clone());
        let input = self.dropout.forward(input);
        self.second.forward(input.mul_scalar(3.0).add_scalar(1.0))
    }
}

fn batch(rows: &[[f32; 2]]) -> Tensor<2> {
    let device = Device::default().autodiff();
    let flat = rows.concat();
    Tensor::from_data(TensorData::new(flat, [rows.len(), 2]), &device)
}

fn run(model: &Net, rows: Tensor<2>) -> usize {
    let samples = rows.dims()[0];
    model.forward(rows);
    samples
}

/// Re-estimates with the default settings.
fn reestimate<M, I, B>(
    model: &M,
    batches: I,
    forward: impl FnMut(&M, B) -> usize,
) -> Result<(M, BatchNormReport), BatchNormError>
where
    M: Module,
    I: IntoIterator,
    I::Item: IntoBatch<B>,
    B: Clone,
{
    reestimate_batch_norm(model, &ReestimationConfig::new(), batches, forward)
}

fn statistics_of(norm: &BatchNorm) -> Vec<f64> {
    let statistics = [&norm.running_mean, &norm.running_var];
    statistics.map(|it| values(it.value())).concat()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    for (a, b) in got.iter().zip(expected) {
        assert!(
            (a - b).abs() <= 2e-6 * b.abs().max(1.0),
            "{got:?} {expected:?}"
        );
    }
}

#[test]
fn all_samples_count_alike_whatever_the_batches_and_momentum() {
    // Columns 1, 3, 5, 11 (mean 5, variance 14) and 2, 2, 4, 8 (mean 4, variance 6).
    let batches = [
        batch(&[[1.0, 2.0], [3.0, 2.0], [5.0, 4.0]]),
        batch(&[[11.0, 8.0]]),
    ];
    for momenta in [[0.1, 0.9], [1.0, 0.01]] {
        let model = Net::new(momenta);
        let (model, report) = reestimate(&model, batches.clone(), run).unwrap();
        assert_close(&statistics_of(&model.first), &[5.0, 4.0, 14.0, 6.0]);
        // Three times the input, plus one. With dropout on, they would be different.
        assert_close(&statistics_of(&model.second), &[16.0, 13.0, 126.0, 54.0]);
        assert_eq!((report.layers, report.batches, report.samples), (2, 2, 4));
    }
}

#[test]
fn peers_average_the_statistics_of_batches_instead() {
    // Columns 1, 3, 5 (mean 3, variance 8/3) and 2, 2, 4 (8/3, 8/9), then 11 and 8 alone (variance 0).
    let batches = [
        batch(&[[1.0, 2.0], [3.0, 2.0], [5.0, 4.0]]),
        batch(&[[11.0, 8.0]]),
    ];
    for (pooling, expected) in [
        (Pooling::WeightedBySize, [5.0, 4.0, 2.0, 2.0 / 3.0]),
        (Pooling::Equal, [7.0, 16.0 / 3.0, 4.0 / 3.0, 4.0 / 9.0]),
    ] {
        let model = Net::new([0.1, 0.9]);
        let config = ReestimationConfig::new().with_pooling(pooling);
        let (model, _) = reestimate_batch_norm(&model, &config, batches.clone(), run).unwrap();
        assert_close(&statistics_of(&model.first), &expected);
    }
}

#[test]
fn a_layer_is_pooled_over_the_batches_that_pass_it() {
    let batches = || {
        [
            (batch(&[[1.0, 2.0], [3.0, 2.0], [5.0, 4.0]]), true),
            (batch(&[[11.0, 8.0]]), false),
            (batch(&[[11.0, 8.0]]), true),
        ]
    };
    let run = |model: &Net, (rows, both): (Tensor<2>, bool)| {
        if both {
            run(model, rows)
        } else {
            model.first.forward(rows.clone());
            rows.dims()[0]
        }
    };
    for (pooling, first, second) in [
        // Of 1, 3, 5, 11, 11 the mean is 6.2, the variance 16.96; `second` sees one 11 only, three times and plus one.
        (
            Pooling::Exact,
            [6.2, 4.8, 16.96, 7.36],
            [16.0, 13.0, 126.0, 54.0],
        ),
        // Means 3, 11, 11 and 8/3, 8, 8 of batches, or 10, 34 and 9, 25; variances 8/3 and 8/9, or 24 and 8, and none.
        (
            Pooling::Equal,
            [25.0 / 3.0, 56.0 / 9.0, 8.0 / 9.0, 8.0 / 27.0],
            [22.0, 17.0, 12.0, 4.0],
        ),
    ] {
        let config = ReestimationConfig::new().with_pooling(pooling);
        let (model, _) =
            reestimate_batch_norm(&Net::new([0.1, 0.9]), &config, batches(), run).unwrap();
        assert_close(&statistics_of(&model.first), &first);
        assert_close(&statistics_of(&model.second), &second);
    }

    // A layer that only a batch without samples passes has no statistics.
    let empty = |model: &Net, (rows, both)| {
        let samples = run(model, (rows, both));
        if both { 0 } else { samples }
    };
    let [both, first, _] = batches();
    let error = reestimate(&Net::new([0.1, 0.9]), [both, first], empty).unwrap_err();
    assert!(error.to_string().contains("`second`"), "{error}");
}

#[test]
fn a_large_mean_does_not_drown_the_variance() {
    // 1000 ± 1: variance 1.
    let batches = (0..100).map(|_| batch(&[[1000.0, 0.0], [1002.0, 0.0]]));
    let (model, _) = reestimate(&Net::new([0.1, 0.1]), batches, run).unwrap();
    let statistics = statistics_of(&model.first);
    assert!((statistics[0] - 1001.0).abs() < 2e-3, "{statistics:?}");
    assert!((statistics[2] - 1.0).abs() < 1e-3, "{statistics:?}");
}

#[test]
fn the_model_passed_in_does_not_change() {
    let model = Net::new([0.1, 0.1]);
    reestimate(&model, [batch(&[[1.0, 2.0], [3.0, 4.0]])], run).unwrap();
    let expected = [7.0, 7.0, 1.0, 1.0];
    assert_eq!(statistics_of(&model.first.valid()), expected);
    assert!(model.dropout.training.is_enabled());
}

#[test]
fn the_report_says_how_much_the_last_tenth_moved() {
    // Nine batches of 0 ± 1, then one of 10 ± 1: the mean moves from 0 to 1, the variance from
    // 1 to 1 + 0.9 * 0.1 * 100 = 10.
    let at = |value: f32| batch(&[[value - 1.0, value - 1.0], [value + 1.0, value + 1.0]]);
    let batches: Vec<_> = (0..9).map(|_| at(0.0)).chain([at(10.0)]).collect();
    let (_, report) = reestimate(&Net::new([0.1, 0.1]), batches, run).unwrap();
    let deviation = 10f64.sqrt();
    let mean = 1.0 / deviation;
    let spread = (deviation - 1.0) / deviation;
    let expected = ((mean * mean + spread * spread) / 2.0).sqrt();
    // In the second layer, the deviations and all changes are three times as large.
    assert!(
        (report.drift.unwrap() - expected).abs() < 1e-5,
        "{report:?}"
    );

    // Many batches, of which only some are remembered: nothing changes.
    let batches = (0..1000).map(|_| at(0.0));
    let (_, report) = reestimate(&Net::new([0.1, 0.1]), batches, run).unwrap();
    assert!(report.drift.unwrap() < 1e-6, "{report:?}");

    let (_, report) = reestimate(&Net::new([0.1, 0.1]), [at(0.0)], run).unwrap();
    assert_eq!(report.drift, None);
}

#[test]
fn the_first_batches_alone_are_taken_if_asked() {
    let batches = || (0..).map(|index| batch(&[[index as f32, 0.0], [index as f32 + 2.0, 4.0]]));
    let config = ReestimationConfig::new().with_first_batches(Some(2));
    let (model, report) =
        reestimate_batch_norm(&Net::new([0.1, 0.1]), &config, batches(), run).unwrap();
    // 0, 2, 1, 3.
    assert_close(&statistics_of(&model.first), &[1.5, 2.0, 1.25, 4.0]);
    assert_eq!((report.batches, report.samples), (2, 4));

    let none = ReestimationConfig::new().with_first_batches(Some(0));
    let error = reestimate_batch_norm(&Net::new([0.1, 0.1]), &none, batches(), run).unwrap_err();
    assert!(error.to_string().contains("at least 1"), "{error}");
}

#[test]
fn settings_are_saved_and_loaded() {
    let config = ReestimationConfig::new()
        .with_pooling(Pooling::WeightedBySize)
        .with_first_batches(Some(16));
    let saved = config.to_string();
    let loaded = ReestimationConfig::load_binary(saved.as_bytes()).unwrap();
    assert_eq!(loaded, config);
}

#[test]
fn what_cannot_be_estimated_is_an_error_that_names_the_layer() {
    let some = || [batch(&[[1.0, 2.0], [3.0, 4.0]])];

    let none: [Tensor<2>; 0] = [];
    let error = reestimate(&Net::new([0.1, 0.1]), none, run).unwrap_err();
    assert!(matches!(error, BatchNormError::NoBatches), "{error}");

    let error = reestimate(&Net::new([0.1, 0.0]), some(), run).unwrap_err();
    assert!(error.to_string().contains("`second`"), "{error}");
    assert!(
        matches!(error, BatchNormError::NotUpdated { .. }),
        "{error}"
    );

    let only_second = |model: &Net, rows: Tensor<2>| {
        model.second.forward(rows);
        2
    };
    let error = reestimate(&Net::new([0.1, 0.1]), some(), only_second).unwrap_err();
    assert!(error.to_string().contains("`first`"), "{error}");

    let bad = [batch(&[[1.0, 2.0], [3.0, f32::NAN]])];
    let error = reestimate(&Net::new([0.1, 0.1]), bad, run).unwrap_err();
    assert!(matches!(error, BatchNormError::NotFinite { .. }), "{error}");

    let failing = [Err(io::Error::other("disk on fire"))];
    let error = reestimate(
        &Net::new([0.1, 0.1]),
        failing,
        |model: &Net, rows: Tensor<2>| run(model, rows),
    )
    .unwrap_err();
    assert!(error.to_string().contains("disk on fire"), "{error}");
}

#[test]
fn statistics_in_16_bits_are_refused_with_a_way_out() {
    for dtype in [FloatDType::BF16, FloatDType::F16] {
        let mut model = Net::new([0.1, 0.1]);
        let device = Device::default().autodiff();
        let mean = Tensor::<1>::zeros([2], &device).cast(dtype);
        model.second.running_mean = RunningState::new(mean);
        let error = reestimate(&model, [batch(&[[1.0, 2.0]])], run).unwrap_err();
        assert!(error.to_string().contains("`second`"), "{error}");
        assert!(error.to_string().contains("F32"), "{error}");
        let before = ReestimationConfig::new().check(&model).unwrap_err();
        assert_eq!(before.to_string(), error.to_string());
    }
}

#[test]
fn a_model_without_batch_norm_is_done_at_once() {
    let model: Linear = LinearConfig::new(2, 2).init(&Device::default());
    let batches = std::iter::from_fn(|| -> Option<Result<Tensor<2>, Infallible>> {
        panic!("no batch should be asked for")
    });
    let (_, report) = reestimate(&model, batches, |_: &Linear, _: Tensor<2>| 1).unwrap();
    assert_eq!(report, BatchNormReport::default());
}
