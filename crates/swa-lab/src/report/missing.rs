//! The missing parts of an experiment, in sentences.

use super::comparison::data_set_name;
use super::results::{FinishedRun, Results};
use super::table::Table;
use crate::experiment::record::Method;

/// Returns a sentence for each missing part. Runs that are under way are not counted as missing.
pub(crate) fn sentences(results: &Results, table: &Table<'_>) -> Vec<String> {
    let mut sentences: Vec<String> = results.finished.iter().filter_map(lost_epochs).collect();
    for row in &table.rows {
        let comparison = row.comparison;
        let about = format!("{} on {}", row.network, data_set_name(&row.data_set));
        for (method, name, runs, others) in [
            (Method::Sgd, "SGD", &comparison.sgd, &comparison.swa),
            (Method::Swa, "SWA", &comparison.swa, &comparison.sgd),
        ] {
            let seeds = others.iter().map(|run| run.record.seed);
            let lacking = seeds.filter(|seed| runs.iter().all(|run| run.record.seed != *seed));
            let lacking: Vec<String> = lacking.map(|seed| seed.to_string()).collect();
            if !lacking.is_empty() {
                let plural = if lacking.len() == 1 { "" } else { "s" };
                let lacking = lacking.join(", ");
                sentences.push(format!(
                    "{about}: no finished run of {name} with seed{plural} {lacking}."
                ));
            }
            for column in row.columns.iter().filter(|column| column.method == method) {
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
        if comparison.sgd.len().max(comparison.swa.len()) < 2 {
            sentences.push(format!(
                "{about}: one seed, so no standard deviation, and no telling a difference from noise."
            ));
        }
    }
    sentences
}

/// Names the epochs of a finished run that have no record.
fn lost_epochs(run: &FinishedRun) -> Option<String> {
    let lost = (1..=run.record.epochs).filter(|epoch| !run.epochs.contains_key(epoch));
    let lost: Vec<usize> = lost.collect();
    let epochs = match lost.as_slice() {
        [] => return None,
        [only] => format!("epoch {only}"),
        [first, .., last] => format!("{} epochs from {first} to {last}", lost.len()),
    };
    Some(format!("{}: no record of {epochs}.", run.record.run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::Comparison;
    use crate::report::fixture::{sgd_run, swa_run};

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
}
