//! Digits to learn without a download: those of a pocket calculator, shifted and under heavy noise.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The width and height of an image in pixels.
pub(crate) const SIDE: usize = 16;

/// The seven segments as (left, top, width, height), and which of them make each digit.
const SEGMENTS: [(usize, usize, usize, usize); 7] = [
    (0, 0, 6, 1),
    (0, 0, 1, 6),
    (5, 0, 1, 6),
    (0, 5, 6, 1),
    (0, 5, 1, 6),
    (5, 5, 1, 6),
    (0, 10, 6, 1),
];
const DIGITS: [&[usize]; 10] = [
    &[0, 1, 2, 4, 5, 6],
    &[2, 5],
    &[0, 2, 3, 4, 6],
    &[0, 2, 3, 5, 6],
    &[1, 2, 3, 5],
    &[0, 1, 3, 5, 6],
    &[0, 1, 3, 4, 5, 6],
    &[0, 2, 5],
    &[0, 1, 2, 3, 4, 5, 6],
    &[0, 1, 2, 3, 5, 6],
];

/// The strength of the noise, beside strokes of 1.
const NOISE: f32 = 1.2;

type Digit = (Vec<f32>, i64);

/// `count` digits drawn from `seed`.
pub(crate) fn digits(count: usize, seed: u64) -> InMemDataset<Digit> {
    let mut state = seed;
    InMemDataset::new((0..count).map(|_| digit(&mut state)).collect())
}

/// One digit that is in neither set.
pub(crate) fn example() -> (Tensor<3>, i64) {
    let (pixels, label) = digit(&mut 3);
    let pixels = TensorData::new(pixels, [1, SIDE, SIDE]);
    (Tensor::from_data(pixels, &Device::default()), label)
}

fn digit(state: &mut u64) -> Digit {
    let label = below(state, 10);
    let (x, y) = (below(state, SIDE - 6), below(state, SIDE - 11));
    // A sum of uniform numbers is close enough to a Gaussian.
    let mut noise = || {
        (0..4)
            .map(|_| below(state, 1000) as f32 / 1000.0 - 0.5)
            .sum::<f32>()
    };
    let mut pixels: Vec<f32> = (0..SIDE * SIDE).map(|_| NOISE * noise()).collect();
    for (left, top, width, height) in DIGITS[label].iter().map(|segment| SEGMENTS[*segment]) {
        for row in top + y..top + y + height {
            for pixel in &mut pixels[row * SIDE + left + x..][..width] {
                *pixel += 1.0;
            }
        }
    }
    (pixels, label as i64)
}

/// A random number below `bound` (splitmix64).
fn below(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % bound as u64) as usize
}

#[derive(Debug, Clone)]
pub(crate) struct Digits {
    /// Shape `[batch, 1, SIDE, SIDE]`.
    pub(crate) images: Tensor<4>,
    /// Shape `[batch]`.
    pub(crate) labels: Tensor<1, Int>,
}

pub(crate) struct DigitBatcher;

impl Batcher<Digit, Digits> for DigitBatcher {
    fn batch(&self, items: Vec<Digit>, device: &Device) -> Digits {
        let count = items.len();
        let labels: Vec<i64> = items.iter().map(|(_, label)| *label).collect();
        let pixels: Vec<f32> = items.into_iter().flat_map(|(pixels, _)| pixels).collect();
        Digits {
            images: Tensor::from_data(TensorData::new(pixels, [count, 1, SIDE, SIDE]), device),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
        }
    }
}
