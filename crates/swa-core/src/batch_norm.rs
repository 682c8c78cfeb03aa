//! Re-estimation of BatchNorm's running statistics.

use std::error::Error;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use thiserror::Error;

use crate::path::Path;

/// Re-estimates the running mean and variance of every BatchNorm layer of `model` over `batches`,
/// and returns the model with them, in validation mode. `model` itself does not change.
///
/// Averaged weights never produced the running statistics that come with them. This passes data
/// through the averaged model once, with BatchNorm layers *alone* in training mode, and gives each
/// layer the statistics of its input, over all batches `b` of `n_b` samples, pooled:
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
///   The first batch is passed twice.
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
/// - [`BatchNormError::NotUpdated`]: a layer's statistics did not change in the forward pass, since
///   its momentum is 0, or the pass does not reach it.
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
            running = start_from(running, 0.0);
            let samples = forward(&running, batch);
            let batch = statistics(&running.valid());
            if samples > 0 {
                pooled.add(samples, momentum.divide_out(batch));
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
        "re-estimating BatchNorm needs data, and there was no batch: \
         pass the training data, or check that its loader is not empty"
    )]
    NoBatches,

    /// A layer's running statistics stayed as they were.
    #[error(
        "the forward pass left the running statistics of BatchNorm layer `{layer}` as they were: \
         its momentum is 0, or the pass does not reach it, or its input is not on an autodiff device \
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

/// The BatchNorm layers of a model, in order.
struct Layers(Vec<Layer>);

struct Layer {
    path: String,
    channels: usize,
    /// Of the running statistics.
    dtype: DType,
}

impl Layers {
    fn of<M: Module>(model: &M) -> Self {
        #[derive(Default)]
        struct Finder {
            path: Path,
            layers: Vec<Layer>,
        }
        impl ModuleVisitor for Finder {
            fn enter_module(&mut self, name: &str, container: &str) {
                self.path.enter(name, container);
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.path.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if self.path.batch_norm_field() == Some("running_mean") {
                    self.layers.push(Layer {
                        path: self.path.dotted_parent(),
                        channels: param.lazy_shape().num_elements(),
                        dtype: param.val().dtype(),
                    });
                }
            }
        }
        let mut finder = Finder::default();
        model.visit(&mut finder);
        Self(finder.layers)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn check_dtypes(&self) -> Result<(), BatchNormError> {
        let wide = |dtype| matches!(dtype, DType::F32 | DType::F64 | DType::Flex32);
        match self.0.iter().find(|layer| !wide(layer.dtype)) {
            None => Ok(()),
            Some(Layer { path, dtype, .. }) => Err(BatchNormError::TooNarrow {
                layer: path.clone(),
                dtype: *dtype,
            }),
        }
    }

    /// The layer that channel `index` of all belongs to.
    fn at_channel(&self, index: usize) -> &str {
        let mut end = 0;
        let layer = self.0.iter().find(|layer| {
            end += layer.channels;
            index < end
        });
        layer.map_or("", |layer| &layer.path)
    }
}

/// Means and variances of all channels of all layers, in order: two tensors of shape `[channels]`.
///
/// Together rather than layer by layer, so that pooling takes a few operations a batch and not a few
/// a layer.
#[derive(Clone)]
struct Statistics {
    mean: Tensor<1>,
    variance: Tensor<1>,
}

/// A copy of `model` in which BatchNorm layers, and they alone, are in training mode: on the autodiff
/// device, without gradients.
fn training_mode<M: Module>(model: &M) -> M {
    #[derive(Default)]
    struct OnlyBatchNorm {
        path: Path,
    }
    impl ModuleMapper for OnlyBatchNorm {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
            flag.with_value(self.path.batch_norm_field().is_some())
        }
    }
    // `valid` is what makes the copy deep: a clone's running statistics are the model's own.
    model
        .valid()
        .train()
        .no_grad()
        .map(&mut OnlyBatchNorm::default())
}

/// Sets all running means and variances to `value`.
fn start_from<M: Module>(model: M, value: f64) -> M {
    struct Fill {
        path: Path,
        value: f64,
    }
    impl ModuleMapper for Fill {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.path.is_running_statistic() {
                true => param.map(|tensor| tensor.full_like(self.value)),
                false => param,
            }
        }
    }
    model.map(&mut Fill {
        path: Path::default(),
        value,
    })
}

