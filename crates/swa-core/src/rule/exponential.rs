//! The rule of an exponential moving average.

use burn::config::Config;

use super::{AveragingRule, WarmUp};
use crate::AverageError;

/// The settings of an [exponential moving average](Exponential).
///
/// ```
/// use swa_core::{AveragingRule, ExponentialConfig, WarmUp};
///
/// // timm's `ModelEmaV3(model, decay=0.9999, use_warmup=True)`.
/// let rule = ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::timm())).init()?;
/// assert!((rule.weight(7) - 0.25).abs() < 1e-15);
/// # Ok::<(), swa_core::AverageError>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct ExponentialConfig {
    /// The part of the average that every update keeps, in `[0, 1]`: with a warm-up, the largest. PyTorch's default is 0.999,
    /// timm's 0.9999.
    pub decay: f64,
    /// The way in which the decay rises to its value: by default, it is the same from the second update on.
    pub warm_up: Option<WarmUp>,
    /// The smallest decay during the warm-up, from the second update on: 0 by default, as timm's and diffusers' `min_decay` and
    /// ema-pytorch's `min_value`.
    pub min_decay: Option<f64>,
}

impl ExponentialConfig {
    /// A decay of `2^(-1/updates)`: after this many updates, weights count half as much. Composer's `half_life`, whose `1000ba` with
    /// an `update_interval` of 10 batches are 100 updates.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidRule`] unless `updates` is positive.
    pub fn of_half_life(updates: f64) -> Result<Self, AverageError> {
        positive("the half-life in updates", updates)?;
        Ok(Self::new((-1.0 / updates).exp2()))
    }

    /// A half-life that is always `fraction` of the updates so far: torchtitan's `half_life_fraction`, whose default is 0.05. It suits
    /// runs of any length.
    pub fn of_run_fraction(fraction: f64) -> Self {
        Self::new(1.0).with_warm_up(Some(WarmUp::HalfLife { fraction }))
    }

    /// The rule.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidDecay`] unless the decay is in `[0, 1]`, and [`AverageError::InvalidRule`] for the other settings.
    pub fn init(&self) -> Result<Exponential, AverageError> {
        if !(0.0..=1.0).contains(&self.decay) {
            return Err(AverageError::InvalidDecay { decay: self.decay });
        }
        let settings = self.warm_up.iter().flat_map(WarmUp::settings);
        for (name, value) in settings {
            positive(name, value)?;
        }
        let min_decay = self.min_decay.unwrap_or(0.0);
        if !(0.0..=self.decay).contains(&min_decay) {
            return Err(AverageError::InvalidRule {
                name: "the smallest decay of an exponential average",
                expected: "from 0 to the decay",
                got: min_decay,
            });
        }
        Ok(Exponential {
            config: self.clone(),
        })
    }
}

/// Exponential moving average: `w(0) = 1`, then `w(n) = 1 - decay`, or with a [warm-up](WarmUp),
///
/// ```text
/// w(n) = 1 - min(decay, max(min_decay, warm_up(n)))
/// ```
///
/// The first update copies, so no bias correction is needed. But without a warm-up, those first weights still count `decay^n` after
/// `n` more: 8 % after 25,000 updates at 0.9999, 78 % at 0.99999. Take a warm-up for an average from the first step of a training on,
/// and none where collecting begins with weights that are good already.
///
/// Source: `torch.optim.swa_utils.get_ema_avg_fn`, whose default decay of 0.999 is a good start. Peers' warm-ups are at [`WarmUp`].
#[derive(Debug, Clone, PartialEq)]
pub struct Exponential {
    config: ExponentialConfig,
}

