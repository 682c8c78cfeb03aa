//! Float tensors of any rank, in one list.

#[cfg(any(feature = "flex", feature = "cubecl"))]
use burn::backend::DispatchTensorKind;
use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, FloatDType, Shape, Tensor};

/// The elements of a float tensor of any rank, as a vector in row-major order.
///
/// The tensor keeps the layout of its device. CUDA and ROCm pad the rows of a tensor of two dimensions or more, so that it would
/// have to be copied to be flat. The kernels here read it as it is instead.
#[derive(Debug, Clone)]
pub(crate) struct Floats(DispatchTensor);

impl Floats {
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }

    /// The elements as a tensor of any shape with the same number of elements.
    pub(crate) fn into_tensor<const D: usize>(self, shape: impl Into<Shape>) -> Tensor<D> {
        let shape = shape.into();
        if self.0.shape() == shape {
            return Tensor::from_dispatch(self.0);
        }
        self.of_any_rank().reshape(shape)
    }

    /// A tensor of shape `[len]`.
    pub(crate) fn flat(self) -> Tensor<1> {
        let shape = [self.len()];
        self.into_tensor(shape)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.shape().num_elements()
    }

    pub(crate) fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub(crate) fn device(&self) -> Device {
        Device::new(TensorMetadata::device(&self.0))
    }

    /// The same in `dtype`, without a copy if it has that dtype already.
    pub(crate) fn cast(self, dtype: FloatDType) -> Self {
        Self::of(cast(self.of_any_rank(), dtype))
    }

    /// The same on `device`, without a copy if it is there already.
    pub(crate) fn moved_to(self, device: &Device) -> Self {
        if self.device() == *device {
            return self;
        }
        Self::of(self.of_any_rank().to_device(device))
    }

    #[cfg(any(feature = "flex", feature = "cubecl"))]
    pub(super) fn kind(&self) -> &DispatchTensorKind {
        &self.0.kind
    }

    #[cfg(feature = "flex")]
    pub(super) fn kind_mut(&mut self) -> &mut DispatchTensorKind {
        &mut self.0.kind
    }

    /// The tensor with a wrong rank in its type, for operations that do not use the rank.
    pub(crate) fn of_any_rank(self) -> Tensor<1> {
        Tensor::from_dispatch(self.0)
    }
}

/// `tensor` in `dtype`, without a copy if it has that dtype already.
pub(crate) fn cast<const D: usize>(tensor: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    if tensor.dtype() == DType::from(dtype) {
        return tensor;
    }
    tensor.cast(dtype)
}
