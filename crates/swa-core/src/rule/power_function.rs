//! The rule of an average with a power-function profile.

use super::{AveragingRule, RuleConfig};
use crate::AverageError;

/// The largest width, that of equal weights: `1 / sqrt(12)`, the standard deviation of a uniform distribution.
const WIDEST: f64 = 0.288_675_134_594_812_9;

/// Power-function EMA: an average whose profile grows with the run. After `t` updates, update `s` counts in proportion to `s^gamma`:
///
/// ```text
/// w(n) = 1 - (1 - 1/(n + 1))^(gamma + 1)
/// ```
///
/// Its `width` says how much of the run it covers, whatever the run's length: the standard deviation of its profile over the length of
/// the run, `sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))`. EDM2 tries 0.05 and 0.10. At `1/sqrt(12)` = 0.289, `gamma` is 0 and the
/// weights are equal: SWA from the first update on.
///
/// Of snapshots of two such averages, that of any other width can be put together after the training: see
/// [`post_hoc_coefficients`](crate::post_hoc_coefficients).
///
/// ```
/// use swa_core::{AveragingRule, PowerFunction};
///
/// let rule = PowerFunction::of_width(0.05)?;
/// assert!((rule.gamma() - 16.97).abs() < 0.01);
/// assert_eq!(rule.weight(0), 1.0);
/// # Ok::<(), swa_core::AverageError>(())
/// ```
///
/// Source: Karras et al. 2024, *Analyzing and Improving the Training Dynamics of Diffusion Models* (EDM2), section 3 and appendix C;
/// its code's `PowerFunctionEMA`. `n` counts updates, also if they are some steps apart. (ema-pytorch's `KarrasEMA` counts steps all the
/// same, so that its profile is another one then.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerFunction {
    width: f64,
    gamma: f64,
}

impl PowerFunction {
    /// An average of this relative width.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidRule`] unless `width` is from 1e-6 to `1/sqrt(12)`, about 0.2887.
    pub fn of_width(width: f64) -> Result<Self, AverageError> {
        // A width this small would cover less than one update of any run.
        if !(1e-6..=WIDEST).contains(&width) {
            return Err(AverageError::InvalidRule {
                name: "the width of a power-function average",
                expected: "from 1e-6 to 0.2887 (1/sqrt(12), equal weights); EDM2 has 0.05 and 0.10",
                got: width,
            });
        }
        Ok(Self {
            width,
            gamma: gamma_of(width),
        })
    }

    /// The relative width.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// The exponent of the profile, at least 0.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }
}

/// The `gamma` of a width: the largest root of `x^3 + 7 x^2 + (16 - width^-2) x + (12 - width^-2)`.
///
/// From a point to the right of it, Newton's method falls to it, as the cubic is convex there.
fn gamma_of(width: f64) -> f64 {
    let precision = width.powi(-2);
    let (linear, constant) = (16.0 - precision, 12.0 - precision);
    // The cubic is `6 x^2 + 16 x + 12` at `x = 1/width`.
    let mut gamma = 1.0 / width;
    for _ in 0..64 {
        let value = ((gamma + 7.0) * gamma + linear) * gamma + constant;
        let slope = (3.0 * gamma + 14.0) * gamma + linear;
        let next = (gamma - value / slope).max(0.0);
        if next >= gamma {
            break;
        }
        gamma = next;
    }
    gamma
}

impl AveragingRule for PowerFunction {
    fn weight(&self, updates: usize) -> f64 {
        let step_back = -1.0 / (1.0 + updates as f64);
        -((self.gamma + 1.0) * step_back.ln_1p()).exp_m1()
    }

    fn config(&self) -> Option<RuleConfig> {
        Some(RuleConfig::PowerFunction { width: self.width })
    }
}

#[cfg(test)]
mod tests {
    use super::super::average;
    use super::*;

    #[test]
    fn updates_count_by_their_power() {
        // gamma = 0: the mean. For another, the profile of updates 1, 2, 3 is about 1, 2^gamma, 3^gamma.
        let equal = PowerFunction::of_width(WIDEST).unwrap();
        assert!(equal.gamma() < 1e-12, "{}", equal.gamma());
        assert!((average(equal, &[3.0, 5.0, 10.0, 2.0]) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn a_profile_is_as_wide_as_it_was_asked_to_be() {
        for width in [0.01, 0.05, 0.1, 0.25] {
            let rule = PowerFunction::of_width(width).unwrap();
            let steps = 20_000;
            // The weight of each update in the end.
            let mut profile = vec![0.0; steps];
            let mut kept = 1.0;
            for update in (0..steps).rev() {
                let weight = rule.weight(update);
                profile[update] = kept * weight;
                kept *= 1.0 - weight;
            }
            let moment = |power: i32| -> f64 {
                let parts = profile.iter().zip(1..);
                parts
                    .map(|(part, at)| part * (f64::from(at) / steps as f64).powi(power))
                    .sum()
            };
            let measured = (moment(2) - moment(1).powi(2)).sqrt();
            assert!((moment(0) - 1.0).abs() < 1e-9);
            assert!((measured / width - 1.0).abs() < 2e-3, "{width}: {measured}");
        }
    }

    #[test]
    fn a_width_out_of_range_is_refused() {
        for width in [0.0, 9e-7, -0.1, 0.3, f64::NAN, f64::INFINITY] {
            let error = PowerFunction::of_width(width).unwrap_err().to_string();
            let [range, got] = ["from 1e-6 to 0.2887", &format!("not {width}")];
            assert!(error.contains(range) && error.ends_with(got), "{error}");
        }
    }

    #[test]
    fn any_number_of_updates_has_a_weight() {
        for width in [1e-6, 0.05, WIDEST] {
            let rule = PowerFunction::of_width(width).unwrap();
            assert_eq!(rule.weight(0), 1.0);
            for updates in [1, 1000, 1 << 40, usize::MAX] {
                let weight = rule.weight(updates);
                assert!(weight > 0.0 && weight <= 1.0, "{width} {updates}: {weight}");
            }
        }
    }
}
