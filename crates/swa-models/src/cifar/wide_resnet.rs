//! The wide residual network for CIFAR, of any 6n+4 depth.
//!
//! A 3x3 convolution to 16 channels, three stages of `n` blocks, BatchNorm, ReLU, the mean over height and width, and
//! a linear layer. A block normalises and activates before each of its two convolutions, and adds its input:
//!
//! `y = x + conv3x3(relu(bn2(conv3x3(relu(bn1(x))))))`
//!
//! | stage                          | 1    | 2    | 3    |
//! |--------------------------------|------|------|------|
//! | channels, widened by `k`       | 16 k | 32 k | 64 k |
//! | height and width               | 32   | 16   | 8    |
//!
//! If a block changes the number of channels or the image size, the `x` that is added goes through a 1x1
//! convolution (`shortcut`).
//!
//! Zagoruyko and Komodakis, [arXiv:1605.07146](https://arxiv.org/abs/1605.07146), as in the SWA paper's code
//! ([`models/wide_resnet.py`](https://github.com/timgaripov/swa/blob/master/models/wide_resnet.py)), which differs from
//! the original in three ways: its convolutions have biases, a block's stride is in its second convolution, and the last
//! BatchNorm has momentum 0.9.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::ModelError;
use crate::error::{DEEPEST, WIDEST, check_classes, check_width_divisor, nearest_depths};
use crate::initialization::padded;
use crate::pooling::mean_of_pixels;

const NETWORK: &str = "WideResNet";

/// Channels of the first convolution.
const STEM: usize = 16;

/// Channels of each stage, before they are widened.
const PLANES: [usize; 3] = [16, 32, 64];

/// The momentum of the last BatchNorm: the weight of the newest batch. The others have the default, 0.1.
const LAST_BATCH_NORM_MOMENTUM: f64 = 0.9;

/// Configuration of a [`WideResNet`], made by [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct WideResNetConfig {
    /// Layers: 6n+4. The SWA paper's is 28.
    pub depth: usize,
    /// The width of the stages, as a multiple of 16, 32 and 64 channels. The SWA paper's is 10.
    pub widen_factor: usize,
    /// Labels to tell apart. 10, as in CIFAR-10, by default.
    #[config(default = 10)]
    pub classes: usize,
    /// Divides the channels of every layer, for small machines: a divisor of 16. The network of the paper, and the
    /// default, is 1.
    #[config(default = 1)]
    pub width_divisor: usize,
}

impl WideResNetConfig {
    /// A freshly initialised network on `device`.
    ///
    /// Weights and biases of convolutions and of the linear layer are uniform in `±1 / sqrt(fan_in)`, PyTorch's default,
    /// which the paper's code does not change. BatchNorms are 1 and 0. Burn draws a parameter when it is first used.
    ///
    /// # Errors
    ///
    /// If the depth is not 6n+4 with an n of at least 1 and up to 10,000, the widening factor is not from 1 to 1000, the width divisor
    /// does not divide 16, or there are no classes.
    pub fn init(&self, device: &Device) -> Result<WideResNet, ModelError> {
        let blocks = blocks_per_stage(self.depth).ok_or_else(|| ModelError::Depth {
            network: NETWORK,
            got: self.depth,
            expected: "6n+4, up to 10000",
            nearest: nearest_depths(self.depth, |depth| blocks_per_stage(depth).is_some()),
        })?;
        if !(1..=WIDEST).contains(&self.widen_factor) {
            return Err(ModelError::WidenFactor {
                network: NETWORK,
                got: self.widen_factor,
            });
        }
        check_classes(NETWORK, self.classes)?;
        check_width_divisor(NETWORK, self.width_divisor, PLANES[0])?;

        let stem = STEM / self.width_divisor;
        let mut channels = stem;
        let mut stage = |planes: usize, first_stride: usize| -> Vec<Block> {
            let planes = planes / self.width_divisor * self.widen_factor;
            (0..blocks)
                .map(|index| {
                    let stride = if index == 0 { first_stride } else { 1 };
                    let block = Block::new(channels, planes, stride, device);
                    channels = planes;
                    block
                })
                .collect()
        };
        let (layer1, layer2, layer3) = (
            stage(PLANES[0], 1),
            stage(PLANES[1], 2),
            stage(PLANES[2], 2),
        );

        Ok(WideResNet {
            conv1: convolution([3, stem], 3, 1, device),
            layer1,
            layer2,
            layer3,
            bn1: BatchNormConfig::new(channels)
                .with_momentum(LAST_BATCH_NORM_MOMENTUM)
                .init(device),
            linear: LinearConfig::new(channels, self.classes).init(device),
        })
    }
}

