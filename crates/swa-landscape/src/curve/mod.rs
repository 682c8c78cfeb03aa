//! Curves of low loss between two networks: what they are, and how they are trained.

mod bends;
mod config;
mod ends;
mod module;
mod path;
mod shape;
mod step;

use core::fmt;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use burn::tensor::Device;
use burn::train::{Interrupter, LearnerModel};
use swa_core::{BatchNormError, Counter, Weights};

use crate::LandscapeError;
pub use config::CurveConfig;
pub use path::{CurvePath, PathStatistics};
pub use shape::CurveShape;

/// A curve between two networks in weight space, to be trained by Burn's `Learner` like any model:
///
/// ```text
/// w(t) = sum over k of c_k(t) p_k        p_0 and p_(n-1) the two networks, the others the bends
/// ```
///
/// with the coefficients of its [`CurveShape`]. Each batch is passed through the network at one `t`, uniform in `[0, 1)`, so that the training minimises the mean loss over `t`.
/// If `g` is that loss's gradient at `w(t)`, then a bend's is `c_k (g + weight_decay w(t))`. Source: Garipov et al. 2018, *Loss
/// Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*, eq. 2, and its code, dnn-mode-connectivity.
///
/// - **The bends** are the module's parameters, each a network's of their own, which the optimizer sees by paths below `bends.0`,
///   `bends.1` and so on. Give the optimizer no weight decay, since this is the curve's. The schedule of the authors is
///   `PaperLrSchedulerConfig::sgd` of the crate `swa-train`, their rates 0.015 for VGG16 and 0.03 for PreResNet and WideResNet.
/// - **The networks at the ends** are no part of the module: no optimizer and no record has them. A record has a number that tells them
///   from others, and loading that of a curve between other networks is an error.
/// - **BatchNorm** normalises by the statistics of the batch while it trains, as in the authors' code. What it leaves in its running
///   statistics is dropped with the network of that step. Evaluation [re-estimates](crate::Evaluation) them at each point.
/// - **Resuming** gives the same bits, on the CPU: `t` is drawn from the seed, the number of optimizer steps, which is in the record,
///   and the batch's number within the step, so that accumulated gradients resume too.
/// - **Several devices**: under `ExecutionStrategy::multi`, each device has its own `t`, and the curve is sent there at each step.
///   `ExecutionStrategy::ddp` reduces the gradients of parameters that the loss was computed from, which bends are not: do not use it.
///
/// Validation shows the network in the middle, at `t = 0.5`: see [`with_reestimation`](Self::with_reestimation).
///
/// A user's own `TrainStep::optimize` is not called: the optimizer's step is on the bends.
///
/// Made by [`CurveConfig::init`]. After the training, [`path`](Self::path) is the curve to [evaluate](crate::Evaluation). In the memory,
/// it is one copy of the weights for each end and bend, and while it trains a point's and its gradient.
///
/// # Example
///
/// ```
/// use burn::optim::SgdConfig;
/// use burn::optim::momentum::MomentumConfig;
/// use burn::train::{Learner, LearnerModel, SupervisedTraining};
/// use swa_landscape::{Curve, CurveConfig, CurvePath, LandscapeError};
///
/// fn connect<M: LearnerModel>(
///     start: &M,
///     end: &M,
///     training: SupervisedTraining<Curve<M>>,
/// ) -> Result<CurvePath, LandscapeError> {
///     let curve = CurveConfig::new().with_weight_decay(5e-4).init(start, end)?;
///     let momentum = MomentumConfig::new().with_dampening(0.0);
///     let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
///     training.launch(Learner::new(curve, optimizer, 0.015)).model.path()
/// }
/// ```
pub struct Curve<M: LearnerModel> {
    config: CurveConfig,
    /// The network at the start, in validation mode: the module that the weights of a point are put into. It never runs.
    skeleton: M,
    /// The weights of both networks, on the device of the bends.
    ends: [Weights; 2],
    bends: Vec<M>,
    /// Optimizer steps taken, over all resumed parts of a training.
    steps: Counter,
    /// The number of the shape, for records.
    shape: Counter,
    /// Numbers of the two networks, for records.
    fingerprints: [Counter; 2],
    /// The numbers of batches in the current optimizer step, by the index of their device. Clones share them up to the step's end, since
    /// Burn clones the model for each worker.
    batches: Arc<Mutex<HashMap<u16, u64>>>,
    reestimate: Option<Arc<Reestimate<M>>>,
    /// In a copy for validation, the network in the middle.
    middle: OnceCell<M>,
    failure: Arc<OnceLock<LandscapeError>>,
    interrupter: Option<Interrupter>,
}

