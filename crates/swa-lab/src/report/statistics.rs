//! Means over seeds, their spread, and a test of their differences.

use serde::Serialize;

/// A value over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) mean: f64,
    /// The sample standard deviation, `sqrt(Σ (x − mean)² / (n − 1))`. A single value has none.
    pub(crate) deviation: Option<f64>,
    /// The number of values.
    pub(crate) n: usize,
}

impl Sample {
    /// The sample of `values`, if there are any.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            mean,
            deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
            n,
        })
    }

    /// The squared standard error of the mean, `s² / n`.
    fn squared_error(&self) -> Option<f64> {
        self.deviation.map(|s| s * s / self.n as f64)
    }
}

/// The difference between the means of two samples.
///
/// In standard errors it is `(m₁ − m₂) / sqrt(s₁²/n₁ + s₂²/n₂)`, Welch's t: the question is whether
/// the *means* differ, and a standard error is the standard deviation of a mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// `m₁ − m₂`.
    pub(crate) points: f64,
    /// In standard errors, if both samples have a spread.
    pub(crate) standard_errors: Option<f64>,
    /// True if chance alone would make so large a difference, of either sign, less than once in
    /// twenty times: if it is beyond the 97.5 % point of Student's t at Welch's degrees of freedom.
    pub(crate) beyond_noise: Option<bool>,
}

impl Difference {
    /// `first` less `second`.
    pub(crate) fn between(first: &Sample, second: &Sample) -> Self {
        let points = first.mean - second.mean;
        let errors = first.squared_error().zip(second.squared_error());
        let errors = errors.filter(|(first, second)| first + second > 0.0);
        let test = errors.map(|(a, b)| {
            let freedom =
                (a + b).powi(2) / (a * a / (first.n - 1) as f64 + b * b / (second.n - 1) as f64);
            (points / (a + b).sqrt(), freedom)
        });
        Self {
            points,
            standard_errors: test.map(|(t, _)| t),
            beyond_noise: test.map(|(t, freedom)| t.abs() > critical_t(freedom)),
        }
    }
}

/// The 97.5 % point of Student's t. Degrees of freedom are rounded down, and to ten at most, so the
/// test is a little stricter than it need be.
fn critical_t(freedom: f64) -> f64 {
    // From any table of the distribution.
    const POINTS: [f64; 10] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    ];
    POINTS[(freedom as usize).clamp(1, POINTS.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mean: f64, deviation: f64, n: usize) -> Sample {
        Sample {
            mean,
            deviation: Some(deviation),
            n,
        }
    }

    #[test]
    fn the_deviation_of_three_seeds_divides_by_two() {
        // Deviations from 4: -2, -1, 3; their squares: 4 + 1 + 9 = 14; half of it: 7.
        let sample = Sample::of(&[2.0, 3.0, 7.0]).unwrap();
        assert_eq!((sample.mean, sample.n), (4.0, 3));
        assert!((sample.deviation.unwrap() - 7f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn one_seed_has_no_deviation_and_no_seed_no_mean() {
        let one = Sample::of(&[2.5]).unwrap();
        assert_eq!((one.mean, one.deviation, one.n), (2.5, None, 1));
        assert_eq!(Sample::of(&[]), None);

        let difference = Difference::between(&one, &sample(2.0, 0.1, 3));
        assert_eq!(difference.points, 0.5);
        assert_eq!(difference.standard_errors, None);
        assert_eq!(difference.beyond_noise, None);
    }

    #[test]
    fn a_difference_is_measured_in_standard_errors_of_both_means() {
        // 3²/3 + 4²/4 = 7, and 5 / sqrt(7) = 1.8898.
        let difference = Difference::between(&sample(15.0, 3.0, 3), &sample(10.0, 4.0, 4));
        assert_eq!(difference.points, 5.0);
        assert!((difference.standard_errors.unwrap() - 1.889_822_365).abs() < 1e-9);
        // 7² / (3²/2 + 4²/3) = 49 / 9.8333 = 4.98 degrees of freedom: 2.776 is not reached.
        assert_eq!(difference.beyond_noise, Some(false));
    }

    #[test]
    fn a_difference_is_beyond_the_noise_from_students_t_on() {
        // Equal deviations of 3 and 3 seeds: (2/3)² / (2 · (1/3)²/2) = 4 degrees of freedom, so 2.776
        // standard errors of sqrt(2/3) = 0.8165: 2.2667.
        let other = sample(0.0, 1.0, 3);
        let beyond = |mean| Difference::between(&sample(mean, 1.0, 3), &other).beyond_noise;
        assert_eq!(beyond(2.26), Some(false));
        assert_eq!(beyond(2.27), Some(true));
        assert_eq!(beyond(-2.27), Some(true));
    }

    #[test]
    fn samples_without_a_spread_give_no_measure() {
        let difference = Difference::between(&sample(2.0, 0.0, 3), &sample(1.0, 0.0, 3));
        assert_eq!(difference.standard_errors, None);
    }
}
