//! The weighted mean of one tensor in several files.

use std::ops::{Add, Mul};
use std::sync::Arc;

use burn::store::burn_pack::Bytes;
use burn::tensor::{DType, bf16, f16};
use rayon::prelude::*;

use super::error::CheckpointError;
use super::file::Checkpoint;

/// The number of elements that are averaged at a time. They stay in the processor's cache.
const PART: usize = 1 << 16;

/// The number of parts that are computed at once, and written while the next ones are computed.
const PARTS_AT_ONCE: usize = 4;

/// A file and its coefficient.
pub(super) type Term = (Arc<Checkpoint>, f64);

/// Calls `write` with one part after the other of the mean of floats of this name, in this dtype.
///
/// It is accumulated in f32, or in f64 if any of the files has f64.
pub(super) fn write_mean(
    name: &str,
    dtype: DType,
    terms: &[Term],
    write: &mut (dyn FnMut(&[u8]) -> Result<(), CheckpointError> + Send),
) -> Result<(), CheckpointError> {
    let mut entries = terms.iter().filter_map(|(file, _)| file.entries.get(name));
    if entries.any(|entry| entry.dtype == DType::F64) {
        Mean::<f64>::of(name, terms)?.write(dtype, write)
    } else {
        Mean::<f32>::of(name, terms)?.write(dtype, write)
    }
}

/// The mean of one tensor.
struct Mean<'a, A> {
    name: &'a str,
    terms: &'a [Term],
    elements: usize,
    /// The sum of the terms whose files are not read in parts, if there are any.
    whole: Option<Vec<A>>,
    /// The other terms.
    in_parts: Vec<(Values<'a>, A)>,
}

impl<'a, A: Accumulator> Mean<'a, A> {
    fn of(name: &'a str, terms: &'a [Term]) -> Result<Self, CheckpointError> {
        let first = terms.first().and_then(|(file, _)| file.entries.get(name));
        let mut mean = Self {
            name,
            terms,
            elements: first.map_or(0, |entry| entry.shape.num_elements()),
            whole: None,
            in_parts: Vec::new(),
        };
        for (file, coefficient) in terms {
            let (values, coefficient) = (Values::open(file, name)?, A::from_f64(*coefficient));
            if file.reads_parts() {
                mean.in_parts.push((values, coefficient));
            } else {
                let sums = mean
                    .whole
                    .get_or_insert_with(|| vec![A::from(0.0); mean.elements]);
                values.add_to(sums, 0, coefficient)?;
            }
        }
        Ok(mean)
    }

    fn write(
        &self,
        dtype: DType,
        write: &mut (dyn FnMut(&[u8]) -> Result<(), CheckpointError> + Send),
    ) -> Result<(), CheckpointError> {
        let size = dtype.size();
        let at_once = PART * PARTS_AT_ONCE;
        // Memory that is taken anew for each part would cost more than what is computed in it.
        let mut next = vec![0; size * at_once.min(self.elements)];
        let mut last = next.clone();
        let mut unwritten = 0;
        for begin in (0..self.elements).step_by(at_once) {
            let computed = size * at_once.min(self.elements - begin);
            let (is_written, is_computed) = rayon::join(
                || write(&last[..unwritten]),
                || self.compute(begin, dtype, &mut next[..computed]),
            );
            is_written?;
            is_computed?;
            std::mem::swap(&mut next, &mut last);
            unwritten = computed;
        }
        write(&last[..unwritten])
    }

    /// Makes `bytes` the elements in a dtype that begin at this one, on all cores.
    fn compute(&self, begin: usize, dtype: DType, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let size = dtype.size();
        let parts = bytes.par_chunks_mut(size * PART).enumerate();
        parts.try_for_each_init(Vec::new, |sums, (index, bytes)| {
            self.add_up(sums, begin + index * PART, bytes.len() / size)?;
            self.cast(sums, dtype, bytes)
        })
    }

    /// Makes `sums` the part of so many elements that begins at this one.
    fn add_up(
        &self,
        sums: &mut Vec<A>,
        begin: usize,
        elements: usize,
    ) -> Result<(), CheckpointError> {
        sums.clear();
        match &self.whole {
            Some(whole) => sums.extend_from_slice(&whole[begin..begin + elements]),
            None => sums.resize(elements, A::from(0.0)),
        }
        for (values, coefficient) in &self.in_parts {
            values.add_to(sums, begin, *coefficient)?;
        }
        // Without a way out, which would keep it from being vectorised.
        let are_finite = sums.iter().fold(true, |all, sum| all & sum.is_finite());
        if are_finite {
            Ok(())
        } else {
            self.keep_constants(sums, begin)
        }
    }

