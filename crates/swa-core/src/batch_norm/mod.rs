//! Re-estimation of BatchNorm's running statistics.

mod layers;
mod momentum;
mod pooled;

use std::error::Error;

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
/// These are the statistics of the data set, whatever its split into batches, as far as a layer's
/// input does not depend on it: each batch is normalised by its own statistics on its way through.
/// The variance is the biased one, as Burn's running variance is, and as that is by which layers
/// normalise while they train, in PyTorch too, whose running variance is the unbiased one: larger by
/// `n / (n - 1)` for `n` values of a channel. Dropout stays off; no graph is built; running statistics
/// of layers frozen with [`Module::freeze`] are re-estimated too.
///
/// - `batches` is any iterator of batches, or of results of them such as Burn's
///   `DataLoader::iter()` gives (name the batch's type in the closure then). For the first `n`
///   batches, pass `batches.take(n)`.
/// - `forward` runs the model's forward pass on a batch and returns the batch's number of samples.
///   The model that it is given is on an autodiff device, which is what puts BatchNorm into training
///   mode. A BatchNorm layer that is given the batch itself needs it there as well (`.autodiff()`).
///   The first batch is passed twice. It has to pass every layer, and every batch those that it passes
///   equally often.
///
/// A model without BatchNorm comes back as it is, without a pass over the data.
///
/// [`BatchNormReestimation`] pools as peers do, which turn dropout on, too, and stops once the statistics have settled.
///
/// # Example
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{BatchNorm, BatchNormConfig};
/// use burn::tensor::{Device, Tensor};
/// use swa_core::reestimate_batch_norm;
///
/// let device = Device::default();
/// let norm: BatchNorm = BatchNormConfig::new(1).init(&device);
///
/// // The mean of 1, 3, 5 and 11 is 5, their variance 14.
/// let batches = [vec![1.0f32, 3.0], vec![5.0], vec![11.0]];
/// let (norm, report) = reestimate_batch_norm(&norm, batches, |norm, batch| {
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
/// - [`BatchNormError::NoBatches`]: there is no batch, or none with a sample.
/// - [`BatchNormError::NotUpdated`]: a layer's statistics did not change in the forward pass of the
///   first batch, since its momentum is 0, or the pass does not reach it.
/// - [`BatchNormError::NotFinite`]: a layer's statistics are not numbers.
/// - [`BatchNormError::TooNarrow`]: a layer keeps its statistics in 16 bits.
/// - [`BatchNormError::Batch`]: a batch could not be had.
pub fn reestimate_batch_norm<M, I, B>(
    model: &M,
    batches: I,
    forward: impl FnMut(&M, B) -> usize,
) -> Result<(M, BatchNormReport), BatchNormError>
where
    M: Module,
    I: IntoIterator,
    I::Item: IntoBatch<B>,
    B: Clone,
{
    BatchNormReestimation::default().run(model, batches, forward)
}

/// [`reestimate_batch_norm`] with choices.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchNormReestimation {
    pooling: Pooling,
    settled: Option<f64>,
}

impl BatchNormReestimation {
    /// Pools the statistics of batches otherwise than exactly.
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Takes no more batches once the statistics [moved](BatchNormReport::moved) by at most `within` over the last
    /// tenth of the samples: after 10 batches at the earliest, and looked at whenever there are a tenth more, for which
    /// the host waits for the device.
    ///
    /// In batches of a random order, statistics of `n` samples that are independent of each other are off by about
    /// `sigma / sqrt(n)`, and move by a third of that over the last tenth: expect them to be three times as far from
    /// those of all data as `within`.
    pub fn until_settled(mut self, within: f64) -> Self {
        self.settled = Some(within);
        self
    }

    /// Whether the layers of `model` can be re-estimated, as far as that can be seen without data: before a training,
    /// say.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::TooNarrow`].
    pub fn check<M: Module>(self, model: &M) -> Result<(), BatchNormError> {
        Layers::of(model).check_dtypes()
    }

    /// Re-estimates: see [`reestimate_batch_norm`].
    ///
    /// # Errors
    ///
    /// Those of [`reestimate_batch_norm`].
    pub fn run<M, I, B>(
        self,
        model: &M,
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
        if layers.is_empty() {
            return Ok((model.valid(), BatchNormReport::default()));
        }
        layers.check_dtypes()?;

        let mut running = training_mode(model);
        let mut momentum = None;
        let mut pooled = Pooled::new(self.pooling);
        let mut next_look = FIRST_LOOK;
        for batch in batches {
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
            if let Some(within) = self.settled
                && pooled.batches >= next_look
            {
                if pooled.moved()?.is_some_and(|moved| moved <= within) {
                    break;
                }
                next_look = pooled.batches + pooled.batches.div_ceil(10);
            }
        }

        let (statistics, report) = pooled.finish(&layers)?;
        let model = model.valid().map(&mut SetStatistics::new(statistics));
        Ok((model, report))
    }
}

/// After how many batches it is first looked at whether the statistics have settled: before, a tenth of the samples is
/// less than a batch.
const FIRST_LOOK: usize = 10;

/// How the statistics of batches `b`, each of `n_b` samples, make those of them all.
///
/// With batches of one size and many samples the three differ little. The last batch of an epoch is
/// often small, though, and a small batch's variance too low by what its mean is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The statistics of all samples together, the variance between the batches' means included.
    #[default]
    Exact,
    /// The mean of the batches' means and variances, weighted by `n_b`: the SWA paper's code
    /// (`bn_update` in its `utils.py`).
    WeightedBySize,
    /// Their mean, a small last batch counting as much as a full one:
    /// `torch.optim.swa_utils.update_bn`.
    Equal,
}

/// What a re-estimation did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchNormReport {
    /// How many BatchNorm layers the model has.
    pub layers: usize,
    /// How many batches passed.
    pub batches: usize,
    /// How many samples were in them.
    pub samples: usize,
    /// How much the statistics still moved over the last tenth of the samples, in standard
    /// deviations: the root mean square, over all channels, of the change of the mean over the
    /// standard deviation and of the relative change of the standard deviation.
    ///
    /// 0.01 says that a channel's mean moved by a hundredth of its standard deviation: more data
    /// would hardly change the model. `None` with a single batch, where nothing moved.
    pub moved: Option<f64>,
}

/// Why running statistics could not be re-estimated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BatchNormError {
    /// No batch, or none with a sample.
    #[error(
        "re-estimating BatchNorm needs data, and there was no batch, or none with a sample: \
         pass the training data, or check that its loader is not empty and counts its items"
    )]
    NoBatches,

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

    /// A layer keeps its running statistics in 16 bits, in which `1 - momentum` is rounded so far that
    /// a batch's statistics could be recovered to some per cent only.
    #[error(
        "BatchNorm layer `{layer}` keeps its running statistics in {dtype:?}, which is too narrow to \
         re-estimate them: keep the layer in F32, or average the running statistics instead \
         (`averaging_running_statistics`)"
    )]
    TooNarrow {
        /// The layer's path, as in the module's record.
        layer: String,
        /// What its statistics are kept in.
        dtype: DType,
    },

    /// A batch could not be had.
    #[error("a batch to re-estimate BatchNorm from could not be loaded: {0}")]
    Batch(#[source] Box<dyn Error + Send + Sync>),

    /// The device could not be read.
    #[error("reading from the device failed: {reason}")]
    Device {
        /// What the device says.
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
