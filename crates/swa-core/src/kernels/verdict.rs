//! The verdict of a device on the values of updates. The host does not wait for it.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};

#[cfg(feature = "cubecl")]
use super::cube;
use super::{Floats, Step, portable};

/// The current values of a step, which may have a NaN or an infinity, and its averages. Infinities that are equal in both are
/// constants, such as those of a mask, and count as finite here.
pub(super) struct Checked {
    pub(super) current: Floats,
    pub(super) averages: Vec<Floats>,
}

impl Checked {
    pub(super) fn of(step: &Step) -> Self {
        let averages = step.averages.iter().map(|(average, _)| average.clone());
        Self {
            current: step.current.clone(),
            averages: averages.collect(),
        }
    }
}

/// The result of the checks of several updates, on the device of the values.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// In f32, of shape `[3 + values]`:
    ///
    /// - [`BEFORE`]: 1 if all values were finite in all updates before the last, else 0;
    /// - [`NOW`]: the same, with the last update;
    /// - [`TAKEN`]: the number of updates before the last that were taken;
    /// - from [`VALUES`] on, for each value, 0 if it was not finite in the first update that was left out, else 1.
    state: Tensor<1>,
    /// The indices of the steps that the values belong to.
    steps: Vec<usize>,
}

/// The places of the numbers in the state.
pub(super) const BEFORE: usize = 0;
pub(super) const NOW: usize = 1;
pub(super) const TAKEN: usize = 2;
pub(super) const VALUES: usize = 3;

/// A verdict that the host has read.
pub(crate) struct Found {
    /// The number of updates before the first that was left out.
    pub(crate) taken: usize,
    /// The indices of the steps whose values were not finite in that update, if there is one.
    pub(crate) not_finite: Vec<usize>,
}

impl Verdict {
    /// The verdict on the values of a first update. They belong to the steps with these indices, at least one.
    pub(super) fn of(values: Vec<Checked>, steps: Vec<usize>) -> Self {
        let state = start(values.len(), &values[0].current.device());
        Self {
            state: mark(state, values),
            steps,
        }
    }

    /// Tells whether values belong to the same steps, and are on the same device.
    pub(super) fn is_of(&self, values: &[Checked], steps: &[usize]) -> bool {
        let device = values.first().map(|values| values.current.device());
        self.steps == steps && device == Some(self.state.device())
    }

    /// This verdict together with that on the next update's values, which are in the same order.
    pub(super) fn and(self, values: Vec<Checked>) -> Self {
        Self {
            state: mark(advance(self.state), values),
            steps: self.steps,
        }
    }

    /// One element, which tells whether the device takes the last update.
    pub(super) fn accept(&self, device: &Device) -> Tensor<1, Bool> {
        let now = self.state.clone().narrow(0, NOW, 1);
        now.to_device(device).greater_elem(0.5)
    }

    /// The state on `device`, whose element [`NOW`] says whether to take the last update.
    #[cfg(feature = "cubecl")]
    pub(super) fn state(&self, device: &Device) -> Tensor<1> {
        self.state.clone().to_device(device)
    }

    /// A state that takes every update.
    #[cfg(feature = "cubecl")]
    pub(super) fn to_take_all(device: &Device) -> Tensor<1> {
        start(0, device)
    }

    /// Reads the verdict, in one round trip to the device.
    ///
    /// # Errors
    ///
    /// The message of the device that could not be read.
    pub(crate) fn read(&self) -> Result<Found, String> {
        let state = portable::read(self.state.clone())?;
        let finite = self.steps.iter().zip(&state[VALUES..]);
        let not_finite = finite.filter(|(_, finite)| **finite == 0.0);
        Ok(Found {
            taken: (state[TAKEN] + state[NOW]) as usize,
            not_finite: not_finite.map(|(step, _)| *step).collect(),
        })
    }
}

impl Clone for Verdict {
    /// A copy with its own memory, since a kernel changes the state in place.
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone().add_scalar(0.0),
            steps: self.steps.clone(),
        }
    }
}

/// Notes that the last update is one before the next.
fn advance(state: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "cubecl")]
    if cube::is_here(&Floats::of(state.clone())) {
        return cube::advance(state);
    }
    let part = |at: usize| state.clone().narrow(0, at, 1);
    let taken = part(TAKEN).add(part(NOW));
    let values = state.dims()[0] - VALUES;
    let finite = state.clone().narrow(0, VALUES, values);
    Tensor::cat(vec![part(NOW), part(NOW), taken, finite], 0)
}

/// Notes which values are not finite, unless an earlier update was left out.
fn mark(state: Tensor<1>, values: Vec<Checked>) -> Tensor<1> {
    #[cfg(feature = "cubecl")]
    if cube::marks(&state.device(), &values) {
        return cube::mark(state, values);
    }
    let part = |at: usize, count: usize| state.clone().narrow(0, at, count);
    let finite = finite(values).to_device(&state.device());
    let before = part(BEFORE, 1);
    let now = before.clone().mul(finite.clone().min());
    let stopped = before.clone().lower_elem(0.5).expand(finite.shape());
    let values = finite.dims()[0];
    let finite = finite.mask_where(stopped, part(VALUES, values));
    Tensor::cat(vec![before, now, part(TAKEN, 1), finite], 0)
}

/// For each of the values 1 if they are finite, else 0. If a model is spread over several devices, all are on the first.
fn finite(values: Vec<Checked>) -> Tensor<1> {
    let device = values[0].current.device();
    let mut rest = values.into_iter().peekable();
    let mut flags = Vec::new();
    while let Some(first) = rest.next() {
        let on = first.current.device();
        let is_marked = is_marked(&first);
        let mut values = vec![first];
        while let Some(next) =
            rest.next_if(|next| next.current.device() == on && self::is_marked(next) == is_marked)
        {
            values.push(next);
        }
        flags.push(finite_on(&on, values).to_device(&device));
    }
    Tensor::cat(flags, 0)
}

/// Tells whether a kernel checks these values.
fn is_marked(values: &Checked) -> bool {
    #[cfg(feature = "cubecl")]
    return cube::marks(&values.current.device(), std::slice::from_ref(values));
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = values;
        false
    }
}

fn finite_on(device: &Device, values: Vec<Checked>) -> Tensor<1> {
    #[cfg(feature = "cubecl")]
    if cube::marks(device, &values) {
        let count = values.len();
        return cube::mark(start(count, device), values).narrow(0, VALUES, count);
    }
    let _ = device;
    portable::finite(values)
}

/// The state before the first update.
fn start(values: usize, device: &Device) -> Tensor<1> {
    let mut state = vec![1.0_f32; VALUES + values];
    state[TAKEN] = 0.0;
    let shape = [state.len()];
    Tensor::from_data(TensorData::new(state, shape), (device, DType::F32))
}