/// The running statistics of a model in validation mode (a forward pass leaves its update where only
/// [`Module::valid`] sees it), in f32 and on the device of the first layer.
fn statistics<M: Module>(model: &M) -> Statistics {
    #[derive(Default)]
    struct Reader {
        path: Path,
        means: Vec<Tensor<1>>,
        variances: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Reader {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let into = match self.path.batch_norm_field() {
                Some("running_mean") => &mut self.means,
                Some("running_var") => &mut self.variances,
                _ => return,
            };
            let value = param.val();
            let channels = value.shape().num_elements();
            let value = crate::parameter::cast(value.reshape([channels]), FloatDType::F32);
            let device = into.first().map_or_else(|| value.device(), Tensor::device);
            into.push(value.to_device(&device));
        }
    }
    let mut reader = Reader::default();
    model.visit(&mut reader);
    Statistics {
        mean: Tensor::cat(reader.means, 0),
        variance: Tensor::cat(reader.variances, 0),
    }
}

/// Where running statistics start from to find out the momentum: so far above what a forward pass
/// adds that this is lost in rounding, and a power of two, so that the division is exact.
const PROBE: f64 = (1u64 << 40) as f64;

/// The momentum of every layer, which a module does not tell.
///
/// A forward pass in training mode leaves `(1 - momentum) * running + momentum * batch`. From
/// `running = 0` that is the batch's statistic up to a factor, and from a huge one it is the factor.
/// A layer that is passed `k` times counts as one of momentum `1 - (1 - momentum)^k`, and its
/// statistic as a weighted mean of the `k` inputs'.
struct Momentum {
    /// One over the momentum, for every channel: a tensor of shape `[channels]`.
    inverse: Tensor<1>,
}

impl Momentum {
    fn from_probe(layers: &Layers, probe: Statistics) -> Result<Self, BatchNormError> {
        let device = probe.mean.device();
        let kept = read(probe.mean)?;
        let mut inverse = Vec::with_capacity(kept.len());
        for (index, kept) in kept.into_iter().enumerate() {
            let momentum = 1.0 - kept / PROBE;
            let layer = || layers.at_channel(index).to_owned();
            match momentum {
                momentum if !momentum.is_finite() => {
                    return Err(BatchNormError::NotFinite { layer: layer() });
                }
                momentum if momentum < SMALLEST_MOMENTUM => {
                    return Err(BatchNormError::NotUpdated { layer: layer() });
                }
                momentum => inverse.push((1.0 / momentum) as f32),
            }
        }
        let channels = inverse.len();
        let inverse = Tensor::from_data(TensorData::new(inverse, [channels]), &device);
        Ok(Self { inverse })
    }

    fn divide_out(&self, running: Statistics) -> Statistics {
        Statistics {
            mean: running.mean.mul(self.inverse.clone()),
            variance: running.variance.mul(self.inverse.clone()),
        }
    }
}

/// A momentum that f32 cannot tell from 0 when it is computed as `1 - (1 - momentum)`.
const SMALLEST_MOMENTUM: f64 = 1e-6;

/// Statistics pooled over batches, by the update of Chan et al. 1983, *Algorithms for Computing the
/// Sample Variance*: exact in whatever order and however large the mean.
struct Pooled {
    pooling: Pooling,
    batches: usize,
    samples: usize,
    statistics: Option<Statistics>,
    /// Earlier states, some tens of them however many batches there are, to say what moved since.
    history: Vec<(usize, Statistics)>,
    /// A state is kept every `stride` batches.
    stride: usize,
}

/// How many earlier states are kept at most: so many that one is near nine tenths of the way.
const HISTORY: usize = 64;

impl Pooled {
    fn new(pooling: Pooling) -> Self {
        Self {
            pooling,
            batches: 0,
            samples: 0,
            statistics: None,
            history: Vec::new(),
            stride: 1,
        }
    }

    fn add(&mut self, samples: usize, batch: Statistics) {
        let total = self.samples + samples;
        let share = match self.pooling {
            Pooling::Exact | Pooling::WeightedBySize => samples as f64 / total as f64,
            Pooling::Equal => 1.0 / (self.batches + 1) as f64,
        };
        let statistics = match self.statistics.take() {
            None => batch,
            Some(before) => {
                let delta = batch.mean.sub(before.mean.clone());
                let within = batch.variance.sub(before.variance.clone());
                let variance = before.variance.add(within.mul_scalar(share));
                let between = delta.clone().square().mul_scalar(share * (1.0 - share));
                Statistics {
                    mean: before.mean.add(delta.mul_scalar(share)),
                    variance: match self.pooling {
                        Pooling::Exact => variance.add(between),
                        Pooling::WeightedBySize | Pooling::Equal => variance,
                    },
                }
            }
        };
        self.batches += 1;
        self.samples = total;
        self.remember(&statistics);
        self.statistics = Some(statistics);
    }

