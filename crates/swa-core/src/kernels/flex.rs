//! Flex, whose tensors are in the host's memory: all parameters in one pass, in place, on all cores.
//!
//! Burn's operations would take three passes over each parameter (subtract, multiply, add), and would wake the other cores
//! again for each pass.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Element, TensorData};

use super::{Floats, Refusal, Spreading, Step, Way, accumulator_dtype, is_host, total};
use crate::lock::lock;

/// The number of elements that a thread takes at a time.
const PART: usize = 1 << 16;

/// Below this many elements, one thread is faster: it takes 0.1 to 2.5 ms to wake a second on two virtual cores.
const ELEMENTS_FOR_A_THREAD: usize = 1 << 18;

/// A float type in which flex averages.
trait FlexFloat: Element + bytemuck::Pod + Send + Sync {
    /// A [`Step`] of an average if neither value is [large](Self::any_large).
    fn step(average: Self, current: Self, weight: f64) -> Self;

    /// A [`Step`] of an average of any value.
    fn step_of_any(average: Self, current: Self, weight: f64) -> Self;

    /// The variance and the deviation of a [`Spreading`].
    fn spread(variance: Self, current: Self, mean: Self, kept: f64, added: f64) -> (Self, Self);

    /// `sum + coefficient * value`.
    fn add_scaled(sum: Self, coefficient: f64, value: Self) -> Self;

    fn wide(self) -> f64;

    /// Tells whether all are finite.
    fn all_finite(values: &[Self]) -> bool;

    /// Tells whether any is not finite, or at least a quarter of the largest number. The difference of two that are not never
    /// overflows.
    fn any_large(values: &[Self]) -> bool;

    /// Tells whether all values that are not finite are equal in the average. A NaN is equal to nothing.
    fn all_constant(values: &[Self], average: &[Self]) -> bool;
}

/// Tells whether any of these values has one of the largest exponents: the largest is that of NaN and the infinities alone.
///
/// If their number is added to such an exponent, it carries into the sign's bit. Integers and a loop without an early exit let
/// the compiler use vector instructions. (With the bits of `x - x`, 200 million parameters take a seventh longer.)
macro_rules! any_of_largest_exponents {
    ($values:expr, $count:expr, $float:ty, $bits:ty) => {{
        const EXPONENT: $bits = <$float>::INFINITY.to_bits();
        const LOWEST: $bits = EXPONENT & EXPONENT.wrapping_neg();
        const SIGN: $bits = EXPONENT + LOWEST;
        let carried = $values.iter().fold(0, |carried, value| {
            carried | ((value.to_bits() & EXPONENT) + $count * LOWEST)
        });
        carried & SIGN != 0
    }};
}

macro_rules! float {
    ($float:ty, $bits:ty) => {
        impl FlexFloat for $float {
            fn step(average: Self, current: Self, weight: f64) -> Self {
                average + (current - average) * weight as $float
            }

            fn step_of_any(average: Self, current: Self, weight: f64) -> Self {
                if (current - average).is_finite() {
                    Self::step(average, current, weight)
                } else if current == average {
                    average
                } else if average.is_infinite() {
                    current
                } else {
                    average * (1.0 - weight) as $float + current * weight as $float
                }
            }

            fn spread(
                variance: Self,
                current: Self,
                mean: Self,
                kept: f64,
                added: f64,
            ) -> (Self, Self) {
                let deviation = if current == mean { 0.0 } else { current - mean };
                let square = deviation * deviation;
                (
                    variance * kept as $float + square * added as $float,
                    deviation,
                )
            }

            fn add_scaled(sum: Self, coefficient: f64, value: Self) -> Self {
                sum + coefficient as $float * value
            }

            fn wide(self) -> f64 {
                self.into()
            }

            fn all_finite(values: &[Self]) -> bool {
                !any_of_largest_exponents!(values, 1, $float, $bits)
            }

            fn any_large(values: &[Self]) -> bool {
                any_of_largest_exponents!(values, 3, $float, $bits)
            }

            fn all_constant(values: &[Self], average: &[Self]) -> bool {
                let mut pairs = values.iter().zip(average);
                pairs.all(|(value, average)| value.is_finite() || value == average)
            }
        }
    };
}

