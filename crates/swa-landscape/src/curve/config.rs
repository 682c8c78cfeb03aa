//! The settings of a curve.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::config::Config;
use burn::train::LearnerModel;
use swa_core::{Counter, Weights, read_tensors_when_asked};

use super::bends::with_fresh_ids;
use super::ends::fingerprint;
use super::{Curve, CurveShape};
use crate::LandscapeError;
use crate::burn_0_22::requires_gradient;
use crate::distance::{apart, beside};

/// The settings of a curve between two networks.
#[derive(Config, Debug, PartialEq)]
pub struct CurveConfig {
    /// The number of bends, the points that are trained, at least 1: 1 by default, as in the paper. (`--num_bends` of its code counts
    /// both ends too, and is 3 then.)
    #[config(default = 1)]
    pub bends: usize,
    /// The shape: a Bezier curve by default.
    #[config(default = "CurveShape::Bezier")]
    pub shape: CurveShape,
    /// The weight decay, of the point that a batch is passed through and not of the bends: 1e-4 by default, as `train.py` has it. The
    /// paper's curves have 5e-4 for VGG and WideResNet, and 3e-4 for PreResNet. Set the optimizer's to 0.
    #[config(default = 1e-4)]
    pub weight_decay: f64,
    /// The seed of the points at which the curve is trained.
    #[config(default = 0)]
    pub seed: u64,
}

impl CurveConfig {
    /// The curve between two networks, its bends on the straight line between them: `p_k = (1 - a) start + a end` with
    /// `a = k / (bends + 1)`. Give it to `Learner::new` in place of a model.
    ///
    /// The bends are trained where the networks have parameters that require a gradient. They are on `start`'s device.
    ///
    /// From here on, the process [reads tensors when asked](read_tensors_when_asked), so that in a checkpoint on an accelerator, the bends
    /// and the optimizer's state are of the same step.
    ///
    /// # Errors
    ///
    /// - [`LandscapeError::Invalid`] for no bend, and for a weight decay that is not a finite number from 0 on.
    /// - [`LandscapeError::Unlike`], [`LandscapeError::NotFinite`] and [`LandscapeError::SameNetwork`].
    /// - [`LandscapeError::NothingToTrain`] for networks without a parameter that requires a gradient.
    /// - [`LandscapeError::Weights`] for networks whose weights cannot be combined.
    pub fn init<M: LearnerModel>(&self, start: &M, end: &M) -> Result<Curve<M>, LandscapeError> {
        if self.bends == 0 {
            let name = "the number of a curve's bends";
            let expected = "at least 1, the ends not counted (a `Line` has none)";
            return Err(LandscapeError::invalid(name, expected, 0));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            let (name, expected) = ("the weight decay of a curve", "a finite number from 0 on");
            return Err(LandscapeError::invalid(name, expected, self.weight_decay));
        }
        let skeleton = start.valid();
        let ends = [Weights::of(&skeleton)?, Weights::of(end)?];
        apart(&ends[0], &ends[1])?;
        let [first, second] = ends;
        let ends = [first.clone(), beside(&first, second)];
        let bends = (1..=self.bends).map(|bend| {
            let along = bend as f64 / (self.bends + 1) as f64;
            let weights = ends[0].clone().lerp(&ends[1], along)?;
            Ok(with_fresh_ids(weights.put_into(&skeleton)?).train())
        });
        let bends = bends.collect::<Result<Vec<M>, LandscapeError>>()?;
        if !requires_gradient(&bends[0]) {
            return Err(LandscapeError::NothingToTrain);
        }
        read_tensors_when_asked();
        Ok(Curve {
            config: self.clone(),
            skeleton,
            shape: Counter::new(self.shape.number()),
            fingerprints: [
                Counter::new(fingerprint(&ends[0])?),
                Counter::new(fingerprint(&ends[1])?),
            ],
            ends,
            bends,
            steps: Counter::new(0),
            batches: Arc::default(),
            reestimate: None,
            middle: OnceCell::new(),
            failure: Arc::default(),
            interrupter: None,
        })
    }
}
