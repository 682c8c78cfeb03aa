//! Models in 16 bits. Their average is kept in 32 bits: in 16, it would stop moving after thousands of updates.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_swa_test_support::parameters::values;
use swa_core::{Average, AveragingRule, EqualWeights, Exponential};

const UPDATES: usize = 4000;

#[derive(Module, Debug)]
struct Net {
    weight: Param<Tensor<1>>,
}

/// Weights that drift from 1 to 2 while they jump by an eighth, as SGD's do.
fn weights(update: usize, dtype: FloatDType) -> Tensor<1> {
    let drift = 1.0 + update as f32 / UPDATES as f32;
    let jump = if update.is_multiple_of(2) {
        0.125
    } else {
        -0.125
    };
    Tensor::<1>::from_floats([drift + jump, -drift], &Device::flex().autodiff()).cast(dtype)
}

/// The same updates in f64, and in the dtype itself.
fn references(rule: &impl AveragingRule, dtype: FloatDType) -> (Vec<f64>, Vec<f64>) {
    let mut wide = vec![0.0; 2];
    let mut narrow = Tensor::<1>::zeros([2], &Device::flex()).cast(dtype);
    for update in 0..UPDATES {
        let weight = if update == 0 {
            1.0
        } else {
            rule.weight(update)
        };
        let current = weights(update, dtype).inner();
        for (average, current) in wide.iter_mut().zip(values(current.clone())) {
            *average += weight * (current - *average);
        }
        narrow = narrow.clone() + (current - narrow).mul_scalar(weight);
    }
    (wide, values(narrow))
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

fn check(rule: impl AveragingRule + Clone + 'static) {
    for (dtype, expected) in [
        (FloatDType::BF16, DType::BF16),
        (FloatDType::F16, DType::F16),
    ] {
        let model = |update| Net {
            weight: Param::from_tensor(weights(update, dtype)),
        };
        let mut average = Average::new(&model(0), rule.clone()).unwrap();
        for update in 0..UPDATES {
            average.update(&model(update)).unwrap();
        }
        let averaged = average.model().unwrap().weight.val();
        assert_eq!(averaged.dtype(), expected);

        let (wide, narrow) = references(&rule, dtype);
        // In the model's own dtype, numbers up to 2 are rounded by at most 2^-8 or 2^-11.
        let rounding = if dtype == FloatDType::BF16 {
            1.0 / 256.0
        } else {
            1.0 / 2048.0
        };
        let off = largest_difference(&values(averaged), &wide);
        assert!(off <= rounding * 1.01, "{dtype:?}: {off}");
        // An average in that dtype ends elsewhere, since rounding removes its last small steps.
        let stalled = largest_difference(&narrow, &wide);
        assert!(stalled > 10.0 * rounding, "{dtype:?}: {stalled}");
    }
}

#[test]
fn equal_weights_do_not_stall() {
    check(EqualWeights);
}

#[test]
fn an_exponential_average_does_not_stall() {
    check(Exponential::new(0.999).unwrap());
}
