//! The average of a module's parameters.

use core::fmt;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, kind::Basic};

#[cfg(feature = "cubecl")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex;
use crate::parameter::{self, Description, Finite, Parameter, Role};
use crate::{AverageError, AveragingRule, Counter};

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
/// in f32 (f64 where the model is f64), whatever the model's dtype. Int and bool parameters take the latest value, as do the running
/// mean and variance of BatchNorm layers, which averaged weights never produced: re-estimate them
/// with [`reestimate_batch_norm`](crate::reestimate_batch_norm), or average them too with
/// [`averaging_running_statistics`](Self::averaging_running_statistics).
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
/// device that holds the average, which gives one flag a parameter. (An accelerator takes the sum of weights in f64, and one
/// that is not CubeCL's of all, and so finds finite weights whose sum overflows not finite either.)
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
/// (`burn_std::set_runtime_kind(RuntimeKind::Async)`). Burn 0.22.1 would, on CubeCL's devices, put the reading off until
/// somebody looks at the data, and show what has become of it meanwhile, in place: by the next update of the average, or by
/// the optimizer of its momentum. A copy of the average on the CPU would go on changing, and a checkpoint that Burn's
/// `Learner` writes in a thread of its own would hold something of several steps, and resume another run. The price is that
/// a checkpoint is in the host's memory whole, and not a tensor at a time.
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

