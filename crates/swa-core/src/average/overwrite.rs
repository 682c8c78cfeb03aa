//! Writing an average into the model that trains.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};

use super::Average;
use crate::AverageError;
use crate::path::{Path, follow_path};
use crate::weights::Weights;

impl<M: Module> Average<M> {
    /// `model`, which may be in training, with the averaged values in place of its own, to train on from there.
    ///
    /// Its parameters keep their ids, and so an optimizer's state for them, their dtypes, devices, and whether they require a gradient;
    /// those that are not averaged keep their values, such as running statistics. The average stays as it is. Where running statistics
    /// are averaged, those of `model` change with the result's: Burn's clones share them.
    ///
    /// Peers: Keras' `ema_overwrite_frequency`; Switch EMA (Li et al. 2024), which does it after each epoch.
    ///
    /// # Errors
    ///
    /// [`AverageError::NothingAveraged`], and those of [`update`](Self::update) that are about the model's parameters. A model with
    /// adapters such as LoRA's has no place for the average of its effective values ([`AverageError::Reparameterized`]).
    pub fn overwrite(&self, model: &M) -> Result<M, AverageError> {
        if self.updates() == 0 {
            return Err(AverageError::NothingAveraged);
        }
        // Also refuses adapters, which the average sees by their effects alone.
        Weights::of(model)?.arranged_as(self.weights.layout_shared())?;
        Ok(model.clone().map(&mut Overwrite {
            path: Path::default(),
            weights: self.weights(),
            averaged: &self.averaged,
        }))
    }
}

/// Puts averaged values into the parameters of a model.
struct Overwrite<'a> {
    path: Path,
    weights: &'a Weights,
    averaged: &'a [bool],
}

impl ModuleMapper for Overwrite<'_> {
    follow_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.dotted();
        let place = self.weights.layout().place(path);
        match (place, self.weights.parameter(path)) {
            (Some(place), Some(average)) if self.averaged[place] => {
                param.map(|tensor| like(average, &tensor))
            }
            _ => param,
        }
    }
}

/// The values in the shape, dtype, device and graph of a parameter.
fn like<const D: usize>(values: Tensor<1>, parameter: &Tensor<D>) -> Tensor<D> {
    let device = parameter.device();
    let dtype: FloatDType = parameter.dtype().into();
    let values = values.to_device(&device.clone().without_autodiff());
    let values = values.cast(dtype).reshape(parameter.shape());
    if device.is_autodiff() {
        Tensor::from_inner(values).set_require_grad(parameter.is_require_grad())
    } else {
        values
    }
}
