//! The last layer of a residual or dense network before its linear one.

use burn::tensor::Tensor;

/// `[batch, channels, height, width]` to `[batch, channels]`: the mean over height and width, torchvision's adaptive average
/// pooling to 1x1.
pub(crate) fn mean_of_pixels(features: Tensor<4>) -> Tensor<2> {
    features.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}