float!(f32, u32);
float!(f64, u64);

/// A thing in f32 or in f64.
enum Of<A, B> {
    F32(A),
    F64(B),
}

/// Does the same with either.
macro_rules! with_either {
    ($of:expr, $inner:ident => $result:expr) => {
        match $of {
            Of::F32($inner) => $result,
            Of::F64($inner) => $result,
        }
    };
}

type Elements<'a> = Of<&'a [f32], &'a [f64]>;

/// A part of a parameter's current values, and the same part of its averages, each with its weight.
struct Towards<'a, F> {
    /// The index of the step.
    index: usize,
    /// That of the [`Step`].
    is_large: bool,
    current: &'a [F],
    averages: Vec<(&'a mut [F], f64)>,
}

type Part<'a> = Of<Towards<'a, f32>, Towards<'a, f64>>;

/// Tells whether flex takes steps of `average` towards `current`.
pub(super) fn serves(current: &Floats, average: &Floats) -> bool {
    let wide = elements(current).is_some() && current.dtype() == average.dtype();
    wide && elements(average).is_some()
}

/// Takes all steps that flex takes.
pub(super) fn take(steps: &mut [Step]) {
    let (_, parts) = parts(steps);
    run(Vec::new(), parts);
}

/// Takes all steps that flex takes, or none.
///
/// # Errors
///
/// [`Refusal::NotFinite`].
pub(super) fn check_and_take(steps: &mut [Step]) -> Result<(), Refusal> {
    let mut found = found_out_of_order(steps);
    if found.not_finite.is_empty() {
        let (checks, parts) = parts(steps);
        found.add(run(checks, parts));
        if found.not_finite.is_empty() {
            return accept(steps, &found);
        }
    } else {
        found.add(found_in_order(steps));
    }
    accept(steps, &found)?;
    take(steps);
    Ok(())
}

/// Checks all current values that are in the host's memory.
///
/// # Errors
///
/// Those of [`check_and_take`].
pub(super) fn check(steps: &mut [Step]) -> Result<(), Refusal> {
    let mut found = found_in_order(steps);
    found.add(found_out_of_order(steps));
    accept(steps, &found)
}

/// The indices of the steps with current values that are [large](FlexFloat::any_large), and of those of them with values that
/// are not finite.
#[derive(Default)]
struct Found {
    large: BTreeSet<usize>,
    not_finite: BTreeSet<usize>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.large.extend(other.large);
        self.not_finite.extend(other.not_finite);
    }
}

/// Checks the values that can be checked where they are.
fn found_in_order(steps: &[Step]) -> Found {
    let checked = steps.iter().enumerate().filter(|(_, step)| step.checked);
    let checks = checked.flat_map(|(index, step)| checks(index, &step.current));
    run(checks.collect(), Vec::new())
}

/// Checks the values that have to be copied for it. They are copied one at a time, so that there is never more than one copy.
fn found_out_of_order(steps: &[Step]) -> Found {
    let mut found = Found::default();
    for (index, step) in steps.iter().enumerate() {
        let is_here = step.checked && is_host(&step.current.device());
        if is_here && elements(&step.current).is_none() {
            let copy = in_order(&step.current);
            found.add(run(checks(index, &copy).collect(), Vec::new()));
        }
    }
    found
}

