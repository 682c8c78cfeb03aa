//! A number that is recorded with a module.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Int, IntDType, Tensor};

/// A count that lives in the host's memory and travels in a module's record.
///
/// Burn (0.22.1) records only tensor parameters, so visitors and mappers are shown one. Its tensor is
/// made only if they look at the value. Most of them do not, such as those that look for gradients at
/// every step.
///
/// A count that is larger than what the tensor or `usize` can hold is recorded and loaded as the largest that they can, and a
/// negative one as 0. The tensor has the device's default int dtype, or if that is too small, i64 where the device has it.
#[derive(Debug, Clone)]
pub struct Counter {
    /// The count.
    pub value: usize,
    id: ParamId,
    is_loaded: bool,
}

impl Counter {
    /// A count of `value`.
    pub fn new(value: usize) -> Self {
        Self {
            value,
            id: ParamId::new(),
            is_loaded: false,
        }
    }

    /// The count as a parameter of shape `[1]`, to be visited.
    pub fn param(&self, device: &Device) -> Param<Tensor<1, Int>> {
        self.param_read_by(device, || ())
    }

    /// The same, which calls `on_read` when its tensor is made.
    fn param_read_by(
        &self,
        device: &Device,
        on_read: impl Fn() + Send + Sync + 'static,
    ) -> Param<Tensor<1, Int>> {
        let value = self.value;
        let init = move |device: &Device, _| {
            on_read();
            tensor(value, device)
        };
        let device = device.clone().without_autodiff();
        Param::uninitialized(self.id, init, device, false, [1].into())
    }

    /// Visits the count as the field `name` of a `container`.
    pub fn visit_as<V: ModuleVisitor>(
        &self,
        name: &str,
        container: &str,
        visitor: &mut V,
        device: &Device,
    ) {
        visitor.enter_module(name, container);
        visitor.visit_int(&self.param(device));
        visitor.exit_module(name, container);
    }

    /// The count after a mapper, such as the one that loads a record.
    pub fn map<M: ModuleMapper>(self, mapper: &mut M, device: &Device) -> Self {
        let is_read = Arc::new(AtomicBool::new(false));
        let on_read = {
            let is_read = is_read.clone();
            move || is_read.store(true, Ordering::Relaxed)
        };
        let param = mapper.map_int(self.param_read_by(device, on_read));
        if !param.is_initialized() {
            return Self {
                id: param.id,
                is_loaded: false,
                ..self
            };
        }
        let mapped = Self::of(&param);
        let is_same = mapped.value == self.value && mapped.id == self.id;
        Self {
            is_loaded: !(is_same && is_read.load(Ordering::Relaxed)),
            ..mapped
        }
    }

    /// The same as the field `name` of a `container`.
    pub fn map_as<M: ModuleMapper>(
        self,
        name: &str,
        container: &str,
        mapper: &mut M,
        device: &Device,
    ) -> Self {
        mapper.enter_module(name, container);
        let mapped = self.map(mapper, device);
        mapper.exit_module(name, container);
        mapped
    }

    /// Tells whether the last mapper put a count of its own here, as one that loads a record does: also one of the same value. (One that
    /// looks at the dtypes of what it replaces, as Burn's `cast_to_module_dtype` does, is not told from one that looks at the count, if
    /// the record has the same count and the same id.)
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The count that a parameter of shape `[1]` holds.
    pub fn of(param: &Param<Tensor<1, Int>>) -> Self {
        let data = param.val().into_data();
        let value = if data.dtype().is_uint() {
            data.iter::<u64>().next().map(usize::try_from)
        } else {
            let value = data.iter::<i64>().next();
            value.map(|value| usize::try_from(value.max(0)))
        };
        Self {
            value: value.unwrap_or(Ok(0)).unwrap_or(usize::MAX),
            id: param.id,
            is_loaded: false,
        }
    }
}

fn tensor(value: usize, device: &Device) -> Tensor<1, Int> {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    let dtype = device.settings().int_dtype;
    if value <= largest(dtype) {
        Tensor::from_data([value], device)
    } else if device.supports_dtype(DType::I64) {
        Tensor::from_data([value], (device, DType::I64))
    } else {
        Tensor::from_data([largest(dtype)], device)
    }
}

/// The largest count of a dtype that i64 can hold too.
fn largest(dtype: IntDType) -> i64 {
    match dtype {
        IntDType::I64 | IntDType::U64 => i64::MAX,
        IntDType::I32 => i32::MAX.into(),
        IntDType::I16 => i16::MAX.into(),
        IntDType::I8 => i8::MAX.into(),
        IntDType::U32 => u32::MAX.into(),
        IntDType::U16 => u16::MAX.into(),
        IntDType::U8 => u8::MAX.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count that is read where `value` is recorded.
    fn read<E: burn::tensor::Element>(value: E) -> usize {
        let tensor = Tensor::from_data([value], (&Device::flex(), E::dtype()));
        Counter::of(&Param::initialized(ParamId::new(), tensor)).value
    }

    #[test]
    fn counts_of_any_size_are_recorded_and_loaded() {
        let device = Device::flex();
        let most = i64::MAX as usize;
        for (count, expected) in [(0, 0), (300, 300), (most, most), (usize::MAX, most)] {
            let param = Counter::new(count).param(&device);
            assert_eq!(Counter::of(&param).value, expected);
        }
        assert_eq!(read(u64::MAX), usize::MAX);
        assert_eq!(read(i64::MAX), most);
        assert_eq!((read(i64::MIN), read(-1_i32), read(255_u8)), (0, 0, 255));
    }
}
