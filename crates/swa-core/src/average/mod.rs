//! The average of a module's parameters.

mod overwrite;
mod sample;
mod spread;
mod unread;
mod update;

use core::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use crate::burn_0_22::reads_when_looked_at;
use crate::weights::{Parameter, Role, Skeleton, Weights};
use crate::{AverageError, AveragingRule, Counter};
pub use sample::Covariance;
use spread::Spread;
use unread::{SharedVerdict, Unread};
use update::{Flags, update};

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
/// with [`with_running_statistics_averaged`](Self::with_running_statistics_averaged). Weights that need no average, such as those of
/// a frozen backbone, are left out by [`with_weights_averaged`](Self::with_weights_averaged), and take the latest value too.
///
/// Several averages of one model are updated in one pass over memory by [`update_all_from`](Self::update_all_from).
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
/// Weights that are not finite are never averaged. Each update checks those that are averaged in one reading pass, on the
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
/// One f32 copy of the parameters, from the second update on. Until then, it shares the model's, if these are in f32 (or f64) and it is
/// on their device. In the host's memory, it goes on to share those that are not averaged.
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
    /// For each parameter, true if it is averaged. All others take the latest value.
    averaged: Vec<bool>,
    device: Option<Device>,
    unread: Option<Unread>,
    /// For each parameter, true if [numbers in its average may be large](crate::kernels::is_large). Empty if that is unknown.
    is_large: Vec<bool>,
    /// The weights were given out since the last update, or a model shares their memory.
    is_shown: AtomicBool,
    /// The model shares the memory of what is not averaged.
    shares_latest: bool,
    /// The variance and the last deviations, if they are kept.
    spread: Option<Spread>,
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
    /// [`AverageError::Quantized`], which names the parameter, and for a module with a hand-written traversal
    /// [`AverageError::Weights`] if it does not tell its parameters apart, and [`AverageError::Reparameterized`] if it leaves adapters.
    pub fn new(model: &M, rule: impl AveragingRule + 'static) -> Result<Self, AverageError> {
        let model = effective(model);
        let weights = Weights::read(&model)?;
        let parameters = weights.layout().parameters().iter();
        let averaged: Vec<bool> = parameters.map(|it| it.role == Role::Weight).collect();
        Ok(Self {
            skeleton: Skeleton::of(model, weights.layout())?,
            weights: weights.averaging(&averaged),
            rule: Arc::new(rule),
            updates: Counter::new(0),
            averaged,
            device: None,
            unread: None,
            is_large: Vec::new(),
            // The model shares their memory.
            is_shown: AtomicBool::new(true),
            shares_latest: false,
            spread: None,
        })
    }

    /// Averages by another rule from the next update on.
    pub fn with_rule(mut self, rule: impl AveragingRule + 'static) -> Self {
        self.rule = Arc::new(rule);
        self
    }

    /// Averages running states, such as the running mean and variance of BatchNorm layers, as well, instead of keeping the
    /// latest.
    pub fn with_running_statistics_averaged(self) -> Self {
        self.averaging(|parameter| (parameter.role == Role::RunningStatistic).then_some(true))
    }

    /// Averages those weights alone whose path, as in the module's record, `is_averaged` accepts. All others take the latest value, as
    /// running states do: they are copied at each update without a check, and in the host's memory shared with the model. Running
    /// states have a [switch of their own](Self::with_running_statistics_averaged).
    ///
    /// This is for a backbone that is frozen, whose average would be itself at the price of one more copy, or to average adapters
    /// that are layers of their own:
    ///
    /// ```
    /// use burn::module::Module;
    /// use swa_core::{Average, AverageError, EqualWeights};
    ///
    /// fn without_backbone<M: Module>(model: &M) -> Result<Average<M>, AverageError> {
    ///     let average = Average::new(model, EqualWeights)?;
    ///     average.with_weights_averaged(|path| !path.starts_with("backbone."))
    /// }
    /// ```
    ///
    /// A record does not say which weights were averaged, no more than by which rule. An average that is resumed with others goes on
    /// from the values that it has.
    ///
    /// # Errors
    ///
    /// [`AverageError::NoneAveraged`] if the model has weights, and none is accepted.
    pub fn with_weights_averaged(
        self,
        is_averaged: impl Fn(&str) -> bool,
    ) -> Result<Self, AverageError> {
        let is_weight = |parameter: &&Parameter| parameter.role == Role::Weight;
        let weights = self.weights.layout().parameters().iter().filter(is_weight);
        let mut paths = weights.map(|parameter| parameter.path.as_str()).peekable();
        if let Some(first) = paths.peek().map(|path| (*path).to_owned())
            && !paths.any(&is_averaged)
        {
            return Err(AverageError::NoneAveraged { path: first });
        }
        Ok(self.averaging(|parameter| {
            (parameter.role == Role::Weight).then(|| is_averaged(&parameter.path))
        }))
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
        self.update_alone(self.read(averaged)?, Flags::ReadNow)?;
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
    /// - [`Quantized`](AverageError::Quantized), [`Reparameterized`](AverageError::Reparameterized) and
    ///   [`Weights`](AverageError::Weights), as of [`new`](Self::new).
    /// - [`Device`](AverageError::Device) if the device could not be read.
    pub fn update(&mut self, model: &M) -> Result<(), AverageError> {
        self.update_alone(self.read(model)?, Flags::ReadNow)?;
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

    /// Reads the weights of `model`, for [`update_from`](Self::update_from) and [`update_all_from`](Self::update_all_from).
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
        self.update_alone(weights, Flags::LeaveOnDevice)
    }

    /// [Updates](Self::update_from) several averages of one model from one reading, to the same values as one after the other, and in
    /// one pass over memory: all averages on a device check the weights together, and take their steps together.
    ///
    /// A pass for `K` averages reads the weights twice, to check them and to average them, and reads and writes each average. On
    /// CubeCL's devices, it takes no more launches than for one average, as long as a launch can bind `K + 1` buffers for each
    /// parameter.
    ///
    /// ```
    /// use burn::module::Module;
    /// use swa_core::{Average, AverageError};
    ///
    /// fn update<M: Module>(
    ///     swa: &mut Average<M>,
    ///     ema: &mut Average<M>,
    ///     model: &M,
    /// ) -> Result<(), AverageError> {
    ///     let weights = swa.read(model)?;
    ///     Average::update_all_from(&mut [swa, ema], weights).map_err(|(_, error)| error)
    /// }
    /// ```
    ///
    /// # Weights that are not finite
    ///
    /// No average on a device takes a step if one of them refuses the weights. On an accelerator, averages that were updated together
    /// are so until their next [`check`](Self::check): after weights that one refuses, the device leaves out all later updates
    /// of any of them. So check them together, which takes one round trip for all. Averages that were updated apart from each other
    /// are checked first, in a round trip each, when they are updated together. An average that
    /// [keeps deviations](Self::with_deviations) has the host read the flags at once, also those of the others.
    ///
    /// # Errors
    ///
    /// The first error, with the index of its average; for weights that are not finite, of the first that averages the
    /// parameter. Each average keeps the value of its last good update. Those on another device may have taken this one.
    pub fn update_all_from(
        averages: &mut [&mut Self],
        weights: Weights,
    ) -> Result<(), (usize, AverageError)> {
        update(averages, weights, Flags::LeaveOnDevice)
    }

    fn update_alone(&mut self, weights: Weights, flags: Flags) -> Result<(), AverageError> {
        update(&mut [self], weights, flags).map_err(|(_, error)| error)
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
        let of_model = self.read(model)?;
        self.weights = self.weights.with_running_statistics_of(of_model);
        *self.is_shown.get_mut() = true;
        Ok(self)
    }

    /// The weight of the update with this number, counted from 0.
    fn weight_of(&self, updates: usize) -> Result<f64, AverageError> {
        let weight = match updates {
            0 => 1.0,
            updates => self.rule.weight(updates),
        };
        if (0.0..=1.0).contains(&weight) {
            Ok(weight)
        } else {
            Err(AverageError::InvalidWeight { updates, weight })
        }
    }

    /// The weights, if they were given out and may not have been read yet, for an update that the host reads at once or not.
    fn to_protect(&self, is_unread: bool) -> Option<Weights> {
        let is_shown = self.is_shown.load(Ordering::Relaxed);
        // Shared values that are not averaged need no protection if this update shares them again.
        let is_shared = self.shares_latest && is_unread;
        let is_read_later = || self.weights.devices().iter().any(reads_when_looked_at);
        ((is_shown || is_shared) && is_read_later()).then(|| self.weights.clone())
    }

    /// The verdict on the updates since the last check, if there were any on an accelerator.
    fn unread(&self) -> Option<&SharedVerdict> {
        self.unread.as_ref().map(|unread| &unread.verdict)
    }

    /// Reads from the device whether all updates so far had finite weights: one round trip, if there
    /// was an update since the last check.
    ///
    /// # Errors
    ///
    /// [`AverageError::NotFinite`] or [`AverageError::FrozenNotFinite`] if one did not, here or in an average that was [updated
    /// together](Self::update_all_from) with this one. The average is that of the updates before it, and later updates go on from
    /// there. [`AverageError::Device`] if the device could not be read.
    pub fn check(&mut self) -> Result<(), AverageError> {
        let Some(unread) = &self.unread else {
            return Ok(());
        };
        let left_out = unread.read();
        let left_out = left_out.map_err(|reason| AverageError::Device { reason })?;
        self.unread = None;
        match left_out {
            None => Ok(()),
            Some(left_out) => {
                self.updates.value = left_out.updates;
                Err(self.not_finite(left_out.parameter))
            }
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

    /// The same, averaging those parameters for which `change` gives true, and not those for which it gives false.
    fn averaging(mut self, change: impl Fn(&Parameter) -> Option<bool>) -> Self {
        let parameters = self.weights.layout().parameters().iter();
        for (averaged, parameter) in self.averaged.iter_mut().zip(parameters) {
            *averaged = change(parameter).unwrap_or(*averaged);
        }
        self.weights = self.weights.averaging(&self.averaged);
        let averaged = self.averaged_weights();
        let spread = self.spread.take();
        self.spread = spread.map(|it| it.averaging(averaged, &self.weights));
        self.is_large.clear();
        self
    }

    fn moved_to(mut self, device: &Device) -> Self {
        self.skeleton = self.skeleton.moved_to(device);
        self.weights = self.weights.to_device(device);
        self.spread = self.spread.map(|spread| spread.moved_to(device));
        self.is_large.clear();
        self
    }

    /// The error for the parameter with this index in the layout.
    fn not_finite(&self, parameter: usize) -> AverageError {
        let parameter = &self.weights.layout().parameters()[parameter];
        let (path, updates) = (parameter.path.clone(), self.updates());
        if parameter.role == Role::Weight && self.skeleton.is_frozen(&path) {
            AverageError::FrozenNotFinite { path, updates }
        } else {
            AverageError::NotFinite { path, updates }
        }
    }
}

/// A copy of the model that shares nothing with it, with plain parameters: those that adapters reparameterize have their effective
/// values.
fn effective<M: Module>(model: &M) -> M {
    model.valid().materialize()
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
            averaged: self.averaged.clone(),
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

        let device = self.weights.first_device();
        self.updates
            .visit_as("updates", CONTAINER, visitor, &device);
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

        let device = self.weights.first_device();
        self.updates = self.updates.map_as("updates", CONTAINER, mapper, &device);
        if self.updates.is_loaded() {
            // The unread verdict is not on the updates of the record.
            self.unread = None;
        }

        self.spread = match self.spread {
            Some(spread) => Some(spread.map(&self.weights, mapper)),
            None => None,
        };
        self
    }
}

#[cfg(test)]
mod tests;
