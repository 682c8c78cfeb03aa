//! The residual network for ImageNet, as torchvision has it.
//!
//! A 7x7 convolution to 64 channels with stride 2, BatchNorm, ReLU, 3x3 max pooling with stride 2, four stages of blocks, the
//! mean over height and width, and a linear layer. A block normalises *after* each of its convolutions, adds its input, and
//! activates the sum:
//!
//! - basic, in ResNet-18 and 34:
//!   `y = relu(x + bn2(conv3x3(relu(bn1(conv3x3(x))))))`
//! - bottleneck, from ResNet-50 on, four times wider outside than inside:
//!   `y = relu(x + bn3(conv1x1(relu(bn2(conv3x3(relu(bn1(conv1x1(x)))))))))`
//!
//! | stage                            | 1   | 2   | 3    | 4    |
//! |----------------------------------|-----|-----|------|------|
//! | channels, basic                  | 64  | 128 | 256  | 512  |
//! | channels, bottleneck             | 256 | 512 | 1024 | 2048 |
//! | height and width of 224x224      | 56  | 28  | 14   | 7    |
//!
//! The first 3x3 convolution of stages 2 to 4 has stride 2. If a block changes the number of channels or the image size, the
//! `x` that is added goes through a 1x1 convolution and a BatchNorm (`downsample`).
//!
//! He et al., [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), as in torchvision 0.24
//! ([`models/resnet.py`](https://github.com/pytorch/vision/blob/v0.24.1/torchvision/models/resnet.py)), which differs from the
//! paper in the stride of a bottleneck block: it is in the 3x3 convolution, and not in the first 1x1 ("ResNet v1.5").

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::{CLASSES, max_pool};
use crate::ModelError;
use crate::error::{by_depth, check_classes, check_width_divisor};
use crate::initialization::{Bias, convolution};
use crate::pooling::mean_of_pixels;

const NETWORK: &str = "ResNet";

/// Channels inside the blocks of each stage; the first convolution has the first stage's.
const PLANES: [usize; 4] = [64, 128, 256, 512];

/// The kind and the number of blocks in each stage, by depth.
const BLOCKS: [(usize, (BlockKind, [usize; 4])); 5] = [
    (18, (BlockKind::Basic, [2, 2, 2, 2])),
    (34, (BlockKind::Basic, [3, 4, 6, 3])),
    (50, (BlockKind::Bottleneck, [3, 4, 6, 3])),
    (101, (BlockKind::Bottleneck, [3, 4, 23, 3])),
    (152, (BlockKind::Bottleneck, [3, 8, 36, 3])),
];

/// Configuration of a [`ResNet`], made by [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Layers: 18, 34, 50, 101 or 152.
    pub depth: usize,
    /// Labels to tell apart. 1000, as in ImageNet, by default.
    #[config(default = "CLASSES")]
    pub classes: usize,
    /// Divides the channels of every layer, for small machines: a divisor of 64. torchvision's network, and the default, is 1.
    #[config(default = 1)]
    pub width_divisor: usize,
}

impl ResNetConfig {
    /// A freshly initialised network on `device`.
    ///
    /// Convolutions are normal with standard deviation `sqrt(2 / (k * k * channels_out))`, BatchNorms 1 and 0, the
    /// linear layer uniform in `±1 / sqrt(fan_in)`. Burn draws a parameter when it is first used.
    ///
    /// # Errors
    ///
    /// If the depth is none of torchvision's, the width divisor does not divide 64, or there are no classes.
    pub fn init(&self, device: &Device) -> Result<ResNet, ModelError> {
        let (kind, blocks) = by_depth(NETWORK, "one of torchvision's", &BLOCKS, self.depth)?;
        check_classes(NETWORK, self.classes)?;
        check_width_divisor(NETWORK, self.width_divisor, PLANES[0])?;

        let stem = PLANES[0] / self.width_divisor;
        let mut channels = stem;
        let mut stage = |index: usize| -> Vec<Block> {
            let planes = PLANES[index] / self.width_divisor;
            (0..blocks[index])
                .map(|block| {
                    let stride = if index > 0 && block == 0 { 2 } else { 1 };
                    let block = Block::new(channels, planes, stride, kind, device);
                    channels = planes * kind.expansion();
                    block
                })
                .collect()
        };
        let (layer1, layer2, layer3, layer4) = (stage(0), stage(1), stage(2), stage(3));

        Ok(ResNet {
            conv1: convolution([3, stem], 7, 2, Bias::None, device),
            bn1: BatchNormConfig::new(stem).init(device),
            maxpool: max_pool(),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: LinearConfig::new(channels, self.classes).init(device),
        })
    }
}

