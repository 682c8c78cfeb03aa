//! Our own kernels under `burn-fusion`, which defers operations: it registers them like its own, and launches them unchanged.
//!
//! This is written by hand, since Burn's `#[backend_extension(Cube, Fusion)]` takes no lists. A list type of ours would need
//! `ExtensionType`, `ExtensionMetadata` and `FusionValueAdapter`, twice as many lines as this file, and a feature `fusion` of
//! this crate that always has to be the same as Burn's.

use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_fusion::custom::{
    CustomOpIr, HandleContainer, OperationFn, OperationIr, ScalarIr, StreamId, TensorIr,
};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime, FusionTensor};

use super::cube::{Averaging, Checks, Steps};

impl<B: FusionBackend + Averaging> Averaging for Fusion<B> {
    fn advance(state: FloatTensor<Self>) -> FloatTensor<Self> {
        let output = description(&state);
        let inputs = vec![state];
        defer::<B>("swa_advance", inputs, vec![], vec![output], |mut inputs| {
            vec![B::advance(inputs.remove(0))]
        })
        .remove(0)
    }

    fn mark(state: FloatTensor<Self>, checks: Checks<Self>) -> FloatTensor<Self> {
        let Checks {
            currents,
            places,
            averages,
            of,
        } = checks;
        let output = description(&state);
        let count = currents.len();
        let inputs = core::iter::once(state).chain(currents).chain(averages);
        defer::<B>(
            "swa_mark",
            inputs.collect(),
            vec![],
            vec![output],
            move |mut inputs| {
                let state = inputs.remove(0);
                let averages = inputs.split_off(count);
                let checks = Checks {
                    currents: inputs,
                    places: places.clone(),
                    averages,
                    of: of.clone(),
                };
                vec![B::mark(state, checks)]
            },
        )
        .remove(0)
    }

    fn step(state: FloatTensor<Self>, steps: Steps<Self>) -> Vec<FloatTensor<Self>> {
        let Steps {
            currents,
            averages,
            weights,
        } = steps;
        let averaged = averages.iter().map(|average| {
            let (shape, dtype) = description(average);
            ([shape.num_elements()].into(), dtype)
        });
        let averaged = averaged.collect();
        let scalars = weights
            .iter()
            .map(|(_, weight)| ScalarIr::Float((*weight).into()));
        let scalars = scalars.collect();
        let count = currents.len();
        let inputs = core::iter::once(state).chain(currents).chain(averages);
        defer::<B>(
            "swa_step",
            inputs.collect(),
            scalars,
            averaged,
            move |mut inputs| {
                let state = inputs.remove(0);
                let averages = inputs.split_off(count);
                let steps = Steps {
                    currents: inputs,
                    averages,
                    weights: weights.clone(),
                };
                B::step(state, steps)
            },
        )
    }

    fn combine(
        values: Vec<Vec<FloatTensor<Self>>>,
        coefficients: Vec<f32>,
    ) -> Vec<FloatTensor<Self>> {
        let terms = coefficients.len();
        let sums = values.iter().map(|values| {
            let (shape, dtype) = description(&values[0]);
            ([shape.num_elements()].into(), dtype)
        });
        let sums = sums.collect();
        let scalars = coefficients.iter().map(|it| ScalarIr::Float((*it).into()));
        let scalars = scalars.collect();
        let inputs = values.into_iter().flatten().collect();
        defer::<B>("swa_combine", inputs, scalars, sums, move |mut inputs| {
            let mut values = Vec::new();
            while !inputs.is_empty() {
                let rest = inputs.split_off(terms);
                values.push(std::mem::replace(&mut inputs, rest));
            }
            B::combine(values, coefficients.clone())
        })
    }
}

fn description<R: FusionRuntime>(tensor: &FusionTensor<R>) -> (Shape, DType) {
    (tensor.shape.clone(), tensor.dtype)
}

/// Registers an operation with outputs of these shapes and dtypes, to be run later.
fn defer<B: FusionBackend>(
    name: &str,
    inputs: Vec<FusionTensor<B::FusionRuntime>>,
    scalars: Vec<ScalarIr>,
    outputs: Vec<(Shape, DType)>,
    run: impl Fn(Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> + Send + Sync + 'static,
) -> Vec<FusionTensor<B::FusionRuntime>> {
    let client = inputs[0].client.clone();
    let outputs = outputs
        .into_iter()
        .map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype));
    let outputs: Vec<TensorIr> = outputs.collect();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let operation = OperationIr::Custom(CustomOpIr {
        id: name.to_owned(),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        scalars,
    });
    let run = OperationFn(move |handles: &mut Handles<B::FusionRuntime>| {
        let inputs = inputs
            .iter()
            .map(|input| handles.get_float_tensor::<B>(input));
        for (output, tensor) in outputs.iter().zip(run(inputs.collect())) {
            handles.register_float_tensor::<B>(&output.id, tensor);
        }
        Ok(())
    });
    client.register(StreamId::current(), operation, run)
}

type Handles<R> = HandleContainer<<R as FusionRuntime>::FusionHandle>;
