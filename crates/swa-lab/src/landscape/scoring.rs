//! The scores of points.

use std::cell::RefCell;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use serde::{Deserialize, Deserializer, Serialize};
use swa_core::{ReestimationConfig, Weights};
use swa_landscape::{Evaluation, Points};
use swa_models::Network;

use super::End;
use super::networks::GivenNetworks;
use super::points_file::{Geometry, PointsFile};
use crate::Failure;
use crate::data::{EpochLoader, ImageSet};
use crate::run::classifier::pass;
use crate::run::config::RunConfig;
use crate::run::evaluate::evaluate;
use crate::run::images::ImagesRecord;
use crate::run::interruption::Interruption;
use crate::run::progress::Progress;

/// The seed of the choice of images, of each class as many.
const SUBSET_SEED: u64 = 0;

/// The arguments that say on what points are scored.
#[derive(Debug, Clone, clap::Args)]
pub struct ScoringArgs {
    /// Score on this many training and test images, as many of each class, and re-estimate BatchNorm from these training images
    /// [default: all]
    #[arg(long, value_name = "N")]
    pub items: Option<usize>,

    /// Re-estimate BatchNorm at each point from this many batches [default: all]
    #[arg(long, value_name = "N")]
    pub batch_norm_batches: Option<usize>,

    /// Leave BatchNorm's statistics as they are: optima look narrower and barriers higher than they are
    #[arg(long, conflicts_with = "batch_norm_batches")]
    pub keep_batch_norm: bool,
}

/// The scores of a point. A NaN is `null` in the file, and a gap in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PointScores {
    /// Mean cross-entropy on the training images as they are, in nats.
    #[serde(deserialize_with = "or_nan")]
    pub train_loss: f64,
    /// Accuracy on them, in per cent.
    #[serde(deserialize_with = "or_nan")]
    pub train_accuracy: f64,
    /// Mean cross-entropy on the test images, in nats.
    #[serde(deserialize_with = "or_nan")]
    pub test_loss: f64,
    /// Accuracy on them, in per cent.
    #[serde(deserialize_with = "or_nan")]
    pub test_accuracy: f64,
}

fn or_nan<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::NAN))
}

impl PointScores {
    /// The share of test images that are classified wrongly, in per cent.
    pub fn test_error(&self) -> f64 {
        100.0 - self.test_accuracy
    }

    fn of([train_loss, train_accuracy, test_loss, test_accuracy]: [f64; 4]) -> Self {
        // Accuracies of a network whose logits are not numbers are those of one class.
        let is_gap = !train_loss.is_finite() || !test_loss.is_finite();
        let or_nan = |score: f64| if is_gap { f64::NAN } else { score };
        Self {
            train_loss: or_nan(train_loss),
            train_accuracy: or_nan(train_accuracy),
            test_loss: or_nan(test_loss),
            test_accuracy: or_nan(test_accuracy),
        }
    }

    fn numbers(self) -> [f64; 4] {
        [
            self.train_loss,
            self.train_accuracy,
            self.test_loss,
            self.test_accuracy,
        ]
    }
}

/// The statistics of BatchNorm at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormStatistics {
    /// Re-estimated at each point, from so many batches of the training images, augmented as in training.
    Reestimated {
        /// The number of batches: all if none is said.
        batches: Option<usize>,
        /// The number of images in a batch.
        batch_size: usize,
    },
    /// Those of the network at which the plane, the ray or the line begins.
    Kept,
}

/// The images that points are scored on, as their file says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoringRecord {
    /// The images.
    pub(crate) images: ImagesRecord,
    /// The statistics of BatchNorm.
    pub batch_norm: BatchNormStatistics,
}

/// All that scores points need.
pub(super) struct Scoring<'a> {
    pub(super) images: ImageSet,
    pub(super) record: ScoringRecord,
    pub(super) device: &'a Device,
    pub(super) interruption: &'a Arc<Interruption>,
    reestimation: Arc<EpochLoader>,
}

