//! The comparisons of SGD with SWA and with other methods, all else alike.

use std::collections::HashSet;

use super::results::FinishedRun;
use crate::experiment::record::{Method, RunRecord};
use crate::run::config::SgdSettings;

/// The runs of one network on one data set that differ only in their seeds and in their method.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    /// One of its runs, of SWA or SWAG if there is one.
    kind: &'a RunRecord,
    /// Of SGD for one budget.
    pub(crate) sgd: Vec<&'a FinishedRun>,
    /// Of SGD for more budgets, which is the control of SWA for as many.
    pub(crate) longer_sgd: Vec<&'a FinishedRun>,
    /// Of SWA, and of SWAG with those seeds with which there is no SWA: SWAG's mean is SWA's average.
    pub(crate) swa: Vec<&'a FinishedRun>,
    ema: Vec<&'a FinishedRun>,
    /// Of several learning rates, those of one.
    snapshot: Vec<&'a FinishedRun>,
    fge: Vec<&'a FinishedRun>,
    swag: Vec<&'a FinishedRun>,
}

impl<'a> Comparison<'a> {
    /// The comparisons among `runs`, data set by data set. Runs of SWA or SWAG that start at different
    /// epochs, or have different learning rates, are each compared with the others.
    pub(crate) fn all(runs: &'a [FinishedRun]) -> Vec<Self> {
        let with = |method| runs.iter().filter(move |run| run.record.method == method);
        // A run of each kind. SGD is of a kind of its own only if there is no SWA like it, and so on.
        let mut kinds: Vec<&RunRecord> = Vec::new();
        let methods = [Method::Swa, Method::Swag].into_iter().chain(METHODS);
        for run in methods.flat_map(with) {
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
        let comparisons = kinds.into_iter().map(|kind| {
            let swag = of(kind, Method::Swag);
            let mut swa = of(kind, Method::Swa);
            let own: HashSet<u64> = swa.iter().map(|run| run.record.seed).collect();
            swa.extend(swag.iter().filter(|run| !own.contains(&run.record.seed)));
            swa.sort_by_key(|run| run.record.seed);
            let mut snapshot = of(kind, Method::Snapshot);
            if let Some(first) = snapshot.first() {
                let first = first.record.sgd;
                snapshot.retain(|run| run.record.sgd == first);
            }
            let (longer_sgd, sgd) = of(kind, Method::Sgd)
                .into_iter()
                .partition(|run| run.record.epochs > run.record.budget);
            Self {
                kind,
                sgd,
                longer_sgd,
                swa,
                ema: of(kind, Method::Ema),
                snapshot,
                fge: of(kind, Method::Fge),
                swag,
            }
        });
        let mut comparisons: Vec<_> = comparisons.collect();
        // RFC 3339 in UTC sorts as text.
        comparisons.sort_by_cached_key(|comparison| {
            let started = comparison.all_runs();
            let started = started.map(|run| run.record.started.clone());
            (comparison.record().data_set.clone(), started.min())
        });
        comparisons
    }

    /// The record of one of its runs, of SWA if there is one.
    pub(crate) fn record(&self) -> &'a RunRecord {
        self.kind
    }

    /// Its runs of a method, of SGD those of one budget.
    pub(crate) fn of(&self, method: Method) -> &[&'a FinishedRun] {
        match method {
            Method::Sgd => &self.sgd,
            Method::Swa => &self.swa,
            Method::Ema => &self.ema,
            Method::Snapshot => &self.snapshot,
            Method::Fge => &self.fge,
            Method::Swag => &self.swag,
        }
    }

