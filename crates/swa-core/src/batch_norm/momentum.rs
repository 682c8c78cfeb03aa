//! The momentum of BatchNorm layers, measured from outside.

use super::layers::{Field, Layer, Start};
use super::statistics::Statistics;

/// The momentum of a layer. A module does not show it.
///
/// A forward pass in training mode leaves `(1 - momentum) * running + momentum * batch`, both factors rounded to the layer's
/// dtype. If `running` starts from 0, that is the batch's statistic times the momentum. If it starts from a huge number, the
/// result shows `1 - momentum`.
///
/// Of a small momentum, `1 - momentum` keeps few digits: of 1e-6 in f32, one and a half. The batch's statistics do not show the
/// missing ones, since they are known only as products with the momentum. So the momentum is the one of those that the model's
/// `Debug` [shows](crate::burn_0_22::shown_momenta) that leaves the measured `1 - momentum`. If there is no such one, or there are
/// several, it is the shortest decimal that does, as a number that somebody wrote. If that is wrong too, the statistics are wrong
/// by the same factor as those of a training: by `3e-8 / momentum` in f32, and `6e-17 / momentum` in f64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Momentum {
    /// The momentum in the layer's dtype.
    momentum: f64,
    /// One less the momentum, in the layer's dtype.
    kept: f64,
}

impl Momentum {
    /// The momentum of a layer in whose running mean a pass has left so much of a [large start](Start::ToMeasure), if the model
    /// shows these momenta. `None` if it cannot be told from 0.
    pub(super) fn measured(layer: &Layer, left: f64, shown: &[f64]) -> Option<Self> {
        let left = left / Start::ToMeasure.value(Field::Mean, layer);
        // The rest of a start that is as small as this is not told from what the batch has added.
        let kept = if left.abs() < FORGOTTEN { 0.0 } else { left };
        let kept = layer.round(kept);
        let leaves_it = |momentum: f64| layer.round(1.0 - momentum) == kept;
        let mut fitting = shown.iter().filter(|it| leaves_it(**it));
        let momentum = match (fitting.next(), fitting.next()) {
            (Some(only), None) => *only,
            _ => shortest(1.0 - kept, leaves_it),
        };
        (kept != 1.0).then(|| Self {
            momentum: layer.round(momentum),
            kept,
        })
    }

    /// The statistics of the input of a pass, from what the pass has left.
    pub(super) fn divide_out(self, layer: &Layer, left: &Statistics) -> Statistics {
        let divided = |field: Field, left: &[f64]| -> Vec<f64> {
            let rest = layer.round(Start::ToRead.value(field, layer) * self.kept);
            let left = left.iter();
            left.map(|left| (left - rest) / self.momentum).collect()
        };
        let mut variance = divided(Field::Variance, &left.variance);
        for variance in &mut variance {
            // Rounding may leave a little less than 0. A NaN stays one.
            if *variance < 0.0 {
                *variance = 0.0;
            }
        }
        Statistics {
            mean: divided(Field::Mean, &left.mean),
            variance,
        }
    }
}

/// The part of a large start that is so small that the statistics of a batch, up to 1e18, disturb it: `2^-41`.
const FORGOTTEN: f64 = 1.0 / (1u64 << 41) as f64;

/// Tells whether a pass has updated a layer's statistics since it started.
pub(super) fn is_updated(layer: &Layer, left: &Statistics) -> bool {
    let start = Start::ToRead.value(Field::Variance, layer);
    left.variance.iter().any(|variance| *variance != start)
}

/// The decimal with the fewest digits near `value` that is `taken`, or `value` itself.
fn shortest(value: f64, taken: impl Fn(f64) -> bool) -> f64 {
    let rounded = (0..17).filter_map(|digits| format!("{value:.digits$e}").parse().ok());
    let mut rounded = rounded;
    rounded.find(|it| taken(*it)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;

    #[test]
    fn a_momentum_is_the_shortest_that_leaves_its_rest() {
        for dtype in [DType::F32, DType::F64] {
            let layer = Layer {
                path: String::new(),
                channels: 1,
                dtype,
            };
            let large = Start::ToMeasure.value(Field::Mean, &layer);
            for momentum in [
                1e-6, 3e-6, 2.5e-5, 0.001, 0.01, 0.1, 0.25, 0.7, 0.9, 0.999, 1.0,
            ] {
                let left = large * layer.round(1.0 - momentum);
                let measured = Momentum::measured(&layer, left, &[]).unwrap();
                assert_eq!(measured.momentum, layer.round(momentum), "{dtype:?}");
            }
            assert!(Momentum::measured(&layer, large, &[0.1]).is_none());
        }
    }
}
