//! Averaging rules: how much the newest weights count.
//!
//! Every average here is the same update,
//!
//! ```text
//! average += w(n) * (current - average)
//! ```
//!
//! and a rule is the function `w` of `n`, the number of updates made before this one.

use core::fmt::Debug;

use crate::AverageError;

/// The weight `w(n)` of the new value in `average += w(n) * (current - average)`.
///
/// A rule is a pure function: two calls with the same `n` give the same weight, which is what lets
/// a resumed run go on as if it had never stopped. An [`Average`](crate::Average) does not ask for
/// `w(0)`: its first update copies, as PyTorch's does.
///
/// # Example: a rule of your own
///
/// A running mean over (about) the last `window` updates:
///
/// ```
/// use swa_core::AveragingRule;
///
/// #[derive(Debug)]
/// struct Recent {
///     window: usize,
/// }
///
/// impl AveragingRule for Recent {
///     fn weight(&self, updates: usize) -> f64 {
///         1.0 / (updates + 1).min(self.window.max(1)) as f64
///     }
/// }
///
/// assert_eq!(Recent { window: 4 }.weight(100), 0.25);
/// ```
pub trait AveragingRule: Debug + Send + Sync {
    /// The weight of the next update, in `[0, 1]`, after `updates` earlier ones, 1 or more.
    fn weight(&self, updates: usize) -> f64;
}

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

/// Exponential moving average: `w(0) = 1`, then `w(n) = 1 - decay`.
///
/// The first update copies, so no bias correction is needed.
///
/// Source: `torch.optim.swa_utils.get_ema_avg_fn`, whose default decay of 0.999 is the one to start
/// from.
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
        match (0.0..=1.0).contains(&decay) {
            true => Ok(Self { decay }),
            false => Err(AverageError::InvalidDecay { decay }),
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
    use super::*;

    /// Applies a rule to scalars, in the formula of the module's first lines.
    fn average(rule: impl AveragingRule, values: &[f64]) -> f64 {
        values
            .iter()
            .enumerate()
            .fold(0.0, |average, (updates, value)| {
                average + rule.weight(updates) * (value - average)
            })
    }

    #[test]
    fn equal_weights_give_the_arithmetic_mean() {
        // (3 + 5 + 10 + 2) / 4
        assert!((average(EqualWeights, &[3.0, 5.0, 10.0, 2.0]) - 5.0).abs() < 1e-15);
    }

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
