//! The momentum of BatchNorm layers, measured from outside.

use burn::tensor::{DType, Tensor, TensorData};

use super::BatchNormError;
use super::layers::{Layers, Statistics, read};

/// The start of running statistics to measure the momentum. It is so large that rounding removes what
/// a forward pass adds, and a power of two, so that the division is exact.
pub(super) const PROBE: f64 = (1u64 << 40) as f64;

/// The momentum of every layer. A module does not show it.
///
/// A forward pass in training mode leaves `(1 - momentum) * running + momentum * batch`. If `running`
/// starts from 0, that is the batch's statistic times the momentum. If it starts from a huge number, the
/// result shows `1 - momentum`. A layer that is passed `k` times counts as one of momentum
/// `1 - (1 - momentum)^k`. Its statistic is then a weighted mean of those of the `k` inputs.
pub(super) struct Momentum {
    /// One over the momentum, for every channel: a tensor of shape `[channels]`.
    inverse: Tensor<1>,
}

impl Momentum {
    pub(super) fn from_probe(layers: &Layers, probe: Statistics) -> Result<Self, BatchNormError> {
        let device = probe.mean.device();
        let kept = read(probe.mean)?;
        let mut inverse = Vec::with_capacity(kept.len());
        for (index, kept) in kept.into_iter().enumerate() {
            let momentum = 1.0 - kept / PROBE;
            let layer = || layers.at_channel(index).to_owned();
            match momentum {
                momentum if !momentum.is_finite() => {
                    return Err(BatchNormError::NotFinite { layer: layer() });
                }
                momentum if momentum < SMALLEST_MOMENTUM => {
                    return Err(BatchNormError::NotUpdated { layer: layer() });
                }
                momentum => inverse.push((1.0 / momentum) as f32),
            }
        }
        let channels = inverse.len();
        // In f32, as the statistics are, and not in the device's default dtype.
        let inverse = TensorData::new(inverse, [channels]);
        let inverse = Tensor::from_data(inverse, (&device, DType::F32));
        Ok(Self { inverse })
    }

    pub(super) fn divide_out(&self, running: Statistics) -> Statistics {
        Statistics {
            mean: running.mean.mul(self.inverse.clone()),
            // The variance starts from a little below zero.
            variance: running.variance.mul(self.inverse.clone()).clamp_min(0.0),
        }
    }
}

/// A momentum that f32 cannot tell from 0 when it is computed as `1 - (1 - momentum)`.
const SMALLEST_MOMENTUM: f64 = 1e-6;
