//! Points in weight space, to be evaluated.

use swa_core::Weights;

use crate::LandscapeError;

/// A set of points in weight space, in a fixed order, each with its coordinates: a [`Grid`](crate::Grid) on a plane,
/// [`Rays`](crate::Rays), a [`Line`](crate::Line), a [`CurvePath`](crate::CurvePath), or one of your own.
pub trait Points {
    /// The coordinates of a point.
    type At: Copy;

    /// The coordinates of all points, in order.
    fn coordinates(&self) -> Vec<Self::At>;

    /// The weights of the network at these coordinates. They depend on nothing else, so that the points can be evaluated in any
    /// order.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] if the device could not be read.
    fn weights(&self, at: Self::At) -> Result<Weights, LandscapeError>;
}

/// `count` numbers from `from` to `to`, as by numpy's `linspace`: the last is `to` itself.
pub(crate) fn evenly_spaced(from: f64, to: f64, count: usize) -> Vec<f64> {
    let step = (to - from) / count.saturating_sub(1) as f64;
    let at = |index: usize| {
        if index + 1 == count {
            to
        } else {
            from + index as f64 * step
        }
    };
    (0..count).map(at).collect()
}

/// Checks a number of points.
///
/// # Errors
///
/// [`LandscapeError::Invalid`] below 2.
pub(crate) fn check_count(name: &'static str, count: usize) -> Result<(), LandscapeError> {
    if count >= 2 {
        Ok(())
    } else {
        let expected = "at least 2, one for each end";
        Err(LandscapeError::invalid(name, expected, count))
    }
}
