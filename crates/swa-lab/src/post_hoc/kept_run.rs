//! A run whose averages were kept, and its images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use swa_core::{ReestimationConfig, reestimate_batch_norm};
use swa_models::Network;
use swa_store::Checkpoints;

use super::candidate::{Candidate, Snapshots};
use super::file::{PostHocRun, ScoredCandidate, Scores};
use super::{KeptAverage, PostHocArgs};
use crate::Failure;
use crate::data::{EpochLoader, ImageSet, Images};
use crate::run::classifier::pass;
use crate::run::directory::io_error;
use crate::run::evaluate::evaluate;
use crate::run::images::Origin;
use crate::run::model_file::{Description, FileArgs, ModelFile};
use crate::run::predictors::{FinishedRun, PredictingModels};

/// A finished run that kept averages.
pub(super) struct KeptRun {
    run: FinishedRun,
    folder: PathBuf,
    /// The number of epochs from one snapshot to the next.
    every: usize,
}

impl KeptRun {
    pub(super) fn read(folder: &Path) -> Result<Self, Failure> {
        let run = FinishedRun::read(folder)?;
        let Some(every) = run.config.keep_averages else {
            return Err(format!(
                "{} kept no averages on the way: train it with --keep-averages 1, and images held out by --validation-items",
                folder.display()
            )
            .into());
        };
        Ok(Self {
            run,
            folder: folder.to_owned(),
            every,
        })
    }

    /// The origin of its networks.
    pub(super) fn origin(&self) -> Origin<'_> {
        self.run.origin()
    }

    /// The run with its images of the data set that holds `all`, and its candidates.
    ///
    /// # Errors
    ///
    /// If the images are not its own, none was held out, a snapshot is missing, or a candidate cannot be made.
    pub(super) fn prepare<'a>(
        &'a self,
        all: &ImageSet,
        args: &PostHocArgs,
        device: &'a Device,
    ) -> Result<PreparedRun<'a>, Failure> {
        let config = &self.run.config;
        let images = self.run.images(all)?;
        let validation = config.validation_images(&images.used, images.held_out);
        let Some(validation) = validation else {
            return Err(format!(
                "{} held no training images out, and averages are never chosen by the test images: train it with --validation-items",
                self.folder.display()
            )
            .into());
        };
        let length = config.length(&images.used)?;
        let snapshots = self.snapshots(length.steps_per_epoch())?;
        let given = args.widths.iter().copied().map(Candidate::Width);
        let windows = args.windows.iter().copied().map(Candidate::Window);
        let mut candidates: Vec<Candidate> = given.chain(windows).collect();
        if candidates.is_empty() {
            candidates = snapshots.grid();
        }
        for candidate in &candidates {
            snapshots.combination(*candidate)?;
        }
        let batches = args
            .batch_norm_batches
            .or_else(|| config.method.swa().and_then(|swa| swa.batch_norm_batches));
        let reestimation = config.reestimation_images(&images.used.train, device)?;
        Ok(PreparedRun {
            kept: self,
            snapshots,
            candidates,
            class_names: all.class_names.clone(),
            validation,
            test: all.test.clone(),
            batches,
            reestimation,
            device,
        })
    }

    fn snapshots(&self, steps_per_epoch: usize) -> Result<Snapshots, Failure> {
        let last = self.run.config.epochs;
        let mut epochs: Vec<usize> = (1..=last / self.every).map(|it| it * self.every).collect();
        if epochs.last() != Some(&last) {
            epochs.push(last);
        }
        let snapshots = Snapshots {
            steps_per_epoch,
            epochs,
            run: self.folder.clone(),
        };
        for kept in KeptAverage::ALL {
            for &epoch in &snapshots.epochs {
                let file = snapshots.path(kept, epoch);
                if !file.is_file() {
                    return Err(format!(
                        "{} is missing, which the run keeps after epoch {epoch}: make the run again with --overwrite",
                        file.display()
                    )
                    .into());
                }
            }
        }
        Ok(snapshots)
    }
}

/// A run with its images.
pub(super) struct PreparedRun<'a> {
    kept: &'a KeptRun,
    snapshots: Snapshots,
    candidates: Vec<Candidate>,
    class_names: Vec<String>,
    /// The images that were held out.
    pub(super) validation: Arc<Images>,
    pub(super) test: Arc<Images>,
    batches: Option<usize>,
    reestimation: EpochLoader,
    device: &'a Device,
}

/// A candidate that was put together, its BatchNorm re-estimated.
pub(super) struct Made {
    pub(super) network: Network,
    pub(super) deviation: Option<f64>,
}

impl PreparedRun<'_> {
    /// The run and its candidates, none of them scored.
    pub(super) fn record(&self) -> Result<PostHocRun, Failure> {
        let config = &self.kept.run.config;
        let own = self.own_file()?;
        let candidates = self.candidates.iter().map(|candidate| ScoredCandidate {
            candidate: *candidate,
            deviation: None,
            validation: None,
        });
        Ok(PostHocRun {
            folder: self.kept.folder.clone(),
            checksum: crc32fast::hash(&fs::read(&own).map_err(io_error("read", &own))?),
            model: config.model.clone(),
            seed: config.seed,
            epochs: config.epochs,
            method: config.method.in_words(),
            train_images: self.reestimation.num_items(),
            validation_images: self.validation.len(),
            test_images: self.test.len(),
            batch_norm_batches: self.batches,
            own: None,
            candidates: candidates.collect(),
            chosen: None,
        })
    }

    fn own_file(&self) -> Result<PathBuf, Failure> {
        let files = self.kept.run.files(PredictingModels::Averaged)?;
        Ok(files.into_iter().next().ok_or("no averaged model")?)
    }

    /// The run's own average.
    pub(super) fn own(&self) -> Result<Network, Failure> {
        let file = ModelFile::read(&self.own_file()?, FileArgs::NONE)?;
        file.network(self.class_names.len(), self.device)
    }

    /// Puts a candidate together, a tensor at a time.
    pub(super) fn make(&self, candidate: Candidate) -> Result<Made, Failure> {
        let combination = self.snapshots.combination(candidate)?;
        let (coefficients, files): (Vec<f64>, Vec<PathBuf>) = combination.terms.into_iter().unzip();
        let average = Checkpoints::open(&files)?.weighted(&coefficients)?;
        let file = ModelFile::of(average.state_dict(), &files[0], FileArgs::NONE)?;
        let network = file.network(self.class_names.len(), self.device)?;
        let config = ReestimationConfig::new().with_first_batches(self.batches);
        let batches = self.reestimation.iter();
        let (network, _) = reestimate_batch_norm(&network, &config, batches, pass)?;
        Ok(Made {
            network,
            deviation: combination.deviation,
        })
    }

    /// The scores of a network on images.
    pub(super) fn scores(
        &self,
        network: &Network,
        images: &Arc<Images>,
    ) -> Result<Scores, Failure> {
        let classes = self.class_names.len();
        let score = evaluate(network, images, classes, self.device, |_| {})?.total;
        Ok(Scores {
            loss: score.loss,
            error: 100.0 - score.accuracy,
        })
    }

    /// The description of its best model.
    pub(super) fn description(&self) -> Description {
        Description::new(&self.kept.run.config, &self.class_names, None)
    }
}
