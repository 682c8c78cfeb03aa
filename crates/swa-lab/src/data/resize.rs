//! Resizing as Pillow does it, to the bit.
//!
//! Pillow resamples one axis after the other, by a filter that is widened where the image becomes smaller, with weights of 22 bits
//! behind the point, and rounds what is between to bytes. `fast_image_resize` (6.1) has the same filters with weights of 16 bits: one
//! byte in 200 is another, and a network's logits differ by 2e-4 of their size, where they are to be torchvision's to 1e-4.

use std::ops::Range;

use super::image_file::Decoded;
use super::images::CHANNELS;
use super::resized_crop::Region;
use super::view::{Interpolation, View};

/// The bits of a weight behind the point.
const BITS: u32 = 22;

/// The part of an image that a random crop has, resized to the view's size: red, green and blue of each pixel, row by row. Pixels
/// around that part have no influence.
pub(super) fn crop(image: &Decoded, region: Region, view: &View) -> Vec<u8> {
    let Region {
        left,
        top,
        width,
        height,
    } = region;
    let side = view.side as u32;
    let pixels = Pixels {
        samples: &image.samples,
        row: CHANNELS * image.width as usize,
        start: CHANNELS * (top as usize * image.width as usize + left as usize),
    };
    let filter = view.interpolation;
    let columns = Weights::new(filter, width, side.into(), 0, side);
    let rows = Weights::new(filter, height, side.into(), 0, side);
    let rows_first = rows_first([width, height], [side, side].map(u64::from));
    resample(pixels, &columns, &rows, rows_first)
}

/// The centre of an image, after it has been resized so that its shorter side has [`View::resize`] pixels.
pub(super) fn centre(image: &Decoded, view: &View) -> Vec<u8> {
    let side = view.side as u32;
    let size = [image.width, image.height];
    let resized = shorter_side_to(view.resize as u64, size);
    let pixels = Pixels {
        samples: &image.samples,
        row: CHANNELS * image.width as usize,
        start: 0,
    };
    let [columns, rows] = [0, 1].map(|axis| {
        let margin = (resized[axis] - u64::from(side)) as f64 / 2.0;
        let first = margin.round_ties_even() as u64;
        Weights::new(view.interpolation, size[axis], resized[axis], first, side)
    });
    resample(pixels, &columns, &rows, rows_first(size, resized))
}

/// Width and height of an image whose shorter side becomes `resize`.
fn shorter_side_to(resize: u64, [width, height]: [u32; 2]) -> [u64; 2] {
    let (short, long) = (width.min(height), width.max(height));
    let longer = resize * u64::from(long) / u64::from(short);
    if width <= height {
        [resize, longer]
    } else {
        [longer, resize]
    }
}

/// Tells whether Pillow (13.0) resizes the rows of an image before its columns: unless its height shrinks by more than twice as
/// many pixels as its width does.
fn rows_first(from: [u32; 2], to: [u64; 2]) -> bool {
    let [width, height] = [0, 1].map(|axis| i64::from(from[axis]) - to[axis] as i64);
    height <= 0 || height <= 2 * width
}

/// Pixels of an image, in a part of it.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    samples: &'a [u8],
    /// The bytes from one row to the next.
    row: usize,
    /// The first byte.
    start: usize,
}

/// The weights of the pixels of an axis in those that it becomes.
struct Weights {
    /// For each new pixel, the first that counts, and the places of the weights from it on in `values`.
    pixels: Vec<(usize, Range<usize>)>,
    /// The weights, times 2^22.
    values: Vec<i32>,
}

impl Weights {
    /// The weights of an axis of `length` pixels that becomes `resized` ones, of which `count` from `first` on are asked for.
    fn new(filter: Interpolation, length: u32, resized: u64, first: u64, count: u32) -> Self {
        let scale = f64::from(length) / resized as f64;
        let widened = scale.max(1.0);
        let support = widened * filter.support();
        let mut weights = Self {
            pixels: Vec::with_capacity(count as usize),
            values: Vec::new(),
        };
        for pixel in (first..).take(count as usize) {
            let centre = (pixel as f64 + 0.5) * scale;
            let begin = ((centre - support + 0.5) as i64).max(0);
            let end = ((centre + support + 0.5) as i64).min(length.into());
            let weight = |x: i64| filter.at((x as f64 - centre + 0.5) * (1.0 / widened));
            let values: Vec<f64> = (begin..end).map(weight).collect();
            let sum: f64 = values.iter().sum();
            let place = weights.values.len();
            let fixed = values.into_iter().map(|value| {
                let share = if sum == 0.0 { value } else { value / sum };
                (share * f64::from(1 << BITS)).round() as i32
            });
            weights.values.extend(fixed);
            let range = place..weights.values.len();
            weights.pixels.push((begin as usize, range));
        }
        weights
    }

    /// The pixels that count at all: the first, and their number.
    fn span(&self) -> (usize, usize) {
        let first = self.pixels.first().map_or(0, |(begin, _)| *begin);
        let end = self.pixels.iter().map(|(begin, range)| begin + range.len());
        (first, end.max().unwrap_or(first) - first)
    }

