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
pub(crate) use verdict::{Found, Verdict};

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
    pub(crate) current: Floats,
    /// If true, it is a reason to take no step at all if the current values hold a NaN, or an infinity that an average does not
    /// hold in the same place.
    pub(crate) checked: bool,
    /// If false, no element of the averages [is large](is_large). A check of current values that are large makes it true, since
    /// the averages are so after the step.
    pub(crate) is_large: bool,
    pub(crate) averages: Vec<(Floats, f64)>,
}

/// The time at which the host reads the verdict of another device.
pub(crate) enum Reading<'a> {
    /// Before the steps are taken.
    Now,
    /// Some time later. Until then, the device itself leaves out the steps towards values that are not finite, and all
    /// later steps.
    Later(&'a mut Option<Verdict>),
}

/// The reason to take no step.
pub(crate) enum Refusal {
    /// The current values of the step with this index hold a NaN, or an infinity that an average does not hold in the same
    /// place.
    NotFinite(usize),
    /// The device could not be read, with its message.
    Device(String),
    /// The unread verdict is on other values, or on another device.
    OtherValues,
}

/// Checks the current values of all `checked` steps, in one pass, and then takes all steps: in place, if nothing else shares
/// the memory of the averages.
///
/// # Errors
///
/// The reason. The averages stay as they were.
pub(crate) fn take(steps: &mut [Step], reading: Reading<'_>) -> Result<(), Refusal> {
    let is_elsewhere = |step: &Step| step.checked && !is_host(&step.current.device());
    let elsewhere = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| is_elsewhere(step));
    let (elsewhere, values): (Vec<usize>, Vec<Checked>) = elsewhere
        .map(|(index, step)| (index, Checked::of(step)))
        .unzip();
    if let Reading::Later(Some(earlier)) = &reading
        && !earlier.is_of(&values, &elsewhere)
    {
        return Err(Refusal::OtherValues);
    }
    if elsewhere.is_empty() {
        return take_in_memory(steps).map_err(Refusal::NotFinite);
    }
    check_in_memory(steps).map_err(Refusal::NotFinite)?;
    match reading {
        Reading::Now => match Verdict::of(values, elsewhere).read() {
            Ok(Found { not_finite, .. }) if not_finite.is_empty() => take_unchecked(steps, None),
            Ok(Found { not_finite, .. }) => return Err(Refusal::NotFinite(not_finite[0])),
            Err(reason) => return Err(Refusal::Device(reason)),
        },
        Reading::Later(unread) => {
            let verdict = match unread.take() {
                None => Verdict::of(values, elsewhere),
                Some(earlier) => earlier.and(values),
            };
            take_unchecked(steps, Some(&verdict));
            *unread = Some(verdict);
        }
    }
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
fn take_in_memory(steps: &mut [Step]) -> Result<(), usize> {
    #[cfg(feature = "flex")]
    flex::check_and_take(steps)?;
    take_elsewhere(steps, None);
    Ok(())
}

/// Checks the values that are in the host's memory.
///
/// # Errors
///
/// The index of the first step for [`Refusal::NotFinite`].
fn check_in_memory(steps: &mut [Step]) -> Result<(), usize> {
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

/// The sum of `coefficient * vector` over all terms, parameter by parameter: `terms[i].1[p]` is parameter `p` of vector
/// `i`. In the host's memory and on CubeCL's devices, this takes one pass over each vector. All vectors are on one device, and
/// have the same dtype for each parameter.
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

/// The number `G` of parameters that one launch takes for an update of an [`Average`](crate::Average) on `device`, or `None` if
/// none of our kernels runs there.
///
/// An update of `K` parameters takes at most `ceil(K / G)` launches to check them, as many to average them, and a few more.
/// `G` is limited by the number of buffers that the device binds to a launch.
pub fn parameters_a_launch(device: &Device) -> Option<usize> {
    #[cfg(feature = "cubecl")]
    return cube::parameters_a_launch(device);
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = device;
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
