//! One layer of a VGG's `features`, named only by its position.

use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::nn::{BatchNorm, Relu};
use burn::tensor::Tensor;

use crate::transparent::transparent_module;

/// A layer that maps images to images: what PyTorch's `nn.Sequential` holds in a VGG.
#[derive(Debug, Clone)]
pub(crate) enum FeatureLayer {
    Convolution(Conv2d),
    BatchNorm(BatchNorm),
    Relu(Relu),
    MaxPool(MaxPool2d),
}

transparent_module!(FeatureLayer {
    Convolution,
    BatchNorm,
    Relu,
    MaxPool,
});

impl FeatureLayer {
    /// `[batch, channels_in, height, width]` to `[batch, channels_out, height_out, width_out]`.
    pub(crate) fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(layer) => layer.forward(input),
            Self::BatchNorm(layer) => layer.forward(input),
            Self::Relu(layer) => layer.forward(input),
            Self::MaxPool(layer) => layer.forward(input),
        }
    }
}
