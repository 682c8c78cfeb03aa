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

/// The most rounds that times may take to settle.
const SETTLING_ROUNDS: usize = 10;

/// As [`by_turns`], of times in seconds, but the first round that counts is the first in which no case took less than
/// four fifths of the time of the round before: on an accelerator, kernels are compiled and tuned in the rounds before it. The
/// eleventh counts in any case.
pub fn by_turns_once_settled<const N: usize>(
    rounds: usize,
    mut cases: [&mut dyn FnMut() -> f64; N],
) -> [Vec<f64>; N] {
    let mut round = || -> [f64; N] { std::array::from_fn(|case| cases[case]()) };
    let mut before = round();
    let mut first = round();
    for _ in 1..SETTLING_ROUNDS {
        let faster = first
            .iter()
            .zip(&before)
            .any(|(now, before)| *now < 0.8 * before);
        if !faster {
            break;
        }
        before = first;
        first = round();
    }
    let mut measured = first.map(|time| vec![time]);
    for _ in 1..rounds {
        for (measured, time) in measured.iter_mut().zip(round()) {
            measured.push(time);
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
    fn times_count_once_no_case_gets_faster() {
        let measure = |rounds, [first, second]: [&[f64]; 2]| {
            let (mut first, mut second) = (first.iter(), second.iter());
            let measured = by_turns_once_settled(
                rounds,
                [&mut || *first.next().unwrap(), &mut || {
                    *second.next().unwrap()
                }],
            );
            assert!(first.next().is_none() && second.next().is_none());
            measured
        };
        // The first case settles in the third round, the second in the fourth, from 8 to 6.5.
        let settled = measure(
            2,
            [&[90.0, 5.0, 4.5, 5.0, 4.8], &[10.0, 10.0, 7.9, 6.5, 7.0]],
        );
        assert_eq!(settled, [[5.0, 4.8], [6.5, 7.0]]);
        // Already in the second, however much slower that is.
        assert_eq!(measure(1, [&[1.0, 9.0], &[1.0, 1.0]]), [[9.0], [1.0]]);
        // Never: the eleventh counts.
        let halves: Vec<f64> = (0..11).map(|round| 0.5f64.powi(round)).collect();
        assert_eq!(measure(1, [&halves, &halves]), [[0.5f64.powi(10)]; 2]);
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
