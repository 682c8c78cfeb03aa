#![doc = include_str!("../README.md")]

mod burn_0_22;
mod error;
mod feature_layer;
mod initialization;
mod network;
#[cfg(test)]
mod parameter_count;
mod preresnet;
mod transparent;
mod vgg;
mod wide_resnet;

pub use error::ModelError;
pub use network::{Network, NetworkConfig, UnknownNetwork};
pub use preresnet::{PreResNet, PreResNetConfig};
pub use vgg::{Vgg, VggConfig};
pub use wide_resnet::{WideResNet, WideResNetConfig};
