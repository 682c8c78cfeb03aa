//! The contents of `results.jsonl`, run by run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::experiment::record::{EvaluationRecord, Record, RunRecord};
use crate::experiment::results_file::{LineError, parse};

/// The file in the folder of an experiment.
const FILE: &str = "results.jsonl";

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
}

/// The reason why results cannot be read.
#[derive(Debug, Error)]
pub(crate) enum ResultsError {
    /// The folder does not exist.
    #[error("{path}: no such folder; give the one that an experiment wrote its results to")]
    NoSuchFolder {
        /// The folder.
        path: PathBuf,
    },

    /// It is a file.
    #[error("{path}: is a file; give the folder that {FILE} is in")]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },

    /// No experiment has written to it.
    #[error(
        "{path}: expected {FILE} in it, found none; an experiment writes it after its first epoch"
    )]
    NoResults {
        /// The folder.
        path: PathBuf,
    },

    /// The file has no line.
    #[error("{path}: is empty; an experiment writes its first line after its first epoch")]
    Empty {
        /// The file.
        path: PathBuf,
    },

    /// The operating system refused to read it.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// A line is not a record.
    #[error("{path}, {error}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, and the reason.
        error: LineError,
    },
}

impl Results {
    /// Reads the results in the folder of an experiment.
    ///
    /// A record may be there twice, if it was written just before its run was stopped. Then only
    /// the last one counts.
    ///
    /// # Errors
    ///
    /// [`ResultsError`].
    pub(crate) fn read(folder: &Path) -> Result<Self, ResultsError> {
        let path = folder.to_owned();
        if !folder.exists() {
            return Err(ResultsError::NoSuchFolder { path });
        }
        if !folder.is_dir() {
            return Err(ResultsError::NotAFolder { path });
        }
        let file = folder.join(FILE);
        if !file.exists() {
            return Err(ResultsError::NoResults { path });
        }
        match std::fs::read(&file) {
            Ok(bytes) => Self::parse(&file, &bytes),
            Err(source) => Err(ResultsError::Unreadable { path: file, source }),
        }
    }

    fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ResultsError> {
        let text = String::from_utf8_lossy(bytes);
        let mut order: Vec<String> = Vec::new();
        let mut records: BTreeMap<String, RunRecord> = BTreeMap::new();
        let mut epochs: BTreeMap<String, Epochs> = BTreeMap::new();
        let parsed = parse(&text).map_err(|error| ResultsError::Line {
            path: file.to_owned(),
            error,
        })?;
        for record in parsed {
            let name = match &record {
                Record::Run(run) => run.run.clone(),
                Record::Evaluation(evaluation) => evaluation.run.clone(),
            };
            if !order.contains(&name) {
                order.push(name.clone());
            }
            match record {
                Record::Run(run) => drop(records.insert(name, run)),
                Record::Evaluation(evaluation) => {
                    let epochs = epochs.entry(name).or_default();
                    epochs.insert(evaluation.epoch, evaluation);
                }
            }
        }
        if order.is_empty() {
            let path = file.to_owned();
            return Err(ResultsError::Empty { path });
        }

        let mut results = Self::default();
        for name in order {
            let epochs = epochs.remove(&name).unwrap_or_default();
            match records.remove(&name) {
                Some(record) => results.finished.push(FinishedRun { record, epochs }),
                None => results.unfinished.push((name, epochs)),
            }
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{evaluation_record, line, run_record};

    fn parsed(lines: &str) -> Result<Results, String> {
        let results = Results::parse(Path::new("results.jsonl"), lines.as_bytes());
        results.map_err(|error| error.to_string())
    }

    fn evaluation(run: &str, epoch: usize, error: f64) -> String {
        line(&Record::Evaluation(EvaluationRecord {
            live_test_error: error,
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
        let errors = finished.epochs.values().map(|epoch| epoch.live_test_error);
        assert_eq!(errors.collect::<Vec<_>>(), [50.0, 30.0]);
        assert_eq!(results.unfinished.len(), 1);
        assert_eq!(results.unfinished[0].0, "a");
        assert_eq!(results.unfinished[0].1.len(), 1);
    }

    #[test]
    fn of_two_records_of_an_epoch_the_last_counts() {
        let lines = evaluation("a", 1, 50.0) + &evaluation("a", 1, 40.0);
        let results = parsed(&lines).unwrap();
        assert_eq!(results.unfinished[0].1[&1].live_test_error, 40.0);
    }

    #[test]
    fn a_last_line_that_is_being_written_is_none_yet() {
        let whole = evaluation("a", 1, 50.0);
        let results = parsed(&(whole.clone() + &whole[..40])).unwrap();
        assert_eq!(results.unfinished[0].1.len(), 1);
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
