//! The average of a module's parameters.

mod update;
mod verdict;

use core::fmt;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use crate::parameter::{self, Cast, Description, Finite, Parameter, Role};
use crate::{AverageError, AveragingRule, Counter};
use update::Update;
use verdict::{Accept, Flags, Unread};

/// The weighted average of the parameters that a module passes through.
///
/// After [`update`](Self::update) number `n` (counted from 0), every float parameter of the average
/// is
///
/// ```text
/// average += w(n) * (current - average)
/// ```
///
/// where `w` is the [rule](AveragingRule)'s weight, and `w(0) = 1`: the first update copies. Averaged
/// in f32 (f64 where the model is f64), whatever the model's dtype. Int and bool parameters take the
/// latest value, as do the running mean and variance of BatchNorm layers, which averaged weights never
/// produced: re-estimate them with [`reestimate_batch_norm`](crate::reestimate_batch_norm), or average
/// them too with [`averaging_running_statistics`](Self::averaging_running_statistics).
///
/// The average is another value than the model: it shares no state with it, is no part of its
/// autodiff graph, and its parameters require no gradient.
///
/// It is a [`Module`] too, so that it can be saved and loaded like one: its record holds the
/// averaged parameters under `model` and the number of updates under `updates`.
///
/// Peers: `torch.optim.swa_utils.AveragedModel` (its `use_buffers` is the option above).
///
/// # NaN and infinities
///
/// Weights that are not finite are never averaged. Each update checks them in one reading pass, on the
/// device that holds the average, which gives one flag a parameter. (Weights in f64 on an accelerator,
/// and all weights on one that is not CubeCL's, are checked by their sum: if that overflows, finite
/// weights count as not finite.)
///
/// - [`update`](Self::update) reads all flags at once, one round trip to an accelerator, and returns
///   the error;
/// - [`update_non_blocking`](Self::update_non_blocking) reads nothing from an accelerator. There the
///   device itself keeps the average of the last good update, from then on, and
///   [`check`](Self::check) reads what all updates since the last check have found. Call that where
///   waiting for the device costs nothing, such as at the end of an epoch.
///
/// # Memory
///
/// One f32 copy of the parameters, from the second update on; until then it shares the model's.
///
/// # Copies and records on an accelerator
///
/// [`new`](Self::new) makes the whole process read a tensor's data at the time it is asked for
/// (`burn_std::set_runtime_kind(RuntimeKind::Async)`). Burn 0.22.1 would, on CubeCL's devices, put the
/// reading off until somebody looks at the data, and show what has become of it meanwhile, in place: by
/// the next update of the average, or by the optimizer of its momentum. A copy of the average on the CPU
/// would go on changing, and a checkpoint that Burn's `Learner` writes in a thread of its own would hold
/// something of several steps, and resume another run. The price is that a checkpoint is in the host's
/// memory whole, and not a tensor at a time.
pub struct Average<M> {
    /// Always present, but for the moment in which an update owns it.
    model: Option<M>,
    parameters: Vec<Description>,
    rule: Arc<dyn AveragingRule>,
    updates: Counter,
    averages_running_statistics: bool,
    device: Option<Device>,
    unread: Option<Unread>,
}

impl<M: Module> Average<M> {
    /// An average of `model`'s parameters that has averaged nothing yet.
    ///
    /// It lives on the device that the model is on, and follows it if it moves, unless told
    /// otherwise with [`on_device`](Self::on_device).
    ///
    /// # Errors
    ///
    /// [`AverageError::Reparameterized`] and [`AverageError::Quantized`], which name the parameter.
    pub fn new(model: &M, rule: impl AveragingRule + 'static) -> Result<Self, AverageError> {
        read_tensors_when_asked();
        let model = model.valid();
        let parameters = parameter::read(&model, None, |_| false)?
            .into_iter()
            .map(|parameter| parameter.description)
            .collect();
        let mut average = Self {
            model: Some(model),
            parameters,
            rule: Arc::new(rule),
            updates: Counter::default(),
            averages_running_statistics: false,
            device: None,
            unread: None,
        };
        average.cast_accumulators();
        Ok(average)
    }

    /// Averages the running mean and variance of BatchNorm layers as well, instead of keeping the
    /// latest.
    pub fn averaging_running_statistics(mut self) -> Self {
        self.averages_running_statistics = true;
        self.cast_accumulators();
        self
    }

    /// Keeps the average on `device` instead of on the model's: on the CPU for a training that has
    /// no memory to spare, say. Every update then moves the parameters there.
    pub fn on_device(mut self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        self.model = self.model.map(|model| model.to_device(&device));
        self.device = Some(device);
        self
    }

