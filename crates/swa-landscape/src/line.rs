//! The line between two networks.

use swa_core::Weights;

use crate::distance::{apart, beside};
use crate::points::{check_count, evenly_spaced};
use crate::{LandscapeError, Points};

/// The number of points of a line and of a path, unless another is set: that of `eval_curve.py`.
pub(crate) const POINTS: usize = 61;

/// The line between two networks, `w(t) = (1 - t) start + t end`, with 61 points from `t = 0` to 1, on the first one's device.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use swa_core::Weights;
/// use swa_landscape::Line;
///
/// let device = Device::default();
/// let layer = || -> Linear { LinearConfig::new(4, 2).init(&device) };
/// let line = Line::between(Weights::of(&layer())?, Weights::of(&layer())?)?.with_points(3)?;
///
/// // Losses at t = 0, 1/2 and 1. Between the ends', 1.5 would be half-way.
/// let barrier = line.barrier(&[1.0, 4.0, 2.0])?;
/// assert_eq!((barrier.height, barrier.t), (2.5, 0.5));
/// # Ok::<(), swa_landscape::LandscapeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Line {
    start: Weights,
    end: Weights,
    distance: f64,
    points: usize,
}

impl Line {
    /// The line between two networks.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Unlike`], [`LandscapeError::NotFinite`], [`LandscapeError::SameNetwork`] and [`LandscapeError::Weights`].
    pub fn between(start: Weights, end: Weights) -> Result<Self, LandscapeError> {
        let (_, distance) = apart(&start, &end)?;
        Ok(Self {
            end: beside(&start, end),
            start,
            distance,
            points: POINTS,
        })
    }

    /// The same with this number of points, at least 2.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Invalid`] for fewer.
    pub fn with_points(mut self, points: usize) -> Result<Self, LandscapeError> {
        check_count("the number of points of a line", points)?;
        self.points = points;
        Ok(self)
    }

    /// The L2 distance between the two networks.
    pub fn distance(&self) -> f64 {
        self.distance
    }

    /// The barrier of a score, such as the loss, that was evaluated at all points of the line: see [`Barrier`].
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Count`] for another number of scores than of points.
    pub fn barrier(&self, scores: &[f64]) -> Result<Barrier, LandscapeError> {
        Barrier::of(&self.coordinates(), scores)
    }
}

impl Points for Line {
    /// `t`. [`weights`](Self::weights) takes values outside of `[0, 1]` too.
    type At = f64;

    fn coordinates(&self) -> Vec<f64> {
        evenly_spaced(0.0, 1.0, self.points)
    }

    /// At `t = 1`, it is the second network as it is, and elsewhere its running statistics are those of the first.
    fn weights(&self, t: f64) -> Result<Weights, LandscapeError> {
        if t == 1.0 {
            Ok(self.end.clone())
        } else {
            Ok(self.start.clone().lerp(&self.end, t)?)
        }
    }
}

/// The barrier between two networks: the largest height of a score on the line between them above the line between the scores at its
/// ends,
///
/// ```text
/// max over t of  score(t) - ((1 - t) score(0) + t score(1))
/// ```
///
/// which is 0 at least, for the ends. Source: Entezari et al. 2022, *The Role of Permutation Invariance in Linear Mode Connectivity*,
/// def. 2.1. For ends with equal scores it is that of Frankle et al. 2020, *Linear Mode Connectivity and the Lottery Ticket
/// Hypothesis*, sec. 2, who subtract the mean of the ends' scores, so that it is more than 0 wherever these differ.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Barrier {
    /// The height, in units of the score. NaN if an end is a gap.
    pub height: f64,
    /// The `t` of the point with that height.
    pub t: f64,
    /// The number of gaps: points whose score is NaN or infinite. They have no part in the height.
    pub gaps: usize,
}

impl Barrier {
    /// The barrier of scores that were evaluated at `ts`, in order, the first and the last of which are the ends'.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Count`] for another number of scores than of points, and for none.
    pub fn of(ts: &[f64], scores: &[f64]) -> Result<Self, LandscapeError> {
        let (Some(first), Some(last), true) =
            (scores.first(), scores.last(), ts.len() == scores.len())
        else {
            return Err(LandscapeError::Count {
                name: "scores of a line",
                expected: ts.len(),
                got: scores.len(),
            });
        };
        let mut barrier = Self {
            height: if first.is_finite() && last.is_finite() {
                0.0
            } else {
                f64::NAN
            },
            t: 0.0,
            gaps: scores.iter().filter(|score| !score.is_finite()).count(),
        };
        for (t, score) in ts.iter().zip(scores) {
            let height = score - ((1.0 - t) * first + t * last);
            if height.is_finite() && height > barrier.height {
                (barrier.height, barrier.t) = (height, *t);
            }
        }
        Ok(barrier)
    }
}
