//! The verdict of a device on the values of updates. The host does not wait for it.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};

#[cfg(feature = "cubecl")]
use super::cube;
use super::{Floats, Step, portable};

/// The current values of a parameter, which may have a NaN or an infinity, and the averages that are to take a step towards them.
/// Infinities that are equal in all are constants, such as those of a mask, and count as finite here.
pub(super) struct Checked {
    /// That of the [`Step`].
    pub(super) parameter: usize,
    pub(super) current: Floats,
    pub(super) averages: Vec<Floats>,
}

impl Checked {
    pub(super) fn of(step: &Step) -> Self {
        let averages = step.averages.iter().map(|(average, _)| average.clone());
        Self {
            parameter: step.parameter,
            current: step.current.clone(),
            averages: averages.collect(),
        }
    }
}

/// The result of the checks of several updates, on the device of the values. Each update may check other parameters of one layout,
/// against other averages.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// In f32, of shape `[3 + parameters]`:
    ///
    /// - [`BEFORE`]: 1 if all values were finite in all updates before the last, else 0;
    /// - [`NOW`]: the same, with the last update;
    /// - [`TAKEN`]: the number of updates before the last that were taken;
    /// - from [`VALUES`] on, for each parameter, 0 if it was not finite in the first update that was left out, else 1.
    state: Tensor<1>,
    updates: usize,
    /// The state after the last update, once the host has read it.
    found: Option<Found>,
}

/// The places of the numbers in the state.
pub(super) const BEFORE: usize = 0;
pub(super) const NOW: usize = 1;
pub(super) const TAKEN: usize = 2;
pub(super) const VALUES: usize = 3;

/// The largest number of updates under one verdict. The device counts them in f32, which counts no further.
const MOST_UPDATES: usize = 1 << 24;

/// A verdict that the host has read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The number of updates before the first that was left out.
    pub(crate) taken: usize,
    /// The indices of the parameters that were not finite in that update, if there is one.
    pub(crate) not_finite: Vec<usize>,
}

impl Verdict {
    /// A verdict on updates that are still to come, of a layout with so many parameters.
    pub(crate) fn new(device: &Device, parameters: usize) -> Self {
        Self {
            state: start(parameters, device),
            updates: 0,
            found: None,
        }
    }

    /// The number of updates whose values were checked.
    pub(crate) fn updates(&self) -> usize {
        self.updates
    }

    /// Tells whether the next update can be one more under this verdict, if the first of its values to check is on `device`.
    pub(crate) fn goes_on(&self, device: &Device) -> bool {
        self.state.device() == *device && self.updates < MOST_UPDATES
    }

    /// As if there had been as many updates as the device can count.
    #[cfg(test)]
    pub(crate) fn fill(&mut self) {
        self.updates = MOST_UPDATES;
    }

    /// Checks the values of the next update.
    pub(super) fn check(&mut self, checks: Vec<Checked>) {
        let state = self.state.clone();
        let state = if self.updates == 0 {
            state
        } else {
            advance(state)
        };
        self.state = mark(state, checks);
        self.updates += 1;
        self.found = None;
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

    /// Reads the verdict: one round trip to the device, if there was an update since the last time.
    ///
    /// # Errors
    ///
    /// The message of the device that could not be read.
    pub(crate) fn read(&mut self) -> Result<Found, String> {
        if let Some(found) = &self.found {
            return Ok(found.clone());
        }
        let state = portable::read(self.state.clone())?;
        let finite = state[VALUES..].iter().enumerate();
        let not_finite = finite.filter(|(_, finite)| **finite == 0.0);
        let found = Found {
            taken: (state[TAKEN] + state[NOW]) as usize,
            not_finite: not_finite.map(|(parameter, _)| parameter).collect(),
        };
        Ok(self.found.insert(found).clone())
    }
}

impl Clone for Verdict {
    /// A copy with its own memory, since a kernel changes the state in place.
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone().add_scalar(0.0),
            updates: self.updates,
            found: self.found.clone(),
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
fn mark(state: Tensor<1>, checks: Vec<Checked>) -> Tensor<1> {
    let device = state.device();
    #[cfg(feature = "cubecl")]
    if checks.iter().all(|it| cube::marks(&device, it)) {
        return cube::mark(state, checks);
    }
    let part = |at: usize, count: usize| state.clone().narrow(0, at, count);
    let parameters = state.dims()[0] - VALUES;
    let finite = finite(checks, parameters, &device);
    let before = part(BEFORE, 1);
    let now = before.clone().mul(finite.clone().min());
    let stopped = before.clone().lower_elem(0.5).expand(finite.shape());
    let finite = finite.mask_where(stopped, part(VALUES, parameters));
    Tensor::cat(vec![before, now, part(TAKEN, 1), finite], 0)
}

/// For each parameter 0 if a check finds that it is not finite, else 1, on `device`. A model may be spread over several devices, and
/// a kernel may check some of the values only.
fn finite(checks: Vec<Checked>, parameters: usize, device: &Device) -> Tensor<1> {
    let mut finite = Tensor::ones([parameters], (device, DType::F32));
    let mut rest = checks;
    while let Some(first) = rest.first() {
        let on = first.current.device();
        let (here, others): (Vec<Checked>, _) =
            rest.into_iter().partition(|it| it.current.device() == on);
        rest = others;
        #[cfg(feature = "cubecl")]
        let (marked, here): (Vec<Checked>, _) =
            here.into_iter().partition(|it| cube::marks(&on, it));
        #[cfg(feature = "cubecl")]
        if !marked.is_empty() {
            let state = cube::mark(start(parameters, &on), marked);
            finite = finite.mul(state.narrow(0, VALUES, parameters).to_device(device));
        }
        if !here.is_empty() {
            let flags = portable::finite(here, parameters, &on);
            finite = finite.mul(flags.to_device(device));
        }
    }
    finite
}

/// The state before the first update.
fn start(parameters: usize, device: &Device) -> Tensor<1> {
    let mut state = vec![1.0_f32; VALUES + parameters];
    state[TAKEN] = 0.0;
    let shape = [state.len()];
    Tensor::from_data(TensorData::new(state, shape), (device, DType::F32))
}
