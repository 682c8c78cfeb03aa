//! The counter-based generator every weight, image and label of the reference vectors comes from.
//!
//! `vectors/README.md` gives the formulas.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// `count` values of `stream`, uniform in `centre ± width / 2`.
pub fn uniform(stream: u64, count: usize, width: f64, centre: f64) -> Vec<f32> {
    bits(stream, count)
        .map(|bits| ((bits as f64 / 16_777_216.0 - 0.5) * width + centre) as f32)
        .collect()
}

/// `count` CIFAR-sized images of `stream`, `[count, 3, 32, 32]`, uniform in ±1.
pub fn images(stream: u64, count: usize, device: &Device) -> Tensor<4> {
    let values = uniform(stream, count * 3 * 32 * 32, 2.0, 0.0);
    Tensor::from_data(TensorData::new(values, [count, 3, 32, 32]), device)
}

/// `count` labels of `stream`, each below `classes`.
pub fn labels(stream: u64, count: usize, classes: u64, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = bits(stream, count)
        .map(|bits| (bits % classes) as i64)
        .collect();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// 24 random bits for each position of the stream.
fn bits(stream: u64, count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(move |index| splitmix64((stream << 32).wrapping_add(index)) >> 40)
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn splitmix64(counter: u64) -> u64 {
    let z = counter.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_are_those_the_readme_gives() {
        assert_eq!(
            uniform(4096, 3, 1.0, 0.0),
            [-0.282_090_72, -0.033_883_214, 0.037_714_72]
        );
    }
}
