//! VGG for CIFAR, with or without BatchNorm.
//!
//! Five stages of 3x3 convolutions, each convolution followed by its BatchNorm (if any) and ReLU, each stage by 2x2
//! max pooling, so that a 32x32 image ends as one pixel of 512 channels:
//!
//! | stage                | 1  | 2   | 3   | 4   | 5   |
//! |----------------------|----|-----|-----|-----|-----|
//! | channels             | 64 | 128 | 256 | 512 | 512 |
//! | convolutions, VGG16  | 2  | 2   | 3   | 3   | 3   |
//! | convolutions, VGG19  | 2  | 2   | 4   | 4   | 4   |
//! | height and width in  | 32 | 16  | 8   | 4   | 2   |
//!
//! The head is `dropout, linear 512, ReLU, dropout, linear 512, ReLU, linear classes`.
//!
//! Simonyan and Zisserman, [arXiv:1409.1556](https://arxiv.org/abs/1409.1556), configurations D and E, with the head and
//! the initialisation of the SWA paper's code
//! ([`models/vgg.py`](https://github.com/timgaripov/swa/blob/master/models/vgg.py)).

use burn::config::Config;
use burn::module::Module;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig, Relu};
use burn::tensor::{Device, Tensor, assert_shape};

use crate::ModelError;
use crate::cifar::feature_layer::FeatureLayer;
use crate::error::{by_depth, check_classes, check_width_divisor};
use crate::initialization::{Bias, convolution};

const NETWORK: &str = "VGG";

/// Channels of each stage; the head is as wide as the last.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// Convolutions in each stage, by depth. The depth counts them and the head's three linear layers.
const CONVOLUTIONS: [(usize, [usize; 5]); 2] = [(16, [2, 2, 3, 3, 3]), (19, [2, 2, 4, 4, 4])];

/// Configuration of a [`Vgg`], made by [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct VggConfig {
    /// Convolutional and linear layers: 16 or 19.
    pub depth: usize,
    /// Adds a BatchNorm after each convolution. False by default.
    #[config(default = false)]
    pub batch_norm: bool,
    /// Labels to tell apart. 10, as in CIFAR-10, by default.
    #[config(default = 10)]
    pub classes: usize,
    /// The head's dropout probability, at least 0 and below 1. 0.5, as in the paper's code, by default.
    #[config(default = 0.5)]
    pub dropout: f64,
    /// Divides the channels of every stage and the head's width, for small machines: a divisor of 64. The network of
    /// the paper, and the default, is 1.
    #[config(default = 1)]
    pub width_divisor: usize,
}

impl VggConfig {
    /// A freshly initialised network on `device`.
    ///
    /// Convolutions are normal with standard deviation `sqrt(2 / (k * k * channels_out))` and bias 0, BatchNorms 1
    /// and 0, linear layers uniform in `±1 / sqrt(fan_in)`. Burn draws a parameter when it is first used.
    ///
    /// # Errors
    ///
    /// If the depth is none of VGG's, the width divisor does not divide 64, there are no classes, or the dropout
    /// probability is not in `[0, 1)`.
    pub fn init(&self, device: &Device) -> Result<Vgg, ModelError> {
        let expected = "one of its published configurations";
        let convolutions = by_depth(NETWORK, expected, &CONVOLUTIONS, self.depth)?;
        check_classes(NETWORK, self.classes)?;
        check_width_divisor(NETWORK, self.width_divisor, WIDTHS[0])?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::Dropout {
                network: NETWORK,
                got: self.dropout,
            });
        }

        let widths = WIDTHS.map(|width| width / self.width_divisor);
        let mut features = Vec::new();
        let mut channels = 3;
        for (width, convolutions) in widths.into_iter().zip(convolutions) {
            for _ in 0..convolutions {
                features.push(FeatureLayer::Convolution(convolution(
                    [channels, width],
                    3,
                    1,
                    Bias::Zeros,
                    device,
                )));
                if self.batch_norm {
                    let batch_norm = BatchNormConfig::new(width).init(device);
                    features.push(FeatureLayer::BatchNorm(batch_norm));
                }
                features.push(FeatureLayer::Relu(Relu::new()));
                channels = width;
            }
            let max_pool = MaxPool2dConfig::new([2, 2]).init();
            features.push(FeatureLayer::MaxPool(max_pool));
        }

        let dropout = DropoutConfig::new(self.dropout);
        let hidden = LinearConfig::new(channels, channels);
        Ok(Vgg {
            features,
            classifier: (
                dropout.init(),
                hidden.init(device),
                Relu::new(),
                dropout.init(),
                hidden.init(device),
                Relu::new(),
                LinearConfig::new(channels, self.classes).init(device),
            ),
        })
    }
}

