//! The rule of an exponential moving average whose decay warms up.

use super::{AveragingRule, Exponential};
use crate::AverageError;

/// Exponential moving average whose decay rises to its value: after `n` updates it is
/// `min(decay, 1 - (1 + n)^(-2/3))`, and so
///
/// ```text
/// w(n) = max(1 - decay, (1 + n)^(-2/3))
/// ```
///
/// The average covers about the last `(1 + n)^(2/3)` updates until it covers `1 / (1 - decay)` of them, and so leaves the
/// first weights, which know nothing, behind at once. Take it for an average from the first step on; [`Exponential`] where
/// collecting begins with weights that are good already.
///
/// Source: timm's `ModelEmaV3` with `use_warmup=True`, whose `warmup_gamma` is 1 and `warmup_power` 2/3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExponentialWithWarmUp {
    exponential: Exponential,
}

impl ExponentialWithWarmUp {
    /// A moving average that keeps up to `decay` of itself at every update.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidDecay`] unless `decay` is in `[0, 1]`.
    pub fn new(decay: f64) -> Result<Self, AverageError> {
        let exponential = Exponential::new(decay)?;
        Ok(Self { exponential })
    }
}

impl AveragingRule for ExponentialWithWarmUp {
    fn weight(&self, updates: usize) -> f64 {
        let warming_up = (1.0 + updates as f64).powf(-2.0 / 3.0);
        self.exponential.weight(updates).max(warming_up)
    }
}

#[cfg(test)]
mod tests {
    use super::super::average;
    use super::*;

    #[test]
    fn the_decay_rises_as_timms_does() {
        // 8^(-2/3) = 1/4, 27^(-2/3) = 1/9, 1000^(-2/3) = 1/100.
        let rule = ExponentialWithWarmUp::new(0.995).unwrap();
        for (updates, expected) in [(0, 1.0), (7, 0.25), (26, 1.0 / 9.0), (999, 0.01)] {
            let weight = rule.weight(updates);
            assert!((weight - expected).abs() < 1e-15, "{weight} {expected}");
        }
        // 1 - 0.995, from 2828 updates on: 2828^(2/3) = 200.
        assert!(rule.weight(2800) > 0.005);
        assert_eq!(rule.weight(2900), 1.0 - 0.995);
        assert_eq!(rule.weight(usize::MAX), 1.0 - 0.995);
        let never_done = ExponentialWithWarmUp::new(1.0).unwrap();
        assert!(never_done.weight(usize::MAX) > 0.0);
        assert!(ExponentialWithWarmUp::new(1.5).is_err());
    }

    #[test]
    fn the_first_weights_are_left_behind() {
        // 1000 first, then 0 a thousand times.
        let values: Vec<f64> = (0..1000)
            .map(|n| if n == 0 { 1000.0 } else { 0.0 })
            .collect();
        let exponential = average(Exponential::new(0.9999).unwrap(), &values);
        assert!(exponential > 900.0, "{exponential}");
        let warmed_up = average(ExponentialWithWarmUp::new(0.9999).unwrap(), &values);
        assert!(warmed_up < 1e-3, "{warmed_up}");
    }
}
