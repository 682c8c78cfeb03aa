//! A module's parameters as a flat list, in the order of its traversal.

use core::any::Any;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, kind::Basic};

use crate::{AverageError, path::Path};

/// What an average does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// A float parameter, averaged.
    Weight,
    /// A BatchNorm layer's running mean or variance, averaged only if asked to.
    RunningStatistic,
    /// An int parameter, of which the latest value is kept.
    Int,
    /// A bool parameter, of which the latest value is kept.
    Bool,
}

impl Role {
    pub(crate) fn is_averaged(self, averages_running_statistics: bool) -> bool {
        match self {
            Self::Weight => true,
            Self::RunningStatistic => averages_running_statistics,
            Self::Int | Self::Bool => false,
        }
    }
}

/// What identifies a parameter, and its type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Description {
    pub(crate) path: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) role: Role,
}

/// A parameter with its value, a `Tensor<D, K>` whose rank and kind the traversal that takes it back
/// knows.
pub(crate) struct Parameter {
    pub(crate) description: Description,
    /// Whether it is free of NaN and infinities, as far as that was to be checked.
    pub(crate) finite: Finite,
    value: Box<dyn Any + Send>,
}

impl Parameter {
    /// The value. The caller names its type, which the same place of the same module gave.
    pub(crate) fn into_value<T: 'static>(self) -> T {
        *self
            .value
            .downcast()
            .expect("a parameter's rank and kind were compared before")
    }
}

/// Whether a value is free of NaN and infinities, as far as the host knows.
pub(crate) enum Finite {
    /// The host knows.
    Known(bool),
    /// The device will know: one element, 1 if so and 0 if not.
    OnDevice(Box<Tensor<1>>),
}

impl Finite {
    /// Checks a tensor in one reading pass over it, without waiting for a device.
    fn of<const D: usize>(value: &Tensor<D>) -> Self {
        let value = cast(value.clone(), accumulator_dtype(value.dtype()));
        #[cfg(feature = "flex")]
        if let Some(finite) = crate::flex::all_finite(value.clone()) {
            return Self::Known(finite);
        }
        // Not in the device's default dtype: flags are counted up, and bf16 ends at 256.
        let flag = value.is_finite().all().float().cast(FloatDType::F32);
        Self::OnDevice(Box::new(flag))
    }
}

/// Reads the parameters of a module on a plain device (see [`Module::valid`]), each moved to
/// `device` if there is one. Floats of the roles that are `checked` are, for NaN and infinities.
///
/// # Errors
///
/// [`AverageError::Reparameterized`] and [`AverageError::Quantized`], naming the first such
/// parameter.
pub(crate) fn read<M: Module>(
    model: &M,
    device: Option<&Device>,
    checked: impl Fn(Role) -> bool,
) -> Result<Vec<Parameter>, AverageError> {
    let mut reader = Reader {
        device,
        checked: &checked,
        path: Path::default(),
        parameters: Vec::new(),
        error: None,
    };
    model.visit(&mut reader);
    match reader.error {
        None => Ok(reader.parameters),
        Some(error) => Err(error),
    }
}

/// The dtype in which a parameter of `dtype` is averaged: f64 for f64, and f32 for the rest, since a
/// mean kept in 16 bits stops moving after a few hundred updates.
pub(crate) fn accumulator_dtype(dtype: DType) -> FloatDType {
    match dtype {
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

/// `tensor` in `dtype`, without a copy where it is already.
pub(crate) fn cast<const D: usize>(tensor: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    match tensor.dtype() == DType::from(dtype) {
        true => tensor,
        false => tensor.cast(dtype),
    }
}

struct Reader<'a> {
    device: Option<&'a Device>,
    checked: &'a dyn Fn(Role) -> bool,
    path: Path,
    parameters: Vec<Parameter>,
    error: Option<AverageError>,
}

impl Reader<'_> {
    fn push<const D: usize, K>(&mut self, value: Tensor<D, K>, role: Role, finite: Finite)
    where
        K: Basic,
        Tensor<D, K>: Send + 'static,
    {
        self.parameters.push(Parameter {
            description: Description {
                path: self.path.dotted(),
                shape: value.dims().to_vec(),
                dtype: value.dtype(),
                role,
            },
            finite,
            value: Box::new(value),
        });
    }

    fn place<const D: usize, K: Basic>(&self, value: Tensor<D, K>) -> Tensor<D, K> {
        match self.device {
            Some(device) if value.device() != *device => value.to_device(device),
            _ => value,
        }
    }

    fn fail(&mut self, error: AverageError) {
        self.error.get_or_insert(error);
    }
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        // Burn visits the base of a reparameterized parameter first, then its state in here.
        if container == "Reparameterization" {
            let path = self.path.dotted();
            self.fail(AverageError::Reparameterized { path });
        }
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.dtype().is_float() {
            let path = self.path.dotted();
            return self.fail(AverageError::Quantized { path });
        }
        let value = self.place(value);
        let role = match self.path.is_running_statistic() {
            true => Role::RunningStatistic,
            false => Role::Weight,
        };
        let finite = match (self.checked)(role) {
            true => Finite::of(&value),
            false => Finite::Known(true),
        };
        self.push(value, role, finite);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let value = self.place(param.val());
        self.push(value, Role::Int, Finite::Known(true));
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let value = self.place(param.val());
        self.push(value, Role::Bool, Finite::Known(true));
    }
}
