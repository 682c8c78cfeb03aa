//! Directions in weight space.

use burn::tensor::{DType, Tensor, TensorData};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{Role, Weights, WeightsError};
use crate::kernels::{Floats, accumulator_dtype};

/// Added to a filter's length, so that it is never divided by 0: from `net_plotter.py` of the source below.
const SMALLEST: f64 = 1e-10;

impl Weights {
    /// A direction that is uniform on the sphere of radius 1: `z / |z|`, where `z` is a vector of standard normal numbers.
    ///
    /// Equal generators draw equal directions on all devices, but for the rounding of `|z|`, since the numbers are drawn in the
    /// host's memory, in the order of the layout.
    ///
    /// Source: Izmailov et al. 2018, sec. 3.3, the rays of Fig. 4.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Device`], and [`WeightsError::NoDirection`] for weights of no elements.
    pub fn random_direction(&self, rng: &mut impl Rng) -> Result<Self, WeightsError> {
        let normal = self.weights().map(|values| {
            let drawn: Vec<f32> = StandardNormal
                .sample_iter(&mut *rng)
                .take(values.len())
                .collect();
            let drawn = TensorData::new(drawn, [values.len()]);
            let dtype = DType::from(accumulator_dtype(values.dtype()));
            Floats::of(Tensor::<1>::from_data(drawn, (&values.device(), dtype)))
        });
        let normal = normal.collect();
        self.with_weights(normal).normalised()
    }

    /// `w / |w|`.
    ///
    /// # Errors
    ///
    /// [`WeightsError::NoDirection`] if the length is 0 or not finite, and [`WeightsError::Device`].
    pub fn normalised(&self) -> Result<Self, WeightsError> {
        let length = self.norm()?;
        if length > 0.0 && length.is_finite() {
            Self::combine(&[(1.0 / length, self)])
        } else {
            Err(WeightsError::NoDirection { length })
        }
    }

    /// This direction with each filter as long as that of `weights`: `d_f |w_f| / |d_f|`. A filter is the part of a weight for
    /// one output of its layer (see [`Parameter::filters`](super::Parameter::filters)). Parameters of one dimension, such as
    /// biases and those of BatchNorm, get 0.
    ///
    /// Source: Li et al. 2018, *Visualizing the Loss Landscape of Neural Nets*, sec. 4, with `ignore='biasbn'` of its code.
    ///
    /// # Errors
    ///
    /// Those of [`lerp`](Self::lerp).
    pub fn filter_normalised(&self, weights: &Self) -> Result<Self, WeightsError> {
        let weights = weights.like(self)?.accumulators();
        let direction = self.clone().accumulators();
        let parameters = direction.layout.parameters().iter();
        let parameters = parameters.filter(|parameter| parameter.role == Role::Weight);
        let values = direction.weights().zip(weights.weights()).zip(parameters);
        let normalised = values.map(|((direction, weights), parameter)| {
            let direction = direction.clone();
            if parameter.shape.len() < 2 {
                return Floats::of(direction.flat().zeros_like());
            }
            let (before, from) = parameter.shape.split_at(parameter.filters);
            let (filters, after) = (from[0], from[1..].iter().product());
            let shape = [before.iter().product(), filters, after];
            let direction: Tensor<3> = direction.into_tensor(shape);
            let lengths = |values: Tensor<3>| values.square().sum_dim(0).sum_dim(2).sqrt();
            let wanted = lengths(weights.clone().into_tensor(shape));
            let scale = wanted.div(lengths(direction.clone()).add_scalar(SMALLEST));
            Floats::of(Floats::of(direction.mul(scale)).flat())
        });
        let normalised = normalised.collect();
        Ok(direction.with_weights(normalised))
    }
}
