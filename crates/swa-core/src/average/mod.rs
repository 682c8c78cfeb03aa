//! The average of a module's parameters.

mod sample;
mod spread;
mod update;

use core::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use crate::burn_0_22::reads_when_looked_at;
use crate::kernels::{Refusal, Verdict};
use crate::weights::{Role, Skeleton, Weights};
use crate::{AverageError, AveragingRule, Counter};
pub use sample::Covariance;
use spread::Spread;
use update::{Flags, updated};

/// The weighted average of the parameters that a module passes through.
///
/// After [`update`](Self::update) number `n` (counted from 0), every float parameter of the average
/// is
///
/// ```text
/// average += w(n) * (current - average)
/// ```
///
/// where `w` is the [rule](AveragingRule)'s weight, and `w(0) = 1`: the first update copies. The average
/// is kept in f32, or in f64 for parameters in f64. Int and bool parameters take the latest value. So do
/// Burn's [`RunningState`](burn::module::RunningState)s, such as the running mean and variance of BatchNorm layers, which averaged
/// weights never produced: re-estimate them with [`reestimate_batch_norm`](crate::reestimate_batch_norm), or average them too
/// with [`with_running_statistics_averaged`](Self::with_running_statistics_averaged).
///
/// Parameters with adapters such as LoRA's are averaged by their effective values, and the averaged model has these as plain
/// parameters ([`Module::materialize`]), since the mean of factors is not the factors of the mean.
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
/// device that holds the average, which gives one flag per parameter. (Weights in f64 on an accelerator,
/// and all weights on an accelerator that is not one of CubeCL's, are checked by their sum: if it
/// overflows, finite weights count as not finite.)
///
/// An infinity that the average holds in the same place is a constant, such as the `-inf` of a causal mask, and stays as it is, until
/// the model has a number there: the average takes that number, and averages from there on.
/// An average begins with the values of the model that it was made of, so set constants before. A NaN is equal to nothing, not
/// even to itself: it is refused wherever it stands.
///
/// - [`update`](Self::update) reads all flags at once, one round trip to an accelerator, and returns
///   the error;
/// - [`update_non_blocking`](Self::update_non_blocking) reads nothing from an accelerator. There, the
///   device itself leaves out bad weights and all later updates, so that it keeps the average of the
///   last good update. [`check`](Self::check) reads the flags of all updates since the last check. Call
///   it where waiting for the device costs nothing, such as at the end of an epoch.
///
/// # Memory
///
/// One f32 copy of the parameters, from the second update on; until then it shares the model's.
///
/// # Copies and records on an accelerator
///
/// On CubeCL's devices, Burn 0.22.1 reads a tensor only when somebody looks at the data, and shows the values of that
/// moment. So after a copy or a record of an average, the next update takes new memory, and the copy stays as it was. If the
/// process [reads tensors when asked](crate::read_tensors_when_asked), there is nothing to protect, and every update happens
/// in place.
pub struct Average<M> {
    skeleton: Skeleton<M>,
    /// The values. Those that are averaged have the dtype of an accumulator.
    weights: Weights,
    rule: Arc<dyn AveragingRule>,
    updates: Counter,
    averages_running_statistics: bool,
    device: Option<Device>,
    unread: Option<Unread>,
    /// For each float parameter, true if numbers in its average may be large: see [`updated`]. Empty if that is unknown.
    is_large: Vec<bool>,
    /// The weights were given out since the last update, or a model shares their memory.
    is_shown: AtomicBool,
    /// The model shares the memory of what is not averaged.
    shares_latest: bool,
    /// The variance and the last deviations, if they are kept.
    spread: Option<Spread>,
}

/// The largest number of updates whose verdict is not read. The device counts them in f32, which counts no further.
const MOST_UNREAD: usize = 1 << 24;

/// A verdict on updates that the host has not read yet.
#[derive(Clone)]
struct Unread {
    /// The number of updates before the first of these.
    updates_before: usize,
    verdict: Verdict,
}

