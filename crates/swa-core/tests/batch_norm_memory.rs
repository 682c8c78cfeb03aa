//! The memory that re-estimations leave behind. A process of its own: what other threads free would be counted here.

use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor};
use swa_core::{ReestimationConfig, reestimate_batch_norm};

#[test]
fn a_re_estimation_leaves_nothing_in_memory() {
    let device = Device::flex();
    let norm: BatchNorm = BatchNormConfig::new(2).init(&device);
    let config = ReestimationConfig::new();
    let reestimate = || {
        let batches = (0..40).map(|batch| vec![batch as f32, 1.0, 2.0, 3.0]);
        let forward = |norm: &BatchNorm, batch: Vec<f32>| {
            let input = Tensor::<1>::from_floats(batch.as_slice(), &device);
            norm.forward::<2>(input.reshape([2, 2]).autodiff());
            2
        };
        drop(reestimate_batch_norm(&norm, &config, batches, forward).unwrap());
    };
    // What the first ones make stays for the next.
    for _ in 0..3 {
        reestimate();
    }
    // Burn (0.22.1) keeps 272 bytes of an operation on a device with autodiff, of which a batch takes more than one.
    let memory = allocation_counter::measure(|| (0..10).for_each(|_| reestimate()));
    let left = memory.bytes_current;
    assert!(left < 10 * 40 * 272 / 10, "{left} bytes are left");
}
