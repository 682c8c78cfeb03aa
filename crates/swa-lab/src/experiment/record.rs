//! The results of an experiment: one JSON object a line, readable by other tools.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::run::config::{EvaluateOn, SgdSettings};
pub use crate::run::method::Method;
pub use crate::run::predictors::PredictingModels;

/// A line of `results.jsonl`.
#[allow(
    clippy::large_enum_variant,
    reason = "records are read and written one by one"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A run: written once, when it is finished.
    Run(RunRecord),
    /// An epoch of a run: written when the epoch is over.
    Evaluation(EvaluationRecord),
    /// The predictions of a run's models: written before its run is.
    Predictions(PredictionsRecord),
}

/// The record of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's name, such as `cifar10-vgg16-bn-swa-seed1`.
    pub run: String,
    /// `cifar10`, `cifar100` or `synthetic`.
    pub data_set: String,
    /// The network: see [`NetworkConfig`](swa_models::NetworkConfig).
    pub model: String,
    /// The divisor of its widths.
    pub width_divisor: usize,
    /// The method of training.
    pub method: Method,
    /// The epochs of one budget.
    pub budget: usize,
    /// The epochs of the run: a budget for SGD, one and a half for SWA.
    pub epochs: usize,
    /// The epoch at whose end weights were first collected.
    pub swa_start: Option<usize>,
    /// The learning rate under which weights were collected.
    pub swa_lr: Option<f64>,
    /// The settings of SGD.
    #[serde(flatten)]
    pub sgd: SgdSettings,
    /// The seed of weights, order, augmentation and dropout.
    pub seed: u64,
    /// The number of training images.
    pub train_images: usize,
    /// The number of images that the test scores are of.
    pub test_images: usize,
    /// The kind of these images: the test images, or training images that were held out.
    pub evaluate_on: EvaluateOn,
    /// The number of epochs at the beginning that were taken over from another run, which trained
    /// them alike.
    pub shared_epochs: usize,
    /// The device that it ran on, as `--device` names it.
    pub device: String,
    /// The machine's processor and its number of threads.
    pub machine: String,
    /// The command line of the experiment.
    pub command: String,
    /// The version of this program, with its commit if it was built in a repository.
    pub version: String,
    /// The version of Burn.
    pub burn_version: String,
    /// The time at which it began, in UTC, as in RFC 3339.
    pub started: String,
    /// The time at which it ended, in UTC, as in RFC 3339.
    pub finished: String,
    /// The most memory that its process had, in bytes, where the system tells and it had the process for itself.
    pub peak_memory_bytes: Option<u64>,
}

/// The results of an epoch. Losses are mean cross-entropies in nats. Accuracies are in per cent, and
/// stand in the file as errors: the shares of images that are classified wrongly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// The run's name.
    pub run: String,
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// The learning rate of its last step.
    pub learning_rate: f64,
    /// The loss of the live model on the epoch's training images, as it was trained on them.
    pub train_loss: Option<f64>,
    /// The accuracy of the live model on these images.
    #[serde(rename = "train_error", default, with = "error_if_any")]
    pub train_accuracy: Option<f64>,
    /// The loss of the live model on the test images. NaN where a training diverged, which is
    /// `null` in JSON.
    #[serde(deserialize_with = "nan_from_null")]
    pub live_test_loss: f64,
    /// The accuracy of the live model on the test images.
    #[serde(rename = "live_test_error", with = "error")]
    pub live_test_accuracy: f64,
    /// The loss of the average on the test images, once there is one.
    pub swa_test_loss: Option<f64>,
    /// The accuracy of the average on the test images, once there is one.
    #[serde(rename = "swa_test_error", default, with = "error_if_any")]
    pub swa_test_accuracy: Option<f64>,
    /// The number of weights in the average.
    pub averaged: usize,
    /// Seconds that the epoch took, all together.
    pub seconds: f64,
    /// Seconds of these that re-estimating BatchNorm took, if it was re-estimated.
    pub reestimation_seconds: Option<f64>,
}

/// The scores of the predictions that the models of a finished run make: of one network, or of an ensemble as it grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionsRecord {
    /// The run's name.
    pub run: String,
    /// The models that predict.
    pub models: PredictingModels,
    /// The temperature that their logits are divided by, if it was fitted on images held out of the training.
    pub temperature: Option<f64>,
    /// The number of images that the scores are of.
    pub images: usize,
    /// The models one by one, and the ensembles that they make: at least one.
    pub members: Vec<MemberRecord>,
    /// The reliability diagram of all of them together: the bins of confidence that hold an image, in rising order.
    pub reliability: Vec<ReliabilityRecord>,
    /// Seconds that the predictions took, with all that made the models ready for them.
    pub seconds: f64,
}