/// The number of blocks in each stage of a network of this depth, if there is one. The depth counts the first convolution,
/// and in each of three stages one `shortcut` and two convolutions per block.
fn blocks_per_stage(depth: usize) -> Option<usize> {
    let in_stages = depth.checked_sub(4).filter(|layers| *layers > 0)?;
    if depth <= DEEPEST && in_stages.is_multiple_of(6) {
        Some(in_stages / 6)
    } else {
        None
    }
}

/// A convolution with a bias, initialised as PyTorch does.
fn convolution(channels: [usize; 2], kernel_size: usize, stride: usize, device: &Device) -> Conv2d {
    padded(channels, kernel_size, stride).init(device)
}

/// A wide residual network, made by [`WideResNetConfig::init`].
///
/// Its parameters are named as in the paper's code: `conv1`, `layer1.N.bn1`, `layer2.0.shortcut.0`, `bn1`, `linear`.
#[derive(Module, Debug)]
pub struct WideResNet {
    conv1: Conv2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    bn1: BatchNorm,
    linear: Linear,
}

impl WideResNet {
    /// Logits `[batch, classes]` of images `[batch, 3, 32, 32]`.
    ///
    /// Images of another size are averaged over what is left of their height and width.
    ///
    /// # Panics
    ///
    /// If the images do not have 3 channels.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let stages = [&self.layer1, &self.layer2, &self.layer3];
        let features = stages
            .into_iter()
            .flatten()
            .fold(self.conv1.forward(images), |features, block| {
                block.forward(features)
            });
        let features = relu(self.bn1.forward(features));
        self.linear.forward(mean_of_pixels(features))
    }
}

/// A wide residual block.
#[derive(Module, Debug)]
struct Block {
    bn1: BatchNorm,
    conv1: Conv2d,
    bn2: BatchNorm,
    conv2: Conv2d,
    /// An array of one, so that its path is PyTorch's `shortcut.0`.
    shortcut: Option<[Conv2d; 1]>,
}

