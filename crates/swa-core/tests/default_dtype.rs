//! A device whose floats are f64 by default, and its ints i8. This test is a program of its own, since a device can be
//! configured only before its first tensor.

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{DType, Device, FloatDType, IntDType, Tensor};
use swa_core::{Average, EqualWeights, ReestimationConfig, reestimate_batch_norm};

#[test]
fn batch_norm_is_averaged_and_re_estimated_in_f64_by_default() {
    let mut device = Device::flex();
    device.configure((FloatDType::F64, IntDType::I8)).unwrap();
    let norm: BatchNorm = BatchNormConfig::new(1).init(&device.clone().autodiff());
    assert_eq!(norm.gamma.val().dtype(), DType::F64);

    let mut average = Average::new(&norm, EqualWeights).unwrap();
    average.update(&norm).unwrap();
    average.update(&norm).unwrap();
    let batches = [vec![1.0f64, 3.0], vec![5.0, 11.0]];
    let config = ReestimationConfig::new();
    let averaged = average.model().unwrap();
    let (norm, _) = reestimate_batch_norm(&averaged, &config, batches, |norm, batch| {
        let count = batch.len();
        let input = Tensor::<1>::from_data(batch.as_slice(), &device);
        norm.forward(input.reshape([count, 1]).autodiff());
        count
    })
    .unwrap();
    let mean = norm.running_mean.value().into_scalar::<f64>();
    let variance = norm.running_var.value().into_scalar::<f64>();
    assert!((mean - 5.0).abs() < 1e-5 && (variance - 14.0).abs() < 1e-4);

    // More updates than an i8 counts.
    let average = average.with_initial_average(&norm, 1000).unwrap();
    let record = average.clone().into_record();
    assert_eq!(average.try_load_record(record).unwrap().updates(), 1000);
}
