//! The ways to average files, as a command names them.

use std::str::FromStr;

use swa_store::Decay;

/// The way to average files.
#[derive(Debug, Clone, PartialEq)]
pub enum HowToAverage {
    /// All files alike.
    Uniform,
    /// The last ones by step.
    Last(usize),
    /// The best ones by score.
    Best(usize),
    /// With a weight for each file.
    Weighted(Vec<f64>),
    /// Those from one step to another.
    Window(u64, u64),
    /// Each that improves the score.
    Greedy,
    /// As if the rate had decayed.
    Merged(Decay),
}

impl FromStr for HowToAverage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let how = match name {
            "uniform" if rest.is_empty() => Some(Self::Uniform),
            "greedy" if rest.is_empty() => Some(Self::Greedy),
            "merge-linear" if rest.is_empty() => Some(Self::Merged(Decay::Linear)),
            "merge-sqrt" if rest.is_empty() => Some(Self::Merged(Decay::MinusSqrt)),
            "last" => rest.parse().ok().map(Self::Last),
            "best" => rest.parse().ok().map(Self::Best),
            "weighted" => {
                let weights = rest.split(',').map(|weight| weight.trim().parse());
                weights.collect::<Result<_, _>>().ok().map(Self::Weighted)
            }
            "window" => rest.split_once(':').and_then(|(first, last)| {
                Some(Self::Window(first.parse().ok()?, last.parse().ok()?))
            }),
            _ => None,
        };
        how.ok_or_else(|| {
            "expected uniform, last:K, best:K, weighted:W,W,…, window:A:B, greedy, merge-linear or merge-sqrt"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_average_are_read_and_others_refused() {
        for (text, how) in [
            ("uniform", HowToAverage::Uniform),
            ("last:5", HowToAverage::Last(5)),
            ("best:2", HowToAverage::Best(2)),
            (
                "weighted:1,2.5,-3",
                HowToAverage::Weighted(vec![1.0, 2.5, -3.0]),
            ),
            ("window:100:900", HowToAverage::Window(100, 900)),
            ("greedy", HowToAverage::Greedy),
            ("merge-linear", HowToAverage::Merged(Decay::Linear)),
            ("merge-sqrt", HowToAverage::Merged(Decay::MinusSqrt)),
        ] {
            assert_eq!(text.parse(), Ok(how));
        }
        for text in [
            "",
            "last",
            "last:",
            "last:-1",
            "weighted:",
            "window:1",
            "uniform:2",
            "mean",
        ] {
            assert!(text.parse::<HowToAverage>().is_err(), "{text}");
        }
    }
}
