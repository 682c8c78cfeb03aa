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
        let with = |method| runs.iter().filter(move |run| run.record.method == method);
        // A run of each kind. SGD is of a kind of its own only if there is no SWA like it.
        let mut kinds: Vec<&RunRecord> = Vec::new();
        for run in with(Method::Swa).chain(with(Method::Sgd)) {
            if !kinds.iter().any(|kind| alike(kind, &run.record)) {
                kinds.push(&run.record);
            }
        }
        let of = |kind, method| {
            let like = with(method).filter(|run| alike(kind, &run.record));
            let mut like: Vec<_> = like.collect();
            like.sort_by_key(|run| run.record.seed);
            like
        };
        let comparisons = kinds.into_iter().map(|kind| Self {
            sgd: of(kind, Method::Sgd),
            swa: of(kind, Method::Swa),
        });
        let mut comparisons: Vec<_> = comparisons.collect();
        // RFC 3339 in UTC sorts as text.
        comparisons.sort_by_cached_key(|comparison| {
            let runs = comparison.sgd.iter().chain(&comparison.swa);
            let started = runs.map(|run| run.record.started.clone());
            (comparison.record().data_set.clone(), started.min())
        });
        comparisons
    }

    /// The record of one of its runs, of SWA if there is one.
    pub(crate) fn record(&self) -> &'a RunRecord {
        // A comparison is never made without a run.
        &self.swa.first().unwrap_or_else(|| &self.sgd[0]).record
    }

    /// Its runs of a method.
    pub(crate) fn of(&self, method: Method) -> &[&'a FinishedRun] {
        match method {
            Method::Sgd => &self.sgd,
            Method::Swa => &self.swa,
            _ => &[],
        }
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
        let rate = run.swa_lr;
        let rate = rate.map_or_else(String::new, |lr| format!(", at a learning rate of {lr}"));
        Some(format!("averaged from epoch {start} on{rate}"))
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

/// Tells whether a run differs from those of a kind in nothing but seed and method.
fn alike(kind: &RunRecord, run: &RunRecord) -> bool {
    kind.data_set == run.data_set
        && kind.model == run.model
        && kind.width_divisor == run.width_divisor
        && kind.train_images == run.train_images
        && kind.test_images == run.test_images
        && kind.evaluate_on == run.evaluate_on
        && kind.budget == run.budget
        && kind.sgd == run.sgd
        && (run.method == Method::Sgd
            || (kind.swa_start, kind.swa_lr) == (run.swa_start, run.swa_lr))
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
