//! The networks of the SWA paper, for CIFAR's 32x32 images.

mod feature_layer;
mod network;
mod preresnet;
mod vgg;
mod wide_resnet;

pub use network::{Network, NetworkConfig};
pub use preresnet::{PreResNet, PreResNetConfig};
pub use vgg::{Vgg, VggConfig};
pub use wide_resnet::{WideResNet, WideResNetConfig};
