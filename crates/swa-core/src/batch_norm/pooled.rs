//! The statistics of many batches, from those of each.

use burn::tensor::Tensor;

use super::layers::{Layers, Statistics, read};
use super::{BatchNormError, BatchNormReport, Pooling};

/// Statistics pooled over batches, by the update of Chan et al. 1983, *Algorithms for Computing the
/// Sample Variance*: exact in any order of the batches, and for large means too.
pub(super) struct Pooled {
    pooling: Pooling,
    batches: usize,
    samples: usize,
    /// The statistics so far, and each channel's weight: the sum of the weights of the batches that passed it.
    statistics: Option<(Statistics, Tensor<1>)>,
    /// Earlier states, to tell the drift since then: some tens of them, for any number of batches.
    history: Vec<(usize, Statistics)>,
    /// A state is kept every `stride` batches.
    stride: usize,
}

/// The largest number of earlier states that are kept. With so many, one is near nine tenths of the samples.
const HISTORY: usize = 64;

impl Pooled {
    pub(super) fn new(pooling: Pooling) -> Self {
        Self {
            pooling,
            batches: 0,
            samples: 0,
            statistics: None,
            history: Vec::new(),
            stride: 1,
        }
    }

    /// Adds a batch of `samples`, to the channels that it `passed` (1, else 0).
    pub(super) fn add(&mut self, samples: usize, batch: Statistics, passed: Tensor<1>) {
        let weight = passed.mul_scalar(match self.pooling {
            Pooling::Exact | Pooling::WeightedBySize => samples as f64,
            Pooling::Equal => 1.0,
        });
        let (statistics, total) = match self.statistics.take() {
            None => (batch, weight),
            Some((before, total)) => {
                let total = total.add(weight.clone());
                let share = weight.div(total.clone().clamp_min(1.0));
                let delta = batch.mean.sub(before.mean.clone());
                let within = batch.variance.sub(before.variance.clone());
                let variance = before.variance.add(within.mul(share.clone()));
                let variance = match self.pooling {
                    Pooling::Exact => {
                        let rest = share.clone().neg().add_scalar(1.0);
                        variance.add(delta.clone().square().mul(share.clone()).mul(rest))
                    }
                    Pooling::WeightedBySize | Pooling::Equal => variance,
                };
                let mean = before.mean.add(delta.mul(share));
                (Statistics { mean, variance }, total)
            }
        };
        self.batches += 1;
        self.samples += samples;
        self.remember(&statistics);
        self.statistics = Some((statistics, total));
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

    /// See [`BatchNormReport::drift`].
    fn drift(&self) -> Result<Option<f64>, BatchNormError> {
        let Some((now, _)) = &self.statistics else {
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

    pub(super) fn finish(
        self,
        layers: &Layers,
    ) -> Result<(Statistics, BatchNormReport), BatchNormError> {
        let drift = self.drift()?;
        let (statistics, weight) = self.statistics.ok_or(BatchNormError::NoBatches)?;
        let mean = read(statistics.mean.clone())?;
        let variance = read(statistics.variance.clone())?;
        let not_finite = |&index: &usize| !(mean[index].is_finite() && variance[index].is_finite());
        if let Some(index) = (0..mean.len()).find(not_finite) {
            let layer = layers.at_channel(index).to_owned();
            return Err(BatchNormError::NotFinite { layer });
        }
        if let Some(index) = read(weight)?.iter().position(|weight| *weight == 0.0) {
            let layer = layers.at_channel(index).to_owned();
            return Err(BatchNormError::NotUpdated { layer });
        }
        let report = BatchNormReport {
            layers: layers.len(),
            batches: self.batches,
            samples: self.samples,
            drift,
        };
        Ok((statistics, report))
    }
}

/// The distance of statistics, in standard deviations: see [`BatchNormReport::drift`].
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
