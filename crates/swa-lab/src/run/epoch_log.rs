//! The results of every epoch: a row in `metrics.csv`, and a line for the user.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::run::directory::{RunDirectory, write_whole};
use crate::run::reestimation::PassTime;

/// Loss (mean cross-entropy, in nats) and accuracy (in per cent) on a set of images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of images that are classified correctly, in per cent.
    pub accuracy: f64,
}

/// A row of `metrics.csv`: the results of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// The learning rate of its last step.
    pub learning_rate: f64,
    /// Mean loss of the live model on the epoch's training images, as it was trained on them. If
    /// the run was resumed within the epoch, this is the mean over the images that were left, or
    /// nothing if none were.
    pub train_loss: Option<f64>,
    /// Accuracy in per cent of the live model on the epoch's training images, as it was trained on them.
    pub train_accuracy: Option<f64>,
    /// Loss of the live model on the test images.
    pub live_test_loss: f64,
    /// Accuracy in per cent of the live model on the test images.
    pub live_test_accuracy: f64,
    /// Loss of the averaged model on the test images, once there is one.
    pub swa_test_loss: Option<f64>,
    /// Accuracy in per cent of the averaged model on the test images, once there is one.
    pub swa_test_accuracy: Option<f64>,
    /// Seconds that the epoch took, validation included.
    pub seconds: f64,
    /// Seconds of these that re-estimating BatchNorm took, if it was re-estimated.
    pub reestimation_seconds: Option<f64>,
}

impl EpochRow {
    /// The live model's test score.
    pub fn live(&self) -> Score {
        Score {
            loss: self.live_test_loss,
            accuracy: self.live_test_accuracy,
        }
    }

    /// The averaged model's test score.
    pub fn averaged(&self) -> Option<Score> {
        Some(Score {
            loss: self.swa_test_loss?,
            accuracy: self.swa_test_accuracy?,
        })
    }

    /// The headings of [`line`](Self::line), if the average is that of such a method.
    pub fn headings(average: &str) -> [String; 2] {
        let average = format!("{average} test");
        [
            format!("          learning      train          live test  {average:>13}      "),
            "epoch         rate   loss      %     loss      %     loss      %  seconds".to_owned(),
        ]
    }

    /// The row as a line.
    pub fn line(&self, epochs: usize) -> String {
        let number = |value: Option<f64>, width: usize, decimals: usize| match value {
            None => format!("{:>width$}", "-"),
            Some(value) => format!("{value:width$.decimals$}"),
        };
        format!(
            "{:>9} {:8.5} {} {} {:8.4} {:6.2} {} {} {:8.1}",
            format!("{}/{epochs}", self.epoch),
            self.learning_rate,
            number(self.train_loss, 6, 4),
            number(self.train_accuracy, 6, 2),
            self.live_test_loss,
            self.live_test_accuracy,
            number(self.swa_test_loss, 8, 4),
            number(self.swa_test_accuracy, 6, 2),
            self.seconds,
        )
    }
}

/// Reads `metrics.csv`; without the file there are no rows.
///
/// # Errors
///
/// If the file cannot be read, or does not hold such rows.
pub fn read_rows(file: &Path) -> Result<Vec<EpochRow>, Failure> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let rows = csv::Reader::from_path(file).and_then(|mut reader| reader.deserialize().collect());
    rows.map_err(|error| format!("cannot read {}: {error}", file.display()).into())
}

/// Writes `metrics.csv`.
///
/// # Errors
///
/// If it cannot be written; what was there stays.
pub(crate) fn write_rows(file: &Path, rows: &[EpochRow]) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    let content = writer.into_inner().map_err(|error| error.to_string())?;
    Ok(write_whole(file, &content)?)
}

/// Burn's name of this metric.
const LEARNING_RATE: &str = "Learning Rate";

/// A function that is called with every row, and with the error if it could not be written.
type Report = Box<dyn Fn(&EpochRow, Result<(), Failure>) + Send>;

