//! The file of an experiment's results, `results.jsonl`.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::record::{EvaluationRecord, PredictingModels, PredictionsRecord, Record, RunRecord};
use crate::Failure;
use crate::run::directory::{DirectoryError, io_error};

/// The name of the file in the folder of an experiment.
pub(crate) const FILE: &str = "results.jsonl";

/// A file with a [`Record`] on each line. Whole lines are added at its end.
#[derive(Debug, Clone)]
pub struct ResultsFile {
    file: PathBuf,
}

/// The records of a file, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records(pub(crate) Vec<Record>);

impl Records {
    /// The record of the run of this name, if it is finished.
    pub fn run(&self, name: &str) -> Option<&RunRecord> {
        self.0.iter().find_map(|record| match record {
            Record::Run(run) if run.run == name => Some(run),
            _ => None,
        })
    }

    /// The predictions of a run: of the same models, those that were made last.
    pub fn predictions_of(&self, run: &str) -> Vec<&PredictionsRecord> {
        let mut last: Vec<&PredictionsRecord> = Vec::new();
        for record in &self.0 {
            if let Record::Predictions(predictions) = record
                && predictions.run == run
            {
                last.retain(|earlier| !earlier.is_of_the_same(predictions));
                last.push(predictions);
            }
        }
        last
    }

    /// The predictions of a run's models as they are, without a temperature.
    pub fn predictions(&self, run: &str, models: PredictingModels) -> Option<&PredictionsRecord> {
        let mut predictions = self.predictions_of(run).into_iter();
        predictions.find(|it| it.models == models && it.temperature.is_none())
    }

    /// The epochs of a run, in their order.
    pub fn of<'a>(&'a self, run: &'a str) -> impl Iterator<Item = &'a EvaluationRecord> {
        self.0.iter().filter_map(move |record| match record {
            Record::Evaluation(evaluation) if evaluation.run == run => Some(evaluation),
            _ => None,
        })
    }
}

/// The records of a text. An incomplete last line is ignored: it is still being written, or its
/// process was killed.
///
/// # Errors
///
/// If a line is no record.
fn parse(text: &str) -> Result<Vec<Record>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let records = whole.split_terminator('\n').enumerate();
    let records = records.map(|(index, line)| {
        serde_json::from_str(line).map_err(|error| {
            format!(
                "line {}: expected a record of a run, an evaluation or predictions in JSON, found {} ({error}); restore the line or \
                 delete it",
                index + 1,
                beginning(line)
            )
        })
    });
    records.collect()
}

/// The first characters of a line.
fn beginning(line: &str) -> String {
    const SHOWN: usize = 60;

    match line.chars().count() {
        0 => "an empty line".to_owned(),
        length if length <= SHOWN => format!("`{line}`"),
        _ => format!("`{}…`", line.chars().take(SHOWN).collect::<String>()),
    }
}

impl ResultsFile {
    /// The results in `file`, which need not exist.
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Reads all whole records.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a line is no record.
    pub fn read(&self) -> Result<Records, Failure> {
        let bytes = self.bytes()?;
        // A line that is still being written may end within a character.
        let text = String::from_utf8_lossy(&bytes);
        // Some editors put a byte-order mark before UTF-8.
        let records = parse(text.trim_start_matches('\u{feff}'));
        let records = records.map_err(|error| format!("{}, {error}", self.file.display()))?;
        Ok(Records(records))
    }

    /// The bytes of the file, or none without it.
    fn bytes(&self) -> Result<Vec<u8>, DirectoryError> {
        match fs::read(&self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            bytes => bytes.map_err(io_error("read", &self.file)),
        }
    }

    /// Removes an incomplete last line. No other process may write to the file meanwhile.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written.
    pub fn repair(&self) -> Result<(), Failure> {
        let bytes = self.bytes()?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        if whole < bytes.len() {
            let file = File::options().write(true).open(&self.file);
            let cut = file.and_then(|file| file.set_len(whole as u64));
            cut.map_err(io_error("write", &self.file))?;
        }
        Ok(())
    }

    /// Adds a record. If that fails, the file stays as it was.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn append(&self, record: &Record) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let file = File::options().create(true).append(true).open(&self.file);
        let mut file = file.map_err(io_error("write", &self.file))?;
        let end = file.seek(SeekFrom::End(0));
        let end = end.map_err(io_error("read", &self.file))?;
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            // A full disk may have had room for a part of the line.
            let _ = file.set_len(end);
        }
        Ok(written.map_err(io_error("write", &self.file))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::tests::evaluation_record;

    fn evaluation(run: &str, epoch: usize) -> Record {
        Record::Evaluation(evaluation_record(run, epoch))
    }

    #[test]
    fn an_unfinished_line_is_no_record_and_cut_off_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let results = ResultsFile::new(folder.path().join("results.jsonl"));
        assert_eq!(results.read().unwrap(), Records::default());
        results.repair().unwrap();

        results.append(&evaluation("a", 1)).unwrap();
        let whole = fs::read_to_string(results.path()).unwrap();
        assert!(whole.starts_with(r#"{"record":"evaluation","run":"a","epoch":1,"#));
        fs::write(results.path(), format!("{whole}{}", &whole[..20])).unwrap();
        assert_eq!(results.read().unwrap().0.len(), 1);

        results.repair().unwrap();
        assert_eq!(fs::read_to_string(results.path()).unwrap(), whole);
        for (run, epoch) in [("b", 1), ("a", 2)] {
            results.append(&evaluation(run, epoch)).unwrap();
        }
        let records = results.read().unwrap();
        let of_a: Vec<usize> = records.of("a").map(|evaluation| evaluation.epoch).collect();
        assert_eq!(of_a, [1, 2]);
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let results = ResultsFile::new(folder.path().join("results.jsonl"));
        results.append(&evaluation("a", 1)).unwrap();
        let whole = fs::read_to_string(results.path()).unwrap();
        fs::write(results.path(), format!("{whole}epoch 2\n")).unwrap();
        let error = results.read().unwrap_err().to_string();
        assert!(error.contains("results.jsonl, line 2: "), "{error}");
    }
}
