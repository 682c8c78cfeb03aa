//! Any of the networks, by name.

use std::ops::RangeInclusive;
use std::str::FromStr;

use burn::config::Config;
use burn::tensor::{Device, Tensor};

use crate::imagenet::SMALLEST_SIDE_OF_DENSENET;
use crate::transparent::transparent_module;
use crate::{
    DenseNet, DenseNetConfig, ModelError, PreResNet, PreResNetConfig, ResNet, ResNetConfig,
    UnknownNetwork, Vgg, VggConfig, WideResNet, WideResNetConfig,
};

/// The configuration of any of this crate's networks, by name.
///
/// ```
/// use burn::tensor::Device;
/// use swa_models::{Network, NetworkConfig};
///
/// let config: NetworkConfig = "preresnet-20".parse()?;
/// let network: Network = config.with_classes(100).init(&Device::flex())?;
/// # let _ = network;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | name | network | images |
/// |---|---|---|
/// | `vgg16`, `vgg19`, `vgg16-bn`, `vgg19-bn` | [`Vgg`], with BatchNorm or without | CIFAR's, 32x32 |
/// | `preresnet-DEPTH`, such as `preresnet-110` | [`PreResNet`] | CIFAR's, 32x32 |
/// | `wrn-DEPTH-WIDENING`, such as `wrn-28-10` | [`WideResNet`] | CIFAR's, 32x32 |
/// | `resnet18`, `resnet34`, `resnet50`, `resnet101`, `resnet152` | [`ResNet`], as torchvision has it | of any size |
/// | `densenet121`, `densenet161`, `densenet169`, `densenet201` | [`DenseNet`], as torchvision has it | from 29x29 |
#[derive(Config, Debug, PartialEq)]
pub enum NetworkConfig {
    /// The configuration of a [`Vgg`].
    Vgg(VggConfig),
    /// The configuration of a [`PreResNet`].
    PreResNet(PreResNetConfig),
    /// The configuration of a [`WideResNet`].
    WideResNet(WideResNetConfig),
    /// The configuration of a [`ResNet`].
    ResNet(ResNetConfig),
    /// The configuration of a [`DenseNet`].
    DenseNet(DenseNetConfig),
}

impl NetworkConfig {
    /// The name from which it is parsed. It does not include classes and widths.
    pub fn name(&self) -> String {
        match self {
            Self::Vgg(config) => {
                let suffix = if config.batch_norm { "-bn" } else { "" };
                format!("vgg{}{suffix}", config.depth)
            }
            Self::PreResNet(config) => format!("preresnet-{}", config.depth),
            Self::WideResNet(config) => format!("wrn-{}-{}", config.depth, config.widen_factor),
            Self::ResNet(config) => format!("resnet{}", config.depth),
            Self::DenseNet(config) => format!("densenet{}", config.depth),
        }
    }

    /// The same network with this number of classes.
    pub fn with_classes(self, classes: usize) -> Self {
        match self {
            Self::Vgg(config) => Self::Vgg(config.with_classes(classes)),
            Self::PreResNet(config) => Self::PreResNet(config.with_classes(classes)),
            Self::WideResNet(config) => Self::WideResNet(config.with_classes(classes)),
            Self::ResNet(config) => Self::ResNet(config.with_classes(classes)),
            Self::DenseNet(config) => Self::DenseNet(config.with_classes(classes)),
        }
    }

    /// The same network with all its widths divided by `width_divisor`.
    pub fn with_width_divisor(self, width_divisor: usize) -> Self {
        match self {
            Self::Vgg(config) => Self::Vgg(config.with_width_divisor(width_divisor)),
            Self::PreResNet(config) => Self::PreResNet(config.with_width_divisor(width_divisor)),
            Self::WideResNet(config) => Self::WideResNet(config.with_width_divisor(width_divisor)),
            Self::ResNet(config) => Self::ResNet(config.with_width_divisor(width_divisor)),
            Self::DenseNet(config) => Self::DenseNet(config.with_width_divisor(width_divisor)),
        }
    }

    /// The heights and widths, in pixels, of the images that it takes.
    pub fn image_sides(&self) -> RangeInclusive<usize> {
        match self {
            Self::Vgg(_) | Self::PreResNet(_) | Self::WideResNet(_) => 32..=32,
            Self::ResNet(_) => 1..=usize::MAX,
            Self::DenseNet(_) => SMALLEST_SIDE_OF_DENSENET..=usize::MAX,
        }
    }

    /// A freshly initialised network on `device`.
    ///
    /// # Errors
    ///
    /// Those of the network's own configuration.
    pub fn init(&self, device: &Device) -> Result<Network, ModelError> {
        Ok(match self {
            Self::Vgg(config) => Network::Vgg(config.init(device)?),
            Self::PreResNet(config) => Network::PreResNet(config.init(device)?),
            Self::WideResNet(config) => Network::WideResNet(config.init(device)?),
            Self::ResNet(config) => Network::ResNet(config.init(device)?),
            Self::DenseNet(config) => Network::DenseNet(config.init(device)?),
        })
    }
}

/// The names, for an error.
const NAMES: &str = "vgg16, vgg19, either with -bn, preresnet-DEPTH, such as preresnet-110, \
    wrn-DEPTH-WIDENING, such as wrn-28-10, resnetDEPTH, such as resnet50, or densenetDEPTH, such as densenet161";

