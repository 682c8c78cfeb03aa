//! Kernels over the state of a verdict.

use core::cmp::Reverse;

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::super::verdict::{BEFORE, NOW, TAKEN, VALUES};
use super::{Checks, address_type, buffers, elements, flat, grouped};

/// See [`super::Averaging::advance`].
pub(super) fn advance(state: CubeTensor) -> CubeTensor {
    let client = state.client.clone();
    let (count, dim) = (CubeCount::new_single(), CubeDim::new_single());
    advance_state::launch(&client, count, dim, state.clone().into_buffer_arg());
    state
}

/// See [`super::Averaging::mark`].
pub(super) fn mark(state: CubeTensor, checks: Checks<CubeBackend>) -> CubeTensor {
    let client = state.client.clone();
    let Checks {
        currents,
        averages,
        places,
    } = checks;
    let pairs = currents
        .into_iter()
        .map(flat)
        .zip(averages.into_iter().map(flat));
    let checks = places.into_iter().zip(pairs);
    let checks = checks.filter(|(_, (current, _))| elements(current) > 0);
    let kind = |(_, (current, average)): &(usize, (CubeTensor, CubeTensor))| {
        let contiguous = current.is_contiguous() && average.is_contiguous();
        (current.dtype, contiguous)
    };
    // A check binds the current values and an average.
    let capacity = buffers(&client) / 2;
    for ((dtype, _), mut group) in grouped(checks, kind) {
        group.sort_by_key(|(_, (current, _))| Reverse(elements(current)));
        while !group.is_empty() {
            let part = group.split_off(group.len().saturating_sub(capacity));
            let currents = || part.iter().map(|(_, (current, _))| current);
            let averages = || part.iter().map(|(_, (_, average))| average);
            let units = currents().map(elements).max().unwrap_or_default();
            let dim = CubeDim::new(&client, units);
            mark_not_finite::launch(
                &client,
                calculate_cube_count_elemwise(&client, units, dim),
                dim,
                address_type(currents().chain(averages())),
                currents().map(|it| it.clone().into_linear_view()).collect(),
                averages().map(|it| it.clone().into_linear_view()).collect(),
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
    averages: Sequence<LinearView<'static, f32>>,
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
            let mut is_refused = value.is_nan();
            // Averages are read only here, where it matters whether this is a constant.
            if value.is_inf() {
                is_refused = value != averages[i].read(ABSOLUTE_POS);
            }
            if is_refused {
                state.write(VALUES + places[i], 0.0);
                state.write(NOW, 0.0);
            }
        }
    }
}
