//! The scores of points.

use core::fmt;
use std::vec;

use burn::module::Module;
use swa_core::{
    BatchNormError, BatchSize, Loaded, ReestimationConfig, Weights, reestimate_batch_norm,
};

use crate::{LandscapeError, Points};

/// An evaluation of points in weight space: one after the other, each as a model with its BatchNorm re-estimated.
///
/// It takes the memory of one model, on top of what the points are made of. Points do not depend on each other: no statistic passes from
/// one to the next, and if `batches` begins with the same ones each time, then neither the order of the points nor the place where an
/// evaluation was stopped and went on changes a bit of a score.
///
/// # BatchNorm
///
/// Weights between networks never produced the running statistics that come with them. [`new`](Self::new) re-estimates them at each
/// point from data, as `plane.py` and `eval_curve.py` do ([`reestimate_batch_norm`]): that is the loss of the network at that point.
/// [`ReestimationConfig::first_batches`] chooses how much data that takes. [`with_statistics_kept`](Self::with_statistics_kept) leaves
/// them as they are, those of the network at which the plane or the ray begins. That is the function around that network with all
/// that it holds, in which every step away from it also mismatches its statistics: optima look narrower and barriers higher than they are.
///
/// # Example
///
/// See the [front page](crate).
pub struct Evaluation<'a, M> {
    model: &'a M,
    reestimate: Box<Reestimate<'a, M>>,
}

type Reestimate<'a, M> = dyn FnMut(M) -> Result<M, BatchNormError> + 'a;

impl<'a, M: Module + 'static> Evaluation<'a, M> {
    /// An evaluation that re-estimates BatchNorm at every point.
    ///
    /// - `model` is a model of the network, whose weights do not matter.
    /// - `config` says how many batches a re-estimation takes: `&ReestimationConfig::new()` for all.
    /// - `batches` returns the training's batches, anew for each point.
    /// - `forward` passes a batch through a model, and returns its size, as for [`reestimate_batch_norm`].
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Reestimation`] for invalid settings, and layers that cannot be re-estimated.
    pub fn new<I, B, S>(
        model: &'a M,
        config: &ReestimationConfig,
        mut batches: impl FnMut() -> I + 'a,
        mut forward: impl FnMut(&M, B) -> S + 'a,
    ) -> Result<Self, LandscapeError>
    where
        I: IntoIterator,
        I::Item: Loaded<B>,
        B: Clone,
        S: BatchSize,
    {
        config.check(model)?;
        let config = config.clone();
        let reestimate = move |model: M| {
            let (model, _) = reestimate_batch_norm(&model, &config, batches(), &mut forward)?;
            Ok(model)
        };
        Ok(Self {
            model,
            reestimate: Box::new(reestimate),
        })
    }

    /// An evaluation that leaves running statistics as they are.
    pub fn with_statistics_kept(model: &'a M) -> Self {
        Self {
            model,
            reestimate: Box::new(Ok),
        }
    }

    /// The scores of all points, in order, each evaluated when it is asked for.
    ///
    /// - `known` returns the score of a point that was evaluated before, by its index. Such a point is not evaluated again.
    /// - `score` returns `N` numbers for a model in validation mode, or a result of them: the loss and the error, for example.
    ///
    /// A NaN is a score. Where BatchNorm's statistics are not finite, all numbers are NaN. After an error, the iterator goes on with the
    /// next point.
    ///
    /// # Errors
    ///
    /// Of each item: [`LandscapeError::BatchNorm`], [`LandscapeError::Score`] for an error that `score` returned, and
    /// [`LandscapeError::Weights`] for points of another network than the model, which names the parameter.
    pub fn scores<'e, P, R, const N: usize>(
        &'e mut self,
        points: &'e P,
        mut known: impl FnMut(usize) -> Option<[f64; N]> + 'e,
        mut score: impl FnMut(&M) -> R + 'e,
    ) -> impl ExactSizeIterator<Item = Result<Scored<P::At, N>, LandscapeError>> + 'e
    where
        P: Points,
        P::At: 'e,
        R: Loaded<[f64; N]>,
        'a: 'e,
    {
        let coordinates: vec::IntoIter<P::At> = points.coordinates().into_iter();
        coordinates.enumerate().map(move |(index, at)| {
            let was_known = known(index);
            let score = match was_known {
                Some(score) => score,
                None => self.score(index, points.weights(at)?, &mut score)?,
            };
            Ok(Scored {
                index,
                at,
                score,
                is_new: was_known.is_none(),
            })
        })
    }

    fn score<R, const N: usize>(
        &mut self,
        index: usize,
        weights: Weights,
        score: &mut impl FnMut(&M) -> R,
    ) -> Result<[f64; N], LandscapeError>
    where
        R: Loaded<[f64; N]>,
    {
        let model = weights.put_into(self.model)?;
        drop(weights);
        match (self.reestimate)(model) {
            Ok(model) => {
                let scored = score(&model).loaded();
                scored.map_err(|error| LandscapeError::Score { index, error })
            }
            Err(BatchNormError::NotFinite { .. }) => Ok([f64::NAN; N]),
            Err(error) => Err(LandscapeError::BatchNorm { index, error }),
        }
    }
}

impl<M> fmt::Debug for Evaluation<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evaluation").finish_non_exhaustive()
    }
}

/// A point with its scores.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Scored<At, const N: usize> {
    /// The number of the point in the order of the points, counted from 0.
    pub index: usize,
    /// Its coordinates.
    pub at: At,
    /// Its scores.
    pub score: [f64; N],
    /// False if the score was known before.
    pub is_new: bool,
}

impl<At, const N: usize> Scored<At, N> {
    /// Tells whether the point is a gap in a picture of all points: a score is NaN or infinite.
    pub fn is_gap(&self) -> bool {
        self.score.iter().any(|score| !score.is_finite())
    }
}
