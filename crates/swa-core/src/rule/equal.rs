//! SWA's rule.

use super::AveragingRule;

/// Equal weights: `w(n) = 1 / (n + 1)`, so that the average is the arithmetic mean of everything
/// collected. This is SWA.
///
/// Source: Izmailov et al. 2018, *Averaging Weights Leads to Wider Optima and Better
/// Generalization*, Algorithm 1; `torch.optim.swa_utils.get_swa_avg_fn`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EqualWeights;

impl AveragingRule for EqualWeights {
    fn weight(&self, updates: usize) -> f64 {
        1.0 / (updates + 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::average;
    use super::*;

    #[test]
    fn equal_weights_give_the_arithmetic_mean() {
        // (3 + 5 + 10 + 2) / 4
        assert!((average(EqualWeights, &[3.0, 5.0, 10.0, 2.0]) - 5.0).abs() < 1e-15);
    }
}