type Reestimate<M> = dyn Fn(&M) -> Result<M, BatchNormError> + Send + Sync;

impl<M: LearnerModel> Curve<M> {
    /// Re-estimates BatchNorm for the network that validation shows, once a validation, by `reestimate`. Without, it normalises by the
    /// running statistics of the first network, and its scores say little. (The authors do not validate networks with BatchNorm.)
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use burn::data::dataloader::DataLoader;
    /// use burn::tensor::Tensor;
    /// use burn::train::LearnerModel;
    /// use swa_core::{ReestimationConfig, reestimate_batch_norm};
    /// use swa_landscape::Curve;
    ///
    /// # trait Forward { fn forward(&self, images: Tensor<4>) -> Tensor<2>; }
    /// fn validated<M: LearnerModel + Forward>(
    ///     curve: Curve<M>,
    ///     train_loader: Arc<dyn DataLoader<Tensor<4>>>,
    /// ) -> Curve<M> {
    ///     let config = ReestimationConfig::new().with_first_batches(Some(16));
    ///     curve.with_reestimation(move |middle| {
    ///         let forward = |model: &M, images: Tensor<4>| {
    ///             let samples = images.dims()[0];
    ///             model.forward(images.autodiff());
    ///             samples
    ///         };
    ///         Ok(reestimate_batch_norm(middle, &config, train_loader.iter(), forward)?.0)
    ///     })
    /// }
    /// ```
    pub fn with_reestimation(
        mut self,
        reestimate: impl Fn(&M) -> Result<M, BatchNormError> + Send + Sync + 'static,
    ) -> Self {
        self.reestimate = Some(Arc::new(reestimate));
        self
    }

    /// Stops the training through `interrupter`, that of the training, after a [`failure`](Self::failure). Without one, it is logged.
    pub fn with_interrupter(mut self, interrupter: Interrupter) -> Self {
        self.interrupter = Some(interrupter);
        self
    }

    /// The curve as it is now, to be evaluated: the first network, the bends, the second network.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] if the bends were changed so that their weights cannot be read, as by adapters.
    pub fn path(&self) -> Result<CurvePath, LandscapeError> {
        let bends = self.bends.iter().map(Weights::of);
        let bends = bends.collect::<Result<Vec<Weights>, _>>()?;
        let [start, end] = self.ends.clone();
        let points = [start].into_iter().chain(bends).chain([end]);
        CurvePath::through(self.config.shape, points.collect())
    }

    /// The number of optimizer steps that were taken, over all resumed parts of the training.
    pub fn steps(&self) -> usize {
        self.steps.value
    }

    /// The first failure of the training: of a re-estimation for a validation, or of weights that were changed by other means than
    /// the training so that they are no curve any more.
    pub fn failure(&self) -> Option<&LandscapeError> {
        self.failure.get()
    }

    /// The device of the bends.
    fn device(&self) -> Device {
        self.bends[0]
            .devices()
            .into_iter()
            .next()
            .unwrap_or_default()
    }

    fn fail(&self, error: LandscapeError) {
        let message = format!("the training of the curve failed: {error}");
        if self.failure.set(error).is_ok() {
            log::error!("{message}");
            if let Some(interrupter) = &self.interrupter {
                interrupter.stop(Some(&message));
            }
        }
    }
}

impl<M: LearnerModel> Clone for Curve<M> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            skeleton: self.skeleton.clone(),
            ends: self.ends.clone(),
            bends: self.bends.clone(),
            steps: self.steps.clone(),
            shape: self.shape.clone(),
            fingerprints: self.fingerprints.clone(),
            batches: self.batches.clone(),
            reestimate: self.reestimate.clone(),
            middle: OnceCell::new(),
            failure: self.failure.clone(),
            interrupter: self.interrupter.clone(),
        }
    }
}

impl<M: LearnerModel> fmt::Debug for Curve<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Curve")
            .field("config", &self.config)
            .field("steps", &self.steps.value)
            .field("bends", &self.bends)
            .finish_non_exhaustive()
    }
}

/// Shows the model of a bend.
impl<M: LearnerModel> fmt::Display for Curve<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.bends[0], f)
    }
}
