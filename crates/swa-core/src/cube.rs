//! Averaging on CubeCL's devices (CUDA, ROCm, Vulkan, Metal, wgpu): two kernels for each parameter, of which one marks
//! what is not finite and one takes the step.
//!
//! Burn's operations would take seven, and write a tensor of the parameter's size in each of four. Kernels fused by
//! `burn-fusion` take between four and five.

use core::fmt;

use burn::backend::{Backend, cubecl::dtype_to_storage_type, tensor::FloatTensor};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::cubecl::{calculate_cube_count_elemwise, tensor_vector_size_parallel};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, CubeBackend};
use burn_fusion::custom::{
    CustomOpIr, HandleContainer, Operation, OperationIr, ScalarIr, StreamId, TensorIr,
};
use burn_fusion::{ExecutionError, Fusion, FusionBackend, FusionRuntime, FusionTensor};

/// A float tensor on one of CubeCL's devices, of a dtype that the kernels here read.
#[derive(Clone)]
pub(crate) struct OnCube(FloatTensor<Cube>);

impl OnCube {
    /// `tensor`, if it is one.
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
            .then(|| tensor.clone().try_into_primitive::<Cube>().ok())
            .flatten()
            .map(Self)
    }

    pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_primitive::<Cube>(self.0)
    }
}

/// For each of several tensors on `device`, 1 if it is free of NaN and infinities, else 0: in f32.
pub(crate) fn finite(values: Vec<OnCube>, device: &Device) -> Tensor<1> {
    let finite = Tensor::<1>::ones([values.len()], (device, DType::F32));
    let mut finite = finite
        .try_into_primitive::<Cube>()
        .expect("a tensor made on the device of others is of their backend");
    for (place, OnCube(values)) in values.into_iter().enumerate() {
        finite = Cube::mark_not_finite(finite, values, place);
    }
    OnCube(finite).into_tensor()
}

/// An average in f32, the current values that it takes a step towards, and one element in f32 that says whether it does.
pub(crate) struct Step {
    pub(crate) average: OnCube,
    pub(crate) current: OnCube,
    pub(crate) accept: OnCube,
}

impl Step {
    /// `average + weight * (current - average)` if `accept` is 1, and `average` if it is 0: in the average's own memory, if
    /// nobody shares it.
    pub(crate) fn take(self, weight: f64) -> OnCube {
        let Self {
            average,
            current,
            accept,
        } = self;
        OnCube(Cube::step(average.0, current.0, accept.0, weight as f32))
    }
}

trait Averaging: Backend {
    /// `finite`, with 0 in `place` if any of `values` is a NaN or an infinity: in place, since it is nobody else's. (CubeCL
    /// cannot always tell, as long as the device has not come to it.)
    fn mark_not_finite(
        finite: FloatTensor<Self>,
        values: FloatTensor<Self>,
        place: usize,
    ) -> FloatTensor<Self>;

    fn step(
        average: FloatTensor<Self>,
        current: FloatTensor<Self>,
        accept: FloatTensor<Self>,
        weight: f32,
    ) -> FloatTensor<Self>;
}

#[cube(launch, address_type = "dynamic")]
fn mark_not_finite<C: Float>(
    values: LinearView<'_, C>,
    mut finite: LinearViewMut<'_, f32>,
    place: usize,
    #[define(C)] _dtype: ElemType,
) {
    if !values.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let value = f32::cast_from(values.read(ABSOLUTE_POS));
    if value.is_nan() || value.is_inf() {
        // Whoever else writes here writes the same.
        finite.write(place, 0.0);
    }
}

#[cube(launch, address_type = "dynamic")]
fn step_towards<C: Float, N: Size>(
    average: LinearView<'_, Vector<f32, N>>,
    current: LinearView<'_, Vector<C, N>>,
    accept: LinearView<'_, f32>,
    weight: f32,
    mut averaged: LinearViewMut<'_, Vector<f32, N>>,
    #[define(C)] _dtype: ElemType,
) {
    if !averaged.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let before = average.read(ABSOLUTE_POS);
    let mut after = before;
    if accept.read(0) > 0.5 {
        let current = Vector::<f32, N>::cast_from(current.read(ABSOLUTE_POS));
        after = before + (current - before) * Vector::new(weight);
    }
    averaged.write(ABSOLUTE_POS, after);
}

/// The longest vectors that both tensors can be read and written in.
fn vector_size(one: &CubeTensor, other: &CubeTensor) -> usize {
    let of = |tensor: &CubeTensor| {
        tensor_vector_size_parallel(
            tensor.client.io_optimized_vector_sizes(tensor.elem_size()),
            tensor.meta.shape(),
            tensor.meta.strides(),
            tensor.meta.num_dims() - 1,
        )
    };
    of(one).min(of(other))
}

