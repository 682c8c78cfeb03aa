//! Weight averaging for any [Burn](burn) module.
//!
//! Averaging the weights that SGD passes through, under a learning rate that stays high, gives a
//! network that generalises better than SGD's last point, at almost no cost (Izmailov et al. 2018,
//! *Averaging Weights Leads to Wider Optima and Better Generalization*). It takes three things:
//!
//! 1. an [`Average`] of the model, [updated](Average::update) now and then, under a rule that says how
//!    much the newest weights count: [`EqualWeights`] for SWA, [`Exponential`] for an EMA;
//! 2. the averaged [model](Average::model);
//! 3. [`reestimate_batch_norm`], since averaged weights never produced the running statistics that
//!    their BatchNorm layers carry.
//!
//! Underneath, a module's [`Weights`] are a vector, with sums, products, points between two vectors, and random directions.
//!
//! Networks that were not averaged can be asked together: [`Members`] are those that a training passes through, and
//! [`evaluate_ensemble`] scores the mean of their predictions, and what each of them adds. SWAG draws networks around an average:
//! [`Average::sample`].
//!
//! This crate knows nothing of training loops, data sets and networks. To train with Burn's `Learner`,
//! use the crate `swa-train`, which does all of this behind one wrapper.
//!
//! # The whole loop
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, loss::MseLoss, loss::Reduction};
//! use burn::optim::{GradientsParams, SgdConfig};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use swa_core::{Average, EqualWeights, ReestimationConfig, reestimate_batch_norm};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     hidden: Linear,
//!     norm: BatchNorm,
//!     output: Linear,
//! }
//!
//! impl Net {
//!     fn forward(&self, input: Tensor<2>) -> Tensor<2> {
//!         let hidden = self.norm.forward(self.hidden.forward(input));
//!         self.output.forward(burn::tensor::activation::relu(hidden))
//!     }
//! }
//!
//! let device = Device::default().autodiff();
//! let mut model = Net {
//!     hidden: LinearConfig::new(4, 16).init(&device),
//!     norm: BatchNormConfig::new(16).init(&device),
//!     output: LinearConfig::new(16, 1).init(&device),
//! };
//! let data: Vec<(Tensor<2>, Tensor<2>)> = (0..8)
//!     .map(|_| {
//!         let input = Tensor::<2>::random([32, 4], Distribution::Default, &device);
//!         let target = input.clone().square().sum_dim(1);
//!         (input, target)
//!     })
//!     .collect();
//!
//! let (epochs, swa_start) = (20, 15);
//! let mut optimizer = SgdConfig::new().init();
//! let mut average = Average::new(&model, EqualWeights)?;
//!
//! for epoch in 1..=epochs {
//!     // High to the end: a rate that decays to nothing leaves nothing to average.
//!     let learning_rate = 0.05;
//!     for (input, target) in &data {
//!         let output = model.forward(input.clone());
//!         let loss = MseLoss::new().forward(output, target.clone(), Reduction::Mean);
//!         let gradients = GradientsParams::from_grads(loss.backward(), &model);
//!         model = optimizer.step(learning_rate, model, gradients);
//!     }
//!     if epoch >= swa_start {
//!         average.update(&model)?;
//!     }
//! }
//!
//! let (averaged, report) = reestimate_batch_norm(
//!     &average.model()?,
//!     &ReestimationConfig::new(),
//!     data.iter(),
//!     |model, (input, _): &(Tensor<2>, Tensor<2>)| {
//!         model.forward(input.clone());
//!         input.dims()[0]
//!     },
//! )?;
//! assert_eq!(average.updates(), 6);
//! assert_eq!(report.samples, 256);
//!
//! // A plain `Net`, ready to use.
//! let prediction = averaged.forward(Tensor::zeros([1, 4], &device.inner()));
//! assert_eq!(prediction.dims(), [1, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod average;
mod batch_norm;
mod burn_0_22;
mod counter;
mod ensemble;
mod error;
mod kernels;
mod loaded;
mod lock;
mod members;
mod path;
mod post_hoc;
mod rule;
mod weights;

pub use average::{Average, Covariance};
pub use batch_norm::{
    BatchNormError, BatchNormReport, BatchSize, KeptReason, KeptStatistics, Pooling,
    ReestimationConfig, reestimate_batch_norm,
};
pub use burn_0_22::read_tensors_when_asked;
pub use counter::Counter;
pub use ensemble::{
    EnsembleConfig, EnsembleError, EnsembleReport, Logits, MemberScores, PredictionError,
    Probabilities, ReliabilityBin, Scores, evaluate_ensemble,
};
pub use error::AverageError;
pub use kernels::parameters_a_launch;
pub use loaded::Loaded;
pub use members::{Member, MemberError, MemberSink, Members, SinkError};
pub use post_hoc::{PostHoc, PostHocError, Profile, post_hoc_coefficients, window_coefficients};
pub use rule::{
    AveragingRule, EqualWeights, Exponential, ExponentialConfig, PowerFunction, RuleConfig, WarmUp,
};
pub use weights::{Layout, Parameter, Role, Weights, WeightsError};
