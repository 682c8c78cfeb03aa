//! Operations on lists of tensors, for each kind of device.
//!
//! This is the only place that knows the backends, with a file for each kind: `portable` for Burn's ordinary operations, which
//! run on any backend, `flex` for tensors in the host's memory, and `cube` for CubeCL's devices, with one file per kernel
//! (`fusion` has the same kernels where Burn defers operations). A new backend is a new file. `cfg(feature)` is nowhere else.

#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
mod floats;
#[cfg(feature = "cubecl")]
mod fusion;
mod portable;
mod verdict;

use burn::tensor::{DType, Device, FloatDType};

pub(crate) use floats::{Floats, cast};
pub(crate) use portable::accepted;
use verdict::Checked;
pub(crate) use verdict::Verdict;

/// A parameter's current values, and the averages that take a step towards them:
///
/// ```text
/// average += weight * (current - average)
/// ```
///
/// Each average has its own weight. A weight of 1 gives the current values themselves. An average keeps its dtype.
///
/// Elements that are equal in both are no step, so that infinities stay. An infinity in an average that is a finite number in the
/// current values is no constant any more, and takes that number, as a mean could never leave it. If the difference of two finite elements is beyond the
/// largest number of the dtype, the step is `(1 - weight) * average + weight * current`, which is between the two.
pub(crate) struct Step {
    /// The index of the parameter in its layout. A parameter may have several steps.
    pub(crate) parameter: usize,
    pub(crate) current: Floats,
    /// If true, it is a reason to take no step at all if the current values hold a NaN, or an infinity that an average does not
    /// hold in the same place.
    pub(crate) checked: bool,
    /// If false, no element of the averages [is large](is_large). A check of current values that are large makes it true, since
    /// the averages are so after the step.
    pub(crate) is_large: bool,
    pub(crate) averages: Vec<(Floats, f64)>,
}

/// The reason to take no step.
pub(crate) enum Refusal {
    /// The current values of the parameter with this index hold a NaN, or an infinity that an average does not hold in the same
    /// place.
    NotFinite(usize),
    /// The device could not be read, with its message.
    Device(String),
}

/// Checks the current values of all `checked` steps, in one pass, and then takes all steps: in place, if nothing else shares
/// the memory of the averages.
///
/// The host waits for the device that checks, unless there is a `verdict` to note the result in. Then the device itself leaves out
/// the steps towards values that are not finite, and all later steps under that verdict.
///
/// # Errors
///
/// The reason. The averages stay as they were.
pub(crate) fn take(steps: &mut [Step], verdict: Option<&mut Verdict>) -> Result<(), Refusal> {
    let elsewhere = steps
        .iter()
        .filter(|step| step.checked && !is_host(&step.current.device()));
    let checks: Vec<Checked> = elsewhere.map(Checked::of).collect();
    let Some(first) = checks.first() else {
        return take_in_memory(steps);
    };
    let device = first.current.device();
    check_in_memory(steps)?;
    if let Some(verdict) = verdict {
        verdict.check(checks);
        take_unchecked(steps, Some(verdict));
        return Ok(());
    }
    let parameters = steps.iter().map(|step| step.parameter + 1).max();
    let mut verdict = Verdict::new(&device, parameters.unwrap_or_default());
    verdict.check(checks);
    let found = verdict.read().map_err(Refusal::Device)?;
    if let Some(parameter) = found.not_finite.first() {
        return Err(Refusal::NotFinite(*parameter));
    }
    take_unchecked(steps, None);
    Ok(())
}

/// Takes all steps. If there is a verdict that the host has not read, the device decides whether to take them.
pub(crate) fn take_unchecked(steps: &mut [Step], verdict: Option<&Verdict>) {
    #[cfg(feature = "flex")]
    if verdict.is_none() {
        flex::take(steps);
    }
    take_elsewhere(steps, verdict);
}

/// Checks the values that are in the host's memory, and takes all steps.
fn take_in_memory(steps: &mut [Step]) -> Result<(), Refusal> {
    #[cfg(feature = "flex")]
    flex::check_and_take(steps)?;
    take_elsewhere(steps, None);
    Ok(())
}

/// Checks the values that are in the host's memory.
///
/// # Errors
///
/// [`Refusal::NotFinite`].
fn check_in_memory(steps: &mut [Step]) -> Result<(), Refusal> {
    #[cfg(feature = "flex")]
    flex::check(steps)?;
    let _ = steps;
    Ok(())
}

/// Takes the steps that are not taken in the host's memory.
fn take_elsewhere(steps: &mut [Step], verdict: Option<&Verdict>) {
    #[cfg(feature = "cubecl")]
    cube::take(steps, verdict);
    for Step {
        current, averages, ..
    } in steps
    {
        for (average, weight) in averages {
            match Way::of(current, average, *weight, verdict) {
                Way::Copy => *average = current.clone().cast(average.dtype().into()),
                Way::Operations => {
                    *average = portable::step(average, current.clone(), *weight, verdict);
                }
                #[cfg(feature = "flex")]
                Way::Memory => {}
                #[cfg(feature = "cubecl")]
                Way::Cube => {}
            }
        }
    }
}

/// The code that takes a step.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// The average shares the memory of the current values.
    Copy,
    #[cfg(feature = "flex")]
    Memory,
    #[cfg(feature = "cubecl")]
    Cube,
    Operations,
}

