//! The rules that come with the crate, as a configuration.

use std::sync::Arc;

use burn::config::Config;

use super::{AveragingRule, EqualWeights, Exponential, ExponentialWithWarmUp};
use crate::AverageError;

/// One of this crate's rules, which can be saved and loaded with other settings.
///
/// ```
/// use swa_core::{AveragingRule, RuleConfig};
///
/// let rule = RuleConfig::Exponential { decay: 0.75 }.init()?;
/// assert_eq!(rule.weight(8), 0.25);
/// # Ok::<(), swa_core::AverageError>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub enum RuleConfig {
    /// [`EqualWeights`]: SWA.
    EqualWeights,
    /// [`Exponential`]: an exponential moving average.
    Exponential {
        /// The part of the average that every update keeps, in `[0, 1]`.
        decay: f64,
    },
    /// [`ExponentialWithWarmUp`]: the same, with a decay that rises to its value.
    ExponentialWithWarmUp {
        /// The part of the average that every update keeps in the end, in `[0, 1]`.
        decay: f64,
    },
}

impl RuleConfig {
    /// The rule.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidDecay`].
    pub fn init(&self) -> Result<Arc<dyn AveragingRule>, AverageError> {
        Ok(match *self {
            Self::EqualWeights => Arc::new(EqualWeights),
            Self::Exponential { decay } => Arc::new(Exponential::new(decay)?),
            Self::ExponentialWithWarmUp { decay } => Arc::new(ExponentialWithWarmUp::new(decay)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decay_is_loaded_as_it_was_saved() {
        for decay in [0.999_749_906_195_274_9, 0.1 + 0.2, 1.0 - 1e-16] {
            let config = RuleConfig::Exponential { decay };
            let loaded = RuleConfig::load_binary(config.to_string().as_bytes()).unwrap();
            assert_eq!(loaded, config);
        }
    }

    #[test]
    fn a_configuration_makes_the_rule_it_names() {
        let equal = RuleConfig::EqualWeights.init().unwrap();
        assert_eq!(equal.weight(3), 0.25);
        let warmed_up = RuleConfig::ExponentialWithWarmUp { decay: 0.5 }.init();
        assert_eq!(warmed_up.unwrap().weight(7), 0.5);
        let error = RuleConfig::Exponential { decay: 1.5 }.init().unwrap_err();
        assert_eq!(error, AverageError::InvalidDecay { decay: 1.5 });
    }
}