impl<M: Module> Average<M> {
    /// An average of `model`'s parameters that has averaged nothing yet.
    ///
    /// It lives on the device that the model is on, and follows it if it moves, unless told
    /// otherwise with [`with_device`](Self::with_device).
    ///
    /// This reads all parameters. Burn (0.22.1) draws the initial values of a parameter when it is first read, and so in the order
    /// of the module's fields here, where a forward pass would have drawn them in its own: a new model whose fields are in another
    /// order begins with other values from the same seed than without an average. (A `Learner`'s `launch` reads them in this order
    /// in any case.)
    ///
    /// # Errors
    ///
    /// [`AverageError::Quantized`], which names the parameter, and [`AverageError::Weights`] for a module with a hand-written
    /// traversal that does not tell its parameters apart.
    pub fn new(model: &M, rule: impl AveragingRule + 'static) -> Result<Self, AverageError> {
        let model = effective(model);
        let weights = Weights::read(&model)?;
        let mut average = Self {
            skeleton: Skeleton::of(model, weights.layout())?,
            weights,
            rule: Arc::new(rule),
            updates: Counter::new(0),
            averages_running_statistics: false,
            device: None,
            unread: None,
            is_large: Vec::new(),
            // The model shares their memory.
            is_shown: AtomicBool::new(true),
            shares_latest: false,
            spread: None,
        };
        average.cast_accumulators();
        Ok(average)
    }

    /// Averages by another rule from the next update on.
    pub fn with_rule(mut self, rule: impl AveragingRule + 'static) -> Self {
        self.rule = Arc::new(rule);
        self
    }

    /// Averages running states, such as the running mean and variance of BatchNorm layers, as well, instead of keeping the
    /// latest.
    pub fn with_running_statistics_averaged(mut self) -> Self {
        self.averages_running_statistics = true;
        self.cast_accumulators();
        self
    }

    /// Keeps the average on `device`, and not on the model's device: on the CPU, for example, if the
    /// accelerator's memory is full. Every update then moves the parameters there.
    pub fn with_device(mut self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        self = self.moved_to(&device);
        self.device = Some(device);
        self
    }

    /// Continues from `averaged`, the average of `updates` earlier updates, such as that of a PyTorch
    /// `AveragedModel` with its `n_averaged`. The next update is number `updates`, counted from 0.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update).
    pub fn with_initial_average(
        mut self,
        averaged: &M,
        updates: usize,
    ) -> Result<Self, AverageError> {
        self.unread = None;
        self.updates.value = 0;
        self.spread = self.spread.map(Spread::restarted);
        // The first update copies.
        self.apply(self.read(averaged)?, Flags::ReadNow)?;
        self.spread = self.spread.map(Spread::restarted);
        self.updates.value = updates;
        Ok(self)
    }

    /// The same average before its first update, which copies.
    pub fn restarted(mut self) -> Self {
        self.unread = None;
        self.updates.value = 0;
        self.spread = self.spread.map(Spread::restarted);
        self
    }

    /// Averages the model's current parameters into this.
    ///
    /// Neither the model's weights nor its graph nor its running statistics change.
    ///
    /// # Errors
    ///
    /// After any error, the average keeps its value.
    ///
    /// - [`MissingParameter`](AverageError::MissingParameter),
    ///   [`UnknownParameter`](AverageError::UnknownParameter),
    ///   [`ShapeMismatch`](AverageError::ShapeMismatch): another model than the average's.
    /// - [`NotFinite`](AverageError::NotFinite): a NaN or an infinity in the weights, now or in an
    ///   earlier [`update_non_blocking`](Self::update_non_blocking); [`FrozenNotFinite`](AverageError::FrozenNotFinite): the same
    ///   in a parameter that requires no gradient.
    /// - [`InvalidWeight`](AverageError::InvalidWeight) of a rule of your own.
    /// - [`Quantized`](AverageError::Quantized).
    pub fn update(&mut self, model: &M) -> Result<(), AverageError> {
        self.check()?;
        self.apply(self.read(model)?, Flags::ReadNow)?;
        self.freeze_as(model);
        Ok(())
    }

