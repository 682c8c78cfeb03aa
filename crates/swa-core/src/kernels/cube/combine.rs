//! The kernel that combines vectors.

use core::cmp::Reverse;

use burn::tensor::DType;
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::{address_type, buffers, elements, flat, grouped, vector_size};
use crate::kernels::total;

/// See [`super::Averaging::combine`].
pub(super) fn combine(values: Vec<Vec<CubeTensor>>, coefficients: Vec<f32>) -> Vec<CubeTensor> {
    let flat = |values: Vec<CubeTensor>| values.into_iter().map(flat).collect();
    let values: Vec<Vec<CubeTensor>> = values.into_iter().map(flat).collect();
    // An empty parameter is its own sum.
    let empty = |values: &Vec<CubeTensor>| {
        let first = &values[0];
        (elements(first) == 0).then(|| first.clone())
    };
    let mut sums: Vec<Option<CubeTensor>> = values.iter().map(empty).collect();

    let parameters = values.into_iter().enumerate();
    let parameters = parameters.filter(|(_, values)| elements(&values[0]) > 0);
    let kind = |(_, values): &(usize, Vec<CubeTensor>)| {
        let size = values.iter().map(vector_size).min().unwrap_or(1);
        (size, values.iter().all(CubeTensor::is_contiguous))
    };
    for ((vector_size, _), mut group) in grouped(parameters, kind) {
        group.sort_by_key(|(_, values)| Reverse(elements(&values[0])));
        let buffers = buffers(&group[0].1[0].client);
        let capacity = buffers / (coefficients.len() + 1);
        while !group.is_empty() {
            let part = group.split_off(group.len().saturating_sub(capacity));
            for (place, sum) in launch_sums(vector_size, part, &coefficients) {
                sums[place] = Some(sum);
            }
        }
    }
    let sums = sums.into_iter();
    sums.map(|sum| sum.expect("each is in a group")).collect()
}

/// Launches the sums of as many parameters as a launch can bind. Returns them with their places.
fn launch_sums(
    vector_size: usize,
    parameters: Vec<(usize, Vec<CubeTensor>)>,
    coefficients: &[f32],
) -> Vec<(usize, CubeTensor)> {
    let first = &parameters[0].1[0];
    let (client, device) = (first.client.clone(), first.device.clone());
    let count = |(_, values): &(usize, Vec<CubeTensor>)| elements(&values[0]);
    let units = parameters.iter().map(count).max().unwrap_or_default() / vector_size;
    let dim = CubeDim::new(&client, units);
    let address_type = address_type(parameters.iter().flat_map(|(_, values)| values));

    let mut sums = Vec::new();
    let (mut all, mut combined) = (SequenceArg::new(), SequenceArg::new());
    for (place, values) in parameters {
        let shape = [elements(&values[0])].into();
        let sum = empty_device_dtype(client.clone(), device.clone(), shape, DType::F32);
        combined.push(sum.clone().into_linear_view());
        sums.push((place, sum));
        for values in values {
            all.push(values.into_linear_view());
        }
    }
    let in_f64 = coefficients
        .iter()
        .map(|coefficient| f64::from(*coefficient));
    let total = total(in_f64, f64::from(f32::EPSILON)) as f32;
    combine_terms::launch(
        &client,
        calculate_cube_count_elemwise(&client, units, dim),
        dim,
        address_type,
        vector_size,
        all,
        coefficients.iter().copied().chain([total]).collect(),
        combined,
        coefficients.len(),
    );
    sums
}

/// The kernel. `values` holds the terms of the first parameter, then those of the second, and so on; `coefficients` those of the terms,
/// and then their sum, by which an infinity that all terms hold is multiplied.
#[cube(launch, address_type = "dynamic")]
fn combine_terms<N: Size>(
    values: Sequence<LinearView<'static, Vector<f32, N>>>,
    coefficients: Sequence<f32>,
    mut combined: Sequence<LinearViewMut<'static, Vector<f32, N>>>,
    #[comptime] terms: usize,
) {
    #[unroll]
    for i in 0..combined.len() {
        if values[comptime!(i * terms)].is_in_bounds(ABSOLUTE_POS) {
            let zero = Vector::<f32, N>::new(0.0);
            let first = values[comptime!(i * terms)].read(ABSOLUTE_POS);
            let mut sum = zero;
            // What all terms hold, or 0.
            let mut common = first;
            #[unroll]
            for j in 0..terms {
                let value = values[comptime!(i * terms + j)].read(ABSOLUTE_POS);
                sum += value * Vector::new(coefficients[j]);
                common = select_many(value.equal(&first), common, zero);
            }
            let total = coefficients[terms];
            let mut of_common = zero;
            if total != 0.0 {
                of_common = common * Vector::new(total);
            }
            sum = select_many(common.is_inf(), of_common, sum);
            combined.index_mut(i).write(ABSOLUTE_POS, sum);
        }
    }
}
