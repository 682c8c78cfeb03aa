//! The rules that come with the crate, as a configuration.

use std::sync::Arc;

use burn::config::Config;

use super::{AveragingRule, EqualWeights, ExponentialConfig, PowerFunction};
use crate::AverageError;

/// One of this crate's rules, which can be saved and loaded with other settings.
///
/// ```
/// use swa_core::{AveragingRule, RuleConfig};
///
/// let rule = RuleConfig::exponential(0.75).init()?;
/// assert_eq!(rule.weight(8), 0.25);
/// # Ok::<(), swa_core::AverageError>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub enum RuleConfig {
    /// [`EqualWeights`]: SWA.
    EqualWeights,
    /// [`Exponential`](super::Exponential): an exponential moving average.
    Exponential(ExponentialConfig),
    /// [`PowerFunction`]: an average that covers the same part of a run of any length.
    PowerFunction {
        /// The relative width: EDM2 has 0.05 and 0.10.
        width: f64,
    },
}

impl RuleConfig {
    /// An exponential moving average that keeps `decay` of itself at every update. For a warm-up, see [`ExponentialConfig`].
    pub fn exponential(decay: f64) -> Self {
        Self::Exponential(ExponentialConfig::new(decay))
    }

    /// The rule.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidDecay`] and [`AverageError::InvalidRule`].
    pub fn init(&self) -> Result<Arc<dyn AveragingRule>, AverageError> {
        Ok(match self {
            Self::EqualWeights => Arc::new(EqualWeights),
            Self::Exponential(config) => Arc::new(config.init()?),
            Self::PowerFunction { width } => Arc::new(PowerFunction::of_width(*width)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::WarmUp;
    use super::*;

    #[test]
    fn a_rule_is_loaded_as_it_was_saved() {
        let decays = [0.999_749_906_195_274_9, 0.1 + 0.2, 1.0 - 1e-16];
        let rules = decays.map(RuleConfig::exponential).into_iter();
        let warmed_up = ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::timm()));
        let rules = rules.chain([
            RuleConfig::EqualWeights,
            RuleConfig::Exponential(warmed_up.with_min_decay(Some(0.1))),
            RuleConfig::PowerFunction { width: 0.05 },
        ]);
        for config in rules {
            let loaded = RuleConfig::load_binary(config.to_string().as_bytes()).unwrap();
            assert_eq!(loaded, config);
            assert_eq!(config.init().unwrap().config(), Some(config));
        }
    }

    #[test]
    fn a_decay_that_was_saved_without_a_warm_up_is_read() {
        let saved = br#"{"Exponential": {"decay": 0.999}}"#;
        let loaded = RuleConfig::load_binary(saved).unwrap();
        assert_eq!(loaded, RuleConfig::exponential(0.999));
    }

    #[test]
    fn a_configuration_makes_the_rule_it_names() {
        let equal = RuleConfig::EqualWeights.init().unwrap();
        assert_eq!(equal.weight(3), 0.25);
        let power = RuleConfig::PowerFunction { width: 0.1 }.init().unwrap();
        assert_eq!(power.weight(0), 1.0);
        let error = RuleConfig::exponential(1.5).init().unwrap_err();
        assert_eq!(error, AverageError::InvalidDecay { decay: 1.5 });
        assert!(RuleConfig::PowerFunction { width: 0.5 }.init().is_err());
    }
}