/// Accepts values that are not finite if they are constants, such as the infinities of a mask: equal in all averages. Keeps in
/// mind which averages have large values from here on.
///
/// # Errors
///
/// Those of [`check_and_take`].
fn accept(steps: &mut [Step], found: &Found) -> Result<(), Refusal> {
    let is_accepted = |step: &Step| {
        let mut averages = step.averages.iter();
        averages.all(|(average, _)| is_constant(&step.current, average))
    };
    let mut not_finite = found.not_finite.iter();
    if let Some(refused) = not_finite.find(|index| !is_accepted(&steps[**index])) {
        return Err(Refusal::NotFinite(steps[*refused].parameter));
    }
    for index in &found.large {
        steps[*index].is_large = true;
    }
    Ok(())
}

/// Tells whether values are [large](FlexFloat::any_large), or are not flex's.
pub(super) fn is_large(values: &Floats) -> bool {
    let values = here(values);
    match values.as_ref().and_then(elements) {
        Some(values) => with_either!(values, values => any_large(values)),
        None => true,
    }
}

fn any_large<F: FlexFloat>(values: &[F]) -> bool {
    use rayon::prelude::*;
    values.par_chunks(PART).any(F::any_large)
}

fn is_constant(current: &Floats, average: &Floats) -> bool {
    let (Some(current), Some(average)) = (here(current), here(average)) else {
        return false;
    };
    match (elements(&current), elements(&average)) {
        (Some(Of::F32(current)), Some(Of::F32(average))) => is_constant_in(current, average),
        (Some(Of::F64(current)), Some(Of::F64(average))) => is_constant_in(current, average),
        _ => false,
    }
}

fn is_constant_in<F: FlexFloat>(current: &[F], average: &[F]) -> bool {
    use rayon::prelude::*;
    let parts = current.par_chunks(PART).zip(average.par_chunks(PART));
    parts.all(|(current, average)| F::all_finite(current) || F::all_constant(current, average))
}

/// The values to check, each with the index of its step, and the steps to take.
fn parts(steps: &mut [Step]) -> (Vec<(usize, Elements<'_>)>, Vec<Part<'_>>) {
    let (mut all_checks, mut parts) = (Vec::new(), Vec::new());
    for (index, step) in steps.iter_mut().enumerate() {
        let Step {
            current,
            checked,
            is_large,
            averages,
            ..
        } = step;
        let is_large = *is_large;
        if *checked {
            all_checks.extend(checks(index, current));
        }
        let current: &Floats = current;
        let averages = averages.iter_mut().filter_map(|(average, weight)| {
            let is_here = Way::of(current, average, *weight, None) == Way::Memory;
            is_here.then_some((average, *weight))
        });
        match elements(current) {
            None => {}
            Some(Of::F32(current)) => {
                parts.extend(towards(index, is_large, current, averages).map(Of::F32));
            }
            Some(Of::F64(current)) => {
                parts.extend(towards(index, is_large, current, averages).map(Of::F64));
            }
        }
    }
    // The values that were checked last may still be in a cache. This saves up to a tenth if it holds half of VGG16.
    parts.reverse();
    (all_checks, parts)
}

fn checks(index: usize, values: &Floats) -> impl Iterator<Item = (usize, Elements<'_>)> {
    let elements = elements(values).filter(|_| is_host(&values.device()));
    let (narrow, wide): (&[f32], &[f64]) = match elements {
        None => (&[], &[]),
        Some(Of::F32(values)) => (values, &[]),
        Some(Of::F64(values)) => (&[], values),
    };
    let narrow = narrow.chunks(PART).map(Of::F32);
    let parts = narrow.chain(wide.chunks(PART).map(Of::F64));
    parts.map(move |part| (index, part))
}

fn towards<'a, F: FlexFloat>(
    index: usize,
    is_large: bool,
    current: &'a [F],
    averages: impl Iterator<Item = (&'a mut Floats, f64)>,
) -> impl Iterator<Item = Towards<'a, F>> {
    let averages = averages.filter_map(|(average, weight)| {
        let elements = elements_mut::<F>(average)?;
        Some((elements.chunks_mut(PART), weight))
    });
    let mut averages: Vec<_> = averages.collect();
    let parts = if averages.is_empty() {
        0
    } else {
        current.len()
    };
    current[..parts].chunks(PART).map(move |current| Towards {
        index,
        is_large,
        current,
        averages: averages
            .iter_mut()
            .filter_map(|(parts, weight)| Some((parts.next()?, *weight)))
            .collect(),
    })
}

