//! Kernels over the state of a verdict.

use core::cmp::Reverse;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::super::verdict::{BEFORE, NOW, TAKEN, VALUES};
use super::{Checks, address_type, buffers, elements, flat, grouped, most_averages};

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
    let buffers = buffers(&client);
    let all = Check::all(checks, most_averages(buffers, 1));
    for ((dtype, averages_of_each, _), mut group) in grouped(all, Check::kind) {
        group.sort_by_key(|check| Reverse(elements(&check.current)));
        // A check binds the current values and their averages.
        let capacity = buffers / (1 + averages_of_each);
        while !group.is_empty() {
            let part = group.split_off(group.len().saturating_sub(capacity));
            let currents = || part.iter().map(|check| &check.current);
            let averages = || part.iter().flat_map(|check| &check.averages);
            let units = currents().map(elements).max().unwrap_or_default();
            let dim = CubeDim::new(&client, units);
            mark_not_finite::launch(
                &client,
                calculate_cube_count_elemwise(&client, units, dim),
                dim,
                address_type(currents().chain(averages())),
                currents().map(|it| it.clone().into_linear_view()).collect(),
                averages().map(|it| it.clone().into_linear_view()).collect(),
                part.iter().map(|check| check.place).collect(),
                state.clone().into_linear_view(),
                averages_of_each,
                dtype_to_storage_type(dtype),
            );
        }
    }
    state
}

/// One parameter's current values with the place of their number in the state, and their averages.
struct Check {
    place: usize,
    current: CubeTensor,
    averages: Vec<CubeTensor>,
}

impl Check {
    /// All checks of values with elements, with at most `most_averages` averages in each.
    fn all(checks: Checks<CubeBackend>, most_averages: usize) -> Vec<Self> {
        let currents: Vec<CubeTensor> = checks.currents.into_iter().map(flat).collect();
        let mut all: Vec<(usize, Self)> = Vec::new();
        for (average, index) in checks.averages.into_iter().zip(checks.of) {
            let average = flat(average);
            match all.last_mut() {
                Some((of, check)) if *of == index && check.averages.len() < most_averages => {
                    check.averages.push(average);
                }
                _ => {
                    let check = Self {
                        place: checks.places[index],
                        current: currents[index].clone(),
                        averages: vec![average],
                    };
                    all.push((index, check));
                }
            }
        }
        let checks = all.into_iter().map(|(_, check)| check);
        checks
            .filter(|check| elements(&check.current) > 0)
            .collect()
    }

    /// The kind that all checks of a launch share: the dtype of the current values, the number of averages, and whether all are contiguous.
    fn kind(&self) -> (DType, usize, bool) {
        let mut tensors = core::iter::once(&self.current).chain(&self.averages);
        let contiguous = tensors.all(CubeTensor::is_contiguous);
        (self.current.dtype, self.averages.len(), contiguous)
    }
}

#[cube(launch)]
fn advance_state(state: &mut [f32]) {
    if ABSOLUTE_POS == 0 {
        state[TAKEN] += state[NOW];
        state[BEFORE] = state[NOW];
    }
}

/// All writers write the same value. All current values have the same number of averages.
#[cube(launch, address_type = "dynamic")]
fn mark_not_finite<C: Float>(
    values: Sequence<LinearView<'static, C>>,
    averages: Sequence<LinearView<'static, f32>>,
    places: Sequence<usize>,
    mut state: LinearViewMut<'_, f32>,
    #[comptime] averages_of_each: usize,
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
                #[unroll]
                for j in 0..averages_of_each {
                    let average = comptime!(i * averages_of_each + j);
                    if value != averages[average].read(ABSOLUTE_POS) {
                        is_refused = true;
                    }
                }
            }
            if is_refused {
                state.write(VALUES + places[i], 0.0);
                state.write(NOW, 0.0);
            }
        }
    }
}
