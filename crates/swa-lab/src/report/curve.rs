//! A value over epochs, with its spread over seeds.

use std::collections::BTreeMap;

use super::results::FinishedRun;
use crate::experiment::record::EvaluationRecord;

/// The values of runs with different seeds at the end of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) epoch: usize,
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The curve of a value. It has a point for each epoch in which any of the runs has the value, over
/// the runs that have it.
pub(crate) fn curve(
    runs: &[&FinishedRun],
    value: impl Fn(&EvaluationRecord) -> Option<f64>,
) -> Vec<Point> {
    let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for evaluation in runs.iter().flat_map(|run| run.epochs.values()) {
        if let Some(value) = value(evaluation) {
            values.entry(evaluation.epoch).or_default().push(value);
        }
    }
    let point = |(epoch, values): (usize, Vec<f64>)| Point {
        epoch,
        mean: values.iter().sum::<f64>() / values.len() as f64,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    };
    values.into_iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{sgd_run, swa_run};

    #[test]
    fn a_point_is_the_seeds_mean_between_their_extremes() {
        let runs = [sgd_run(1, &[10.0, 60.0]), sgd_run(2, &[19.0, 50.0])];
        let runs: Vec<_> = runs.iter().collect();
        let point = |epoch, mean, min, max| Point {
            epoch,
            mean,
            min,
            max,
        };
        assert_eq!(
            curve(&runs, |evaluation| Some(evaluation.live_test_accuracy)),
            [point(1, 14.5, 10.0, 19.0), point(2, 55.0, 50.0, 60.0)]
        );
    }

    #[test]
    fn an_average_has_no_point_before_there_is_one() {
        let run = swa_run(1, &[70.0, 80.0]);
        let points = curve(&[&run], |evaluation| evaluation.swa_test_accuracy);
        let epochs: Vec<_> = points.iter().map(|point| point.epoch).collect();
        assert_eq!(epochs, [3, 4]);
    }
}
