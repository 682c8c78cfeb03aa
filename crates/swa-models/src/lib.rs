#![doc = include_str!("../README.md")]

mod error;
mod feature_layer;
mod initialization;
#[cfg(test)]
mod named_tensors;
mod preresnet;
mod vgg;

pub use error::ModelError;
pub use preresnet::{PreResNet, PreResNetConfig};
pub use vgg::{Vgg, VggConfig};