impl FromStr for NetworkConfig {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        let unknown = || UnknownNetwork::new(name, NAMES);
        let number = |text: &str| text.parse().map_err(|_| unknown());
        if let Some(vgg) = name.strip_prefix("vgg") {
            let depth = vgg.strip_suffix("-bn");
            let config = VggConfig::new(number(depth.unwrap_or(vgg))?);
            Ok(Self::Vgg(config.with_batch_norm(depth.is_some())))
        } else if let Some(depth) = name.strip_prefix("preresnet-") {
            Ok(Self::PreResNet(PreResNetConfig::new(number(depth)?)))
        } else if let Some(sizes) = name.strip_prefix("wrn-") {
            let (depth, widen_factor) = sizes.split_once('-').ok_or_else(unknown)?;
            let config = WideResNetConfig::new(number(depth)?, number(widen_factor)?);
            Ok(Self::WideResNet(config))
        } else if let Some(depth) = name.strip_prefix("resnet") {
            Ok(Self::ResNet(ResNetConfig::new(number(depth)?)))
        } else if let Some(depth) = name.strip_prefix("densenet") {
            Ok(Self::DenseNet(DenseNetConfig::new(number(depth)?)))
        } else {
            Err(unknown())
        }
    }
}

/// Any of this crate's networks: one type, so that a program need not be generic over them.
///
/// Its parameters have the paths of the network inside.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a program has few networks, whose weights are elsewhere"
)]
pub enum Network {
    /// A VGG.
    Vgg(Vgg),
    /// A PreResNet.
    PreResNet(PreResNet),
    /// A WideResNet.
    WideResNet(WideResNet),
    /// A ResNet.
    ResNet(ResNet),
    /// A DenseNet.
    DenseNet(DenseNet),
}

transparent_module!(Network {
    Vgg,
    PreResNet,
    WideResNet,
    ResNet,
    DenseNet,
});

impl Network {
    /// Logits `[batch, classes]` of images `[batch, 3, height, width]`.
    ///
    /// # Panics
    ///
    /// If the images have another shape than the network takes, of which [`NetworkConfig::image_sides`] tells height and width.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Vgg(network) => network.forward(images),
            Self::PreResNet(network) => network.forward(images),
            Self::WideResNet(network) => network.forward(images),
            Self::ResNet(network) => network.forward(images),
            Self::DenseNet(network) => network.forward(images),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn_swa_test_support::parameters::shapes;

    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in [
            "vgg16",
            "vgg16-bn",
            "vgg19-bn",
            "preresnet-20",
            "preresnet-110",
            "wrn-28-10",
            "resnet18",
            "densenet161",
        ] {
            assert_eq!(name.parse::<NetworkConfig>().unwrap().name(), name);
        }
    }

    #[test]
    fn a_name_of_no_network_is_an_error_that_lists_them() {
        for name in [
            "vgg",
            "resnet-18",
            "resnet",
            "densenet-121",
            "preresnet-20-bn",
            "preresnet",
            "wrn-28",
            "wrn-28-x",
            "",
        ] {
            let error = name.parse::<NetworkConfig>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
            assert!(error.contains("preresnet-110"), "{error}");
        }
    }

    #[test]
    fn numbers_beyond_all_networks_are_an_error_without_a_panic() {
        let error = |name: &str| {
            let config: NetworkConfig = name.parse().unwrap();
            config.init(&Device::flex()).unwrap_err().to_string()
        };
        // 9n+2 and 6n+4.
        let deep = error("preresnet-9000000000000000002");
        assert!(deep.ends_with("up to 10000. Use depth 9992."), "{deep}");
        let deep = error("wrn-6000000000000000004-2");
        assert!(deep.ends_with("up to 10000. Use depth 10000."), "{deep}");
        let wide = error("wrn-10-100000000");
        assert!(wide.contains("cannot be 100000000 times wider"), "{wide}");
        for name in [
            "vgg16",
            "preresnet-8",
            "wrn-10-1",
            "resnet18",
            "densenet121",
        ] {
            let config: NetworkConfig = name.parse().unwrap();
            let error = config.with_classes(usize::MAX).init(&Device::flex());
            let error = error.unwrap_err().to_string();
            assert!(error.contains("classes = 18446744073709551615"), "{error}");
        }
    }

    #[test]
    fn a_network_by_name_is_the_network_itself() {
        let device = Device::flex();
        let by_name = |name: &str| {
            let config: NetworkConfig = name.parse().unwrap();
            let config = config.with_classes(7).with_width_divisor(16);
            shapes(&config.init(&device).unwrap())
        };
        let vgg = VggConfig::new(16).with_batch_norm(true).with_classes(7);
        let vgg = vgg.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("vgg16-bn"), shapes(&vgg));
        let preresnet = PreResNetConfig::new(20).with_classes(7);
        let preresnet = preresnet.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("preresnet-20"), shapes(&preresnet));
        let wide = WideResNetConfig::new(10, 2).with_classes(7);
        let wide = wide.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("wrn-10-2"), shapes(&wide));
        let resnet = ResNetConfig::new(18).with_classes(7);
        let resnet = resnet.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("resnet18"), shapes(&resnet));
        let densenet = DenseNetConfig::new(121).with_classes(7);
        let densenet = densenet.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("densenet121"), shapes(&densenet));
    }
}
