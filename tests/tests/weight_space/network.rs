//! The module whose parameters the vectors name.

use std::error::Error;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_swa_test_support::parameters::values;
use burn_swa_tests::vectors::Rule;
use serde::Deserialize;
use swa_train::swa_core::Weights;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) rule: Rule,
}

/// Weights that change at random from step to step.
#[derive(Debug, Deserialize)]
pub(crate) struct Walk {
    pub(crate) parameters: Vec<Parameter>,
    stream: u64,
    pub(crate) steps: usize,
    jitter: f64,
}

impl Walk {
    /// The values of each parameter after each step, and before the first.
    pub(crate) fn steps(&self) -> Vec<Vec<Vec<f32>>> {
        let parameters = self.parameters.iter().zip(0..);
        let walks = parameters.map(|(parameter, position)| {
            let stream = self.stream + position;
            let rule = parameter.rule;
            rule.walk(stream, &parameter.shape, self.steps, self.jitter)
        });
        walks.collect()
    }
}

/// The module whose parameters the vectors name.
#[derive(Module, Debug)]
pub(crate) struct Net {
    conv: Layer<4>,
    norm: Layer<1>,
    fc: Layer<2>,
    frozen: Option<Frozen>,
}

/// A layer that no step changes.
#[derive(Module, Debug)]
struct Frozen {
    weight: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Layer<const D: usize> {
    weight: Param<Tensor<D>>,
    bias: Param<Tensor<1>>,
}

impl Net {
    /// A module with the values that `values` returns for each parameter and its position.
    pub(crate) fn new(
        parameters: &[Parameter],
        dtype: DType,
        values: impl Fn(usize, &Parameter) -> Vec<f32>,
    ) -> Result<Self, Box<dyn Error>> {
        let data = |name: &str| -> Result<TensorData, Box<dyn Error>> {
            let named = |parameter: &&Parameter| parameter.name == name;
            let Some(parameter) = parameters.iter().find(named) else {
                return Err(format!("the file has no parameter {name}").into());
            };
            let position = parameters.iter().take_while(|it| it.name != name).count();
            Ok(TensorData::new(
                values(position, parameter),
                parameter.shape.clone(),
            ))
        };
        Ok(Self {
            conv: Layer::new("conv", dtype, data)?,
            norm: Layer::new("norm", dtype, data)?,
            fc: Layer::new("fc", dtype, data)?,
            frozen: match data("frozen.weight") {
                Ok(data) => Some(Frozen {
                    weight: param(data, dtype),
                }),
                Err(_) => None,
            },
        })
    }
}

impl Net {
    /// All weights in the order of the files' parameters, in the graph of the module.
    pub(crate) fn flattened(&self) -> Tensor<1> {
        fn parts<const D: usize>(layer: &Layer<D>) -> [Tensor<1>; 2] {
            let weight = layer.weight.val();
            let elements = [weight.shape().num_elements()];
            [weight.reshape(elements), layer.bias.val()]
        }
        let parts = [parts(&self.conv), parts(&self.norm), parts(&self.fc)];
        Tensor::cat(parts.concat(), 0)
    }
}

impl<const D: usize> Layer<D> {
    fn new(
        name: &str,
        dtype: DType,
        data: impl Fn(&str) -> Result<TensorData, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            weight: param(data(&format!("{name}.weight"))?, dtype),
            bias: param(data(&format!("{name}.bias"))?, dtype),
        })
    }
}

fn param<const D: usize>(data: TensorData, dtype: DType) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(data, (&Device::flex(), dtype)))
}

/// The whole vector, in the order of the file's parameters.
pub(crate) fn flat(
    weights: &Weights,
    parameters: &[Parameter],
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut all = Vec::new();
    for Parameter { name, .. } in parameters {
        let parameter = weights.parameter(name);
        all.extend(values(
            parameter.ok_or_else(|| format!("no parameter {name}"))?,
        ));
    }
    Ok(all)
}
