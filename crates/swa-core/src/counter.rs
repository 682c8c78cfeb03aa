//! A number that is recorded with a module.

use burn::module::{ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};

/// A count that lives in the host's memory and travels in a module's record.
///
/// Burn records tensor parameters alone (0.22.1), so that is what visitors and mappers are shown: one
/// that is made only if they look at its value, since most of them, such as those that look for
/// gradients at every step, do not.
#[derive(Debug, Clone)]
pub struct Counter {
    /// The count.
    pub value: usize,
    id: ParamId,
}

impl Counter {
    /// A count of `value`.
    pub fn new(value: usize) -> Self {
        Self {
            value,
            id: ParamId::new(),
        }
    }

    /// The count as a parameter of shape `[1]`, to be visited.
    pub fn param(&self, device: &Device) -> Param<Tensor<1, Int>> {
        let value = self.value as i64;
        Param::uninitialized(
            self.id,
            move |device, _| Tensor::from_data([value], device),
            device.clone().without_autodiff(),
            false,
            [1].into(),
        )
    }

    /// The count that a mapper, such as that which loads a record, makes of this.
    pub fn map<M: ModuleMapper>(self, mapper: &mut M, device: &Device) -> Self {
        let param = mapper.map_int(self.param(device));
        let value = match param.is_initialized() {
            false => self.value,
            true => param.val().into_scalar::<i64>().max(0) as usize,
        };
        Self {
            value,
            id: param.id,
        }
    }
}