/// A residual network, made by [`ResNetConfig::init`].
///
/// Its parameters are named as in torchvision: `conv1`, `bn1`, `layer1.N.conv1`, `layer2.0.downsample.0`, `fc`.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    maxpool: MaxPool2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    fc: Linear,
}

impl ResNet {
    /// Logits `[batch, classes]` of images `[batch, 3, height, width]` of any size.
    ///
    /// # Panics
    ///
    /// If the images do not have 3 channels.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let features = relu(self.bn1.forward(self.conv1.forward(images)));
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        let features = stages
            .into_iter()
            .flatten()
            .fold(self.maxpool.forward(features), |features, block| {
                block.forward(features)
            });
        self.fc.forward(mean_of_pixels(features))
    }
}

/// The kind of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BlockKind {
    /// Two 3x3 convolutions.
    Basic,
    /// A 1x1, a 3x3 and a 1x1 convolution.
    Bottleneck,
}

impl BlockKind {
    /// The number of channels of a block's output, as a multiple of those inside.
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// A residual block of either kind: a bottleneck block has the third convolution and BatchNorm.
///
/// This is one struct, and not an enum, because a variant's name would be part of every parameter's path.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    /// In a tuple, the layers are named by their positions, as in PyTorch.
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(
        channels: usize,
        planes: usize,
        stride: usize,
        kind: BlockKind,
        device: &Device,
    ) -> Self {
        let batch_norm = |channels: usize| BatchNormConfig::new(channels).init(device);
        let convolution = |channels: [usize; 2], kernel_size: usize, stride: usize| {
            convolution(channels, kernel_size, stride, Bias::None, device)
        };
        let channels_out = planes * kind.expansion();
        let (conv1, conv2, conv3, bn3) = match kind {
            BlockKind::Basic => (
                convolution([channels, planes], 3, stride),
                convolution([planes, planes], 3, 1),
                None,
                None,
            ),
            BlockKind::Bottleneck => (
                convolution([channels, planes], 1, 1),
                convolution([planes, planes], 3, stride),
                Some(convolution([planes, channels_out], 1, 1)),
                Some(batch_norm(channels_out)),
            ),
        };
        let downsample = if stride != 1 || channels != channels_out {
            let convolution = convolution([channels, channels_out], 1, stride);
            Some((convolution, batch_norm(channels_out)))
        } else {
            None
        };
        Self {
            conv1,
            bn1: batch_norm(planes),
            conv2,
            bn2: batch_norm(planes),
            conv3,
            bn3,
            downsample,
        }
    }

    /// `[batch, channels, height, width]` to `[batch, channels_out, height / stride, width / stride]`.
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some((convolution, batch_norm)) => {
                batch_norm.forward(convolution.forward(input.clone()))
            }
            None => input.clone(),
        };
        let output = relu(self.bn1.forward(self.conv1.forward(input)));
        let output = self.bn2.forward(self.conv2.forward(output));
        let output = match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => bn3.forward(conv3.forward(relu(output))),
            _ => output,
        };
        relu(output + shortcut)
    }
}

#[cfg(test)]
mod tests {
    use burn_swa_test_support::parameters::shapes;

    use super::*;
    use crate::initialization::tests::moments;
    use crate::parameter_count::assert_parameter_count;

    #[test]
    fn every_depth_has_as_many_parameters_as_in_torchvision() {
        // The `num_params` of torchvision's weights.
        for (depth, expected) in [
            (18, 11_689_512),
            (34, 21_797_672),
            (50, 25_557_032),
            (101, 44_549_160),
            (152, 60_192_808),
        ] {
            let model = ResNetConfig::new(depth).init(&Device::flex()).unwrap();
            assert_parameter_count(
                &model,
                &format!("ResNet-{depth}"),
                &format!("ResNetConfig::new({depth})"),
                expected,
            );
        }
    }