    /// Like [`update`](Self::update), but without waiting for an accelerator, for a training that
    /// averages at every step. Weights that are not finite are left out all the same, and
    /// [`check`](Self::check) reports them. Call it before you save the average: until then, the number
    /// of updates counts those that were left out.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update). Values that are not finite are an error only if the weights are in the host's memory,
    /// or if the model has moved to another device after an update that was not [checked](Self::check).
    pub fn update_non_blocking(&mut self, model: &M) -> Result<(), AverageError> {
        self.update_from(self.read(model)?)?;
        self.freeze_as(model);
        Ok(())
    }

    /// Reads the weights of `model`, for [`update_from`](Self::update_from). Several averages of one model can be updated from
    /// one reading.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update) that are about the model's parameters.
    pub fn read(&self, model: &M) -> Result<Weights, AverageError> {
        Ok(Weights::read_as(
            &effective(model),
            self.weights.layout_shared(),
        )?)
    }

    /// [`update_non_blocking`](Self::update_non_blocking) with weights that were [read](Self::read) before.
    ///
    /// # Errors
    ///
    /// Those of [`update_non_blocking`](Self::update_non_blocking).
    pub fn update_from(&mut self, weights: Weights) -> Result<(), AverageError> {
        let weights = weights.arranged_as(self.weights.layout_shared())?;
        let flags = if self.spread.is_some() {
            // A deviation that is not finite must not be kept.
            self.check()?;
            Flags::ReadNow
        } else {
            Flags::LeaveOnDevice
        };
        self.apply(weights, flags)
    }

    /// Freezes the layers of the averaged model that are frozen in `model`, by their training flags ([`Module::freeze`]), and no
    /// others. Of frozen BatchNorm layers, a [re-estimation](crate::reestimate_batch_norm) keeps the statistics. An update with a
    /// model does this by itself, but one from [weights](Self::update_from) cannot.
    pub fn freeze_as(&mut self, model: &M) {
        self.skeleton.freeze_as(model);
    }

    /// The same average with the running statistics of `model`, such as those that a [re-estimation](crate::reestimate_batch_norm)
    /// gave the averaged model. The next update replaces them.
    ///
    /// # Errors
    ///
    /// Those of [`update`](Self::update) that are about the model's parameters.
    pub fn with_running_statistics_of(mut self, model: &M) -> Result<Self, AverageError> {
        let of_model = self
            .read(model)?
            .arranged_as(self.weights.layout_shared())?;
        self.weights = self.weights.with_running_statistics_of(of_model);
        *self.is_shown.get_mut() = true;
        Ok(self)
    }

