//! CubeCL's devices (CUDA, ROCm, Vulkan, Metal, wgpu): kernels of our own. A launch takes as many parameters as it can bind
//! buffers.
//!
//! Burn's operations would take some fifteen launches per parameter, and most of them would write a tensor of its size.

mod combine;
mod step;
mod verdict;

use burn::backend::{Backend, DispatchDevice, DispatchTensorKind, tensor::FloatTensor};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::cubecl::{client::Client, prelude::AddressType, tensor_vector_size_parallel};
use burn_cubecl::kernel::untile;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, CubeBackend};
use burn_std::Metadata;

use super::verdict::{Checked, Verdict};
use super::{Floats, Step, Way};

/// The largest number of buffers that a launch binds, even if the device allows more. Each takes up to 40 of the 4096 bytes
/// that CUDA has for a kernel's parameters.
const MOST_BUFFERS: usize = 96;

/// The largest number of averages of one parameter in a launch.
const MOST_AVERAGES: usize = 8;

/// Tells whether a kernel takes steps of `average` towards `current`.
pub(super) fn serves(current: &Floats, average: &Floats) -> bool {
    is_read(current) && is_here(average) && average.dtype() == DType::F32
}

/// Tells whether a kernel can check these values on `device`.
pub(super) fn marks(device: &Device, values: &Checked) -> bool {
    let Checked {
        current, averages, ..
    } = values;
    let is_compared = |average: &Floats| serves(current, average) && average.device() == *device;
    is_read(current) && current.device() == *device && averages.iter().all(is_compared)
}

/// Tells whether the kernels read these values: on one of CubeCL's devices, and in a dtype that is not wider than f32.
fn is_read(values: &Floats) -> bool {
    matches!(values.dtype(), DType::F32 | DType::F16 | DType::BF16) && is_here(values)
}

pub(super) fn is_here(values: &Floats) -> bool {
    matches!(values.kind(), DispatchTensorKind::Cube(_))
}

/// See [`super::parameters_a_launch`].
pub(super) fn parameters_a_launch(device: &Device, averages: usize) -> Option<usize> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device) => {
            let buffers = buffers(&device.client());
            let averages = averages.min(most_averages(buffers, 1));
            Some(buffers / (1 + averages))
        }
        #[allow(
            unreachable_patterns,
            reason = "depends on the backends that Burn is built with"
        )]
        _ => None,
    }
}

/// The number of buffers that a launch binds, without the state and the buffer in which CubeCL may pass shapes.
fn buffers(client: &Client) -> usize {
    let most = client.properties().hardware.max_bindings as usize;
    // All known devices bind at least three: current values, and an average before and after its step.
    most.min(MOST_BUFFERS).saturating_sub(2).max(3)
}

/// The largest number of averages of one parameter in a launch of so many buffers, of which an average binds `each`.
fn most_averages(buffers: usize, each: usize) -> usize {
    MOST_AVERAGES.min((buffers - 1) / each)
}

/// See [`super::verdict`].
pub(super) fn advance(state: Tensor<1>) -> Tensor<1> {
    tensor(Cube::advance(primitive(Floats::of(state))))
}

/// See [`super::verdict`]: the state and all values are on one device.
pub(super) fn mark(state: Tensor<1>, values: Vec<Checked>) -> Tensor<1> {
    let mut checks = Checks::default();
    for (index, checked) in values.into_iter().enumerate() {
        checks.currents.push(primitive(checked.current));
        checks.places.push(checked.parameter);
        for average in checked.averages {
            checks.averages.push(primitive(average));
            checks.of.push(index);
        }
    }
    tensor(Cube::mark(primitive(Floats::of(state)), checks))
}

/// Takes all steps that kernels take.
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
                // From here on, only the list has a handle on the average, so that it is changed in place.
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

/// See [`super::combine`]. `None` if a vector is on another device, or not in f32.
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
    // One buffer is for the sum. Terms beyond what a launch can bind are added by the next launch.
    let most = buffers(&device.client()) - 1;
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

/// Current values, and averages in f32 that take steps towards them. `weights` holds for each average the index of its current
/// values, in rising order, and its weight.
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

/// Current values, and averages in f32 that are to take steps towards them. An infinity that is equal in all counts as finite.
/// `places` holds for each of the current values the place of its number in the state, counted from
/// [`VALUES`](super::verdict::VALUES). `of` holds for each average the index of its current values, in rising order.
pub(super) struct Checks<B: Backend> {
    pub(super) currents: Vec<FloatTensor<B>>,
    pub(super) places: Vec<usize>,
    pub(super) averages: Vec<FloatTensor<B>>,
    pub(super) of: Vec<usize>,
}

impl<B: Backend> Default for Checks<B> {
    fn default() -> Self {
        Self {
            currents: Vec::new(),
            places: Vec::new(),
            averages: Vec::new(),
            of: Vec::new(),
        }
    }
}

/// The kernels of a backend, on lists of tensors. The state is that of a [`Verdict`], and changes in place.
pub(super) trait Averaging: Backend {
    /// Notes that the last update is one before the next.
    fn advance(state: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Notes which values are not finite, unless an update before was left out.
    fn mark(state: FloatTensor<Self>, checks: Checks<Self>) -> FloatTensor<Self>;

    /// The averages after their steps, or unchanged if the state says so: flat, and in their own memory if nothing else shares
    /// it.
    fn step(state: FloatTensor<Self>, steps: Steps<Self>) -> Vec<FloatTensor<Self>>;

    /// For each parameter, the sum of `coefficient * values` over all coefficients. It is flat, and in f32 like the values.
    fn combine(
        values: Vec<Vec<FloatTensor<Self>>>,
        coefficients: Vec<f32>,
    ) -> Vec<FloatTensor<Self>>;
}

impl Averaging for CubeBackend {
    fn advance(state: CubeTensor) -> CubeTensor {
        verdict::advance(state)
    }

    fn mark(state: CubeTensor, checks: Checks<Self>) -> CubeTensor {
        verdict::mark(state, checks)
    }

    fn step(state: CubeTensor, steps: Steps<Self>) -> Vec<CubeTensor> {
        step::step(state, steps)
    }

    fn combine(values: Vec<Vec<CubeTensor>>, coefficients: Vec<f32>) -> Vec<CubeTensor> {
        combine::combine(values, coefficients)
    }
}

/// The tensor in shape `[elements]` if its elements are in order in memory, else unchanged.
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

/// The items grouped by a key, in the order in which the keys first occur.
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
