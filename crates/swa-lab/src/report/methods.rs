//! The table of methods: the scores of what each predicts at the end of its training, and the price.

use serde::Serialize;

use super::comparison::Comparison;
use super::predictor::{PREDICTORS, Predictor};
use super::published;
use super::results::FinishedRun;
use super::statistics::Sample;
use crate::experiment::record::{Method, PredictingModels, PredictionsRecord, ScoresRecord};

/// The predictors of a network on a data set, side by side.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Methods<'a> {
    pub(crate) rows: Vec<MethodRow<'a>>,
}

/// A predictor.
#[derive(Debug, Serialize)]
pub(crate) struct MethodRow<'a> {
    #[serde(skip)]
    pub(crate) predictor: &'static Predictor,
    /// Its predictions, of as many runs as have them.
    #[serde(skip)]
    pub(crate) predictions: Vec<&'a PredictionsRecord>,
    /// The finished runs of its method.
    #[serde(skip)]
    pub(crate) runs: usize,
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) models: PredictingModels,
    /// The seeds of the runs that have its predictions.
    pub(crate) seeds: Vec<u64>,
    /// The budgets that these runs were trained for.
    pub(crate) budgets: Option<Span>,
    /// The networks whose probabilities are averaged to predict.
    pub(crate) networks: Option<Span>,
    /// The temperature, for a predictor with one.
    pub(crate) temperature: Option<Sample>,
    #[serde(flatten)]
    pub(crate) scores: Scores,
    /// The NLL that SWAG's authors published.
    pub(crate) published_nll: Option<f64>,
}

/// The least and the greatest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Span {
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// The scores over seeds.
#[derive(Debug, Serialize)]
pub(crate) struct Scores {
    pub(crate) accuracy: Option<Score>,
    pub(crate) nll: Option<Score>,
    pub(crate) brier: Option<Score>,
    pub(crate) ece: Option<Score>,
}

/// A score over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Score {
    #[serde(flatten)]
    pub(crate) sample: Sample,
    /// True if no other predictor's mean is better, rounded as it is shown.
    pub(crate) best: bool,
}

/// A column of scores.
#[derive(Debug)]
pub(crate) struct ScoreColumn {
    pub(crate) heading: &'static str,
    /// The decimals that are shown.
    pub(crate) decimals: usize,
    higher_is_better: bool,
}

/// The columns, in the order of [`Scores::all`].
#[rustfmt::skip]
pub(crate) const SCORES: [ScoreColumn; 4] = [
    ScoreColumn { heading: "accuracy (%)", decimals: 2, higher_is_better: true },
    ScoreColumn { heading: "NLL (nats)", decimals: 3, higher_is_better: false },
    ScoreColumn { heading: "Brier", decimals: 3, higher_is_better: false },
    ScoreColumn { heading: "ECE", decimals: 3, higher_is_better: false },
];

impl<'a> Methods<'a> {
    /// The predictors of a comparison, if it has more than SGD's and SWA's accuracies to show: another
    /// method, or predictions.
    pub(crate) fn of(comparison: &Comparison<'a>) -> Option<Self> {
        let others = |run: &FinishedRun| {
            let usual = matches!(run.record.method, Method::Sgd | Method::Swa);
            !usual || !run.predictions.is_empty()
        };
        if !comparison.runs().any(others) {
            return None;
        }
        let rows = PREDICTORS.iter();
        let rows = rows.filter_map(|predictor| MethodRow::of(predictor, comparison));
        let mut rows: Vec<_> = rows.collect();
        mark_best(&mut rows);
        Some(Self { rows })
    }

    /// Tells whether there are published numbers beside ours.
    pub(crate) fn has_published(&self) -> bool {
        self.rows.iter().any(|row| row.published_nll.is_some())
    }
}

