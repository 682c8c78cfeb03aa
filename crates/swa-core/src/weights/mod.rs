//! The weights of a module, as a vector.

mod arithmetic;
mod direction;
mod error;
mod layout;
mod skeleton;
mod transfer;
mod value;

use core::fmt;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use crate::kernels::{Floats, accumulator_dtype};
pub use error::WeightsError;
pub use layout::{Layout, Parameter, Role};
pub(crate) use skeleton::Skeleton;
pub(crate) use value::Value;

/// The weights of a module as a vector `w`, taken [out](Self::of) of the module and [put](Self::put_into) into one like it:
///
/// ```text
/// w.lerp(v, t)           w + t (v - w)
/// w.axpy(a, v)           w + a v
/// combine([(c, v), ..])  sum of c v
/// w.dot(v), w.norm()     <w, v>, sqrt(<w, w>)
/// ```
///
/// An average, a soup of checkpoints, a point on a line, a plane or a curve between networks: all are such combinations.
///
/// The vector is a [`Layout`] and one flat tensor for each parameter, which shares the module's memory as long as neither
/// changes. Its elements are those of the parameters with [`Role::Weight`], in the order of the layout, each row-major. The
/// module's other values (running statistics, ints, bools) come along: a result has those of the first operand.
///
/// Results are in f32, or in f64 if the module is. Weights that are put into a module get the module's dtypes. Parameters are
/// matched by path, in any order. Operands on another device are moved to that of the first operand.
///
/// # Example
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use swa_core::Weights;
///
/// let device = Device::default();
/// let [start, end]: [Linear; 2] = [(); 2].map(|()| LinearConfig::new(4, 2).init(&device));
/// let (start_weights, end_weights) = (Weights::of(&start)?, Weights::of(&end)?);
///
/// let halfway: Linear = start_weights.clone().lerp(&end_weights, 0.5)?.put_into(&start)?;
///
/// let apart = start_weights.distance(&end_weights)?;
/// let from_start = start_weights.distance(&Weights::of(&halfway)?)?;
/// assert!((from_start - apart / 2.0).abs() < 1e-6 * apart);
/// # Ok::<(), swa_core::WeightsError>(())
/// ```
#[derive(Clone)]
pub struct Weights {
    layout: Arc<Layout>,
    values: Vec<Value>,
}

impl Weights {
    /// The weights of `module`, on the module's device. The module does not change, nor does its graph.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Reparameterized`], [`WeightsError::Quantized`] and [`WeightsError::SharedPath`], which name the
    /// parameter.
    pub fn of<M: Module>(module: &M) -> Result<Self, WeightsError> {
        Self::read(&module.valid())
    }

    /// A copy of `module` with these weights, and with the running statistics, ints and bools that came with them. It is in
    /// validation mode, has the module's dtypes, and is on the weights' device.
    ///
    /// # Errors
    ///
    /// [`WeightsError::MissingParameter`], [`WeightsError::UnknownParameter`] and [`WeightsError::ShapeMismatch`] for a
    /// module with other parameters, [`WeightsError::PathsDiffer`] for one whose `visit` and `map` do not reach the same, and the
    /// errors of [`of`](Self::of).
    pub fn put_into<M: Module>(&self, module: &M) -> Result<M, WeightsError> {
        let module = module.valid();
        let there = Self::read(&module)?;
        let weights = self.clone().arranged_as(&there.layout)?;
        let skeleton = Skeleton::of(module, &there.layout)?;
        Ok(skeleton.filled(&weights.in_dtypes_of_the_module()))
    }

    /// The parameters of the vector.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The values of the float parameter at `path`, row-major: a tensor of shape `[elements]`.
    pub fn parameter(&self, path: &str) -> Option<Tensor<1>> {
        match &self.values[self.layout.place(path)?] {
            Value::Float(values) => Some(values.clone().flat()),
            Value::Int(_) | Value::Bool(_) => None,
        }
    }

    /// The number of elements of the vector.
    pub fn num_elements(&self) -> usize {
        self.weights().map(Floats::len).sum()
    }

