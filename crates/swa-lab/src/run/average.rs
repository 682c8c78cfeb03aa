//! Averages of model files whose network is known: BatchNorm re-estimated, and scored.

use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use swa_core::{ReestimationConfig, reestimate_batch_norm};
use swa_models::Network;
use swa_store::{CheckpointAverage, Checkpoints, StateDict};

use super::classifier::pass;
use super::config::RunConfig;
use super::epoch_log::Score;
use super::evaluate::evaluate;
use super::images::load_images;
use super::model_file::{FileArgs, ModelFile, check_classes};
use super::predictors::FinishedRun;
use super::progress::Progress;
use super::reestimation::ReestimationLoader;
use crate::Failure;
use crate::data::{ImageSet, Images};

/// The images that averages of files are re-estimated from and scored on.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AverageImages {
    /// Re-estimate BatchNorm from the training images here, and score on those that the files' run holds out, or else on the test
    /// images: where they are, as the training's --data says it [default: of runs, their own]
    #[arg(long, value_name = "WHERE")]
    pub data: Option<String>,

    /// Of files: hold this many training images out, as `cifar train` with seed 1 does, for files that are in no run's folder. The networks must not
    /// have been trained on them
    #[arg(long, value_name = "N", requires = "data")]
    pub validation_items: Option<usize>,
}

/// Files of a network that is known, and images for it.
pub struct KnownNetwork<'a> {
    first: &'a Path,
    is_of_a_run: bool,
    args: FileArgs,
    images: ImageSet,
    held_out: Option<Arc<Images>>,
    config: RunConfig,
    device: &'a Device,
    progress: Progress,
}

/// A network that is the average of others.
pub struct Averaged {
    file: ModelFile,
    network: Network,
    /// The number of its BatchNorm layers that were re-estimated.
    pub reestimated_layers: usize,
}

impl<'a> KnownNetwork<'a> {
    /// The network of `files`, and the images at `data`. The network is that which the files say, or `args`.
    ///
    /// # Errors
    ///
    /// If the network is not known, or the images cannot be loaded, or they do not fit each other.
    pub fn open(
        files: &'a Checkpoints,
        args: &FileArgs,
        data: &str,
        images: &AverageImages,
        device: &'a Device,
    ) -> Result<Self, Failure> {
        let first = files.paths().next().ok_or("there is no file")?;
        // The names of an average are without the key.
        let args = args.without_key();
        let file = ModelFile::of(files.uniform().state_dict(), first, &args)?;
        let run = FinishedRun::around(first);
        let is_of_a_run = run.is_some();
        let view = run.as_ref().map_or(file.view, |run| run.config.view);
        let progress = Progress::of_images();
        let all = load_images(data, view, &progress)?;
        check_classes(first, file.class_names.as_deref(), &all, data)?;
        let (config, used, held_out) = match run {
            Some(run) if images.validation_items.is_some() => {
                return Err(format!(
                    "{} is of the run in {}, which knows the images that it holds out: leave --validation-items out",
                    first.display(),
                    run.directory.path().display()
                )
                .into());
            }
            Some(run) => {
                let split = run.images(&all)?;
                (run.config, split.used, split.held_out)
            }
            None => {
                let classes = all.class_names.len();
                let mut config =
                    RunConfig::of_no_run(file.config(), file.width_divisor, classes, file.view);
                config.images.validation_items = images.validation_items;
                let (used, held_out) = config.with_held_out(all)?;
                (config, used, held_out)
            }
        };
        let held_out = config.validation_images(&used, held_out);
        Ok(Self {
            first,
            is_of_a_run,
            args,
            images: used,
            held_out,
            config,
            device,
            progress,
        })
    }