    #[test]
    fn layers_are_named_as_in_torchvision() {
        let names = |depth: usize, prefix: &str| -> Vec<String> {
            let model = ResNetConfig::new(depth).init(&Device::flex()).unwrap();
            let names = shapes(&model).into_iter().map(|(name, _)| name);
            names.filter(|name| name.starts_with(prefix)).collect()
        };
        let batch_norm = |name: &str| {
            ["gamma", "beta", "running_mean", "running_var"].map(|it| format!("{name}.{it}"))
        };
        let mut first_block = Vec::new();
        for layer in 1..=3 {
            first_block.push(format!("layer2.0.conv{layer}.weight"));
            first_block.extend(batch_norm(&format!("layer2.0.bn{layer}")));
        }
        first_block.push("layer2.0.downsample.0.weight".to_owned());
        first_block.extend(batch_norm("layer2.0.downsample.1"));

        assert_eq!(names(50, "layer2.0."), first_block);
        assert_eq!(names(50, "fc."), ["fc.weight", "fc.bias"]);
        // 53 convolutions, each with a BatchNorm, and the linear layer: torchvision's 320 but for 53 counts.
        assert_eq!(names(50, "").len(), 53 * 5 + 2);
        // The first stage of basic blocks changes nothing.
        assert_eq!(names(18, "layer1.0.").len(), 10);
        assert_eq!(names(18, "layer2.0.").len(), 15);
    }

    #[test]
    fn the_3x3_convolution_of_a_bottleneck_block_strides() {
        let model = ResNetConfig::new(50).init(&Device::flex()).unwrap();
        for stage in [&model.layer2, &model.layer3, &model.layer4] {
            let downsample = stage[0].downsample.as_ref().unwrap();
            assert_eq!(
                [
                    stage[0].conv1.stride,
                    stage[0].conv2.stride,
                    downsample.0.stride
                ],
                [[1, 1], [2, 2], [2, 2]]
            );
            assert_eq!(stage[1].conv2.stride, [1, 1]);
        }
        assert_eq!(model.layer1[0].conv2.stride, [1, 1]);
    }

    #[test]
    fn layers_are_drawn_as_in_torchvision() {
        let device = Device::flex();
        device.seed(4);
        let model = ResNetConfig::new(50).init(&device).unwrap();
        let (convolution, batch_norm) = model.layer1[0].downsample.as_ref().unwrap();

        // From 64 to 256 channels: sqrt(2 / 256); the fan-in would give twice that. Of 16,384 draws, the deviation is off by
        // 1 / 181 on average.
        let [_, deviation] = moments(convolution.weight.val());
        assert!(
            (deviation * 128.0_f64.sqrt() - 1.0).abs() < 0.04,
            "{deviation}"
        );
        assert_eq!(moments(batch_norm.gamma.val()), [1.0, 0.0]);
        assert_eq!(moments(batch_norm.beta.val()), [0.0, 0.0]);
        assert_eq!((batch_norm.momentum, batch_norm.epsilon), (0.1, 1e-5));
        // 1 / sqrt(2048), weight and bias alike.
        let largest = model.fc.bias.unwrap().val().abs().max();
        let largest = f64::from(largest.into_scalar::<f32>()) * 2048.0_f64.sqrt();
        assert!(largest > 0.98 && largest <= 1.0 + 1e-6, "{largest}");
    }

    #[test]
    fn the_width_divisor_narrows_every_layer() {
        let device = Device::flex();
        let config = ResNetConfig::new(50).with_width_divisor(64).with_classes(7);
        let model = config.init(&device).unwrap();

        let shapes = shapes(&model);
        for (name, expected) in [
            ("conv1.weight", vec![1, 3, 7, 7]),
            ("layer1.0.downsample.0.weight", vec![4, 1, 1, 1]),
            ("layer4.2.conv2.weight", vec![8, 8, 3, 3]),
            ("fc.weight", vec![32, 7]),
        ] {
            assert!(
                shapes.contains(&(name.to_string(), expected)),
                "{name} in {shapes:?}"
            );
        }
        for side in [1, 17, 64] {
            let logits = model.forward(Tensor::zeros([2, 3, side, side], &device));
            assert_eq!(logits.dims(), [2, 7]);
        }
    }

    #[test]
    fn an_unknown_depth_is_an_error_that_lists_the_known_ones() {
        let error = ResNetConfig::new(20).init(&Device::flex()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ResNet has no depth 20: expected one of torchvision's. Use depth 18, 34, 50, 101 or 152."
        );
    }

    #[test]
    fn a_configuration_of_no_network_is_an_error() {
        let config = ResNetConfig::new(18);
        let classes = config.clone().with_classes(0).init(&Device::flex());
        let width = config.with_width_divisor(3).init(&Device::flex());

        assert!(matches!(classes, Err(ModelError::Classes { .. })));
        assert!(matches!(
            width,
            Err(ModelError::WidthDivisor { narrowest: 64, .. })
        ));
    }
}
