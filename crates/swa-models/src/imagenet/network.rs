//! Any of the networks for ImageNet, by name.

use core::fmt;
use std::str::FromStr;

use burn::config::Config;
use burn::tensor::{Device, Tensor};

use crate::transparent::transparent_module;
use crate::{DenseNet, DenseNetConfig, ModelError, ResNet, ResNetConfig, UnknownNetwork};

/// The configuration of any of this crate's networks for ImageNet, by name. Those for CIFAR are a
/// [`NetworkConfig`](crate::NetworkConfig).
///
/// ```
/// use burn::tensor::Device;
/// use swa_models::{ImageNetNetwork, ImageNetNetworkConfig};
///
/// let config: ImageNetNetworkConfig = "resnet-18".parse()?;
/// let network: ImageNetNetwork = config.with_classes(37).init(&Device::flex())?;
/// # let _ = network;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | name | network |
/// |---|---|
/// | `resnet-DEPTH`, such as `resnet-50` | [`ResNet`] |
/// | `densenet-DEPTH`, such as `densenet-121` | [`DenseNet`] |
#[derive(Config, Debug, PartialEq)]
pub enum ImageNetNetworkConfig {
    /// The configuration of a [`ResNet`].
    ResNet(ResNetConfig),
    /// The configuration of a [`DenseNet`].
    DenseNet(DenseNetConfig),
}

impl ImageNetNetworkConfig {
    /// The name from which it is parsed. It does not include classes and widths.
    pub fn name(&self) -> String {
        match self {
            Self::ResNet(config) => format!("resnet-{}", config.depth),
            Self::DenseNet(config) => format!("densenet-{}", config.depth),
        }
    }

    /// The same network with this number of classes.
    pub fn with_classes(self, classes: usize) -> Self {
        match self {
            Self::ResNet(config) => Self::ResNet(config.with_classes(classes)),
            Self::DenseNet(config) => Self::DenseNet(config.with_classes(classes)),
        }
    }

    /// The same network with all its widths divided by `width_divisor`.
    pub fn with_width_divisor(self, width_divisor: usize) -> Self {
        match self {
            Self::ResNet(config) => Self::ResNet(config.with_width_divisor(width_divisor)),
            Self::DenseNet(config) => Self::DenseNet(config.with_width_divisor(width_divisor)),
        }
    }

    /// A freshly initialised network on `device`.
    ///
    /// # Errors
    ///
    /// Those of the network's own configuration.
    pub fn init(&self, device: &Device) -> Result<ImageNetNetwork, ModelError> {
        Ok(match self {
            Self::ResNet(config) => config.init(device)?.into(),
            Self::DenseNet(config) => config.init(device)?.into(),
        })
    }
}

/// The names, for an error.
const NAMES: &str = "resnet-DEPTH, such as resnet-50, or densenet-DEPTH, such as densenet-121";

impl FromStr for ImageNetNetworkConfig {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        let unknown = || UnknownNetwork::new(name, NAMES);
        let (family, depth) = name.split_once('-').ok_or_else(unknown)?;
        let depth = depth.parse().map_err(|_| unknown())?;
        match family {
            "resnet" => Ok(Self::ResNet(ResNetConfig::new(depth))),
            "densenet" => Ok(Self::DenseNet(DenseNetConfig::new(depth))),
            _ => Err(unknown()),
        }
    }
}

/// Any of this crate's networks for ImageNet: one type, so that a program need not be generic over them.
///
/// Its parameters have the paths of the network inside.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a program has few networks, whose weights are elsewhere"
)]
pub enum ImageNetNetwork {
    /// A ResNet.
    ResNet(ResNet),
    /// A DenseNet.
    DenseNet(DenseNet),
}

transparent_module!(ImageNetNetwork { ResNet, DenseNet });

impl ImageNetNetwork {
    /// Logits `[batch, classes]` of images `[batch, 3, height, width]`.
    ///
    /// # Panics
    ///
    /// If the images have another shape than the network takes.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::ResNet(network) => network.forward(images),
            Self::DenseNet(network) => network.forward(images),
        }
    }
}

impl fmt::Display for ImageNetNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResNet(network) => network.fmt(f),
            Self::DenseNet(network) => network.fmt(f),
        }
    }
}

impl From<ResNet> for ImageNetNetwork {
    fn from(network: ResNet) -> Self {
        Self::ResNet(network)
    }
}

impl From<DenseNet> for ImageNetNetwork {
    fn from(network: DenseNet) -> Self {
        Self::DenseNet(network)
    }
}

#[cfg(test)]
mod tests {
    use burn_swa_test_support::parameters::shapes;

    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["resnet-18", "resnet-152", "densenet-121", "densenet-161"] {
            let config: ImageNetNetworkConfig = name.parse().unwrap();
            assert_eq!(config.name(), name);
        }
    }

    #[test]
    fn a_name_of_no_network_is_an_error_that_lists_them() {
        for name in [
            "resnet",
            "resnet-x",
            "preresnet-20",
            "vgg16",
            "densenet121",
            "",
        ] {
            let error = name.parse::<ImageNetNetworkConfig>().unwrap_err();
            let error = error.to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
            assert!(error.contains("densenet-121"), "{error}");
        }
    }

    #[test]
    fn a_network_by_name_is_the_network_itself() {
        let device = Device::flex();
        let by_name = |name: &str| {
            let config: ImageNetNetworkConfig = name.parse().unwrap();
            let config = config.with_classes(7).with_width_divisor(16);
            shapes(&config.init(&device).unwrap())
        };
        let resnet = ResNetConfig::new(18).with_classes(7);
        let resnet = resnet.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("resnet-18"), shapes(&resnet));
        let densenet = DenseNetConfig::new(121).with_classes(7);
        let densenet = densenet.with_width_divisor(16).init(&device).unwrap();
        assert_eq!(by_name("densenet-121"), shapes(&densenet));
    }
}
