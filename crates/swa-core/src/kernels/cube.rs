//! CubeCL's devices (CUDA, ROCm, Vulkan, Metal, wgpu): kernels of our own, each over as many parameters as a launch can
//! bind the buffers of.
//!
//! Burn's operations would take seven launches a parameter, and write a tensor of its size in each of four. Kernels fused by
//! `burn-fusion` take between four and five.

use core::cmp::Reverse;

use burn::backend::{
    Backend, DispatchDevice, DispatchTensorKind, cubecl::dtype_to_storage_type, tensor::FloatTensor,
};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, client::Client, prelude::*};
use burn_cubecl::cubecl::{calculate_cube_count_elemwise, tensor_vector_size_parallel};
use burn_cubecl::kernel::untile;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, CubeBackend};
use burn_std::Metadata;

use super::verdict::{BEFORE, NOW, TAKEN, VALUES, Verdict};
use super::{Floats, Step, Way};

/// The most buffers that a launch binds, whatever the device allows: each takes up to 40 of the 4096 bytes that CUDA has for
/// a kernel's parameters.
const MOST_BUFFERS: usize = 96;

/// The most averages that a launch takes of one parameter.
const MOST_AVERAGES: usize = 8;

/// Tells a step of `average` towards `current` that a kernel takes.
pub(super) fn serves(current: &Floats, average: &Floats) -> bool {
    is_read(current) && is_here(average) && average.dtype() == DType::F32
}

/// Tells values that are all on `device`, and looked through by a kernel.
pub(super) fn marks(device: &Device, values: &[Floats]) -> bool {
    let marked = |values: &Floats| is_read(values) && values.device() == *device;
    values.iter().all(marked)
}

/// Tells values that the kernels read: on one of CubeCL's devices, and of a dtype that is not wider than theirs.
fn is_read(values: &Floats) -> bool {
    matches!(values.dtype(), DType::F32 | DType::F16 | DType::BF16) && is_here(values)
}

fn is_here(values: &Floats) -> bool {
    matches!(values.kind(), DispatchTensorKind::Cube(_))
}

/// See [`super::parameters_a_launch`].
pub(super) fn parameters_a_launch(device: &Device) -> Option<usize> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device) => Some(buffers(&device.client()) / 2),
        #[allow(
            unreachable_patterns,
            reason = "depends on the backends that Burn is built with"
        )]
        _ => None,
    }
}

/// The number of buffers that a launch binds beside the state, and that in which CubeCL may pass shapes.
fn buffers(client: &Client) -> usize {
    let most = client.properties().hardware.max_bindings as usize;
    most.min(MOST_BUFFERS).saturating_sub(2)
}

/// See [`super::verdict`].
pub(super) fn advance(state: Tensor<1>) -> Tensor<1> {
    tensor(Cube::advance(primitive(Floats::of(state))))
}

/// See [`super::verdict`]: the state and all values are on one device.
pub(super) fn mark(state: Tensor<1>, values: Vec<Floats>) -> Tensor<1> {
    let values = values.into_iter().map(primitive).collect();
    tensor(Cube::mark(primitive(Floats::of(state)), values))
}

