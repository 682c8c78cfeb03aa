//! The settings here that do what peers' settings do.

use std::error::Error;
use std::sync::Arc;

use serde::Deserialize;
use swa_train::swa_core::{
    AverageError, AveragingRule, ExponentialConfig, PowerFunction, RuleConfig, WarmUp,
};

/// All settings of all peers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    decay: Option<f64>,
    beta: Option<f64>,
    min_decay: Option<f64>,
    min_value: Option<f64>,
    update_after_step: Option<usize>,
    update_every: Option<usize>,
    use_warmup: bool,
    use_ema_warmup: bool,
    gamma: Option<f64>,
    inv_gamma: Option<f64>,
    power: Option<f64>,
    tau: Option<f64>,
    half_life_fraction: Option<f64>,
    half_life: Option<f64>,
    halflife: Option<f64>,
    rampup_ratio: Option<f64>,
    update_interval: Option<f64>,
    std: Option<f64>,
}

/// A peer's average as it is here: a rule, and the calls that it collects at.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) rule: Rule,
    /// The first call that is collected, counted from 1. At calls before it, the peer copies.
    pub(crate) first: usize,
    /// The number of calls from one collection to the next.
    pub(crate) every: usize,
    /// The average begins with the initial model, which is update 0.
    pub(crate) begins_with_model: bool,
}

/// A rule of this crate, or that of a peer which counts steps between its updates.
#[derive(Debug)]
pub(crate) enum Rule {
    Here(RuleConfig),
    /// ema-pytorch, if it does not begin at a multiple of `update_every`.
    InSteps {
        rule: RuleConfig,
        every: usize,
        less: usize,
    },
}

impl Rule {
    pub(crate) fn init(&self) -> Result<Arc<dyn AveragingRule>, AverageError> {
        Ok(match self {
            Self::Here(config) => config.init()?,
            Self::InSteps { rule, every, less } => Arc::new(InSteps {
                rule: rule.init()?,
                every: *every,
                less: *less,
            }),
        })
    }
}

#[derive(Debug)]
struct InSteps {
    rule: Arc<dyn AveragingRule>,
    every: usize,
    less: usize,
}

impl AveragingRule for InSteps {
    fn weight(&self, updates: usize) -> f64 {
        self.rule
            .weight((updates * self.every).saturating_sub(self.less))
    }
}

impl Peer {
    fn new(rule: RuleConfig) -> Self {
        Self {
            rule: Rule::Here(rule),
            first: 1,
            every: 1,
            begins_with_model: false,
        }
    }

    fn beginning_with_model(rule: RuleConfig) -> Self {
        Self {
            begins_with_model: true,
            ..Self::new(rule)
        }
    }