/// Checks all values, and takes the steps if they are finite.
///
/// All threads do both in one run, so that each is woken once, and takes steps as soon as the last part is checked.
fn run(checks: Vec<(usize, Elements<'_>)>, parts: Vec<Part<'_>>) -> Found {
    let elements = checks.iter().map(|(_, part)| part.len()).sum::<usize>();
    let elements = elements.max(parts.iter().map(Part::len).sum());
    let found = Mutex::new(Found::default());
    let (unchecked, checks) = (AtomicUsize::new(checks.len()), queue(checks));
    let parts = queue(parts);
    on_all_cores(elements, || {
        while let Some((index, part)) = next(&checks) {
            with_either!(part, part => check_part(index, part, &found));
            unchecked.fetch_sub(1, Ordering::Release);
        }
        // Another thread is still checking a part, for some microseconds.
        while unchecked.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        let large = {
            let found = lock(&found);
            if !found.not_finite.is_empty() {
                return;
            }
            found.large.clone()
        };
        while let Some(part) = next(&parts) {
            with_either!(part, part => take_part(part, &large));
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn check_part<F: FlexFloat>(index: usize, part: &[F], found: &Mutex<Found>) {
    if F::any_large(part) {
        let mut found = lock(found);
        found.large.insert(index);
        if !F::all_finite(part) {
            found.not_finite.insert(index);
        }
    }
}

fn take_part<F: FlexFloat>(part: Towards<'_, F>, large: &BTreeSet<usize>) {
    let is_large = part.is_large || large.contains(&part.index);
    for (averages, weight) in part.averages {
        let elements = averages.iter_mut().zip(part.current);
        // Two loops, so that the compiler uses vector instructions in the usual one.
        if is_large {
            elements.for_each(|(average, current)| {
                *average = F::step_of_any(*average, *current, weight);
            });
        } else {
            elements.for_each(|(average, current)| *average = F::step(*average, *current, weight));
        }
    }
}

impl Elements<'_> {
    fn len(&self) -> usize {
        with_either!(self, elements => elements.len())
    }
}

impl Part<'_> {
    fn len(&self) -> usize {
        with_either!(self, part => part.current.len())
    }
}

/// See [`super::combine`]. `None` if a vector is not in the host's memory.
pub(super) fn combine(terms: &[(f64, Vec<Floats>)]) -> Option<Vec<Floats>> {
    let parameters = terms.first()?.1.len();
    let combined = (0..parameters).map(|parameter| {
        let vectors = terms.iter().map(|(_, vector)| here(&vector[parameter]));
        let vectors = vectors.collect::<Option<Vec<Floats>>>()?;
        let terms = terms.iter().map(|(coefficient, _)| *coefficient);
        let terms: Vec<_> = terms.zip(&vectors).collect();
        match vectors[0].dtype() {
            DType::F64 => combine_in::<f64>(&terms),
            _ => combine_in::<f32>(&terms),
        }
    });
    combined.collect()
}

fn combine_in<F: FlexFloat>(terms: &[(f64, &Floats)]) -> Option<Floats> {
    let vectors = terms.iter().map(|(coefficient, values)| {
        let values = tensor(values)?.as_slice::<F>()?;
        Some((*coefficient, values))
    });
    let vectors = vectors.collect::<Option<Vec<(f64, &[F])>>>()?;
    let mut sums = vec![F::zeroed(); vectors[0].1.len()];
    let elements = sums.len();
    let parts = queue(sums.chunks_mut(PART).enumerate().collect());
    on_all_cores(elements, || {
        while let Some((part, sums)) = next(&parts) {
            for (coefficient, values) in &vectors {
                for (sum, value) in sums.iter_mut().zip(&values[part * PART..]) {
                    *sum = F::add_scaled(*sum, *coefficient, *value);
                }
            }
            if !F::all_finite(sums) {
                keep_constants(sums, &vectors, part * PART);
            }
        }
    });
    let sums = FlexTensor::from_data(TensorData::new(sums, [elements]));
    Some(Floats::of(burn::tensor::Tensor::<1>::from_primitive::<
        burn::backend::Flex,
    >(sums)))
}

/// Multiplies by the sum of the coefficients instead where elements are equal in all vectors and their sum is not finite. The sums
/// begin at element `begin`.
fn keep_constants<F: FlexFloat>(sums: &mut [F], vectors: &[(f64, &[F])], begin: usize) {
    let total = total(
        vectors.iter().map(|(coefficient, _)| *coefficient),
        f64::EPSILON,
    );
    for (place, sum) in sums.iter_mut().enumerate() {
        let mut values = vectors.iter().map(|(_, values)| values[begin + place]);
        let constant = vectors[0].1[begin + place];
        if !sum.wide().is_finite() && values.all(|value| value.wide() == constant.wide()) {
            *sum = if total == 0.0 {
                F::zeroed()
            } else {
                F::add_scaled(F::zeroed(), total, constant)
            };
        }
    }
}

/// Tells whether flex changes this parameter's variance and deviation.
pub(super) fn spreads(parameter: &Spreading) -> bool {
    let Spreading {
        current,
        mean,
        variance,
        deviation,
    } = parameter;
    let all = [current, mean, variance, deviation];
    let is_alike = |values: &&Floats| values.dtype() == mean.dtype() && elements(values).is_some();
    all.iter().all(is_alike)
}

/// Changes the variances and deviations of all parameters that flex changes: see [`super::spread`].
pub(super) fn spread(parameters: &mut [Spreading], kept: f64, added: f64) {
    let mut count = 0;
    let mut parts = Vec::new();
    for parameter in parameters.iter_mut().filter(|it| spreads(it)) {
        count += parameter.mean.len();
        if parameter.mean.dtype() == DType::F64 {
            let of_parameter = spread_parts::<f64>(parameter).into_iter().flatten();
            parts.extend(of_parameter.map(Of::F64));
        } else {
            let of_parameter = spread_parts::<f32>(parameter).into_iter().flatten();
            parts.extend(of_parameter.map(Of::F32));
        }
    }
    let parts = queue(parts);
    on_all_cores(count, || {
        while let Some(part) = next(&parts) {
            with_either!(part, part => spread_part(part, kept, added));
        }
    });
}

/// A part of a parameter's current values, their mean, their variance and their deviation.
type SpreadPart<'a, F> = (&'a [F], &'a [F], &'a mut [F], &'a mut [F]);

fn spread_parts<F: FlexFloat>(
    parameter: &mut Spreading,
) -> Option<impl Iterator<Item = SpreadPart<'_, F>>> {
    let current = tensor(&parameter.current)?.as_slice::<F>()?;
    let mean = tensor(&parameter.mean)?.as_slice::<F>()?;
    let variance = elements_mut::<F>(&mut parameter.variance)?;
    let deviation = elements_mut::<F>(&mut parameter.deviation)?;
    let read = current.chunks(PART).zip(mean.chunks(PART));
    let written = variance.chunks_mut(PART).zip(deviation.chunks_mut(PART));
    let parts = read.zip(written);
    Some(parts.map(|((current, mean), (variance, deviation))| (current, mean, variance, deviation)))
}

fn spread_part<F: FlexFloat>(part: SpreadPart<'_, F>, kept: f64, added: f64) {
    let (current, mean, variance, deviation) = part;
    let read = current.iter().zip(mean);
    let written = variance.iter_mut().zip(deviation);
    for ((current, mean), (variance, deviation)) in read.zip(written) {
        (*variance, *deviation) = F::spread(*variance, *current, *mean, kept, added);
    }
}

/// See [`super::dot`]. `None` if a vector is not in the host's memory.
pub(super) fn dot(left: &[Floats], right: &[Floats]) -> Option<f64> {
    let dots = left.iter().zip(right).map(|(left, right)| {
        let (left, right) = (here(left)?, here(right)?);
        match (elements(&left)?, elements(&right)?) {
            (Of::F32(left), Of::F32(right)) => Some(dot_of(left, right)),
            (Of::F64(left), Of::F64(right)) => Some(dot_of(left, right)),
            _ => None,
        }
    });
    dots.sum()
}

fn dot_of<F: FlexFloat>(left: &[F], right: &[F]) -> f64 {
    use rayon::prelude::*;
    let parts = left.par_chunks(PART).zip(right.par_chunks(PART));
    let sums: Vec<f64> = parts
        .map(|(left, right)| {
            let products = left.iter().zip(right);
            products
                .map(|(left, right)| left.wide() * right.wide())
                .sum()
        })
        .collect();
    // Added in order, so that the sum is the same every time.
    sums.into_iter().sum()
}

/// The values in f32 or f64 and in order, if they are in the host's memory: a copy if they are stored in another way.
fn here(values: &Floats) -> Option<Floats> {
    is_host(&values.device()).then(|| match elements(values) {
        Some(_) => values.clone(),
        None => in_order(values),
    })
}

/// A copy in f32 or f64, with its elements in order.
fn in_order(values: &Floats) -> Floats {
    let mut copy = values.clone().cast(accumulator_dtype(values.dtype()));
    if let Some(tensor) = tensor_mut(&mut copy)
        && !tensor.is_contiguous()
    {
        *tensor = tensor.to_contiguous();
    }
    copy
}

/// The elements, if the tensor is one of flex's, in f32 or f64, with its elements in order.
fn elements(values: &Floats) -> Option<Elements<'_>> {
    let tensor = tensor(values)?;
    match tensor.dtype() {
        DType::F32 => tensor.as_slice().map(Of::F32),
        DType::F64 => tensor.as_slice().map(Of::F64),
        _ => None,
    }
}

/// The elements, to be changed. They are copied first if they are shared, or a part of another tensor.
fn elements_mut<F: FlexFloat>(values: &mut Floats) -> Option<&mut [F]> {
    let tensor = tensor_mut(values)?;
    let elements = tensor.as_slice::<F>()?;
    let whole = size_of_val(elements) == tensor.bytes().len();
    if !(whole && tensor.is_unique()) {
        let shape = [elements.len()];
        *tensor = FlexTensor::from_data(TensorData::new(elements.to_vec(), shape));
    }
    tensor.try_storage_mut()
}

fn tensor(values: &Floats) -> Option<&FlexTensor> {
    match values.kind() {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Some(tensor),
        _ => None,
    }
}

fn tensor_mut(values: &mut Floats) -> Option<&mut FlexTensor> {
    match values.kind_mut() {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Some(tensor),
        _ => None,
    }
}

/// Parts that threads take one by one.
type Queue<T> = Mutex<std::vec::IntoIter<T>>;

fn queue<T>(parts: Vec<T>) -> Queue<T> {
    Mutex::new(parts.into_iter())
}

fn next<T>(parts: &Queue<T>) -> Option<T> {
    lock(parts).next()
}

/// Runs `work` on all cores. Each run of it takes parts until none is left; all parts together have this number of `elements`.
/// This thread begins at once, and other threads join as they wake.
fn on_all_cores(elements: usize, work: impl Fn() + Sync) {
    let others = if elements > ELEMENTS_FOR_A_THREAD {
        (rayon::current_num_threads() - 1).min(elements / PART)
    } else {
        0
    };
    if others == 0 {
        return work();
    }
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            scope.spawn(|_| work());
        }
        work();
    });
}