/// A VGG for 32x32 images, made by [`VggConfig::init`].
///
/// Its parameters are named as in the paper's code: `features.N`, `classifier.N`.
#[derive(Module, Debug)]
pub struct Vgg {
    features: Vec<FeatureLayer>,
    classifier: Classifier,
}

/// The head. In a tuple, the layers are named by their positions.
type Classifier = (Dropout, Linear, Relu, Dropout, Linear, Relu, Linear);

impl Vgg {
    /// Logits `[batch, classes]` of images `[batch, 3, 32, 32]`.
    ///
    /// # Panics
    ///
    /// If the images have another shape.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        assert_shape!(images, [_, 3, 32, 32]);
        let features = self
            .features
            .iter()
            .fold(images, |features, layer| layer.forward(features));
        let (dropout1, linear1, relu1, dropout2, linear2, relu2, linear3) = &self.classifier;
        let hidden = dropout1.forward(features.flatten::<2>(1, 3));
        let hidden = relu1.forward(linear1.forward(hidden));
        let hidden = dropout2.forward(hidden);
        let hidden = relu2.forward(linear2.forward(hidden));
        linear3.forward(hidden)
    }
}

#[cfg(test)]
mod tests {
    use burn_swa_test_support::parameters::shapes;

    use super::*;
    use crate::parameter_count::assert_parameter_count;

    #[test]
    fn vgg16_has_as_many_parameters_as_its_layers_add_up_to() {
        // Convolutions: 9 * (3*64 + 64*64 + 64*128 + 128*128 + 128*256 + 2*256*256 + 256*512 + 5*512*512) weights,
        // 2*64 + 2*128 + 3*256 + 6*512 biases: 14,710,464 + 4,224. Head: 2 * (512*512 + 512) + 512*10 + 10 = 530,442.
        let model = VggConfig::new(16).init(&Device::flex()).unwrap();
        assert_parameter_count(&model, "VGG16", "VggConfig::new(16)", 15_245_130);
    }

    #[test]
    fn batch_norm_adds_a_scale_and_a_shift_for_each_channel() {
        // 2 * 4,224.
        let config = VggConfig::new(16).with_batch_norm(true);
        let model = config.init(&Device::flex()).unwrap();
        assert_parameter_count(
            &model,
            "VGG16 with BatchNorm",
            "VggConfig::new(16).with_batch_norm(true)",
            15_253_578,
        );
    }

    #[test]
    fn vgg19_has_a_convolution_more_in_the_last_three_stages() {
        // 9 * (256*256 + 2*512*512) weights, 256 + 2*512 biases more than VGG16; 2 * 5,504 scales and shifts.
        let device = Device::flex();
        let model = VggConfig::new(19).init(&device).unwrap();
        assert_parameter_count(&model, "VGG19", "VggConfig::new(19)", 20_554_826);
        let model = VggConfig::new(19).with_batch_norm(true).init(&device);
        assert_parameter_count(
            &model.unwrap(),
            "VGG19 with BatchNorm",
            "VggConfig::new(19).with_batch_norm(true)",
            20_565_834,
        );
    }

