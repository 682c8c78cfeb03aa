//! Copies and records of weights on a CubeCL device stay as they were, even if Burn reads a tensor's data only when somebody
//! looks at it (see `docs/upstream.md`).
//!
//! This test is a program of its own: trainings call `swa_core::read_tensors_when_asked`, which changes the whole process.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use burn_swa_test_support::parameters::mapped;
use swa_train::swa_core::{Average, EqualWeights, Weights};

fn wgpu() -> Device {
    swa_lab::device::parse("wgpu").unwrap()
}

/// A layer all of whose weights are `value`.
fn layer(value: f32) -> Linear {
    let layer = LinearConfig::new(64, 64).init(&wgpu());
    mapped(layer, |_, weights| weights.full_like(value))
}

/// An average with the value 1 and its own memory.
fn average() -> Average<Linear> {
    let mut average = Average::new(&layer(1.0), EqualWeights).unwrap();
    for _ in 0..3 {
        average.update(&layer(1.0)).unwrap();
    }
    average
}

fn bytes(layer: Linear) -> Vec<u8> {
    layer.into_record().into_bytes().unwrap().to_vec()
}

/// Asserts that `record` holds `value`. Its tensors are read only here.
macro_rules! assert_is_of {
    ($record:expr, $value:expr) => {
        wgpu().sync().unwrap();
        assert!($record.into_bytes().unwrap().to_vec() == $value);
    };
}

#[test]
fn a_record_of_an_average_is_left_alone_by_the_next_update() {
    let mut average = average();
    let expected = bytes(average.model().unwrap());
    let record = average.model().unwrap().into_record();
    average.update(&layer(5.0)).unwrap();
    assert_is_of!(record, expected);
}

#[test]
fn a_record_of_one_of_two_averages_is_left_alone_by_both() {
    let (mut first, mut second) = (average(), average());
    let expected = bytes(first.model().unwrap());
    let record = first.model().unwrap().into_record();
    let weights = first.read(&layer(5.0)).unwrap();
    Average::update_all_from(&mut [&mut first, &mut second], weights).unwrap();
    assert_is_of!(record, expected);
    assert!(bytes(first.model().unwrap()) != expected);
}

#[test]
fn a_record_is_left_alone_by_an_update_after_a_refused_one() {
    let mut average = average();
    let expected = bytes(average.model().unwrap());
    let record = average.model().unwrap().into_record();
    average.update(&layer(f32::NAN)).unwrap_err();
    average.update(&layer(5.0)).unwrap();
    assert_is_of!(record, expected);
}

#[test]
fn a_live_record_is_left_alone_by_an_average_sharing_its_memory() {
    let model = layer(1.0);
    let expected = bytes(model.clone());
    let mut average = Average::new(&model, EqualWeights).unwrap();
    average.update(&model).unwrap();
    let record = model.clone().into_record();
    drop(model);
    average.update(&layer(5.0)).unwrap();
    assert_is_of!(record, expected);
}

#[test]
fn a_record_of_weights_is_left_alone_by_arithmetic_on_them() {
    let into = layer(0.0);
    let own = |value| {
        let weights = Weights::of(&layer(value)).unwrap();
        weights.axpy(0.0, &weights).unwrap()
    };
    let weights = own(1.0);
    let expected = bytes(weights.put_into(&into).unwrap());
    let record = weights.put_into(&into).unwrap().into_record();
    let moved = weights.lerp(&own(3.0), 0.5).unwrap();
    assert_is_of!(record, expected);
    assert_eq!(
        moved.norm().unwrap(),
        2.0 * (moved.num_elements() as f64).sqrt()
    );
}
