//! Temperature scaling.

use super::Logits;
use super::predictions::softmax;

/// The largest temperature that is looked at; the smallest is 1 over it.
const LARGEST: f64 = 100.0;

/// The number of times that the bracket is halved: its logarithm is then known to 1e-14.
const HALVINGS: usize = 50;

impl Logits {
    /// The temperature `T` in `[0.01, 100]` at which the negative log-likelihood of the labels is least:
    ///
    /// ```text
    /// nll(T) = mean_i ln(sum_c exp(z[i, c] / T)) - z[i, y[i]] / T
    /// ```
    ///
    /// This is the baseline that calibrates a single network (Guo et al. 2017, *On Calibration of Modern Neural Networks*,
    /// sec. 4.2). Take it from held-out data, neither those of the training nor those of the test, and then
    /// [divide](Logits::with_temperature) the test's logits by it. The accuracy stays.
    ///
    /// The negative log-likelihood is convex in `1/T`, so that it has one minimum. It is found by bisection over `ln T`, by the
    /// sign of the derivative, to a relative 1e-13, in 50 passes over the logits at most. If the minimum is not in the bracket, the
    /// result is the end that is nearest: 100 if predictions are no better than chance, and 0.01 if all items are predicted
    /// rightly, or a temperature above it at which the derivative is 0 in f64.
    pub fn temperature(&self) -> f64 {
        let mut high = LARGEST.ln();
        let mut low = -high;
        let mut row = Vec::with_capacity(self.classes());
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            let slope = self.slope((-middle).exp(), &mut row);
            if slope > 0.0 {
                // Less confidence is better.
                low = middle;
            } else if slope < 0.0 {
                high = middle;
            } else {
                return middle.exp();
            }
        }
        ((low + high) / 2.0).exp()
    }

    /// The derivative of the negative log-likelihood by the inverse temperature: the sum over items of the expected logit
    /// less the label's.
    fn slope(&self, inverse_temperature: f64, row: &mut Vec<f64>) -> f64 {
        let slopes = self.rows().map(|(logits, label)| {
            row.clear();
            row.extend_from_slice(logits);
            softmax(row, inverse_temperature);
            let parts = row.iter().zip(logits);
            parts.map(|(p, z)| p * (z - logits[label])).sum::<f64>()
        });
        slopes.sum()
    }
}