    fn apply(&mut self, mut current: Weights, flags: Flags) -> Result<(), AverageError> {
        if let Some(device) = &self.device {
            current = current.transferred_to(device)?;
        }
        let unread = self.unread.as_ref();
        let unread = unread.map(|unread| self.updates().saturating_sub(unread.updates_before));
        if unread.is_some_and(|unread| unread >= MOST_UNREAD) {
            self.check()?;
        }
        let updates = self.updates();
        let weight = match updates {
            0 => 1.0,
            updates => self.rule.weight(updates),
        };
        if !(0.0..=1.0).contains(&weight) {
            return Err(AverageError::InvalidWeight { updates, weight });
        }
        let (updates_before, mut verdict) = match self.unread.take() {
            None => (updates, None),
            Some(unread) => (unread.updates_before, Some(unread.verdict)),
        };
        let collected = self.spread.is_some().then(|| current.clone());
        // For a second try, if the unread verdict is on a model on another device.
        let again = verdict.is_some().then(|| current.clone());
        // While there is another handle on them, no weights are changed in place.
        let _protected = self.weights_to_protect(flags);
        let averages_running_statistics = self.averages_running_statistics;
        let (average, outcome) = updated(
            self.weights.take_values(),
            current,
            weight,
            |role| is_averaged(role, averages_running_statistics),
            flags,
            &mut verdict,
            &mut self.is_large,
        );
        self.weights.put_values(average);
        self.unread = verdict.map(|verdict| Unread {
            updates_before,
            verdict,
        });
        match outcome {
            Ok(()) => {
                // The first update shares the model's memory. So do the latest values of what is not averaged.
                *self.is_shown.get_mut() = updates == 0;
                self.shares_latest = flags == Flags::ReadNow;
                self.updates.value = updates.saturating_add(1);
                if let (Some(spread), Some(collected)) = (&mut self.spread, collected) {
                    spread.add(&self.weights, &collected, weight);
                }
                Ok(())
            }
            Err(Refusal::NotFinite(index)) => Err(self.not_finite(index)),
            Err(Refusal::Device(reason)) => Err(AverageError::Device { reason }),
            Err(Refusal::OtherValues) => {
                self.check()?;
                let Some(again) = again else {
                    unreachable!("only what is unread is of other values")
                };
                self.apply(again, flags)
            }
        }
    }

    /// The weights, if they were given out and may not have been read yet.
    fn weights_to_protect(&self, flags: Flags) -> Option<Weights> {
        let is_shown = self.is_shown.load(Ordering::Relaxed);
        // Shared values that are not averaged need no protection if this update shares them again.
        let is_shared = self.shares_latest && flags == Flags::LeaveOnDevice;
        let is_read_later = || self.weights.devices().iter().any(reads_when_looked_at);
        ((is_shown || is_shared) && is_read_later()).then(|| self.weights.clone())
    }

    /// Reads from the device whether all updates so far had finite weights: one round trip, if there
    /// was an update since the last check.
    ///
    /// # Errors
    ///
    /// [`AverageError::NotFinite`] or [`AverageError::FrozenNotFinite`] if one did not. The average is that of the updates
    /// before it, and later updates go on from there.
    pub fn check(&mut self) -> Result<(), AverageError> {
        let Some(unread) = self.unread.take() else {
            return Ok(());
        };
        match unread.verdict.read() {
            Err(reason) => {
                self.unread = Some(unread);
                Err(AverageError::Device { reason })
            }
            Ok(found) => match found.not_finite.first() {
                None => Ok(()),
                Some(first) => {
                    self.updates.value = unread.updates_before.saturating_add(found.taken);
                    Err(self.not_finite(*first))
                }
            },
        }
    }

    /// The number of updates.
    pub fn updates(&self) -> usize {
        self.updates.value
    }

    /// The rule.
    pub fn rule(&self) -> &dyn AveragingRule {
        &*self.rule
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
        let weights = self.weights().clone().in_dtypes_of_the_module();
        Ok(self.skeleton.filled(&weights))
    }

    /// The averaged weights, in the dtypes in which they are kept (f32 or f64, or what a record brought), on the average's
    /// device; before the first update, those of the model that the average was made of.
    pub fn weights(&self) -> &Weights {
        self.is_shown.store(true, Ordering::Relaxed);
        &self.weights
    }

    /// Casts every float that is averaged to the dtype of an accumulator: f32 or wider.
    fn cast_accumulators(&mut self) {
        let averages_running_statistics = self.averages_running_statistics;
        let weights = self.weights.clone();
        self.weights = weights.accumulators(|role| is_averaged(role, averages_running_statistics));
    }

    fn moved_to(mut self, device: &Device) -> Self {
        self.skeleton = self.skeleton.moved_to(device);
        self.weights = self.weights.to_device(device);
        self.spread = self.spread.map(|spread| spread.moved_to(device));
        self.is_large.clear();
        self
    }

