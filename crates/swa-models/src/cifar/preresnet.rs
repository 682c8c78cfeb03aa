//! The pre-activation residual network for CIFAR, of any 6n+2 or 9n+2 depth.
//!
//! A 3x3 convolution to 16 channels, three stages of `n` blocks, BatchNorm, ReLU, the mean over height and width, and
//! a linear layer. A block normalises and activates *before* each of its convolutions, and adds its input:
//!
//! - basic, below depth 44, so 6n+2 layers:
//!   `y = x + conv3x3(relu(bn2(conv3x3(relu(bn1(x))))))`
//! - bottleneck, from depth 44, so 9n+2 layers, four times wider outside than inside:
//!   `y = x + conv1x1(relu(bn3(conv3x3(relu(bn2(conv1x1(relu(bn1(x)))))))))`
//!
//! | stage                 | 1  | 2   | 3   |
//! |-----------------------|----|-----|-----|
//! | channels, basic       | 16 | 32  | 64  |
//! | channels, bottleneck  | 64 | 128 | 256 |
//! | height and width      | 32 | 16  | 8   |
//!
//! The first 3x3 convolution of stages 2 and 3 has stride 2. Where a block changes the number of channels or the image
//! size, the `x` that is added goes through a 1x1 convolution (`downsample`), which takes `x` itself, before `bn1`.
//!
//! He et al., [arXiv:1603.05027](https://arxiv.org/abs/1603.05027), as in the SWA paper's code
//! ([`models/preresnet.py`](https://github.com/timgaripov/swa/blob/master/models/preresnet.py)).

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::ModelError;
use crate::error::{DEEPEST, check_classes, check_width_divisor, nearest_depths};
use crate::initialization::{Bias, convolution};
use crate::pooling::mean_of_pixels;

const NETWORK: &str = "PreResNet";

/// Channels inside the blocks of each stage; the first convolution has the first stage's.
const PLANES: [usize; 3] = [16, 32, 64];

/// Basic blocks below this depth, bottleneck blocks from it on.
const FIRST_BOTTLENECK_DEPTH: usize = 44;

/// Configuration of a [`PreResNet`], made by [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct PreResNetConfig {
    /// Layers: 6n+2 below 44, 9n+2 from 44. The SWA paper's is 164, its code has 110 too.
    pub depth: usize,
    /// Labels to tell apart. 10, as in CIFAR-10, by default.
    #[config(default = 10)]
    pub classes: usize,
    /// Divides the channels of every layer, for small machines: a divisor of 16. The network of the paper, and the
    /// default, is 1.
    #[config(default = 1)]
    pub width_divisor: usize,
}

impl PreResNetConfig {
    /// A freshly initialised network on `device`.
    ///
    /// Convolutions are normal with standard deviation `sqrt(2 / (k * k * channels_out))`, BatchNorms 1 and 0, the
    /// linear layer uniform in `±1 / sqrt(fan_in)`. Burn draws a parameter when it is first used.
    ///
    /// # Errors
    ///
    /// If the depth is neither 6n+2 below 44 nor 9n+2 from 44 to 10,000, the width divisor does not divide 16, or there are no
    /// classes.
    pub fn init(&self, device: &Device) -> Result<PreResNet, ModelError> {
        let (kind, blocks) = blocks_per_stage(self.depth).ok_or_else(|| self.depth_error())?;
        check_classes(NETWORK, self.classes)?;
        check_width_divisor(NETWORK, self.width_divisor, PLANES[0])?;

        let planes = PLANES.map(|planes| planes / self.width_divisor);
        let stem = planes[0];
        let mut channels = stem;
        let mut stage = |planes: usize, first_stride: usize| -> Vec<Block> {
            (0..blocks)
                .map(|index| {
                    let stride = if index == 0 { first_stride } else { 1 };
                    let block = Block::new(channels, planes, stride, kind, device);
                    channels = planes * kind.expansion();
                    block
                })
                .collect()
        };
        let (layer1, layer2, layer3) = (
            stage(planes[0], 1),
            stage(planes[1], 2),
            stage(planes[2], 2),
        );

        Ok(PreResNet {
            conv1: convolution([3, stem], 3, 1, Bias::None, device),
            layer1,
            layer2,
            layer3,
            bn: BatchNormConfig::new(channels).init(device),
            fc: LinearConfig::new(channels, self.classes).init(device),
        })
    }

    fn depth_error(&self) -> ModelError {
        ModelError::Depth {
            network: NETWORK,
            got: self.depth,
            expected: "6n+2 (basic blocks, below 44) or 9n+2 (bottleneck blocks, from 44), up to 10000",
            nearest: nearest_depths(self.depth, |depth| blocks_per_stage(depth).is_some()),
        }
    }
}

