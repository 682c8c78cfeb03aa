//! Re-estimation of BatchNorm's running statistics.

mod layers;
mod momentum;
mod passes;
mod pooled;
mod statistics;

use core::fmt;
use std::error::Error;
use std::sync::Arc;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::DType;
use thiserror::Error;

use crate::Loaded;
use crate::burn_0_22::{forget_operations, shown_momenta};
use layers::{Layer, Layers, SetStatistics, Start, training_mode};
use momentum::{Momentum, is_updated};
use passes::Watched;
use pooled::Pooled;
use statistics::{Left, OnDevice, Passes, Statistics};

/// Re-estimates the running mean and variance of every BatchNorm layer of `model` over `batches`,
/// and returns the model with them, in validation mode. `model` itself does not change.
///
/// Averaged weights never produced the running statistics that come with them. This passes data
/// through the averaged model once, with BatchNorm layers *alone* in training mode, and gives each
/// layer the statistics of its input, over all batches `b` of `n_b` values of a channel that pass it, pooled:
///
/// ```text
/// mean     = sum_b n_b mean_b / sum_b n_b
/// variance = sum_b n_b (variance_b + (mean_b - mean)^2) / sum_b n_b
/// ```
///
/// These are the statistics of the data set. Its split into batches matters only as far as a layer's
/// input depends on it: each batch is normalised by its own statistics on its way through.
/// The variance is the biased one, like Burn's running variance, and like the variance by which layers
/// normalise while they train. PyTorch's running variance is the unbiased one, which is larger by
/// `n / (n - 1)` for `n` values of a channel. Dropout stays off, and no graph is built.
///
/// - `config` says how batches are pooled, and how many are taken: `&ReestimationConfig::new()` for all, exactly.
/// - `batches` is any iterator of batches, or of results of them such as Burn's `DataLoader::iter()` gives (name the batch's
///   type in the closure then).
/// - `forward` runs the model's forward pass on a batch and returns its [size](BatchSize): the number of samples, or,
///   if batches differ in their length along time or space, the number of values of a channel.
///   The model that it is given is on an autodiff device, which puts BatchNorm into training mode, wherever `model` is. If
///   a BatchNorm layer is given the batch itself, the batch has to be there too (`.autodiff()`).
///   It may be any pass: one that takes an auxiliary head along, for example. Batches of size 0 do not count. A batch in which
///   a layer is passed for the first time is given to it twice. `forward` has to pass the layers in one thread, since Burn
///   averages the statistics of several.
///
/// A layer that a batch passes several times, as in a Siamese network or a recurrent cell, gets the statistics of all inputs,
/// each counting as a batch of the same [size](BatchSize). The number of times may differ between batches. Each further time
/// costs a traversal of the model's parameters, one for all layers if the network is passed again as a whole.
///
/// A model in which no BatchNorm layer trains comes back as it is, without a pass over the data.
///
/// # Statistics that are kept
///
/// These stay as they are in `model`, which an [`Average`](crate::Average) gives the training's latest, and
/// [`BatchNormReport::kept`] names them:
///
/// - those of layers that normalise by them in the training too, since their training flag is off ([`Module::freeze`]);
/// - those of layers that no batch passes, and of layers whose momentum is 0;
/// - those of a layer of your own called `BatchNorm` that a batch passes several times, if it does not read a parameter
///   `gamma` at each, as Burn's does, and its inputs cannot be told apart;
/// - Burn's [`RunningState`](burn::module::RunningState)s elsewhere than in a module called `BatchNorm` that has a
///   `running_mean` and a `running_var`.
///
/// # Precision
///
/// A batch's statistics are those by which the layer itself normalises the batch, divided by its momentum in f64. They are
/// pooled in f64, and rounded once to the layer's dtype, whatever the sizes of the mean, the spread and the momentum are. What
/// is lost is lost in the layer: in f32, Burn 0.22.1 adds all values of a channel in f32 (on the CPU, the mean of 131,072 was off
/// by up to 13 units in its last place), and keeps products of momentum and statistic, which have fewer digits below 1e-38.
/// The momentum is measured, and its last digits taken from the model's `Debug`, which a derived one shows. With a hand-written
/// `Debug`, the momentum is taken to be the shortest decimal that fits.
///
/// # Example
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{BatchNorm, BatchNormConfig};
/// use burn::tensor::{Device, Tensor};
/// use swa_core::{ReestimationConfig, reestimate_batch_norm};
///
/// let device = Device::default();
/// let norm: BatchNorm = BatchNormConfig::new(1).init(&device);
///
/// // The mean of 1, 3, 5 and 11 is 5, their variance 14.
/// let batches = [vec![1.0f32, 3.0], vec![5.0], vec![11.0]];
/// let config = ReestimationConfig::new();
/// let (norm, report) = reestimate_batch_norm(&norm, &config, batches, |norm, batch| {
///     let count = batch.len();
///     let input = Tensor::<1>::from_floats(batch.as_slice(), &device).reshape([count, 1]);
///     norm.forward(input.autodiff());
///     count
/// })?;
///
/// assert_eq!(report.samples, 4);
/// let mean = norm.running_mean.value().into_scalar::<f32>();
/// let variance = norm.running_var.value().into_scalar::<f32>();
/// assert!((mean - 5.0).abs() < 1e-5 && (variance - 14.0).abs() < 1e-4);
/// # Ok::<(), swa_core::BatchNormError>(())
/// ```
///
/// # Errors
///
/// - [`BatchNormError::ZeroBatches`]: the settings ask for none.
/// - [`BatchNormError::NoBatches`]: there is no batch, or none with a sample.
/// - [`BatchNormError::InValidationMode`]: a layer's input is on a device without autodiff.
/// - [`BatchNormError::NotFinite`]: a layer's statistics are not numbers.
/// - [`BatchNormError::TooNarrow`]: a layer keeps its statistics in 16 bits.
/// - [`BatchNormError::SharedPath`]: two layers have the same path.
/// - [`BatchNormError::Batch`]: a batch could not be loaded.
/// - [`BatchNormError::Device`]: the device could not be read.
pub fn reestimate_batch_norm<M, I, B, S>(
    model: &M,
    config: &ReestimationConfig,
    batches: I,
    mut forward: impl FnMut(&M, B) -> S,
) -> Result<(M, BatchNormReport), BatchNormError>
where
    M: Module + 'static,
    I: IntoIterator,
    I::Item: Loaded<B>,
    B: Clone,
    S: BatchSize,
{
    let layers = Arc::new(Layers::of(model)?);
    config.check_layers(&layers)?;
    if layers.is_empty() {
        let report = BatchNormReport {
            kept: layers.kept.clone(),
            ..BatchNormReport::default()
        };
        return Ok((model.valid(), report));
    }

    let running = training_mode(model);
    let device = running.devices().into_iter().next().unwrap_or_default();
    let mut pass = Pass::new(config.pooling, &layers, shown_momenta(&running));
    let mut watched = Watched::new(running, layers.clone());
    let mut batches = batches.into_iter();
    let mut taken = 0;
    while taken < config.most_batches()
        && let Some(batch) = batches.next()
    {
        let batch = batch.loaded().map_err(BatchNormError::Batch)?;
        let again = pass.lacks_momenta().then(|| batch.clone());
        watched = watched.start(Start::ToRead);
        let size = forward(watched.model(), batch);
        // For a batch without samples too: otherwise, the next pass would begin with what this one has left.
        let passes = watched.passes();
        if size.samples() == 0 {
            continue;
        }
        taken += 1;
        if taken.is_multiple_of(BATCHES_A_READING) {
            forget_operations(&device);
        }
        let Some(batch) = again else {
            pass.add(size, passes)?;
            continue;
        };
        let passes = passes.read(&layers)?;
        pass.check_modes(&passes)?;
        let new = pass.new_layers(&size, &passes);
        if !new.is_empty() {
            watched = watched.start(Start::ToMeasure);
            forward(watched.model(), batch);
            let measured = watched.passes().read(&layers)?;
            pass.measure(new, &passes, &measured)?;
        }
        pass.pool(&size, passes);
    }

    let (statistics, report) = pass.finish()?;
    forget_operations(&device);
    let mut setter = SetStatistics::new(&layers, &statistics);
    Ok((model.valid().map(&mut setter), report))
}

