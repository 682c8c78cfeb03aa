//! The parameters of a vector of weights.

use std::collections::HashMap;

use burn::tensor::DType;

use super::WeightsError;

/// The parameters of a module, in the order of its traversal. Two layouts are alike if they have the same paths, with the same
/// shapes and roles, in any order.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    parameters: Vec<Parameter>,
    places: HashMap<String, usize>,
}

/// A parameter, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its path, as in the module's record: `layer1.0.conv1.weight`.
    pub path: String,
    /// Its shape in the module.
    pub shape: Vec<usize>,
    /// Its dtype in the module. The vector may hold it in a wider one.
    pub dtype: DType,
    /// Its role in the module.
    pub role: Role,
    /// The dimension that runs over filters: for a weight of two dimensions or more, over the outputs of its layer.
    ///
    /// It is 0, as in a convolution of shape `[out, in, height, width]`, but 1 for Burn's `Linear`, whose weight is `[in, out]`,
    /// and for a transposed convolution.
    pub filters: usize,
}

/// The role of a parameter in its module. Arithmetic depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// A float parameter: an element of the vector.
    Weight,
    /// A [`RunningState`](burn::module::RunningState), such as a BatchNorm layer's running mean or variance: no weight, so it is
    /// copied. [`reestimate_batch_norm`] computes new ones for BatchNorm layers.
    ///
    /// [`reestimate_batch_norm`]: crate::reestimate_batch_norm
    RunningStatistic,
    /// An int parameter, copied.
    Int,
    /// A bool parameter, copied.
    Bool,
}

impl Role {
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::Weight | Self::RunningStatistic)
    }
}

impl Layout {
    /// # Errors
    ///
    /// [`WeightsError::SharedPath`].
    pub(super) fn new(parameters: Vec<Parameter>) -> Result<Self, WeightsError> {
        let mut places = HashMap::with_capacity(parameters.len());
        for (place, parameter) in parameters.iter().enumerate() {
            if places.insert(parameter.path.clone(), place).is_some() {
                let path = parameter.path.clone();
                return Err(WeightsError::SharedPath { path });
            }
        }
        Ok(Self { parameters, places })
    }

    /// The parameters, in the order of the module's traversal.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The index of the parameter with this path in [`parameters`](Self::parameters).
    pub fn place(&self, path: &str) -> Option<usize> {
        self.places.get(path).copied()
    }

    /// Checks that another layout is alike.
    ///
    /// # Errors
    ///
    /// [`WeightsError::MissingParameter`], [`WeightsError::UnknownParameter`] and [`WeightsError::ShapeMismatch`], for the first
    /// parameter of the other that differs.
    pub fn check_alike(&self, other: &Self) -> Result<(), WeightsError> {
        self.places_in(other).map(|_| ())
    }

    /// Gives the parameter at `place` another shape.
    pub(super) fn reshape(&mut self, place: usize, shape: &[usize]) {
        self.parameters[place].shape = shape.to_vec();
    }

    /// For each parameter here, its place in `other`.
    ///
    /// # Errors
    ///
    /// [`WeightsError::MissingParameter`], [`WeightsError::UnknownParameter`] and [`WeightsError::ShapeMismatch`], for the first
    /// parameter that differs.
    pub(super) fn places_in(&self, other: &Self) -> Result<Vec<usize>, WeightsError> {
        if let Some(parameter) = self.first_not_in(other) {
            let path = parameter.path.clone();
            return Err(WeightsError::MissingParameter { path });
        }
        if let Some(parameter) = other.first_not_in(self) {
            let path = parameter.path.clone();
            return Err(WeightsError::UnknownParameter { path });
        }
        let places = self.parameters.iter().map(|expected| {
            let place = other.places[&expected.path];
            let got = &other.parameters[place];
            if got.shape == expected.shape {
                Ok(place)
            } else {
                Err(WeightsError::ShapeMismatch {
                    path: got.path.clone(),
                    expected: expected.shape.clone(),
                    got: got.shape.clone(),
                })
            }
        });
        places.collect()
    }

    fn first_not_in(&self, other: &Self) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| {
            let place = other.place(&parameter.path);
            place.is_none_or(|place| other.parameters[place].role != parameter.role)
        })
    }

    /// Tells whether both list the same parameters in the same order.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let alike = |(a, b): (&Parameter, &Parameter)| {
            a.path == b.path && a.role == b.role && a.shape == b.shape
        };
        let mut pairs = self.parameters.iter().zip(&other.parameters);
        self.parameters.len() == other.parameters.len() && pairs.all(alike)
    }
}
