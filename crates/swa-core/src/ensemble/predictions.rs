//! Logits of a model on labelled items, and probabilities.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use super::PredictionError;
use crate::Loaded;

/// The logits of a model on labelled items, `[items, classes]` in f64 in host memory: `8 * items * (classes + 1)` bytes with
/// the labels.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Distribution, Int, Tensor};
/// use swa_core::Logits;
/// # let device = Default::default();
/// # let model = LinearConfig::new(4, 3).init(&device);
/// # let labels = Tensor::<1, Int>::from_ints([0, 1, 2, 0, 1, 2], &device);
/// # let held_out = [(Tensor::<2>::random([6, 4], Distribution::Default, &device), labels)];
/// # let test = held_out.clone();
/// let logits = |batches: &[(Tensor<2>, Tensor<1, Int>)]| {
///     Logits::of(&model, batches.to_vec(), |model, (input, labels): (Tensor<2>, _)| (model.forward(input), labels))
/// };
/// let temperature = logits(&held_out)?.temperature();
/// let calibrated = logits(&test)?.with_temperature(temperature)?.softmax().scores(15)?;
/// # let plain = logits(&test)?.softmax().scores(15)?;
/// # assert!(calibrated.nll <= plain.nll + 1e-12 && calibrated.accuracy == plain.accuracy);
/// # Ok::<(), swa_core::PredictionError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Logits(Table);

/// The probabilities that a model, or an ensemble of models, gives to classes, with the labels: `[items, classes]` in f64 in
/// host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities(Table);

/// A row of numbers for each item, with its label.
#[derive(Debug, Clone, PartialEq, Default)]
struct Table {
    classes: usize,
    values: Vec<f64>,
    labels: Vec<usize>,
}

impl Table {
    fn rows(&self) -> impl Iterator<Item = (&[f64], usize)> {
        let rows = self.values.chunks_exact(self.classes);
        rows.zip(self.labels.iter().copied())
    }
}

impl Logits {
    /// Passes `batches` through `model` in validation mode, and reads the logits from the device once a batch. `model` itself
    /// does not change.
    ///
    /// `forward` returns logits of shape `[items, classes]`, and labels of shape `[items]` that count from 0. Batches are of any
    /// type, or results of it such as Burn's `DataLoader::iter()` gives (name the batch's type in the closure then). Batches
    /// without items do not count.
    ///
    /// # Errors
    ///
    /// - [`PredictionError::NoItems`]: there is no batch, or none with an item.
    /// - [`PredictionError::LabelCount`], [`PredictionError::BatchClasses`]: a batch's shapes do not fit.
    /// - [`PredictionError::LabelOutOfRange`]: a label names no class.
    /// - [`PredictionError::NotFinite`]: a logit is NaN or infinite.
    /// - [`PredictionError::Batch`]: a batch could not be loaded.
    /// - [`PredictionError::Device`]: the device could not be read.
    pub fn of<M, I, B>(
        model: &M,
        batches: I,
        mut forward: impl FnMut(&M, B) -> (Tensor<2>, Tensor<1, Int>),
    ) -> Result<Self, PredictionError>
    where
        M: Module,
        I: IntoIterator,
        I::Item: Loaded<B>,
    {
        let model = model.valid();
        let mut table = Table::default();
        for (batch, input) in (1..).zip(batches) {
            let input = input.loaded().map_err(PredictionError::Batch)?;
            let (logits, labels) = forward(&model, input);
            let read = |data: Result<TensorData, _>| {
                data.map_err(
                    |error: burn::tensor::ExecutionError| PredictionError::Device {
                        batch,
                        reason: error.to_string(),
                    },
                )
            };
            let shape = logits.dims();
            let logits = read(logits.try_into_data())?;
            let labels = read(labels.try_into_data())?;
            table.add(batch, shape, &logits, &labels)?;
        }
        if table.labels.is_empty() {
            Err(PredictionError::NoItems)
        } else {
            Ok(Self(table))
        }
    }

    /// The softmax of each item's logits, in f64.
    pub fn softmax(self) -> Probabilities {
        let Self(mut table) = self;
        for row in table.values.chunks_exact_mut(table.classes) {
            softmax(row, 1.0);
        }
        Probabilities(table)
    }

    /// The logits, divided by a temperature: above 1 for less confident probabilities, below 1 for more confident ones.
    ///
    /// # Errors
    ///
    /// [`PredictionError::InvalidTemperature`] if the temperature is not a positive finite number, or so small that a logit
    /// overflows.
    pub fn with_temperature(mut self, temperature: f64) -> Result<Self, PredictionError> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(PredictionError::InvalidTemperature { temperature });
        }
        for value in &mut self.0.values {
            *value /= temperature;
            if !value.is_finite() {
                return Err(PredictionError::InvalidTemperature { temperature });
            }
        }
        Ok(self)
    }

    /// The logits, row by row.
    pub fn values(&self) -> &[f64] {
        &self.0.values
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.0.classes
    }

    /// The class of each item.
    pub fn labels(&self) -> &[usize] {
        &self.0.labels
    }

    /// Each item's logits and label.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[f64], usize)> {
        self.0.rows()
    }
}

impl Probabilities {
    /// Moves by `share` of the way to `other`, which has the same items and classes.
    pub(super) fn lerp(&mut self, other: &Self, share: f64) {
        for (mean, value) in self.0.values.iter_mut().zip(&other.0.values) {
            *mean += share * (value - *mean);
        }
    }

    /// The probabilities, row by row.
    pub fn values(&self) -> &[f64] {
        &self.0.values
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.0.classes
    }

    /// The class of each item.
    pub fn labels(&self) -> &[usize] {
        &self.0.labels
    }

    /// Each item's probabilities and label.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[f64], usize)> {
        self.0.rows()
    }
}

impl Table {
    /// Adds the items of a batch, counted from 1.
    fn add(
        &mut self,
        batch: usize,
        [items, classes]: [usize; 2],
        logits: &TensorData,
        labels: &TensorData,
    ) -> Result<(), PredictionError> {
        if labels.num_elements() != items {
            let labels = labels.num_elements();
            return Err(PredictionError::LabelCount {
                batch,
                items,
                labels,
            });
        }
        if items == 0 {
            return Ok(());
        }
        let before = self.labels.len();
        if before == 0 {
            self.classes = classes;
        } else if classes != self.classes {
            return Err(PredictionError::BatchClasses {
                batch,
                expected: self.classes,
                got: classes,
            });
        }
        for (item, label) in (before..).zip(labels.iter::<i64>()) {
            let class = usize::try_from(label).ok().filter(|it| *it < classes);
            self.labels
                .push(class.ok_or(PredictionError::LabelOutOfRange {
                    item,
                    label,
                    classes,
                })?);
        }
        for (at, value) in logits.iter::<f64>().enumerate() {
            if !value.is_finite() {
                let (item, class) = (before + at / classes, at % classes);
                return Err(PredictionError::NotFinite { item, class, value });
            }
            self.values.push(value);
        }
        Ok(())
    }
}

/// Replaces logits by their softmax at an inverse temperature.
pub(super) fn softmax(row: &mut [f64], inverse_temperature: f64) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for value in &mut *row {
        *value = ((*value - largest) * inverse_temperature).exp();
        sum += *value;
    }
    for value in row {
        *value /= sum;
    }
}
