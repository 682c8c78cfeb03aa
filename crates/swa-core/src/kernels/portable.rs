//! Burn's ordinary operations, on any backend.

use burn::tensor::{Bool, FloatDType, Tensor, kind::Basic};

use super::{Floats, Verdict, accumulator_dtype, cast};

/// `average + weight * (current - average)` in the average's dtype, or `average` if the verdict is against the step.
pub(super) fn step(
    average: &Floats,
    current: Floats,
    weight: f64,
    verdict: Option<&Verdict>,
) -> Floats {
    let dtype: FloatDType = average.dtype().into();
    let (average, current) = (average.clone().flat(), current.cast(dtype).flat());
    let stepped = if weight == 1.0 {
        current
    } else {
        let step = current.sub(average.clone()).mul_scalar(weight);
        average.clone().add(step)
    };
    Floats::of(accepted(average, stepped, verdict))
}

/// `new`, or `old` if the verdict is against the update. Both are on one device.
pub(crate) fn accepted<K: Basic>(
    old: Tensor<1, K>,
    new: Tensor<1, K>,
    verdict: Option<&Verdict>,
) -> Tensor<1, K> {
    match verdict {
        None => new,
        Some(verdict) => {
            let mask: Tensor<1, Bool> = verdict.accept(&new.device());
            old.mask_where(mask.expand(new.shape()), new)
        }
    }
}

/// For each tensor 1 if it is free of NaN and infinities, else 0: in f32, and on the device of the first tensor.
///
/// This looks at their sums. As long as a sum does not overflow, it is finite if and only if all elements are. A sum takes one
/// launch, which reads the elements once. A test of each element would take five, and write a tensor of that size each time.
pub(super) fn finite(values: Vec<Floats>) -> Tensor<1> {
    let device = values[0].device();
    let sums = values.into_iter().map(|values| {
        let dtype = accumulator_dtype(values.dtype());
        let sum = values.cast(dtype).flat().sum();
        in_f32(sum).to_device(&device)
    });
    in_f32(Tensor::cat(sums.collect(), 0).is_finite().float())
}

/// Casts to f32, and not to the device's default dtype: flags are counted up, and bf16 cannot count beyond 256.
fn in_f32(tensor: Tensor<1>) -> Tensor<1> {
    cast(tensor, FloatDType::F32)
}

pub(super) fn combine(terms: &[(f64, Vec<Floats>)]) -> Vec<Floats> {
    let parameters = terms.first().map_or(0, |(_, vector)| vector.len());
    let combined = (0..parameters).map(|parameter| {
        let terms = terms.iter().map(|(coefficient, vector)| {
            let values = vector[parameter].clone();
            let dtype = accumulator_dtype(values.dtype());
            values.cast(dtype).flat().mul_scalar(*coefficient)
        });
        terms.reduce(|sum, term| sum.add(term)).map(Floats::of)
    });
    combined.flatten().collect()
}

pub(super) fn dot(left: &[Floats], right: &[Floats]) -> Result<f64, String> {
    let sums = left.iter().zip(right).map(|(left, right)| {
        let dtype = accumulator_dtype(left.dtype());
        let wide = |values: &Floats| values.clone().cast(dtype).flat();
        in_f32(wide(left).mul(wide(right)).sum())
    });
    let sums: Vec<_> = sums.collect();
    if sums.is_empty() {
        return Ok(0.0);
    }
    Ok(read(Tensor::cat(sums, 0))?.into_iter().sum())
}

/// Reads numbers from their device.
pub(super) fn read(numbers: Tensor<1>) -> Result<Vec<f64>, String> {
    match numbers.try_into_data() {
        Ok(data) => Ok(data.iter::<f64>().collect()),
        Err(error) => Err(error.to_string()),
    }
}