impl Way {
    fn of(current: &Floats, average: &Floats, weight: f64, verdict: Option<&Verdict>) -> Self {
        if verdict.is_none() && weight == 1.0 {
            return Self::Copy;
        }
        #[cfg(feature = "flex")]
        if verdict.is_none() && flex::serves(current, average) {
            return Self::Memory;
        }
        #[cfg(feature = "cubecl")]
        if cube::serves(current, average) {
            return Self::Cube;
        }
        Self::Operations
    }
}

/// The sum of coefficients, which are exact to `epsilon`: 0 where it is no more than their roundings.
fn total(coefficients: impl Iterator<Item = f64> + Clone, epsilon: f64) -> f64 {
    let total: f64 = coefficients.clone().sum();
    let sizes: f64 = coefficients.map(f64::abs).sum();
    if total.abs() <= 4.0 * epsilon * sizes {
        0.0
    } else {
        total
    }
}

/// The sum of `coefficient * vector` over all terms, parameter by parameter: `terms[i].1[p]` is parameter `p` of vector
/// `i`. In the host's memory and on CubeCL's devices, this takes one pass over each vector. All vectors are on one device, and
/// have the same dtype for each parameter.
///
/// Elements that are equal in all vectors and whose sum is not finite, such as the infinities of a mask, are multiplied by the sum
/// of the coefficients instead, and are 0 if that is 0. (On CubeCL's devices, infinities alone.)
pub(crate) fn combine(terms: &[(f64, Vec<Floats>)]) -> Vec<Floats> {
    #[cfg(feature = "flex")]
    if let Some(combined) = flex::combine(terms) {
        return combined;
    }
    #[cfg(feature = "cubecl")]
    if let Some(combined) = cube::combine(terms) {
        return combined;
    }
    portable::combine(terms)
}

/// The sum of `left * right` over all elements of all parameters. In the host's memory, it is summed in f64. On other devices,
/// each parameter is summed in f32, and the parameters' sums in f64.
///
/// # Errors
///
/// The message of the device that could not be read.
pub(crate) fn dot(left: &[Floats], right: &[Floats]) -> Result<f64, String> {
    #[cfg(feature = "flex")]
    if let Some(dot) = flex::dot(left, right) {
        return Ok(dot);
    }
    portable::dot(left, right)
}

/// A parameter's current values and their mean, with the variance and the deviation that they change:
///
/// ```text
/// deviation = current - mean
/// variance = kept * variance + added * deviation^2
/// ```
///
/// The deviation of elements that are equal is 0, so that infinities which stay have none. All are in the mean's dtype, but for the
/// current values, and on its device.
pub(crate) struct Spreading {
    pub(crate) current: Floats,
    pub(crate) mean: Floats,
    pub(crate) variance: Floats,
    /// Any values of this size, in whose memory the deviation is written if nothing else shares it.
    pub(crate) deviation: Floats,
}

/// Changes the variances and deviations of all parameters, by the formula of [`Spreading`]. In the host's memory, this takes one pass
/// over all of them, in place if nothing else shares the memory.
pub(crate) fn spread(parameters: &mut [Spreading], kept: f64, added: f64) {
    #[cfg(feature = "flex")]
    flex::spread(parameters, kept, added);
    for parameter in parameters {
        #[cfg(feature = "flex")]
        if flex::spreads(parameter) {
            continue;
        }
        portable::spread(parameter, kept, added);
    }
}

/// The number `G` of parameters that one launch takes for an update of `averages` averages, each an [`Average`](crate::Average) on
/// `device`, or `None` if none of our kernels runs there.
///
/// An update of `K` averages of a model with `N` parameters takes at most `ceil(N / G)` launches to check them, as many to average
/// them, and a few more. A launch binds the current values and `K` averages of each parameter, so that `G = floor(B / (1 + K))`, where
/// `B` is the number of buffers that a launch has for them, 94 at most. Where `K + 1` buffers are too many, or `K` is more
/// than 8, a parameter takes several launches.
#[doc(hidden)]
pub fn parameters_a_launch(device: &Device, averages: usize) -> Option<usize> {
    #[cfg(feature = "cubecl")]
    return cube::parameters_a_launch(device, averages);
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = (device, averages);
        None
    }
}

/// Tells whether a device's tensors are in the host's memory.
pub(crate) fn is_host(device: &Device) -> bool {
    #[cfg(test)]
    if tests::IS_ELSEWHERE.get() {
        return false;
    }
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Tells whether the difference of an element from another could overflow, as far as flex has to know: the other kernels are
/// ready for it at every element.
pub(crate) fn is_large(values: &Floats) -> bool {
    #[cfg(feature = "flex")]
    return flex::is_large(values);
    #[cfg(not(feature = "flex"))]
    {
        let _ = values;
        true
    }
}

/// The dtype in which a parameter of `dtype` is averaged: f64 for f64, and f32 for the rest, since a mean kept in 16 bits
/// stops moving after a few hundred updates.
pub(crate) fn accumulator_dtype(dtype: DType) -> FloatDType {
    match dtype {
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

#[cfg(test)]
pub(crate) use tests::as_elsewhere;

#[cfg(test)]
mod tests;
