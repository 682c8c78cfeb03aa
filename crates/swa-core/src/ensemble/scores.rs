//! Scores of probabilities.

use std::collections::BTreeMap;

use super::{PredictionError, Probabilities};

/// The scores of probabilities `p[i, c]` for items `i` of classes `y[i]`. The class predicted is the most probable one (the first
/// of several), and its probability is the confidence.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// The part of the items whose class is predicted, in `[0, 1]`.
    pub accuracy: f64,
    /// The negative log-likelihood in nats, `mean_i -ln p[i, y[i]]`. A probability below the smallest normal f64, 2.2e-308, counts
    /// as that, so that it is finite: at most 708.4.
    pub nll: f64,
    /// The Brier score over all classes, `mean_i sum_c (p[i, c] - [c = y[i]])^2`, in `[0, 2]` (Brier 1950, *Verification of
    /// Forecasts Expressed in Terms of Probability*).
    pub brier: f64,
    /// The expected calibration error, `sum_b count_b / items * |confidence_b - accuracy_b|` over the bins of
    /// [`reliability`](Self::reliability), in `[0, 1]` (Guo et al. 2017, *On Calibration of Modern Neural Networks*, eq. 3).
    ///
    /// SWAG's code has bins of equal counts instead, so that its numbers differ.
    pub ece: f64,
    /// The reliability diagram: the bins of the confidence that hold an item, in rising order.
    pub reliability: Vec<ReliabilityBin>,
}

/// The items whose confidence is in `(lower, upper]`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ReliabilityBin {
    /// The lower end, which is outside.
    pub lower: f64,
    /// The upper end, which is inside.
    pub upper: f64,
    /// The number of items, at least 1.
    pub count: usize,
    /// The mean of their confidences.
    pub confidence: f64,
    /// The part of them whose class is predicted.
    pub accuracy: f64,
}

impl Probabilities {
    /// The scores, with `bins` bins of equal width for the calibration error. Sums are in f64.
    ///
    /// # Errors
    ///
    /// [`PredictionError::ZeroBins`] if `bins` is 0.
    pub fn scores(&self, bins: usize) -> Result<Scores, PredictionError> {
        if bins == 0 {
            return Err(PredictionError::ZeroBins);
        }
        let mut totals = Totals::new(bins);
        for (row, label) in self.rows() {
            totals.add(row, label);
        }
        Ok(totals.scores())
    }
}

/// The sums over items.
struct Totals {
    nll: f64,
    brier: f64,
    /// The number of bins, most of which may be empty.
    bins: usize,
    /// Those that hold an item, by their places.
    filled: BTreeMap<usize, Bin>,
}

#[derive(Clone, Copy, Default)]
struct Bin {
    count: usize,
    confidence: f64,
    correct: usize,
}

impl Totals {
    fn new(bins: usize) -> Self {
        Self {
            nll: 0.0,
            brier: 0.0,
            bins,
            filled: BTreeMap::new(),
        }
    }

    /// The lower end of the bin at this place, and the upper end of the one before.
    fn edge(&self, place: usize) -> f64 {
        place as f64 / self.bins as f64
    }

    /// The place of the bin for this confidence: the last one if a mean of probabilities exceeds 1 by a rounding error.
    fn place(&self, confidence: f64) -> usize {
        let (mut first, mut last) = (0, self.bins - 1);
        while first < last {
            let middle = usize::midpoint(first, last);
            if self.edge(middle + 1) < confidence {
                first = middle + 1;
            } else {
                last = middle;
            }
        }
        first
    }

    fn add(&mut self, row: &[f64], label: usize) {
        let first = (0, row[0]);
        let rest = row.iter().copied().enumerate().skip(1);
        let (predicted, confidence) = rest.fold(
            first,
            |best, next| if next.1 > best.1 { next } else { best },
        );
        self.nll -= row[label].max(f64::MIN_POSITIVE).ln();
        for (class, p) in row.iter().enumerate() {
            let target = if class == label { 1.0 } else { 0.0 };
            self.brier += (p - target).powi(2);
        }
        let bin = self.filled.entry(self.place(confidence)).or_default();
        bin.count += 1;
        bin.confidence += confidence;
        bin.correct += usize::from(predicted == label);
    }

    fn scores(self) -> Scores {
        let filled = self.filled.iter();
        let reliability = filled.map(|(place, bin)| ReliabilityBin {
            lower: self.edge(*place),
            upper: self.edge(place + 1),
            count: bin.count,
            confidence: bin.confidence / bin.count as f64,
            accuracy: bin.correct as f64 / bin.count as f64,
        });
        let reliability: Vec<ReliabilityBin> = reliability.collect();
        let items = self.filled.values().map(|bin| bin.count).sum::<usize>() as f64;
        let correct: usize = self.filled.values().map(|bin| bin.correct).sum();
        let gaps = reliability
            .iter()
            .map(|bin| bin.count as f64 * (bin.confidence - bin.accuracy).abs());
        Scores {
            accuracy: correct as f64 / items,
            nll: self.nll / items,
            brier: self.brier / items,
            ece: gaps.sum::<f64>() / items,
            reliability,
        }
    }
}
