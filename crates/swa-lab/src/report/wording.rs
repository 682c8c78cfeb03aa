//! The wording of numbers, the same in the text table and on the page.

use super::published::{Distance, Published};
use super::statistics::Sample;
use super::table::Gain;

/// Such as `72.55 ± 0.10`, without the deviation if there is none.
pub(crate) fn sample(sample: &Sample) -> String {
    mean_and_deviation(sample.mean, sample.deviation)
}

/// Such as `72.55 ± 0.10`.
pub(crate) fn published(published: &Published) -> String {
    mean_and_deviation(published.mean, Some(published.deviation))
}

fn mean_and_deviation(mean: f64, deviation: Option<f64>) -> String {
    match deviation {
        Some(deviation) => format!("{mean:.2} ± {deviation:.2}"),
        None => format!("{mean:.2}"),
    }
}

/// Such as `+1.36, 15.1 s.e.`.
pub(crate) fn gain(gain: &Gain) -> String {
    let points = signed(gain.difference.points, 2);
    match gain.difference.standard_errors {
        Some(errors) => format!("{points}, {:.1} s.e.", errors.abs()),
        None => points,
    }
}

/// The verdict on a difference: `better`, `worse`, `within the noise`, or `spread not known`.
pub(crate) fn verdict(gain: &Gain) -> &'static str {
    match gain.difference.beyond_noise {
        None => "spread not known",
        Some(false) => "within the noise",
        Some(true) if gain.difference.points > 0.0 => "better",
        Some(true) => "worse",
    }
}

/// Such as `−0.12, 0.8 s.d.`.
pub(crate) fn distance(distance: &Distance) -> String {
    let points = signed(distance.points, 2);
    match distance.standard_deviations {
        Some(deviations) => format!("{points}, {:.1} s.d.", deviations.abs()),
        None => points,
    }
}

/// A number with its sign, and without one if it is rounded to zero.
pub(crate) fn signed(number: f64, decimals: usize) -> String {
    let digits = format!("{:.decimals$}", number.abs());
    let zero = digits.chars().all(|digit| matches!(digit, '0' | '.'));
    if zero {
        digits
    } else if number > 0.0 {
        format!("+{digits}")
    } else {
        format!("−{digits}")
    }
}

/// A whole number with a space between thousands, as in `50 000`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            grouped.push('\u{a0}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::statistics::Difference;

    #[test]
    fn numbers_have_a_sign_unless_they_round_to_zero() {
        assert_eq!(signed(1.356, 2), "+1.36");
        assert_eq!(signed(-0.125, 1), "−0.1");
        assert_eq!(signed(-0.001, 2), "0.00");
    }

    #[test]
    fn thousands_are_set_apart_from_ten_thousand_on() {
        let written = [999, 4000, 50_000, 1_281_167].map(grouped);
        assert_eq!(
            written,
            ["999", "4000", "50\u{a0}000", "1\u{a0}281\u{a0}167"]
        );
    }

    #[test]
    fn a_difference_is_written_with_its_errors_and_what_they_say() {
        let of = |points, standard_errors, beyond_noise| Gain {
            difference: Difference {
                points,
                standard_errors,
                beyond_noise,
            },
            common_seeds: 3,
            better_seeds: 3,
        };
        let clear = of(-1.36, Some(-15.08), Some(true));
        assert_eq!(
            (gain(&clear).as_str(), verdict(&clear)),
            ("−1.36, 15.1 s.e.", "worse")
        );
        let single = of(0.4, None, None);
        assert_eq!(
            (gain(&single).as_str(), verdict(&single)),
            ("+0.40", "spread not known")
        );
    }
}
