//! Random crops and flips.

use super::images::{CHANNELS, IMAGE_BYTES, SIDE};
use super::random::Stream;

/// Pixels added to each side of an image before a crop (He et al. 2016, section 4.2; the SWA
/// paper's code; fast.ai).
const PAD: usize = 4;

/// The pixels outside of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// Black, as in the paper's code: torchvision's `RandomCrop(32, padding=4)`, applied before the
    /// normalisation.
    #[default]
    Zero,
    /// The image mirrored at its border pixels, which are not repeated, as in fast.ai, and as
    /// `reflect` means it in PyTorch and NumPy: row -1 is row 1.
    Reflect,
}

/// The random variation of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// No variation. Of images in files, the centre.
    None,
    /// Four pixels of padding on each side, a random crop back to 32×32 pixels, and a horizontal
    /// flip of every second image on average. For decoded images.
    CropAndFlip(Padding),
    /// A random part of the image, resized to the view's size, and a horizontal flip of every second image on average:
    /// torchvision's `RandomResizedCrop`, of an area of at least [`View::least_scale`](super::View::least_scale) and a ratio of
    /// 3/4 to 4/3. For images in files.
    ResizedCropAndFlip,
}

impl Augmentation {
    /// The placement of an image, drawn from its `stream`: uniform over all 81 crops and both directions.
    pub(super) fn placement(self, stream: &mut Stream) -> Placement {
        match self {
            // The loader refuses the second.
            Self::None | Self::ResizedCropAndFlip => Placement::CENTRED,
            Self::CropAndFlip(padding) => Placement {
                top: stream.below(2 * PAD + 1),
                left: stream.below(2 * PAD + 1),
                flip: stream.coin(),
                padding,
            },
        }
    }
}

/// One crop of one padded image, possibly flipped.
///
/// The output's pixel at row `y`, column `x` is the padded image's at row `top + y`, column `left +
/// x`, or `left + 31 - x` if it is flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// First row of the crop in the padded image: 0 to 8, where 4 is centred.
    pub top: usize,
    /// First column of the crop in the padded image: 0 to 8, where 4 is centred.
    pub left: usize,
    /// True if left and right are swapped.
    pub flip: bool,
    /// The pixels outside of the image.
    pub padding: Padding,
}

impl Placement {
    /// The image as it is.
    pub const CENTRED: Self = Self {
        top: PAD,
        left: PAD,
        flip: false,
        padding: Padding::Zero,
    };

    /// Writes `image` (`[3, 32, 32]`) into `output` (likewise), each byte through its channel's
    /// `table`.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ from that.
    pub(super) fn write(&self, image: &[u8], table: &[[f32; 256]; CHANNELS], output: &mut [f32]) {
        assert_eq!((image.len(), output.len()), (IMAGE_BYTES, IMAGE_BYTES));
        let rows: [Option<usize>; SIDE] = std::array::from_fn(|y| self.source(self.top + y));
        let columns: [Option<usize>; SIDE] = std::array::from_fn(|x| {
            let x = if self.flip { SIDE - 1 - x } else { x };
            self.source(self.left + x)
        });

        let planes = image
            .chunks_exact(SIDE * SIDE)
            .zip(output.chunks_exact_mut(SIDE * SIDE));
        for ((input, output), table) in planes.zip(table) {
            for (output, row) in output.chunks_exact_mut(SIDE).zip(rows) {
                let Some(row) = row else {
                    output.fill(table[0]);
                    continue;
                };
                let input = &input[row * SIDE..][..SIDE];
                for (output, column) in output.iter_mut().zip(columns) {
                    *output = table[usize::from(column.map_or(0, |column| input[column]))];
                }
            }
        }
    }