impl Exponential {
    /// A moving average that keeps `decay` of itself at every update. For a warm-up, see [`ExponentialConfig`].
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidDecay`] unless `decay` is in `[0, 1]`.
    pub fn new(decay: f64) -> Result<Self, AverageError> {
        ExponentialConfig::new(decay).init()
    }
}

impl AveragingRule for Exponential {
    fn weight(&self, updates: usize) -> f64 {
        let config = &self.config;
        match &config.warm_up {
            _ if updates == 0 => 1.0,
            None => 1.0 - config.decay,
            Some(warm_up) => {
                let largest = 1.0 - config.min_decay.unwrap_or(0.0);
                let weight = warm_up.weight(updates, config.decay).min(largest);
                weight.max(1.0 - config.decay)
            }
        }
    }

    fn config(&self) -> Option<super::RuleConfig> {
        Some(super::RuleConfig::Exponential(self.config.clone()))
    }
}

fn positive(name: &'static str, value: f64) -> Result<(), AverageError> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(AverageError::InvalidRule {
            name,
            expected: "a positive number",
            got: value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::average;
    use super::*;

    fn warmed_up(decay: f64, warm_up: WarmUp) -> Exponential {
        let config = ExponentialConfig::new(decay).with_warm_up(Some(warm_up));
        config.init().unwrap()
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

    #[test]
    fn the_decay_rises_as_timms_does() {
        // 8^(-2/3) = 1/4, 27^(-2/3) = 1/9, 1000^(-2/3) = 1/100.
        let rule = warmed_up(0.995, WarmUp::timm());
        for (updates, expected) in [(0, 1.0), (7, 0.25), (26, 1.0 / 9.0), (999, 0.01)] {
            let weight = rule.weight(updates);
            assert!((weight - expected).abs() < 1e-15, "{weight} {expected}");
        }
        // 1 - 0.995, from 2828 updates on: 2828^(2/3) = 200.
        assert!(rule.weight(2800) > 0.005);
        assert_eq!(rule.weight(2900), 1.0 - 0.995);
        assert_eq!(rule.weight(usize::MAX), 1.0 - 0.995);
        assert!(warmed_up(1.0, WarmUp::timm()).weight(usize::MAX) > 0.0);
    }

    #[test]
    fn the_first_weights_are_left_behind() {
        // 1000 first, then 0 a thousand times.
        let values: Vec<f64> = (0..1000)
            .map(|n| if n == 0 { 1000.0 } else { 0.0 })
            .collect();
        let exponential = average(Exponential::new(0.9999).unwrap(), &values);
        assert!(exponential > 900.0, "{exponential}");
        let warm = average(warmed_up(0.9999, WarmUp::timm()), &values);
        assert!(warm < 1e-3, "{warm}");
    }

    #[test]
    fn a_half_life_halves_what_was_there() {
        let rule = ExponentialConfig::of_half_life(3.0)
            .unwrap()
            .init()
            .unwrap();
        let halved = average(rule, &[8.0, 0.0, 0.0, 0.0]);
        assert!((halved - 4.0).abs() < 1e-14, "{halved}");
        // 2^(-1/(0.5 * 2)) = 1/2 of what 2^(-1/(0.5 * 1)) = 1/4 left.
        let rule = ExponentialConfig::of_run_fraction(0.5).init().unwrap();
        let halved = average(rule, &[8.0, 0.0, 0.0]);
        assert!((halved - 1.0).abs() < 1e-14, "{halved}");
    }

    #[test]
    fn a_debiased_average_is_a_weighted_mean() {
        // (4 * 0.5 + 1) / (0.5 + 1), and the plain mean for a decay of 1.
        let debiased = average(warmed_up(0.5, WarmUp::Debiased), &[4.0, 1.0]);
        assert!((debiased - 2.0).abs() < 1e-15, "{debiased}");
        let mean = average(warmed_up(1.0, WarmUp::Debiased), &[4.0, 1.0, 1.0]);
        assert!((mean - 2.0).abs() < 1e-15, "{mean}");
        assert_eq!(warmed_up(0.0, WarmUp::Debiased).weight(5), 1.0);
    }

    #[test]
    fn any_number_of_updates_has_a_weight() {
        let warm_ups = [
            WarmUp::timm(),
            WarmUp::NumUpdates,
            WarmUp::Saturating { tau: 2000.0 },
            WarmUp::HalfLife { fraction: 0.05 },
            WarmUp::Debiased,
        ];
        for warm_up in warm_ups {
            for updates in [1, 2, 1000, 1 << 40, usize::MAX] {
                for decay in [0.0, 0.5, 0.9999, 1.0] {
                    let weight = warmed_up(decay, warm_up.clone()).weight(updates);
                    let expected = 1.0 - decay..=1.0;
                    assert!(
                        expected.contains(&weight),
                        "{warm_up} {decay} {updates}: {weight}"
                    );
                }
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let config = ExponentialConfig::new(0.9);
        let power = |gamma, power| WarmUp::Power { gamma, power };
        for (config, named) in [
            (config.clone().with_warm_up(Some(power(0.0, 1.0))), "gamma"),
            (
                config.clone().with_warm_up(Some(power(1.0, f64::NAN))),
                "power",
            ),
            (
                config
                    .clone()
                    .with_warm_up(Some(WarmUp::Saturating { tau: -1.0 })),
                "tau",
            ),
            (ExponentialConfig::of_run_fraction(0.0), "fraction"),
            (config.with_min_decay(Some(0.95)), "smallest decay"),
        ] {
            let error = config.init().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(ExponentialConfig::of_half_life(0.0).is_err());
    }
}
