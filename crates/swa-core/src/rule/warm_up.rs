//! The ways in which the decay of an exponential moving average rises to its value.

use burn::config::Config;

/// A decay that begins low, so that the average leaves the first weights behind, which know nothing.
///
/// `n` is the number of updates before this one, as for every [rule](super::AveragingRule): the weights at the start count as update
/// 0, so an average that begins with the untrained model ([`Average::with_initial_average`](crate::Average::with_initial_average)
/// with 1 update) has the decays of peers that begin with it, such as TensorFlow and YOLO.
#[derive(Config, Debug, PartialEq)]
pub enum WarmUp {
    /// `1 - (1 + n/gamma)^-power`: the average covers about the last `(n/gamma)^power` updates. timm's `use_warmup` has `gamma` 1
    /// and `power` 2/3 ([`WarmUp::timm`]), as have ema-pytorch and diffusers' `use_ema_warmup`; timm advises a power of 3/4 for
    /// shorter runs. axlearn's has 1 and 1, which is the mean of all updates so far.
    ///
    /// Peers that update every `k` steps and count steps (ema-pytorch, whose default is 10) have their `gamma / k` here.
    Power {
        /// The number of updates that it takes to get going: timm's `warmup_gamma`, ema-pytorch's `inv_gamma`.
        gamma: f64,
        /// The power: timm's `warmup_power`.
        power: f64,
    },
    /// `(1 + n) / (10 + n)`: TensorFlow's `num_updates`, and diffusers' default. The average covers about the last ninth of the updates.
    NumUpdates,
    /// `decay * (1 - exp(-n/tau))`: YOLO's `ModelEMA`, where `tau` is 2000.
    Saturating {
        /// The number of updates after which 63 % of the decay is reached.
        tau: f64,
    },
    /// `2^(-1/(fraction n))`: the half-life is a fraction of all updates so far. torchtitan's `half_life_fraction` is 0.05, and
    /// EDM2's `rampup_ratio` 0.09.
    HalfLife {
        /// The half-life, as a part of the updates so far.
        fraction: f64,
    },
    /// `1 - (1 - decay) / (1 - decay^(n + 1))`: the mean of all updates, weighted by `decay^age`, as if nothing had been there before.
    /// optax's `ema` has it by default (`debias`), as Adam has for its moments.
    Debiased,
}

impl WarmUp {
    /// timm's defaults: [`WarmUp::Power`] with `gamma` 1 and `power` 2/3.
    pub fn timm() -> Self {
        Self::Power {
            gamma: 1.0,
            power: 2.0 / 3.0,
        }
    }

    /// The weight of an update, `1 - decay(n)`, for the `decay` that is reached in the end. This keeps digits that `1 - decay` would
    /// lose.
    pub(super) fn weight(&self, updates: usize, decay: f64) -> f64 {
        let n = updates as f64;
        match *self {
            Self::Power { gamma, power } => (1.0 + n / gamma).powf(-power),
            Self::NumUpdates => 9.0 / (10.0 + n),
            Self::Saturating { tau } => 1.0 + decay * (-n / tau).exp_m1(),
            Self::HalfLife { fraction } => -(-core::f64::consts::LN_2 / (fraction * n)).exp_m1(),
            Self::Debiased if decay == 1.0 => 1.0 / (1.0 + n),
            Self::Debiased => (1.0 - decay) / -((1.0 + n) * decay.ln()).exp_m1(),
        }
    }

    /// The settings with their names. All are to be positive.
    pub(super) fn settings(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::Power { gamma, power } => {
                vec![
                    ("the gamma of a warm-up", gamma),
                    ("the power of a warm-up", power),
                ]
            }
            Self::Saturating { tau } => vec![("the tau of a warm-up", tau)],
            Self::HalfLife { fraction } => vec![("the half-life fraction of a warm-up", fraction)],
            Self::NumUpdates | Self::Debiased => Vec::new(),
        }
    }
}
