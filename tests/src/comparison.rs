//! The deviation of a computation from PyTorch's.

use std::error::Error;

/// `|ours - theirs| / |theirs|`, both L2 norms. Infinite or NaN if the lengths differ or a value is not finite.
pub fn relative_l2(ours: &[f64], theirs: &[f64]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let difference: f64 = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = theirs.iter().map(|b| b.powi(2)).sum();
    // Both empty or both zero: no difference, not 0 / 0.
    if difference == 0.0 {
        return 0.0;
    }
    (difference / size).sqrt()
}

/// The comparisons of one file, each with its deviation and the largest that is allowed.
#[derive(Debug, Default)]
pub struct Comparisons {
    done: Vec<Comparison>,
}

#[derive(Debug)]
struct Comparison {
    what: String,
    deviation: f64,
    allowed: f64,
}

impl Comparisons {
    /// Notes that `what` differs from PyTorch's by `deviation`, where `allowed` is the most it may.
    pub fn note(&mut self, what: impl Into<String>, deviation: f64, allowed: f64) {
        self.done.push(Comparison {
            what: what.into(),
            deviation,
            allowed,
        });
    }

    /// The largest deviation of every kind of comparison. The kind is the first word of `what`.
    pub fn summary(&self) -> String {
        let mut kinds: Vec<(&str, &Comparison)> = Vec::new();
        for comparison in &self.done {
            let kind = comparison.what.split(' ').next().unwrap_or_default();
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, largest)) if comparison.deviation <= largest.deviation => {}
                Some((_, largest)) => *largest = comparison,
                None => kinds.push((kind, comparison)),
            }
        }
        let parts = kinds.iter().map(|(kind, largest)| {
            format!(
                "{kind} {:.1e} of {:.1e}",
                largest.deviation, largest.allowed
            )
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Returns an error if there was no comparison, or if some are outside their tolerance. It names the first few.
    pub fn finish(&self) -> Result<(), Box<dyn Error>> {
        if self.done.is_empty() {
            return Err("nothing was compared".into());
        }
        let failures: Vec<String> = self
            .done
            .iter()
            .filter(|comparison| !comparison.holds())
            .map(|comparison| {
                let Comparison {
                    what,
                    deviation,
                    allowed,
                } = comparison;
                format!("{what} deviates by {deviation:.2e}, expected at most {allowed:.1e}")
            })
            .collect();
        if failures.is_empty() {
            return Ok(());
        }
        let (count, total) = (failures.len(), self.done.len());
        let named = &failures[..count.min(5)];
        Err(format!("{count} of {total} comparisons: {}", named.join("; ")).into())
    }
}

impl Comparison {
    fn holds(&self) -> bool {
        // False for NaN.
        self.deviation <= self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_l2_is_the_difference_by_the_reference_in_l2_norms() {
        // |(0, 1)| / |(3, 4)| = 1 / 5.
        assert_eq!(relative_l2(&[3.0, 5.0], &[3.0, 4.0]), 0.2);
        assert_eq!(relative_l2(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn missing_values_and_nan_are_never_within_a_tolerance() {
        for deviation in [
            relative_l2(&[3.0], &[3.0, 4.0]),
            relative_l2(&[f64::NAN], &[1.0]),
        ] {
            let mut comparisons = Comparisons::default();
            comparisons.note("logits", deviation, 1e30);
            assert!(comparisons.finish().is_err());
        }
    }

    #[test]
    fn an_error_names_what_deviates() {
        let mut comparisons = Comparisons::default();
        assert!(comparisons.finish().is_err());

        comparisons.note("logits", 1e-7, 1e-5);
        comparisons.note("gradient of fc.bias", 1e-3, 1e-4);
        let message = comparisons.finish().unwrap_err().to_string();
        assert_eq!(
            message,
            "1 of 2 comparisons: gradient of fc.bias deviates by 1.00e-3, expected at most 1.0e-4"
        );
        assert_eq!(
            comparisons.summary(),
            "logits 1.0e-7 of 1.0e-5, gradient 1.0e-3 of 1.0e-4"
        );
    }
}
