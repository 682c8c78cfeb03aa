//! The training of a curve's bends, through Burn's `Learner`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use swa_core::{ReestimationConfig, reestimate_batch_norm};
use swa_landscape::{Curve, CurveConfig};
use swa_models::Network;

use super::Landscape;
use super::curve::CurveGeometry;
use super::scoring::BatchNormStatistics;
use crate::Failure;
use crate::data::ImageBatch;
use crate::output::{plural, say};
use crate::run::checkpoint::Checkpoints;
use crate::run::classifier::{Classifier, pass};
use crate::run::config::RunConfig;
use crate::run::directory::{RunDirectory, io_error};
use crate::run::interruption::Interruption;
use crate::run::method::MethodSettings;
use crate::run::model_file::{self, Description, FileArgs, ModelFile};
use crate::run::session::{End, Session, Show};

/// The beginning of the names of the bends' files.
const BEND: &str = "bend-";

/// A curve whose training can be stopped.
#[derive(Module, Debug)]
struct StoppableCurve {
    curve: Curve<Classifier<Network>>,
    #[module(skip)]
    interruption: Arc<Interruption>,
}

impl TrainStep for StoppableCurve {
    type Input = ImageBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageBatch) -> TrainOutput<ClassificationOutput> {
        TrainStep::step(&self.curve, batch)
    }

    fn optimize(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        self.curve = self.curve.optimize(optimizer, learning_rate, gradients);
        self.interruption.after_step(optimizer);
        self
    }
}

impl InferenceStep for StoppableCurve {
    type Input = ImageBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageBatch) -> ClassificationOutput {
        InferenceStep::step(&self.curve, batch)
    }
}

/// The settings of the training, from those of the first network's run.
///
/// # Errors
///
/// If one of them is invalid.
pub(super) fn training_config(
    settings: &CurveGeometry,
    run: &RunConfig,
) -> Result<RunConfig, Failure> {
    if settings.bends == 0 {
        return Err("--bends must be at least 1, the ends not counted (`cifar landscape line` has none), not 0".into());
    }
    let mut config = RunConfig {
        epochs: settings.epochs,
        seed: settings.seed,
        init: None,
        method: MethodSettings::Sgd,
        keep_averages: None,
        ..run.clone()
    };
    config.sgd.lr = settings.lr;
    // Weight decay is the curve's, of the point that a batch is passed through.
    config.sgd.weight_decay = 0.0;
    config.validate()?;
    Ok(config)
}

/// The training of a curve's bends, in the folder `curve` below that of the points.
pub(super) struct CurveTraining<'a> {
    settings: &'a CurveGeometry,
    config: RunConfig,
    landscape: &'a Landscape<'a>,
    directory: RunDirectory,
    /// The files of the bends.
    files: Vec<PathBuf>,
}

impl<'a> CurveTraining<'a> {
    /// Opens the folder of the training, and makes it if it has not begun, which it has only if the file of the curve's points
    /// `was_there`.
    ///
    /// # Errors
    ///
    /// If the folder is of another curve, or cannot be made.
    pub(super) fn open(
        settings: &'a CurveGeometry,
        config: RunConfig,
        landscape: &'a Landscape<'a>,
        was_there: bool,
    ) -> Result<Self, Failure> {
        let path = landscape.args.out.join("curve");
        let files = (1..=settings.bends).map(|bend| path.join(format!("{BEND}{bend}.safetensors")));
        let files: Vec<PathBuf> = files.collect();
        let overwrite = landscape.args.overwrite;
        let directory = if overwrite || !RunDirectory::at(&path).config_file().exists() {
            let directory = RunDirectory::create(&path, &config, overwrite)?;
            delete_bends(&path)?;
            directory
        } else {
            let (directory, began) = RunDirectory::open(&path)?;
            if !was_there || began != config {
                return Err(format!(
                    "{} holds the training of another curve: choose another folder with --out, or replace it with --overwrite",
                    path.display()
                )
                .into());
            }
            directory.delete_unfinished()?;
            directory
        };
        Ok(Self {
            settings,
            config,
            landscape,
            directory,
            files,
        })
    }

    /// Trains the bends between two networks, or reads those that were trained before. There are none if the training was stopped:
    /// the same command goes on with it.
    ///
    /// # Errors
    ///
    /// If the curve cannot be trained, or a file not be read or written.
    pub(super) fn bends(&self, ends: [Network; 2]) -> Result<Option<Vec<Network>>, Failure> {
        if !self.files.iter().all(|file| file.is_file()) {
            let Some(curve) = self.train(ends)? else {
                return Ok(None);
            };
            self.save(&curve)?;
            let checkpoints = self.directory.checkpoints();
            fs::remove_dir_all(&checkpoints).map_err(io_error("delete", &checkpoints))?;
        }
        let scoring = &self.landscape.scoring;
        let classes = scoring.images.class_names.len();
        let bends = self
            .files
            .iter()
            .map(|file| ModelFile::read(file, FileArgs::NONE)?.network(classes, scoring.device));
        Ok(Some(bends.collect::<Result<_, Failure>>()?))
    }

