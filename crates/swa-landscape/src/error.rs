//! Errors of geometry in weight space.

use std::error::Error;
use std::fmt::Display;

use swa_core::{BatchNormError, WeightsError};
use thiserror::Error;

/// The reason why a plane, a ray, a line or a curve could not be made, or a point on it not be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LandscapeError {
    /// An invalid setting.
    #[error("{name} must be {expected}, not {got}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The values that are valid.
        expected: &'static str,
        /// The value that was given.
        got: String,
    },

    /// A network with other parameters than the first one.
    #[error("the {} network is unlike the first: {error}", ordinal(*network))]
    Unlike {
        /// The network's number, counted from 0.
        network: usize,
        /// The parameter, and the difference.
        error: WeightsError,
    },

    /// A network with weights that are not finite.
    #[error(
        "the {} network holds a NaN or an infinity, and there is no geometry with it: its training has diverged. Take an \
         earlier checkpoint",
        ordinal(*network)
    )]
    NotFinite {
        /// The network's number, counted from 0.
        network: usize,
    },

    /// Two networks with the same weights.
    #[error(
        "the first and the second network are {distance:e} apart, no more than their weights are rounded, so that nothing is between \
         them: give two networks of different trainings, or of different steps of one"
    )]
    SameNetwork {
        /// The L2 distance of their weights.
        distance: f64,
    },

    /// Three networks on a line.
    #[error(
        "the third network is {distance:e} from the line through the first two, no more than their weights are rounded, so that many \
         planes pass through the three: give another third network, or take `Plane::through_random`"
    )]
    OnALine {
        /// The L2 distance of the third network from the line through the others.
        distance: f64,
    },

    /// A curve of networks without a parameter that can be trained.
    #[error(
        "no parameter of the first network requires a gradient, so that a curve between the two has nothing to train: unfreeze it \
         (`Module::unfreeze`)"
    )]
    NothingToTrain,

    /// Another number of values than of points.
    #[error("there are {got} {name}, expected {expected}: one for each point, in order")]
    Count {
        /// The values.
        name: &'static str,
        /// The number of points.
        expected: usize,
        /// The number of values.
        got: usize,
    },

    /// BatchNorm could not be re-estimated at a point, for another reason than that its statistics are not finite.
    #[error("point {index}: {error}")]
    BatchNorm {
        /// The point, counted from 0.
        index: usize,
        /// The reason.
        error: BatchNormError,
    },

    /// A point could not be scored.
    #[error("point {index} could not be scored: {error}")]
    Score {
        /// The point, counted from 0.
        index: usize,
        /// The reason that the score's function gave.
        error: Box<dyn Error + Send + Sync>,
    },

    /// The settings of a re-estimation of BatchNorm, or its re-estimation for a validation.
    #[error(transparent)]
    Reestimation(#[from] BatchNormError),

    /// Weights could not be read, combined or put into a model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl LandscapeError {
    /// The error for a setting whose value is not one of those expected.
    pub(crate) fn invalid(name: &'static str, expected: &'static str, got: impl Display) -> Self {
        let got = got.to_string();
        Self::Invalid {
            name,
            expected,
            got,
        }
    }
}

/// The place of a network among those that are given, in a word.
fn ordinal(network: usize) -> &'static str {
    match network {
        0 => "first",
        1 => "second",
        2 => "third",
        _ => "fourth or a later",
    }
}

/// The error for weights that are to be like those of the first network.
pub(crate) fn of_network(network: usize) -> impl Fn(WeightsError) -> LandscapeError {
    move |error| match error {
        WeightsError::MissingParameter { .. }
        | WeightsError::UnknownParameter { .. }
        | WeightsError::ShapeMismatch { .. } => LandscapeError::Unlike { network, error },
        error => LandscapeError::Weights(error),
    }
}
