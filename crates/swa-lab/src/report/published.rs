//! The numbers that the paper's authors published, to compare ours with.
//!
//! Izmailov, Podoprikhin, Garipov, Vetrov, Wilson: *Averaging Weights Leads to Wider Optima and
//! Better Generalization*, UAI 2018; the numbers are those in the README of the authors' code.
//! Their VGG16 is the one without BatchNorm (`--model=VGG16`). The number of runs behind a number
//! is not given there.
//!
//! Beside them stand numbers for the same networks and images from the READMEs of two other papers'
//! code: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson: *Loss Surfaces, Mode Connectivity, and Fast
//! Ensembling of DNNs*, NeurIPS 2018; and Maddox, Garipov, Izmailov, Vetrov, Wilson: *A Simple
//! Baseline for Bayesian Uncertainty in Deep Learning*, NeurIPS 2019.

use serde::Serialize;

use super::predictor::Predictor;
use crate::experiment::record::{Method, PredictingModels, RunRecord};
use crate::run::config::EvaluateOn;

/// The images that the paper trains and tests on, of either data set.
const IMAGES: (usize, usize) = (50_000, 10_000);

/// A published test accuracy in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Published {
    pub(crate) mean: f64,
    /// The standard deviation, if one was published.
    pub(crate) deviation: Option<f64>,
}

/// The distance of a mean of ours from a published one.
///
/// In standard deviations it is `(m₁ − m₂) / sqrt(s₁² + s₂²)`. The number of runs behind a
/// published deviation is not known, so there is no standard error to divide by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Distance {
    /// `m₁ − m₂`.
    pub(crate) points: f64,
    /// In standard deviations, if both have one.
    pub(crate) standard_deviations: Option<f64>,
}

impl Published {
    /// Our `mean` and `deviation` less the published mean.
    pub(crate) fn distance(&self, mean: f64, deviation: Option<f64>) -> Distance {
        let points = mean - self.mean;
        Distance {
            points,
            standard_deviations: deviation
                .zip(self.deviation)
                .map(|(ours, published)| points / ours.hypot(published)),
        }
    }
}

/// A row of the published table: a data set, a network, the epochs in a budget, and the mean and
/// deviation of SGD after a budget and of SWA after 1, 1.25 and 1.5 of them.
type Row = (&'static str, &'static str, usize, [(f64, f64); 4]);

#[rustfmt::skip]
const TABLE: [Row; 8] = [
    ("cifar100", "vgg16", 200, [(72.55, 0.10), (73.91, 0.12), (74.17, 0.15), (74.27, 0.25)]),
    ("cifar100", "preresnet-110", 150, [(76.77, 0.38), (78.75, 0.16), (78.91, 0.29), (79.10, 0.21)]),
    ("cifar100", "preresnet-164", 150, [(78.49, 0.36), (79.77, 0.17), (80.18, 0.23), (80.35, 0.16)]),
    ("cifar100", "wrn-28-10", 200, [(80.82, 0.23), (81.46, 0.23), (81.91, 0.27), (82.15, 0.27)]),
    ("cifar10", "vgg16", 200, [(93.25, 0.16), (93.59, 0.16), (93.70, 0.22), (93.64, 0.18)]),
    ("cifar10", "preresnet-110", 150, [(95.03, 0.05), (95.51, 0.10), (95.65, 0.03), (95.82, 0.03)]),
    ("cifar10", "preresnet-164", 150, [(95.28, 0.10), (95.56, 0.11), (95.77, 0.04), (95.83, 0.03)]),
    ("cifar10", "wrn-28-10", 200, [(96.18, 0.11), (96.45, 0.11), (96.64, 0.08), (96.79, 0.05)]),
];

/// The accuracy of FGE after one budget, which is that of [`TABLE`]: a data set, a network, mean and
/// deviation.
#[rustfmt::skip]
const FGE: [(&str, &str, f64, Option<f64>); 5] = [
    ("cifar100", "vgg16", 74.6, Some(0.1)),
    ("cifar100", "preresnet-164", 80.3, Some(0.2)),
    ("cifar100", "wrn-28-10", 82.3, Some(0.2)),
    ("cifar10", "vgg16", 93.64, None),
    ("cifar10", "wrn-28-10", 96.42, None),
];

