//! Statistics of many batches from those of each.

use super::layers::{Layers, Statistics, read};
use super::{BatchNormError, BatchNormReport, Pooling};

/// Statistics pooled over batches, by the update of Chan et al. 1983, *Algorithms for Computing the
/// Sample Variance*: exact in whatever order and however large the mean.
pub(super) struct Pooled {
    pooling: Pooling,
    pub(super) batches: usize,
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

    pub(super) fn add(&mut self, samples: usize, batch: Statistics) {
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
    pub(super) fn moved(&self) -> Result<Option<f64>, BatchNormError> {
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

    pub(super) fn finish(
        self,
        layers: &Layers,
    ) -> Result<(Statistics, BatchNormReport), BatchNormError> {
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
            layers: layers.len(),
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