    /// Goes on from `averaged`, the average of `updates` earlier updates, such as that of a PyTorch
    /// `AveragedModel` with its `n_averaged`: the next update is number `updates`, counted from 0.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update).
    pub fn continuing(mut self, averaged: &M, updates: usize) -> Result<Self, AverageError> {
        self.unread = None;
        self.updates.value = 0;
        // The first update copies.
        self.update(averaged)?;
        self.updates.value = updates;
        Ok(self)
    }

    /// Averages the model's current parameters into this.
    ///
    /// Neither the model's weights nor its graph nor its running statistics change.
    ///
    /// # Errors
    ///
    /// Whatever it is, the average keeps its value.
    ///
    /// - [`MissingParameter`](AverageError::MissingParameter),
    ///   [`UnknownParameter`](AverageError::UnknownParameter),
    ///   [`ShapeMismatch`](AverageError::ShapeMismatch): another model than the average's.
    /// - [`NotFinite`](AverageError::NotFinite): a NaN or an infinity in the weights, now or in an
    ///   earlier [`update_non_blocking`](Self::update_non_blocking).
    /// - [`InvalidWeight`](AverageError::InvalidWeight) of a rule of your own.
    /// - [`Reparameterized`](AverageError::Reparameterized),
    ///   [`Quantized`](AverageError::Quantized).
    pub fn update(&mut self, model: &M) -> Result<(), AverageError> {
        self.check()?;
        self.apply(self.read(model)?, Flags::ReadNow)
    }

    /// Like [`update`](Self::update), but without waiting for an accelerator, for a training that
    /// averages at every step. Weights that are not finite are left out all the same, and reported by
    /// [`check`](Self::check); call that before you save the average, whose number of updates counts
    /// those that were left out until then.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update), `NotFinite` only where the weights are in the host's memory.
    pub fn update_non_blocking(&mut self, model: &M) -> Result<(), AverageError> {
        self.apply(self.read(model)?, Flags::LeaveOnDevice)
    }

    fn read(&self, model: &M) -> Result<Vec<Parameter>, AverageError> {
        let averaged = |role| self.averages(role);
        parameter::read(&model.valid(), self.device.as_ref(), averaged)
    }

    fn apply(&mut self, current: Vec<Parameter>, flags: Flags) -> Result<(), AverageError> {
        parameter::compare(&self.parameters, &current)?;
        let weight = match self.updates.value {
            0 => 1.0,
            updates => self.rule.weight(updates),
        };
        if !(0.0..=1.0).contains(&weight) {
            let updates = self.updates();
            return Err(AverageError::InvalidWeight { updates, weight });
        }
        let accept = self.accept(&current, flags)?;
        let update = Update::new(current, weight, accept, self.averages_running_statistics);
        let average = self.model.take().expect(PRESENT);
        self.model = Some(update.of(average));
        self.updates.value += 1;
        Ok(())
    }

    /// Reads from the device whether all updates so far had finite weights: one round trip, if there
    /// was an update since the last.
    ///
    /// # Errors
    ///
    /// [`AverageError::NotFinite`] if one had not. The average is that of the updates before it, and
    /// later updates go on from there.
    pub fn check(&mut self) -> Result<(), AverageError> {
        let Some(unread) = self.unread.take() else {
            return Ok(());
        };
        match unread.read() {
            Ok(None) => Ok(()),
            Ok(Some(left_out)) => {
                self.updates.value = left_out.updates;
                Err(self.not_finite(&left_out.finite))
            }
            Err(error) => {
                self.unread = Some(unread);
                Err(error)
            }
        }
    }

    /// How many times the average was updated.
    pub fn updates(&self) -> usize {
        self.updates.value
    }

    /// The averaged model: the model's own type and dtypes, in validation mode, on the average's
    /// device.
    ///
    /// The running statistics of its BatchNorm layers are the latest of the training's, which fit
    /// the averaged weights badly: see [`reestimate_batch_norm`](crate::reestimate_batch_norm).
    /// Call [`Module::train`] to train it further.
    ///
    /// # Errors
    ///
    /// [`AverageError::NothingAveraged`] before the first update.
    pub fn model(&self) -> Result<M, AverageError> {
        if self.updates() == 0 {
            return Err(AverageError::NothingAveraged);
        }
        let dtypes = self.parameters.iter().map(|it| it.dtype);
        Ok(self.state().valid().map(&mut Cast::to(dtypes)))
    }

    fn state(&self) -> &M {
        self.model.as_ref().expect(PRESENT)
    }

