//! The wording of numbers, the same in the text table and on the page.

/// Such as `72.55 ± 0.10`, without the deviation if there is none.
pub(crate) fn spread(mean: f64, deviation: Option<f64>, decimals: usize) -> String {
    match deviation {
        Some(deviation) => format!("{mean:.decimals$} ± {deviation:.decimals$}"),
        None => format!("{mean:.decimals$}"),
    }
}

/// Such as `+1.36, 15.1 s.e.`: a difference in points, and in a unit of spread if it is known in that.
pub(crate) fn difference(points: f64, in_units: Option<f64>, unit: &str) -> String {
    let points = signed(points, 2);
    match in_units {
        Some(units) => format!("{points}, {:.1} {unit}", units.abs()),
        None => points,
    }
}

/// The verdict on a difference: `better`, `worse`, `within the noise`, or `spread not known`.
pub(crate) fn verdict(points: f64, beyond_noise: Option<bool>) -> &'static str {
    match beyond_noise {
        None => "spread not known",
        Some(false) => "within the noise",
        Some(true) if points > 0.0 => "better",
        Some(true) => "worse",
    }
}

/// A number with its sign, and without one if it is rounded to zero.
pub(crate) fn signed(number: f64, decimals: usize) -> String {
    let digits = format!("{:.decimals$}", number.abs());
    let zero = digits.chars().all(|digit| matches!(digit, '0' | '.'));
    let sign = if zero {
        ""
    } else if number > 0.0 {
        "+"
    } else {
        "−"
    };
    format!("{sign}{digits}")
}

/// A whole number with a space between thousands, as in `50 000`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    if digits.len() <= 4 {
        return digits;
    }
    let thousands = digits.as_bytes().rchunks(3).rev();
    let thousands: Vec<_> = thousands.map(String::from_utf8_lossy).collect();
    thousands.join("\u{a0}")
}

/// Such as `1.25`, or `4–5` if the greatest of some numbers is not the least.
pub(crate) fn span(least: f64, most: f64) -> String {
    let [least, most] = [least, most].map(|number| {
        let digits = format!("{number:.2}");
        digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    });
    if least == most {
        least
    } else {
        format!("{least}–{most}")
    }
}

/// Such as `1, 2, 3`.
pub(crate) fn listed(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_span_is_one_number_if_its_ends_are_written_alike() {
        assert_eq!(span(30.0, 30.0), "30");
        assert_eq!(span(1.249, 1.251), "1.25");
        assert_eq!(span(4.0, 5.5), "4–5.5");
    }

    #[test]
    fn a_difference_is_written_with_its_errors_and_what_they_say() {
        assert_eq!(
            (
                difference(-1.36, Some(-15.08), "s.e.").as_str(),
                verdict(-1.36, Some(true))
            ),
            ("−1.36, 15.1 s.e.", "worse")
        );
        assert_eq!(
            (difference(0.4, None, "s.e.").as_str(), verdict(0.4, None)),
            ("+0.40", "spread not known")
        );
    }
}
