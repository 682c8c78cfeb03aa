//! The memory that re-estimations take and leave behind. A process of its own: what other threads free would be counted here.

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor};
use swa_core::{ReestimationConfig, reestimate_batch_norm};

#[derive(Module, Debug)]
struct Net {
    norm: BatchNorm,
    /// That of an auxiliary head, for example.
    other: BatchNorm,
}

/// The bytes that Burn (0.22.1) keeps of an operation on a device with autodiff, of which a batch takes more than one.
const OPERATION: i64 = 272;

#[test]
fn memory_does_not_grow_with_batches_or_re_estimations() {
    let device = Device::flex();
    let net = Net {
        norm: BatchNormConfig::new(2).init(&device),
        other: BatchNormConfig::new(2).init(&device),
    };
    let config = ReestimationConfig::new();
    for passes_other in [true, false] {
        let reestimate = |batches: i64| {
            let batches = (0..batches).map(|batch| vec![batch as f32, 1.0, 2.0, 3.0]);
            let forward = |net: &Net, batch: Vec<f32>| {
                let input = Tensor::<1>::from_floats(batch.as_slice(), &device);
                let output = net.norm.forward::<2>(input.reshape([2, 2]).autodiff());
                if passes_other {
                    net.other.forward(output);
                }
                2
            };
            drop(reestimate_batch_norm(&net, &config, batches, forward).unwrap());
        };
        // What the first ones make stays for the next.
        for _ in 0..3 {
            reestimate(40);
        }
        let memory = allocation_counter::measure(|| (0..10).for_each(|_| reestimate(40)));
        let left = memory.bytes_current;
        assert!(left < 10 * 40 * OPERATION / 10, "{left} bytes are left");

        let most = |batches: i64| allocation_counter::measure(|| reestimate(batches)).bytes_max;
        let (few, many) = (most(200) as i64, most(1200) as i64);
        assert!(many - few < 1000 * OPERATION / 10, "{few} {many}");
    }
}
