//! From bytes to the numbers a network is trained on.

use super::images::CHANNELS;

/// Channel-wise normalisation: a byte `b` of channel `c` becomes `(b / 255 - mean[c]) / std[c]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// The value subtracted from each channel, on a scale where white is 1.
    pub mean: [f32; CHANNELS],
    /// The divisor of each channel, on the same scale.
    pub std: [f32; CHANNELS],
}

impl Normalization {
    /// Mean and standard deviation of each channel over CIFAR-10's training pixels.
    ///
    /// The paper's code normalises the inputs of VGG by ImageNet's constants, and those of its
    /// residual networks by this mean and a standard deviation of (0.2023, 0.1994, 0.2010), which
    /// is the mean of the standard deviations of single images. Here all networks and all data sets
    /// share the one that gives CIFAR-10's inputs mean 0 and variance 1, which makes them smaller
    /// than the paper's by about a tenth (VGG) or a fifth (the others).
    pub const CIFAR10: Self = Self {
        mean: [0.4914, 0.4822, 0.4465],
        std: [0.2470, 0.2435, 0.2616],
    };

    /// ImageNet's, as networks of torchvision were trained with it.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// The value of each byte in each channel: 768 divisions now instead of one for every byte.
    pub(super) fn table(&self) -> [[f32; 256]; CHANNELS] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|byte| {
                (byte as f32 / 255.0 - self.mean[channel]) / self.std[channel]
            })
        })
    }
}

/// Writes red, green and blue of each pixel, row by row, into three planes, each byte through its channel's `table`. With `flip`,
/// left and right are swapped.
pub(super) fn write_planes(
    samples: &[u8],
    flip: bool,
    side: usize,
    table: &[[f32; 256]; CHANNELS],
    planes: &mut [f32],
) {
    let rows = samples.chunks_exact(CHANNELS * side);
    let (red, rest) = planes.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    let planes = red
        .chunks_exact_mut(side)
        .zip(green.chunks_exact_mut(side))
        .zip(blue.chunks_exact_mut(side));
    for (row, ((red, green), blue)) in rows.zip(planes) {
        let pixels = row.as_chunks::<CHANNELS>().0;
        let mut write = |x: usize, pixel: &[u8; CHANNELS]| {
            red[x] = table[0][usize::from(pixel[0])];
            green[x] = table[1][usize::from(pixel[1])];
            blue[x] = table[2][usize::from(pixel[2])];
        };
        if flip {
            let mirrored = pixels.iter().rev().enumerate();
            mirrored.for_each(|(x, pixel)| write(x, pixel));
        } else {
            let pixels = pixels.iter().enumerate();
            pixels.for_each(|(x, pixel)| write(x, pixel));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_and_white_are_where_the_constants_put_them() {
        let table = Normalization::CIFAR10.table();
        // -0.4914 / 0.2470 and (1 - 0.4465) / 0.2616, by hand.
        assert!((table[0][0] - -1.989_474).abs() < 1e-5);
        assert!((table[2][255] - 2.115_826).abs() < 1e-5);
    }
}
