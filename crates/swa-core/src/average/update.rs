//! One pass over the current weights, for any number of averages.

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Tensor, kind::Basic};

use super::unread::{SharedVerdict, Unread};
use super::{Average, AverageError};
use crate::kernels::{self, Floats, Refusal, Step, Verdict, accumulator_dtype, is_host};
use crate::weights::{Value, Weights};

/// The time at which the host reads an accelerator's verdict on the weights.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Flags {
    ReadNow,
    LeaveOnDevice,
}

/// An error, with the index of the average that it is of.
type Failed = (usize, AverageError);

/// Updates all averages towards `current`. Those on one device, with their parameters in one order, share a pass.
pub(super) fn update<M: Module>(
    averages: &mut [&mut Average<M>],
    current: &Weights,
    flags: Flags,
) -> Result<(), Failed> {
    let mut passes: Vec<Pass<'_, M>> = Vec::new();
    for (index, average) in averages.iter_mut().enumerate() {
        let number = average.updates();
        let weight = average.weight_of(number).map_err(|error| (index, error))?;
        let pass = match passes.iter_mut().find(|pass| pass.serves(average)) {
            Some(pass) => pass,
            None => {
                let current = current.clone().arranged_as(average.weights.layout_shared());
                passes.push(Pass {
                    current: current.map_err(|error| (index, error.into()))?,
                    device: average.device.clone(),
                    updates: Vec::new(),
                });
                passes.last_mut().expect("the one just added")
            }
        };
        pass.updates.push(Update {
            index,
            average,
            number,
            weight,
        });
    }
    passes.into_iter().try_for_each(|pass| pass.run(flags))
}

/// Updates towards the same current weights.
struct Pass<'a, M: Module> {
    /// In the order of the layout of all these averages.
    current: Weights,
    /// The device that the averages are kept on, if it may be another than the model's.
    device: Option<Device>,
    updates: Vec<Update<'a, M>>,
}

/// The next update of an average.
struct Update<'a, M: Module> {
    /// The index of the average among all.
    index: usize,
    average: &'a mut Average<M>,
    /// The number of updates before.
    number: usize,
    weight: f64,
}

impl<M: Module> Pass<'_, M> {
    fn serves(&self, average: &Average<M>) -> bool {
        let layout = average.weights.layout_shared();
        average.device == self.device && self.current.layout().is_same(layout)
    }

    fn run(mut self, flags: Flags) -> Result<(), Failed> {
        if let Some(device) = &self.device {
            let moved = self.current.transferred_to(device);
            self.current = moved.map_err(|error| (self.updates[0].index, error.into()))?;
        }
        let Some(shared) = self.verdict(flags)? else {
            return self.take(None);
        };
        let mut verdict = shared.lock();
        let number = verdict.updates();
        self.take(Some(&mut verdict))?;
        for update in self.updates {
            let new = || Unread::new(shared.clone(), update.number);
            update.average.unread.get_or_insert_with(new).add(number);
        }
        Ok(())
    }

    /// The verdict that the device is to add this update to, or `None` if the host reads at once. Averages whose last updates are
    /// unread under another verdict are checked before.
    fn verdict(&mut self, flags: Flags) -> Result<Option<SharedVerdict>, Failed> {
        // A deviation that is not finite must not be kept.
        let spreads = self.updates.iter().any(|it| it.average.spread.is_some());
        let device = if flags == Flags::ReadNow || spreads {
            None
        } else {
            self.first_elsewhere()
        };
        let mut unread = self.updates.iter().filter_map(|it| it.average.unread());
        let goes_on = |it: &&SharedVerdict| device.as_ref().is_some_and(|to| it.lock().goes_on(to));
        let shared = unread.find(goes_on).cloned();
        for Update { index, average, .. } in &mut self.updates {
            let is_other = |of: &SharedVerdict| !shared.as_ref().is_some_and(|it| it.is(of));
            if average.unread().is_some_and(is_other) {
                average.check().map_err(|error| (*index, error))?;
            }
        }
        let parameters = self.current.layout().parameters().len();
        let new = |device| SharedVerdict::new(Verdict::new(&device, parameters));
        Ok(device.map(|device| shared.unwrap_or_else(|| new(device))))
    }

    /// The device of the first weights to be checked that are not in the host's memory.
    fn first_elsewhere(&self) -> Option<Device> {
        let values = self.current.values().iter().enumerate();
        let averaged = values.filter(|(parameter, _)| self.averaging(*parameter).is_some());
        let mut devices = averaged.map(|(_, value)| value.device());
        devices.find(|device| !is_host(device))
    }

    /// The first update that averages the parameter.
    fn averaging(&self, parameter: usize) -> Option<&Update<'_, M>> {
        let mut updates = self.updates.iter();
        updates.find(|it| it.average.averaged[parameter])
    }

    /// Checks the current weights and takes all steps, under a verdict if the host is not to wait for the device.
    fn take(&mut self, mut verdict: Option<&mut Verdict>) -> Result<(), Failed> {
        let is_unread = verdict.is_some();
        let averages = self.updates.iter().map(|it| &it.average);
        // While there is another handle on them, no weights are changed in place.
        let _protected: Vec<_> = averages.map(|it| it.to_protect(is_unread)).collect();
        let mut values = self.take_values();
        let mut steps = self.steps(&mut values);
        let outcome = kernels::take(&mut steps.list, verdict.as_deref_mut());
        self.put_back(steps, &mut values);
        if outcome.is_ok() {
            let verdict = verdict.as_deref();
            for values in &mut values {
                let current = self.current.values();
                let values = values.iter_mut().zip(current);
                values.for_each(|(value, current)| accept(value, current, verdict));
            }
        }
        for (update, values) in self.updates.iter_mut().zip(values) {
            update.average.weights.put_values(values);
        }
        outcome.map_err(|refusal| self.error(refusal))?;
        for update in &mut self.updates {
            update.finish(&self.current, is_unread);
        }
        Ok(())
    }

    /// The values of all averages, so that nothing else has a handle on them.
    fn take_values(&mut self) -> Vec<Vec<Value>> {
        let parameters = self.current.values().len();
        let values = self.updates.iter_mut().map(|update| {
            let values = update.average.weights.take_values();
            assert_eq!(values.len(), parameters, "an earlier update has panicked");
            values
        });
        values.collect()
    }

    /// The steps of all float parameters, whose values they take.
    fn steps(&self, values: &mut [Vec<Value>]) -> Steps {
        let mut steps = Steps::default();
        for (parameter, current) in self.current.values().iter().enumerate() {
            let Value::Float(current) = current else {
                continue;
            };
            for (place, (update, values)) in self.updates.iter().zip(&mut *values).enumerate() {
                let taken = Value::Float(current.clone());
                if let Value::Float(before) = std::mem::replace(&mut values[parameter], taken) {
                    let step = update.step(parameter, before, current);
                    steps.add(step, place);
                }
            }
        }
        steps
    }

    fn put_back(&mut self, steps: Steps, values: &mut [Vec<Value>]) {
        for (step, places) in steps.list.into_iter().zip(steps.places) {
            for ((average, _), place) in step.averages.into_iter().zip(places) {
                let is_large = &mut self.updates[place].average.is_large;
                is_large.resize(values[place].len(), false);
                is_large[step.parameter] = step.is_large;
                values[place][step.parameter] = Value::Float(average);
            }
        }
    }

    fn error(&self, refusal: Refusal) -> Failed {
        let first = &self.updates[0];
        match refusal {
            Refusal::Device(reason) => (first.index, AverageError::Device { reason }),
            Refusal::NotFinite(parameter) => {
                let update = self.averaging(parameter).unwrap_or(first);
                (update.index, update.average.not_finite(parameter))
            }
        }
    }
}

