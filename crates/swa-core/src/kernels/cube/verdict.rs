//! Kernels over the state of a verdict.

use core::cmp::Reverse;

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::super::verdict::{BEFORE, NOW, TAKEN, VALUES};
use super::{address_type, buffers, elements, flat, grouped};

/// See [`super::Averaging::advance`].
pub(super) fn advance(state: CubeTensor) -> CubeTensor {
    let client = state.client.clone();
    let (count, dim) = (CubeCount::new_single(), CubeDim::new_single());
    advance_state::launch(&client, count, dim, state.clone().into_buffer_arg());
    state
}

/// See [`super::Averaging::mark`].
pub(super) fn mark(state: CubeTensor, values: Vec<CubeTensor>) -> CubeTensor {
    let client = state.client.clone();
    let values = values.into_iter().map(flat).enumerate();
    let values = values.filter(|(_, values)| elements(values) > 0);
    let kind = |(_, values): &(usize, CubeTensor)| (values.dtype, values.is_contiguous());
    for ((dtype, _), mut group) in grouped(values, kind) {
        group.sort_by_key(|(_, values)| Reverse(elements(values)));
        while !group.is_empty() {
            let part = group.split_off(group.len().saturating_sub(buffers(&client)));
            let tensors = || part.iter().map(|(_, values)| values);
            let units = tensors().map(elements).max().unwrap_or_default();
            let dim = CubeDim::new(&client, units);
            mark_not_finite::launch(
                &client,
                calculate_cube_count_elemwise(&client, units, dim),
                dim,
                address_type(tensors()),
                tensors()
                    .cloned()
                    .map(CubeTensor::into_linear_view)
                    .collect(),
                part.iter().map(|(place, _)| *place).collect(),
                state.clone().into_linear_view(),
                dtype_to_storage_type(dtype),
            );
        }
    }
    state
}

#[cube(launch)]
fn advance_state(state: &mut [f32]) {
    if ABSOLUTE_POS == 0 {
        state[TAKEN] += state[NOW];
        state[BEFORE] = state[NOW];
    }
}

/// All writers write the same value.
#[cube(launch, address_type = "dynamic")]
fn mark_not_finite<C: Float>(
    values: Sequence<LinearView<'static, C>>,
    places: Sequence<usize>,
    mut state: LinearViewMut<'_, f32>,
    #[define(C)] _dtype: ElemType,
) {
    if state.read(BEFORE) < 0.5 {
        terminate!();
    }
    #[unroll]
    for i in 0..values.len() {
        if values[i].is_in_bounds(ABSOLUTE_POS) {
            let value = f32::cast_from(values[i].read(ABSOLUTE_POS));
            if value.is_nan() || value.is_inf() {
                state.write(VALUES + places[i], 0.0);
                state.write(NOW, 0.0);
            }
        }
    }
}
