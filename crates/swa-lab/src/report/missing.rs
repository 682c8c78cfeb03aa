//! The missing parts of an experiment, in sentences.

use std::collections::BTreeSet;

use super::comparison::{Comparison, METHODS, data_set_name};
use super::results::{FinishedRun, Results};
use super::table::{COLUMNS, Table, epoch_of};
use super::wording::listed;
use crate::experiment::record::{Method, RunRecord};

/// Returns a sentence for each missing part. Runs that are under way are not counted as missing.
pub(crate) fn sentences(results: &Results, table: &Table<'_>) -> Vec<String> {
    let mut sentences: Vec<String> = results.finished.iter().filter_map(lost_epochs).collect();
    let finished = results.finished.iter();
    sentences.extend(finished.clone().filter_map(|run| outside(run, table)));
    sentences.extend(finished.filter_map(ends_between_columns));
    for row in &table.rows {
        let comparison = row.comparison;
        let about = format!("{} on {}", row.network, data_set_name(&row.data_set));
        let seeds: BTreeSet<u64> = comparison.all_runs().map(|run| run.record.seed).collect();
        for method in METHODS {
            let name = method.name();
            let runs = comparison.of(method);
            if is_expected(method, comparison) {
                sentences.extend(lacking(&about, name, &seeds, runs));
            }
            // The numbers of other methods are their predictions'.
            let columns = row.columns.iter().filter(|column| column.method == method);
            let columns = columns.filter(|column| !column.is_control());
            let of_epochs = matches!(method, Method::Sgd | Method::Swa);
            for column in columns.filter(|_| of_epochs) {
                let long_enough = runs.iter().filter(|run| run.record.epochs >= column.epoch);
                let (expected, found) = (long_enough.count(), column.seeds.len());
                if found < expected {
                    sentences.push(format!(
                        "{about}: {} has a number from {found} of {expected} finished runs.",
                        column.heading,
                    ));
                }
            }
        }
        for column in row.columns.iter().filter(|column| column.is_control()) {
            let runs = comparison.sgd_until(column.epoch);
            if !runs.is_empty() {
                sentences.extend(lacking(&about, column.heading, &seeds, &runs));
            }
        }
        for method in row.methods.iter().flat_map(|methods| &methods.rows) {
            let (expected, found) = (method.runs, method.predictions.len());
            if found < expected {
                sentences.push(format!(
                    "{about}: {} has predictions from {found} of {expected} finished runs.",
                    method.name,
                ));
            }
        }
        let most = METHODS.map(|method| comparison.of(method).len());
        if most.into_iter().max() < Some(2) {
            sentences.push(format!(
                "{about}: one seed, so no standard deviation, and no telling a difference from noise."
            ));
        }
    }
    sentences
}

/// Names the seeds of a comparison that no run is of, among those that are called `name`.
fn lacking(
    about: &str,
    name: &str,
    seeds: &BTreeSet<u64>,
    runs: &[&FinishedRun],
) -> Option<String> {
    let lacking = seeds
        .iter()
        .filter(|seed| runs.iter().all(|run| run.record.seed != **seed));
    let lacking: Vec<u64> = lacking.copied().collect();
    let plural = match lacking.len() {
        0 => return None,
        1 => "",
        _ => "s",
    };
    let lacking = listed(&lacking);
    Some(format!(
        "{about}: no finished run of {name} with seed{plural} {lacking}."
    ))
}

/// Tells whether a comparison is to have runs of a method: of SGD and SWA, which it is about, and of
/// others if there are any. A run of SWAG stands for one of SWA.
fn is_expected(method: Method, comparison: &Comparison<'_>) -> bool {
    match method {
        Method::Sgd => true,
        Method::Swa => !comparison.takes_swa_from_swag(),
        Method::Ema | Method::Snapshot | Method::Fge | Method::Swag => {
            !comparison.of(method).is_empty()
        }
    }
}