/// A pass over the data that is under way.
struct Pass<'a, S> {
    layers: &'a Layers,
    progress: Vec<Progress>,
    /// The momenta that the model shows.
    shown: Vec<f64>,
    /// The passes of the last batches, on the device.
    unread: Vec<(S, OnDevice)>,
    pooled: Pooled,
}

/// The state of a layer.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// The momentum, once it is known.
    momentum: Option<Momentum>,
    /// Several passes of a batch could not be told apart.
    is_mixed: bool,
}

/// The number of batches whose statistics are read from the device together, since the host waits for each reading. After as
/// many, what Burn keeps of their operations is freed.
const BATCHES_A_READING: usize = 16;

impl<'a, S: BatchSize> Pass<'a, S> {
    fn new(pooling: Pooling, layers: &'a Layers, shown: Vec<f64>) -> Self {
        Self {
            layers,
            shown,
            progress: vec![Progress::default(); layers.len()],
            unread: Vec::new(),
            pooled: Pooled::new(pooling, layers),
        }
    }

    fn lacks_momenta(&self) -> bool {
        let mut progress = self.progress.iter();
        progress.any(|it| it.momentum.is_none() && !it.is_mixed)
    }

    /// Checks that all layers that a batch has passed were updated, unless a momentum of 0 may be the reason.
    fn check_modes(&self, passes: &[Passes]) -> Result<(), BatchNormError> {
        if self.shown.is_empty() || self.shown.contains(&0.0) {
            return Ok(());
        }
        let mut layers = self.layers.iter().zip(passes);
        let in_validation =
            layers.find(|(layer, passes)| passes.is_passed && last_update(layer, passes).is_none());
        match in_validation {
            Some((layer, _)) => Err(BatchNormError::InValidationMode {
                layer: layer.path.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The places of the layers that a batch has updated, and whose momentum is not known.
    fn new_layers(&self, size: &S, passes: &[Passes]) -> Vec<usize> {
        let layers = self.layers.iter().zip(passes).enumerate();
        let new = layers.filter(|(place, (layer, passes))| {
            let is_unknown = self.progress[*place].momentum.is_none();
            is_unknown && size.values(&layer.path) > 0 && last_update(layer, passes).is_some()
        });
        new.map(|(place, _)| place).collect()
    }

    /// Finds the momenta of the layers at these places, from what a batch has left, and what it has left from a large start.
    fn measure(
        &mut self,
        places: Vec<usize>,
        passes: &[Passes],
        measured: &[Passes],
    ) -> Result<(), BatchNormError> {
        for place in places {
            let layer = &self.layers[place];
            let added = last_update(layer, &passes[place]);
            let left = last_update(layer, &measured[place]);
            let (Some(added), Some(left)) = (added, left) else {
                continue;
            };
            let (added, left) = (&added.mean, &left.mean);
            let channels = 0..layer.channels;
            let finite = channels.filter(|at| added[*at].is_finite() && left[*at].is_finite());
            // What the batch adds to the large start disturbs least where it is smallest.
            let channel = finite.min_by(|a, b| added[*a].abs().total_cmp(&added[*b].abs()));
            let channel = channel.ok_or_else(|| layer.not_finite())?;
            self.progress[place].momentum = Momentum::measured(layer, left[channel], &self.shown);
        }
        Ok(())
    }

    fn add(&mut self, size: S, passes: OnDevice) -> Result<(), BatchNormError> {
        self.unread.push((size, passes));
        if self.unread.len() == BATCHES_A_READING {
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), BatchNormError> {
        let (sizes, passes): (Vec<S>, Vec<OnDevice>) = self.unread.drain(..).unzip();
        for (size, passes) in sizes.iter().zip(OnDevice::read_all(&passes, self.layers)?) {
            self.check_modes(&passes)?;
            self.pool(size, passes);
        }
        Ok(())
    }

    fn pool(&mut self, size: &S, passes: Vec<Passes>) {
        let mut inputs = Vec::with_capacity(passes.len());
        let layers = self.layers.iter().zip(&mut self.progress).zip(passes);
        for ((layer, progress), passes) in layers {
            let updates = passes.left.iter().filter(|it| is_updated(layer, &it.last));
            let updates: Vec<&Left> = updates.collect();
            progress.is_mixed |= updates.iter().any(|it| is_updated(layer, &it.earlier));
            inputs.push(match progress.momentum {
                Some(momentum) if !progress.is_mixed => {
                    let updates = updates.into_iter();
                    let inputs = updates.map(|it| momentum.divide_out(layer, &it.last));
                    inputs.collect()
                }
                _ => Vec::new(),
            });
        }
        self.pooled.add(size, inputs, self.layers);
    }

    fn finish(mut self) -> Result<(Vec<Option<Statistics>>, BatchNormReport), BatchNormError> {
        self.read()?;
        for (place, progress) in self.progress.iter().enumerate() {
            if progress.is_mixed {
                self.pooled.keep(place, KeptReason::PassedAgain);
            }
        }
        self.pooled.finish(self.layers)
    }
}

/// The statistics that the last pass that has updated a layer has left.
fn last_update<'a>(layer: &Layer, passes: &'a Passes) -> Option<&'a Statistics> {
    let last = passes.left.iter().map(|it| &it.last);
    last.rev().find(|it| is_updated(layer, it))
}

/// The size of a batch, by which it counts. A number is that of its samples, and of the values of a channel in every layer.
///
/// Burn 0.22.1 does not show how many values a layer has normalised: a batch and the same batch twice over leave the same
/// statistics. So if batches differ in their length along time or space, `samples * length` is the number to give. It is exact
/// as long as the numbers of values in all layers are in proportion to it. If they are not, as behind a stride that does not
/// divide the length, a pair gives each layer's own: `(samples, |layer: &str| values)`.
pub trait BatchSize {
    /// The number of samples. A batch of 0 does not count.
    fn samples(&self) -> usize;

    /// The number of values of a channel that passed the BatchNorm layer at this path, each time that it was passed. If it is 0,
    /// the batch does not count for the layer.
    fn values(&self, layer: &str) -> usize;
}

impl BatchSize for usize {
    fn samples(&self) -> usize {
        *self
    }

    fn values(&self, _layer: &str) -> usize {
        *self
    }
}

impl<F: Fn(&str) -> usize> BatchSize for (usize, F) {
    fn samples(&self) -> usize {
        self.0
    }

    fn values(&self, layer: &str) -> usize {
        self.1(layer)
    }
}

/// The settings of a re-estimation.
///
/// The number of batches that is enough was measured, with PreResNet-8 at half its width and 63 batches of 64, in five passes
/// of different orders. At worst, the test accuracy differed from that with all batches by
///
/// | first batches | 1 | 2 | 4 | 8 | 16 | 32 | all 63 |
/// |---|---|---|---|---|---|---|---|
/// | points of accuracy | 1.0 | 1.2 | 0.9 | 0.9 | 0.4 | 0.2 | 0.1 |
///
/// From 16 batches on, it is not worse on average (0.05 points), but varies more. So a thousand samples are enough to watch a
/// training; for a result, take all of them. (`cargo bench --bench batch_norm_batches` in the repository.) The report tells
/// the [drift](BatchNormReport::drift) of the statistics, and so whether less data is enough.
#[derive(Config, Debug, PartialEq)]
pub struct ReestimationConfig {
    /// The way in which the statistics of batches are pooled: exactly by default.
    #[config(default = "Pooling::Exact")]
    pub pooling: Pooling,
    /// The number of batches that are taken: the first ones with a sample, at least 1. All by default, as in the paper and in
    /// PyTorch's `update_bn`.
    pub first_batches: Option<usize>,
}

impl ReestimationConfig {
    /// Checks the settings, and whether the layers of `model` can be re-estimated, as far as this can be told without data.
    /// Call it before a training, for example.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::ZeroBatches`], [`BatchNormError::TooNarrow`] and [`BatchNormError::SharedPath`].
    pub fn check<M: Module>(&self, model: &M) -> Result<(), BatchNormError> {
        self.check_layers(&Layers::of(model)?)
    }

    fn check_layers(&self, layers: &Layers) -> Result<(), BatchNormError> {
        if self.first_batches == Some(0) {
            return Err(BatchNormError::ZeroBatches);
        }
        layers.check_dtypes()
    }

    fn most_batches(&self) -> usize {
        self.first_batches.unwrap_or(usize::MAX)
    }
}

/// The way from the statistics of batches `b`, each of `n_b` values of a channel, to those of all batches.
///
/// With batches of one size and many samples, the three differ little. But the last batch of an epoch
/// is often small, and the variance of a small batch is too low, by the error of its mean.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The statistics of all values together. The variance includes that between the batches' means.
    Exact,
    /// The mean of the batches' means and variances, weighted by `n_b`: the SWA paper's code
    /// (`bn_update` in its `utils.py`).
    WeightedBySize,
    /// Their mean. A small last batch counts as much as a full one:
    /// `torch.optim.swa_utils.update_bn`.
    Equal,
}

/// The report of a re-estimation.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct BatchNormReport {
    /// The number of BatchNorm layers whose statistics were re-estimated.
    pub layers: usize,
    /// The number of batches with a sample that passed.
    pub batches: usize,
    /// The number of samples in them.
    pub samples: usize,
    /// The change of the statistics over the last tenth of the samples, in standard deviations: the
    /// root mean square, over all channels, of the change of the mean over the standard deviation and
    /// of the relative change of the standard deviation.
    ///
    /// 0.01 says that a channel's mean changed by a hundredth of its standard deviation: more data
    /// would hardly change the model. `None` without an earlier state to compare with, as with a single batch.
    ///
    /// The standard deviation is the one that a layer divides by, `sqrt(variance + epsilon)` with Burn's default `epsilon` of
    /// 1e-5, so that a channel that is constant in each batch has one too.
    pub drift: Option<f64>,
    /// The running statistics that were not re-estimated, and stayed as they were.
    pub kept: Vec<KeptStatistics>,
}

/// Running statistics that were not re-estimated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptStatistics {
    /// The path of the BatchNorm layer, or of a running state elsewhere, as in the module's record. The model itself has an
    /// empty path.
    pub path: String,
    /// The reason.
    pub reason: KeptReason,
}

