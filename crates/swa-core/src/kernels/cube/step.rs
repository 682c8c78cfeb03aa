//! The kernel that takes steps of averages.

use core::cmp::Reverse;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::super::verdict::NOW;
use super::{Steps, address_type, buffers, elements, flat, grouped, most_averages, vector_size};

/// See [`super::Averaging::step`].
pub(super) fn step(state: CubeTensor, steps: Steps<CubeBackend>) -> Vec<CubeTensor> {
    // Empty averages stay as they are.
    let is_empty = |average: &CubeTensor| elements(average) == 0;
    let averages = steps.averages.iter();
    let averages = averages.map(|average| is_empty(average).then(|| flat(average.clone())));
    let mut averages: Vec<Option<CubeTensor>> = averages.collect();

    // An average that is not changed in place takes two buffers.
    let most_averages = most_averages(buffers(&state.client), 2);
    for (kind, mut group) in grouped(Job::all(steps, most_averages), Job::kind) {
        group.sort_by_key(|job| Reverse(elements(&job.current)));
        let capacity = buffers(&state.client) / kind.buffers();
        while !group.is_empty() {
            let part = group.split_off(group.len().saturating_sub(capacity));
            for (place, average) in launch(kind, part, &state) {
                averages[place] = Some(average);
            }
        }
    }
    let averages = averages.into_iter();
    averages
        .map(|average| average.expect("each is in a group"))
        .collect()
}

/// One parameter's current values, and its averages, each with its place in the list of all and its weight.
struct Job {
    current: CubeTensor,
    averages: Vec<(usize, CubeTensor, f32)>,
}

/// The properties that all jobs of a launch share.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    /// The dtype of the current values.
    dtype: DType,
    contiguous: bool,
    /// The number of elements that are read and written at once.
    vector_size: usize,
    averages: usize,
    in_place: bool,
}

impl Kind {
    /// The number of buffers that a job binds.
    fn buffers(self) -> usize {
        if self.in_place {
            1 + self.averages
        } else {
            1 + 2 * self.averages
        }
    }
}

impl Job {
    /// All jobs, with at most `most_averages` averages in each. Averages that take new memory are in other jobs than those that are
    /// changed in place, which would take new memory with them.
    fn all(steps: Steps<CubeBackend>, most_averages: usize) -> Vec<Self> {
        let currents: Vec<CubeTensor> = steps.currents.into_iter().map(flat).collect();
        let mut jobs: Vec<((usize, bool), Self)> = Vec::new();
        let averages = steps.averages.into_iter().zip(steps.weights);
        for (place, (average, (index, weight))) in averages.enumerate() {
            if elements(&average) == 0 {
                continue;
            }
            let average = flat(average);
            let kind = (index, is_in_place(&average));
            let average = (place, average, weight);
            let of_current = jobs.iter_mut().rev();
            let mut of_current = of_current.take_while(|((of, _), _)| *of == index);
            let has_room = |job: &Self| job.averages.len() < most_averages;
            match of_current.find(|(of, job)| *of == kind && has_room(job)) {
                Some((_, job)) => job.averages.push(average),
                None => {
                    let current = currents[index].clone();
                    let averages = vec![average];
                    jobs.push((kind, Self { current, averages }));
                }
            }
        }
        jobs.into_iter().map(|(_, job)| job).collect()
    }

    fn tensors(&self) -> impl Iterator<Item = &CubeTensor> {
        let averages = self.averages.iter().map(|(_, average, _)| average);
        core::iter::once(&self.current).chain(averages)
    }

    fn kind(&self) -> Kind {
        let averages = || self.averages.iter().map(|(_, average, _)| average);
        Kind {
            dtype: self.current.dtype,
            contiguous: self.tensors().all(CubeTensor::is_contiguous),
            vector_size: self.tensors().map(vector_size).min().unwrap_or(1),
            averages: self.averages.len(),
            in_place: averages().all(is_in_place),
        }
    }
}

/// Tells whether an average can be changed in its own memory.
fn is_in_place(average: &CubeTensor) -> bool {
    average.can_mut() && average.is_contiguous()
}

/// Launches the steps of as many parameters as a launch can bind. Returns the averages with their places.
fn launch(kind: Kind, jobs: Vec<Job>, state: &CubeTensor) -> Vec<(usize, CubeTensor)> {
    let client = state.client.clone();
    let units = jobs.iter().map(|job| elements(&job.current)).max();
    let units = units.unwrap_or_default() / kind.vector_size;
    let dim = CubeDim::new(&client, units);
    let address_type = address_type(jobs.iter().flat_map(Job::tensors));

    let mut after = Vec::new();
    let (mut averages, mut averaged) = (SequenceArg::new(), SequenceArg::new());
    let (mut currents, mut weights) = (SequenceArg::new(), SequenceArg::new());
    for Job {
        current,
        averages: of_current,
    } in jobs
    {
        for (place, average, weight) in of_current {
            let (view, written) = if kind.in_place {
                (average.as_linear_view_alias(after.len()), average.clone())
            } else {
                let shape = [elements(&average)].into();
                let device = average.device.clone();
                let new = empty_device_dtype(client.clone(), device, shape, DType::F32);
                (new.clone().into_linear_view(), new)
            };
            averages.push(average.into_linear_view());
            averaged.push(view);
            weights.push(weight);
            after.push((place, written));
        }
        currents.push(current.into_linear_view());
    }
    step_towards::launch(
        &client,
        calculate_cube_count_elemwise(&client, units, dim),
        dim,
        address_type,
        kind.vector_size,
        averages,
        currents,
        weights,
        state.clone().into_linear_view(),
        averaged,
        kind.averages,
        dtype_to_storage_type(kind.dtype),
    );
    after
}

/// The kernel. All current values have the same number of averages.
#[cube(launch, address_type = "dynamic")]
fn step_towards<C: Float, N: Size>(
    averages: Sequence<LinearView<'static, Vector<f32, N>>>,
    currents: Sequence<LinearView<'static, Vector<C, N>>>,
    weights: Sequence<f32>,
    state: LinearView<'_, f32>,
    mut averaged: Sequence<LinearViewMut<'static, Vector<f32, N>>>,
    #[comptime] averages_of_each: usize,
    #[define(C)] _dtype: ElemType,
) {
    let accepted = state.read(NOW) > 0.5;
    #[unroll]
    for i in 0..currents.len() {
        if currents[i].is_in_bounds(ABSOLUTE_POS) {
            let current = Vector::<f32, N>::cast_from(currents[i].read(ABSOLUTE_POS));
            #[unroll]
            for j in 0..averages_of_each {
                let place = comptime!(i * averages_of_each + j);
                let before = averages[place].read(ABSOLUTE_POS);
                let weight = weights[place];
                let mut after = before;
                if accepted {
                    if weight == 1.0 {
                        after = current;
                    } else {
                        let difference = current - before;
                        let kept = before * Vector::new(1.0 - weight);
                        let between = kept + current * Vector::new(weight);
                        let stepped = before + difference * Vector::new(weight);
                        after = select_many(difference.is_inf(), between, stepped);
                        after = select_many(before.is_inf(), current, after);
                        after = select_many(current.equal(&before), before, after);
                    }
                }
                averaged.index_mut(place).write(ABSOLUTE_POS, after);
            }
        }
    }
}