/// Names a run that is in no comparison.
fn outside(run: &FinishedRun, table: &Table<'_>) -> Option<String> {
    let mut compared = table.rows.iter().flat_map(|row| row.comparison.runs());
    if compared.any(|other| std::ptr::eq(other, run)) {
        return None;
    }
    let controls = table.rows.iter().flat_map(|row| {
        let columns = row.columns.iter().filter(|column| column.is_control());
        columns.flat_map(|column| row.comparison.sgd_until(column.epoch))
    });
    if controls.into_iter().any(|other| std::ptr::eq(other, run)) {
        return None;
    }
    let (method, epochs) = (run.record.method, run.record.epochs);
    if method == Method::Sgd && epochs > run.record.budget {
        return Some(format!(
            "{}: in no table, which has SGD after 1, 1.25 and 1.5 budgets, and not after {epochs} epochs.",
            run.record.run,
        ));
    }
    Some(format!(
        "{}: in no table, as its settings differ from those of another run of {}.",
        run.record.run,
        method.name(),
    ))
}

/// Names a run of SWA or SWAG whose last epoch no column of the table is of.
fn ends_between_columns(run: &FinishedRun) -> Option<String> {
    let RunRecord {
        method,
        budget,
        epochs,
        ..
    } = run.record;
    let mut columns = COLUMNS.iter().filter(|column| column.0 == Method::Swa);
    let is_swa = matches!(method, Method::Swa | Method::Swag);
    if !is_swa || columns.any(|(_, quarters, _)| epoch_of(budget, *quarters) == epochs) {
        return None;
    }
    Some(format!(
        "{}: the table of accuracies has SWA after 1, 1.25 and 1.5 budgets, and not after {epochs} epochs.",
        run.record.run,
    ))
}

