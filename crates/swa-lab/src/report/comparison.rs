//! The comparisons of SGD with SWA, all else alike.

use super::results::FinishedRun;
use crate::experiment::record::{Method, RunRecord};

/// The runs of one network on one data set that differ only in their seeds, and in being SGD or
/// SWA.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    pub(crate) sgd: Vec<&'a FinishedRun>,
    pub(crate) swa: Vec<&'a FinishedRun>,
}

impl<'a> Comparison<'a> {
    /// The comparisons among `runs`, data set by data set. Runs of SWA that start at different
    /// epochs, or have different learning rates, are each compared with SGD.
    pub(crate) fn all(runs: &'a [FinishedRun]) -> Vec<Self> {
        let mut comparisons: Vec<Self> = Vec::new();
        let (sgd, swa): (Vec<_>, Vec<_>) = runs
            .iter()
            .partition(|run| run.record.method == Method::Sgd);
        for run in swa {
            let alike = |other: &&mut Self| {
                let other = other.record();
                alike(other, &run.record)
                    && (other.swa_start, other.swa_lr) == (run.record.swa_start, run.record.swa_lr)
            };
            match comparisons.iter_mut().find(alike) {
                Some(comparison) => comparison.swa.push(run),
                None => comparisons.push(Self {
                    sgd: Vec::new(),
                    swa: vec![run],
                }),
            }
        }
        for run in sgd {
            let mut found = false;
            for comparison in &mut comparisons {
                if alike(comparison.record(), &run.record) {
                    comparison.sgd.push(run);
                    found = true;
                }
            }
            if !found {
                comparisons.push(Self {
                    sgd: vec![run],
                    swa: Vec::new(),
                });
            }
        }
        for comparison in &mut comparisons {
            comparison.sgd.sort_by_key(|run| run.record.seed);
            comparison.swa.sort_by_key(|run| run.record.seed);
        }
        // RFC 3339 in UTC sorts as text.
        comparisons.sort_by_cached_key(|comparison| {
            let started = comparison.runs().map(|run| run.record.started.clone());
            (comparison.record().data_set.clone(), started.min())
        });
        comparisons
    }

    /// All its runs.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &'a FinishedRun> {
        self.sgd.iter().chain(&self.swa).copied()
    }

    /// The record of one of its runs, of SWA if there is one.
    pub(crate) fn record(&self) -> &'a RunRecord {
        // A comparison is never made without a run.
        &self.swa.first().unwrap_or_else(|| &self.sgd[0]).record
    }

    /// The network, in words.
    pub(crate) fn network(&self) -> String {
        let run = self.record();
        match run.width_divisor {
            1 => run.model.clone(),
            divisor => format!("{}, widths divided by {divisor}", run.model),
        }
    }

    /// The epoch from which SWA averages, and its learning rate, in words.
    pub(crate) fn averaging(&self) -> Option<String> {
        let run = &self.swa.first()?.record;
        let start = run.swa_start?;
        let rate = run.swa_lr.map(|lr| format!(", at a learning rate of {lr}"));
        Some(format!(
            "averaged from epoch {start} on{}",
            rate.unwrap_or_default()
        ))
    }
}

/// A data set as the paper writes it.
pub(crate) fn data_set_name(data_set: &str) -> &str {
    match data_set {
        "cifar10" => "CIFAR-10",
        "cifar100" => "CIFAR-100",
        other => other,
    }
}

/// Tells whether two runs differ in nothing but seed and method.
fn alike(a: &RunRecord, b: &RunRecord) -> bool {
    a.data_set == b.data_set
        && a.model == b.model
        && a.width_divisor == b.width_divisor
        && a.train_images == b.train_images
        && a.test_images == b.test_images
        && a.evaluate_on == b.evaluate_on
        && a.budget == b.budget
        && a.sgd == b.sgd
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{sgd_run, swa_run};

    fn names<'a>(runs: &[&'a FinishedRun]) -> Vec<&'a str> {
        runs.iter().map(|run| run.record.run.as_str()).collect()
    }

    #[test]
    fn runs_that_differ_in_seed_and_method_alone_are_compared() {
        let runs = [
            sgd_run(2, &[50.0]),
            swa_run(1, &[40.0]),
            sgd_run(1, &[50.0]),
        ];
        let comparisons = Comparison::all(&runs);
        assert_eq!(comparisons.len(), 1);
        assert_eq!(names(&comparisons[0].sgd), ["sgd-seed1", "sgd-seed2"]);
        assert_eq!(names(&comparisons[0].swa), ["swa-seed1"]);
    }

    #[test]
    fn another_rate_is_another_experiment() {
        let mut faster = sgd_run(1, &[50.0]);
        faster.record.sgd.lr = 0.1;
        let runs = [sgd_run(1, &[50.0]), faster];
        assert_eq!(Comparison::all(&runs).len(), 2);
    }

    #[test]
    fn each_kind_of_swa_is_compared_with_the_same_sgd() {
        let mut later = swa_run(1, &[40.0]);
        later.record.swa_start = Some(4);
        let runs = [sgd_run(1, &[50.0]), swa_run(1, &[40.0]), later];
        let comparisons = Comparison::all(&runs);
        assert_eq!(comparisons.len(), 2);
        for comparison in &comparisons {
            assert_eq!(names(&comparison.sgd), ["sgd-seed1"]);
            assert_eq!(names(&comparison.swa), ["swa-seed1"]);
        }
    }
}
