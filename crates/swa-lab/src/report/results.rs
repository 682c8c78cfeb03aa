//! The contents of `results.jsonl`, run by run.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Failure;
use crate::experiment::record::{EvaluationRecord, Method, PredictionsRecord, Record, RunRecord};
use crate::experiment::results_file::{FILE, Records, ResultsFile};

/// The evaluations of a run, by epoch.
pub(crate) type Epochs = BTreeMap<usize, EvaluationRecord>;

/// The results of an experiment.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// The runs that are finished, in the order in which they were begun.
    pub(crate) finished: Vec<FinishedRun>,
    /// The other runs. Only their names and epochs are known.
    pub(crate) unfinished: Vec<(String, Epochs)>,
}

/// A run that is finished.
#[derive(Debug)]
pub(crate) struct FinishedRun {
    pub(crate) record: RunRecord,
    pub(crate) epochs: Epochs,
    /// The predictions of its models: of the same models, with a temperature or without one, only once.
    pub(crate) predictions: Vec<PredictionsRecord>,
}

impl FinishedRun {
    /// The epochs that it did not take over from another run.
    pub(crate) fn own_epochs(&self) -> impl Iterator<Item = &EvaluationRecord> {
        let own = self.epochs.range(self.record.shared_epochs + 1..);
        own.map(|(_, epoch)| epoch)
    }

    /// The test accuracy at the end of an epoch: in SWA, that of the average.
    pub(crate) fn test_accuracy(&self, epoch: usize) -> Option<f64> {
        let epoch = self.epochs.get(&epoch)?;
        match self.record.method {
            Method::Sgd | Method::Snapshot | Method::Fge => Some(epoch.live_test_accuracy),
            Method::Swa | Method::Ema | Method::Swag => epoch.swa_test_accuracy,
        }
    }
}

impl Results {
    /// Reads the results in the folder of an experiment.
    ///
    /// A record may be there twice, if it was written just before its run was stopped. Then only
    /// the last one counts.
    ///
    /// # Errors
    ///
    /// If there is no such folder, or no results in it, or they cannot be read, or a line is not a
    /// record.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let file = folder.join(FILE);
        let unusable = if !folder.exists() {
            "no such folder; give the one that an experiment wrote its results to".to_owned()
        } else if !folder.is_dir() {
            format!("is a file; give the folder that {FILE} is in")
        } else if !file.exists() {
            format!(
                "expected {FILE} in it, found none; an experiment writes it after its first epoch"
            )
        } else {
            let Records(records) = ResultsFile::new(file.clone()).read()?;
            if records.is_empty() {
                let remedy = "an experiment writes its first line after its first epoch";
                return Err(format!("{}: is empty; {remedy}", file.display()).into());
            }
            return Ok(Self::of(records));
        };
        Err(format!("{}: {unusable}", folder.display()).into())
    }

    /// The results in `records`.
    fn of(records: Vec<Record>) -> Self {
        let mut runs: Vec<(String, FoundRun)> = Vec::new();
        for record in records {
            let name = match &record {
                Record::Run(run) => &run.run,
                Record::Evaluation(evaluation) => &evaluation.run,
                Record::Predictions(predictions) => &predictions.run,
            };
            let known = runs.iter().position(|(known, ..)| known == name);
            let index = known.unwrap_or_else(|| {
                runs.push((name.clone(), FoundRun::default()));
                runs.len() - 1
            });
            let (_, run) = &mut runs[index];
            match record {
                Record::Run(record) => run.record = Some(record),
                Record::Evaluation(evaluation) => {
                    run.epochs.insert(evaluation.epoch, evaluation);
                }
                Record::Predictions(predictions) => {
                    run.predictions
                        .retain(|earlier| !earlier.is_of_the_same(&predictions));
                    run.predictions.push(predictions);
                }
            }
        }
        let mut results = Self::default();
        for (name, run) in runs {
            match run.record {
                Some(record) => results.finished.push(FinishedRun {
                    record,
                    epochs: run.epochs,
                    predictions: run.predictions,
                }),
                None => results.unfinished.push((name, run.epochs)),
            }
        }
        results
    }
}

