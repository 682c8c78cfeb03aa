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
///
/// A layer that is passed `k` times counts as one of momentum `1 - (1 - momentum)^k`. Its statistic is then a weighted mean of
/// those of the `k` inputs.
#[derive(Clone, Copy)]
pub(super) struct Momentum {
    /// The momentum in the layer's dtype.
    momentum: f64,
    /// The part of the start that a variance has kept.
    start: f64,
}

impl Momentum {
    /// The momentum of a layer whose running mean was left so by a pass that [started large](Start::ToMeasure), if the model shows
    /// these momenta. `None` if it cannot be told from 0.
    pub(super) fn measured(layer: &Layer, mean: f64, shown: &[f64]) -> Option<Self> {
        // Exact, since the start is a power of two.
        let kept = mean / Start::ToMeasure.value(Field::Mean, layer);
        let leaves_it = |momentum: f64| layer.round(1.0 - momentum) == kept;
        let mut fitting = shown.iter().filter(|it| leaves_it(**it));
        let momentum = match (fitting.next(), fitting.next()) {
            (Some(only), None) => *only,
            _ => shortest(1.0 - kept, leaves_it),
        };
        (kept != 1.0).then(|| Self {
            momentum: layer.round(momentum),
            start: layer.round(Start::ToRead.value(Field::Variance, layer) * kept),
        })
    }

    /// The statistics of a batch, from those that it has left.
    pub(super) fn divide_out(self, left: Statistics) -> Statistics {
        let mean = left.mean.iter().map(|left| left / self.momentum);
        let variance = left.variance.iter().map(|left| {
            let variance = (left - self.start) / self.momentum;
            // Rounding may leave a little less than 0. A NaN stays one.
            if variance < 0.0 { 0.0 } else { variance }
        });
        Statistics {
            mean: mean.collect(),
            variance: variance.collect(),
        }
    }
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
