//! Weights out of a module.

use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor, Transaction};

use super::value::Kind;
use super::{Layout, Parameter, Role, Value, Weights, WeightsError};
use crate::burn_0_22::running_states;
use crate::kernels::{Floats, is_host};
use crate::path::Path;

impl Weights {
    /// The weights of a module on a plain device (see [`Module::valid`]).
    pub(crate) fn read<M: Module>(module: &M) -> Result<Self, WeightsError> {
        Self::read_next_to(module, &Layout::default())
            .map(|(layout, values)| Self::from_parts(Arc::new(layout.unwrap_or_default()), values))
    }

    /// The same, in the order of a layout, which is usually the module's.
    pub(crate) fn read_as<M: Module>(
        module: &M,
        expected: &Arc<Layout>,
    ) -> Result<Self, WeightsError> {
        match Self::read_next_to(module, expected)? {
            (None, values) => Ok(Self::from_parts(expected.clone(), values)),
            (Some(layout), values) => {
                Self::from_parts(Arc::new(layout), values).arranged_as(expected)
            }
        }
    }

    /// The values of a module, and its layout if it is not the expected one.
    fn read_next_to<M: Module>(
        module: &M,
        expected: &Layout,
    ) -> Result<(Option<Layout>, Vec<Value>), WeightsError> {
        let mut reader = Reader {
            expected,
            path: Path::default(),
            parameters: Vec::new(),
            values: Vec::new(),
            error: None,
        };
        module.visit(&mut reader);
        let Reader {
            mut parameters,
            values,
            error,
            ..
        } = reader;
        if let Some(error) = error {
            return Err(error);
        }
        if parameters.iter().any(|it| it.role == Role::Weight) {
            let states = running_states(module);
            for parameter in &mut parameters {
                if parameter.role == Role::Weight && states.contains(&parameter.path) {
                    parameter.role = Role::RunningStatistic;
                }
            }
        }
        let as_expected = values.len() - parameters.len();
        if as_expected == expected.parameters().len() && parameters.is_empty() {
            return Ok((None, values));
        }
        let as_expected = expected.parameters()[..as_expected].iter().cloned();
        let layout = Layout::new(as_expected.chain(parameters).collect())?;
        Ok((Some(layout), values))
    }

    /// The same on `device`. To the host's memory, there is one transfer from each device.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Device`].
    pub(crate) fn transferred_to(self, device: &Device) -> Result<Self, WeightsError> {
        if !is_host(device) {
            return Ok(self.to_device(device));
        }
        let (layout, values) = self.into_parts();
        Ok(Self::from_parts(layout, download(values, device)?))
    }
}

/// Reads values. From the first parameter on that is not the next expected one, it reads the parameters too.
struct Reader<'a> {
    expected: &'a Layout,
    path: Path,
    parameters: Vec<Parameter>,
    values: Vec<Value>,
    error: Option<WeightsError>,
}

impl Reader<'_> {
    fn push<const D: usize, K: Kind>(&mut self, tensor: Tensor<D, K>, role: Role) {
        if !self.parameters.is_empty() || !self.is_next(&tensor, role) {
            self.parameters.push(Parameter {
                path: self.path.dotted().to_owned(),
                shape: tensor.dims().to_vec(),
                dtype: tensor.dtype(),
                role,
                filters: self.path.filter_dimension(),
            });
        }
        self.values.push(K::value(tensor));
    }

    fn is_next<const D: usize, K: Kind>(&self, tensor: &Tensor<D, K>, role: Role) -> bool {
        let next = self.expected.parameters().get(self.values.len());
        next.is_some_and(|next| {
            // The expected layout knows which floats are running states.
            let is_of_its_kind = next.role == role || next.role.is_float() && role.is_float();
            next.path == self.path.dotted() && is_of_its_kind && next.shape == tensor.dims()
        })
    }

    fn fail(&mut self, error: WeightsError) {
        self.error.get_or_insert(error);
    }
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        // Burn visits the base of a reparameterized parameter first, then its state in here.
        if container == "Reparameterization" {
            let path = self.path.dotted().to_owned();
            self.fail(WeightsError::Reparameterized { path });
        }
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.dtype().is_float() {
            let path = self.path.dotted().to_owned();
            return self.fail(WeightsError::Quantized { path });
        }
        let role = if self.path.is_running_statistic() {
            Role::RunningStatistic
        } else {
            Role::Weight
        };
        self.push(value, role);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.push(param.val(), Role::Int);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.push(param.val(), Role::Bool);
    }
}

/// Moves values into the host's memory, in one transfer from each device, since the host waits for each transfer.
fn download(mut values: Vec<Value>, to: &Device) -> Result<Vec<Value>, WeightsError> {
    let mut from: Vec<Device> = values.iter().map(Value::device).collect();
    from.retain(|device| device != to);
    while let Some(device) = from.first().cloned() {
        from.retain(|other| *other != device);
        let moved = values.iter_mut().filter(|value| value.device() == device);
        let moved: Vec<&mut Value> = moved.collect();
        let transfer = moved
            .iter()
            .fold(Transaction::default(), |transfer, value| {
                match (**value).clone() {
                    Value::Float(values) => transfer.register(values.flat()),
                    Value::Int(values) => transfer.register(values),
                    Value::Bool(values) => transfer.register(values),
                }
            });
        let arrived = transfer
            .try_execute()
            .map_err(|error| WeightsError::Device {
                reason: error.to_string(),
            })?;
        for (value, data) in moved.into_iter().zip(arrived) {
            let options = (to, data.dtype());
            *value = match value {
                Value::Float(_) => Value::Float(Floats::of(Tensor::<1>::from_data(data, options))),
                Value::Int(_) => Value::Int(Tensor::from_data(data, options)),
                Value::Bool(_) => Value::Bool(Tensor::from_data(data, options)),
            };
        }
    }
    Ok(values)
}