/// What updates on an accelerator have found out, and nobody has read yet.
#[derive(Clone)]
struct Unread {
    /// How many updates were made before the first of these.
    updates_before: usize,
    /// One element: 1 as long as all weights were finite, 0 from then on.
    ok: Tensor<1>,
    /// One element: how many of these updates were made while they were.
    applied: Tensor<1>,
    /// One element a weight, 1 if it was finite: those of the first update where one was not, else
    /// those of the last.
    finite: Tensor<1>,
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
        self.compare(&current)?;
        let accept = self.accept(&current, flags)?;
        let weight = match self.updates.value {
            0 => 1.0,
            updates => self.rule.weight(updates),
        };
        let mut update = Update {
            current: current.into_iter(),
            weight,
            accept,
            #[cfg(feature = "cubecl")]
            accept_on: Vec::new(),
            averages_running_statistics: self.averages_running_statistics,
            floats: 0,
            #[cfg(feature = "flex")]
            put_off: Vec::new(),
        };
        let averaged = self.model.take().expect(PRESENT).map(&mut update);
        #[cfg(feature = "flex")]
        let averaged = update.take_what_was_put_off(averaged);
        self.model = Some(averaged);
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
        let flags = Tensor::cat(
            vec![
                unread.ok.clone(),
                unread.applied.clone(),
                unread.finite.clone(),
            ],
            0,
        );
        let flags = match read_flags(flags) {
            Ok(flags) => flags,
            Err(error) => {
                self.unread = Some(unread);
                return Err(error);
            }
        };
        if flags[0] != 0.0 {
            return Ok(());
        }
        self.updates.value = unread.updates_before + flags[1] as usize;
        Err(self.not_finite(&flags[2..]))
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
        Ok(self.state().valid().map(&mut Cast {
            dtypes: self.parameters.iter().map(|it| it.dtype).collect(),
            next: 0,
        }))
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
            })
            .collect();
        self.model = self
            .model
            .take()
            .map(|model| model.map(&mut Cast { dtypes, next: 0 }));
    }

    fn averages(&self, role: Role) -> bool {
        role.is_averaged(self.averages_running_statistics)
    }

    /// Compares the parameters of a model with the average's.
    fn compare(&self, current: &[Parameter]) -> Result<(), AverageError> {
        let expected: Vec<_> = self.parameters.iter().collect();
        let got: Vec<_> = current.iter().map(|it| &it.description).collect();

        if let Some(missing) = first_not_in(&expected, &got) {
            let path = missing.path.clone();
            return Err(AverageError::MissingParameter { path });
        }
        if let Some(unknown) = first_not_in(&got, &expected) {
            let path = unknown.path.clone();
            return Err(AverageError::UnknownParameter { path });
        }
        match expected.iter().zip(&got).find(|(a, b)| a.shape != b.shape) {
            None => Ok(()),
            Some((expected, got)) => Err(AverageError::ShapeMismatch {
                path: got.path.clone(),
                expected: expected.shape.clone(),
                got: got.shape.clone(),
            }),
        }
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
                let finite = read_flags(finite)?;
                match finite.contains(&0.0) {
                    false => Ok(None),
                    true => Err(self.not_finite(&finite)),
                }
            }
            Flags::LeaveOnDevice => Ok(Some(self.leave_unread(finite))),
        }
    }

    /// Notes one update's flags for [`check`](Self::check).
    fn leave_unread(&mut self, finite: Tensor<1>) -> Accept {
        let all_finite = finite.clone().min();
        let unread = match self.unread.take() {
            None => Unread {
                updates_before: self.updates(),
                ok: all_finite.clone(),
                applied: all_finite,
                finite,
            },
            Some(before) => {
                // The model may have moved since.
                let device = finite.device();
                let before_ok = before.ok.to_device(&device);
                let ok = before_ok.clone().mul(all_finite);
                let stopped = before_ok.lower_elem(0.5).expand(finite.shape());
                Unread {
                    updates_before: before.updates_before,
                    applied: before.applied.to_device(&device).add(ok.clone()),
                    finite: finite.mask_where(stopped, before.finite.to_device(&device)),
                    ok,
                }
            }
        };
        let ok = unread.ok.clone();
        self.unread = Some(unread);
        Accept {
            mask: ok.clone().greater_elem(0.5),
            #[cfg(feature = "cubecl")]
            ok,
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

/// What a device decides by, whose verdict the host does not wait for.
struct Accept {
    /// One element in f32: 1 to accept the weights, 0 to leave them out.
    #[cfg(feature = "cubecl")]
    ok: Tensor<1>,
    /// The same as a mask.
    mask: Tensor<1, Bool>,
}

/// When the host reads an accelerator's verdict on the weights.
#[derive(Clone, Copy)]
enum Flags {
    ReadNow,
    LeaveOnDevice,
}

fn read_flags(flags: Tensor<1>) -> Result<Vec<f64>, AverageError> {
    match flags.try_into_data() {
        Ok(data) => Ok(data.iter::<f64>().collect()),
        Err(error) => Err(AverageError::Device {
            reason: error.to_string(),
        }),
    }
}

/// The first of `some` that `others` lack, by path and role. Usually both list the same, in the same
/// order, and one pass over them tells.
fn first_not_in<'a>(some: &[&'a Description], others: &[&Description]) -> Option<&'a Description> {
    let alike = |a: &Description, b: &Description| a.path == b.path && a.role == b.role;
    let mut pairs = some.iter().zip(others);
    if some.len() == others.len() && pairs.all(|(a, b)| alike(a, b)) {
        return None;
    }
    some.iter()
        .find(|one| !others.iter().any(|other| alike(one, other)))
        .copied()
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
        self.updates = self.updates.map(mapper, &device);
        mapper.exit_module("updates", CONTAINER);
        self
    }
}

/// One update of every parameter of an average, in the order of `current`.
struct Update {
    current: std::vec::IntoIter<Parameter>,
    weight: f64,
    accept: Option<Accept>,
    /// What `accept` says, on each device that was passed.
    #[cfg(feature = "cubecl")]
    accept_on: Vec<(Device, cube::OnCube)>,
    averages_running_statistics: bool,
    /// How many float parameters were passed.
    floats: usize,
    /// Steps of float parameters, with their place among these, that are taken all together afterwards.
    #[cfg(feature = "flex")]
    put_off: Vec<(usize, flex::Step)>,
}

impl Update {
    /// Takes the steps that were put off in a traversal of `averaged`, in which other values hold their places.
    #[cfg(feature = "flex")]
    fn take_what_was_put_off<M: Module>(self, averaged: M) -> M {
        if self.put_off.is_empty() {
            return averaged;
        }
        let (places, mut steps): (Vec<usize>, Vec<flex::Step>) = self.put_off.into_iter().unzip();
        flex::take_steps(&mut steps, self.weight);
        averaged.map(&mut PutBack {
            averages: places.into_iter().zip(steps).peekable(),
            floats: 0,
        })
    }