    /// Trains the curve to its end, unless that is stopped.
    fn train(&self, ends: [Network; 2]) -> Result<Option<Curve<Classifier<Network>>>, Failure> {
        let Self {
            settings,
            config,
            landscape,
            directory,
            ..
        } = self;
        let scoring = &landscape.scoring;
        let interruption = scoring.interruption;
        let device = scoring.device.clone().autodiff();
        let [start, end] = ends.map(|network| {
            Classifier::new(network.to_device(&device), interruption.clone())
                .with_images_at_once(config.images_at_once())
        });
        let curve = CurveConfig::new()
            .with_bends(settings.bends)
            .with_shape(settings.shape)
            .with_weight_decay(settings.weight_decay)
            .with_seed(settings.seed)
            .init(&start, &end)
            .map_err(|error| landscape.named(error))?
            .with_interrupter(interruption.interrupter());
        drop((start, end));
        let batches = match scoring.record.batch_norm {
            BatchNormStatistics::Reestimated { batches, .. } => batches,
            BatchNormStatistics::Kept => None,
        };
        let images = scoring.reestimation_images();
        let curve = curve.with_reestimation(move |middle: &Classifier<Network>| {
            let config = ReestimationConfig::new().with_first_batches(batches);
            let forward = |model: &Classifier<Network>, batch| pass(model.network(), batch);
            Ok(reestimate_batch_norm(middle, &config, images.iter(), forward)?.0)
        });

        directory.check_log()?;
        directory.check_images(&scoring.images)?;
        let checkpoints = Checkpoints::new(directory.checkpoints())?;
        checkpoints.delete_unfinished()?;
        let session = Session {
            config,
            images: &scoring.images,
            device: scoring.device,
            directory: directory.clone(),
            from: checkpoints.last()?,
            until: config.epochs,
            limit: None,
            show: Show::Lines(String::new()),
            interruption: interruption.clone(),
            on_epoch: Arc::new(|_| Ok(())),
        };
        say(format!(
            "training {} for {}; the columns of the live network are of the one in the middle of the curve",
            plural(settings.bends, "bend"),
            plural(config.epochs, "epoch"),
        ));
        let model = StoppableCurve {
            curve,
            interruption: interruption.clone(),
        };
        let mut trained = None;
        let end = session.fit_alone(model, |model| {
            trained = Some(model.curve);
            Ok(())
        })?;
        match (end, trained) {
            (End::Finished(_), Some(curve)) => match curve.failure() {
                None => Ok(Some(curve)),
                Some(failure) => Err(failure.to_string().into()),
            },
            _ended => {
                say(format!(
                    "Stopped. {} goes on with the training.",
                    landscape.same_command()
                ));
                Ok(None)
            }
        }
    }

    /// Writes the bends of a curve to model files.
    fn save(&self, curve: &Curve<Classifier<Network>>) -> Result<(), Failure> {
        let Self {
            landscape, files, ..
        } = self;
        let path = curve.path()?;
        let points = path.points();
        let skeleton = Classifier::new(landscape.load(0)?, Arc::default());
        let class_names = &landscape.scoring.images.class_names;
        let description = Description::new(&landscape.run, class_names, None);
        for (bend, file) in points[1..points.len() - 1].iter().zip(files) {
            let network = bend.put_into(&skeleton)?.into_network();
            model_file::save(&network, &description, file)?;
        }
        Ok(())
    }
}

/// Deletes the bends of an earlier curve, of which there may have been more.
fn delete_bends(folder: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(io_error("read the folder", folder))? {
        let entry = entry.map_err(io_error("read the folder", folder))?;
        if entry.file_name().to_string_lossy().starts_with(BEND) {
            let file = entry.path();
            fs::remove_file(&file).map_err(io_error("delete", &file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use swa_landscape::CurveShape;

    use super::*;

    #[test]
    fn a_curve_is_trained_alike_whatever_averages_runs_kept() {
        let run = RunConfig::paper(&"preresnet-20".parse().unwrap(), 10);
        let settings = CurveGeometry {
            points: 3,
            bends: 1,
            shape: CurveShape::Bezier,
            epochs: 4,
            lr: 0.03,
            weight_decay: 3e-4,
            batch_size: 128,
            seed: 7,
        };
        let plain = training_config(&settings, &run).unwrap();
        let keeping = RunConfig {
            keep_averages: Some(10),
            ..run
        };
        assert_eq!(training_config(&settings, &keeping).unwrap(), plain);
        assert_eq!((plain.epochs, plain.seed, plain.sgd.lr), (4, 7, 0.03));
    }
}
