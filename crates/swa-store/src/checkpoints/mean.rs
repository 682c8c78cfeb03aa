//! The weighted mean of one tensor in several files.

use std::sync::Arc;

use burn::store::burn_pack::Bytes;
use burn::tensor::{DType, bf16, f16};

use super::error::CheckpointError;
use super::file::{Checkpoint, corrupt};

/// The number of elements that are averaged at a time, of all files whose parts can be read. They stay in the processor's cache.
const PART: usize = 1 << 16;

/// A file and its coefficient.
pub(super) type Term = (Arc<Checkpoint>, f64);

/// The mean of the floats of this name, in the dtype of the first file. Of ints and bools, the values of the last file.
///
/// It is accumulated in f32, in f64 if any of them is in f64.
pub(super) fn mean_of(name: &str, terms: &[Term]) -> Result<Bytes, CheckpointError> {
    let dtypes = || {
        terms
            .iter()
            .filter_map(|(file, _)| Some(file.entries.get(name)?.dtype))
    };
    match (terms.last(), dtypes().next()) {
        (Some(_), Some(dtype)) if dtype.is_float() => {
            if dtypes().any(|dtype| dtype == DType::F64) {
                Mean::<f64>::of(name, terms)?.in_dtype(dtype)
            } else {
                Mean::<f32>::of(name, terms)?.in_dtype(dtype)
            }
        }
        (Some((last, _)), _) => last.bytes_in_memory(name),
        (None, _) => Err(CheckpointError::NoFiles),
    }
}

/// The mean of one tensor in its accumulator.
struct Mean<'a, A> {
    name: &'a str,
    sums: Vec<A>,
}

impl<'a, A: Accumulator> Mean<'a, A> {
    /// The sum of all terms. Next to the accumulator, a part of each file is in memory, or one whole tensor of a file that is not
    /// read in parts.
    fn of(name: &'a str, terms: &[Term]) -> Result<Self, CheckpointError> {
        let shape = terms.first().and_then(|(file, _)| file.entries.get(name));
        let elements = shape.map_or(0, |entry| entry.shape.num_elements());
        let mut mean = Self {
            name,
            sums: vec![A::from(0.0); elements],
        };
        // The order of the sum is that of the files, however they are read.
        let in_parts = |term: &Term| term.0.reads_parts();
        for together in terms.chunk_by(|a, b| in_parts(a) && in_parts(b)) {
            let opened = together.iter().map(|(file, coefficient)| {
                let values = Values::open(file, name)?;
                Ok((values, A::from_f64(*coefficient)))
            });
            let opened: Vec<(Values<'_>, A)> = opened.collect::<Result<_, CheckpointError>>()?;
            for (index, sums) in mean.sums.chunks_mut(PART).enumerate() {
                for (values, coefficient) in &opened {
                    values.zip_into(sums, index * PART, |sum, value| {
                        *sum = *sum + *coefficient * value
                    })?;
                }
            }
        }
        if !mean.sums.iter().all(|sum| sum.is_finite()) {
            mean.keep_constants(terms)?;
        }
        Ok(mean)
    }

    /// Puts infinities that all files have in the same place into the mean, and refuses other values that are not finite.
    fn keep_constants(&mut self, terms: &[Term]) -> Result<(), CheckpointError> {
        let sums = self.sums.iter().enumerate();
        let places: Vec<usize> = sums
            .filter(|(_, sum)| !sum.is_finite())
            .map(|(place, _)| place)
            .collect();
        let not_finite = |file: &Checkpoint, value: A| CheckpointError::NotFinite {
            path: file.path.clone(),
            tensor: self.name.to_owned(),
            value: value.into(),
        };
        let mut first: Option<(&Checkpoint, Vec<A>)> = None;
        for (file, _) in terms {
            let values: Vec<A> = Values::open(file, self.name)?.at(&places, self.sums.len())?;
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
        if constants.iter().any(|constant| constant.is_finite()) {
            // Numbers whose sum is infinite.
            return Err(CheckpointError::TooLarge {
                tensor: self.name.to_owned(),
                dtype: A::DTYPE,
            });
        }
        for (place, constant) in places.into_iter().zip(constants) {
            self.sums[place] = constant;
        }
        Ok(())
    }

    /// The bytes of the mean in a dtype of floats.
    fn in_dtype(self, dtype: DType) -> Result<Bytes, CheckpointError> {
        let sums = self.sums.into_iter();
        let mut fits = true;
        // Where the cast value has the size of the sum, it takes its place in memory.
        let bytes = match dtype {
            DType::F64 => Bytes::from_elems(sums.map(A::into).collect::<Vec<f64>>()),
            DType::F16 => {
                let cast = sums.map(|sum| {
                    let cast = f16::from_f64(sum.into());
                    fits &= cast.is_finite() || !sum.is_finite();
                    cast.to_bits()
                });
                Bytes::from_elems(cast.collect::<Vec<u16>>())
            }
            DType::BF16 => {
                let cast = sums.map(|sum| {
                    let cast = bf16::from_f64(sum.into());
                    fits &= cast.is_finite() || !sum.is_finite();
                    cast.to_bits()
                });
                Bytes::from_elems(cast.collect::<Vec<u16>>())
            }
            _ => {
                let cast = sums.map(|sum| {
                    let cast = sum.into_f32();
                    fits &= cast.is_finite() || !sum.is_finite();
                    cast
                });
                Bytes::from_elems(cast.collect::<Vec<f32>>())
            }
        };
        if fits {
            Ok(bytes)
        } else {
            Err(CheckpointError::TooLarge {
                tensor: self.name.to_owned(),
                dtype,
            })
        }
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
        let bytes = file.bytes(name)?;
        let dtype = file.entries.get(name).map(|entry| entry.dtype);
        let dtype = dtype.ok_or_else(|| corrupt(&file.path, format!("it has no `{name}`")))?;
        Ok(Self { file, bytes, dtype })
    }

    /// The values at these places of a tensor of so many elements, in rising order.
    fn at<A: Accumulator>(
        &self,
        places: &[usize],
        elements: usize,
    ) -> Result<Vec<A>, CheckpointError> {
        let mut found = Vec::with_capacity(places.len());
        let mut values = vec![A::from(0.0); PART.min(elements)];
        for together in places.chunk_by(|a, b| a / PART == b / PART) {
            let begin = together[0] / PART * PART;
            let values = &mut values[..PART.min(elements - begin)];
            self.zip_into(values, begin, |place, value| *place = value)?;
            found.extend(together.iter().map(|place| values[place - begin]));
        }
        Ok(found)
    }

    /// Calls `with` with each of `places` and the value for it, the first of which is number `begin` of the tensor.
    fn zip_into<A: Accumulator>(
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
    Copy
    + PartialEq
    + From<f32>
    + Into<f64>
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
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
