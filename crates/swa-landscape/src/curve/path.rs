//! A curve that is made, to be evaluated.

use swa_core::Weights;

use super::CurveShape;
use crate::distance::beside;
use crate::error::of_network;
use crate::line::POINTS;
use crate::points::{check_count, evenly_spaced};
use crate::{LandscapeError, Points};

/// A curve through weight space, given by its shape and its points: a [`Curve`](super::Curve) after its training, for example. It is
/// evaluated at 61 values of `t`, evenly spaced from 0 to 1, as by `eval_curve.py`.
#[derive(Debug, Clone)]
pub struct CurvePath {
    shape: CurveShape,
    points: Vec<Weights>,
    count: usize,
}

impl CurvePath {
    /// The curve of this shape with these points: an end, the bends, and the other end. It is on the first one's device.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Invalid`] for fewer than 2 points, and [`LandscapeError::Unlike`] for points of different networks.
    pub fn through(shape: CurveShape, mut points: Vec<Weights>) -> Result<Self, LandscapeError> {
        check_count(
            "the number of a curve's points, its ends among them",
            points.len(),
        )?;
        let (first, others) = points.split_at(1);
        for (place, other) in others.iter().enumerate() {
            let alike = first[0].layout().check_alike(other.layout());
            alike.map_err(of_network(place + 1))?;
        }
        let first = points[0].clone();
        for point in &mut points {
            *point = beside(&first, point.clone());
        }
        Ok(Self {
            shape,
            points,
            count: POINTS,
        })
    }

    /// The same, evaluated at this number of points, at least 2.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Invalid`] for fewer.
    pub fn with_points(mut self, points: usize) -> Result<Self, LandscapeError> {
        check_count("the number of points of a path", points)?;
        self.count = points;
        Ok(self)
    }

    /// The points that the curve is made of: an end, the bends, and the other end.
    pub fn points(&self) -> &[Weights] {
        &self.points
    }

    /// The L2 distances between the points at which the path is evaluated, each from the one before: one less than there are points.
    ///
    /// They come from the products of the vectors between the points that the curve is made of, and not from the weights at each `t`.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] if the device could not be read.
    pub fn distances(&self) -> Result<Vec<f64>, LandscapeError> {
        // With d_k = p_k - p_0, whose coefficients c_k differ by a_k: the square of the distance is sum of a_j a_k <d_j, d_k>.
        let from_first = self.points[1..].iter();
        let from_first = from_first.map(|point| point.axpy(-1.0, &self.points[0]));
        let from_first = from_first.collect::<Result<Vec<Weights>, _>>()?;
        let count = from_first.len();
        let mut products = vec![vec![0.0; count]; count];
        for j in 0..count {
            for k in j..count {
                products[j][k] = from_first[j].dot(&from_first[k])?;
                products[k][j] = products[j][k];
            }
        }
        let coefficients = self.coordinates().into_iter();
        let coefficients: Vec<Vec<f64>> = coefficients
            .map(|t| self.shape.coefficients(t, self.points.len()))
            .collect();
        let distances = coefficients.windows(2).map(|pair| {
            let change: Vec<f64> = (1..=count).map(|k| pair[1][k] - pair[0][k]).collect();
            let rows = products.iter().zip(&change).map(|(row, a)| {
                let terms = row.iter().zip(&change);
                a * terms.map(|(product, b)| product * b).sum::<f64>()
            });
            rows.sum::<f64>().max(0.0).sqrt()
        });
        Ok(distances.collect())
    }

    /// The statistics of a score along the path, such as the loss, that was evaluated at all its points.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Count`] for another number of scores than of points, and [`LandscapeError::Weights`] if the device could not be
    /// read.
    pub fn statistics(&self, scores: &[f64]) -> Result<PathStatistics, LandscapeError> {
        PathStatistics::of(scores, &self.distances()?)
    }
}

impl Points for CurvePath {
    /// `t`.
    type At = f64;

    fn coordinates(&self) -> Vec<f64> {
        evenly_spaced(0.0, 1.0, self.count)
    }

    /// At the ends, it is the network that was given, as it is. Elsewhere its running statistics are those of the first point that has
    /// a part in it.
    fn weights(&self, t: f64) -> Result<Weights, LandscapeError> {
        Ok(combined(
            self.shape,
            t,
            &self.points.iter().collect::<Vec<_>>(),
        )?)
    }
}

/// The weights at `t` of a curve with these points. Points without a part are left out, so that those with an infinity, as in a mask,
/// add no `0 * inf`.
pub(super) fn combined(
    shape: CurveShape,
    t: f64,
    points: &[&Weights],
) -> Result<Weights, swa_core::WeightsError> {
    let coefficients = shape.coefficients(t, points.len()).into_iter();
    let terms = coefficients.zip(points.iter().copied());
    let terms: Vec<(f64, &Weights)> = terms.filter(|(c, _)| *c != 0.0).collect();
    match terms.as_slice() {
        [(1.0, point)] => Ok((*point).clone()),
        terms => Weights::combine(terms),
    }
}

/// The statistics of a score along a path: those of `eval_curve.py`.
///
/// Points whose score is NaN or infinite are gaps. They are counted, and have no part in the other statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PathStatistics {
    /// The smallest score. NaN if all are gaps, as are the other statistics then.
    pub smallest: f64,
    /// The largest score.
    pub largest: f64,
    /// The mean of the scores.
    pub mean: f64,
    /// The integral of the score over the path's length, by the trapezium rule, divided by the length: the mean score of a point that
    /// is uniform on the path. Of the steps between two points that both have a score.
    pub integral: f64,
    /// The path's L2 length, gaps included.
    pub length: f64,
    /// The number of gaps.
    pub gaps: usize,
}

impl PathStatistics {
    /// The statistics of the scores of points, in order, with the distance of each from the one before.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Count`] for another number of scores than one more than there are distances.
    pub fn of(scores: &[f64], distances: &[f64]) -> Result<Self, LandscapeError> {
        if scores.len() != distances.len() + 1 {
            return Err(LandscapeError::Count {
                name: "scores of a path",
                expected: distances.len() + 1,
                got: scores.len(),
            });
        }
        let numbers: Vec<f64> = scores.iter().copied().filter(|it| it.is_finite()).collect();
        let steps = scores.windows(2).zip(distances);
        let steps = steps.map(|(pair, distance)| (f64::midpoint(pair[0], pair[1]), *distance));
        let steps: Vec<(f64, f64)> = steps.filter(|(mean, _)| mean.is_finite()).collect();
        let area: f64 = steps.iter().map(|(mean, distance)| mean * distance).sum();
        let between: f64 = steps.iter().map(|(_, distance)| distance).sum();
        Ok(Self {
            smallest: numbers.iter().copied().fold(f64::NAN, f64::min),
            largest: numbers.iter().copied().fold(f64::NAN, f64::max),
            mean: numbers.iter().sum::<f64>() / numbers.len() as f64,
            integral: area / between,
            length: distances.iter().sum(),
            gaps: scores.len() - numbers.len(),
        })
    }
}
