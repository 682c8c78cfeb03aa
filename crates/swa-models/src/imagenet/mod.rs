//! ResNet and DenseNet for ImageNet, as torchvision has them.

mod dense_block;
mod densenet;
mod resnet;

use burn::nn::PaddingConfig2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};

pub(crate) use densenet::SMALLEST_SIDE as SMALLEST_SIDE_OF_DENSENET;
pub use densenet::{DenseNet, DenseNetConfig};
pub use resnet::{ResNet, ResNetConfig};

/// The classes of ImageNet: `classes` by default.
const CLASSES: usize = 1000;

/// The 3x3 max pooling with stride 2 after the first convolution. The padding is never the maximum.
fn max_pool() -> MaxPool2d {
    MaxPool2dConfig::new([3, 3])
        .with_strides([2, 2])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    #[test]
    fn the_padding_of_max_pooling_is_never_the_maximum() {
        // Windows end at rows and columns 1 and 3 of 4, and begin at -1 and 1.
        let values = Tensor::<1>::from_floats(
            [
                -9., -8., -7., -6., -5., -4., -3., -2., -16., -15., -14., -13., -12., -11., -10.,
                -1.,
            ],
            &Device::flex(),
        );
        let pooled = max_pool().forward(values.reshape([1, 1, 4, 4]));
        let pooled: Vec<f32> = pooled.into_data().try_to_vec().unwrap();
        assert_eq!(pooled, [-4., -2., -4., -1.]);
    }
}
