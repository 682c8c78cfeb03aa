//! Convolutions initialised as in the SWA paper's code and in torchvision.
//!
//! Weights are normal with mean 0 and standard deviation `sqrt(2 / fan)` (He et al.,
//! [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)). Of a `k x k` kernel, the fan is `k * k * channels_out` (equation 14) but in
//! DenseNet, where it is `k * k * channels_in` (equation 10). Biases are 0.
//!
//! The other layers keep Burn's defaults, which are PyTorch's. A `BatchNorm` starts with weight 1 and
//! bias 0, a `Linear` uniform in `±1 / sqrt(fan_in)`, weight and bias alike.

use burn::module::Initializer;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::Device;

/// The choice of a bias for a convolution. Before a BatchNorm, a bias is of no use, since BatchNorm subtracts it again.
#[derive(Clone, Copy)]
pub(crate) enum Bias {
    Zeros,
    None,
}

/// A `kernel_size x kernel_size` convolution as Burn initialises it, padded so that at stride 1 it keeps height and width.
///
/// `kernel_size` is odd.
pub(crate) fn padded(channels: [usize; 2], kernel_size: usize, stride: usize) -> Conv2dConfig {
    let padding = kernel_size / 2;
    Conv2dConfig::new(channels, [kernel_size, kernel_size])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(
            padding, padding, padding, padding,
        ))
}

/// A `kernel_size x kernel_size` convolution with the fan-out's deviation, [padded].
pub(crate) fn convolution(
    channels: [usize; 2],
    kernel_size: usize,
    stride: usize,
    bias: Bias,
    device: &Device,
) -> Conv2d {
    let mut convolution = config(channels, kernel_size, stride, true).init(device);
    if let Bias::Zeros = bias {
        convolution.bias = Some(Initializer::Zeros.init([channels[1]], device));
    }
    convolution
}

/// The same with the fan-in's deviation, and without a bias.
pub(crate) fn convolution_by_fan_in(
    channels: [usize; 2],
    kernel_size: usize,
    stride: usize,
    device: &Device,
) -> Conv2d {
    config(channels, kernel_size, stride, false).init(device)
}

fn config(
    channels: [usize; 2],
    kernel_size: usize,
    stride: usize,
    fan_out_only: bool,
) -> Conv2dConfig {
    padded(channels, kernel_size, stride)
        // The layer would draw its bias from the weight's distribution.
        .with_bias(false)
        .with_initializer(Initializer::KaimingNormal {
            gain: 2.0_f64.sqrt(),
            fan_out_only,
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::Tensor;

    /// Mean and standard deviation, in f64.
    pub(crate) fn moments<const D: usize>(tensor: Tensor<D>) -> [f64; 2] {
        let values = tensor.into_data().try_to_vec::<f32>().unwrap();
        let count = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let square = values
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>();
        [mean, (square / count).sqrt()]
    }

    #[test]
    fn convolutions_have_the_standard_deviation_of_their_fan_out() {
        let device = Device::flex();
        device.seed(1);
        let convolution = convolution([256, 512], 3, 1, Bias::Zeros, &device);

        let [mean, deviation] = moments(convolution.weight.val());

        // sqrt(2 / (3 * 3 * 512)) = sqrt(1 / 2304) = 1 / 48; the fan-in would give 1 / 34.
        // Of 1,179,648 normal draws, the mean is off by 1 / 1086 deviations, the deviation by 1 / 1536, on average.
        assert!((deviation * 48.0 - 1.0).abs() < 0.005, "{deviation}");
        assert!((mean * 48.0).abs() < 0.005, "{mean}");
    }

    #[test]
    fn in_densenet_the_standard_deviation_is_that_of_the_fan_in() {
        let device = Device::flex();
        device.seed(1);
        let convolution = convolution_by_fan_in([512, 256], 3, 1, &device);

        let [mean, deviation] = moments(convolution.weight.val());

        // sqrt(2 / (3 * 3 * 512)) = 1 / 48; the fan-out would give 1 / 34.
        assert!((deviation * 48.0 - 1.0).abs() < 0.005, "{deviation}");
        assert!((mean * 48.0).abs() < 0.005, "{mean}");
        assert!(convolution.bias.is_none());
    }

    #[test]
    fn a_convolution_bias_is_zero_or_absent() {
        let device = Device::flex();
        let with_bias = convolution([3, 4], 3, 1, Bias::Zeros, &device);
        let without = convolution([3, 4], 3, 1, Bias::None, &device);

        let bias = with_bias.bias.unwrap().val().into_data();
        assert_eq!(bias.try_to_vec::<f32>().unwrap(), [0.0; 4]);
        assert!(without.bias.is_none());
    }

    #[test]
    fn a_convolution_keeps_the_image_size_and_a_stride_divides_it() {
        let device = Device::flex();
        let images = Tensor::<4>::zeros([1, 3, 8, 8], &device);

        for (kernel_size, stride, side) in [(3, 1, 8), (3, 2, 4), (1, 1, 8), (1, 2, 4), (7, 2, 4)] {
            let convolution = convolution([3, 2], kernel_size, stride, Bias::None, &device);
            let output = convolution.forward(images.clone());
            assert_eq!(output.dims(), [1, 2, side, side]);
        }
    }

    /// The networks rely on this default of Burn's.
    #[test]
    fn a_linear_layer_is_uniform_within_1_over_root_fan_in() {
        let device = Device::flex();
        device.seed(2);
        let linear = LinearConfig::new(64, 4096).init(&device);

        // 1 / sqrt(64) = 1 / 8; a uniform distribution's standard deviation is its half-width / sqrt(3).
        let bias = linear.bias.unwrap().val().reshape([1, 4096]);
        for values in [linear.weight.val(), bias] {
            let largest = values.clone().abs().max().into_scalar::<f32>();
            assert!(largest <= 0.125 && largest > 0.124, "{largest}");
            let [_, deviation] = moments(values);
            assert!(
                (deviation * 8.0 * 3.0_f64.sqrt() - 1.0).abs() < 0.05,
                "{deviation}"
            );
        }
    }
}