/// Takes all steps that are taken here.
pub(super) fn take(steps: &mut [Step], verdict: Option<&Verdict>) {
    let mut devices: Vec<Device> = Vec::new();
    for step in steps.iter().filter(|step| is_here(&step.current)) {
        let device = step.current.device();
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    for device in devices {
        take_on(&device, steps, verdict);
    }
}

fn take_on(device: &Device, steps: &mut [Step], verdict: Option<&Verdict>) {
    let mut list = Steps::default();
    let mut places = Vec::new();
    for (index, step) in steps.iter_mut().enumerate() {
        let Step {
            current, averages, ..
        } = step;
        if !is_here(current) || current.device() != *device {
            continue;
        }
        for (place, (average, weight)) in averages.iter_mut().enumerate() {
            if Way::of(current, average, *weight, verdict) == Way::Cube {
                // The list's is the only handle on the average from here on, so that it is changed in place.
                let average = std::mem::replace(average, current.clone());
                list.averages.push(primitive(average));
                list.weights.push((list.currents.len(), *weight as f32));
                places.push((index, place));
            }
        }
        if list
            .weights
            .last()
            .is_some_and(|(of, _)| *of == list.currents.len())
        {
            list.currents.push(primitive(current.clone()));
        }
    }
    if places.is_empty() {
        return;
    }
    let state = match verdict {
        Some(verdict) => verdict.state(device),
        None => Verdict::to_take_all(device),
    };
    let averages = Cube::step(primitive(Floats::of(state)), list);
    for ((index, place), average) in places.into_iter().zip(averages) {
        steps[index].averages[place].0 = Floats::of(tensor(average));
    }
}

/// See [`super::combine`]: `None` if a vector is elsewhere, or not in f32.
pub(super) fn combine(terms: &[(f64, Vec<Floats>)]) -> Option<Vec<Floats>> {
    let (_, first) = terms.first()?;
    let device = first.first()?.device();
    let is_here = |values: &Floats| {
        is_here(values) && values.dtype() == DType::F32 && values.device() == device
    };
    if !terms.iter().all(|(_, vector)| vector.iter().all(is_here)) {
        return None;
    }
    let DispatchDevice::Cube(device) = device.as_dispatch() else {
        return None;
    };
    // One buffer is that of the sum. What a launch does not bind the buffers of is added by the next.
    let most = buffers(&device.client()).saturating_sub(1).max(2);
    let (now, later) = terms.split_at(terms.len().min(most));
    let coefficients = now.iter().map(|(coefficient, _)| *coefficient as f32);
    let values = (0..first.len()).map(|parameter| {
        let of_terms = now.iter().map(|(_, vector)| vector[parameter].clone());
        of_terms.map(primitive).collect()
    });
    let combined = Cube::combine(values.collect(), coefficients.collect());
    let combined = combined.into_iter().map(|sum| Floats::of(tensor(sum)));
    let combined: Vec<Floats> = combined.collect();
    if later.is_empty() {
        return Some(combined);
    }
    let rest = later.iter().cloned();
    let terms: Vec<_> = core::iter::once((1.0, combined)).chain(rest).collect();
    self::combine(&terms)
}

fn primitive(values: Floats) -> FloatTensor<Cube> {
    let values = values.of_any_rank().try_into_primitive::<Cube>();
    values.expect("a tensor was found to be on a CubeCL device")
}

fn tensor(values: FloatTensor<Cube>) -> Tensor<1> {
    Tensor::from_primitive::<Cube>(values)
}

/// Current values, and averages in f32 that take steps towards them: each average with the index of its current values, in
/// rising order, and its weight.
pub(super) struct Steps<B: Backend> {
    pub(super) currents: Vec<FloatTensor<B>>,
    pub(super) averages: Vec<FloatTensor<B>>,
    pub(super) weights: Vec<(usize, f32)>,
}

impl<B: Backend> Default for Steps<B> {
    fn default() -> Self {
        Self {
            currents: Vec::new(),
            averages: Vec::new(),
            weights: Vec::new(),
        }
    }
}

/// The work of a backend's kernels, on lists of tensors. The state is a [`Verdict`]'s, and changed in place.
pub(super) trait Averaging: Backend {
    /// Notes that the last update is one before the next.
    fn advance(state: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Notes which values are not finite, unless an update before was left out.
    fn mark(state: FloatTensor<Self>, values: Vec<FloatTensor<Self>>) -> FloatTensor<Self>;

    /// The averages, flat, after their steps or, if the state says so, as they were: in their own memory, if nobody shares
    /// it.
    fn step(state: FloatTensor<Self>, steps: Steps<Self>) -> Vec<FloatTensor<Self>>;

    /// For each of several parameters, the sum of `coefficient * values` over the terms of all coefficients: flat, in f32, as the
    /// values are.
    fn combine(
        values: Vec<Vec<FloatTensor<Self>>>,
        coefficients: Vec<f32>,
    ) -> Vec<FloatTensor<Self>>;
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

/// As many averages of each of the current values.
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
                        after = before + (current - before) * Vector::new(weight);
                    }
                }
                averaged.index_mut(place).write(ABSOLUTE_POS, after);
            }
        }
    }
}

/// The values of a parameter's terms one after the other.
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
            let mut sum = Vector::<f32, N>::new(0.0);
            #[unroll]
            for j in 0..terms {
                let place = comptime!(i * terms + j);
                sum += values[place].read(ABSOLUTE_POS) * Vector::new(coefficients[j]);
            }
            combined.index_mut(i).write(ABSOLUTE_POS, sum);
        }
    }
}

impl Averaging for CubeBackend {
    fn advance(state: CubeTensor) -> CubeTensor {
        let client = state.client.clone();
        let (count, dim) = (CubeCount::new_single(), CubeDim::new_single());
        advance_state::launch(&client, count, dim, state.clone().into_buffer_arg());
        state
    }

