//! The cost of SWA in time and memory, beside SGD's.

use serde::Serialize;

use super::comparison::Comparison;
use super::results::FinishedRun;
use super::statistics::Sample;
use crate::experiment::record::EvaluationRecord;

/// The cost of the runs of a comparison: mean and standard deviation over runs. Each run counts
/// with its median over epochs, which does not change if the machine was busy with something else
/// during an epoch.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    /// Seconds of an epoch of SGD.
    pub(crate) sgd_seconds: Option<Sample>,
    /// Seconds of an epoch of SWA in which weights were averaged and the average was evaluated.
    pub(crate) swa_seconds: Option<Sample>,
    /// The share of such an epoch that re-estimating BatchNorm took, in per cent.
    pub(crate) reestimation_share: Option<Sample>,
    /// The most memory that a process of SGD had, in mebibytes.
    pub(crate) sgd_memory_mib: Option<Sample>,
    /// The most memory that a process of SWA had, in mebibytes.
    pub(crate) swa_memory_mib: Option<Sample>,
}

impl Cost {
    /// The cost of the runs of a comparison.
    pub(crate) fn of(comparison: &Comparison<'_>) -> Self {
        let (sgd, swa) = (&comparison.sgd, &comparison.swa);
        let averaged = |epoch: &EvaluationRecord| epoch.swa_test_accuracy.map(|_| epoch.seconds);
        let share = |epoch: &EvaluationRecord| {
            let seconds = epoch.reestimation_seconds?;
            Some(100.0 * seconds / epoch.seconds)
        };
        Self {
            sgd_seconds: over_runs(sgd, |run| median(run, |epoch| Some(epoch.seconds))),
            swa_seconds: over_runs(swa, |run| median(run, averaged)),
            reestimation_share: over_runs(swa, |run| median(run, share)),
            sgd_memory_mib: over_runs(sgd, memory),
            swa_memory_mib: over_runs(swa, memory),
        }
    }

    /// The additional time of an epoch of SWA, in per cent of SGD's.
    pub(crate) fn slower(&self) -> Option<f64> {
        more(self.sgd_seconds, self.swa_seconds)
    }

    /// The additional memory of SWA, in per cent of SGD's.
    pub(crate) fn larger(&self) -> Option<f64> {
        more(self.sgd_memory_mib, self.swa_memory_mib)
    }
}

fn more(sgd: Option<Sample>, swa: Option<Sample>) -> Option<f64> {
    Some(100.0 * (swa?.mean / sgd?.mean - 1.0))
}

fn over_runs(runs: &[&FinishedRun], value: impl Fn(&FinishedRun) -> Option<f64>) -> Option<Sample> {
    let values: Vec<f64> = runs.iter().filter_map(|run| value(run)).collect();
    Sample::of(&values)
}

/// The median over the epochs of a run that it did not take over from another.
fn median(run: &FinishedRun, value: impl Fn(&EvaluationRecord) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = run.own_epochs().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
}

fn memory(run: &FinishedRun) -> Option<f64> {
    let bytes = run.record.peak_memory_bytes?;
    Some(bytes as f64 / (1u64 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{sgd_run, swa_run};

    #[test]
    fn an_epoch_of_swa_is_one_with_an_average() {
        // The fixture's epochs take 2 s, and 3 s with an average, of which 0.75 s for BatchNorm.
        let runs = [sgd_run(1, &[40.0; 4]), swa_run(1, &[30.0; 3])];
        let comparison = &Comparison::all(&runs)[0];
        let cost = Cost::of(comparison);
        assert_eq!(cost.sgd_seconds.unwrap().mean, 2.0);
        assert_eq!(cost.swa_seconds.unwrap().mean, 3.0);
        assert_eq!(cost.reestimation_share.unwrap().mean, 25.0);
        assert_eq!(cost.slower(), Some(50.0));
        assert_eq!(cost.sgd_memory_mib.unwrap().mean, 1024.0);
        assert_eq!(cost.larger(), Some(0.0));
    }

    #[test]
    fn epochs_taken_over_from_another_run_do_not_count() {
        let mut run = sgd_run(1, &[40.0; 5]);
        run.record.shared_epochs = 3;
        for (epoch, seconds) in [(1, 90.0), (2, 90.0), (3, 90.0), (4, 2.0), (5, 4.0)] {
            run.epochs.get_mut(&epoch).unwrap().seconds = seconds;
        }
        let seconds = median(&run, |evaluation| Some(evaluation.seconds));
        assert_eq!(seconds, Some(3.0));
        run.record.shared_epochs = 5;
        assert_eq!(median(&run, |evaluation| Some(evaluation.seconds)), None);
    }
}