/// The records of a run, as far as they have been read.
#[derive(Default)]
struct FoundRun {
    record: Option<RunRecord>,
    epochs: Epochs,
    predictions: Vec<PredictionsRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::PredictingModels;
    use crate::experiment::record::tests::evaluation_record;
    use crate::report::fixture::{line, predictions, run_record};

    fn parsed(lines: &str) -> Result<Results, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), lines).unwrap();
        Results::read(folder.path()).map_err(|error| {
            let folder = format!("{}/", folder.path().display());
            error.to_string().replace(&folder, "")
        })
    }

    fn evaluation(run: &str, epoch: usize, accuracy: f64) -> String {
        line(&Record::Evaluation(EvaluationRecord {
            live_test_accuracy: accuracy,
            ..evaluation_record(run, epoch)
        }))
    }

    #[test]
    fn a_run_has_its_evaluations_and_is_unfinished_without_a_record() {
        let results = parsed(
            &[
                evaluation("b", 1, 50.0),
                evaluation("a", 1, 40.0),
                evaluation("b", 2, 30.0),
                line(&Record::Run(run_record("b"))),
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(results.finished.len(), 1);
        let finished = &results.finished[0];
        assert_eq!(finished.record.run, "b");
        let epochs = finished.epochs.values();
        let accuracies = epochs.map(|epoch| epoch.live_test_accuracy);
        assert_eq!(accuracies.collect::<Vec<_>>(), [50.0, 30.0]);
        assert_eq!(results.unfinished.len(), 1);
        assert_eq!(results.unfinished[0].0, "a");
        assert_eq!(results.unfinished[0].1.len(), 1);
    }

    #[test]
    fn of_two_records_of_an_epoch_the_last_counts() {
        let lines = evaluation("a", 1, 50.0) + &evaluation("a", 1, 40.0);
        let results = parsed(&lines).unwrap();
        assert_eq!(results.unfinished[0].1[&1].live_test_accuracy, 40.0);
    }

    #[test]
    fn of_two_predictions_of_the_same_models_the_last_counts() {
        let of = |models, temperature, accuracy| {
            let scores = [accuracy, 1.0, 0.5, 0.1];
            line(&Record::Predictions(PredictionsRecord {
                temperature,
                ..predictions("a", models, &[scores])
            }))
        };
        let lines = [
            of(PredictingModels::Live, None, 50.0),
            of(PredictingModels::Live, Some(1.5), 51.0),
            of(PredictingModels::Averaged, None, 60.0),
            of(PredictingModels::Live, Some(1.25), 52.0),
            of(PredictingModels::Live, None, 53.0),
            line(&Record::Run(run_record("a"))),
        ];
        let results = parsed(&lines.concat()).unwrap();
        let found = results.finished[0].predictions.iter();
        let found = found.map(|of| (of.models, of.temperature, of.members[0].ensemble.accuracy));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                (PredictingModels::Averaged, None, 60.0),
                (PredictingModels::Live, Some(1.25), 52.0),
                (PredictingModels::Live, None, 53.0),
            ]
        );
    }

    #[test]
    fn a_last_line_that_is_being_written_is_none_yet() {
        let whole = evaluation("a", 1, 50.0);
        let results = parsed(&(whole.clone() + &whole[..40])).unwrap();
        assert_eq!(results.unfinished[0].1.len(), 1);
    }

    #[test]
    fn results_with_a_byte_order_mark_are_read_as_without_it() {
        let lines = "\u{feff}".to_owned() + &evaluation("a", 1, 50.0);
        assert_eq!(parsed(&lines).unwrap().unfinished[0].1.len(), 1);
    }

    #[test]
    fn a_line_of_something_else_is_named_with_what_is_wrong() {
        let error = parsed("{\"record\":\"picture\"}\n").unwrap_err();
        assert!(error.starts_with("results.jsonl, line 1: "), "{error}");
        assert!(error.contains("unknown variant `picture`"), "{error}");

        let error = parsed(&("\n".to_owned() + &evaluation("a", 1, 50.0))).unwrap_err();
        assert!(error.contains("found an empty line"), "{error}");
    }

    #[test]
    fn a_file_without_a_line_has_no_results() {
        let error = parsed("").unwrap_err();
        assert!(error.starts_with("results.jsonl: is empty"), "{error}");
    }
}
