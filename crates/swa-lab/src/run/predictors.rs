//! The networks that a finished run stands for in an ensemble.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device};
use burn::train::checkpoint::Checkpoint;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use swa_core::{Average, Covariance, EqualWeights, ReestimationConfig, reestimate_batch_norm};
use swa_models::Network;
use swa_train::RunLength;

use super::checkpoint::in_brief;
use super::classifier::{Classifier, pass};
use super::config::RunConfig;
use super::directory::{RunDirectory, io_error};
use super::images::Origin;
use super::method::{Method, MethodSettings};
use super::model_file::{FileArgs, ModelFile};
use super::progress::Progress;
use super::reestimation::ReestimationLoader;
use crate::Failure;
use crate::data::{ImageSet, Images};
use crate::provenance::quoted;

/// The models of a run that predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictingModels {
    /// The live model at the end.
    Live,
    /// The averaged model at the end, its BatchNorm re-estimated.
    Averaged,
    /// The members of an ensemble that were kept on the way: those of Snapshot Ensembles and of Fast Geometric Ensembling.
    Members,
    /// Samples of SWAG, with the full covariance.
    Samples,
    /// Samples of SWAG, with the diagonal covariance.
    DiagonalSamples,
}

impl PredictingModels {
    /// True for samples of SWAG.
    pub fn are_samples(self) -> bool {
        matches!(self, Self::Samples | Self::DiagonalSamples)
    }
}

/// The samples that are drawn from SWAG's Gaussian.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
pub struct Sampling {
    /// The number of samples of a run of SWAG
    #[arg(long, value_name = "N", default_value_t = Sampling::PAPER.samples)]
    pub samples: usize,

    /// The part of the covariance that they are drawn with
    #[arg(
        long,
        value_name = "X",
        default_value_t = Sampling::PAPER.scale,
        allow_negative_numbers = true
    )]
    pub scale: f64,

    /// The seed that they are drawn from
    #[arg(long, value_name = "N", default_value_t = Sampling::PAPER.seed)]
    pub seed: u64,
}

/// The largest number of samples: hundreds of times the paper's.
const MOST_SAMPLES: usize = 10_000;

impl Sampling {
    /// The paper's 30 samples with half of the covariance (Maddox et al. 2019, section 5).
    pub const PAPER: Self = Self {
        samples: 30,
        scale: 0.5,
        seed: 1,
    };

    /// Checks the numbers.
    ///
    /// # Errors
    ///
    /// If there is no sample, or no covariance of such a scale.
    pub fn validate(&self) -> Result<(), Failure> {
        let Self { samples, scale, .. } = *self;
        if samples == 0 {
            return Err("--samples must be at least 1, not 0".into());
        }
        if samples > MOST_SAMPLES {
            return Err(format!("--samples must be at most {MOST_SAMPLES}, not {samples}").into());
        }
        if scale.is_finite() && scale >= 0.0 {
            Ok(())
        } else {
            Err(format!("--scale must be at least 0, not {scale}").into())
        }
    }
}

/// Networks, each of which is made when its turn comes, so that one is in memory at a time.
pub struct Predictors<'a> {
    /// A name for each, such as its file.
    pub names: Vec<String>,
    /// The optimizer steps that they were collected after, of those that were.
    pub steps: Vec<Option<usize>>,
    /// The networks.
    pub networks: Box<dyn Iterator<Item = Result<Network, Failure>> + 'a>,
}

impl<'a> Predictors<'a> {
    /// The networks in files, each of which tells so many `classes` apart.
    pub fn of_files(
        files: Vec<PathBuf>,
        args: &'a FileArgs,
        classes: usize,
        device: &'a Device,
    ) -> Self {
        Self {
            names: files
                .iter()
                .map(|file| file.display().to_string())
                .collect(),
            steps: files.iter().map(|file| step_of(file)).collect(),
            networks: Box::new(
                files
                    .into_iter()
                    .map(move |file| ModelFile::read(&file, args)?.network(classes, device)),
            ),
        }
    }

    /// These, and then `others`.
    #[must_use]
    pub fn chain(mut self, others: Self) -> Self {
        self.names.extend(others.names);
        self.steps.extend(others.steps);
        self.networks = Box::new(self.networks.chain(others.networks));
        self
    }

    /// The same, with an error in the place of the next network once `stop` says so.
    #[must_use]
    pub fn unless(mut self, stop: impl Fn() -> bool + 'a) -> Self {
        self.networks = Box::new(self.networks.map(move |network| {
            if stop() {
                Err("stopped".into())
            } else {
                network
            }
        }));
        self
    }
}

/// The error for a path at which there is neither a run nor a file.
pub(crate) fn no_source(path: &Path) -> Failure {
    format!(
        "{}: no such run or file: name the folder of a run, or a model file",
        path.display()
    )
    .into()
}

/// The optimizer step in the name of a member's file, such as `step-000391.safetensors`.
fn step_of(file: &Path) -> Option<usize> {
    let name = file.file_stem()?.to_str()?;
    name.strip_prefix("step-")?.parse().ok()
}