    /// The error for the float parameter with this index among all float parameters.
    fn not_finite(&self, index: usize) -> AverageError {
        let parameters = self.weights.layout().parameters().iter();
        let mut floats =
            parameters.filter(|it| matches!(it.role, Role::Weight | Role::RunningStatistic));
        let Some(parameter) = floats.nth(index) else {
            unreachable!("only float parameters are checked")
        };
        let (path, updates) = (parameter.path.clone(), self.updates());
        if parameter.role == Role::Weight && self.skeleton.is_frozen(&path) {
            AverageError::FrozenNotFinite { path, updates }
        } else {
            AverageError::NotFinite { path, updates }
        }
    }

    fn first_device(&self) -> Device {
        self.weights
            .devices()
            .into_iter()
            .next()
            .unwrap_or_default()
    }
}

/// A copy of the model that shares nothing with it, with plain parameters: those that adapters reparameterize have their effective
/// values.
fn effective<M: Module>(model: &M) -> M {
    model.valid().materialize()
}

fn is_averaged(role: Role, averages_running_statistics: bool) -> bool {
    match role {
        Role::Weight => true,
        Role::RunningStatistic => averages_running_statistics,
        Role::Int | Role::Bool => false,
    }
}

impl<M: Module> Clone for Average<M> {
    /// A copy that shares nothing that changes. Clones of other Burn modules share their running
    /// statistics.
    fn clone(&self) -> Self {
        Self {
            skeleton: self.skeleton.clone(),
            weights: self.weights().clone(),
            rule: self.rule.clone(),
            updates: self.updates.clone(),
            averages_running_statistics: self.averages_running_statistics,
            device: self.device.clone(),
            unread: self.unread.clone(),
            is_large: self.is_large.clone(),
            is_shown: AtomicBool::new(true),
            shares_latest: self.shares_latest,
            spread: self.spread.clone(),
        }
    }
}

impl<M: Module> fmt::Debug for Average<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Average")
            .field("weights", &self.weights)
            .field("rule", &self.rule)
            .field("updates", &self.updates())
            .finish()
    }
}

/// The container that the fields of an average are visited in.
const CONTAINER: &str = "Struct:Average";

impl<M: Module> Module for Average<M> {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        for device in self.weights.devices() {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    /// The same on `device`, unless it is [kept](Self::with_device) on another.
    fn to_device(self, device: &Device) -> Self {
        match self.device {
            Some(_) => self,
            None => self.moved_to(&device.clone().without_autodiff()),
        }
    }

    /// Returns the average unchanged: its parameters are never trained.
    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    /// Returns the average unchanged: it holds no reparameterization.
    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("model", CONTAINER);
        self.skeleton.visit(self.weights(), visitor);
        visitor.exit_module("model", CONTAINER);

        visitor.enter_module("updates", CONTAINER);
        visitor.visit_int(&self.updates.param(&self.first_device()));
        visitor.exit_module("updates", CONTAINER);

        if let Some(spread) = &self.spread {
            spread.visit(&self.weights, visitor);
        }
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        mapper.enter_module("model", CONTAINER);
        (self.skeleton, self.weights) = self.skeleton.map(self.weights, mapper);
        *self.is_shown.get_mut() = true;
        self.is_large.clear();
        mapper.exit_module("model", CONTAINER);

        mapper.enter_module("updates", CONTAINER);
        let device = self.first_device();
        let before = self.updates();
        self.updates = self.updates.map(mapper, &device);
        if self.updates() != before {
            // The record is of another average: the unread verdict is not on its updates.
            self.unread = None;
        }
        mapper.exit_module("updates", CONTAINER);

        self.spread = match self.spread {
            Some(spread) => Some(spread.map(&self.weights, mapper)),
            None => None,
        };
        self
    }
}

#[cfg(test)]
mod tests;
