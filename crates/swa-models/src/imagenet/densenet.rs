//! The densely connected network for ImageNet, as torchvision has it.
//!
//! A 7x7 convolution with stride 2, BatchNorm, ReLU, 3x3 max pooling with stride 2, four dense blocks with a transition
//! between each two, BatchNorm, ReLU, the mean over height and width, and a linear layer. A layer of a dense block sees the
//! channels of all earlier ones, and adds `growth_rate` more:
//!
//! `y = [x, conv3x3(relu(norm2(conv1x1(relu(norm1(x))))))]`, with `4 growth_rate` channels inside.
//!
//! A transition halves channels, height and width: `y = average_pool2x2(conv1x1(relu(norm(x))))`.
//!
//! | depth                         | 121  | 161  | 169  | 201  |
//! |-------------------------------|------|------|------|------|
//! | growth rate                   | 32   | 48   | 32   | 32   |
//! | channels of the first layer   | 64   | 96   | 64   | 64   |
//! | layers of block 1, 56x56      | 6    | 6    | 6    | 6    |
//! | layers of block 2, 28x28      | 12   | 12   | 12   | 12   |
//! | layers of block 3, 14x14      | 24   | 36   | 32   | 48   |
//! | layers of block 4, 7x7        | 16   | 24   | 32   | 32   |
//! | channels in the end           | 1024 | 2208 | 1664 | 1920 |
//!
//! (Height and width are those of 224x224 images.)
//!
//! Huang et al., [arXiv:1608.06993](https://arxiv.org/abs/1608.06993), the DenseNet-BC, as in torchvision 0.24
//! ([`models/densenet.py`](https://github.com/pytorch/vision/blob/v0.24.1/torchvision/models/densenet.py)), without dropout
//! and with `memory_efficient` off, as there by default.

use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AvgPool2d, AvgPool2dConfig, MaxPool2d};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::dense_block::DenseBlock;
use super::{CLASSES, max_pool};
use crate::ModelError;
use crate::error::{by_depth, check_classes, check_width_divisor};
use crate::initialization::convolution_by_fan_in;
use crate::pooling::mean_of_pixels;

const NETWORK: &str = "DenseNet";

/// Growth rate and layers of each dense block, by depth.
const BLOCKS: [(usize, (usize, [usize; 4])); 4] = [
    (121, (32, [6, 12, 24, 16])),
    (161, (48, [6, 12, 36, 24])),
    (169, (32, [6, 12, 32, 32])),
    (201, (32, [6, 12, 48, 32])),
];

/// Channels inside a layer of a dense block, as a multiple of the growth rate: torchvision's `bn_size`.
const INSIDE: usize = 4;

/// The height and width below which the last transition leaves no pixel.
pub(crate) const SMALLEST_SIDE: usize = 29;

/// Configuration of a [`DenseNet`], made by [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct DenseNetConfig {
    /// Layers: 121, 161, 169 or 201.
    pub depth: usize,
    /// Labels to tell apart. 1000, as in ImageNet, by default.
    #[config(default = "CLASSES")]
    pub classes: usize,
    /// Divides the channels of every layer, for small machines: a divisor of the growth rate, which is 32, and 48 at depth 161.
    /// torchvision's network, and the default, is 1.
    #[config(default = 1)]
    pub width_divisor: usize,
}

