//! Errors of an average.

use thiserror::Error;

use crate::WeightsError;

/// The reason why a model could not be averaged, or an average could not be used.
///
/// No error changes an average: it keeps the value of its last good update.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum AverageError {
    /// The average was asked for before its first update.
    #[error(
        "nothing has been averaged yet: update the average with the model's weights at least once \
         before asking for the averaged model"
    )]
    NothingAveraged,

    /// The model lacks a parameter that the average holds.
    #[error(
        "the model has no parameter `{path}`, which the average holds: \
         update it with the model it was made from, or make a new average of this one"
    )]
    MissingParameter {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// The model holds a parameter that the average lacks.
    #[error(
        "the model's parameter `{path}` is not in the average: \
         update it with the model it was made from, or make a new average of this one"
    )]
    UnknownParameter {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// A parameter of the model has another shape than in the average.
    #[error(
        "parameter `{path}` has shape {got:?} in the model and {expected:?} in the average: \
         update it with the model it was made from, or make a new average of this one"
    )]
    ShapeMismatch {
        /// The parameter's path, as in the module's record.
        path: String,
        /// Its shape in the average.
        expected: Vec<usize>,
        /// Its shape in the model.
        got: Vec<usize>,
    },

    /// A parameter that was to be averaged holds a NaN or an infinity.
    #[error(
        "parameter `{path}` holds a NaN or an infinity: it was not averaged, and the average keeps \
         its value after {updates} updates. The training has diverged: lower its learning rate, or \
         go back to an earlier checkpoint{}",
        if *updates == 0 { "; or the model began with it: see where its weights are from" } else { "" }
    )]
    NotFinite {
        /// The first such parameter's path, as in the module's record.
        path: String,
        /// The number of updates that the average holds.
        updates: usize,
    },

    /// A parameter that the training does not change holds a NaN, or an infinity that the average does not hold.
    #[error(
        "parameter `{path}`, which requires no gradient, holds a NaN, or an infinity that the average does not hold in the \
         same place: it was not averaged, and the average keeps its value after {updates} updates. A constant infinity, as in \
         a mask, has to be there before the average is made; a NaN is never averaged: set it to a number, or keep it in a \
         plain tensor, which is no parameter"
    )]
    FrozenNotFinite {
        /// The first such parameter's path, as in the module's record.
        path: String,
        /// The number of updates that the average holds.
        updates: usize,
    },

    /// A parameter carries a reparameterization such as LoRA, although the module was materialized.
    #[error(
        "parameter `{path}` is still reparameterized (LoRA or the like) after the module's `materialize`: where that is \
         written by hand, it must materialize all parameters"
    )]
    Reparameterized {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// A parameter is quantised.
    #[error(
        "parameter `{path}` is quantised, and quantised values cannot be averaged: \
         average the model before it is quantised, and quantise the averaged one"
    )]
    Quantized {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// No weight of the model was to be averaged.
    #[error(
        "none of the model's weights is to be averaged: `with_weights_averaged` has to accept the path of one, such as `{path}` \
         (in a `Learner`, `copied` of `SwaConfig` has to leave one out)"
    )]
    NoneAveraged {
        /// The path of the model's first weight.
        path: String,
    },

    /// The decay is outside of `[0, 1]`.
    #[error("the decay of an exponential average must be in [0, 1], not {decay}: try 0.999")]
    InvalidDecay {
        /// The decay asked for.
        decay: f64,
    },

    /// Another setting of a rule is out of its range.
    #[error("{name} must be {expected}, not {got}")]
    InvalidRule {
        /// The setting.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value.
        got: f64,
    },

    /// The weight that a rule gives is outside of `[0, 1]`.
    #[error(
        "the averaging rule gives update {updates} the weight {weight}, which must be in [0, 1]: \
         the average keeps its value"
    )]
    InvalidWeight {
        /// The number of the update, counted from 0.
        updates: usize,
        /// The weight.
        weight: f64,
    },

    /// Fewer deviations were to be kept than a sample needs.
    #[error(
        "SWAG divides by the number of deviations that it keeps, less one, so that it must be at least 2, not {rank}: its paper \
         keeps 20"
    )]
    TooFewDeviations {
        /// The number of deviations.
        rank: usize,
    },

    /// A sample was asked for from an average that keeps no deviations.
    #[error(
        "the average keeps no deviations to draw samples by: make it with `with_deviations(20)`, or in a `Learner`, \
         set `swag_rank` of `SwaConfig` to 20"
    )]
    NoDeviations,

    /// A sample was asked for before the second update.
    #[error(
        "a sample needs the spread of at least two updates, and there {}: collect more weights, or take the average alone",
        if *collected == 0 { "was none".to_owned() } else { format!("was {collected}") }
    )]
    NoSpread {
        /// The number of updates since the deviations are kept.
        collected: usize,
    },

    /// The scale of a sample's covariance is negative or not finite.
    #[error(
        "the scale of a sample's covariance must be a finite number from 0 on, not {scale}: the paper's is 0.5"
    )]
    InvalidScale {
        /// The scale.
        scale: f64,
    },

    /// The device could not be read.
    #[error("reading from the device that holds the average failed: {reason}")]
    Device {
        /// The device's own message.
        reason: String,
    },

    /// The weights could not be taken out of the model for another reason.
    #[error(transparent)]
    Weights(WeightsError),
}

impl From<WeightsError> for AverageError {
    fn from(error: WeightsError) -> Self {
        match error {
            WeightsError::MissingParameter { path } => Self::MissingParameter { path },
            WeightsError::UnknownParameter { path } => Self::UnknownParameter { path },
            WeightsError::ShapeMismatch {
                path,
                expected,
                got,
            } => Self::ShapeMismatch {
                path,
                expected,
                got,
            },
            WeightsError::Reparameterized { path } => Self::Reparameterized { path },
            WeightsError::Quantized { path } => Self::Quantized { path },
            WeightsError::Device { reason } => Self::Device { reason },
            other => Self::Weights(other),
        }
    }
}