/// The NLLs in SWAG's paper, section 5: a data set, a network, and the NLLs of [`NLL_COLUMNS`].
#[rustfmt::skip]
const NLL: [(&str, &str, [f64; 4]); 6] = [
    ("cifar100", "vgg16", [1.73, 1.28, 0.95, 1.02]),
    ("cifar100", "preresnet-164", [0.95, 0.74, 0.71, 0.68]),
    ("cifar100", "wrn-28-10", [0.80, 0.67, 0.60, 0.62]),
    ("cifar10", "vgg16", [0.33, 0.26, 0.20, 0.22]),
    ("cifar10", "preresnet-164", [0.18, 0.15, 0.12, 0.13]),
    ("cifar10", "wrn-28-10", [0.13, 0.11, 0.11, 0.11]),
];

/// The predictors of which SWAG's paper has the NLL.
const NLL_COLUMNS: [(Method, PredictingModels); 4] = [
    (Method::Sgd, PredictingModels::Live),
    (Method::Swa, PredictingModels::Averaged),
    (Method::Swag, PredictingModels::Samples),
    (Method::Swag, PredictingModels::DiagonalSamples),
];

/// The epochs of the runs that the NLLs are of, whatever the network: more than a budget here.
pub(crate) const NLL_EPOCHS: usize = 300;

/// The published accuracy of FGE after one budget, for a run's experiment.
pub(crate) fn fge(run: &RunRecord) -> Option<Published> {
    of(run).ok()?;
    let mut rows = FGE.iter();
    let (.., mean, deviation) = rows.find(|row| (row.0, row.1) == (&run.data_set, &run.model))?;
    Some(Published {
        mean: *mean,
        deviation: *deviation,
    })
}

/// The published NLL of a predictor, for the network and the images of a run's experiment, after
/// [`NLL_EPOCHS`].
pub(crate) fn nll(run: &RunRecord, predictor: &Predictor) -> Option<f64> {
    of(run).ok()?;
    let mut rows = NLL.iter();
    let (.., nlls) = rows.find(|row| (row.0, row.1) == (&run.data_set, &run.model))?;
    let predicts = (predictor.method, predictor.models);
    let column = NLL_COLUMNS.iter().position(|column| *column == predicts)?;
    if predictor.tempered {
        None
    } else {
        Some(nlls[column])
    }
}

