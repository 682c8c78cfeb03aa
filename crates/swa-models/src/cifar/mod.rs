//! The networks of the SWA paper, for CIFAR's 32x32 images.

mod feature_layer;
mod preresnet;
mod vgg;
mod wide_resnet;

pub use preresnet::{PreResNet, PreResNetConfig};
pub use vgg::{Vgg, VggConfig};
pub use wide_resnet::{WideResNet, WideResNetConfig};