impl DenseNetConfig {
    /// A freshly initialised network on `device`.
    ///
    /// Convolutions are normal with standard deviation `sqrt(2 / (k * k * channels_in))`, BatchNorms 1 and 0, the
    /// linear layer's weight uniform in `±1 / sqrt(fan_in)` and its bias 0. Burn draws a parameter when it is first used.
    ///
    /// # Errors
    ///
    /// If the depth is none of torchvision's, the width divisor does not divide the growth rate, or there are no classes.
    pub fn init(&self, device: &Device) -> Result<DenseNet, ModelError> {
        let expected = "one of torchvision's";
        let (growth_rate, layers) = by_depth(NETWORK, expected, &BLOCKS, self.depth)?;
        check_classes(NETWORK, self.classes)?;
        check_width_divisor(NETWORK, self.width_divisor, growth_rate)?;

        let growth_rate = growth_rate / self.width_divisor;
        let stem = 2 * growth_rate;
        // Into and out of each dense block. A transition halves them.
        let mut channels = stem;
        let channels = layers.map(|layers| {
            let (before, after) = (channels, channels + layers * growth_rate);
            channels = after / 2;
            (before, after)
        });
        let block = |index: usize| {
            let (before, _) = channels[index];
            DenseBlock::new(before, layers[index], growth_rate, device)
        };
        let transition = |index: usize| {
            let (_, after) = channels[index];
            Transition::new(after, device)
        };
        let (_, last) = channels[3];

        let features = Features {
            conv0: convolution_by_fan_in([3, stem], 7, 2, device),
            norm0: BatchNormConfig::new(stem).init(device),
            pool0: max_pool(),
            denseblock1: block(0),
            transition1: transition(0),
            denseblock2: block(1),
            transition2: transition(1),
            denseblock3: block(2),
            transition3: transition(2),
            denseblock4: block(3),
            norm5: BatchNormConfig::new(last).init(device),
        };
        let mut classifier = LinearConfig::new(last, self.classes).init(device);
        classifier.bias = Some(Initializer::Zeros.init([self.classes], device));
        Ok(DenseNet {
            features,
            classifier,
        })
    }
}

/// A densely connected network, made by [`DenseNetConfig::init`].
///
/// Its parameters are named as in torchvision: `features.conv0`, `features.denseblock1.denselayer1.norm1`,
/// `features.transition1.conv`, `features.norm5`, `classifier`.
#[derive(Module, Debug)]
pub struct DenseNet {
    features: Features,
    classifier: Linear,
}

impl DenseNet {
    /// Logits `[batch, classes]` of images `[batch, 3, height, width]` of at least 29x29.
    ///
    /// # Panics
    ///
    /// If the images are smaller, or do not have 3 channels.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let [.., height, width] = images.dims();
        assert!(
            height.min(width) >= SMALLEST_SIDE,
            "DenseNet has no pixel left of images of {height}x{width}: expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}. \
             Enlarge the images."
        );
        let features = relu(self.features.forward(images));
        self.classifier.forward(mean_of_pixels(features))
    }

    /// Today's name of a tensor in a state dict: `….denselayer1.norm1.weight` for `….denselayer1.norm.1.weight`, any other name
    /// as it is.
    ///
    /// torchvision's own weights for ImageNet have the old names, from when a module's name could have a dot. With
    /// `swa-store`: `StateDict::read(file)?.renamed(DenseNet::current_name)?.load(network)?`.
    pub fn current_name(name: &str) -> String {
        // torchvision's `^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$`.
        let parts: Vec<&str> = name.split('.').collect();
        let [before @ .., block_layer, layer, number, tensor] = parts.as_slice() else {
            return name.to_owned();
        };
        let digits = block_layer.rsplit_once("denselayer").map(|(_, it)| it);
        let is_old = digits
            .is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()))
            && ["norm", "relu", "conv"].contains(layer)
            && ["1", "2"].contains(number)
            && ["weight", "bias", "running_mean", "running_var"].contains(tensor);
        if is_old {
            let layer = format!("{layer}{number}");
            [before, &[block_layer, &layer, tensor]].concat().join(".")
        } else {
            name.to_owned()
        }
    }
}

/// All layers but the last.
#[derive(Module, Debug)]
struct Features {
    conv0: Conv2d,
    norm0: BatchNorm,
    pool0: MaxPool2d,
    denseblock1: DenseBlock,
    transition1: Transition,
    denseblock2: DenseBlock,
    transition2: Transition,
    denseblock3: DenseBlock,
    transition3: Transition,
    denseblock4: DenseBlock,
    norm5: BatchNorm,
}

impl Features {
    /// `[batch, 3, height, width]` to `[batch, channels, height / 32, width / 32]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let output = relu(self.norm0.forward(self.conv0.forward(images)));
        let output = self.denseblock1.forward(self.pool0.forward(output));
        let output = self.denseblock2.forward(self.transition1.forward(output));
        let output = self.denseblock3.forward(self.transition2.forward(output));
        let output = self.denseblock4.forward(self.transition3.forward(output));
        self.norm5.forward(output)
    }
}

/// One layer of a dense block.
#[derive(Module, Debug)]
pub(super) struct DenseLayer {
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    conv2: Conv2d,
}