/// The published numbers for a run's experiment: SGD, and SWA after 1, 1.25 and 1.5 budgets.
///
/// # Errors
///
/// The reason, if there are none.
pub(crate) fn of(run: &RunRecord) -> Result<[Published; 4], String> {
    let rows = || TABLE.iter().filter(|row| row.0 == run.data_set);
    if rows().next().is_none() {
        return Err(format!("nothing was published for {}", run.data_set));
    }
    let Some((_, _, budget, numbers)) = rows().find(|row| row.1 == run.model) else {
        return Err(match run.model.as_str() {
            "vgg16-bn" => "the published VGG16 has no BatchNorm".to_owned(),
            model => format!("the published table has no {model}"),
        });
    };
    let mut differs = Vec::new();
    if run.width_divisor != 1 {
        differs.push(format!("widths divided by {}", run.width_divisor));
    }
    let mut differ = |what: &str, ours: usize, paper: usize| {
        if ours != paper {
            differs.push(format!("{ours} {what} instead of {paper}"));
        }
    };
    differ("training images", run.train_images, IMAGES.0);
    if run.evaluate_on == EvaluateOn::Test {
        differ("test images", run.test_images, IMAGES.1);
    }
    differ("epochs in a budget", run.budget, *budget);
    if run.evaluate_on == EvaluateOn::Validation {
        differs.push("scores on images held out of the training images".to_owned());
    }
    if differs.is_empty() {
        Ok(numbers.map(|(mean, deviation)| Published {
            mean,
            deviation: Some(deviation),
        }))
    } else {
        Err(format!(
            "not the paper's experiment: {}",
            differs.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::run_record;
    use crate::report::predictor::PREDICTORS;

    fn papers_run(data_set: &str, model: &str, budget: usize) -> RunRecord {
        RunRecord {
            data_set: data_set.to_owned(),
            model: model.to_owned(),
            width_divisor: 1,
            budget,
            train_images: 50_000,
            test_images: 10_000,
            evaluate_on: crate::run::config::EvaluateOn::Test,
            ..run_record("any")
        }
    }

    #[test]
    fn the_papers_own_experiment_is_held_against_its_row() {
        let published = of(&papers_run("cifar100", "preresnet-164", 150)).unwrap();
        let means = published.map(|accuracy| accuracy.mean);
        assert_eq!(means, [78.49, 79.77, 80.18, 80.35]);
        assert_eq!(published[1].deviation, Some(0.17));
    }

    #[test]
    fn fge_and_nlls_are_those_of_the_readmes() {
        let run = papers_run("cifar100", "preresnet-164", 150);
        let published = |mean, deviation| Some(Published { mean, deviation });
        assert_eq!(fge(&run), published(80.3, Some(0.2)));
        let nlls = |run: &RunRecord| {
            let nlls = PREDICTORS.iter().map(|predictor| nll(run, predictor));
            nlls.collect::<Vec<_>>()
        };
        let [sgd, swa, swag, diagonal] = [0.95, 0.74, 0.71, 0.68].map(Some);
        let expected = [sgd, None, None, swa, None, None, swag, diagonal];
        assert_eq!(nlls(&run), expected);

        let run = papers_run("cifar10", "vgg16", 200);
        assert_eq!(fge(&run), published(93.64, None));
        assert_eq!(fge(&papers_run("cifar10", "preresnet-164", 150)), None);
        let shorter = papers_run("cifar10", "vgg16", 150);
        assert_eq!(fge(&shorter), None);
        assert_eq!(nlls(&shorter), [None; 8]);
    }

    #[test]
    fn the_columns_of_the_readmes_have_their_sums() {
        let runs = ["cifar100", "cifar10"].into_iter().flat_map(|set| {
            let networks = [("vgg16", 200), ("preresnet-164", 150), ("wrn-28-10", 200)];
            networks.map(|(network, budget)| papers_run(set, network, budget))
        });
        let runs: Vec<_> = runs.collect();
        // SGD, SWA, SWAG and SWAG with the diagonal alone: 1.73 + 0.95 + 0.80 + 0.33 + 0.18 + 0.13 = 4.12.
        let sums = [0, 3, 6, 7].map(|predictor: usize| {
            let nlls = runs.iter().map(|run| nll(run, &PREDICTORS[predictor]));
            nlls.map(Option::unwrap).sum::<f64>()
        });
        for (sum, expected) in sums.into_iter().zip([4.12, 3.21, 2.69, 2.78]) {
            assert!((sum - expected).abs() < 1e-9, "{sum} instead of {expected}");
        }
        // 74.6 + 80.3 + 82.3 + 93.64 + 96.42, and 0.1 + 0.2 + 0.2.
        let found: Vec<_> = runs.iter().filter_map(fge).collect();
        let means: f64 = found.iter().map(|fge| fge.mean).sum();
        assert!((means - 427.26).abs() < 1e-9, "{means}");
        let deviations: f64 = found.iter().filter_map(|fge| fge.deviation).sum();
        assert!((deviations - 0.5).abs() < 1e-9, "{deviations}");
    }

    #[test]
    fn another_experiment_is_held_against_nothing_and_says_why() {
        let reason = |run: RunRecord| of(&run).unwrap_err();
        let paper = papers_run("cifar10", "vgg16", 200);
        let small = RunRecord {
            width_divisor: 4,
            train_images: 5000,
            budget: 25,
            ..paper.clone()
        };
        assert_eq!(
            reason(small),
            "not the paper's experiment: widths divided by 4, 5000 training images instead of 50000, \
             25 epochs in a budget instead of 200"
        );
        let normalised = papers_run("cifar10", "vgg16-bn", 200);
        assert!(reason(normalised).contains("no BatchNorm"));
        let shallow = papers_run("cifar10", "preresnet-20", 150);
        assert_eq!(reason(shallow), "the published table has no preresnet-20");
        let synthetic = papers_run("synthetic", "vgg16", 200);
        assert_eq!(reason(synthetic), "nothing was published for synthetic");
    }

    #[test]
    fn a_distance_is_measured_by_the_deviations_of_both() {
        // sqrt(0.3² + 0.4²) = 0.5, and 1 / 0.5 = 2.
        let published = Published {
            mean: 73.0,
            deviation: Some(0.4),
        };
        let distance = published.distance(74.0, Some(0.3));
        assert_eq!(distance.points, 1.0);
        assert!((distance.standard_deviations.unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(published.distance(74.0, None).standard_deviations, None);
        let unknown = Published {
            deviation: None,
            ..published
        };
        let distance = unknown.distance(74.0, Some(0.3));
        assert_eq!((distance.points, distance.standard_deviations), (1.0, None));
    }
}
