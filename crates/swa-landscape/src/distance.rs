//! Distances between networks, and those that rounding alone makes.

use burn::tensor::DType;
use swa_core::{Role, Weights};

use crate::LandscapeError;
use crate::error::of_network;

/// The distance that the rounding of the weights can make: their norm times the precision of their dtype.
pub(crate) fn rounding(weights: &Weights, norm: f64) -> f64 {
    let parameters = weights.layout().parameters().iter();
    let of_weights = parameters.filter(|parameter| parameter.role == Role::Weight);
    let precision = of_weights.map(|parameter| match parameter.dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    });
    norm * precision.fold(0.0, f64::max)
}

/// The norm of the weights of the network with this number.
///
/// # Errors
///
/// [`LandscapeError::NotFinite`], and [`LandscapeError::Weights`] if the device could not be read.
pub(crate) fn finite_norm(weights: &Weights, network: usize) -> Result<f64, LandscapeError> {
    let norm = weights.norm()?;
    if norm.is_finite() {
        Ok(norm)
    } else {
        Err(LandscapeError::NotFinite { network })
    }
}

/// The weights on the device of the first network's, if that is on a single one.
pub(crate) fn beside(first: &Weights, weights: Weights) -> Weights {
    match first.devices().as_slice() {
        [device] => weights.to_device(device),
        _ => weights,
    }
}

/// The vector from the first network to the second, and its length.
///
/// # Errors
///
/// [`LandscapeError::Unlike`], [`LandscapeError::NotFinite`], [`LandscapeError::SameNetwork`] and [`LandscapeError::Weights`].
pub(crate) fn apart(first: &Weights, second: &Weights) -> Result<(Weights, f64), LandscapeError> {
    let between = Weights::combine(&[(-1.0, first), (1.0, second)]);
    let between = between.map_err(of_network(1))?;
    let norm = finite_norm(first, 0)?.max(finite_norm(second, 1)?);
    let distance = between.norm()?;
    if distance > rounding(first, norm) {
        Ok((between, distance))
    } else {
        Err(LandscapeError::SameNetwork { distance })
    }
}