    #[test]
    fn layers_are_numbered_as_in_pytorch() {
        // Written down from torchvision's vgg16, vgg16_bn, vgg19 and vgg19_bn: position of each convolution, each
        // followed by its BatchNorm, if any.
        let convolutions: [(usize, bool, &[usize]); 4] = [
            (16, false, &[0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
            (16, true, &[0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]),
            (
                19,
                false,
                &[0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
            ),
            (
                19,
                true,
                &[0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49],
            ),
        ];
        let classifier = [1, 4, 6].map(|layer| {
            [
                format!("classifier.{layer}.weight"),
                format!("classifier.{layer}.bias"),
            ]
        });

        for (depth, batch_norm, positions) in convolutions {
            let mut expected = Vec::new();
            for position in positions {
                for name in ["weight", "bias"] {
                    expected.push(format!("features.{position}.{name}"));
                }
                if batch_norm {
                    for name in ["gamma", "beta", "running_mean", "running_var"] {
                        expected.push(format!("features.{}.{name}", position + 1));
                    }
                }
            }
            expected.extend(classifier.clone().into_iter().flatten());

            let config = VggConfig::new(depth).with_batch_norm(batch_norm);
            let shapes = shapes(&config.init(&Device::flex()).unwrap());
            let names: Vec<_> = shapes.into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn the_width_divisor_narrows_every_stage_and_the_head() {
        let device = Device::flex();
        let config = VggConfig::new(16).with_width_divisor(64).with_classes(7);
        let model = config.init(&device).unwrap();

        let shapes = shapes(&model);
        let shape = |name: &str| {
            let found = shapes.iter().find(|(path, _)| path == name);
            found.map(|(_, shape)| shape.clone()).unwrap()
        };
        assert_eq!(shape("features.0.weight"), [1, 3, 3, 3]);
        assert_eq!(shape("features.5.weight"), [2, 1, 3, 3]);
        assert_eq!(shape("features.28.weight"), [8, 8, 3, 3]);
        assert_eq!(shape("classifier.1.weight"), [8, 8]);
        assert_eq!(shape("classifier.6.weight"), [8, 7]);

        let logits = model.forward(Tensor::zeros([2, 3, 32, 32], &device));
        assert_eq!(logits.dims(), [2, 7]);
    }

    #[test]
    fn a_record_keeps_the_names_and_restores_the_network() {
        let device = Device::flex();
        let config = VggConfig::new(16)
            .with_batch_norm(true)
            .with_width_divisor(64);
        let images = Tensor::random([2, 3, 32, 32], burn::tensor::Distribution::Default, &device);
        let saved = config.init(&device).unwrap();
        let expected = saved.forward(images.clone()).into_data();

        let restored = config
            .init(&device)
            .unwrap()
            .load_record(saved.into_record());

        assert_eq!(restored.forward(images).into_data(), expected);
    }

    #[test]
    fn dropout_acts_in_training_only() {
        let device = Device::flex().autodiff();
        let config = VggConfig::new(16).with_width_divisor(16);
        let model = config.init(&device).unwrap();
        let images = Tensor::ones([1, 3, 32, 32], &device);
        let logits = |model: &Vgg, images: &Tensor<4>| model.forward(images.clone()).into_data();

        assert_ne!(logits(&model, &images), logits(&model, &images));
        let (model, images) = (model.valid(), images.inner());
        assert_eq!(logits(&model, &images), logits(&model, &images));
    }

    #[test]
    fn an_unknown_depth_is_an_error_that_lists_the_known_ones() {
        let error = VggConfig::new(17).init(&Device::flex()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "VGG has no depth 17: expected one of its published configurations. Use depth 16 or 19."
        );
    }

    #[test]
    fn a_configuration_of_no_network_is_an_error() {
        let device = Device::flex();
        let config = VggConfig::new(16);
        let classes = config.clone().with_classes(0).init(&device);
        let width = config.clone().with_width_divisor(3).init(&device);

        assert!(matches!(classes, Err(ModelError::Classes { .. })));
        assert!(matches!(
            width,
            Err(ModelError::WidthDivisor { narrowest: 64, .. })
        ));
        for dropout in [-0.1, 1.0, f64::NAN] {
            let error = config.clone().with_dropout(dropout).init(&device);
            assert!(matches!(error, Err(ModelError::Dropout { .. })));
        }
    }
}