/// Names the epochs of a finished run that have no record.
fn lost_epochs(run: &FinishedRun) -> Option<String> {
    // A damaged record may have any number of epochs: they are not gone through one by one.
    let all = run.record.epochs;
    let is_lost = |epoch: &usize| !run.epochs.contains_key(epoch);
    let first = (1..=all).find(is_lost)?;
    let last = (1..=all).rfind(is_lost)?;
    let found = run.epochs.keys().filter(|epoch| (1..=all).contains(*epoch));
    let epochs = match all - found.count() {
        1 => format!("epoch {first}"),
        lost => format!("{lost} epochs from {first} to {last}"),
    };
    Some(format!("{}: no record of {epochs}.", run.record.run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::PredictingModels;
    use crate::report::fixture::{method_run, predictions, sgd_run, swa_run};

    fn missing(finished: Vec<FinishedRun>) -> Vec<String> {
        let results = Results {
            finished,
            unfinished: Vec::new(),
        };
        let comparisons = Comparison::all(&results.finished);
        sentences(&results, &Table::of(&comparisons))
    }

    #[test]
    fn nothing_is_missing_of_a_whole_experiment() {
        let runs = [1, 2].map(|seed| [sgd_run(seed, &[40.0; 4]), swa_run(seed, &[30.0; 4])]);
        assert_eq!(missing(runs.into_iter().flatten().collect()), [""; 0]);
    }

    #[test]
    fn seeds_of_one_method_alone_are_named() {
        let runs = vec![
            sgd_run(1, &[40.0; 4]),
            sgd_run(2, &[40.0; 4]),
            swa_run(2, &[30.0; 4]),
        ];
        assert_eq!(
            missing(runs),
            ["vgg16-bn, widths divided by 8 on CIFAR-10: no finished run of SWA with seed 1."]
        );
    }

    #[test]
    fn seeds_without_a_control_and_controls_in_no_table_are_named() {
        // Budgets of four epochs: six are 1.5, and eight in no column.
        let runs = vec![
            sgd_run(1, &[40.0; 4]),
            swa_run(1, &[30.0; 4]),
            sgd_run(2, &[40.0; 4]),
            swa_run(2, &[30.0; 4]),
            sgd_run(2, &[40.0; 6]),
            sgd_run(2, &[40.0; 8]),
        ];
        assert_eq!(
            missing(runs),
            [
                "sgd-seed2: in no table, which has SGD after 1, 1.25 and 1.5 budgets, and not after 8 epochs.",
                "vgg16-bn, widths divided by 8 on CIFAR-10: no finished run of SGD, 1.5 budgets with seed 1.",
            ]
        );
    }

    #[test]
    fn epochs_without_a_record_and_numbers_lacking_them_are_named() {
        let mut run = swa_run(1, &[30.0; 4]);
        run.epochs.remove(&5);
        let sentences = missing(vec![sgd_run(1, &[40.0; 4]), run]);
        assert_eq!(sentences[0], "swa-seed1: no record of epoch 5.");
        assert!(
            sentences[1].ends_with("SWA, 1.25 budgets has a number from 0 of 1 finished runs."),
            "{sentences:?}"
        );
        assert!(sentences[2].contains("one seed"), "{sentences:?}");
    }

    #[test]
    fn epochs_that_are_lost_are_counted_and_not_listed() {
        let mut run = sgd_run(1, &[40.0; 6]);
        for epoch in [2, 3, 5] {
            run.epochs.remove(&epoch);
        }
        let sentences = |run| missing(vec![run])[0].clone();
        let three = "sgd-seed1: no record of 3 epochs from 2 to 5.";
        assert_eq!(sentences(run), three);
        // A record that somebody has edited: three epochs of 10^14 - 1.
        let mut damaged = sgd_run(1, &[40.0; 3]);
        damaged.record.epochs = 99_999_999_999_999;
        assert_eq!(
            sentences(damaged),
            "sgd-seed1: no record of 99999999999996 epochs from 4 to 99999999999999."
        );
    }

    #[test]
    fn an_average_that_ends_in_no_column_is_named() {
        // Budgets of four epochs: eight are two.
        let runs = vec![
            sgd_run(1, &[40.0; 4]),
            swa_run(1, &[30.0; 6]),
            sgd_run(2, &[40.0; 4]),
            swa_run(2, &[30.0; 4]),
        ];
        assert_eq!(
            missing(runs),
            [
                "swa-seed1: the table of accuracies has SWA after 1, 1.25 and 1.5 budgets, and not after 8 epochs."
            ]
        );
    }

    const ABOUT: &str = "vgg16-bn, widths divided by 8 on CIFAR-10";

    #[test]
    fn seeds_and_predictions_of_other_methods_are_named() {
        let scores = [[60.0, 1.0, 0.5, 0.1]];
        let members = PredictingModels::Members;
        let mut fge = method_run(Method::Fge, 2, members, &scores);
        fge.predictions.clear();
        let mut sgd = method_run(Method::Sgd, 1, PredictingModels::Live, &scores);
        sgd.predictions
            .push(crate::experiment::record::PredictionsRecord {
                temperature: Some(1.5),
                ..predictions("sgd", PredictingModels::Live, &scores)
            });
        let runs = vec![
            sgd,
            method_run(Method::Sgd, 2, PredictingModels::Live, &scores),
            method_run(Method::Swag, 2, PredictingModels::Averaged, &scores),
            method_run(Method::Fge, 1, members, &scores),
            fge,
        ];
        let of = |name: &str, found: usize, expected: usize| {
            format!("{ABOUT}: {name} has predictions from {found} of {expected} finished runs.")
        };
        assert_eq!(
            missing(runs),
            [
                // SWAG's run stands for SWA's, so that SWA is not named too.
                format!("{ABOUT}: no finished run of SWAG with seed 1."),
                of("SGD with temperature", 1, 2),
                of("FGE", 1, 2),
                of("SWAG", 0, 1),
                of("SWAG, diagonal", 0, 1),
            ]
        );
    }

    #[test]
    fn a_run_of_other_settings_in_no_table_is_named() {
        let snapshot = |seed| method_run(Method::Snapshot, seed, PredictingModels::Members, &[]);
        let mut other = snapshot(2);
        other.record.sgd.lr = 0.3;
        let runs = vec![sgd_run(1, &[40.0; 4]), snapshot(1), other];
        let expected = "snapshot-seed2: in no table, as its settings differ from those of another run of Snapshot.";
        assert_eq!(missing(runs)[0], expected);
    }
}