impl Block {
    fn new(channels: usize, planes: usize, stride: usize, device: &Device) -> Self {
        let changes_shape = stride != 1 || channels != planes;
        Self {
            bn1: BatchNormConfig::new(channels).init(device),
            conv1: convolution([channels, planes], 3, 1, device),
            bn2: BatchNormConfig::new(planes).init(device),
            conv2: convolution([planes, planes], 3, stride, device),
            shortcut: changes_shape.then(|| [convolution([channels, planes], 1, stride, device)]),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, planes, height / stride, width / stride]`.
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.shortcut {
            Some([convolution]) => convolution.forward(input.clone()),
            None => input.clone(),
        };
        let output = self.conv1.forward(relu(self.bn1.forward(input)));
        let output = self.conv2.forward(relu(self.bn2.forward(output)));
        output + shortcut
    }
}

#[cfg(test)]
mod tests {
    use burn_swa_test_support::parameters::shapes;

    use super::*;
    use crate::parameter_count::assert_parameter_count;

    #[test]
    fn wide_resnet_28_10_has_the_parameters_of_its_layers() {
        // From c to p channels a first block has 2c + (9cp + p) + 2p + (9pp + p) + (cp + p), any other 18pp + 6p.
        // Stage 1: 256,832 + 3 * 461,760; stage 2: 1,435,520 + 3 * 1,845,120; stage 3: 5,738,240 + 3 * 7,376,640.
        // conv1 448, bn1 1,280, linear 6,410. The 36.5M of table 5 in Zagoruyko and Komodakis.
        let model = WideResNetConfig::new(28, 10).init(&Device::flex()).unwrap();
        assert_parameter_count(
            &model,
            "WideResNet-28-10",
            "WideResNetConfig::new(28, 10)",
            36_489_290,
        );
    }

    #[test]
    fn layers_are_named_as_in_pytorch() {
        let model = WideResNetConfig::new(16, 2).init(&Device::flex()).unwrap();
        let names: Vec<String> = shapes(&model).into_iter().map(|(name, _)| name).collect();
        let of = |prefix: &str| -> Vec<&str> {
            let names = names.iter().map(String::as_str);
            names.filter(|name| name.starts_with(prefix)).collect()
        };

        assert_eq!(of("conv1."), ["conv1.weight", "conv1.bias"]);
        assert_eq!(of("linear."), ["linear.weight", "linear.bias"]);
        assert_eq!(of("bn1.").len(), 4);
        let shortcut = ["shortcut.0.weight", "shortcut.0.bias"];
        for stage in 1..=3 {
            let prefix = format!("layer{stage}.0.");
            assert_eq!(of(&prefix).len(), 14, "{names:?}");
            let last = shortcut.map(|name| format!("{prefix}{name}"));
            assert_eq!(of(&prefix)[12..], last);
            assert_eq!(of(&format!("layer{stage}.1.")).len(), 12);
        }
    }

    #[test]
    fn the_second_convolution_strides_and_the_last_momentum_is_0_9() {
        let model = WideResNetConfig::new(10, 1).init(&Device::flex()).unwrap();
        assert_eq!(model.layer2[0].conv1.stride, [1, 1]);
        assert_eq!(model.layer2[0].conv2.stride, [2, 2]);
        assert_eq!(model.bn1.momentum, 0.9);
        assert_eq!(model.layer3[0].bn2.momentum, 0.1);
    }

    #[test]
    fn convolutions_are_uniform_within_1_over_root_fan_in() {
        let device = Device::flex();
        device.seed(3);
        let convolution = convolution([16, 64], 3, 1, &device);

        // 1 / sqrt(3 * 3 * 16) = 1 / 12.
        for values in [
            convolution.weight.val().flatten::<1>(0, 3),
            convolution.bias.unwrap().val(),
        ] {
            let largest = values.abs().max().into_scalar::<f32>();
            assert!(largest <= 1.0 / 12.0 && largest > 0.075, "{largest}");
        }
    }

    #[test]
    fn the_width_divisor_narrows_every_layer() {
        let device = Device::flex();
        let config = WideResNetConfig::new(10, 3).with_width_divisor(16);
        let model = config.with_classes(7).init(&device).unwrap();

        let shapes = shapes(&model);
        for (name, expected) in [
            ("conv1.weight", vec![1, 3, 3, 3]),
            ("layer1.0.conv1.weight", vec![3, 1, 3, 3]),
            ("layer3.0.shortcut.0.weight", vec![12, 6, 1, 1]),
            ("linear.weight", vec![12, 7]),
        ] {
            assert!(
                shapes.contains(&(name.to_string(), expected)),
                "{name} in {shapes:?}"
            );
        }
        let logits = model.forward(Tensor::zeros([2, 3, 32, 32], &device));
        assert_eq!(logits.dims(), [2, 7]);
    }

    #[test]
    fn a_configuration_of_no_network_is_an_error_with_a_remedy() {
        let message = |depth, widen_factor| {
            let error = WideResNetConfig::new(depth, widen_factor).init(&Device::flex());
            error.unwrap_err().to_string()
        };
        assert_eq!(
            message(30, 10),
            "WideResNet has no depth 30: expected 6n+4, up to 10000. Use depth 28 or 34."
        );
        assert!(
            message(4, 10).ends_with("Use depth 10."),
            "{}",
            message(4, 10)
        );
        assert_eq!(
            message(28, 0),
            "WideResNet cannot be 0 times wider: expected a widen_factor from 1 to 1000. Use 10 as in the paper."
        );
        assert!(message(10, 1001).contains("1001 times wider"));
        let classes = WideResNetConfig::new(28, 10)
            .with_classes(0)
            .init(&Device::flex());
        assert!(matches!(classes, Err(ModelError::Classes { .. })));
        let width = WideResNetConfig::new(28, 10)
            .with_width_divisor(3)
            .init(&Device::flex());
        assert!(matches!(
            width,
            Err(ModelError::WidthDivisor { narrowest: 16, .. })
        ));
    }

    #[test]
    fn a_configuration_survives_its_file() {
        let config = WideResNetConfig::new(28, 10).with_classes(100);
        let file = tempfile::NamedTempFile::new().unwrap();
        config.save(file.path()).unwrap();
        assert_eq!(WideResNetConfig::load(file.path()).unwrap(), config);
    }
}
