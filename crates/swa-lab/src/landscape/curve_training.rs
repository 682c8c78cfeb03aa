//! The training of a curve's bends, through Burn's `Learner`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use swa_core::{ReestimationConfig, reestimate_batch_norm};
use swa_landscape::{Curve, CurveConfig};
use swa_models::Network;

use super::Landscape;
use super::curve::CurveGeometry;
use super::scoring::BatchNormStatistics;
use crate::Failure;
use crate::data::ImageBatch;
use crate::output::say;
use crate::run::checkpoint::Checkpoints;
use crate::run::classifier::{Classifier, ImageNetwork};
use crate::run::config::RunConfig;
use crate::run::directory::{RunDirectory, io_error};
use crate::run::interruption::Interruption;
use crate::run::method::MethodSettings;
use crate::run::model_file::{self, Description, FileArgs, ModelFile};
use crate::run::session::{End, Session, Show};

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

    fn optimize_multi(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        self.curve = self
            .curve
            .optimize_multi(optimizer, learning_rate, gradients);
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
        let files = (1..=settings.bends).map(|bend| path.join(format!("bend-{bend}.safetensors")));
        let files: Vec<PathBuf> = files.collect();
        let overwrite = landscape.args.overwrite;
        let directory = if overwrite || !RunDirectory::at(&path).config_file().exists() {
            let directory = RunDirectory::create(&path, &config, overwrite)?;
            for file in files.iter().filter(|file| file.is_file()) {
                fs::remove_file(file).map_err(io_error("delete", file))?;
            }
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
        let Landscape {
            scoring, device, ..
        } = self.landscape;
        let classes = scoring.images.class_names.len();
        let files = self.files.iter();
        let bends =
            files.map(|file| ModelFile::read(file, FileArgs::NONE)?.network(classes, device));
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
        let interruption = landscape.interruption;
        let device = landscape.device.clone().autodiff();
        let [start, end] =
            ends.map(|network| Classifier::new(network.to_device(&device), interruption.clone()));
        let curve = CurveConfig::new()
            .with_bends(settings.bends)
            .with_shape(settings.shape)
            .with_weight_decay(settings.weight_decay)
            .with_seed(settings.seed)
            .init(&start, &end)
            .map_err(|error| landscape.named(error))?
            .with_interrupter(interruption.interrupter());
        drop((start, end));
        let batches = match landscape.scoring.record.batch_norm {
            BatchNormStatistics::Reestimated { batches, .. } => batches,
            BatchNormStatistics::Kept => None,
        };
        let images = landscape.scoring.reestimation_images();
        let curve = curve.with_reestimation(move |middle: &Classifier<Network>| {
            let config = ReestimationConfig::new().with_first_batches(batches);
            let forward = |model: &Classifier<Network>, batch: ImageBatch| {
                let items = batch.images.dims()[0];
                model.network().logits(batch.images);
                items
            };
            Ok(reestimate_batch_norm(middle, &config, images.iter(), forward)?.0)
        });

        directory.check_log()?;
        directory.check_images(&landscape.scoring.images)?;
        let checkpoints = Checkpoints::new(directory.checkpoints())?;
        checkpoints.delete_unfinished()?;
        let session = Session {
            config,
            images: &landscape.scoring.images,
            device: landscape.device,
            directory: directory.clone(),
            from: checkpoints.last()?,
            until: config.epochs,
            limit: None,
            show: Show::Lines(String::new()),
            interruption: interruption.clone(),
            on_epoch: Arc::new(|_| Ok(())),
        };
        say(format!(
            "training {} for {} epochs; the columns of the live network are of the one in the middle of the curve",
            match settings.bends {
                1 => "a bend".to_owned(),
                bends => format!("{bends} bends"),
            },
            config.epochs
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
