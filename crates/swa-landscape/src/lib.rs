//! The geometry that explains weight averaging, for any [Burn](burn) module and any score: planes through networks, rays from one, lines
//! between two, and curves of low loss between two.
//!
//! The paper of SWA shows why averaging works with two pictures: the loss on a plane through SGD's and SWA's solutions, and the width of
//! both optima along random rays (Izmailov et al. 2018, Fig. 1, 3 and 4). Fast Geometric Ensembling rests on a third: two trained
//! networks are joined by a simple curve on which the loss stays low (Garipov et al. 2018). This crate yields the points of such
//! pictures, and their scores. It knows no data set, no plot and no file.
//!
//! | | points | coordinates |
//! |---|---|---|
//! | [`Plane`], [`Grid`] | `w0 + x u + y v`, through three networks, or two and a random direction | `[x, y]` |
//! | [`Rays`] | `w + t d`, along random directions, the same for all networks that are compared | [`OnRay`] |
//! | [`Line`] | `(1 - t) start + t end`, with the [`Barrier`] between the two | `t` |
//! | [`Curve`], [`CurvePath`] | a Bezier curve or a polygonal chain, whose bends Burn's `Learner` trains | `t` |
//!
//! All are [`Points`], of networks as vectors of [`Weights`](swa_core::Weights). An [`Evaluation`] makes one network after the other of
//! them, re-estimates its BatchNorm, and scores it.
//!
//! # The whole loop
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, loss::MseLoss, loss::Reduction};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use swa_core::{ReestimationConfig, Weights};
//! use swa_landscape::{Evaluation, GridConfig, Plane, RaysConfig};
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
//! let device = Device::default();
//! // Here, three trained networks: SGD's, SWA's and one on the way.
//! let [sgd, swa, live] = [(); 3].map(|()| Net {
//!     hidden: LinearConfig::new(4, 16).init(&device),
//!     norm: BatchNormConfig::new(16).init(&device),
//!     output: LinearConfig::new(16, 1).init(&device),
//! });
//! let batches: Vec<Tensor<2>> = (0..4)
//!     .map(|_| Tensor::random([32, 4], Distribution::Default, &device))
//!     .collect();
//!
//! // BatchNorm is re-estimated at each point, from the first two batches.
//! let config = ReestimationConfig::new().with_first_batches(Some(2));
//! let forward = |model: &Net, input: Tensor<2>| {
//!     let samples = input.dims()[0];
//!     model.forward(input.autodiff());
//!     samples
//! };
//! let mut evaluation = Evaluation::new(&swa, &config, || batches.clone(), forward)?;
//!
//! // Any number of scores: here, the loss alone.
//! let loss = |model: &Net| {
//!     let losses = batches.iter().map(|input| {
//!         let target = input.clone().square().sum_dim(1);
//!         let loss = MseLoss::new().forward(model.forward(input.clone()), target, Reduction::Mean);
//!         loss.into_scalar::<f64>()
//!     });
//!     [losses.sum::<f64>() / batches.len() as f64]
//! };
//!
//! let [sgd, swa_weights, live] = [Weights::of(&sgd)?, Weights::of(&swa)?, Weights::of(&live)?];
//! let plane = Plane::through(sgd.clone(), swa_weights.clone(), live)?;
//! let grid = GridConfig::new().with_points(5).init(plane)?;
//! let mut scores = Vec::new();
//! for point in evaluation.scores(&grid, |_| None, loss) {
//!     let point = point?;
//!     // Here, written to a file. A run that was stopped goes on if `|index| ..` returns what is there.
//!     scores.push((point.at, point.score));
//! }
//! assert_eq!(scores.len(), 25);
//!
//! // The same directions for both.
//! let rays = RaysConfig::new(5.0).with_directions(2).with_points(5);
//! for weights in [sgd, swa_weights] {
//!     let rays = rays.init(weights)?;
//!     let points = evaluation.scores(&rays, |_| None, loss);
//!     let along = points.map(|point| point.map(|point| (point.at.t, point.score[0])));
//!     assert_eq!(along.collect::<Result<Vec<_>, _>>()?.len(), 10);
//! }
//! # Ok::<(), swa_landscape::LandscapeError>(())
//! ```
//!
//! The curve between two networks is trained like a model: see [`Curve`].

mod burn_0_22;
mod curve;
mod distance;
mod error;
mod evaluation;
mod grid;
mod line;
mod plane;
mod points;
mod random;
mod rays;

pub use curve::{Curve, CurveConfig, CurvePath, CurveShape, PathStatistics};
pub use error::LandscapeError;
pub use evaluation::{Evaluation, Scored};
pub use grid::{Grid, GridConfig};
pub use line::{Barrier, Line};
pub use plane::Plane;
pub use points::Points;
pub use rays::{Directions, OnRay, Rays, RaysConfig};

/// The crate of weights and of the re-estimation of BatchNorm.
pub use swa_core;
