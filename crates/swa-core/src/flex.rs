//! Averaging on flex, whose tensors are in the host's memory: in one pass, in place, on all cores.
//!
//! Burn's operations would take three passes over as many tensors: subtract, multiply, add.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Element, Tensor, TensorData};
use rayon::prelude::*;

/// How many elements a thread takes at a time. To wake a second thread for less costs more than it spares.
const PART: usize = 1 << 16;

/// A float that flex averages in.
trait Float: Element + bytemuck::Pod + Send + Sync {
    /// `average + weight * (current - average)`.
    fn step(average: Self, current: Self, weight: f64) -> Self;

    /// Whether all are finite.
    fn all_finite(values: &[Self]) -> bool;
}

macro_rules! float {
    ($float:ty, $bits:ty) => {
        impl Float for $float {
            fn step(average: Self, current: Self, weight: f64) -> Self {
                average + (current - average) * weight as $float
            }

            fn all_finite(values: &[Self]) -> bool {
                // The exponent of NaN and the infinities, and of no other number, is all ones, so that one more carries
                // into the sign's bit. In integers, and without a way out in the middle, for the sake of vector instructions.
                const EXPONENT: $bits = <$float>::INFINITY.to_bits();
                const LOWEST: $bits = EXPONENT & EXPONENT.wrapping_neg();
                const SIGN: $bits = EXPONENT + LOWEST;
                let carried = values.iter().fold(0, |carried, value| {
                    carried | ((value.to_bits() & EXPONENT) + LOWEST)
                });
                carried & SIGN == 0
            }
        }
    };
}

float!(f32, u32);
float!(f64, u64);

/// Whether a tensor is one that the others here take: flex's own, in f32 or f64, its elements in order.
pub(crate) fn is_plain<const D: usize>(tensor: &Tensor<D>) -> bool {
    let Ok(tensor) = tensor.clone().try_into_primitive::<Flex>() else {
        return false;
    };
    matches!(tensor.dtype(), DType::F32 | DType::F64) && tensor.is_contiguous()
}

/// `average + weight * (current - average)`, in `average`'s memory if nobody shares it. Both are
/// [plain](is_plain), of the same dtype and shape.
pub(crate) fn average<const D: usize>(
    average: Tensor<D>,
    current: Tensor<D>,
    weight: f64,
) -> Tensor<D> {
    let average = average.try_into_primitive::<Flex>().expect(PLAIN);
    let current = current.try_into_primitive::<Flex>().expect(PLAIN);
    let averaged = match average.dtype() {
        DType::F64 => step::<f64>(average, &current, weight),
        _ => step::<f32>(average, &current, weight),
    };
    Tensor::from_primitive::<Flex>(averaged)
}

/// Whether all elements of an f32 or f64 tensor are finite: one reading pass, and a copy before it if they are not in
/// order. `None` if the tensor is not flex's.
pub(crate) fn all_finite<const D: usize>(values: Tensor<D>) -> Option<bool> {
    let values = values.try_into_primitive::<Flex>().ok()?.to_contiguous();
    match values.dtype() {
        DType::F64 => values.as_slice::<f64>().map(finite),
        _ => values.as_slice::<f32>().map(finite),
    }
}

const PLAIN: &str = "whether the tensor is plain was asked before";

fn step<F: Float>(mut average: FlexTensor, current: &FlexTensor, weight: f64) -> FlexTensor {
    let current = current.as_slice::<F>().expect(PLAIN);
    let one_part = |average: &mut [F], current: &[F]| {
        for (average, current) in average.iter_mut().zip(current) {
            *average = F::step(*average, *current, weight);
        }
    };
    // The storage of a tensor that is a part of another is longer.
    if let Some(values) = average.try_storage_mut::<F>()
        && values.len() == current.len()
    {
        match values.len() {
            0..=PART => one_part(values, current),
            _ => values
                .par_chunks_mut(PART)
                .zip(current.par_chunks(PART))
                .for_each(|(average, current)| one_part(average, current)),
        }
        return average;
    }
    let values = average.as_slice::<F>().expect(PLAIN);
    let step = |(average, current): (&F, &F)| F::step(*average, *current, weight);
    let values: Vec<F> = match values.len() {
        0..=PART => values.iter().zip(current).map(step).collect(),
        _ => values.par_iter().zip(current).map(step).collect(),
    };
    let shape = average.layout().shape().clone();
    FlexTensor::from_data(TensorData::new(values, shape))
}

fn finite<F: Float>(values: &[F]) -> bool {
    match values.len() {
        0..=PART => F::all_finite(values),
        _ => values.par_chunks(PART).all(F::all_finite),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn an_average_takes_a_step_towards_the_current_value() {
        let averaged = average(tensor(&[1.0, 4.0]), tensor(&[3.0, 0.0]), 0.25);
        assert_eq!(floats(averaged), [1.5, 3.0]);
    }

    #[test]
    fn a_shared_average_is_left_alone_and_an_owned_one_is_changed_in_place() {
        let long = |value: f32| Tensor::<1>::full([3 * PART + 5], value, &Device::flex());
        let shared = long(1.0);
        let averaged = average(shared.clone(), long(3.0), 0.5);
        assert!(floats(shared).iter().all(|value| *value == 1.0));
        assert!(floats(averaged).iter().all(|value| *value == 2.0));

        let owned = long(1.0).try_into_primitive::<Flex>().unwrap();
        let address = owned.as_slice::<f32>().unwrap().as_ptr();
        let averaged = average(Tensor::<1>::from_primitive::<Flex>(owned), long(3.0), 0.5);
        let averaged = averaged.try_into_primitive::<Flex>().unwrap();
        let values = averaged.as_slice::<f32>().unwrap();
        assert!(values.iter().all(|value| *value == 2.0));
        assert_eq!(values.as_ptr(), address);
    }

    #[test]
    fn parts_of_tensors_are_averaged_as_such() {
        let whole = tensor(&[1.0, 2.0, 3.0, 4.0]);
        let averaged = average(whole.clone().narrow(0, 1, 2), tensor(&[4.0, 7.0]), 0.5);
        assert_eq!(floats(averaged), [3.0, 5.0]);
        let columns = whole.clone().reshape([2, 2]).transpose();
        assert!(!is_plain(&columns) && is_plain(&whole));
    }

    #[test]
    fn the_formula_is_that_of_burns_operations_to_the_bit() {
        let device = Device::flex();
        device.seed(1);
        let random = || Tensor::<1>::random([1000], burn::tensor::Distribution::Default, &device);
        let (a, c) = (random(), random());
        let expected = a.clone() + (c.clone() - a.clone()).mul_scalar(1.0 / 7.0);
        assert_eq!(floats(average(a, c, 1.0 / 7.0)), floats(expected));
    }

    #[test]
    fn one_value_that_is_not_finite_is_found_wherever_it_is() {
        for (length, place) in [
            (3, 0),
            (3 * PART + 5, 2 * PART),
            (3 * PART + 5, 3 * PART + 4),
        ] {
            let mut values = vec![1.0; length];
            assert_eq!(all_finite(tensor(&values)), Some(true));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                values[place] = bad;
                assert_eq!(all_finite(tensor(&values)), Some(false));
            }
        }
        let wide = Tensor::<1>::from_data([1.0f64, f64::NAN], (&Device::flex(), DType::F64));
        assert_eq!(all_finite(wide), Some(false));
        // Elements that are not in order.
        let columns = tensor(&[1.0, f32::NAN, 3.0, 4.0])
            .reshape([2, 2])
            .transpose();
        assert_eq!(all_finite(columns), Some(false));
    }
}