    /// Its runs of all methods, of SGD those of one budget. Those of SWAG may come twice, as SWA's too.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &'a FinishedRun> {
        let methods = METHODS.into_iter();
        methods.flat_map(|method| self.of(method).iter().copied())
    }

    /// All its runs.
    pub(crate) fn all_runs(&self) -> impl Iterator<Item = &'a FinishedRun> {
        self.runs().chain(self.longer_sgd.iter().copied())
    }

    /// Its runs of SGD that end with an epoch after more than one budget.
    pub(crate) fn sgd_until(&self, epoch: usize) -> Vec<&'a FinishedRun> {
        let runs = self.longer_sgd.iter().copied();
        runs.filter(|run| run.record.epochs == epoch).collect()
    }

    /// Tells whether some of its runs of SWA are those of SWAG.
    pub(crate) fn takes_swa_from_swag(&self) -> bool {
        let mut swa = self.swa.iter();
        swa.any(|run| run.record.method == Method::Swag)
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

/// The methods. The one whose learning rate is its own comes last.
pub(crate) const METHODS: [Method; 6] = [
    Method::Sgd,
    Method::Swa,
    Method::Ema,
    Method::Fge,
    Method::Swag,
    Method::Snapshot,
];

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
        && match run.method {
            Method::Sgd | Method::Ema | Method::Fge => kind.sgd == run.sgd,
            Method::Swa | Method::Swag => {
                let averaging = |run: &RunRecord| (run.swa_start, run.swa_lr);
                kind.sgd == run.sgd && averaging(kind) == averaging(run)
            }
            // The rate that its cycles begin at is a setting of its own.
            Method::Snapshot => {
                let lr = kind.sgd.lr;
                kind.sgd == SgdSettings { lr, ..run.sgd }
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::PredictingModels;
    use crate::report::fixture::{method_run, sgd_run, swa_run};

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
    fn sgd_for_more_budgets_is_not_sgd_for_one() {
        // Budgets of four epochs.
        let runs = [
            sgd_run(1, &[50.0; 6]),
            sgd_run(1, &[50.0; 4]),
            sgd_run(2, &[50.0; 5]),
        ];
        let comparisons = Comparison::all(&runs);
        assert_eq!(comparisons.len(), 1);
        assert_eq!(names(&comparisons[0].sgd), ["sgd-seed1"]);
        assert_eq!(comparisons[0].sgd[0].record.epochs, 4);
        assert_eq!(names(&comparisons[0].sgd_until(6)), ["sgd-seed1"]);
        assert_eq!(names(&comparisons[0].sgd_until(5)), ["sgd-seed2"]);
        assert_eq!(names(&comparisons[0].sgd_until(4)), [""; 0]);
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
    #[test]
    fn each_method_is_compared_with_sgd_and_swa() {
        let members = PredictingModels::Members;
        let mut snapshot = method_run(Method::Snapshot, 1, members, &[]);
        snapshot.record.sgd.lr = 0.2;
        let runs = [
            snapshot,
            method_run(Method::Fge, 1, members, &[]),
            method_run(Method::Ema, 1, PredictingModels::Averaged, &[]),
            swa_run(1, &[40.0]),
            sgd_run(1, &[50.0]),
        ];
        let comparisons = Comparison::all(&runs);
        assert_eq!(comparisons.len(), 1);
        let methods = [Method::Ema, Method::Snapshot, Method::Fge, Method::Swag];
        let found = methods.map(|method| names(comparisons[0].of(method)).join(" "));
        assert_eq!(found, ["ema-seed1", "snapshot-seed1", "fge-seed1", ""]);
    }

    #[test]
    fn swag_stands_in_for_swa_with_seeds_that_have_none() {
        let swag = |seed| method_run(Method::Swag, seed, PredictingModels::Averaged, &[]);
        let runs = [swag(3), swag(2), swa_run(2, &[40.0])];
        let comparisons = Comparison::all(&runs);
        assert_eq!(comparisons.len(), 1);
        assert_eq!(names(&comparisons[0].swa), ["swa-seed2", "swag-seed3"]);
        let swag = comparisons[0].of(Method::Swag);
        assert_eq!(names(swag), ["swag-seed2", "swag-seed3"]);
        assert!(comparisons[0].takes_swa_from_swag());
    }
}
