//! The coefficients of averages. They are kept apart from the files that they are applied to, and their sum is 1.

/// The decay of a learning rate, from 1 to 0, that a mean of `n` checkpoints collected at a constant rate stands for.
///
/// The difference between two checkpoints counts as much as the decayed rate would have left of it:
///
/// ```text
/// average = checkpoint(0) + the sum over k = 1 .. n - 1 of f(k / n) x (checkpoint(k) - checkpoint(k - 1))
/// ```
///
/// From WSM (Tian et al. 2025, *WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging for LLM Pre-training*), with the
/// coefficients of Megatron-LM's `weighted_merge.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// `f(x) = 1 - x`. Its coefficients are all the same.
    Linear,
    /// `f(x) = 1 - √x`. Early checkpoints count more.
    MinusSqrt,
}

impl Decay {
    /// The coefficients of `count` checkpoints, from the first to the last. Their sum is 1.
    pub fn coefficients(self, count: usize) -> Vec<f64> {
        let left = |k: usize| {
            let x = k as f64 / count as f64;
            match self {
                Self::Linear => 1.0 - x,
                Self::MinusSqrt => 1.0 - x.sqrt(),
            }
        };
        let others = (1..count).map(|k| {
            if k + 1 < count {
                left(k) - left(k + 1)
            } else {
                left(k)
            }
        });
        let others: Vec<f64> = others.collect();
        let first = 1.0 - others.iter().sum::<f64>();
        std::iter::once(first).chain(others).take(count).collect()
    }
}

/// `1 / count`, `count` times.
pub(super) fn uniform(count: usize) -> Vec<f64> {
    vec![1.0 / count as f64; count]
}

/// The weights by their sum, if that is a number other than 0.
pub(super) fn weighted(weights: &[f64]) -> Option<Vec<f64>> {
    let sum: f64 = weights.iter().sum();
    let coefficients: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    if sum.is_finite() && coefficients.iter().all(|it| it.is_finite()) {
        Some(coefficients)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_of_a_decay_are_those_worked_out_by_hand() {
        // d = 1, 1 - √(1/4), 1 - √(2/4), 1 - √(3/4).
        let [second, third] = [(0.5_f64).sqrt() - 0.5, (0.75_f64).sqrt() - (0.5_f64).sqrt()];
        let last = 1.0 - (0.75_f64).sqrt();
        let expected = [1.0 - second - third - last, second, third, last];
        let found = Decay::MinusSqrt.coefficients(4);
        assert_eq!(found.len(), 4);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found}, {expected}");
        }
        assert_eq!(found[0], 0.5);
        assert_eq!(Decay::Linear.coefficients(4), [0.25; 4]);
    }

    #[test]
    fn one_checkpoint_has_the_coefficient_1_under_any_decay() {
        for decay in [Decay::Linear, Decay::MinusSqrt] {
            assert_eq!(decay.coefficients(1), [1.0]);
        }
        assert_eq!(uniform(1), [1.0]);
    }

    #[test]
    fn weights_without_a_mean_have_no_coefficients() {
        assert_eq!(weighted(&[1.0, 3.0]), Some(vec![0.25, 0.75]));
        assert_eq!(weighted(&[2.0, -1.0]), Some(vec![2.0, -1.0]));
        for weights in [
            [0.0, 0.0],
            [1.0, -1.0],
            [f64::NAN, 1.0],
            [f64::MAX, f64::MAX],
        ] {
            assert_eq!(weighted(&weights), None, "{weights:?}");
        }
        assert_eq!(weighted(&[f64::INFINITY, 1.0]), None);
    }
}
