//! Re-estimation of BatchNorm's running statistics.

mod layers;
mod momentum;
mod pooled;

use std::error::Error;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::DType;
use thiserror::Error;

use layers::{Layers, NOT_PASSED, SetStatistics, start_from, statistics, training_mode};
use momentum::{Momentum, PROBE};
use pooled::Pooled;

/// Re-estimates the running mean and variance of every BatchNorm layer of `model` over `batches`,
/// and returns the model with them, in validation mode. `model` itself does not change.
///
/// Averaged weights never produced the running statistics that come with them. This passes data
/// through the averaged model once, with BatchNorm layers *alone* in training mode, and gives each
/// layer the statistics of its input, over all batches `b` of `n_b` samples that pass it, pooled:
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
/// `n / (n - 1)` for `n` values of a channel. Dropout stays off, and no graph is built. Running
/// statistics of layers frozen with [`Module::freeze`] are re-estimated too.
///
/// - `config` says how batches are pooled, and how many are taken: `&ReestimationConfig::new()` for all, exactly.
/// - `batches` is any iterator of batches, or of results of them such as Burn's `DataLoader::iter()` gives (name the batch's
///   type in the closure then).
/// - `forward` runs the model's forward pass on a batch and returns the batch's number of samples.
///   The model that it is given is on an autodiff device, which puts BatchNorm into training mode. If
///   a BatchNorm layer is given the batch itself, the batch has to be there too (`.autodiff()`).
///   The first batch is passed twice, and has to pass every layer. All batches have to pass a layer
///   the same number of times, if they pass it.
///
/// A model without BatchNorm comes back as it is, without a pass over the data.
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
/// - [`BatchNormError::NotUpdated`]: a layer's statistics did not change in the forward pass of the
///   first batch, since its momentum is 0, or the pass does not reach it.
/// - [`BatchNormError::NotFinite`]: a layer's statistics are not numbers.
/// - [`BatchNormError::TooNarrow`]: a layer keeps its statistics in 16 bits.
/// - [`BatchNormError::Batch`]: a batch could not be loaded.
pub fn reestimate_batch_norm<M, I, B>(
    model: &M,
    config: &ReestimationConfig,
    batches: I,
    mut forward: impl FnMut(&M, B) -> usize,
) -> Result<(M, BatchNormReport), BatchNormError>
where
    M: Module,
    I: IntoIterator,
    I::Item: IntoBatch<B>,
    B: Clone,
{
    let layers = Layers::of(model);
    config.check_layers(&layers)?;
    if layers.is_empty() {
        return Ok((model.valid(), BatchNormReport::default()));
    }

    let mut running = training_mode(model);
    let mut momentum = None;
    let mut pooled = Pooled::new(config.pooling);
    for batch in batches.into_iter().take(config.most_batches()) {
        let batch = batch.into_batch()?;
        let momentum = match &momentum {
            Some(momentum) => momentum,
            None => {
                let probe = start_from(running, PROBE);
                forward(&probe, batch.clone());
                running = probe;
                momentum.insert(Momentum::from_probe(&layers, statistics(&running.valid()))?)
            }
        };
        running = start_from(running, NOT_PASSED);
        let samples = forward(&running, batch);
        let batch = statistics(&running.valid());
        if samples > 0 {
            let passed = batch.passed();
            pooled.add(samples, momentum.divide_out(batch), passed);
        }
    }

    let (statistics, report) = pooled.finish(&layers)?;
    let model = model.valid().map(&mut SetStatistics::new(statistics));
    Ok((model, report))
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
    /// The number of batches that are taken: the first ones, at least 1. All by default, as in the paper and in PyTorch's
    /// `update_bn`.
    pub first_batches: Option<usize>,
}

impl ReestimationConfig {
    /// Checks the settings, and whether the layers of `model` can be re-estimated, as far as this can be told without data.
    /// Call it before a training, for example.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::ZeroBatches`] and [`BatchNormError::TooNarrow`].
    pub fn check<M: Module>(&self, model: &M) -> Result<(), BatchNormError> {
        self.check_layers(&Layers::of(model))
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

/// The way from the statistics of batches `b`, each of `n_b` samples, to those of all batches.
///
/// With batches of one size and many samples, the three differ little. But the last batch of an epoch
/// is often small, and the variance of a small batch is too low, by the error of its mean.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The statistics of all samples together. The variance includes that between the batches' means.
    Exact,
    /// The mean of the batches' means and variances, weighted by `n_b`: the SWA paper's code
    /// (`bn_update` in its `utils.py`).
    WeightedBySize,
    /// Their mean. A small last batch counts as much as a full one:
    /// `torch.optim.swa_utils.update_bn`.
    Equal,
}

/// The report of a re-estimation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchNormReport {
    /// The number of BatchNorm layers of the model.
    pub layers: usize,
    /// The number of batches that passed.
    pub batches: usize,
    /// The number of samples in them.
    pub samples: usize,
    /// The change of the statistics over the last tenth of the samples, in standard deviations: the
    /// root mean square, over all channels, of the change of the mean over the standard deviation and
    /// of the relative change of the standard deviation.
    ///
    /// 0.01 says that a channel's mean changed by a hundredth of its standard deviation: more data
    /// would hardly change the model. `None` with a single batch, where nothing changed.
    pub drift: Option<f64>,
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

    /// A layer's running statistics stayed as they were.
    #[error(
        "the forward pass left the running statistics of BatchNorm layer `{layer}` as they were: \
         its momentum is 0, or the first batch does not reach it, or its input is not on an autodiff device \
         (call `.autodiff()` on the batch). Give it a momentum such as 0.1"
    )]
    NotUpdated {
        /// The layer's path, as in the module's record.
        layer: String,
    },

    /// A layer's statistics are NaN or infinite.
    #[error(
        "the input of BatchNorm layer `{layer}` holds a NaN or an infinity: \
         check the data, and that the averaged weights are those of a training that converged"
    )]
    NotFinite {
        /// The layer's path, as in the module's record.
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

/// A batch of type `B`, or the result of loading one.
pub trait IntoBatch<B> {
    /// The batch.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::Batch`] if loading it failed.
    fn into_batch(self) -> Result<B, BatchNormError>;
}

impl<B> IntoBatch<B> for B {
    fn into_batch(self) -> Result<B, BatchNormError> {
        Ok(self)
    }
}

impl<B, E: Into<Box<dyn Error + Send + Sync>>> IntoBatch<B> for Result<B, E> {
    fn into_batch(self) -> Result<B, BatchNormError> {
        self.map_err(|error| BatchNormError::Batch(error.into()))
    }
}

#[cfg(test)]
mod tests;
