//! The rule of an exponential moving average.

use super::AveragingRule;
use crate::AverageError;

/// Exponential moving average: `w(0) = 1`, then `w(n) = 1 - decay`.
///
/// The first update copies, so no bias correction is needed. But after `n` more those first weights still count `decay^n`: 8 %
/// after 25,000 updates at 0.9999, 78 % at 0.99999. From the first step of a training on, take
/// [`ExponentialWithWarmUp`](super::ExponentialWithWarmUp).
///
/// Source: `torch.optim.swa_utils.get_ema_avg_fn`. Its default decay, 0.999, is a good start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exponential {
    decay: f64,
}

impl Exponential {
    /// A moving average that keeps `decay` of itself at every update.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidDecay`] unless `decay` is in `[0, 1]`.
    pub fn new(decay: f64) -> Result<Self, AverageError> {
        if (0.0..=1.0).contains(&decay) {
            Ok(Self { decay })
        } else {
            Err(AverageError::InvalidDecay { decay })
        }
    }
}

impl AveragingRule for Exponential {
    fn weight(&self, updates: usize) -> f64 {
        if updates == 0 { 1.0 } else { 1.0 - self.decay }
    }
}

#[cfg(test)]
mod tests {
    use super::super::average;
    use super::*;

    #[test]
    fn exponential_weights_copy_first_and_then_decay() {
        // 8, then 0.75 * 8 + 0.25 * 4 = 7, then 0.75 * 7 + 0.25 * 1 = 5.5
        let rule = Exponential::new(0.75).unwrap();
        assert_eq!(average(rule, &[8.0, 4.0, 1.0]), 5.5);
    }

    #[test]
    fn a_decay_outside_zero_to_one_is_refused() {
        for decay in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let error = Exponential::new(decay).unwrap_err();
            assert!(error.to_string().contains(&decay.to_string()), "{error}");
        }
    }
}