    fn next(&mut self) -> Parameter {
        self.current
            .next()
            .expect("the numbers of parameters were compared before")
    }

    /// `new` where the weights are fit to be averaged, else `old`.
    fn accepted<const D: usize, K: Basic>(
        &self,
        old: Tensor<D, K>,
        new: Tensor<D, K>,
    ) -> Tensor<D, K> {
        match &self.accept {
            None => new,
            Some(accept) => {
                let mask = accept.mask.clone().to_device(&new.device());
                let mask = mask.reshape([1; D]).expand(new.shape());
                old.mask_where(mask, new)
            }
        }
    }

    /// The step from `average` towards `current` that one kernel takes, if they are where such kernels run.
    #[cfg(feature = "cubecl")]
    fn step_on_cube<const D: usize>(
        &mut self,
        average: &Tensor<D>,
        current: &Tensor<D>,
    ) -> Option<cube::Step> {
        let device = average.device();
        Some(cube::Step {
            average: cube::OnCube::of(average).filter(|_| average.dtype() == DType::F32)?,
            current: cube::OnCube::of(current)?,
            accept: self.accept_on(&device)?,
        })
    }

    #[cfg(feature = "cubecl")]
    fn accept_on(&mut self, device: &Device) -> Option<cube::OnCube> {
        let known = self.accept_on.iter().find(|(of, _)| of == device);
        if let Some((_, accept)) = known {
            return Some(accept.clone());
        }
        let accept = match &self.accept {
            Some(accept) => accept.ok.clone().to_device(device),
            None => Tensor::ones([1], (device, DType::F32)),
        };
        let accept = cube::OnCube::of(&accept)?;
        self.accept_on.push((device.clone(), accept.clone()));
        Some(accept)
    }
}

impl ModuleMapper for Update {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let current = self.next();
        let averaged = current
            .description
            .role
            .is_averaged(self.averages_running_statistics);
        let current: Tensor<D> = current.into_value();
        self.floats += 1;
        param.map(|average| {
            if !averaged {
                return self.accepted(moved(average, &current), current);
            }
            let dtype = FloatDType::from(average.dtype());
            let average = moved(average, &current);
            #[cfg(feature = "cubecl")]
            if self.weight != 1.0
                && let Some(step) = self.step_on_cube(&average, &current)
            {
                // From here on the step's is the only handle on the average, so that it is taken in place.
                drop(average);
                return step.take(self.weight).into_tensor();
            }
            let current = parameter::cast(current, dtype);
            if self.weight == 1.0 {
                return self.accepted(average, current);
            }
            #[cfg(feature = "flex")]
            if self.accept.is_none()
                && let (Some(plain), Some(towards)) =
                    (flex::Plain::of(&average), flex::Plain::of(&current))
            {
                // From here on the step's is the only handle on the average, so that it is taken in place.
                let step = flex::Step {
                    average: plain,
                    current: towards,
                };
                self.put_off.push((self.floats - 1, step));
                return current;
            }
            // The only handle on the average is gone with the last line, so that a backend which can
            // adds in place.
            let step = current.sub(average.clone()).mul_scalar(self.weight);
            match self.accept.is_none() {
                true => average.add(step),
                false => self.accepted(average.clone(), average.add(step)),
            }
        })
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let current = self.next().into_value();
        param.map(|latest| self.accepted(moved(latest, &current), current))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let current = self.next().into_value();
        param.map(|latest| self.accepted(moved(latest, &current), current))
    }
}

/// Puts averages into their places, in the order of the traversal.
#[cfg(feature = "flex")]
struct PutBack<I: Iterator<Item = (usize, flex::Step)>> {
    averages: std::iter::Peekable<I>,
    /// How many float parameters were passed.
    floats: usize,
}

