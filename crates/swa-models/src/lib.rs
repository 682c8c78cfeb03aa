#![doc = include_str!("../README.md")]

mod burn_0_22;
mod error;
mod feature_layer;
mod initialization;
#[cfg(test)]
mod parameter_count;
mod preresnet;
mod state_dict;
mod vgg;
mod wide_resnet;

pub use error::ModelError;
pub use preresnet::{PreResNet, PreResNetConfig};
pub use state_dict::{StateDict, StateDictError};
pub use vgg::{Vgg, VggConfig};
pub use wide_resnet::{WideResNet, WideResNetConfig};
