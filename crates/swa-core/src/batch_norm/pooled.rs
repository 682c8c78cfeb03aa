//! The statistics of many batches, from those of each.

use std::collections::HashMap;
use std::rc::Rc;

use super::layers::Layers;
use super::statistics::Statistics;
use super::{BatchNormError, BatchNormReport, BatchSize, KeptReason, KeptStatistics, Pooling};

/// Statistics pooled over batches in f64, by the update of Chan et al. 1983, *Algorithms for Computing the Sample Variance*:
/// exact in any order of the batches. Means are taken from the first batch's mean, so that the digits of a mean that is far
/// larger than the spread are lost in no sum.
pub(super) struct Pooled {
    pooling: Pooling,
    batches: usize,
    samples: usize,
    layers: Vec<Layer>,
    /// The reasons why layers keep their statistics, by the layers' places.
    kept: HashMap<usize, KeptReason>,
    /// Earlier states, to tell the drift since then: some tens of them, for any number of batches.
    history: Vec<(usize, Vec<Layer>)>,
    /// A state is kept every `stride` batches.
    stride: usize,
}

/// The statistics of a layer so far.
#[derive(Clone, Default)]
struct Layer {
    /// The sum of the weights of the batches that passed it.
    weight: f64,
    /// The mean of the first batch that passed it. All earlier states share it.
    first: Rc<[f64]>,
    /// The mean, from the first batch's.
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Layer {
    fn add(&mut self, pooling: Pooling, weight: f64, batch: Statistics) {
        if self.weight == 0.0 {
            self.mean = vec![0.0; batch.mean.len()];
            self.variance = batch.variance;
            self.first = batch.mean.into();
            self.weight = weight;
            return;
        }
        self.weight += weight;
        let share = weight / self.weight;
        for channel in 0..self.mean.len() {
            let delta = batch.mean[channel] - self.first[channel] - self.mean[channel];
            let variance = &mut self.variance[channel];
            *variance += (batch.variance[channel] - *variance) * share;
            if pooling == Pooling::Exact {
                *variance += delta * delta * share * (1.0 - share);
            }
            self.mean[channel] += delta * share;
        }
    }

    fn statistics(&self) -> Statistics {
        let mean = self.first.iter().zip(&self.mean);
        Statistics {
            mean: mean.map(|(first, mean)| first + mean).collect(),
            variance: self.variance.clone(),
        }
    }
}

/// The largest number of earlier states that are kept. With so many, one is near nine tenths of the samples.
const HISTORY: usize = 64;

/// The number that Burn's layers add to a variance before they divide by its root, by default. A visitor does not learn of another.
const EPSILON: f64 = 1e-5;

impl Pooled {
    pub(super) fn new(pooling: Pooling, layers: &Layers) -> Self {
        Self {
            pooling,
            batches: 0,
            samples: 0,
            layers: vec![Layer::default(); layers.len()],
            kept: HashMap::new(),
            history: Vec::new(),
            stride: 1,
        }
    }

    /// Adds the statistics of the inputs of each layer in a batch.
    pub(super) fn add(
        &mut self,
        size: &impl BatchSize,
        inputs: Vec<Vec<Statistics>>,
        layers: &Layers,
    ) {
        let all = self.layers.iter_mut().zip(inputs).zip(layers.iter());
        for ((pooled, inputs), layer) in all {
            let weight = match (size.values(&layer.path), self.pooling) {
                (0, _) => continue,
                (values, Pooling::Exact | Pooling::WeightedBySize) => values as f64,
                (_, Pooling::Equal) => 1.0,
            };
            for input in inputs {
                pooled.add(self.pooling, weight, input);
            }
        }
        self.batches += 1;
        self.samples = self.samples.saturating_add(size.samples());
        self.remember();
    }

    /// Forgets all of the layer at `place`, which keeps its statistics for this reason.
    pub(super) fn keep(&mut self, place: usize, reason: KeptReason) {
        let earlier = self.history.iter_mut().map(|(_, layers)| layers);
        for layers in earlier.chain([&mut self.layers]) {
            layers[place] = Layer::default();
        }
        self.kept.insert(place, reason);
    }

    fn remember(&mut self) {
        if self.history.len() == HISTORY {
            let mut keep = false;
            self.history.retain(|_| {
                keep = !keep;
                !keep
            });
            self.stride *= 2;
        }
        if self.batches.is_multiple_of(self.stride) {
            self.history.push((self.samples, self.layers.clone()));
        }
    }

    /// See [`BatchNormReport::drift`].
    fn drift(&self) -> Option<f64> {
        let nine_tenths = self.samples - self.samples.div_ceil(10);
        let mut history = self.history.iter();
        let (_, earlier) = history.rfind(|(samples, _)| *samples <= nine_tenths)?;
        let pairs = earlier.iter().zip(&self.layers);
        let both = pairs.filter(|(earlier, _)| earlier.weight > 0.0);
        let squares = both.flat_map(|(earlier, now)| {
            (0..now.mean.len()).map(|channel| {
                let deviation = |layer: &Layer| (layer.variance[channel] + EPSILON).sqrt();
                let mean = (now.mean[channel] - earlier.mean[channel]) / deviation(now);
                let spread = 1.0 - deviation(earlier) / deviation(now);
                mean * mean + spread * spread
            })
        });
        let (sum, channels) = squares.fold((0.0, 0), |(sum, count), it| (sum + it, count + 1));
        (channels > 0).then(|| (sum / f64::from(2 * channels)).sqrt())
    }

    /// The statistics of each layer, `None` for those that no batch has passed.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::NoBatches`] and [`BatchNormError::NotFinite`].
    pub(super) fn finish(
        self,
        layers: &Layers,
    ) -> Result<(Vec<Option<Statistics>>, BatchNormReport), BatchNormError> {
        if self.batches == 0 {
            return Err(BatchNormError::NoBatches);
        }
        let mut kept = layers.kept.clone();
        let mut all = Vec::with_capacity(layers.len());
        for (place, (pooled, layer)) in self.layers.iter().zip(layers.iter()).enumerate() {
            if pooled.weight == 0.0 {
                let reason = self.kept.get(&place).copied();
                kept.push(KeptStatistics {
                    path: layer.path.clone(),
                    reason: reason.unwrap_or(KeptReason::NotUpdated),
                });
                all.push(None);
                continue;
            }
            let statistics = pooled.statistics();
            let mut values = statistics.mean.iter().chain(&statistics.variance);
            if !values.all(|value| layer.round(*value).is_finite()) {
                return Err(BatchNormError::NotFinite {
                    layer: layer.path.clone(),
                    dtype: layer.dtype,
                });
            }
            all.push(Some(statistics));
        }
        let report = BatchNormReport {
            layers: all.iter().flatten().count(),
            batches: self.batches,
            samples: self.samples,
            drift: self.drift(),
            kept,
        };
        Ok((all, report))
    }
}