    /// Puts infinities that all files have in the same place into the mean, and refuses other values that are not finite.
    fn keep_constants(&self, sums: &mut [A], begin: usize) -> Result<(), CheckpointError> {
        let not_finite = |file: &Checkpoint, value: A| CheckpointError::NotFinite {
            path: file.path.clone(),
            tensor: self.name.to_owned(),
            value: value.into(),
        };
        let mut first: Option<(&Checkpoint, Vec<A>)> = None;
        for (file, _) in self.terms {
            let mut values = vec![A::from(0.0); sums.len()];
            Values::open(file, self.name)?.copy_to(&mut values, begin)?;
            if let Some(value) = values.iter().find(|value| value.is_nan()) {
                return Err(not_finite(file, *value));
            }
            let Some((first, constants)) = &first else {
                first = Some((file, values));
                continue;
            };
            for (&constant, &value) in constants.iter().zip(&values) {
                if constant != value && value.is_infinite() {
                    return Err(not_finite(file, value));
                }
                if constant != value && constant.is_infinite() {
                    return Err(not_finite(first, constant));
                }
            }
        }
        let constants = first.map_or_else(Vec::new, |(_, constants)| constants);
        for (sum, constant) in sums.iter_mut().zip(constants) {
            if constant.is_infinite() {
                *sum = constant;
            } else if !sum.is_finite() {
                return Err(self.too_large(A::DTYPE));
            }
        }
        Ok(())
    }

    fn cast(&self, sums: &[A], dtype: DType, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let mut fits = true;
        let mut checked = |sum: A, is_finite: bool| fits &= is_finite | !sum.is_finite();
        match dtype {
            DType::F64 => put(sums, bytes, |sum| sum.into().to_le_bytes()),
            DType::F16 => put(sums, bytes, |sum| {
                let cast = f16::from_f64(sum.into());
                checked(sum, cast.is_finite());
                cast.to_le_bytes()
            }),
            DType::BF16 => put(sums, bytes, |sum| {
                let cast = bf16::from_f64(sum.into());
                checked(sum, cast.is_finite());
                cast.to_le_bytes()
            }),
            _ => put(sums, bytes, |sum| {
                let cast = sum.into_f32();
                checked(sum, cast.is_finite());
                cast.to_le_bytes()
            }),
        }
        if fits {
            Ok(())
        } else {
            Err(self.too_large(dtype))
        }
    }

    fn too_large(&self, dtype: DType) -> CheckpointError {
        CheckpointError::TooLarge {
            tensor: self.name.to_owned(),
            dtype,
        }
    }
}

fn put<A: Copy, const N: usize>(sums: &[A], bytes: &mut [u8], mut cast: impl FnMut(A) -> [u8; N]) {
    let (places, _) = bytes.as_chunks_mut::<N>();
    for (place, sum) in places.iter_mut().zip(sums) {
        *place = cast(*sum);
    }
}

/// The values of a tensor in a file.
struct Values<'a> {
    file: &'a Checkpoint,
    bytes: Bytes,
    dtype: DType,
}

impl<'a> Values<'a> {
    fn open(file: &'a Checkpoint, name: &str) -> Result<Self, CheckpointError> {
        Ok(Self {
            file,
            bytes: file.bytes(name)?,
            dtype: file.entry(name)?.dtype,
        })
    }

    /// Adds to `sums` the values from the element `begin` on, times a coefficient.
    fn add_to<A: Accumulator>(
        &self,
        sums: &mut [A],
        begin: usize,
        coefficient: A,
    ) -> Result<(), CheckpointError> {
        self.zip_with(sums, begin, |sum, value| *sum = *sum + coefficient * value)
    }

    /// Copies the values from the element `begin` on.
    fn copy_to<A: Accumulator>(
        &self,
        places: &mut [A],
        begin: usize,
    ) -> Result<(), CheckpointError> {
        self.zip_with(places, begin, |place, value| *place = value)
    }

    fn zip_with<A: Accumulator>(
        &self,
        places: &mut [A],
        begin: usize,
        with: impl Fn(&mut A, A),
    ) -> Result<(), CheckpointError> {
        let size = self.dtype.size();
        let part = begin * size..(begin + places.len()) * size;
        self.file
            .read_part(&self.bytes, part, |bytes| match self.dtype {
                DType::F64 => zip(places, bytes, with, |it| {
                    A::from_f64(f64::from_le_bytes(it))
                }),
                DType::F16 => zip(places, bytes, with, |it| {
                    A::from(f16::from_le_bytes(it).to_f32())
                }),
                DType::BF16 => zip(places, bytes, with, |it| {
                    A::from(bf16::from_le_bytes(it).to_f32())
                }),
                _ => zip(places, bytes, with, |it| A::from(f32::from_le_bytes(it))),
            })
    }
}

fn zip<A, const N: usize>(
    places: &mut [A],
    bytes: &[u8],
    with: impl Fn(&mut A, A),
    value: impl Fn([u8; N]) -> A,
) {
    let (values, _) = bytes.as_chunks::<N>();
    for (place, bytes) in places.iter_mut().zip(values) {
        with(place, value(*bytes));
    }
}

/// The floats in which a mean is accumulated.
trait Accumulator:
    Copy + PartialEq + Send + Sync + From<f32> + Into<f64> + Add<Output = Self> + Mul<Output = Self>
{
    const DTYPE: DType;

    fn from_f64(value: f64) -> Self;
    fn into_f32(self) -> f32;
    fn is_finite(self) -> bool;

    fn is_nan(self) -> bool {
        self.into().is_nan()
    }

    fn is_infinite(self) -> bool {
        self.into().is_infinite()
    }
}

impl Accumulator for f32 {
    const DTYPE: DType = DType::F32;

    fn from_f64(value: f64) -> Self {
        value as Self
    }

    fn into_f32(self) -> f32 {
        self
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Accumulator for f64 {
    const DTYPE: DType = DType::F64;

    fn from_f64(value: f64) -> Self {
        value
    }

    fn into_f32(self) -> f32 {
        self as f32
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}
