//! A module's parameters as a flat list, in the order of its traversal.

use core::any::Any;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{
    Bool, DType, Device, FloatDType, Int, Tensor, TensorData, Transaction,
    kind::{self, Basic},
};

#[cfg(feature = "cubecl")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex;
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
    /// The device will know.
    OnDevice(Unchecked),
}

/// A value that its device is to look through.
#[derive(Clone)]
pub(crate) enum Unchecked {
    /// The sum of its elements in f32 or f64, one element, which is finite if all are. (And only then, as long as it does
    /// not overflow: weights of 1e38 are lost as well.)
    Sum(Box<Tensor<1>>),
    /// The value itself, on this device.
    #[cfg(feature = "cubecl")]
    OnCube(Box<cube::OnCube>, Device),
}

impl Unchecked {
    fn device(&self) -> Device {
        match self {
            Self::Sum(sum) => sum.device(),
            #[cfg(feature = "cubecl")]
            Self::OnCube(_, device) => device.clone(),
        }
    }
}

/// For each value, 1 if it is free of NaN and infinities, else 0: in f32, on the device of the first, since a model may be
/// spread over several. None of no values. Not in the device's default dtype: flags are counted up, and bf16 ends at 256.
pub(crate) fn finite(values: &[Unchecked]) -> Option<Tensor<1>> {
    let first = values.first()?.device();
    let alike = |one: &Unchecked, other: &Unchecked| {
        core::mem::discriminant(one) == core::mem::discriminant(other)
            && one.device() == other.device()
    };
    let flags = values.chunk_by(alike);
    let flags = flags.map(|values| finite_of_alike(values).to_device(&first));
    Some(Tensor::cat(flags.collect(), 0))
}

fn finite_of_alike(values: &[Unchecked]) -> Tensor<1> {
    let mut sums = Vec::new();
    #[cfg(feature = "cubecl")]
    let mut on_cube = Vec::new();
    for value in values {
        match value {
            Unchecked::Sum(sum) => sums.push(cast(sum.as_ref().clone(), FloatDType::F32)),
            #[cfg(feature = "cubecl")]
            Unchecked::OnCube(value, _) => on_cube.push(value.as_ref().clone()),
        }
    }
    #[cfg(feature = "cubecl")]
    if sums.is_empty() {
        return cube::finite(on_cube, &values[0].device());
    }
    let finite = Tensor::cat(sums, 0).is_finite().float();
    cast(finite, FloatDType::F32)
}

/// Reads the parameters of a module on a plain device (see [`Module::valid`]), each moved to
/// `device` if there is one. Floats of the roles that are `checked` are, for NaN and infinities: in one reading pass, and
/// without waiting for an accelerator.
///
/// # Errors
///
/// - [`AverageError::Reparameterized`] and [`AverageError::Quantized`], naming the first such
///   parameter.
/// - [`AverageError::Device`], if the parameters could not be moved.
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
        downloads: Vec::new(),
        #[cfg(feature = "flex")]
        in_memory: Vec::new(),
        error: None,
    };
    model.visit(&mut reader);
    reader.finish()
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

/// Compares the parameters of a model with those of the model that is `expected`.
///
/// # Errors
///
/// [`AverageError::MissingParameter`], [`AverageError::UnknownParameter`] and [`AverageError::ShapeMismatch`], naming the
/// first that differs.
pub(crate) fn compare(expected: &[Description], got: &[Parameter]) -> Result<(), AverageError> {
    let expected: Vec<_> = expected.iter().collect();
    let got: Vec<_> = got.iter().map(|it| &it.description).collect();

    if let Some(missing) = first_not_in(&expected, &got) {
        let path = missing.path.clone();
        return Err(AverageError::MissingParameter { path });
    }
    if let Some(unknown) = first_not_in(&got, &expected) {
        let path = unknown.path.clone();
        return Err(AverageError::UnknownParameter { path });
    }
    match expected.iter().zip(&got).find(|(a, b)| a.shape != b.shape) {
        None => Ok(()),
        Some((expected, got)) => Err(AverageError::ShapeMismatch {
            path: got.path.clone(),
            expected: expected.shape.clone(),
            got: got.shape.clone(),
        }),
    }
}

/// The first of `some` that `others` lack, by path and role. Usually both list the same, in the same
/// order, and one pass over them tells.
fn first_not_in<'a>(some: &[&'a Description], others: &[&Description]) -> Option<&'a Description> {
    let alike = |a: &Description, b: &Description| a.path == b.path && a.role == b.role;
    let mut pairs = some.iter().zip(others);
    if some.len() == others.len() && pairs.all(|(a, b)| alike(a, b)) {
        return None;
    }
    some.iter()
        .find(|one| !others.iter().any(|other| alike(one, other)))
        .copied()
}

struct Reader<'a> {
    device: Option<&'a Device>,
    checked: &'a dyn Fn(Role) -> bool,
    path: Path,
    parameters: Vec<Parameter>,
    downloads: Vec<Download>,
    /// What is to be checked in the host's memory, with the index of its parameter.
    #[cfg(feature = "flex")]
    in_memory: Vec<(usize, flex::Plain)>,
    error: Option<AverageError>,
}

/// Values on their way from one device into the host's memory: in one transfer, since the host would wait for each of
/// several.
struct Download {
    from: Device,
    transfer: Transaction,
    arrivals: Vec<Arrival>,
}

/// What to do with a value once it is there.
struct Arrival {
    /// Of its parameter.
    index: usize,
    place: Place,
}

type Place = Box<dyn FnOnce(TensorData, &Device) -> Placed>;