    fn remember(&mut self, statistics: &Statistics) {
        if self.history.len() == HISTORY {
            let mut keep = false;
            self.history.retain(|_| {
                keep = !keep;
                !keep
            });
            self.stride *= 2;
        }
        if self.batches.is_multiple_of(self.stride) {
            self.history.push((self.samples, statistics.clone()));
        }
    }

    /// See [`BatchNormReport::moved`].
    fn moved(&self) -> Result<Option<f64>, BatchNormError> {
        let Some(now) = &self.statistics else {
            return Ok(None);
        };
        let mut history = self.history.iter();
        let earlier = history.rfind(|(samples, _)| samples * 10 <= self.samples * 9);
        let Some((_, earlier)) = earlier else {
            return Ok(None);
        };
        Ok(Some(distance(
            (
                &read(earlier.mean.clone())?,
                &read(earlier.variance.clone())?,
            ),
            (&read(now.mean.clone())?, &read(now.variance.clone())?),
        )))
    }

    fn finish(self, layers: &Layers) -> Result<(Statistics, BatchNormReport), BatchNormError> {
        let moved = self.moved()?;
        let statistics = self.statistics.ok_or(BatchNormError::NoBatches)?;
        let mean = read(statistics.mean.clone())?;
        let variance = read(statistics.variance.clone())?;
        let not_finite = |&index: &usize| !(mean[index].is_finite() && variance[index].is_finite());
        if let Some(index) = (0..mean.len()).find(not_finite) {
            let layer = layers.at_channel(index).to_owned();
            return Err(BatchNormError::NotFinite { layer });
        }
        let report = BatchNormReport {
            layers: layers.0.len(),
            batches: self.batches,
            samples: self.samples,
            moved,
        };
        Ok((statistics, report))
    }
}

/// How far statistics moved, in standard deviations: see [`BatchNormReport::moved`].
fn distance(from: (&[f64], &[f64]), to: (&[f64], &[f64])) -> f64 {
    let channels = to.0.len();
    let squares = (0..channels).map(|index| {
        let deviation = to.1[index].max(f64::MIN_POSITIVE).sqrt();
        let mean = (to.0[index] - from.0[index]) / deviation;
        let spread = (deviation - from.1[index].max(0.0).sqrt()) / deviation;
        mean * mean + spread * spread
    });
    (squares.sum::<f64>() / (2 * channels) as f64).sqrt()
}

fn read(tensor: Tensor<1>) -> Result<Vec<f64>, BatchNormError> {
    match tensor.try_into_data() {
        Ok(data) => Ok(data.iter::<f64>().collect()),
        Err(error) => Err(BatchNormError::Device {
            reason: error.to_string(),
        }),
    }
}

/// Gives every BatchNorm layer its part of the statistics.
struct SetStatistics {
    path: Path,
    statistics: Statistics,
    /// The first channel of the current layer.
    channel: usize,
}

impl SetStatistics {
    fn new(statistics: Statistics) -> Self {
        Self {
            path: Path::default(),
            statistics,
            channel: 0,
        }
    }
}

