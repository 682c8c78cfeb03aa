#![doc = include_str!("../README.md")]

mod burn_0_22;
mod cifar;
mod error;
mod imagenet;
mod initialization;
mod network;
#[cfg(test)]
mod parameter_count;
mod pooling;
mod transparent;

pub use cifar::{PreResNet, PreResNetConfig, Vgg, VggConfig, WideResNet, WideResNetConfig};
pub use error::{ModelError, UnknownNetwork};
pub use imagenet::{DenseNet, DenseNetConfig, ResNet, ResNetConfig};
pub use network::{Network, NetworkConfig};
