//! Scores of probabilities.

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
    bins: Vec<Bin>,
}

#[derive(Clone, Copy)]
struct Bin {
    lower: f64,
    upper: f64,
    count: usize,
    confidence: f64,
    correct: usize,
}

impl Totals {
    fn new(bins: usize) -> Self {
        let edge = |at: usize| at as f64 / bins as f64;
        let bins = (0..bins).map(|at| Bin {
            lower: edge(at),
            upper: edge(at + 1),
            count: 0,
            confidence: 0.0,
            correct: 0,
        });
        Self {
            nll: 0.0,
            brier: 0.0,
            bins: bins.collect(),
        }
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
        // A mean of probabilities may exceed 1 by a rounding error.
        let at = self.bins.partition_point(|bin| bin.upper < confidence);
        let at = at.min(self.bins.len() - 1);
        let bin = &mut self.bins[at];
        bin.count += 1;
        bin.confidence += confidence;
        bin.correct += usize::from(predicted == label);
    }

    fn scores(self) -> Scores {
        let filled = self.bins.iter().filter(|bin| bin.count > 0);
        let reliability: Vec<_> = filled.map(Bin::mean).collect();
        let items = self.bins.iter().map(|bin| bin.count).sum::<usize>() as f64;
        let correct: usize = self.bins.iter().map(|bin| bin.correct).sum();
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

impl Bin {
    fn mean(&self) -> ReliabilityBin {
        let count = self.count as f64;
        ReliabilityBin {
            lower: self.lower,
            upper: self.upper,
            count: self.count,
            confidence: self.confidence / count,
            accuracy: self.correct as f64 / count,
        }
    }
}