/// A value where it is to be averaged.
struct Placed {
    value: Box<dyn Any + Send>,
    finite: Finite,
    /// The value, if it is in the host's memory and to be checked there with all the others.
    #[cfg(feature = "flex")]
    in_memory: Option<flex::Plain>,
}

impl Placed {
    fn unchecked<const D: usize, K: Basic>(value: Tensor<D, K>) -> Self
    where
        Tensor<D, K>: Send + 'static,
    {
        Self {
            value: Box::new(value),
            finite: Finite::Known(true),
            #[cfg(feature = "flex")]
            in_memory: None,
        }
    }

    fn checked<const D: usize>(value: Tensor<D>) -> Self {
        #[cfg(feature = "flex")]
        if let Some(plain) = flex::Plain::of(&value) {
            return Self {
                in_memory: Some(plain),
                ..Self::unchecked(value)
            };
        }
        #[cfg(feature = "cubecl")]
        if let Some(on_cube) = cube::OnCube::of(&value) {
            return Self {
                finite: Finite::OnDevice(Unchecked::OnCube(Box::new(on_cube), value.device())),
                ..Self::unchecked(value)
            };
        }
        let wide = cast(value.clone(), accumulator_dtype(value.dtype()));
        #[cfg(feature = "flex")]
        if let Some(copy) = flex::Plain::copy_of(&wide) {
            // Here and now, so that there is never more than one copy.
            let finite = flex::first_not_finite(&[copy]).is_none();
            return Self {
                finite: Finite::Known(finite),
                ..Self::unchecked(value)
            };
        }
        // One launch that reads them once, where an elementwise test would take five and write as much each time.
        Self {
            finite: Finite::OnDevice(Unchecked::Sum(Box::new(wide.sum()))),
            ..Self::unchecked(value)
        }
    }
}

fn is_host(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

impl Reader<'_> {
    fn push<const D: usize, K>(
        &mut self,
        value: Tensor<D, K>,
        role: Role,
        place: fn(Tensor<D, K>) -> Placed,
    ) where
        K: Basic + kind::Transaction + 'static,
    {
        let description = Description {
            path: self.path.dotted(),
            shape: value.dims().to_vec(),
            dtype: value.dtype(),
            role,
        };
        self.parameters.push(Parameter {
            description,
            finite: Finite::Known(true),
            value: Box::new(()),
        });
        let index = self.parameters.len() - 1;
        let from = value.device();
        match self.device {
            Some(to) if from != *to && is_host(to) => self.download(index, value, from, place),
            Some(to) if from != *to => self.settle(index, place(value.to_device(to))),
            _ => self.settle(index, place(value)),
        }
    }

    fn settle(&mut self, index: usize, placed: Placed) {
        let parameter = &mut self.parameters[index];
        (parameter.value, parameter.finite) = (placed.value, placed.finite);
        #[cfg(feature = "flex")]
        if let Some(plain) = placed.in_memory {
            self.in_memory.push((index, plain));
        }
    }

    fn download<const D: usize, K>(
        &mut self,
        index: usize,
        value: Tensor<D, K>,
        from: Device,
        place: fn(Tensor<D, K>) -> Placed,
    ) where
        K: Basic + kind::Transaction + 'static,
    {
        let dtype = value.dtype();
        let arrival = Arrival {
            index,
            place: Box::new(move |data, to| place(Tensor::from_data(data, (to, dtype)))),
        };
        let begun = self.downloads.iter().position(|it| it.from == from);
        let mut download = match begun {
            Some(begun) => self.downloads.swap_remove(begun),
            None => Download {
                from,
                transfer: Transaction::default(),
                arrivals: Vec::new(),
            },
        };
        download.transfer = download.transfer.register(value);
        download.arrivals.push(arrival);
        self.downloads.push(download);
    }

    fn fail(&mut self, error: AverageError) {
        self.error.get_or_insert(error);
    }

    fn finish(mut self) -> Result<Vec<Parameter>, AverageError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let to = self.device.cloned().unwrap_or_default();
        for download in std::mem::take(&mut self.downloads) {
            let values = download.transfer.try_execute();
            let values = values.map_err(|error| AverageError::Device {
                reason: error.to_string(),
            })?;
            for (arrival, data) in download.arrivals.into_iter().zip(values) {
                self.settle(arrival.index, (arrival.place)(data, &to));
            }
        }
        #[cfg(feature = "flex")]
        {
            let (indices, values): (Vec<usize>, Vec<_>) = self.in_memory.into_iter().unzip();
            if let Some(first) = flex::first_not_finite(&values) {
                self.parameters[indices[first]].finite = Finite::Known(false);
            }
        }
        Ok(self.parameters)
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
        let role = match self.path.is_running_statistic() {
            true => Role::RunningStatistic,
            false => Role::Weight,
        };
        let place = match (self.checked)(role) {
            true => Placed::checked,
            false => Placed::unchecked,
        };
        self.push(value, role, place);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.push(param.val(), Role::Int, Placed::unchecked);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.push(param.val(), Role::Bool, Placed::unchecked);
    }
}

/// Casts float parameters to dtypes given in the order of the traversal.
pub(crate) struct Cast {
    dtypes: Vec<DType>,
    next: usize,
}

impl Cast {
    pub(crate) fn to(dtypes: impl Iterator<Item = DType>) -> Self {
        Self {
            dtypes: dtypes.collect(),
            next: 0,
        }
    }
}

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dtype = self.dtypes[self.next];
        self.next += 1;
        param.map(|tensor| cast(tensor, dtype.into()))
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.next += 1;
        param
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.next += 1;
        param
    }
}
