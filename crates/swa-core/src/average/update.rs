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
    current: Weights,
    flags: Flags,
) -> Result<(), Failed> {
    let mut groups: Vec<Vec<Update<'_, M>>> = Vec::new();
    for (index, average) in averages.iter_mut().enumerate() {
        let number = average.updates();
        let weight = average.weight_of(number).map_err(|error| (index, error))?;
        let update = Update {
            index,
            average,
            number,
            weight,
        };
        match groups.iter_mut().find(|group| group[0].is_like(&update)) {
            Some(group) => group.push(update),
            None => groups.push(vec![update]),
        }
    }
    let passes = std::iter::repeat_n(current, groups.len()).zip(groups);
    let passes = passes.map(|(current, updates)| {
        let first = &updates[0];
        let current = current.arranged_as(first.average.weights.layout_shared());
        let current = current.map_err(|error| (first.index, error.into()))?;
        Ok(Pass { current, updates })
    });
    let passes = passes.collect::<Result<Vec<Pass<'_, M>>, Failed>>()?;
    passes.into_iter().try_for_each(|pass| pass.run(flags))
}

/// Updates towards the same current weights, at least one: of averages on one device, with one layout.
struct Pass<'a, M: Module> {
    current: Weights,
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
    fn run(mut self, flags: Flags) -> Result<(), Failed> {
        let first = &self.updates[0];
        if let Some(device) = &first.average.device {
            let moved = self.current.transferred_to(device);
            self.current = moved.map_err(|error| (first.index, error.into()))?;
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
        for (update, values) in self.updates.iter_mut().zip(values) {
            let values = values.into_iter().zip(self.current.values());
            let values = values.map(|(value, current)| {
                let value = value.expect("a step gives back what it took");
                match outcome {
                    Ok(()) => accepted(value, current, verdict.as_deref()),
                    Err(_) => value,
                }
            });
            update.average.weights.put_values(values.collect());
        }
        outcome.map_err(|refusal| self.error(refusal))?;
        for update in &mut self.updates {
            update.finish(&self.current, is_unread);
        }
        Ok(())
    }

    /// The values of all averages, so that nothing else has a handle on them.
    fn take_values(&mut self) -> Vec<Vec<Option<Value>>> {
        let parameters = self.current.values().len();
        let values = self.updates.iter_mut().map(|update| {
            let values = update.average.weights.take_values();
            assert_eq!(values.len(), parameters, "an earlier update has panicked");
            values.into_iter().map(Some).collect()
        });
        values.collect()
    }

    /// The steps of all float parameters, which take their values.
    fn steps(&self, values: &mut [Vec<Option<Value>>]) -> Steps {
        let mut steps = Steps::default();
        for (parameter, current) in self.current.values().iter().enumerate() {
            let Value::Float(current) = current else {
                continue;
            };
            for (place, (update, values)) in self.updates.iter().zip(&mut *values).enumerate() {
                if let Some(Value::Float(before)) = values[parameter].take() {
                    steps.add(parameter, current, update, before, place);
                }
            }
        }
        steps
    }

    fn put_back(&mut self, steps: Steps, values: &mut [Vec<Option<Value>>]) {
        for (step, places) in steps.list.into_iter().zip(steps.places) {
            for ((average, _), place) in step.averages.into_iter().zip(places) {
                let is_large = &mut self.updates[place].average.is_large;
                is_large.resize(values[place].len(), false);
                is_large[step.parameter] = step.is_large;
                values[place][step.parameter] = Some(Value::Float(average));
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
    /// Tells whether both can be in one pass.
    fn is_like(&self, other: &Self) -> bool {
        let layout = other.average.weights.layout_shared();
        self.average.device == other.average.device
            && self.average.weights.layout_shared().is_same(layout)
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
    /// Adds the step of a parameter whose value in the average is `before`: to the step of another update that reads the current values
    /// alike, if there is one, so that they are read once for both.
    fn add<M: Module>(
        &mut self,
        parameter: usize,
        current: &Floats,
        update: &Update<'_, M>,
        before: Floats,
        place: usize,
    ) {
        let device = current.device();
        let as_it_is = FloatDType::from(current.dtype());
        let average = &update.average;
        let checked = average.averaged[parameter];
        let (weight, is_large, dtype, read_as) = if checked {
            let is_large = match average.is_large.get(parameter) {
                Some(is_large) => *is_large,
                None => kernels::is_large(&before),
            };
            // After a record was loaded, its dtype may be another than an accumulator's.
            let dtype = match before.dtype() {
                DType::F64 => FloatDType::F64,
                _ => accumulator_dtype(current.dtype()),
            };
            // In the host's memory, one pass is enough if both have the same dtype.
            let read_as = if is_host(&device) { dtype } else { as_it_is };
            (update.weight, is_large, dtype, read_as)
        } else {
            // To the current values themselves.
            (1.0, true, as_it_is, as_it_is)
        };
        let average = (before.moved_to(&device).cast(dtype), weight);

        let steps = self.list.iter_mut().zip(&mut self.places).rev();
        let mut others = steps.take_while(|(other, _)| other.parameter == parameter);
        let is_alike = |other: &Step| {
            other.checked == checked && other.current.dtype() == DType::from(read_as)
        };
        match others.find(|(other, _)| is_alike(other)) {
            Some((step, places)) => {
                step.is_large |= is_large;
                step.averages.push(average);
                places.push(place);
            }
            None => {
                self.list.push(Step {
                    parameter,
                    current: current.clone().cast(read_as),
                    checked,
                    is_large,
                    averages: vec![average],
                });
                self.places.push(vec![place]);
            }
        }
    }
}

/// An int or bool parameter: the current value, or the value before if the device left the update out.
fn accepted(before: Value, current: &Value, verdict: Option<&Verdict>) -> Value {
    fn of<K: Basic>(
        before: Tensor<1, K>,
        current: &Tensor<1, K>,
        verdict: Option<&Verdict>,
    ) -> Tensor<1, K> {
        let before = before.to_device(&current.device());
        kernels::accepted(before, current.clone(), verdict)
    }
    match (before, current) {
        (Value::Int(before), Value::Int(current)) => Value::Int(of(before, current, verdict)),
        (Value::Bool(before), Value::Bool(current)) => Value::Bool(of(before, current, verdict)),
        (before, _) => before,
    }
}