/// The kind and the number of blocks in each stage of a network of this depth, if there is one.
fn blocks_per_stage(depth: usize) -> Option<(BlockKind, usize)> {
    let kind = if depth < FIRST_BOTTLENECK_DEPTH {
        BlockKind::Basic
    } else {
        BlockKind::Bottleneck
    };
    // The first convolution and the linear layer are no part of the three stages.
    let layers_in_stages = depth.checked_sub(2).filter(|layers| *layers > 0)?;
    let layers_per_block_of_each_stage = 3 * kind.convolutions();
    if depth <= DEEPEST && layers_in_stages.is_multiple_of(layers_per_block_of_each_stage) {
        Some((kind, layers_in_stages / layers_per_block_of_each_stage))
    } else {
        None
    }
}

/// A pre-activation residual network, made by [`PreResNetConfig::init`].
///
/// Its parameters are named as in the paper's code: `conv1`, `layer1.N.bn1`, `layer2.0.downsample.0`, `bn`, `fc`.
#[derive(Module, Debug)]
pub struct PreResNet {
    conv1: Conv2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    bn: BatchNorm,
    fc: Linear,
}

impl PreResNet {
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
        let features = relu(self.bn.forward(features));
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
    fn convolutions(self) -> usize {
        match self {
            Self::Basic => 2,
            Self::Bottleneck => 3,
        }
    }