    /// The devices that the weights are on, each once.
    pub fn devices(&self) -> Vec<Device> {
        let mut devices = Vec::new();
        for value in &self.values {
            let device = value.device();
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        devices
    }

    /// The first of them, or the default device if there are no weights.
    pub(crate) fn first_device(&self) -> Device {
        let first = self.values.first().map(Value::device);
        first.unwrap_or_default()
    }

    /// The same on `device`, without a copy of what is there already.
    pub fn to_device(self, device: &Device) -> Self {
        let values = self.values.into_iter();
        let values = values.map(|value| value.moved_to(device)).collect();
        Self { values, ..self }
    }

    /// The values of parameters with [`Role::Weight`].
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Floats> {
        let parameters = self.layout.parameters().iter().zip(&self.values);
        parameters.filter_map(|(parameter, value)| match value {
            Value::Float(values) if parameter.role == Role::Weight => Some(values),
            _ => None,
        })
    }

    /// The same, in the order of a layout.
    pub(crate) fn arranged_as(self, layout: &Arc<Layout>) -> Result<Self, WeightsError> {
        if Arc::ptr_eq(&self.layout, layout) || layout.is_same(&self.layout) {
            let layout = layout.clone();
            return Ok(Self { layout, ..self });
        }
        let places = layout.places_in(&self.layout)?;
        let values = places.into_iter().map(|place| self.values[place].clone());
        Ok(Self {
            layout: layout.clone(),
            values: values.collect(),
        })
    }

    /// The same, with all float parameters in the module's dtypes.
    pub(crate) fn in_dtypes_of_the_module(self) -> Self {
        self.cast(|_, parameter| parameter.dtype.is_float().then(|| parameter.dtype.into()))
    }

    /// The same, with all weights in the dtype of an [accumulator](accumulator_dtype).
    pub(crate) fn accumulators(self) -> Self {
        self.cast(|_, parameter| {
            (parameter.role == Role::Weight).then(|| accumulator_dtype(parameter.dtype))
        })
    }

    /// The same, with the float parameters that are `averaged` in the dtype of an [accumulator](accumulator_dtype), and the others in
    /// the module's.
    pub(crate) fn averaging(self, averaged: &[bool]) -> Self {
        self.cast(|place, parameter| {
            parameter.dtype.is_float().then(|| {
                if averaged[place] {
                    accumulator_dtype(parameter.dtype)
                } else {
                    parameter.dtype.into()
                }
            })
        })
    }

    fn cast(self, dtype: impl Fn(usize, &Parameter) -> Option<FloatDType>) -> Self {
        let (layout, values) = self.into_parts();
        let values = values.into_iter().zip(layout.parameters()).enumerate();
        let values =
            values.map(
                |(place, (value, parameter))| match (value, dtype(place, parameter)) {
                    (Value::Float(values), Some(dtype)) => Value::Float(values.cast(dtype)),
                    (value, _) => value,
                },
            );
        let values = values.collect();
        Self { layout, values }
    }

    /// The same with the running statistics of `other`, which has the same layout, in the dtypes and on the devices of before.
    pub(crate) fn with_running_statistics_of(self, other: Self) -> Self {
        let (layout, values) = self.into_parts();
        let parameters = layout.parameters().iter().zip(values).zip(other.values);
        let values = parameters.map(|((parameter, own), other)| match (own, other) {
            (Value::Float(own), Value::Float(other))
                if parameter.role == Role::RunningStatistic =>
            {
                Value::Float(other.moved_to(&own.device()).cast(own.dtype().into()))
            }
            (own, _) => own,
        });
        let values = values.collect();
        Self { layout, values }
    }

    /// The values, in the order of the layout.
    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    pub(crate) fn layout_shared(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Takes the values out, to be [put back](Self::put_values), so that there is no other handle on them.
    pub(crate) fn take_values(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.values)
    }

    pub(crate) fn put_values(&mut self, values: Vec<Value>) {
        self.values = values;
    }

    /// The layout, and the values in its order.
    pub(crate) fn into_parts(self) -> (Arc<Layout>, Vec<Value>) {
        (self.layout, self.values)
    }

    /// Weights from values in the order of the layout.
    pub(crate) fn from_parts(layout: Arc<Layout>, values: Vec<Value>) -> Self {
        Self { layout, values }
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("parameters", &self.values.len())
            .field("elements", &self.num_elements())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