impl PredictionsRecord {
    /// Tells whether another record is of the same models of the same run, both with a temperature or both without. Of such records,
    /// the last counts: a run that is stopped while it predicts does so anew.
    pub(crate) fn is_of_the_same(&self, other: &Self) -> bool {
        self.run == other.run
            && self.models == other.models
            && self.temperature.is_some() == other.temperature.is_some()
    }
}

/// A member of an ensemble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The optimizer step that it was collected after, if it was.
    pub step: Option<usize>,
    /// Its own scores.
    pub alone: ScoresRecord,
    /// The scores of the mean of its probabilities and of those before.
    pub ensemble: ScoresRecord,
}

/// Scores of probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoresRecord {
    /// The share of images that are classified correctly, in per cent.
    pub accuracy: f64,
    /// The mean negative log-likelihood, in nats.
    pub nll: f64,
    /// The Brier score over all classes, from 0 to 2.
    pub brier: f64,
    /// The expected calibration error with 15 bins of equal width, from 0 to 1.
    pub ece: f64,
}

/// The images whose confidence is in `(lower, upper]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityRecord {
    /// The lower end, which is outside.
    pub lower: f64,
    /// The upper end, which is inside.
    pub upper: f64,
    /// The number of images.
    pub count: usize,
    /// The mean of their confidences, from 0 to 1.
    pub confidence: f64,
    /// The part of them whose class is predicted, from 0 to 1.
    pub accuracy: f64,
}

fn nan_from_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|value| value.unwrap_or(f64::NAN))
}

/// An accuracy in per cent as an error.
mod error {
    use super::*;

    pub(super) fn serialize<S: Serializer>(accuracy: &f64, to: S) -> Result<S::Ok, S::Error> {
        (100.0 - accuracy).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        f64::deserialize(from).map(|error| 100.0 - error)
    }
}

/// An accuracy in per cent, if there is one, as an error.
mod error_if_any {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        accuracy: &Option<f64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        accuracy.map(|accuracy| 100.0 - accuracy).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.map(|error| 100.0 - error))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An epoch of a run without an average.
    pub(crate) fn evaluation_record(run: &str, epoch: usize) -> EvaluationRecord {
        EvaluationRecord {
            run: run.to_owned(),
            epoch,
            learning_rate: 0.05,
            train_loss: Some(1.0),
            train_accuracy: Some(60.0),
            live_test_loss: 1.0,
            live_test_accuracy: 60.0,
            swa_test_loss: None,
            swa_test_accuracy: None,
            averaged: 0,
            seconds: 2.0,
            reestimation_seconds: None,
        }
    }

    #[test]
    fn a_loss_that_is_no_number_survives_its_line() {
        let evaluation = r#"{"record":"evaluation","run":"a","epoch":1,"learning_rate":0.1,"train_loss":null,
            "train_error":90.0,"live_test_loss":null,"live_test_error":90.0,"swa_test_loss":null,
            "swa_test_error":null,"averaged":0,"seconds":1.0,"reestimation_seconds":null}"#;
        let Ok(Record::Evaluation(read)) = serde_json::from_str(evaluation) else {
            panic!("an evaluation");
        };
        assert!(read.live_test_loss.is_nan());
        let line = serde_json::to_string(&Record::Evaluation(read)).unwrap();
        assert!(line.contains(r#""live_test_loss":null"#), "{line}");
    }

    #[test]
    fn a_line_has_errors_where_a_record_has_accuracies() {
        let line = r#"{"record":"evaluation","run":"a","epoch":1,"learning_rate":0.1,"train_loss":2.0,"train_error":80.0,"live_test_loss":2.5,"live_test_error":90.25,"swa_test_loss":2.25,"swa_test_error":85.5,"averaged":1,"seconds":1.0,"reestimation_seconds":null}"#;
        let record = serde_json::from_str(line).unwrap();
        let Record::Evaluation(read) = &record else {
            panic!("an evaluation");
        };
        assert_eq!(read.train_accuracy, Some(20.0));
        assert_eq!(read.live_test_accuracy, 9.75);
        assert_eq!(read.swa_test_accuracy, Some(14.5));
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}