    /// The number of channels of a block's output, as a multiple of those inside.
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// A residual block of either kind: a bottleneck block has the third BatchNorm and convolution.
///
/// This is one struct, and not an enum, because a variant's name would be part of every parameter's path.
#[derive(Module, Debug)]
struct Block {
    bn1: BatchNorm,
    conv1: Conv2d,
    bn2: BatchNorm,
    conv2: Conv2d,
    bn3: Option<BatchNorm>,
    conv3: Option<Conv2d>,
    /// An array of one, so that its path is PyTorch's `downsample.0`.
    downsample: Option<[Conv2d; 1]>,
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
        let (conv1, conv2, bn3, conv3) = match kind {
            BlockKind::Basic => (
                convolution([channels, planes], 3, stride),
                convolution([planes, planes], 3, 1),
                None,
                None,
            ),
            BlockKind::Bottleneck => (
                convolution([channels, planes], 1, 1),
                convolution([planes, planes], 3, stride),
                Some(batch_norm(planes)),
                Some(convolution([planes, channels_out], 1, 1)),
            ),
        };
        let changes_shape = stride != 1 || channels != channels_out;
        Self {
            bn1: batch_norm(channels),
            conv1,
            bn2: batch_norm(planes),
            conv2,
            bn3,
            conv3,
            downsample: changes_shape.then(|| [convolution([channels, channels_out], 1, stride)]),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, channels_out, height / stride, width / stride]`.
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some([convolution]) => convolution.forward(input.clone()),
            None => input.clone(),
        };
        let output = self.conv1.forward(relu(self.bn1.forward(input)));
        let output = self.conv2.forward(relu(self.bn2.forward(output)));
        let output = match (&self.bn3, &self.conv3) {
            (Some(bn3), Some(conv3)) => conv3.forward(relu(bn3.forward(output))),
            _ => output,
        };
        output + shortcut
    }
}

#[cfg(test)]
mod tests {
    use burn_swa_test_support::parameters::shapes;

    use super::*;
    use crate::parameter_count::assert_parameter_count;

    #[test]
    fn preresnet20_has_as_many_parameters_as_its_layers_add_up_to() {
        // A 3x3 convolution to 16 channels: 432. Stage 1: 3 blocks of 2 * (32 + 2304) = 14,016.
        // Stage 2: 32 + 4608 + 64 + 9216 + 512 (downsample), and 2 blocks of 2 * (64 + 9216): 51,552.
        // Stage 3: 64 + 18432 + 128 + 36864 + 2048, and 2 blocks of 2 * (128 + 36864): 205,504. bn 128, fc 650.
        let model = PreResNetConfig::new(20).init(&Device::flex()).unwrap();
        assert_parameter_count(&model, "PreResNet-20", "PreResNetConfig::new(20)", 272_282);
    }

    #[test]
    fn bottleneck_networks_have_the_parameters_of_their_layers() {
        // conv1 432, bn 512, fc 2570. First blocks, with downsample: 4704, 23,808 and 94,720. Every other block of
        // stage 1: 128 + 1024 + 32 + 2304 + 32 + 1024 = 4544; of stage 2: 17,792; of stage 3: 70,400.
        // 110: 11 others in each stage; 164: 17, the 1.7M of table 2 in He et al.
        for (depth, parameters) in [(110, 1_146_842), (164, 1_703_258)] {
            let model = PreResNetConfig::new(depth).init(&Device::flex()).unwrap();
            assert_parameter_count(
                &model,
                &format!("PreResNet-{depth}"),
                &format!("PreResNetConfig::new({depth})"),
                parameters,
            );
        }
    }

    #[test]
    fn blocks_are_named_as_in_pytorch() {
        let names = |depth: usize, prefix: &str| -> Vec<String> {
            let model = PreResNetConfig::new(depth).init(&Device::flex()).unwrap();
            let names = shapes(&model).into_iter().map(|(name, _)| name);
            names.filter(|name| name.starts_with(prefix)).collect()
        };
        let block = |prefix: &str, convolutions: usize, downsample: bool| -> Vec<String> {
            let mut names = Vec::new();
            for index in 1..=convolutions {
                for name in ["gamma", "beta", "running_mean", "running_var"] {
                    names.push(format!("{prefix}bn{index}.{name}"));
                }
                names.push(format!("{prefix}conv{index}.weight"));
            }
            if downsample {
                names.push(format!("{prefix}downsample.0.weight"));
            }
            names
        };

        assert_eq!(names(20, "layer1.0."), block("layer1.0.", 2, false));
        assert_eq!(names(20, "layer2.0."), block("layer2.0.", 2, true));
        assert_eq!(names(20, "layer3.2."), block("layer3.2.", 2, false));
        assert_eq!(names(47, "layer1.0."), block("layer1.0.", 3, true));
        assert_eq!(names(47, "layer3.4."), block("layer3.4.", 3, false));
        for depth in [20, 47] {
            assert_eq!(names(depth, "conv1."), ["conv1.weight"]);
            assert_eq!(names(depth, "bn.g"), ["bn.gamma"]);
            assert_eq!(names(depth, "fc."), ["fc.weight", "fc.bias"]);
        }
    }

    #[test]
    fn the_width_divisor_narrows_every_layer() {
        let device = Device::flex();
        let config = PreResNetConfig::new(8).with_width_divisor(16);
        let model = config.with_classes(7).init(&device).unwrap();

        let shapes = shapes(&model);
        for (name, expected) in [
            ("conv1.weight", vec![1, 3, 3, 3]),
            ("layer1.0.conv1.weight", vec![1, 1, 3, 3]),
            ("layer2.0.conv1.weight", vec![2, 1, 3, 3]),
            ("layer3.0.downsample.0.weight", vec![4, 2, 1, 1]),
            ("fc.weight", vec![4, 7]),
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
    fn a_stage_has_as_many_blocks_as_the_depth_pays_for() {
        for (depth, kind, blocks) in [
            (8, BlockKind::Basic, 1),
            (38, BlockKind::Basic, 6),
            (47, BlockKind::Bottleneck, 5),
            (110, BlockKind::Bottleneck, 12),
            (1001, BlockKind::Bottleneck, 111),
        ] {
            assert_eq!(blocks_per_stage(depth), Some((kind, blocks)));
        }
    }

    #[test]
    fn a_wrong_depth_is_an_error_that_lists_the_valid_ones_nearby() {
        let message = |depth: usize| {
            let error = PreResNetConfig::new(depth).init(&Device::flex());
            error.unwrap_err().to_string()
        };
        assert_eq!(
            message(100),
            "PreResNet has no depth 100: expected 6n+2 (basic blocks, below 44) or 9n+2 (bottleneck blocks, from 44), up to 10000. \
             Use depth 92 or 101."
        );
        // 44 is 6 * 7 + 2, but has bottleneck blocks.
        for (depth, nearest) in [
            (0, "8"),
            (2, "8"),
            (9, "8 or 14"),
            (39, "38 or 47"),
            (44, "38 or 47"),
            (9993, "9992"),
            (usize::MAX, "9992"),
        ] {
            assert!(
                message(depth).ends_with(&format!(" Use depth {nearest}.")),
                "{}",
                message(depth)
            );
        }
    }

    #[test]
    fn a_configuration_of_no_network_is_an_error() {
        let config = PreResNetConfig::new(8);
        let classes = config.clone().with_classes(0).init(&Device::flex());
        let width = config.with_width_divisor(32).init(&Device::flex());

        assert!(matches!(classes, Err(ModelError::Classes { .. })));
        assert!(matches!(
            width,
            Err(ModelError::WidthDivisor { narrowest: 16, .. })
        ));
    }
}