/// Makes rows of Burn's metrics, epoch by epoch.
pub struct EpochLog {
    directory: RunDirectory,
    rows: Vec<EpochRow>,
    /// The epoch from whose end on there is an averaged model.
    averaged_from: Option<usize>,
    names: HashMap<MetricId, String>,
    /// Final values of the current epoch, by split ("train" or "valid") and name.
    values: HashMap<(String, String), f64>,
    /// True if the current epoch has had a training step. Without one, Burn (0.22.1) still has
    /// metrics of it, which are not numbers.
    trained: bool,
    epoch_began: Instant,
    reestimation: PassTime,
    report: Report,
}

impl EpochLog {
    /// A log in the folder of a run, which goes on after `rows`. It calls `report` with every new row, and with the error if
    /// the row could not be written. `learning_rate` is that of the first new epoch, which may have
    /// no step left to report it. `reestimation` tells the time that re-estimating BatchNorm took.
    pub fn new(
        directory: RunDirectory,
        rows: Vec<EpochRow>,
        learning_rate: f64,
        averaged_from: Option<usize>,
        reestimation: PassTime,
        report: impl Fn(&EpochRow, Result<(), Failure>) + Send + 'static,
    ) -> Self {
        Self {
            directory,
            rows,
            averaged_from,
            names: HashMap::new(),
            values: HashMap::from([(
                ("train".to_owned(), LEARNING_RATE.to_owned()),
                learning_rate,
            )]),
            trained: false,
            epoch_began: Instant::now(),
            reestimation,
            report: Box::new(report),
        }
    }

    fn write(&self) -> Result<(), Failure> {
        self.directory.check()?;
        write_rows(&self.directory.metrics(), &self.rows)
    }

    fn row(&self, epoch: usize) -> EpochRow {
        let value = |split: &str, name: &str| {
            let key = (split.to_owned(), name.to_owned());
            self.values.get(&key).copied()
        };
        // With plain SGD nothing but the live model is validated, under the plain names.
        let live = |name: &str| {
            let live = value("valid", &format!("{name} (live)"));
            live.or_else(|| value("valid", name)).unwrap_or(f64::NAN)
        };
        let averaged = self.averaged_from.is_some_and(|from| epoch >= from);
        EpochRow {
            epoch,
            learning_rate: value("train", LEARNING_RATE).unwrap_or(f64::NAN),
            train_loss: value("train", "Loss").filter(|_| self.trained),
            train_accuracy: value("train", "Accuracy").filter(|_| self.trained),
            live_test_loss: live("Loss"),
            live_test_accuracy: live("Accuracy"),
            swa_test_loss: value("valid", "Loss").filter(|_| averaged),
            swa_test_accuracy: value("valid", "Accuracy").filter(|_| averaged),
            seconds: self.epoch_began.elapsed().as_secs_f64(),
            reestimation_seconds: self.reestimation.take(),
        }
    }
}

impl MetricLogger for EpochLog {
    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        let name = definition.name.to_string();
        self.names.insert(definition.metric_id, name);
    }

    fn log(&mut self, update: MetricsUpdate, _epoch: usize, split: &Split) {
        for metric in update.entries_numeric {
            let Some(name) = self.names.get(&metric.entry.metric_id) else {
                continue;
            };
            // The epoch's own value, which Burn computes at the split's end; of the learning rate, the
            // last step's.
            let value = match (name.as_str(), metric.numeric_entry) {
                (LEARNING_RATE, Some(NumericEntry::Final(_))) => continue,
                (LEARNING_RATE, Some(entry)) => {
                    self.trained = true;
                    entry.current()
                }
                (_, Some(entry @ NumericEntry::Final(_))) => entry.current(),
                _ => continue,
            };
            self.values.insert((split.to_string(), name.clone()), value);
        }
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        if summary.split != Split::Valid {
            return;
        }
        let row = self.row(summary.epoch_number);
        self.rows.retain(|before| before.epoch < row.epoch);
        self.rows.push(row.clone());
        (self.report)(&row, self.write());
        self.values.clear();
        self.trained = false;
        self.epoch_began = Instant::now();
    }

    /// Nothing that is used here asks for past values.
    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }
}
