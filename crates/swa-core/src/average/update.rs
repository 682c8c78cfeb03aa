//! One update of an average.

use burn::tensor::{DType, FloatDType, Tensor, kind::Basic};

use crate::kernels::{self, Floats, Reading, Refusal, Step, Verdict, accumulator_dtype, is_host};
use crate::weights::{Role, Value, Weights};

/// The time at which the host reads an accelerator's verdict on the weights.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Flags {
    ReadNow,
    LeaveOnDevice,
}

/// Updates `average` towards `current` by `weight`, and returns its values. Parameters in roles that are not averaged take the
/// current value. Both lists are in the order of one layout.
///
/// `is_large` holds for each float parameter what [`kernels::is_large`] tells of its average, or is empty if that is unknown.
///
/// The result beside the values tells why no parameter was updated, if none was. A refusal's index counts float parameters.
pub(super) fn updated(
    average: Vec<Value>,
    current: Weights,
    weight: f64,
    is_averaged: impl Fn(Role) -> bool,
    flags: Flags,
    unread: &mut Option<Verdict>,
    is_large: &mut Vec<bool>,
) -> (Vec<Value>, Result<(), Refusal>) {
    let (layout, current) = current.into_parts();
    assert_eq!(
        average.len(),
        current.len(),
        "an earlier update has panicked"
    );
    let mut steps = Vec::new();
    let parameters = layout.parameters().iter().zip(average).zip(current);
    let values = parameters.map(|((parameter, average), current)| match (average, current) {
        (Value::Float(average), Value::Float(current)) => {
            steps.push(if is_averaged(parameter.role) {
                let is_large = is_large.get(steps.len()).copied();
                let is_large = is_large.unwrap_or_else(|| kernels::is_large(&average));
                Step {
                    is_large,
                    ..step(average, current, weight)
                }
            } else {
                latest(average, current)
            });
            None
        }
        other => Some(other),
    });
    let values: Vec<Option<(Value, Value)>> = values.collect();

    let outcome = kernels::take(
        &mut steps,
        match flags {
            Flags::ReadNow => Reading::Now,
            Flags::LeaveOnDevice => Reading::Later(unread),
        },
    );
    *is_large = steps.iter().map(|step| step.is_large).collect();
    let verdict = unread.as_ref().filter(|_| flags == Flags::LeaveOnDevice);
    let mut averages = steps.into_iter().flat_map(|step| step.averages);
    let values = values.into_iter().filter_map(|value| match value {
        None => averages.next().map(|(average, _)| Value::Float(average)),
        Some((average, current)) => Some(match outcome {
            Ok(()) => accepted(average, current, verdict),
            Err(_) => average,
        }),
    });
    (values.collect(), outcome)
}

/// A step of a parameter that is averaged. After a record was loaded, its dtype may be another than an accumulator's.
fn step(average: Floats, current: Floats, weight: f64) -> Step {
    let dtype = match average.dtype() {
        DType::F64 => FloatDType::F64,
        _ => accumulator_dtype(current.dtype()),
    };
    let device = current.device();
    // In the host's memory, one pass is enough if both have the same dtype.
    let current = if is_host(&device) {
        current.cast(dtype)
    } else {
        current
    };
    Step {
        averages: vec![(average.moved_to(&device).cast(dtype), weight)],
        current,
        checked: true,
        is_large: true,
    }
}

/// A step to the current values themselves.
fn latest(average: Floats, current: Floats) -> Step {
    let average = average.moved_to(&current.device());
    Step {
        averages: vec![(average.cast(current.dtype().into()), 1.0)],
        current,
        checked: false,
        is_large: true,
    }
}

/// An int or bool parameter: the current value, or the value before if the device left the update out.
fn accepted(before: Value, current: Value, verdict: Option<&Verdict>) -> Value {
    fn of<K: Basic>(
        before: Tensor<1, K>,
        current: Tensor<1, K>,
        verdict: Option<&Verdict>,
    ) -> Tensor<1, K> {
        kernels::accepted(before.to_device(&current.device()), current, verdict)
    }
    match (before, current) {
        (Value::Int(before), Value::Int(current)) => Value::Int(of(before, current, verdict)),
        (Value::Bool(before), Value::Bool(current)) => Value::Bool(of(before, current, verdict)),
        (_, current) => current,
    }
}