impl<'a> Scoring<'a> {
    /// The scoring of networks as `args` say.
    ///
    /// # Errors
    ///
    /// If no image is asked for, or no batch.
    pub(super) fn new(
        args: &ScoringArgs,
        given: &GivenNetworks,
        run: &RunConfig,
        device: &'a Device,
        interruption: &'a Arc<Interruption>,
    ) -> Result<Self, Failure> {
        for (flag, number) in [
            ("--items", args.items),
            ("--batch-norm-batches", args.batch_norm_batches),
        ] {
            if number == Some(0) {
                return Err(format!("{flag} must be at least 1, not 0").into());
            }
        }
        let mut images = given.images.clone();
        if let Some(items) = args.items {
            for part in [&mut images.train, &mut images.test] {
                *part = Arc::new(part.subset(items.min(part.len()), SUBSET_SEED)?);
            }
        }
        let batch_norm = if args.keep_batch_norm {
            BatchNormStatistics::Kept
        } else {
            BatchNormStatistics::Reestimated {
                batches: args.batch_norm_batches,
                batch_size: run.images_at_once(),
            }
        };
        let reestimation = run.reestimation_images(&images.train, device)?;
        Ok(Self {
            record: ScoringRecord {
                images: ImagesRecord::of(&images),
                batch_norm,
            },
            images,
            device,
            interruption,
            reestimation: Arc::new(reestimation),
        })
    }

    /// The training images as BatchNorm is re-estimated from them.
    pub(super) fn reestimation_images(&self) -> Arc<EpochLoader> {
        self.reestimation.clone()
    }

    /// An evaluation of points that are put into `network`.
    pub(super) fn evaluation<'e>(
        &'e self,
        network: &'e Network,
    ) -> Result<Evaluation<'e, Network>, Failure> {
        let BatchNormStatistics::Reestimated { batches, .. } = self.record.batch_norm else {
            return Ok(Evaluation::with_statistics_kept(network));
        };
        let config = ReestimationConfig::new().with_first_batches(batches);
        let batches = || self.reestimation.iter();
        Ok(Evaluation::new(network, &config, batches, pass)?)
    }

    /// The scores of a network.
    fn score(&self, network: &Network) -> Result<[f64; 4], Failure> {
        let classes = self.images.class_names.len();
        let score = |images| evaluate(network, images, classes, self.device, |_| {});
        let (train, test) = (score(&self.images.train)?, score(&self.images.test)?);
        let (train, test) = (train.total, test.total);
        let scores = [train.loss, train.accuracy, test.loss, test.accuracy];
        Ok(PointScores::of(scores).numbers())
    }

    /// Scores `points`, which are those of `file` from number `first` on, that have no scores yet, and writes the file after each.
    ///
    /// `is_same` tells that two points are the same network, which is scored once.
    pub(super) fn fill<G: Geometry, P: Points>(
        &self,
        network: &Network,
        points: &P,
        file: &mut PointsFile<G>,
        first: usize,
        progress: &mut Progress,
        is_same: impl Fn(P::At, P::At) -> bool,
    ) -> Result<End, Failure> {
        let coordinates = points.coordinates();
        let known: Vec<_> = file.points[first..][..coordinates.len()]
            .iter()
            .map(|point| point.scores.map(PointScores::numbers))
            .collect();
        let known = RefCell::new(known);
        let same_and_known = |index: usize| {
            let known = known.borrow();
            let at = coordinates[index];
            let mut earlier = known.iter().zip(&coordinates);
            known[index]
                .or_else(|| earlier.find_map(|(it, other)| it.filter(|_| is_same(at, *other))))
        };
        let mut evaluation = self.evaluation(network)?;
        let scores = evaluation.scores(points, same_and_known, |network| self.score(network));
        for scored in scores {
            let scored = scored?;
            known.borrow_mut()[scored.index] = Some(scored.score);
            let scores = &mut file.points[first + scored.index].scores;
            if scores.is_none() {
                *scores = Some(PointScores::of(scored.score));
                file.write()?;
                progress.advance(1);
            }
            if self.interruption.is_asked() && file.left() > 0 {
                return Ok(End::Stopped);
            }
        }
        Ok(End::Finished)
    }

    /// The scores of one network as it is given.
    pub(super) fn score_one(&self, network: &Network) -> Result<PointScores, Failure> {
        struct One(Weights);
        impl Points for One {
            type At = ();
            fn coordinates(&self) -> Vec<()> {
                vec![()]
            }
            fn weights(&self, (): ()) -> Result<Weights, swa_landscape::LandscapeError> {
                Ok(self.0.clone())
            }
        }
        let one = One(Weights::of(network)?);
        let mut evaluation = self.evaluation(network)?;
        let mut scores = evaluation.scores(&one, |_| None, |network| self.score(network));
        let scored = scores.next().ok_or("no point")??;
        Ok(PointScores::of(scored.score))
    }
}