/// The images of a run.
pub struct RunImages {
    /// Those that it trains on, and those that it is scored on.
    pub used: ImageSet,
    /// The training images that it neither trains on nor is scored on, if there are any.
    pub held_out: Option<Arc<Images>>,
}

/// A run that is finished.
pub struct FinishedRun {
    /// Its folder, for reading.
    pub directory: RunDirectory,
    /// Its settings.
    pub config: RunConfig,
}

impl FinishedRun {
    /// The run in the folder `path`.
    ///
    /// # Errors
    ///
    /// If there is none, or it is not finished.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let (directory, config) = RunDirectory::read(path)?;
        directory.check_no_curve()?;
        if !directory.live_model().is_file() {
            return Err(format!(
                "{} holds a run that is not finished: go on with it with {}",
                path.display(),
                resuming(path)
            )
            .into());
        }
        Ok(Self { directory, config })
    }

    /// The run in whose folder a file is, if it is in one, whether it is finished or not.
    pub(crate) fn around(file: &Path) -> Option<Self> {
        let file = std::path::absolute(file).ok()?;
        // A member of an ensemble is one folder deeper, and a snapshot of an average two.
        let folders = file.ancestors().skip(1).take(3);
        let mut runs = folders.filter_map(|folder| RunDirectory::read(folder).ok());
        let (directory, config) = runs.next()?;
        Some(Self { directory, config })
    }

    /// The origin of its networks.
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin {
            path: self.directory.path(),
            data: Some(&self.config.data),
            view: self.config.view,
        }
    }

    /// Its images in the data set that holds `all`, and an error if they are not those that it began with.
    ///
    /// # Errors
    ///
    /// If they are others.
    pub fn images(&self, all: &ImageSet) -> Result<RunImages, Failure> {
        let split = self.config.with_held_out(all.clone());
        let (used, held_out) =
            split.map_err(|error| self.directory.other_images(error.to_string()))?;
        self.directory.check_images(&used)?;
        Ok(RunImages { used, held_out })
    }

    /// The models that stand for it: those that its method's paper predicts with.
    pub fn own_models(&self, is_diagonal: bool) -> PredictingModels {
        match self.config.method.method() {
            Method::Sgd => PredictingModels::Live,
            Method::Swa | Method::Ema => PredictingModels::Averaged,
            Method::Snapshot | Method::Fge => PredictingModels::Members,
            Method::Swag if is_diagonal => PredictingModels::DiagonalSamples,
            Method::Swag => PredictingModels::Samples,
        }
    }

    /// The files of these models, which all describe what they hold. Samples have that of their mean.
    ///
    /// # Errors
    ///
    /// If one is missing.
    pub fn files(&self, models: PredictingModels) -> Result<Vec<PathBuf>, Failure> {
        let directory = &self.directory;
        let files = match models {
            PredictingModels::Live => vec![directory.live_model()],
            PredictingModels::Averaged
            | PredictingModels::Samples
            | PredictingModels::DiagonalSamples => vec![directory.averaged_model()],
            PredictingModels::Members => self.member_files()?,
        };
        match files.iter().find(|file| !file.is_file()) {
            None => Ok(files),
            Some(missing) => {
                let method = self.config.method.method();
                let problem = format!(
                    "{} is missing, which a run of {method} leaves",
                    missing.display()
                );
                Err(lost(missing, &problem))
            }
        }
    }

    /// These models, from files or as `sampling` says. BatchNorm of samples is re-estimated from the training images of the run's
    /// `images`, which `progress` shows.
    ///
    /// # Errors
    ///
    /// If a file is missing, or that of samples is damaged.
    pub fn predictors<'a>(
        &self,
        models: PredictingModels,
        sampling: &Sampling,
        images: &ImageSet,
        device: &'a Device,
        progress: &Progress,
    ) -> Result<Predictors<'a>, Failure> {
        if models.are_samples() {
            return self.samples(models, sampling, images, device, progress);
        }
        let (files, classes) = (self.files(models)?, images.class_names.len());
        Ok(Predictors::of_files(files, FileArgs::NONE, classes, device))
    }

    fn samples<'a>(
        &self,
        models: PredictingModels,
        sampling: &Sampling,
        images: &ImageSet,
        device: &Device,
        progress: &Progress,
    ) -> Result<Predictors<'a>, Failure> {
        let covariance = match models {
            PredictingModels::DiagonalSamples => Covariance::Diagonal,
            _ => Covariance::Full,
        };
        let MethodSettings::Swag { swa, swag } = self.config.method else {
            let method = self.config.method.method();
            return Err(format!("a run of {method} has no samples").into());
        };
        let file = self.directory.swag();
        let network = self.config.network(images.class_names.len(), device)?;
        let average = gaussian(&file, network, swag.rank)?;

        let train_images = self.config.reestimation_images(&images.train, device)?;
        let train_images = ReestimationLoader::new(train_images, device).shown_in(progress);
        let batch_norm = ReestimationConfig::new().with_first_batches(swa.batch_norm_batches);
        let Sampling {
            samples,
            scale,
            seed,
        } = *sampling;
        let mut rng = StdRng::seed_from_u64(seed);
        let names = (1..=samples).map(|sample| format!("{}, sample {sample}", file.display()));
        Ok(Predictors {
            names: names.collect(),
            steps: vec![None; samples],
            networks: Box::new((0..samples).map(move |_| {
                let sample = average.sample(scale, covariance, &mut rng)?.into_network();
                let batches = train_images.iter();
                let (sample, _) = reestimate_batch_norm(&sample, &batch_norm, batches, pass)?;
                Ok(sample)
            })),
        })
    }
}

