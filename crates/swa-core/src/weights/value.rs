//! The values of a parameter, of any kind and rank.

use burn::tensor::{Bool, Device, Float, Int, Shape, Tensor, kind::Basic};

use crate::kernels::Floats;

/// The values of a parameter, flat.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Float(Floats),
    Int(Tensor<1, Int>),
    Bool(Tensor<1, Bool>),
}

impl Value {
    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Float(values) => values.device(),
            Self::Int(values) => values.device(),
            Self::Bool(values) => values.device(),
        }
    }

    pub(crate) fn moved_to(self, device: &Device) -> Self {
        match self {
            Self::Float(values) => Self::Float(values.moved_to(device)),
            Self::Int(values) => Self::Int(values.to_device(device)),
            Self::Bool(values) => Self::Bool(values.to_device(device)),
        }
    }
}

/// A kind of tensor that a parameter can be.
pub(super) trait Kind: Basic {
    fn value<const D: usize>(tensor: Tensor<D, Self>) -> Value;

    /// `None` if the values are of another kind.
    fn tensor<const D: usize>(value: &Value, shape: &[usize]) -> Option<Tensor<D, Self>>;
}

impl Kind for Float {
    fn value<const D: usize>(tensor: Tensor<D>) -> Value {
        Value::Float(Floats::of(tensor))
    }

    fn tensor<const D: usize>(value: &Value, shape: &[usize]) -> Option<Tensor<D>> {
        match value {
            Value::Float(values) => Some(values.clone().into_tensor(shape.to_vec())),
            Value::Int(_) | Value::Bool(_) => None,
        }
    }
}

impl Kind for Int {
    fn value<const D: usize>(tensor: Tensor<D, Int>) -> Value {
        let elements = [tensor.shape().num_elements()];
        Value::Int(tensor.reshape(elements))
    }

    fn tensor<const D: usize>(value: &Value, shape: &[usize]) -> Option<Tensor<D, Int>> {
        match value {
            Value::Int(values) => Some(values.clone().reshape(Shape::from(shape.to_vec()))),
            Value::Float(_) | Value::Bool(_) => None,
        }
    }
}

impl Kind for Bool {
    fn value<const D: usize>(tensor: Tensor<D, Bool>) -> Value {
        let elements = [tensor.shape().num_elements()];
        Value::Bool(tensor.reshape(elements))
    }

    fn tensor<const D: usize>(value: &Value, shape: &[usize]) -> Option<Tensor<D, Bool>> {
        match value {
            Value::Bool(values) => Some(values.clone().reshape(Shape::from(shape.to_vec()))),
            Value::Float(_) | Value::Int(_) => None,
        }
    }
}