#[cfg(feature = "flex")]
impl<I: Iterator<Item = (usize, flex::Step)>> ModuleMapper for PutBack<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let place = self.floats;
        self.floats += 1;
        match self.averages.next_if(|(of, _)| *of == place) {
            Some((_, step)) => param.map(|_| step.average.into_tensor()),
            None => param,
        }
    }
}

/// `average` on the device of `current`, which it follows.
fn moved<const D: usize, K: Basic>(average: Tensor<D, K>, current: &Tensor<D, K>) -> Tensor<D, K> {
    let device = current.device();
    match average.device() == device {
        true => average,
        false => average.to_device(&device),
    }
}

/// Casts float parameters to dtypes given in the order of the traversal.
struct Cast {
    dtypes: Vec<DType>,
    next: usize,
}

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dtype = self.dtypes[self.next];
        self.next += 1;
        param.map(|tensor| parameter::cast(tensor, dtype.into()))
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.next += 1;
        param
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.next += 1;
        param
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Lora, ParamId, Quantizer};
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::quantization::{Calibration, QuantScheme};

    use super::*;
    use crate::{EqualWeights, Exponential};

    #[derive(Module, Debug)]
    struct Net {
        weight: Param<Tensor<1>>,
        steps: Param<Tensor<1, Int>>,
        mask: Param<Tensor<1, Bool>>,
        norm: BatchNorm,
    }

    fn net(weight: [f32; 2], steps: i64, mask: bool, mean: f32, device: &Device) -> Net {
        let mut norm = BatchNormConfig::new(1).init(device);
        norm.running_mean = burn::module::RunningState::new(Tensor::from_floats([mean], device));
        Net {
            weight: Param::from_data(weight, device),
            steps: Param::initialized(ParamId::new(), Tensor::from_ints([steps], device)),
            mask: Param::initialized(ParamId::new(), Tensor::from_data([mask], device)),
            norm,
        }
    }

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    fn autodiff() -> Device {
        Device::default().autodiff()
    }

    #[test]
    fn weights_are_averaged_and_everything_else_is_the_latest() {
        let device = autodiff();
        let mut average =
            Average::new(&net([9.0, 9.0], 9, false, 9.0, &device), EqualWeights).unwrap();
        for (weight, steps, mask, mean) in [
            ([1.0, 8.0], 1, true, 2.0),
            ([2.0, 2.0], 2, false, 4.0),
            ([6.0, 2.0], 3, true, 6.0),
        ] {
            let model = net(weight, steps, mask, mean, &device);
            average.update(&model).unwrap();
        }

        let averaged = average.model().unwrap();
        assert_eq!(average.updates(), 3);
        // (1 + 2 + 6) / 3 and (8 + 2 + 2) / 3
        for (got, expected) in floats(averaged.weight.val()).iter().zip([3.0, 4.0]) {
            assert!((got - expected).abs() < 1e-6, "{got}");
        }
        assert_eq!(averaged.steps.val().into_scalar::<i64>(), 3);
        assert!(averaged.mask.val().into_scalar::<bool>());
        assert_eq!(floats(averaged.norm.running_mean.value()), [6.0]);
    }

    #[test]
    fn running_statistics_are_averaged_when_asked_to() {
        let device = autodiff();
        let model = |mean| net([0.0, 0.0], 0, false, mean, &device);
        let mut average = Average::new(&model(9.0), Exponential::new(0.75).unwrap())
            .unwrap()
            .averaging_running_statistics();
        for mean in [8.0, 4.0, 1.0] {
            average.update(&model(mean)).unwrap();
        }
        // As in the rule's test: 8, 7, 5.5.
        let averaged = average.model().unwrap();
        assert_eq!(floats(averaged.norm.running_mean.value()), [5.5]);

        let error = average.update(&model(f32::NAN)).unwrap_err();
        assert!(error.to_string().contains("`norm.running_mean`"), "{error}");
    }

    #[test]
    fn the_live_model_is_left_alone() {
        let device = autodiff();
        let model = net([1.0, 2.0], 1, true, 5.0, &device);
        let mut average = Average::new(&model, EqualWeights).unwrap();
        average.update(&model).unwrap();
        average
            .update(&net([3.0, 3.0], 2, true, 7.0, &device))
            .unwrap();

        assert_eq!(floats(model.weight.val()), [1.0, 2.0]);
        assert_eq!(floats(model.norm.running_mean.value()), [5.0]);
        assert!(model.weight.is_require_grad());
        assert!(model.weight.val().is_autodiff());

        let averaged = average.model().unwrap();
        assert!(!averaged.weight.is_require_grad());
        assert!(!averaged.weight.val().is_autodiff());
        assert!(!average.clone().train().state().weight.is_require_grad());
    }

    #[test]
    fn an_average_without_updates_has_no_model() {
        let model = net([1.0, 2.0], 1, true, 5.0, &autodiff());
        let average = Average::new(&model, EqualWeights).unwrap();
        assert_eq!(average.model().unwrap_err(), AverageError::NothingAveraged);
    }

    #[test]
    fn a_model_in_16_bits_is_averaged_in_32_and_comes_back_in_16() {
        let device = autodiff();
        let model = |value: f32| {
            let weight = Tensor::<1>::from_floats([value, 0.0], &device).cast(FloatDType::BF16);
            let mut model = net([0.0, 0.0], 0, false, 0.0, &device);
            model.weight = Param::from_tensor(weight);
            model
        };
        // 256 and 258 are neighbours in bf16: a mean of 257 needs more bits on the way.
        let mut average = Average::new(&model(256.0), EqualWeights).unwrap();
        for value in [256.0, 258.0, 258.0, 256.0] {
            average.update(&model(value)).unwrap();
        }
        assert_eq!(floats(average.state().weight.val())[0], 257.0);
        assert_eq!(average.state().weight.val().dtype(), DType::F32);
        assert_eq!(average.model().unwrap().weight.val().dtype(), DType::BF16);
    }

    #[test]
    fn f64_stays_f64() {
        let device = autodiff();
        let model = |value: f64| {
            let weight = Tensor::<1>::from_data([value, 0.0], (&device, DType::F64));
            let mut model = net([0.0, 0.0], 0, false, 0.0, &device);
            model.weight = Param::from_tensor(weight);
            model
        };
        let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
        average.update(&model(1.0)).unwrap();
        average.update(&model(1.0 + 2e-12)).unwrap();
        let averaged = average.model().unwrap().weight.val();
        assert_eq!(averaged.dtype(), DType::F64);
        assert!((floats(averaged)[0] - (1.0 + 1e-12)).abs() < 1e-15);
    }

    #[test]
    fn weights_that_are_not_finite_are_refused_by_name_and_nothing_is_lost() {
        let device = autodiff();
        let model = |weight| net(weight, 7, true, 7.0, &device);
        let mut average = Average::new(&model([0.0, 0.0]), EqualWeights).unwrap();
        average.update(&model([1.0, 2.0])).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = average
                .update(&net([3.0, bad], 8, false, 8.0, &device))
                .unwrap_err();
            let expected = AverageError::NotFinite {
                path: "weight".into(),
                updates: 1,
            };
            assert_eq!(error, expected);
        }
        assert_eq!(average.updates(), 1);
        assert_eq!(floats(average.model().unwrap().weight.val()), [1.0, 2.0]);
        average.update(&model([3.0, 4.0])).unwrap();
        assert_eq!(floats(average.model().unwrap().weight.val()), [2.0, 3.0]);
    }

    #[test]
    fn in_the_hosts_memory_weights_out_of_order_are_checked_at_once_and_averaged_too() {
        let device = autodiff();
        let model = |bad: f32| Layers {
            layers: vec![{
                let mut layer: Linear = LinearConfig::new(2, 2).with_bias(false).init(&device);
                let rows = Tensor::<2>::from_floats([[1.0, 2.0], [bad, 4.0]], &device);
                layer.weight = Param::initialized(ParamId::new(), rows.transpose());
                layer
            }],
        };
        let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
        average.update_non_blocking(&model(3.0)).unwrap();
        average.update_non_blocking(&model(5.0)).unwrap();
        let error = average.update_non_blocking(&model(f32::NAN)).unwrap_err();
        assert!(error.to_string().contains("`layers.0.weight`"), "{error}");
        let averaged = average.model().unwrap();
        // Transposed: the mean of 3 and 5 is in the first row.
        let weight = floats(averaged.layers[0].weight.val());
        assert_eq!(weight, [1.0, 4.0, 2.0, 4.0]);
    }

    #[test]
    fn weights_whose_sum_overflows_are_finite_all_the_same() {
        let device = autodiff();
        let model = net([3e38, 3e38], 0, false, 0.0, &device);
        let mut average = Average::new(&model, EqualWeights).unwrap();
        average.update(&model).unwrap();
    }

    /// What an accelerator does: the sums stay on the device until somebody asks.
    fn update_unread(average: &mut Average<Net>, model: &Net) {
        let checked = |role| role == Role::Weight;
        let mut current = parameter::read(&model.valid(), None, checked).unwrap();
        for parameter in &mut current {
            if let Finite::Known(finite) = parameter.finite
                && parameter.description.role == Role::Weight
            {
                let sum = if finite { 1.0 } else { f32::NAN };
                let sum = Tensor::from_floats([sum], &Device::default());
                parameter.finite = Finite::OnDevice(parameter::Unchecked::Sum(Box::new(sum)));
            }
        }
        average.apply(current, Flags::LeaveOnDevice).unwrap();
    }

    #[test]
    fn an_accelerator_keeps_the_last_good_average_without_being_read() {
        let device = autodiff();
        let model = |weight, steps| net(weight, steps, true, steps as f32, &device);
        let mut average = Average::new(&model([0.0, 0.0], 0), EqualWeights).unwrap();
        update_unread(&mut average, &model([1.0, 2.0], 1));
        assert_eq!(average.check(), Ok(()));
        update_unread(&mut average, &model([3.0, 4.0], 2));
        update_unread(&mut average, &model([f32::NAN, 4.0], 3));
        update_unread(&mut average, &model([100.0, 100.0], 4));

        let expected = AverageError::NotFinite {
            path: "weight".into(),
            updates: 2,
        };
        assert_eq!(average.check(), Err(expected));
        assert_eq!(average.updates(), 2);
        let averaged = average.model().unwrap();
        assert_eq!(floats(averaged.weight.val()), [2.0, 3.0]);
        assert_eq!(averaged.steps.val().into_scalar::<i64>(), 2);
        assert_eq!(floats(averaged.norm.running_mean.value()), [2.0]);

        // From there it goes on.
        update_unread(&mut average, &model([5.0, 6.0], 5));
        assert_eq!(average.check(), Ok(()));
        assert_eq!(floats(average.model().unwrap().weight.val()), [3.0, 4.0]);
    }

    #[derive(Module, Debug)]
    struct Layers {
        layers: Vec<Linear>,
    }

    fn layers(widths: &[usize]) -> Layers {
        let device = autodiff();
        let layers = widths.windows(2);
        Layers {
            layers: layers
                .map(|width| LinearConfig::new(width[0], width[1]).init(&device))
                .collect(),
        }
    }

    #[test]
    fn another_model_is_refused_with_the_path_of_the_difference() {
        let mut average = Average::new(&layers(&[2, 3, 4]), EqualWeights).unwrap();
        average.update(&layers(&[2, 3, 4])).unwrap();
        let mut error = |widths: &[usize]| average.update(&layers(widths)).unwrap_err();

        let path = "layers.1.weight".to_owned();
        assert_eq!(error(&[2, 3]), AverageError::MissingParameter { path });
        let path = "layers.2.weight".to_owned();
        assert_eq!(
            error(&[2, 3, 4, 5]),
            AverageError::UnknownParameter { path }
        );
        let expected = AverageError::ShapeMismatch {
            path: "layers.1.weight".to_owned(),
            expected: vec![3, 4],
            got: vec![3, 7],
        };
        assert_eq!(error(&[2, 3, 7]), expected);
    }

    #[test]
    fn adapters_and_quantised_parameters_are_refused_with_a_way_out() {
        let model = layers(&[8, 8]).apply_lora(Lora::new(2, 4.0));
        let error = Average::new(&model, EqualWeights).unwrap_err();
        assert!(error.to_string().contains("`layers.0.weight`"), "{error}");
        assert!(error.to_string().contains("materialize()"), "{error}");
        Average::new(&model.valid().materialize(), EqualWeights).unwrap();

        let mut quantizer = Quantizer::new(Calibration::MinMax, QuantScheme::default());
        let model = layers(&[32, 32]).valid().quantize_weights(&mut quantizer);
        let error = Average::new(&model, EqualWeights).unwrap_err();
        assert!(matches!(error, AverageError::Quantized { .. }), "{error}");
    }

    #[test]
    fn a_record_brings_back_the_average_and_its_count() {
        let device = autodiff();
        let model = |weight| net(weight, 1, true, 1.0, &device);
        let mut average = Average::new(&model([0.0, 0.0]), EqualWeights).unwrap();
        average.update(&model([1.0, 2.0])).unwrap();
        average.update(&model([4.0, 4.0])).unwrap();
        let bytes = average.clone().into_record().into_bytes().unwrap();

        let record = burn::store::ModuleRecord::from_bytes(bytes).unwrap();
        let mut resumed = Average::new(&model([7.0, 7.0]), EqualWeights)
            .unwrap()
            .try_load_record(record)
            .unwrap();
        assert_eq!(resumed.updates(), 2);

        for average in [&mut average, &mut resumed] {
            average.update(&model([0.7, 0.1])).unwrap();
        }
        let weight = |average: &Average<Net>| floats(average.state().weight.val());
        assert_eq!(weight(&average), weight(&resumed));
    }

    #[test]
    fn an_average_goes_on_from_another() {
        let device = autodiff();
        let model = |weight, mean| net(weight, 1, true, mean, &device);
        let average = Average::new(&model([9.0, 9.0], 9.0), EqualWeights).unwrap();
        let mut average = average.continuing(&model([2.0, 4.0], 5.0), 3).unwrap();
        assert_eq!(average.updates(), 3);
        let averaged = average.model().unwrap();
        assert_eq!(floats(averaged.weight.val()), [2.0, 4.0]);
        assert_eq!(floats(averaged.norm.running_mean.value()), [5.0]);

        // (3 * 2 + 6) / 4 and (3 * 4 + 0) / 4
        average.update(&model([6.0, 0.0], 6.0)).unwrap();
        assert_eq!(floats(average.model().unwrap().weight.val()), [3.0, 3.0]);

        // Under a rule that would not copy, too.
        #[derive(Debug)]
        struct Tenth;
        impl AveragingRule for Tenth {
            fn weight(&self, _updates: usize) -> f64 {
                0.1
            }
        }
        let tenth = Average::new(&model([9.0, 9.0], 9.0), Tenth).unwrap();
        let mut tenth = tenth.continuing(&model([2.0, 4.0], 5.0), 3).unwrap();
        tenth.update(&model([12.0, 14.0], 6.0)).unwrap();
        for (got, expected) in floats(tenth.model().unwrap().weight.val())
            .iter()
            .zip([3.0, 5.0])
        {
            assert!((got - expected).abs() < 1e-6, "{got}");
        }

        // An average of nothing begins.
        let mut average = average.continuing(&model([7.0, 7.0], 7.0), 0).unwrap();
        assert_eq!(average.model().unwrap_err(), AverageError::NothingAveraged);
        average.update(&model([1.0, 2.0], 1.0)).unwrap();
        assert_eq!(floats(average.model().unwrap().weight.val()), [1.0, 2.0]);
    }

    #[test]
    fn an_average_on_a_device_of_its_own_stays_there() {
        let device = Device::flex();
        let model = net([1.0, 2.0], 1, true, 1.0, &autodiff());
        let mut average = Average::new(&model, EqualWeights)
            .unwrap()
            .on_device(&device);
        average.update(&model).unwrap();
        assert_eq!(average.devices(), vec![device]);
    }
}