/// The Gaussian of SWAG in a file, around the average of weights such as `network`'s.
fn gaussian(
    file: &Path,
    network: Network,
    rank: usize,
) -> Result<Average<Classifier<Network>>, Failure> {
    let average = Average::new(&Classifier::new(network, Arc::default()), EqualWeights)?;
    let average = average.with_deviations(rank)?;
    // Burn (0.22.1) would reserve as much memory as a file's header says.
    let bytes = fs::read(file).map_err(io_error("read", file));
    let bytes = bytes.map_err(|error| lost(file, &error.to_string()))?;
    let record = ModuleRecord::checkpoint_from_bytes(Bytes::from_bytes_vec(bytes));
    let loaded = record.and_then(|record| average.try_load_record(record));
    loaded.map_err(|error| {
        let problem = in_brief(&error.to_string());
        let problem = format!(
            "{} is damaged, or that of another network ({problem})",
            file.display()
        );
        lost(file, &problem)
    })
}

/// The arguments that go on with the run in `path`, as one types them.
fn resuming(path: &Path) -> String {
    format!("--resume --out {}", quoted(&path.display().to_string()))
}

/// The error for a file of a run that its last checkpoint still has.
fn lost(file: &Path, problem: &str) -> Failure {
    format!(
        "{problem}: write it again from the last checkpoint with {}",
        resuming(file.parent().unwrap_or(Path::new(".")))
    )
    .into()
}

impl FinishedRun {
    /// The files of its members, from the first to the last.
    fn member_files(&self) -> Result<Vec<PathBuf>, Failure> {
        let folder = self.directory.members();
        let mut files = BTreeMap::new();
        if folder.is_dir() {
            for entry in fs::read_dir(&folder).map_err(io_error("read the folder", &folder))? {
                let file = entry.map_err(io_error("read the folder", &folder))?.path();
                if file.extension().is_some_and(|end| end == "safetensors") {
                    files.extend(step_of(&file).map(|step| (step, file)));
                }
            }
        }
        // A run of an earlier version does not say how many images it has, and so which members.
        let due = self
            .member_steps()?
            .unwrap_or_else(|| files.keys().copied().collect());
        let lost = due.iter().find(|step| !files.contains_key(step));
        if lost.is_some() || due.is_empty() {
            return Err(format!(
                "{} lacks {}: name the members that are left one by one, or make the run again with --overwrite to have all",
                folder.display(),
                lost.map_or_else(
                    || "all members".to_owned(),
                    |step| format!("the member of step {step}, one of {}", due.len())
                ),
            )
            .into());
        }
        Ok(due.iter().filter_map(|step| files.remove(step)).collect())
    }

    /// The steps after which it kept a member, if the number of its images is known.
    fn member_steps(&self) -> Result<Option<Vec<usize>>, Failure> {
        let Some(images) = self.directory.began_with()? else {
            return Ok(None);
        };
        let [train, _] = images.counts();
        let length = RunLength::of_items(self.config.epochs, train, self.config.sgd.batch_size)?;
        let collect = self.config.collect(&length)?;
        let is_due = |step: &usize| collect.is_some_and(|collect| collect.is_due(*step));
        Ok(Some((1..=length.total_steps()).filter(is_due).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostile_files::survive;
    use crate::run::given::tests::given;

    #[test]
    fn a_damaged_gaussian_is_refused_or_drawn_from() {
        let settings =
            "--method swag --model preresnet-8 --width-divisor 16 --epochs 3 --swa-start 1";
        let config = given(settings).new_run(10).unwrap();
        let device = Device::flex();
        let network = || config.network(10, &device).unwrap();
        let classifier = || Classifier::new(network(), Arc::default());
        let average = Average::new(&classifier(), EqualWeights).unwrap();
        let mut average = average.with_deviations(2).unwrap();
        for _ in 0..3 {
            average.update(&classifier()).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("swag.bpk");
        average.save_file(&file).unwrap();
        survive("Gaussians", &[file], 8, |file| {
            let average = gaussian(file, network(), 2).map_err(|error| error.to_string())?;
            let mut rng = StdRng::seed_from_u64(1);
            let sample = average.sample(0.5, Covariance::Full, &mut rng);
            sample.map(drop).map_err(|error| error.to_string())
        });
    }
}
