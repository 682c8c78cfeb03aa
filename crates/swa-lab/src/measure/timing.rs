//! Timing against a baseline that is measured in the same run.

use std::fmt;
use std::time::Instant;

/// Returns the time that `work` takes, in seconds of wall-clock time.
pub fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    let result = work();
    let seconds = began.elapsed().as_secs_f64();
    // Freeing the result is not timed: it may take as long as making it.
    drop(result);
    seconds
}

/// Runs all cases once unmeasured, then each in its turn (first, second, ..., first, second, ...)
/// for so many rounds. Each case returns its measurement. The result holds the measurements of each
/// case.
///
/// If the machine is slower for a while (another process, its clock), then all cases of a round are
/// slower, and their ratios hardly change.
pub fn by_turns<T, const N: usize>(
    rounds: usize,
    mut cases: [&mut dyn FnMut() -> T; N],
) -> [Vec<T>; N] {
    for case in &mut cases {
        case();
    }
    let mut measured = [(); N].map(|()| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (case, measured) in cases.iter_mut().zip(&mut measured) {
            measured.push(case());
        }
    }
    measured
}

/// The median of several measurements and the quartiles on both sides of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// A quarter of the measurements are at most this.
    pub lower: f64,
    /// Half of them are.
    pub median: f64,
    /// Three quarters are.
    pub upper: f64,
}

impl Spread {
    /// The spread of values.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        // Between the two values on both sides of the place, as NumPy's `quantile`.
        let quantile = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            values[below] + (place - place.floor()) * (values[above] - values[below])
        };
        Self {
            lower: quantile(0.25),
            median: quantile(0.5),
            upper: quantile(0.75),
        }
    }

    /// The spread of the ratios of values that were measured in the same round.
    pub fn of_ratios(values: &[f64], to: &[f64]) -> Self {
        Self::of(values.iter().zip(to).map(|(value, to)| value / to))
    }
}

/// `median (lower to upper)`, with the digits that the format asks for.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.median, f)?;
        f.write_str(" (")?;
        fmt::Display::fmt(&self.lower, f)?;
        f.write_str(" to ")?;
        fmt::Display::fmt(&self.upper, f)?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_quartiles() {
        let spread = Spread::of([40.0, 10.0, 30.0, 20.0, 50.0]);
        assert_eq!(format!("{spread:.1}"), "30.0 (20.0 to 40.0)");
        // Half way between 1 and 2, and a quarter of the way.
        let spread = Spread::of([2.0, 1.0]);
        assert_eq!(
            (spread.lower, spread.median, spread.upper),
            (1.25, 1.5, 1.75)
        );
    }

    #[test]
    fn ratios_are_those_of_one_round() {
        // The second round is ten times slower for both.
        let spread = Spread::of_ratios(&[2.0, 20.0], &[1.0, 10.0]);
        assert_eq!((spread.lower, spread.upper), (2.0, 2.0));
    }

    #[test]
    fn cases_take_turns_after_a_round_that_does_not_count() {
        let calls = std::cell::RefCell::new(Vec::new());
        let call = |case: usize| {
            calls.borrow_mut().push(case);
            calls.borrow().len()
        };
        let measured = by_turns(2, [&mut || call(0), &mut || call(1)]);
        assert_eq!(*calls.borrow(), [0, 1, 0, 1, 0, 1]);
        assert_eq!(measured, [vec![3, 5], vec![4, 6]]);
    }
}
