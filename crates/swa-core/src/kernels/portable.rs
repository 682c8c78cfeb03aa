//! Burn's ordinary operations, on any backend.

use burn::tensor::{Bool, DType, Device, FloatDType, Tensor, kind::Basic};

use super::{Checked, Floats, Spreading, Verdict, accumulator_dtype, cast, total};

/// A [`Step`](super::Step) in the average's dtype, or `average` if the verdict is against the step.
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
        let largest = match dtype {
            FloatDType::F64 => f64::MAX,
            _ => f32::MAX.into(),
        };
        let difference = current.clone().sub(average.clone());
        let overflows = difference.clone().abs().greater_elem(largest);
        let was_infinite = average.clone().is_inf();
        let is_equal = current.clone().equal(average.clone());
        let kept = average.clone().mul_scalar(1.0 - weight);
        let between = kept.add(current.clone().mul_scalar(weight));
        let stepped = average.clone().add(difference.mul_scalar(weight));
        let stepped = stepped.mask_where(overflows, between);
        let stepped = stepped.mask_where(was_infinite, current);
        stepped.mask_where(is_equal, average.clone())
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

/// For each parameter 0 if a check finds that it is not finite, else 1: in f32, on the device of all values.
///
/// This looks at the sums of those that are not equal in the averages. As long as a sum does not overflow, it is finite if and only
/// if all elements are.
pub(super) fn finite(checks: Vec<Checked>, parameters: usize, device: &Device) -> Tensor<1> {
    // 0 for finite sums, else a NaN: a sum in f64 may be beyond f32.
    let mut sums = vec![Tensor::zeros([1], (device, DType::F32)); parameters];
    for check in checks {
        let Checked {
            parameter,
            current,
            averages,
        } = check;
        let current = current.clone().cast(accumulator_dtype(current.dtype()));
        let is_equal = averages.into_iter().map(|average| {
            let current = current.clone().cast(average.dtype().into());
            current.flat().equal(average.flat())
        });
        let is_constant = is_equal.reduce(Tensor::bool_and);
        let current = current.flat();
        let changing = match is_constant {
            None => current,
            Some(is_constant) => current.mask_fill(is_constant, 0.0),
        };
        let sum = in_f32(changing.sum().mul_scalar(0.0));
        sums[parameter] = sums[parameter].clone().add(sum);
    }
    in_f32(Tensor::cat(sums, 0).is_finite().float())
}

/// Casts to f32, and not to the device's default dtype: flags are counted up, and bf16 cannot count beyond 256.
fn in_f32(tensor: Tensor<1>) -> Tensor<1> {
    cast(tensor, FloatDType::F32)
}

/// See [`super::combine`].
pub(super) fn combine(terms: &[(f64, Vec<Floats>)]) -> Vec<Floats> {
    let parameters = terms.first().map_or(0, |(_, vector)| vector.len());
    let total = total(
        terms.iter().map(|(coefficient, _)| *coefficient),
        f64::EPSILON,
    );
    let combined = (0..parameters).map(|parameter| {
        let vectors = terms.iter().map(|(_, vector)| {
            let values = vector[parameter].clone();
            let dtype = accumulator_dtype(values.dtype());
            values.cast(dtype).flat()
        });
        let vectors: Vec<Tensor<1>> = vectors.collect();
        let constant = vectors[0].clone();
        let is_equal = vectors.iter().map(|it| it.clone().equal(constant.clone()));
        let is_equal = is_equal.reduce(Tensor::bool_and);
        let scaled = vectors.iter().zip(terms);
        let scaled = scaled.map(|(it, (coefficient, _))| it.clone().mul_scalar(*coefficient));
        let sum = scaled.reduce(Tensor::add);
        let (sum, is_equal) = sum.zip(is_equal).expect("there is a term");
        let kept = if total == 0.0 {
            constant.zeros_like()
        } else {
            constant.mul_scalar(total)
        };
        let is_constant = sum.clone().is_finite().bool_not().bool_and(is_equal);
        Floats::of(sum.mask_where(is_constant, kept))
    });
    combined.collect()
}

/// See [`super::spread`].
pub(super) fn spread(parameter: &mut Spreading, kept: f64, added: f64) {
    let mean = parameter.mean.clone().flat();
    let current = parameter.current.clone().cast(mean.dtype().into()).flat();
    let is_equal = current.clone().equal(mean.clone());
    let deviation = current.sub(mean).mask_fill(is_equal, 0.0);
    let kept = parameter.variance.clone().flat().mul_scalar(kept);
    let variance = kept.add(deviation.clone().square().mul_scalar(added));
    parameter.variance = Floats::of(variance);
    parameter.deviation = Floats::of(deviation);
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