impl Averaging for CubeBackend {
    fn mark_not_finite(finite: CubeTensor, values: CubeTensor, place: usize) -> CubeTensor {
        let units = values.meta.num_elements();
        if units > 0 {
            let client = values.client.clone();
            let cube = CubeDim::new(&client, units);
            mark_not_finite::launch(
                &client,
                calculate_cube_count_elemwise(&client, units, cube),
                cube,
                values.required_address_type(),
                values.clone().into_linear_view(),
                finite.clone().into_linear_view(),
                place,
                dtype_to_storage_type(values.dtype),
            );
        }
        finite
    }

    fn step(
        average: CubeTensor,
        current: CubeTensor,
        accept: CubeTensor,
        weight: f32,
    ) -> CubeTensor {
        let client = average.client.clone();
        let count = average.meta.num_elements();
        if count == 0 {
            return average;
        }
        let in_place = average.can_mut() && average.is_nonoverlapping();
        let averaged = match in_place {
            true => average.clone(),
            false => empty_device_dtype(
                client.clone(),
                average.device.clone(),
                average.meta.shape().clone(),
                average.dtype,
            ),
        };
        let vector_size = match in_place {
            true => vector_size(&average, &current),
            false => vector_size(&average, &current).min(vector_size(&averaged, &averaged)),
        };
        let units = count / vector_size;
        let cube = CubeDim::new(&client, units);
        let written = match in_place {
            true => averaged.as_linear_view_alias(0),
            false => averaged.clone().into_linear_view(),
        };
        let addresses = [&average, &current, &averaged].map(CubeTensor::required_address_type);
        let dtype = dtype_to_storage_type(current.dtype);
        step_towards::launch(
            &client,
            calculate_cube_count_elemwise(&client, units, cube),
            cube,
            addresses.into_iter().max().unwrap_or_default(),
            vector_size,
            average.into_linear_view(),
            current.into_linear_view_like(&averaged),
            accept.into_linear_view(),
            weight,
            written,
            dtype,
        );
        averaged
    }
}

/// Kernels of its own are what `burn-fusion` puts off like every other operation, and launches as they are.
impl<B: FusionBackend + Averaging> Averaging for Fusion<B> {
    fn mark_not_finite(
        finite: FloatTensor<Self>,
        values: FloatTensor<Self>,
        place: usize,
    ) -> FloatTensor<Self> {
        put_off::<B, 2>(
            "swa_mark_not_finite",
            [finite, values],
            ScalarIr::UInt(place as u64),
            move |[finite, values]| B::mark_not_finite(finite, values, place),
        )
    }

    fn step(
        average: FloatTensor<Self>,
        current: FloatTensor<Self>,
        accept: FloatTensor<Self>,
        weight: f32,
    ) -> FloatTensor<Self> {
        put_off::<B, 3>(
            "swa_step",
            [average, current, accept],
            ScalarIr::Float(weight.into()),
            move |[average, current, accept]| B::step(average, current, accept, weight),
        )
    }
}

/// Registers an operation whose output is of the first input's shape and dtype.
fn put_off<B: FusionBackend, const N: usize>(
    name: &str,
    inputs: [FusionTensor<B::FusionRuntime>; N],
    scalar: ScalarIr,
    run: impl Fn([FloatTensor<B>; N]) -> FloatTensor<B> + Send + Sync + 'static,
) -> FusionTensor<B::FusionRuntime> {
    let client = inputs[0].client.clone();
    let output = TensorIr::uninit(
        client.create_empty_handle(),
        inputs[0].shape.clone(),
        inputs[0].dtype,
    );
    let inputs = inputs.map(FusionTensor::into_ir);
    let operation = OperationIr::Custom(CustomOpIr {
        id: name.to_owned(),
        inputs: inputs.to_vec(),
        outputs: vec![output.clone()],
        scalars: vec![scalar],
    });
    let run = PutOff(move |handles: &mut Handles<B::FusionRuntime>| {
        let inputs = inputs
            .each_ref()
            .map(|input| handles.get_float_tensor::<B>(input));
        handles.register_float_tensor::<B>(&output.id, run(inputs));
        Ok(())
    });
    client
        .register(StreamId::current(), operation, run)
        .remove(0)
}

type Handles<R> = HandleContainer<<R as FusionRuntime>::FusionHandle>;

/// An operation that `burn-fusion` runs when it comes to it.
struct PutOff<F>(F);

impl<F> fmt::Debug for PutOff<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("swa-core's step of an average")
    }
}

impl<R: FusionRuntime, F> Operation<R> for PutOff<F>
where
    F: Fn(&mut Handles<R>) -> Result<(), ExecutionError> + Send + Sync,
{
    fn execute(&self, handles: &mut Handles<R>) -> Result<(), ExecutionError> {
        (self.0)(handles)
    }
}