    /// The average, with BatchNorm re-estimated from the training images, augmented as in training: from as many batches as the run of the
    /// files, if they are of one. The average of a single file keeps its statistics.
    ///
    /// # Errors
    ///
    /// If the average cannot be computed, or its statistics are no numbers.
    pub fn averaged(&self, average: &CheckpointAverage) -> Result<Averaged, Failure> {
        let file = ModelFile::of(average.state_dict(), self.first, &self.args)?;
        let network = file.network(self.images.class_names.len(), self.device)?;
        if average.terms().count() == 1 {
            return Ok(Averaged {
                file,
                network,
                reestimated_layers: 0,
            });
        }
        let images = self
            .config
            .reestimation_images(&self.images.train, self.device)?;
        let images = ReestimationLoader::new(images, self.device).shown_in(&self.progress);
        let batches = self.config.method.swa();
        let batches = batches.and_then(|swa| swa.batch_norm_batches);
        let config = ReestimationConfig::new().with_first_batches(batches);
        let (network, report) = reestimate_batch_norm(&network, &config, images.iter(), pass)?;
        self.progress.clone().end();
        Ok(Averaged {
            file,
            network,
            reestimated_layers: report.layers,
        })
    }

    /// The score of a network on images that are held out from the training.
    ///
    /// # Errors
    ///
    /// If there are none, or they cannot be loaded.
    pub fn held_out_score(&self, averaged: &Averaged) -> Result<Score, Failure> {
        let Some(held_out) = &self.held_out else {
            let (first, problem) = (
                self.first.display(),
                "files are chosen by images that are held out from the training",
            );
            return Err(if self.is_of_a_run {
                format!("{problem}, and the run of {first} holds none out: train one with --validation-items").into()
            } else {
                format!(
                    "{problem}, and {first} says of none: hold some out with --validation-items"
                )
                .into()
            });
        };
        self.score_on(averaged, held_out)
    }

    /// The score of a network on the images that are held out, or else on the test images, and what they are.
    ///
    /// # Errors
    ///
    /// If they cannot be loaded.
    pub fn score(&self, averaged: &Averaged) -> Result<(Score, String), Failure> {
        let (images, kind) = match &self.held_out {
            Some(held_out) => (held_out, "held-out"),
            None => (&self.images.test, "test"),
        };
        let score = self.score_on(averaged, images)?;
        Ok((score, format!("{} {kind} images", images.len())))
    }

    fn score_on(&self, averaged: &Averaged, images: &Arc<Images>) -> Result<Score, Failure> {
        let classes = self.images.class_names.len();
        let mut progress = self.progress.clone();
        progress.begin("scoring", images.len());
        let score = evaluate(&averaged.network, images, classes, self.device, |done| {
            progress.set(done);
        });
        progress.end();
        Ok(score?.total)
    }
}

impl Averaged {
    /// The network as a state dict that says what it is.
    pub fn state_dict(&self) -> StateDict {
        self.file.describe(StateDict::of(&self.network))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use burn::store::{BurnpackStore, ModuleSnapshot};
    use swa_models::PreResNetConfig;

    use super::*;
    use crate::hostile_files::survive;

    #[test]
    fn damaged_files_are_refused_or_averaged_in_bounded_memory() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let in_folder = |name: &str| folder.path().join(name);
        let network = PreResNetConfig::new(8).with_width_divisor(16).init(&device);
        let network = network.unwrap();
        let mut paths = vec![in_folder("a.safetensors"), in_folder("a.bpk")];
        StateDict::of(&network).write(&paths[0]).unwrap();
        network
            .save_into(&mut BurnpackStore::from_file(&paths[1]))
            .unwrap();
        let of_pytorch = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/checkpoints"
        ));
        for name in ["bare.pt", "data_parallel_half.pt", "hostile.pt"] {
            paths.push(in_folder(name));
            std::fs::copy(of_pytorch.join(name), &paths[paths.len() - 1]).unwrap();
        }
        let [safe, packed] = ["out.safetensors", "out.bpk"].map(in_folder);
        let mut outputs: [PathBuf; 2] = [safe, packed];
        // A zip archive says at its end how many entries it has, as for model files.
        survive("averages", &paths, 128, |path| {
            outputs.swap(0, 1);
            let files = Checkpoints::open([path]).map_err(|error| error.to_string())?;
            let written = files.uniform().write(&outputs[0]);
            written.map_err(|error| error.to_string())
        });
    }
}