impl<M: Module> Update<'_, M> {
    /// The step of a parameter whose value in the average is `before`.
    fn step(&self, parameter: usize, before: Floats, current: &Floats) -> Step {
        let device = current.device();
        if !self.average.averaged[parameter] {
            // To the current values themselves.
            let before = before.moved_to(&device).cast(current.dtype().into());
            return Step {
                parameter,
                current: current.clone(),
                checked: false,
                is_large: true,
                averages: vec![(before, 1.0)],
            };
        }
        let is_large = match self.average.is_large.get(parameter) {
            Some(is_large) => *is_large,
            None => kernels::is_large(&before),
        };
        // After a record was loaded, its dtype may be another than an accumulator's.
        let dtype = match before.dtype() {
            DType::F64 => FloatDType::F64,
            _ => accumulator_dtype(current.dtype()),
        };
        // In the host's memory, one pass is enough if both have the same dtype.
        let current = if is_host(&device) {
            current.clone().cast(dtype)
        } else {
            current.clone()
        };
        Step {
            parameter,
            current,
            checked: true,
            is_large,
            averages: vec![(before.moved_to(&device).cast(dtype), self.weight)],
        }
    }

    /// Notes that the average's values are those after this update.
    fn finish(&mut self, current: &Weights, is_unread: bool) {
        let average = &mut *self.average;
        // The first update shares the model's memory. So do the latest values of what is not averaged.
        *average.is_shown.get_mut() = self.number == 0;
        average.shares_latest = !is_unread;
        average.updates.value = self.number.saturating_add(1);
        if let Some(spread) = &mut average.spread {
            spread.add(&average.weights, current, self.weight);
        }
    }
}

/// The steps of a pass.
#[derive(Default)]
struct Steps {
    list: Vec<Step>,
    /// For each average of each step, the place of its update in the pass.
    places: Vec<Vec<usize>>,
}

impl Steps {
    /// Adds the step of an update to that of another update of the same parameter, if it is alike, so that the current values are read
    /// once for both.
    fn add(&mut self, step: Step, place: usize) {
        let steps = self.list.iter_mut().zip(&mut self.places).rev();
        let mut others = steps.take_while(|(other, _)| other.parameter == step.parameter);
        let is_alike = |other: &Step| {
            other.checked == step.checked && other.current.dtype() == step.current.dtype()
        };
        match others.find(|(other, _)| is_alike(other)) {
            Some((other, places)) => {
                other.is_large |= step.is_large;
                other.averages.extend(step.averages);
                places.push(place);
            }
            None => {
                self.list.push(step);
                self.places.push(vec![place]);
            }
        }
    }
}

/// Gives an int or bool parameter the current value, unless the device left the update out.
fn accept(value: &mut Value, current: &Value, verdict: Option<&Verdict>) {
    fn of<K: Basic>(
        before: &Tensor<1, K>,
        current: &Tensor<1, K>,
        verdict: Option<&Verdict>,
    ) -> Tensor<1, K> {
        let before = before.clone().to_device(&current.device());
        kernels::accepted(before, current.clone(), verdict)
    }
    match (value, current) {
        (Value::Int(value), Value::Int(current)) => *value = of(value, current, verdict),
        (Value::Bool(value), Value::Bool(current)) => *value = of(value, current, verdict),
        _ => {}
    }
}
