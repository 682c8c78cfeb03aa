//! Errors of weights.

use thiserror::Error;

/// The reason why the weights of a module could not be read, combined or put into another module.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The second operand lacks a parameter of the first, or weights lack one of the module that they are put into.
    #[error(
        "the weights have no parameter `{path}`, which the first operand (or the module that they are put into) has: take \
         those of a module with the same configuration"
    )]
    MissingParameter {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// The second operand has a parameter that the first lacks, or weights have one that the module lacks.
    #[error(
        "the weights' parameter `{path}` is not in the first operand (or in the module that they are put into): take those \
         of a module with the same configuration"
    )]
    UnknownParameter {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// A parameter of the second operand, or of the weights for a module, has another shape.
    #[error(
        "parameter `{path}` has shape {got:?}, expected {expected:?}: take the weights of a module with the same \
         configuration"
    )]
    ShapeMismatch {
        /// The parameter's path, as in the module's record.
        path: String,
        /// The shape in the first operand, or in the module.
        expected: Vec<usize>,
        /// The shape in the second, or in the weights for the module.
        got: Vec<usize>,
    },

    /// Two parameters have the same path.
    #[error(
        "the module has two parameters at `{path}`, which its record could not tell apart either: its hand-written `visit` \
         and `map` must call `enter_module` with a name of its own for each"
    )]
    SharedPath {
        /// Their path.
        path: String,
    },

    /// The module's `visit` and `map` do not reach the same parameters.
    #[error(
        "the module has a parameter at `{path}` by one of its `visit` and `map`, and none by the other: where they are \
         written by hand, both must pass all parameters, and call `enter_module` with the same names"
    )]
    PathsDiffer {
        /// The path.
        path: String,
    },

    /// A parameter carries a reparameterization such as LoRA.
    #[error(
        "parameter `{path}` is reparameterized (LoRA or the like), and a sum of factors is not the factors of the sum: take \
         the weights of `model.valid().materialize()` instead"
    )]
    Reparameterized {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// A parameter is quantised.
    #[error(
        "parameter `{path}` is quantised, and there is no arithmetic on quantised values: take the weights before the model \
         is quantised, and quantise what you put them into"
    )]
    Quantized {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// A combination of no weights.
    #[error("a combination needs at least one vector of weights")]
    Nothing,

    /// A direction that has no length.
    #[error(
        "a vector of length {length} has no direction: take weights that are not all zero, and finite"
    )]
    NoDirection {
        /// The length.
        length: f64,
    },

    /// The device could not be read.
    #[error(
        "reading from the device that holds the weights failed: {reason}. If its memory is full, take fewer vectors at a \
         time, or keep them on the CPU"
    )]
    Device {
        /// The device's own message.
        reason: String,
    },
}