impl<'a> MethodRow<'a> {
    /// The row of a predictor, if there are runs of its method. A temperature is fitted only on images that
    /// were held out, so that there is a row with one only if there are predictions with one.
    fn of(predictor: &'static Predictor, comparison: &Comparison<'a>) -> Option<Self> {
        let runs = comparison.of(predictor.method);
        let found = runs.iter().filter_map(|run| {
            let predictions = predictor.of(run)?;
            Some((
                &run.record,
                predictions,
                predictions.members.last()?.ensemble,
            ))
        });
        let found: Vec<_> = found.collect();
        if runs.is_empty() || (predictor.tempered && found.is_empty()) {
            return None;
        }
        let score = |score: fn(&ScoresRecord) -> f64| {
            let scores = found.iter().map(|(.., scores)| score(scores));
            let sample = Sample::of(&scores.collect::<Vec<_>>())?;
            Some(Score {
                sample,
                best: false,
            })
        };
        let budgets = found
            .iter()
            .map(|(run, ..)| run.epochs as f64 / run.budget as f64);
        let networks = found.iter().map(|(_, of, _)| of.members.len() as f64);
        let temperatures = found.iter().filter_map(|(_, of, _)| of.temperature);
        Some(Self {
            predictor,
            runs: runs.len(),
            name: predictor.line.name,
            method: predictor.method,
            models: predictor.models,
            seeds: found.iter().map(|(run, ..)| run.seed).collect(),
            budgets: Span::of(budgets),
            networks: Span::of(networks),
            temperature: Sample::of(&temperatures.collect::<Vec<_>>()),
            scores: Scores {
                accuracy: score(|scores| scores.accuracy),
                nll: score(|scores| scores.nll),
                brier: score(|scores| scores.brier),
                ece: score(|scores| scores.ece),
            },
            published_nll: published::nll(comparison.record(), predictor),
            predictions: found
                .iter()
                .map(|(_, predictions, _)| *predictions)
                .collect(),
        })
    }
}

impl Scores {
    /// The scores, in the order of [`SCORES`].
    pub(crate) fn all(&self) -> [&Option<Score>; 4] {
        [&self.accuracy, &self.nll, &self.brier, &self.ece]
    }

    fn all_mut(&mut self) -> [&mut Option<Score>; 4] {
        [
            &mut self.accuracy,
            &mut self.nll,
            &mut self.brier,
            &mut self.ece,
        ]
    }
}

impl Span {
    fn of(numbers: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        Some(Self {
            least: numbers.clone().reduce(f64::min)?,
            most: numbers.reduce(f64::max)?,
        })
    }
}

