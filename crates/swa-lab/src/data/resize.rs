//! Resizing as Pillow does it.
//!
//! Pillow resamples one axis after the other, by a filter that is widened where the image becomes smaller, and rounds what is
//! between to bytes. `fast_image_resize` (6.1) has the same filters, in SIMD, and begins with the columns; here it is
//! called once for each axis, in Pillow's order. Its weights have 16 bits where Pillow's have 32: of the vectors' bytes, one in
//! 200 differs, by 1.

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, IntoImageView, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::image_file::Decoded;
use super::resized_crop::Region;
use super::view::{Interpolation, View};

/// The reason why resizing does not fail.
const WITHIN: &str = "a part of the image";

/// A part of one axis of an image, in pixels of it, that becomes some pixels of another.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    start: f64,
    length: f64,
    pixels: u32,
}

impl Stretch {
    /// All of an axis.
    fn whole(length: u32, pixels: u32) -> Self {
        Self {
            start: 0.0,
            length: length.into(),
            pixels,
        }
    }

    /// The `pixels` in the middle of an axis of `length` pixels, after it has been resized to `resized` pixels.
    fn middle(length: u32, resized: u64, pixels: u32) -> Self {
        let scale = f64::from(length) / resized as f64;
        let margin = ((resized - u64::from(pixels)) as f64 / 2.0).round_ties_even();
        let start = margin * scale;
        Self {
            start,
            length: (f64::from(pixels) * scale).min(f64::from(length) - start),
            pixels,
        }
    }

    /// The pixels, of `length` ones, that the filter sees: the first, and their number.
    fn seen(&self, length: u32, support: f64) -> (u32, u32) {
        let reach = support * (self.length / f64::from(self.pixels)).max(1.0) + 1.0;
        let first = (self.start - reach).floor().max(0.0);
        let end = (self.start + self.length + reach).ceil().min(length.into());
        (first as u32, (end - first) as u32)
    }
}

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
    let image = source(image);
    let image = CroppedImage::new(&image, left, top, width, height).expect(WITHIN);
    resample(
        &image,
        rows_first([width, height], [side, side].map(u64::from)),
        Stretch::whole(width, side),
        Stretch::whole(height, side),
        view.interpolation,
    )
}

/// The centre of an image, after it has been resized so that its shorter side has [`View::resize`] pixels.
pub(super) fn centre(image: &Decoded, view: &View) -> Vec<u8> {
    let side = view.side as u32;
    let size = [image.width, image.height];
    let resized = shorter_side_to(view.resize as u64, size);
    resample(
        &source(image),
        rows_first(size, resized),
        Stretch::middle(size[0], resized[0], side),
        Stretch::middle(size[1], resized[1], side),
        view.interpolation,
    )
}

fn source(image: &Decoded) -> ImageRef<'_> {
    let (width, height) = (image.width, image.height);
    ImageRef::new(width, height, &image.samples, PixelType::U8x3).expect("three samples a pixel")
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

fn resample(
    image: &impl IntoImageView,
    rows_first: bool,
    horizontal: Stretch,
    vertical: Stretch,
    interpolation: Interpolation,
) -> Vec<u8> {
    let (filter, support) = match interpolation {
        Interpolation::Bilinear => (FilterType::Bilinear, 1.0),
        Interpolation::Bicubic => (FilterType::CatmullRom, 2.0),
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let mut resizer = Resizer::new();
    let (side_x, side_y) = (horizontal.pixels, vertical.pixels);
    let mut output = Image::new(side_x, side_y, PixelType::U8x3);
    if rows_first {
        let (first, rows) = vertical.seen(image.height(), support);
        let mut between = Image::new(side_x, rows, PixelType::U8x3);
        let (start, length) = (horizontal.start, horizontal.length);
        let options = options.crop(start, first.into(), length, rows.into());
        resizer.resize(image, &mut between, &options).expect(WITHIN);
        let start = vertical.start - f64::from(first);
        let options = options.crop(0.0, start, side_x.into(), vertical.length);
        resizer
            .resize(&between, &mut output, &options)
            .expect(WITHIN);
    } else {
        let (first, columns) = horizontal.seen(image.width(), support);
        let mut between = Image::new(columns, side_y, PixelType::U8x3);
        let (start, length) = (vertical.start, vertical.length);
        let options = options.crop(first.into(), start, columns.into(), length);
        resizer.resize(image, &mut between, &options).expect(WITHIN);
        let start = horizontal.start - f64::from(first);
        let options = options.crop(start, 0.0, horizontal.length, side_y.into());
        resizer
            .resize(&between, &mut output, &options)
            .expect(WITHIN);
    }
    output.into_vec()
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
                        least_scale: 1.0,
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
            ..View::default()
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