    fn mark(state: CubeTensor, values: Vec<CubeTensor>) -> CubeTensor {
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

    fn step(state: CubeTensor, steps: Steps<Self>) -> Vec<CubeTensor> {
        // Those of no elements stay as they are.
        let is_empty = |average: &CubeTensor| elements(average) == 0;
        let averages = steps.averages.iter();
        let averages = averages.map(|average| is_empty(average).then(|| flat(average.clone())));
        let mut averages: Vec<Option<CubeTensor>> = averages.collect();

        // Out of place, an average takes two.
        let most_averages = MOST_AVERAGES.min((buffers(&state.client) - 1) / 2).max(1);
        for (kind, mut group) in grouped(Job::all(steps, most_averages), Job::kind) {
            group.sort_by_key(|job| Reverse(elements(&job.current)));
            let capacity = (buffers(&state.client) / kind.buffers()).max(1);
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

    fn combine(values: Vec<Vec<CubeTensor>>, coefficients: Vec<f32>) -> Vec<CubeTensor> {
        let flat = |values: Vec<CubeTensor>| values.into_iter().map(flat).collect();
        let values: Vec<Vec<CubeTensor>> = values.into_iter().map(flat).collect();
        // Those of no elements are their own sum.
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
            let capacity = (buffers / (coefficients.len() + 1)).max(1);
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
}

/// Takes sums of as many parameters as a launch can bind: these, with their places.
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
    combine_terms::launch(
        &client,
        calculate_cube_count_elemwise(&client, units, dim),
        dim,
        address_type,
        vector_size,
        all,
        coefficients.iter().copied().collect(),
        combined,
        coefficients.len(),
    );
    sums
}

/// One parameter's current values, and averages with their places in the list of all and their weights.
struct Job {
    current: CubeTensor,
    averages: Vec<(usize, CubeTensor, f32)>,
}

/// The properties that all jobs of a launch share.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    /// Of the current values.
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
    /// With so many averages each at most.
    fn all(steps: Steps<CubeBackend>, most_averages: usize) -> Vec<Self> {
        let currents: Vec<CubeTensor> = steps.currents.into_iter().map(flat).collect();
        let mut jobs: Vec<(usize, Self)> = Vec::new();
        let averages = steps.averages.into_iter().zip(steps.weights);
        for (place, (average, (index, weight))) in averages.enumerate() {
            if elements(&average) == 0 {
                continue;
            }
            let average = (place, flat(average), weight);
            match jobs.last_mut() {
                Some((of, job)) if *of == index && job.averages.len() < most_averages => {
                    job.averages.push(average);
                }
                _ => {
                    let current = currents[index].clone();
                    let averages = vec![average];
                    jobs.push((index, Self { current, averages }));
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
            in_place: averages().all(|it| it.can_mut() && it.is_contiguous()),
        }
    }
}

/// Takes the steps of as many parameters as a launch can bind: the averages, with their places.
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
            let (view, written) = match kind.in_place {
                true => (average.as_linear_view_alias(after.len()), average.clone()),
                false => {
                    let shape = [elements(&average)].into();
                    let device = average.device.clone();
                    let new = empty_device_dtype(client.clone(), device, shape, DType::F32);
                    (new.clone().into_linear_view(), new)
                }
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

/// Of shape `[elements]`, if its elements are in order in memory; else as it is.
fn flat(tensor: CubeTensor) -> CubeTensor {
    let mut tensor = untile(tensor);
    if tensor.is_contiguous() {
        *tensor.meta = Metadata::new([elements(&tensor)], [1]);
    }
    tensor
}

fn elements(tensor: &CubeTensor) -> usize {
    tensor.meta.num_elements()
}

/// The number of elements of a tensor that can be read at once.
fn vector_size(tensor: &CubeTensor) -> usize {
    tensor_vector_size_parallel(
        tensor.client.io_optimized_vector_sizes(tensor.elem_size()),
        tensor.meta.shape(),
        tensor.meta.strides(),
        tensor.meta.num_dims() - 1,
    )
}

/// The type of an index that reaches all elements of all tensors.
fn address_type<'a>(tensors: impl Iterator<Item = &'a CubeTensor>) -> AddressType {
    let types = tensors.map(CubeTensor::required_address_type);
    types.max().unwrap_or_default()
}

/// The items by a key, in the order in which the keys come.
fn grouped<T, K: PartialEq>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for item in items {
        let key = key(&item);
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups
}
