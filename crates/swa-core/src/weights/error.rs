//! What can go wrong with weights.

use thiserror::Error;

/// Why the weights of a module could not be had, combined or put into another.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The second operand, or what is put into a module, lacks a parameter.
    #[error(
        "parameter `{path}` is missing: combine weights of the same module only, and put them into one that is built as \
         theirs is"
    )]
    MissingParameter {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// The second operand, or what is put into a module, has a parameter that the first, or the module, lacks.
    #[error(
        "parameter `{path}` is one too many: combine weights of the same module only, and put them into one that is built \
         as theirs is"
    )]
    UnknownParameter {
        /// The parameter's path, as in the module's record.
        path: String,
    },

    /// A parameter of the second operand, or of what is put into a module, has another shape.
    #[error(
        "parameter `{path}` has shape {got:?}, expected {expected:?}: combine weights of the same module only, and put them \
         into one that is built as theirs is"
    )]
    ShapeMismatch {
        /// The parameter's path, as in the module's record.
        path: String,
        /// The shape in the first operand, or in the module.
        expected: Vec<usize>,
        /// The shape in the second, or in what is put into the module.
        got: Vec<usize>,
    },

    /// Two parameters have one path.
    #[error(
        "the module has two parameters at `{path}`, which its record could not tell apart either: its hand-written `visit` \
         and `map` must call `enter_module` with a name of its own for each"
    )]
    SharedPath {
        /// Their path.
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
    #[error("reading from the device that holds the weights failed: {reason}")]
    Device {
        /// What the device says.
        reason: String,
    },
}