impl ModuleMapper for SetStatistics {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // The mean comes first: it is the field before.
        let (all, last) = match self.path.batch_norm_field() {
            Some("running_mean") => (&self.statistics.mean, false),
            Some("running_var") => (&self.statistics.variance, true),
            _ => return param,
        };
        let channels = param.lazy_shape().num_elements();
        let value = all.clone().narrow(0, self.channel, channels);
        if last {
            self.channel += channels;
        }
        param.map(|old| {
            let value = value.to_device(&old.device()).reshape(old.shape());
            crate::parameter::cast(value, old.dtype().into())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use burn::module::RunningState;
    use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Net {
        first: BatchNorm,
        dropout: Dropout,
        second: BatchNorm,
    }

    impl Net {
        fn new(momenta: [f64; 2]) -> Self {
            let device = Device::default().autodiff();
            let norm = |momentum| {
                let mut norm = BatchNormConfig::new(2)
                    .with_momentum(momentum)
                    .init(&device);
                norm.running_mean = RunningState::new(Tensor::from_floats([7.0, 7.0], &device));
                norm
            };
            Self {
                first: norm(momenta[0]),
                dropout: DropoutConfig::new(0.5).init(),
                second: norm(momenta[1]),
            }
        }

        /// `second` sees three times the input, plus one.
        fn forward(&self, input: Tensor<2>) -> Tensor<2> {
            self.first.forward(input.clone());
            let input = self.dropout.forward(input);
            self.second.forward(input.mul_scalar(3.0).add_scalar(1.0))
        }
    }

    fn batch(rows: &[[f32; 2]]) -> Tensor<2> {
        let device = Device::default().autodiff();
        let flat = rows.concat();
        Tensor::from_data(TensorData::new(flat, [rows.len(), 2]), &device)
    }

    fn run(model: &Net, rows: Tensor<2>) -> usize {
        let samples = rows.dims()[0];
        model.forward(rows);
        samples
    }

    fn statistics_of(norm: &BatchNorm) -> Vec<f64> {
        let mean = norm.running_mean.value().into_data();
        let variance = norm.running_var.value().into_data();
        mean.iter::<f64>().chain(variance.iter::<f64>()).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        for (a, b) in got.iter().zip(expected) {
            assert!(
                (a - b).abs() <= 2e-6 * b.abs().max(1.0),
                "{got:?} {expected:?}"
            );
        }
    }

    #[test]
    fn statistics_are_those_of_all_samples_whatever_the_batches_and_the_momentum() {
        // Columns 1, 3, 5, 11 (mean 5, variance 14) and 2, 2, 4, 8 (mean 4, variance 6).
        let batches = [
            batch(&[[1.0, 2.0], [3.0, 2.0], [5.0, 4.0]]),
            batch(&[[11.0, 8.0]]),
        ];
        for momenta in [[0.1, 0.9], [1.0, 0.01]] {
            let model = Net::new(momenta);
            let (model, report) = reestimate_batch_norm(&model, batches.clone(), run).unwrap();
            assert_close(&statistics_of(&model.first), &[5.0, 4.0, 14.0, 6.0]);
            // Three times, plus one: had dropout been on, these would be others.
            assert_close(&statistics_of(&model.second), &[16.0, 13.0, 126.0, 54.0]);
            assert_eq!((report.layers, report.batches, report.samples), (2, 2, 4));
        }
    }

    #[test]
    fn peers_average_the_statistics_of_batches_instead() {
        // Columns 1, 3, 5 (mean 3, variance 8/3) and 2, 2, 4 (8/3, 8/9), then 11 and 8 alone (variance 0).
        let batches = [
            batch(&[[1.0, 2.0], [3.0, 2.0], [5.0, 4.0]]),
            batch(&[[11.0, 8.0]]),
        ];
        for (pooling, expected) in [
            (Pooling::WeightedBySize, [5.0, 4.0, 2.0, 2.0 / 3.0]),
            (Pooling::Equal, [7.0, 16.0 / 3.0, 4.0 / 3.0, 4.0 / 9.0]),
        ] {
            let model = Net::new([0.1, 0.9]);
            let way = BatchNormReestimation::default().with_pooling(pooling);
            let (model, _) = way.run(&model, batches.clone(), run).unwrap();
            assert_close(&statistics_of(&model.first), &expected);
        }
    }

    #[test]
    fn a_large_mean_does_not_drown_the_variance() {
        // 1000 ± 1: variance 1.
        let batches = (0..100).map(|_| batch(&[[1000.0, 0.0], [1002.0, 0.0]]));
        let (model, _) = reestimate_batch_norm(&Net::new([0.1, 0.1]), batches, run).unwrap();
        let statistics = statistics_of(&model.first);
        assert!((statistics[0] - 1001.0).abs() < 2e-3, "{statistics:?}");
        assert!((statistics[2] - 1.0).abs() < 1e-3, "{statistics:?}");
    }

    #[test]
    fn the_model_passed_in_does_not_change() {
        let model = Net::new([0.1, 0.1]);
        reestimate_batch_norm(&model, [batch(&[[1.0, 2.0], [3.0, 4.0]])], run).unwrap();
        let expected = [7.0, 7.0, 1.0, 1.0];
        assert_eq!(statistics_of(&model.first.valid()), expected);
        assert!(model.dropout.training.is_enabled());
    }

    #[test]
    fn the_report_says_how_much_the_last_tenth_moved() {
        // Nine batches of 0 ± 1, then one of 10 ± 1: the mean moves from 0 to 1, the variance from
        // 1 to 1 + 0.9 * 0.1 * 100 = 10.
        let at = |value: f32| batch(&[[value - 1.0, value - 1.0], [value + 1.0, value + 1.0]]);
        let batches: Vec<_> = (0..9).map(|_| at(0.0)).chain([at(10.0)]).collect();
        let (_, report) = reestimate_batch_norm(&Net::new([0.1, 0.1]), batches, run).unwrap();
        let deviation = 10f64.sqrt();
        let mean = 1.0 / deviation;
        let spread = (deviation - 1.0) / deviation;
        let expected = ((mean * mean + spread * spread) / 2.0).sqrt();
        // The second layer's deviations are three times as large, and so is all that moves.
        assert!(
            (report.moved.unwrap() - expected).abs() < 1e-5,
            "{report:?}"
        );

        // Many batches, of which only some are remembered: nothing moves.
        let batches = (0..1000).map(|_| at(0.0));
        let (_, report) = reestimate_batch_norm(&Net::new([0.1, 0.1]), batches, run).unwrap();
        assert!(report.moved.unwrap() < 1e-6, "{report:?}");

        let (_, report) = reestimate_batch_norm(&Net::new([0.1, 0.1]), [at(0.0)], run).unwrap();
        assert_eq!(report.moved, None);
    }

    #[test]
    fn no_more_batches_are_taken_once_the_statistics_have_settled() {
        let at = |value: f32| batch(&[[value - 1.0, value - 1.0], [value + 1.0, value + 1.0]]);
        // The first is off by 9. After n batches the mean is 9 / n, and moved by 1 / n over the last tenth, the variance
        // is 1 + 81 (n - 1) / n^2.
        let run_until = |within: f64| {
            let mut taken = 0;
            let batches = (0..400).map(|index| {
                taken = index + 1;
                at(if index == 0 { 9.0 } else { 0.0 })
            });
            let way = BatchNormReestimation::default().until_settled(within);
            let (_, report) = way.run(&Net::new([0.1, 0.1]), batches, run).unwrap();
            assert_eq!(taken, report.batches);
            report
        };
        let coarse = run_until(0.02);
        let fine = run_until(0.01);
        assert!(coarse.moved.unwrap() <= 0.02 && fine.moved.unwrap() <= 0.01);
        assert!(10 < coarse.batches && coarse.batches < fine.batches && fine.batches < 400);
        // What never settles takes all.
        assert_eq!(run_until(0.0).batches, 400);
        // What is settled from the beginning is looked at after ten.
        assert_eq!(run_until(10.0).batches, 10);
    }

    #[test]
    fn what_cannot_be_estimated_is_an_error_that_names_the_layer() {
        let some = || [batch(&[[1.0, 2.0], [3.0, 4.0]])];

        let none: [Tensor<2>; 0] = [];
        let error = reestimate_batch_norm(&Net::new([0.1, 0.1]), none, run).unwrap_err();
        assert!(matches!(error, BatchNormError::NoBatches), "{error}");

        let error = reestimate_batch_norm(&Net::new([0.1, 0.0]), some(), run).unwrap_err();
        assert!(error.to_string().contains("`second`"), "{error}");
        assert!(
            matches!(error, BatchNormError::NotUpdated { .. }),
            "{error}"
        );

        let only_second = |model: &Net, rows: Tensor<2>| {
            model.second.forward(rows);
            2
        };
        let error = reestimate_batch_norm(&Net::new([0.1, 0.1]), some(), only_second).unwrap_err();
        assert!(error.to_string().contains("`first`"), "{error}");

        let bad = [batch(&[[1.0, 2.0], [3.0, f32::NAN]])];
        let error = reestimate_batch_norm(&Net::new([0.1, 0.1]), bad, run).unwrap_err();
        assert!(matches!(error, BatchNormError::NotFinite { .. }), "{error}");

        let failing = [Err(io::Error::other("disk on fire"))];
        let error = reestimate_batch_norm(
            &Net::new([0.1, 0.1]),
            failing,
            |model: &Net, rows: Tensor<2>| run(model, rows),
        )
        .unwrap_err();
        assert!(error.to_string().contains("disk on fire"), "{error}");
    }

    #[test]
    fn statistics_in_16_bits_are_refused_with_a_way_out() {
        for dtype in [FloatDType::BF16, FloatDType::F16] {
            let mut model = Net::new([0.1, 0.1]);
            let device = Device::default().autodiff();
            let mean = Tensor::<1>::zeros([2], &device).cast(dtype);
            model.second.running_mean = RunningState::new(mean);
            let error = reestimate_batch_norm(&model, [batch(&[[1.0, 2.0]])], run).unwrap_err();
            assert!(error.to_string().contains("`second`"), "{error}");
            assert!(error.to_string().contains("F32"), "{error}");
        }
    }

    #[test]
    fn a_model_without_batch_norm_is_done_at_once() {
        let model: Linear = LinearConfig::new(2, 2).init(&Device::default());
        let batches = std::iter::from_fn(|| -> Option<Result<Tensor<2>, Infallible>> {
            panic!("no batch should be asked for")
        });
        let (_, report) =
            reestimate_batch_norm(&model, batches, |_: &Linear, _: Tensor<2>| 1).unwrap();
        assert_eq!(report, BatchNormReport::default());
    }
}
