//! The networks by name, and how the paper trains each.

use std::fmt;
use std::str::FromStr;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use swa_models::{
    ModelError, PreResNet, PreResNetConfig, Vgg, VggConfig, WideResNet, WideResNetConfig,
};
use thiserror::Error;

/// A network that classifies images.
pub trait Network: Module + ModuleDisplay + 'static {
    /// Logits of shape `[batch, classes]` for images of shape `[batch, 3, 32, 32]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2>;
}

impl Network for Vgg {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        Vgg::forward(self, images)
    }
}

impl Network for PreResNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        PreResNet::forward(self, images)
    }
}

impl Network for WideResNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        WideResNet::forward(self, images)
    }
}

/// What is done with a network once its type is known.
pub trait WithNetwork {
    /// What comes of it.
    type Output;

    /// Does it.
    fn with<N: Network>(self, network: N) -> Self::Output;
}

/// A network by name: what `--model` says, and displayed as the same text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `vgg16`, `vgg19`, `vgg16-bn`, `vgg19-bn`.
    Vgg {
        /// The number of layers with weights.
        depth: usize,
        /// Whether a BatchNorm follows each convolution.
        batch_norm: bool,
    },
    /// `preresnet-DEPTH`.
    PreResNet {
        /// The number of layers with weights.
        depth: usize,
    },
    /// `wrn-DEPTH-WIDENING`, such as `wrn-28-10`.
    WideResNet {
        /// The number of layers with weights.
        depth: usize,
        /// How many times wider it is than a PreResNet.
        widen_factor: usize,
    },
}

/// How the paper trains a network on CIFAR-10 (Izmailov et al. 2018, section 4.1 and the commands of
/// the paper's code).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaperTraining {
    /// The budget in epochs.
    pub epochs: usize,
    /// The epoch at whose end weights are first collected, of that budget.
    pub swa_start: usize,
    /// The learning rate that training starts with.
    pub lr: f64,
    /// The learning rate under which weights are collected.
    pub swa_lr: f64,
    /// The weight decay.
    pub weight_decay: f64,
}

impl Architecture {
    /// How the paper trains it.
    pub fn paper(self) -> PaperTraining {
        match self {
            Self::Vgg { .. } => PaperTraining {
                epochs: 200,
                swa_start: 161,
                lr: 0.05,
                swa_lr: 0.01,
                weight_decay: 5e-4,
            },
            Self::PreResNet { .. } => PaperTraining {
                epochs: 150,
                swa_start: 126,
                lr: 0.1,
                swa_lr: 0.01,
                weight_decay: 3e-4,
            },
            Self::WideResNet { .. } => PaperTraining {
                epochs: 200,
                swa_start: 161,
                lr: 0.1,
                swa_lr: 0.05,
                weight_decay: 5e-4,
            },
        }
    }

    /// How the paper trains it on a data set of so many classes: on CIFAR-100, if they are a hundred,
    /// else on CIFAR-10.
    pub fn paper_for(self, classes: usize) -> PaperTraining {
        match (self, classes) {
            (Self::PreResNet { .. }, 100) => PaperTraining {
                swa_lr: 0.05,
                ..self.paper()
            },
            _ => self.paper(),
        }
    }

    /// Makes the network on `device`, its widths divided by `width_divisor`, and does something with
    /// it.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if there is no such network.
    pub fn with_network<W: WithNetwork>(
        self,
        classes: usize,
        width_divisor: usize,
        device: &Device,
        with: W,
    ) -> Result<W::Output, ModelError> {
        Ok(match self {
            Self::Vgg { depth, batch_norm } => with.with(
                VggConfig::new(depth)
                    .with_batch_norm(batch_norm)
                    .with_classes(classes)
                    .with_width_divisor(width_divisor)
                    .init(device)?,
            ),
            Self::PreResNet { depth } => with.with(
                PreResNetConfig::new(depth)
                    .with_classes(classes)
                    .with_width_divisor(width_divisor)
                    .init(device)?,
            ),
            Self::WideResNet {
                depth,
                widen_factor,
            } => with.with(
                WideResNetConfig::new(depth, widen_factor)
                    .with_classes(classes)
                    .with_width_divisor(width_divisor)
                    .init(device)?,
            ),
        })
    }
}

/// A name of no network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "there is no model `{0}`: take vgg16, vgg19, either with -bn, preresnet-DEPTH, such as preresnet-110, \
     or wrn-DEPTH-WIDENING, such as wrn-28-10"
)]
pub struct UnknownModel(String);

impl FromStr for Architecture {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        let unknown = || UnknownModel(name.to_owned());
        let number = |text: &str| text.parse().map_err(|_| unknown());
        if let Some(vgg) = name.strip_prefix("vgg") {
            let depth = vgg.strip_suffix("-bn");
            Ok(Self::Vgg {
                depth: number(depth.unwrap_or(vgg))?,
                batch_norm: depth.is_some(),
            })
        } else if let Some(depth) = name.strip_prefix("preresnet-") {
            let depth = number(depth)?;
            Ok(Self::PreResNet { depth })
        } else if let Some(sizes) = name.strip_prefix("wrn-") {
            let (depth, widen_factor) = sizes.split_once('-').ok_or_else(unknown)?;
            Ok(Self::WideResNet {
                depth: number(depth)?,
                widen_factor: number(widen_factor)?,
            })
        } else {
            Err(unknown())
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vgg { depth, batch_norm } => {
                let suffix = if *batch_norm { "-bn" } else { "" };
                write!(f, "vgg{depth}{suffix}")
            }
            Self::PreResNet { depth } => write!(f, "preresnet-{depth}"),
            Self::WideResNet {
                depth,
                widen_factor,
            } => write!(f, "wrn-{depth}-{widen_factor}"),
        }
    }
}

#[cfg(test)]
mod tests {
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
        ] {
            assert_eq!(name.parse::<Architecture>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_name_of_no_network_is_an_error_that_lists_them() {
        for name in [
            "vgg",
            "resnet-18",
            "preresnet-20-bn",
            "preresnet",
            "wrn-28",
            "wrn-28-x",
            "",
        ] {
            let error = name.parse::<Architecture>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
            assert!(error.contains("preresnet-110"), "{error}");
        }
    }
}
