//! SWA's rule.

use super::{AveragingRule, RuleConfig};

/// Equal weights: `w(n) = 1 / (n + 1)`, so that the average is the arithmetic mean of everything
/// collected. This is SWA.
///
/// Source: Izmailov et al. 2018, *Averaging Weights Leads to Wider Optima and Better
/// Generalization*, Algorithm 1; `torch.optim.swa_utils.get_swa_avg_fn`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EqualWeights;

impl AveragingRule for EqualWeights {
    fn weight(&self, updates: usize) -> f64 {
        1.0 / (1.0 + updates as f64)
    }

    fn config(&self) -> Option<RuleConfig> {
        Some(RuleConfig::EqualWeights)
    }
}

#[cfg(test)]
mod tests {
    use super::super::average;
    use super::*;

    #[test]
    fn any_number_of_updates_has_a_weight() {
        for (updates, expected) in [(1 << 32, 32.0), (usize::MAX - 1, 64.0), (usize::MAX, 64.0)] {
            let weight = EqualWeights.weight(updates);
            assert!(
                (weight * 2.0_f64.powf(expected) - 1.0).abs() < 1e-9,
                "{weight}"
            );
        }
    }

    #[test]
    fn equal_weights_give_the_arithmetic_mean() {
        // (3 + 5 + 10 + 2) / 4
        assert!((average(EqualWeights, &[3.0, 5.0, 10.0, 2.0]) - 5.0).abs() < 1e-15);
    }
}