impl fmt::Display for KeptStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.path, self.reason)
    }
}

/// The reason why running statistics were not re-estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptReason {
    /// The layer is frozen: its training flag is off, and it normalises by these statistics in the training too.
    Frozen,
    /// No batch changed them: none passed the layer in training mode, on an autodiff device, or its momentum is 0.
    NotUpdated,
    /// A batch passed the layer several times, and the layer, which is not Burn's, does not read its `gamma` at each pass.
    PassedAgain,
    /// A running state elsewhere than in a module called `BatchNorm` with a `running_mean` and a `running_var`.
    AnotherMake,
}

impl fmt::Display for KeptReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frozen => "frozen, so that the training normalises by them too",
            Self::NotUpdated => {
                "no batch passed the layer on an autodiff device, or its momentum is 0"
            }
            Self::PassedAgain => {
                "a batch passed the layer several times, and its inputs cannot be told apart since it does not read a parameter \
                 `gamma` at each pass as Burn's `BatchNorm` does"
            }
            Self::AnotherMake => {
                "not the `running_mean` and `running_var` of a layer like Burn's `BatchNorm`"
            }
        })
    }
}

/// The reason why running statistics could not be re-estimated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BatchNormError {
    /// There is no batch, or none with a sample.
    #[error(
        "re-estimating BatchNorm needs data, and there was no batch, or none with a sample: \
         pass the training data, or check that its loader is not empty and counts its items"
    )]
    NoBatches,

    /// The number of batches is 0.
    #[error(
        "the number of batches to re-estimate BatchNorm from must be at least 1, not 0: leave `first_batches` out to take all"
    )]
    ZeroBatches,

    /// A batch passed a layer that is not frozen in validation mode alone. Its statistics are set aside meanwhile, so that those
    /// of layers behind it would be wrong. No error if the momentum may be 0, by what the model's `Debug` shows.
    #[error(
        "a batch passed BatchNorm layer `{layer}` in validation mode alone, since its input was on a device without autodiff or \
         `forward` called `valid()`: load the batches on `device.autodiff()`, or call `.autodiff()` on their tensors in `forward` \
         (the model may be on any device). If the layer is to keep its statistics, freeze it (`Module::freeze`)"
    )]
    InValidationMode {
        /// The layer's path, as in the module's record.
        layer: String,
    },

    /// A layer's statistics are NaN or infinite.
    #[error(
        "the statistics of BatchNorm layer `{layer}` are not finite in {dtype:?}: check that its input holds no NaN, no infinity and \
         no values whose square is too large, and that the averaged weights are those of a training that converged"
    )]
    NotFinite {
        /// The layer's path, as in the module's record.
        layer: String,
        /// The dtype of its statistics.
        dtype: DType,
    },

    /// Two layers have the same path.
    #[error(
        "the model has two BatchNorm layers at `{layer}`: its hand-written `visit` and `map` must call `enter_module` with a \
         name of its own for each"
    )]
    SharedPath {
        /// Their path.
        layer: String,
    },

    /// A layer keeps its running statistics in 16 bits. There, the rounding of `1 - momentum` leaves
    /// errors of some per cent in a batch's statistics.
    #[error(
        "BatchNorm layer `{layer}` keeps its running statistics in {dtype:?}, which is too narrow to \
         re-estimate them: keep the layer in F32, or average the running statistics instead \
         (`with_running_statistics_averaged`, or in a `Learner` `RunningStatistics::Averaged`)"
    )]
    TooNarrow {
        /// The layer's path, as in the module's record.
        layer: String,
        /// The dtype of its statistics.
        dtype: DType,
    },

    /// A batch could not be loaded.
    #[error("a batch to re-estimate BatchNorm from could not be loaded: {0}")]
    Batch(#[source] Box<dyn Error + Send + Sync>),

    /// The device could not be read.
    #[error("reading from the device failed: {reason}")]
    Device {
        /// The device's own message.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