/// Marks the best score of each column in which there are some to compare.
fn mark_best(rows: &mut [MethodRow<'_>]) {
    for (index, column) in SCORES.iter().enumerate() {
        let digits = 10f64.powi(column.decimals as i32);
        // Higher is better, and equal is what looks equal.
        let goodness = |score: &Score| {
            let shown = (score.sample.mean * digits).round();
            if column.higher_is_better {
                shown
            } else {
                -shown
            }
        };
        let scores = rows
            .iter()
            .filter_map(|row| row.scores.all()[index].as_ref());
        let scores: Vec<f64> = scores.map(goodness).collect();
        let [_, _, ..] = scores.as_slice() else {
            continue;
        };
        let best = scores.into_iter().fold(f64::NEG_INFINITY, f64::max);
        for row in &mut *rows {
            if let Some(score) = row.scores.all_mut()[index] {
                score.best = goodness(score) == best;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{method_run, predictions, sgd_run, swa_run};

    const MEMBERS: PredictingModels = PredictingModels::Members;

    fn names(methods: &Methods<'_>) -> Vec<&'static str> {
        methods.rows.iter().map(|row| row.name).collect()
    }

    #[test]
    fn sgd_and_swa_without_predictions_have_no_such_table() {
        let runs = [sgd_run(1, &[50.0; 4]), swa_run(1, &[50.0; 4])];
        assert!(Methods::of(&Comparison::all(&runs)[0]).is_none());

        let ema = method_run(Method::Ema, 1, PredictingModels::Averaged, &[]);
        let [sgd, swa] = runs;
        let runs = [sgd, swa, ema];
        let methods = Comparison::all(&runs);
        let methods = Methods::of(&methods[0]).unwrap();
        assert_eq!(names(&methods), ["SGD", "EMA", "SWA"]);
        assert!(methods.rows.iter().all(|row| row.seeds.is_empty()));
    }

    #[test]
    fn a_row_is_the_whole_ensemble_over_seeds() {
        // Accuracies of 62 and 66: mean 64, deviation sqrt((4 + 4) / 1). NLLs of 1.0 and 1.5: 1.25.
        let mut runs = [
            method_run(
                Method::Fge,
                2,
                MEMBERS,
                &[[50.0, 2.0, 0.9, 0.2], [62.0, 1.0, 0.5, 0.02]],
            ),
            method_run(
                Method::Fge,
                1,
                MEMBERS,
                &[
                    [55.0, 2.0, 0.9, 0.2],
                    [57.0, 2.0, 0.9, 0.2],
                    [66.0, 1.5, 0.7, 0.04],
                ],
            ),
        ];
        runs[0].record.epochs = 5;
        let comparisons = Comparison::all(&runs);
        let methods = Methods::of(&comparisons[0]).unwrap();
        let [row] = methods.rows.as_slice() else {
            panic!("{methods:?}");
        };
        assert_eq!((row.name, row.seeds.as_slice()), ("FGE", &[1, 2][..]));
        let means = row.scores.all().map(|score| score.unwrap().sample.mean);
        assert_eq!(means, [64.0, 1.25, 0.6, 0.03]);
        let deviation = row.scores.accuracy.unwrap().sample.deviation.unwrap();
        assert!((deviation - 8f64.sqrt()).abs() < 1e-12);
        let span = |least, most| Some(Span { least, most });
        assert_eq!(row.networks, span(2.0, 3.0));
        // Four and five epochs, in budgets of four.
        assert_eq!(row.budgets, span(1.0, 1.25));
        // The only one is not the best of several.
        assert!(row.scores.all().iter().all(|score| !score.unwrap().best));
    }

    #[test]
    fn a_run_of_swag_gives_the_rows_of_swa_and_of_its_samples() {
        let mut swag = method_run(
            Method::Swag,
            1,
            PredictingModels::Averaged,
            &[[60.0, 1.3, 0.6, 0.1]],
        );
        for (models, accuracy) in [
            (PredictingModels::Samples, 61.0),
            (PredictingModels::DiagonalSamples, 62.0),
        ] {
            let scores = [accuracy, 1.2, 0.5, 0.05];
            swag.predictions
                .push(predictions("swag", models, &[scores]));
        }
        let mut sgd = method_run(
            Method::Sgd,
            1,
            PredictingModels::Live,
            &[[59.0, 1.4, 0.7, 0.2]],
        );
        let tempered = PredictionsRecord {
            temperature: Some(1.5),
            ..predictions("sgd", PredictingModels::Live, &[[59.0, 1.1, 0.7, 0.05]])
        };
        sgd.predictions.push(tempered);
        let runs = [swag, sgd];
        let comparisons = Comparison::all(&runs);
        let methods = Methods::of(&comparisons[0]).unwrap();
        let expected = [
            "SGD",
            "SGD with temperature",
            "SWA",
            "SWAG",
            "SWAG, diagonal",
        ];
        assert_eq!(names(&methods), expected);
        let accuracies = methods.rows.iter().map(|row| row.scores.accuracy.unwrap());
        let accuracies: Vec<f64> = accuracies.map(|score| score.sample.mean).collect();
        assert_eq!(accuracies, [59.0, 59.0, 60.0, 61.0, 62.0]);
        assert_eq!(methods.rows[1].temperature.unwrap().mean, 1.5);
        assert_eq!(methods.rows[0].temperature, None);

        // The highest accuracy, and the lowest of the others; what is equal is equally good.
        let best = |of: fn(&Scores) -> Option<Score>| {
            let rows = methods.rows.iter();
            let rows = rows.map(|row| of(&row.scores).unwrap().best);
            rows.collect::<Vec<_>>()
        };
        let accuracy = best(|scores| scores.accuracy);
        assert_eq!(accuracy, [false, false, false, false, true]);
        let nll = best(|scores| scores.nll);
        assert_eq!(nll, [false, true, false, false, false]);
        let ece = best(|scores| scores.ece);
        assert_eq!(ece, [false, true, false, true, true]);
    }
}