    /// The row or column of the image that lies at `position` of the padded image; none if that is
    /// black.
    fn source(&self, position: usize) -> Option<usize> {
        match (position.checked_sub(PAD), self.padding) {
            (Some(inside), _) if inside < SIDE => Some(inside),
            (_, Padding::Zero) => None,
            (None, Padding::Reflect) => Some(PAD - position),
            (Some(beyond), Padding::Reflect) => Some(2 * (SIDE - 1) - beyond),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::Purpose;

    /// A table that leaves bytes as they are, so that the output can be compared with the input.
    fn identity() -> [[f32; 256]; CHANNELS] {
        [std::array::from_fn(|byte| byte as f32); CHANNELS]
    }

    /// Red holds the row plus 100, green the column plus 100, blue 7.
    fn coordinates() -> Vec<u8> {
        let mut image = vec![7; IMAGE_BYTES];
        for y in 0..SIDE {
            for x in 0..SIDE {
                image[y * SIDE + x] = 100 + y as u8;
                image[SIDE * SIDE + y * SIDE + x] = 100 + x as u8;
            }
        }
        image
    }

    fn write(placement: Placement) -> Vec<f32> {
        let mut output = vec![f32::NAN; IMAGE_BYTES];
        placement.write(&coordinates(), &identity(), &mut output);
        output
    }

    /// Red, green and blue at a row and a column.
    fn pixel(output: &[f32], y: usize, x: usize) -> [f32; 3] {
        std::array::from_fn(|channel| output[(channel * SIDE + y) * SIDE + x])
    }

    #[test]
    fn the_centred_placement_is_the_image() {
        let expected: Vec<f32> = coordinates().into_iter().map(f32::from).collect();
        assert_eq!(write(Placement::CENTRED), expected);
    }

    #[test]
    fn a_crop_at_the_top_left_moves_down_and_right_over_black() {
        let output = write(Placement {
            top: 0,
            left: 1,
            ..Placement::CENTRED
        });
        assert_eq!(pixel(&output, 3, 31), [0.0; 3]);
        assert_eq!(pixel(&output, 31, 2), [0.0; 3]);
        assert_eq!(pixel(&output, 4, 3), [100.0, 100.0, 7.0]);
        assert_eq!(pixel(&output, 31, 31), [127.0, 128.0, 7.0]);
    }

    #[test]
    fn a_crop_at_the_bottom_right_moves_up_and_left_over_black() {
        let output = write(Placement {
            top: 8,
            left: 8,
            ..Placement::CENTRED
        });
        assert_eq!(pixel(&output, 0, 0), [104.0, 104.0, 7.0]);
        assert_eq!(pixel(&output, 27, 27), [131.0, 131.0, 7.0]);
        assert_eq!(pixel(&output, 28, 27), [0.0; 3]);
        assert_eq!(pixel(&output, 27, 28), [0.0; 3]);
    }

    #[test]
    fn reflection_mirrors_at_the_border_without_repeating_it() {
        let padding = Padding::Reflect;
        let output = write(Placement {
            top: 0,
            left: 0,
            flip: false,
            padding,
        });
        // numpy.pad([100, 101, ...], 4, "reflect") begins with 104, 103, 102, 101, 100, 101.
        let column: Vec<f32> = (0..6).map(|y| pixel(&output, y, 8)[0]).collect();
        assert_eq!(column, [104.0, 103.0, 102.0, 101.0, 100.0, 101.0]);
        let row: Vec<f32> = (0..6).map(|x| pixel(&output, 8, x)[1]).collect();
        assert_eq!(row, [104.0, 103.0, 102.0, 101.0, 100.0, 101.0]);

        let output = write(Placement {
            top: 8,
            left: 8,
            flip: false,
            padding,
        });
        // ... and ends with 130, 131, 130, 129, 128, 127.
        let column: Vec<f32> = (26..32).map(|y| pixel(&output, y, 8)[0]).collect();
        assert_eq!(column, [130.0, 131.0, 130.0, 129.0, 128.0, 127.0]);
    }

    #[test]
    fn a_flip_mirrors_the_crop_and_leaves_the_rows_alone() {
        let output = write(Placement {
            top: 6,
            left: 1,
            flip: true,
            padding: Padding::Zero,
        });
        // Unflipped, the crop's columns are black, black, black, 100, ..., 128, and its first row
        // is 102.
        assert_eq!(pixel(&output, 0, 0), [102.0, 128.0, 7.0]);
        assert_eq!(pixel(&output, 0, 28), [102.0, 100.0, 7.0]);
        assert_eq!(pixel(&output, 0, 29), [0.0; 3]);
        assert_eq!(pixel(&output, 29, 0), [131.0, 128.0, 7.0]);
        assert_eq!(pixel(&output, 30, 0), [0.0; 3]);
    }

    #[test]
    fn padding_is_black_before_the_normalisation() {
        let table = super::super::Normalization::CIFAR10.table();
        let mut output = vec![0.0; IMAGE_BYTES];
        Placement {
            top: 0,
            ..Placement::CENTRED
        }
        .write(&coordinates(), &table, &mut output);
        assert_eq!(
            pixel(&output, 0, 0),
            [table[0][0], table[1][0], table[2][0]]
        );
    }

    #[test]
    fn all_crops_and_both_directions_are_equally_likely() {
        let augmentation = Augmentation::CropAndFlip(Padding::Zero);
        let (mut tops, mut lefts, mut flips) = ([0_i32; 9], [0_i32; 9], 0_i32);
        for index in 0..9_000 {
            let mut stream = Stream::new(Purpose::Augmentation, 5, &[3, index]);
            let placement = augmentation.placement(&mut stream);
            tops[placement.top] += 1;
            lefts[placement.left] += 1;
            flips += i32::from(placement.flip);
        }
        // 1000 expected of each offset, with a standard deviation of 30; 4500 flips, with one of
        // 47.
        assert!(
            tops.iter()
                .chain(&lefts)
                .all(|count| (count - 1000).abs() < 150),
            "{tops:?} {lefts:?}"
        );
        assert!((flips - 4500).abs() < 235, "{flips}");
    }

    #[test]
    fn a_placement_depends_on_seed_epoch_and_index() {
        let place = |seed, epoch, index| {
            let mut stream = Stream::new(Purpose::Augmentation, seed, &[epoch, index]);
            Augmentation::CropAndFlip(Padding::Zero).placement(&mut stream)
        };
        let drawn = |seed, epoch| {
            (0..20)
                .map(|index| place(seed, epoch, index))
                .collect::<Vec<_>>()
        };
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert_ne!(drawn(1, 2), drawn(1, 3));
        assert_ne!(drawn(1, 2), drawn(2, 2));
        assert!(
            drawn(1, 2)
                .iter()
                .any(|placement| *placement != drawn(1, 2)[0])
        );
    }
}
