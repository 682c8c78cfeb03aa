//! Stochastic Weight Averaging in Burn's `Learner`: one wrapper around the model, and a learning rate
//! that stays high.
//!
//! ```
//! use burn::data::{dataloader::DataLoaderBuilder, dataloader::batcher::Batcher, dataset::InMemDataset};
//! use burn::module::Module;
//! use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, loss::MseLoss, loss::Reduction};
//! use burn::optim::SgdConfig;
//! use burn::tensor::{Device, Tensor};
//! use burn::train::{
//!     InferenceStep, Learner, RegressionOutput, SupervisedTraining, TrainOutput, TrainStep,
//!     metric::LossMetric,
//! };
//! use swa_train::{Collect, ModelMetric, PaperLrSchedulerConfig, RunLength, SwaConfig};
//!
//! // A model, its data and its training, as ever.
//! #[derive(Module, Debug)]
//! struct Net {
//!     hidden: Linear,
//!     norm: BatchNorm,
//!     output: Linear,
//! }
//!
//! impl Net {
//!     fn forward(&self, input: Tensor<2>) -> RegressionOutput {
//!         let target = input.clone().square().sum_dim(1);
//!         let hidden = self.norm.forward(self.hidden.forward(input));
//!         let output = self.output.forward(burn::tensor::activation::relu(hidden));
//!         let loss = MseLoss::new().forward(output.clone(), target.clone(), Reduction::Mean);
//!         RegressionOutput::new(loss, output, target)
//!     }
//! }
//!
//! impl TrainStep for Net {
//!     type Input = Tensor<2>;
//!     type Output = RegressionOutput;
//!
//!     fn step(&self, batch: Tensor<2>) -> TrainOutput<RegressionOutput> {
//!         let output = self.forward(batch);
//!         TrainOutput::new(self, output.loss.backward(), output)
//!     }
//! }
//!
//! impl InferenceStep for Net {
//!     type Input = Tensor<2>;
//!     type Output = RegressionOutput;
//!
//!     fn step(&self, batch: Tensor<2>) -> RegressionOutput {
//!         self.forward(batch)
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Points;
//!
//! impl Batcher<[f32; 2], Tensor<2>> for Points {
//!     fn batch(&self, items: Vec<[f32; 2]>, device: &Device) -> Tensor<2> {
//!         let rows = items.iter().map(|row| Tensor::<1>::from_floats(*row, device)).collect();
//!         Tensor::stack(rows, 0)
//!     }
//! }
//!
//! let device = Device::default().autodiff();
//! let model = Net {
//!     hidden: LinearConfig::new(2, 16).init(&device),
//!     norm: BatchNormConfig::new(16).init(&device),
//!     output: LinearConfig::new(16, 1).init(&device),
//! };
//! let points: Vec<_> = (0..64).map(|i| [(i % 8) as f32 / 8.0, (i / 8) as f32 / 8.0]).collect();
//! let loader = || {
//!     DataLoaderBuilder::new(Points).batch_size(16).build(InMemDataset::new(points.clone()))
//! };
//! let (train_loader, valid_loader) = (loader(), loader());
//!
//! // SWA: when to collect, and a learning rate that stays high.
//! let run = RunLength::of_loader(12, &train_loader, 16)?;
//! let collect = Collect::from_epoch(9, &run)?;
//! let learning_rate = PaperLrSchedulerConfig::swa(0.05, 0.02, &collect).init()?;
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let training = SupervisedTraining::new(directory, train_loader.clone(), valid_loader)
//!     .metrics((LossMetric::new(),))
//!     .metric_valid_numeric(ModelMetric::new("live", LossMetric::new()))
//! #   .with_application_logger(None)
//!     .with_default_checkpointers()
//!     .num_epochs(12);
//! // SWA: what re-estimates BatchNorm, and what a failure stops.
//! let swa = SwaConfig::new(collect)
//!     .init(model, train_loader)?
//!     .with_interrupter(training.interrupter());
//! // Wanted or not: the live model's loss beside the averaged one's.
//! let swa = swa.with_metrics_of(&["live"])?;
//! let result = training.launch(Learner::new(swa, SgdConfig::new().init(), learning_rate));
//!
//! // The average of the weights at the end of epochs 9, 10, 11 and 12, a plain `Net`.
//! assert_eq!(result.model.swa().updates(), 4);
//! let averaged: Net = result.model.averaged_model()?;
//! averaged.save_file(directory.join("model.bpk"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # An exponential average, in three lines
//!
//! Of the weights after every step, under any schedule, for a run of any length:
//!
//! ```
//! use burn::optim::ModuleOptimizer;
//! use burn::train::{Learner, LearnerModel, SupervisedTraining};
//! use swa_train::{Swa, SwaConfig, SwaError};
//!
//! fn train<M: LearnerModel>(
//!     model: M,
//!     training: SupervisedTraining<Swa<M>>,
//!     optimizer: ModuleOptimizer,
//! ) -> Result<M, SwaError> {
//!     let ema = SwaConfig::ema(0.999).init_without_data(model)?;
//!     let result = training.launch(Learner::new(ema, optimizer, 1e-3));
//!     result.model.averaged_model()
//! }
//! ```
//!
//! # What changes after `launch`
//!
//! `result.model` is the wrapper, and not the model:
//!
//! | without SWA | with it |
//! |---|---|
//! | `result.model` | [`result.model.averaged_model()?`](Swa::averaged_model), and [`into_live()`](Swa::into_live) for the model as the optimizer left it |
//! | `result.model.save_file(file)` | `result.model.averaged_model()?.save_file(file)`, which the plain model loads |
//! | a checkpoint's model, by `model.load_file(file)` | [`load_averaged(file, model)?`](load_averaged), or [`load_live`] |
//! | `.checkpoint(7)` of a training without SWA | the same, with [`run.with_plain_epochs(7)`](RunLength::with_plain_epochs); back, by [`write_plain_checkpoint`] |
//!
//! A plain model that is given the wrapper's file refuses it: "Unused tensors" with names that begin with `swa_train`.
//!
//! # What is here
//!
//! - [`SwaConfig`] says how to average, and makes [`Swa`], the wrapper.
//! - [`Collect`] says when to collect: from a step, an epoch or a fraction of the run on. [`RunLength`]
//!   turns epochs into steps.
//! - [`PaperLrScheduler`] is the paper's learning rate, [`SwaLrScheduler`] PyTorch's `SWALR`, after any schedule of Burn's,
//!   [`CyclicalLrScheduler`] the cycles of Snapshot Ensembles, Fast Geometric Ensembling and SWA.
//! - [`ModelMetric`] shows metrics of the live model, and of further averages, beside the averaged one's.
//!
//! All settings are configurations like Burn's. They can be saved and loaded, and `init` makes the object that they describe.
//! Whatever cannot be saved (a rule of your own, a device, an interrupter) is given to the wrapper itself.
//!
//! # Momentum, as in PyTorch and the paper
//!
//! `MomentumConfig` of Burn 0.22.1 has a dampening of 0.1 by default, where PyTorch's SGD, and so the
//! paper's, has 0: set `.with_dampening(0.0)` to train with their learning rates.
//!
//! # Resuming
//!
//! Burn's checkpoints hold the live weights, the average, and the numbers of updates and steps, and
//! `.checkpoint(n)` resumes them all. The order of the *data* depends on the loader:
//! `DataLoaderBuilder::shuffle` of Burn 0.22.1 starts its order over in a resumed run. The state of the
//! device's random generator, from which dropout draws, is not in Burn's checkpoints either. On an
//! accelerator, Burn's own checkpoints could mix values of several steps; [`SwaConfig::init`] prevents
//! this with [`swa_core::read_tensors_when_asked`].
//!
//! A run that goes on with another batch size, gradient accumulation or number of devices, and so with another number of
//! optimizer steps in an epoch, goes on by epochs: give the new number to [`RunLength`], and resume from the end of an epoch.

mod burn_0_22;
mod checkpoint;
mod collect;
mod error;
mod evaluation;
mod lr_scheduler;
mod metric;
mod swa;
mod terminal;

pub use checkpoint::{load_averaged, load_live, write_plain_checkpoint};
pub use collect::{Collect, RunLength};
pub use error::SwaError;
pub use lr_scheduler::{
    Annealing, CycleShape, CyclicalLrScheduler, CyclicalLrSchedulerConfig, PaperLrScheduler,
    PaperLrSchedulerConfig, SwaLrScheduler, SwaLrSchedulerConfig,
};
pub use metric::{ModelInput, ModelMetric, ModelOutputs};
pub use swa::{AverageConfig, RECORD_FORMAT, RunningStatistics, Swa, SwaConfig, SwaMetrics};

pub use swa_core::{ExponentialConfig, Pooling, ReestimationConfig, RuleConfig, WarmUp};

/// The crate of the average itself, for its [rules](swa_core::AveragingRule) and errors.
pub use swa_core;