    /// Each new pixel's first pixel that counts, and the weights from it on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let pixels = self.pixels.iter();
        pixels.map(|(begin, range)| (*begin, &self.values[range.clone()]))
    }
}

impl Interpolation {
    /// The distance, in pixels, beyond which the filter is zero.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The filter at this distance.
    fn at(self, distance: f64) -> f64 {
        /// The slope of the cubic filter at 1.
        const A: f64 = -0.5;

        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

/// The byte of a weighted sum that begins with half a unit.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Half a unit, by which a sum is rounded.
const HALF: i32 = 1 << (BITS - 1);

fn resample(pixels: Pixels<'_>, columns: &Weights, rows: &Weights, rows_first: bool) -> Vec<u8> {
    let width = CHANNELS * columns.pixels.len();
    if rows_first {
        let (first, count) = rows.span();
        let between = along_rows(pixels, columns, first..first + count, 0);
        let between = Pixels {
            samples: &between,
            row: width,
            start: 0,
        };
        along_columns(between, rows, first, width)
    } else {
        let (first, count) = columns.span();
        let part = Pixels {
            start: pixels.start + CHANNELS * first,
            ..pixels
        };
        let between = along_columns(part, rows, 0, CHANNELS * count);
        let between = Pixels {
            samples: &between,
            row: CHANNELS * count,
            start: 0,
        };
        along_rows(between, columns, 0..rows.pixels.len(), first)
    }
}

/// These rows, each with the columns of `weights`, from rows that begin with column `first`.
fn along_rows(pixels: Pixels<'_>, weights: &Weights, rows: Range<usize>, first: usize) -> Vec<u8> {
    let mut output = Vec::with_capacity(CHANNELS * rows.len() * weights.pixels.len());
    for row in rows {
        let row = &pixels.samples[pixels.start + row * pixels.row..];
        for (begin, weights) in weights.iter() {
            let part = &row[CHANNELS * (begin - first)..][..CHANNELS * weights.len()];
            let mut sums = [HALF; CHANNELS];
            for (pixel, weight) in part.as_chunks::<CHANNELS>().0.iter().zip(weights) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*sample) * weight;
                }
            }
            output.extend(sums.map(byte));
        }
    }
    output
}

/// The rows of `weights`, each of so many bytes, from rows that begin with row `first`.
fn along_columns(pixels: Pixels<'_>, weights: &Weights, first: usize, bytes: usize) -> Vec<u8> {
    let mut output = Vec::with_capacity(bytes * weights.pixels.len());
    let mut sums = vec![HALF; bytes];
    for (begin, weights) in weights.iter() {
        sums.fill(HALF);
        for (row, weight) in (begin - first..).zip(weights) {
            let row = &pixels.samples[pixels.start + row * pixels.row..][..bytes];
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        output.extend(sums.iter().copied().map(byte));
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image whose red is the column and whose green the row, both times 4.
    fn image(width: u32, height: u32) -> Decoded {
        let pixels =
            (0..height).flat_map(|y| (0..width).map(move |x| [(4 * x) as u8, (4 * y) as u8, 7]));
        Decoded {
            width,
            height,
            samples: pixels.flatten().collect(),
            turned: false,
        }
    }

    #[test]
    fn images_of_every_shape_have_a_crop_and_a_centre() {
        let sides = || (1..=20).chain([63, 1_000, 30_000]);
        for (width, height) in sides().flat_map(|width| sides().map(move |height| (width, height)))
        {
            if width * height > 100_000 {
                continue;
            }
            let image = image(width, height);
            for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
                for resize in 7..=10 {
                    let view = View {
                        side: 7,
                        resize,
                        interpolation,
                        ..View::TORCHVISION
                    };
                    let pixels = centre(&image, &view);
                    assert_eq!(pixels.len(), 147);
                    assert!(pixels.iter().skip(2).step_by(3).all(|blue| *blue == 7));
                    let region = Region {
                        left: width / 2,
                        top: height / 3,
                        width: width - width / 2,
                        height: height - height / 3,
                    };
                    let pixels = crop(&image, region, &view);
                    assert!(pixels.iter().skip(2).step_by(3).all(|blue| *blue == 7));
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_size_that_is_asked_for_stays_as_it_is() {
        let view = View {
            side: 5,
            resize: 9,
            ..View::TORCHVISION
        };
        let region = Region {
            left: 3,
            top: 1,
            width: 5,
            height: 5,
        };
        let pixels = crop(&image(12, 9), region, &view);
        assert_eq!(pixels[..6], [12, 4, 7, 16, 4, 7]);
        // Of 12 columns and 9 rows, the centre begins at column round(3.5) = 4 and row 2.
        assert_eq!(centre(&image(12, 9), &view)[..6], [16, 8, 7, 20, 8, 7]);
        // round(2.5) is 2, as in Python.
        assert_eq!(centre(&image(10, 9), &view)[..3], [8, 8, 7]);
    }
}