    pub(crate) fn of(name: &str, settings: &Settings) -> Result<Self, Box<dyn Error>> {
        let decay = settings.decay.unwrap_or(0.9999);
        let exponential = |decay, warm_up| {
            RuleConfig::Exponential(ExponentialConfig::new(decay).with_warm_up(warm_up))
        };
        let power = |gamma: Option<f64>, every: usize| WarmUp::Power {
            gamma: gamma.unwrap_or(1.0) / every as f64,
            power: settings.power.unwrap_or(2.0 / 3.0),
        };
        let bounded = |decay, min_decay, warm_up| {
            let config = ExponentialConfig::new(decay).with_warm_up(warm_up);
            RuleConfig::Exponential(config.with_min_decay(min_decay))
        };
        Ok(match name {
            "timm.ModelEmaV3" | "timm_v3" | "timm_v3_after" | "timm_v3_warmup" => Self {
                first: 1 + settings.update_after_step.unwrap_or(0),
                ..Self::new(if settings.use_warmup {
                    bounded(decay, settings.min_decay, Some(power(settings.gamma, 1)))
                } else {
                    RuleConfig::exponential(decay)
                })
            },
            "ema_pytorch.EMA" | "ema_pytorch" | "ema_pytorch_every" => {
                let every = settings.update_every.unwrap_or(10);
                let after = settings.update_after_step.unwrap_or(100);
                let beta = settings.beta.unwrap_or(0.9999);
                // The last update that copies.
                let copied = after / every * every;
                let rule = |gamma_by| {
                    let warm_up = power(settings.inv_gamma, gamma_by);
                    bounded(beta, settings.min_value, Some(warm_up))
                };
                let rule = if copied == after {
                    Rule::Here(rule(every))
                } else {
                    Rule::InSteps {
                        rule: rule(1),
                        every,
                        less: after - copied,
                    }
                };
                Self {
                    rule,
                    first: 1 + copied,
                    every,
                    begins_with_model: false,
                }
            }
            "diffusers.EMAModel" | "diffusers" | "diffusers_warmup" => {
                let warm_up = if settings.use_ema_warmup {
                    power(settings.inv_gamma, 1)
                } else {
                    WarmUp::NumUpdates
                };
                Self {
                    first: 1 + settings.update_after_step.unwrap_or(0),
                    ..Self::new(bounded(decay, settings.min_decay, Some(warm_up)))
                }
            }
            "tensorflow.ExponentialMovingAverage(num_updates)" | "tensorflow_num_updates" => {
                Self::beginning_with_model(exponential(decay, Some(WarmUp::NumUpdates)))
            }
            "yolo.ModelEMA" | "yolo" => {
                let tau = settings.tau.unwrap_or(2000.0);
                Self::beginning_with_model(exponential(decay, Some(WarmUp::Saturating { tau })))
            }
            "axlearn.ema_schedule" => {
                let all = WarmUp::Power {
                    gamma: 1.0,
                    power: 1.0,
                };
                Self::new(exponential(decay, Some(all)))
            }
            "torchtitan.EMA" | "torchtitan" => {
                let fraction = settings.half_life_fraction.unwrap_or(0.05);
                let config = ExponentialConfig::of_run_fraction(fraction);
                Self::beginning_with_model(RuleConfig::Exponential(config))
            }
            "composer.EMA" | "composer" => {
                let steps = settings.half_life.unwrap_or(1000.0);
                let updates = steps / settings.update_interval.unwrap_or(1.0);
                let config = ExponentialConfig::of_half_life(updates)?;
                Self::beginning_with_model(RuleConfig::Exponential(config))
            }
            "edm2.TraditionalEMA" | "edm2_halflife" => {
                let config = match settings.halflife {
                    Some(updates) => ExponentialConfig::of_half_life(updates)?,
                    None => ExponentialConfig::new(1.0),
                };
                let fraction = settings.rampup_ratio.unwrap_or(0.09);
                let config = config.with_warm_up(Some(WarmUp::HalfLife { fraction }));
                Self::beginning_with_model(RuleConfig::Exponential(config))
            }
            "timm_v2" | "optax_ema" => Self::beginning_with_model(RuleConfig::exponential(decay)),
            "optax_ema_debias" => Self::new(exponential(decay, Some(WarmUp::Debiased))),
            "torch_ema" | "keras" => Self::new(RuleConfig::exponential(decay)),
            "torch_swa" => Self::new(RuleConfig::EqualWeights),
            _ => {
                let width = settings.std.ok_or_else(|| format!("no peer {name} here"))?;
                Self::new(RuleConfig::PowerFunction { width })
            }
        })
    }

    /// The number of updates before call `call`, or `None` if the call changes nothing.
    pub(crate) fn updates_before(&self, call: usize) -> Option<usize> {
        if call == 1 || (call - 1).is_multiple_of(self.every) {
            let before = usize::from(self.begins_with_model);
            Some(before + call.saturating_sub(self.first) / self.every)
        } else {
            None
        }
    }
}

/// The decay of ema-pytorch's `KarrasEMA`, which is a call late, and counts calls that are no updates.
pub(crate) fn decay_of_karras_ema(
    call: usize,
    settings: &Settings,
) -> Result<Option<f64>, Box<dyn Error>> {
    let rule = PowerFunction::of_width(settings.std.ok_or("no width")?)?;
    let every = settings.update_every.unwrap_or(1);
    Ok(match call {
        1 => Some(0.0),
        call if (call - 1).is_multiple_of(every) => Some(1.0 - rule.weight(call)),
        _ => None,
    })
}
