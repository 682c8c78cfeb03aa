#![doc = include_str!("../README.md")]

mod burn_0_22;
mod cifar;
mod error;
mod imagenet;
mod initialization;
#[cfg(test)]
mod parameter_count;
mod transparent;

pub use cifar::{
    Network, NetworkConfig, PreResNet, PreResNetConfig, Vgg, VggConfig, WideResNet,
    WideResNetConfig,
};
pub use error::{ModelError, UnknownNetwork};
pub use imagenet::{
    DenseNet, DenseNetConfig, ImageNetNetwork, ImageNetNetworkConfig, ResNet, ResNetConfig,
};