impl DenseLayer {
    pub(super) fn new(channels: usize, growth_rate: usize, device: &Device) -> Self {
        let inside = INSIDE * growth_rate;
        Self {
            norm1: BatchNormConfig::new(channels).init(device),
            conv1: convolution_by_fan_in([channels, inside], 1, 1, device),
            norm2: BatchNormConfig::new(inside).init(device),
            conv2: convolution_by_fan_in([inside, growth_rate], 3, 1, device),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, growth_rate, height, width]`.
    pub(super) fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let output = self.conv1.forward(relu(self.norm1.forward(input)));
        self.conv2.forward(relu(self.norm2.forward(output)))
    }
}

/// The layers between two dense blocks.
#[derive(Module, Debug)]
struct Transition {
    norm: BatchNorm,
    conv: Conv2d,
    pool: AvgPool2d,
}

impl Transition {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            norm: BatchNormConfig::new(channels).init(device),
            conv: convolution_by_fan_in([channels, channels / 2], 1, 1, device),
            pool: AvgPool2dConfig::new([2, 2]).init(),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, channels / 2, height / 2, width / 2]`.
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let output = self.conv.forward(relu(self.norm.forward(input)));
        self.pool.forward(output)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use burn_swa_test_support::parameters::shapes;

    use super::*;
    use crate::initialization::tests::moments;
    use crate::parameter_count::assert_parameter_count;

    #[test]
    fn every_depth_has_as_many_parameters_as_in_torchvision() {
        // The `num_params` of torchvision's weights.
        for (depth, expected) in [
            (121, 7_978_856),
            (161, 28_681_000),
            (169, 14_149_480),
            (201, 20_013_928),
        ] {
            let model = DenseNetConfig::new(depth).init(&Device::flex()).unwrap();
            assert_parameter_count(
                &model,
                &format!("DenseNet-{depth}"),
                &format!("DenseNetConfig::new({depth})"),
                expected,
            );
        }
    }

    #[test]
    fn layers_are_named_as_in_torchvision() {
        let model = DenseNetConfig::new(121).init(&Device::flex()).unwrap();
        let shapes = shapes(&model);
        // 120 convolutions, 121 BatchNorms, and the linear layer: torchvision's 727 but for 121 counts.
        assert_eq!(shapes.len(), 120 + 121 * 4 + 2);
        for (name, shape) in [
            ("features.conv0.weight", vec![64, 3, 7, 7]),
            ("features.norm0.gamma", vec![64]),
            ("features.denseblock1.denselayer1.norm1.gamma", vec![64]),
            (
                "features.denseblock1.denselayer6.conv1.weight",
                vec![128, 224, 1, 1],
            ),
            (
                "features.denseblock3.denselayer24.conv2.weight",
                vec![32, 128, 3, 3],
            ),
            ("features.transition3.norm.running_var", vec![1024]),
            ("features.transition3.conv.weight", vec![512, 1024, 1, 1]),
            ("features.denseblock4.denselayer16.norm2.beta", vec![128]),
            ("features.norm5.running_mean", vec![1024]),
            ("classifier.weight", vec![1024, 1000]),
        ] {
            assert!(shapes.contains(&(name.to_string(), shape)), "{name}");
        }
    }

    #[test]
    fn layers_are_drawn_as_in_torchvision() {
        let device = Device::flex();
        device.seed(4);
        let model = DenseNetConfig::new(121).init(&device).unwrap();

        // From 256 to 128 channels: sqrt(2 / 256); the fan-out would give sqrt(2) times that.
        // Of 32,768 draws, the deviation is off by 1 / 256 on average.
        let transition = &model.features.transition1;
        assert_eq!(transition.conv.weight.dims(), [128, 256, 1, 1]);
        let [_, deviation] = moments(transition.conv.weight.val());
        assert!(
            (deviation * 128.0_f64.sqrt() - 1.0).abs() < 0.03,
            "{deviation}"
        );
        assert_eq!(moments(transition.norm.gamma.val()), [1.0, 0.0]);
        assert_eq!(moments(transition.norm.beta.val()), [0.0, 0.0]);
        assert_eq!(
            (transition.norm.momentum, transition.norm.epsilon),
            (0.1, 1e-5)
        );
        // 1 / sqrt(1024); unlike in ResNet, the bias is 0.
        let largest = model.classifier.weight.val().abs().max();
        let largest = f64::from(largest.into_scalar::<f32>()) * 32.0;
        assert!(largest > 0.98 && largest <= 1.0 + 1e-6, "{largest}");
        assert_eq!(moments(model.classifier.bias.unwrap().val()), [0.0, 0.0]);
    }

    #[test]
    fn the_width_divisor_narrows_every_layer() {
        let device = Device::flex();
        for (depth, width_divisor, channels) in [(121, 32, 32), (161, 48, 46)] {
            let config = DenseNetConfig::new(depth).with_width_divisor(width_divisor);
            let model = config.with_classes(7).init(&device).unwrap();
            let shapes = shapes(&model);
            assert!(shapes.contains(&("features.conv0.weight".to_owned(), vec![2, 3, 7, 7])));
            assert!(shapes.contains(&("classifier.weight".to_owned(), vec![channels, 7])));
        }
    }

    #[test]
    fn a_record_keeps_the_names_and_restores_the_network() {
        let device = Device::flex();
        let config = DenseNetConfig::new(121).with_width_divisor(32);
        let images = Tensor::random([2, 3, 32, 32], Distribution::Default, &device);
        let saved = config.init(&device).unwrap();
        let expected = saved.forward(images.clone()).into_data();

        let restored = config
            .init(&device)
            .unwrap()
            .load_record(saved.into_record());

        assert_eq!(restored.forward(images).into_data(), expected);
    }

    #[test]
    fn images_of_29_pixels_are_the_smallest() {
        let device = Device::flex();
        let config = DenseNetConfig::new(121)
            .with_width_divisor(32)
            .with_classes(7);
        let model = config.init(&device).unwrap();
        let logits = model.forward(Tensor::zeros([2, 3, 29, 40], &device));
        assert_eq!(logits.dims(), [2, 7]);
    }

    #[test]
    #[should_panic(expected = "no pixel left of images of 64x28: expected at least 29x29")]
    fn smaller_images_are_refused_with_their_size() {
        let device = Device::flex();
        let config = DenseNetConfig::new(121).with_width_divisor(32);
        let model = config.init(&device).unwrap();
        model.forward(Tensor::zeros([1, 3, 64, 28], &device));
    }

    #[test]
    fn old_names_lose_their_dot_and_all_others_stay() {
        // As Python's `re` matches torchvision's pattern.
        for (old, current) in [
            (
                "features.denseblock1.denselayer1.norm.1.weight",
                "features.denseblock1.denselayer1.norm1.weight",
            ),
            (
                "module.features.denseblock4.denselayer16.norm.2.running_var",
                "module.features.denseblock4.denselayer16.norm2.running_var",
            ),
            ("denselayer12.conv.2.weight", "denselayer12.conv2.weight"),
            ("my_denselayer3.conv.1.bias", "my_denselayer3.conv1.bias"),
        ] {
            assert_eq!(DenseNet::current_name(old), current);
        }
        for name in [
            "features.denseblock1.denselayer1.norm1.weight",
            "features.transition1.norm.1.weight",
            "features.denseblock1.denselayer.norm.1.weight",
            "features.denseblock1.denselayer1a.norm.1.weight",
            "features.denseblock1.denselayer1.norm.3.weight",
            "features.denseblock1.denselayer1.pool.1.weight",
            "features.denseblock1.denselayer1.norm.1.num_batches_tracked",
            "norm.1.weight",
            "weight",
            "",
        ] {
            assert_eq!(DenseNet::current_name(name), name);
        }
    }

    #[test]
    fn an_unknown_depth_is_an_error_that_lists_the_known_ones() {
        let error = DenseNetConfig::new(120).init(&Device::flex()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "DenseNet has no depth 120: expected one of torchvision's. Use depth 121, 161, 169 or 201."
        );
    }

    #[test]
    fn a_configuration_of_no_network_is_an_error() {
        let config = DenseNetConfig::new(161);
        let classes = config.clone().with_classes(0).init(&Device::flex());
        let width = config.with_width_divisor(32).init(&Device::flex());

        assert!(matches!(classes, Err(ModelError::Classes { .. })));
        assert!(matches!(
            width,
            Err(ModelError::WidthDivisor { narrowest: 48, .. })
        ));
    }
}
