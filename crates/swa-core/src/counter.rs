//! A number that is recorded with a module.

use burn::module::{ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};

/// A count that lives in the host's memory and travels in a module's record.
///
/// Burn (0.22.1) records only tensor parameters, so visitors and mappers are shown one. Its tensor is
/// made only if they look at the value. Most of them do not, such as those that look for gradients at
/// every step.
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

    /// The count after a mapper, such as the one that loads a record.
    pub fn map<M: ModuleMapper>(self, mapper: &mut M, device: &Device) -> Self {
        let param = mapper.map_int(self.param(device));
        let value = if param.is_initialized() {
            param.val().into_scalar::<i64>().max(0) as usize
        } else {
            self.value
        };
        Self {
            value,
            id: param.id,
        }
    }
}