    /// Makes every float that is averaged an accumulator: f32 or wider.
    fn cast_accumulators(&mut self) {
        let dtypes = self
            .parameters
            .iter()
            .map(|it| match self.averages(it.role) {
                true => parameter::accumulator_dtype(it.dtype).into(),
                false => it.dtype,
            });
        let mut cast = Cast::to(dtypes);
        self.model = self.model.take().map(|model| model.map(&mut cast));
    }

    fn averages(&self, role: Role) -> bool {
        role.is_averaged(self.averages_running_statistics)
    }

    /// Decides whether the weights are fit to be averaged: here, or by what is returned, on the device.
    fn accept(
        &mut self,
        current: &[Parameter],
        flags: Flags,
    ) -> Result<Option<Accept>, AverageError> {
        let mut unchecked = Vec::new();
        for parameter in current {
            match &parameter.finite {
                Finite::Known(true) => {}
                Finite::Known(false) => {
                    return Err(AverageError::NotFinite {
                        path: parameter.description.path.clone(),
                        updates: self.updates(),
                    });
                }
                Finite::OnDevice(value) => unchecked.push(value.clone()),
            }
        }
        let Some(finite) = parameter::finite(&unchecked) else {
            return Ok(None);
        };
        match flags {
            Flags::ReadNow => {
                let finite = verdict::read(finite)?;
                match finite.contains(&0.0) {
                    false => Ok(None),
                    true => Err(self.not_finite(&finite)),
                }
            }
            Flags::LeaveOnDevice => {
                let unread = match self.unread.take() {
                    None => Unread::first(finite, self.updates()),
                    Some(before) => before.and(finite),
                };
                let accept = unread.accept();
                self.unread = Some(unread);
                Ok(Some(accept))
            }
        }
    }

    /// The error for the first weight whose flag is 0.
    fn not_finite(&self, finite: &[f64]) -> AverageError {
        let averaged = self.parameters.iter().filter(|it| self.averages(it.role));
        let first = averaged.zip(finite).find(|(_, finite)| **finite == 0.0);
        AverageError::NotFinite {
            path: first.map_or_else(String::new, |(parameter, _)| parameter.path.clone()),
            updates: self.updates(),
        }
    }
}

/// Has CubeCL's devices read a tensor when its data is asked for: see [`Average`].
fn read_tensors_when_asked() {
    burn_std::set_runtime_kind(burn_std::RuntimeKind::Async);
}

const PRESENT: &str = "an average holds its model between updates";

impl<M: Module> Clone for Average<M> {
    /// A copy that shares nothing that changes: running statistics included, which clones of a Burn
    /// module share.
    fn clone(&self) -> Self {
        self.with_model(self.state().valid())
    }
}

impl<M: Module> Average<M> {
    fn with_model(&self, model: M) -> Self {
        Self {
            model: Some(model),
            parameters: self.parameters.clone(),
            rule: self.rule.clone(),
            updates: self.updates.clone(),
            averages_running_statistics: self.averages_running_statistics,
            device: self.device.clone(),
            unread: self.unread.clone(),
        }
    }
}

impl<M: Module> fmt::Debug for Average<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Average")
            .field("model", &self.model)
            .field("rule", &self.rule)
            .field("updates", &self.updates())
            .finish()
    }
}

fn first_device<M: Module>(model: &M) -> Device {
    model.devices().into_iter().next().unwrap_or_default()
}

/// The container that the fields of an average are visited in.
const CONTAINER: &str = "Struct:Average";

impl<M: Module> Module for Average<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.state().collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(mut self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        self.model = self.model.map(|model| model.to_device(&device));
        self
    }

    /// The average itself: its parameters are never trained.
    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    /// The average itself: it holds no reparameterization.
    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("model", CONTAINER);
        self.state().visit(visitor);
        visitor.exit_module("model", CONTAINER);

        visitor.enter_module("updates", CONTAINER);
        visitor.visit_int(&self.updates.param(&first_device(self.state())));
        visitor.exit_module("updates", CONTAINER);
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        mapper.enter_module("model", CONTAINER);
        self.model = self.model.map(|model| model.map(mapper));
        mapper.exit_module("model", CONTAINER);

        mapper.enter_module("updates", CONTAINER);
        let device = first_device(self.state());
        let before = self.updates();
        self.updates = self.updates.map(mapper, &device);
        if self.updates() != before {
            // The record of another average: nothing that was found before is of its updates.
            self.unread = None;
        }
        mapper.exit_module("updates", CONTAINER);
        self
    }
}

#[cfg(test)]
mod tests;
