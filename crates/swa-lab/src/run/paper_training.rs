//! The settings with which the paper trains each network.

use swa_models::NetworkConfig;

/// The settings with which the paper trains a network on CIFAR-10 (Izmailov et al. 2018, section 4.1 and the commands of
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

impl PaperTraining {
    /// The paper's settings for a network.
    pub fn of(network: &NetworkConfig) -> Self {
        match network {
            NetworkConfig::Vgg(_) => Self {
                epochs: 200,
                swa_start: 161,
                lr: 0.05,
                swa_lr: 0.01,
                weight_decay: 5e-4,
            },
            NetworkConfig::PreResNet(_) => Self {
                epochs: 150,
                swa_start: 126,
                lr: 0.1,
                swa_lr: 0.01,
                weight_decay: 3e-4,
            },
            NetworkConfig::WideResNet(_) => Self {
                epochs: 200,
                swa_start: 161,
                lr: 0.1,
                swa_lr: 0.05,
                weight_decay: 5e-4,
            },
        }
    }

    /// The paper's settings for a network on a data set of so many classes: those for CIFAR-100 if
    /// there are a hundred, else those for CIFAR-10.
    pub fn for_classes(network: &NetworkConfig, classes: usize) -> Self {
        match (network, classes) {
            (NetworkConfig::PreResNet(_), 100) => Self {
                swa_lr: 0.05,
                ..Self::of(network)
            },
            _ => Self::of(network),
        }
    }
}
