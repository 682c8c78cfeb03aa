//! Linear algebra of weights.

use super::{Role, Value, Weights, WeightsError};
use crate::burn_0_22::reads_when_looked_at;
use crate::kernels::{self, Floats, Step};

impl Weights {
    /// `w + t (v - w)`, where `v` is `other`: in this vector's own memory, if nothing else shares it. If a difference overflows, it is
    /// `(1 - t) w + t v`.
    ///
    /// Infinities that are equal in both stay. One in `w` beside a number in `v` is no constant, and takes that number at any `t`
    /// but 0.
    ///
    /// # Errors
    ///
    /// [`WeightsError::MissingParameter`], [`WeightsError::UnknownParameter`] and [`WeightsError::ShapeMismatch`] for the weights of
    /// another module.
    pub fn lerp(self, other: &Self, t: f64) -> Result<Self, WeightsError> {
        let other = other.like(&self)?;
        if t == 0.0 {
            return Ok(self.accumulators());
        }
        // While there is another handle on them, no weights are changed in place.
        let is_read_later = self.devices().iter().any(reads_when_looked_at);
        let _protected = is_read_later.then(|| self.clone());
        let (layout, mut values) = self.accumulators().into_parts();
        let mut steps: Vec<Step> = Vec::new();
        for (place, value) in values.iter_mut().enumerate() {
            if let (Value::Float(values), Value::Float(towards), Role::Weight) =
                (value, &other.values[place], layout.parameters()[place].role)
            {
                let from = std::mem::replace(values, towards.clone());
                steps.push(Step {
                    parameter: place,
                    current: towards.clone(),
                    checked: false,
                    is_large: true,
                    averages: vec![(from, t)],
                });
            }
        }
        kernels::take_unchecked(&mut steps, None);
        for step in steps {
            for (stepped, _) in step.averages {
                values[step.parameter] = Value::Float(stepped);
            }
        }
        Ok(Self::from_parts(layout, values))
    }

    /// `w + a v`, where `v` is `other`.
    ///
    /// # Errors
    ///
    /// Those of [`lerp`](Self::lerp).
    pub fn axpy(&self, a: f64, other: &Self) -> Result<Self, WeightsError> {
        Self::combine(&[(1.0, self), (a, other)])
    }

    /// The sum of `c v` over any number of terms `(c, v)`. In the host's memory and on CubeCL's devices,
    /// it takes one pass over each vector. Terms whose `c` is 0 are left out, whatever they hold, unless
    /// all are 0.
    ///
    /// An infinity that all terms have in the same place, as in a mask, is multiplied by the sum of all `c`: it stays in a mean, and
    /// gives 0 in a difference.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Nothing`] without terms, and those of [`lerp`](Self::lerp).
    pub fn combine(terms: &[(f64, &Self)]) -> Result<Self, WeightsError> {
        let (_, first) = terms.first().ok_or(WeightsError::Nothing)?;
        let vectors = terms.iter().map(|(coefficient, vector)| {
            let vector = vector.like(first)?.accumulators();
            Ok((*coefficient, vector.weights().cloned().collect()))
        });
        let mut vectors = vectors.collect::<Result<Vec<(f64, Vec<Floats>)>, WeightsError>>()?;
        // 0 times an infinity would be a NaN.
        if vectors.iter().any(|(coefficient, _)| *coefficient != 0.0) {
            vectors.retain(|(coefficient, _)| *coefficient != 0.0);
        }
        Ok(first.with_weights(kernels::combine(&vectors)))
    }

    /// `<w, v>`, where `v` is `other`: summed in f64 in the host's memory, and in f32 for each parameter on other devices.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Device`], and those of [`lerp`](Self::lerp).
    pub fn dot(&self, other: &Self) -> Result<f64, WeightsError> {
        let other = other.like(self)?;
        let wide = |weights: &Self| -> Vec<Floats> {
            let weights = weights.clone().accumulators();
            weights.weights().cloned().collect()
        };
        kernels::dot(&wide(self), &wide(&other)).map_err(|reason| WeightsError::Device { reason })
    }

    /// `sqrt(<w, w>)`.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Device`].
    pub fn norm(&self) -> Result<f64, WeightsError> {
        Ok(self.dot(self)?.sqrt())
    }

    /// The norm of `w - v`, where `v` is `other`.
    ///
    /// # Errors
    ///
    /// Those of [`dot`](Self::dot).
    pub fn distance(&self, other: &Self) -> Result<f64, WeightsError> {
        self.axpy(-1.0, other)?.norm()
    }

    /// The same weights in the order of `other`, each on the device of the same weights of `other`.
    pub(super) fn like(&self, other: &Self) -> Result<Self, WeightsError> {
        let (layout, values) = self.clone().arranged_as(&other.layout)?.into_parts();
        let values = values.into_iter().zip(&other.values);
        let values = values.map(|(value, other)| value.moved_to(&other.device()));
        Ok(Self::from_parts(layout, values.collect()))
    }

    /// The same, with these values for the parameters with [`Role::Weight`], in their order.
    pub(crate) fn with_weights(&self, weights: Vec<Floats>) -> Self {
        let mut weights = weights.into_iter();
        let parameters = self.layout.parameters().iter().zip(&self.values);
        let values = parameters.map(|(parameter, value)| match parameter.role {
            Role::Weight => weights.next().map_or_else(|| value.clone(), Value::Float),
            _ => value.clone(),
        });
        Self::from_parts(self.layout.clone(), values.collect())
    }
}
