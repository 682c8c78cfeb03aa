//! Image files: told by their names, and decoded.
//!
//! A file that Pillow, and so torchvision, refuses as truncated is refused, even if `image` would make up the rest of its image;
//! one that Pillow takes is taken. Refused here by name, and taken by Pillow, are: a PNG file whose checksum says that it is
//! damaged; a TIFF file with a palette, in colours other than grey and RGB, in floats, compressed with zstd, LZMA or for faxes, or
//! without the last bytes of its list of tags; a JPEG file with a segment after its last row, such as DNL; other formats under
//! these names.
//!
//! Samples of 16 bits become 8 bits as in Pillow: the high byte is kept, and samples of a PNM file are rounded. Those of a grey
//! image without alpha do too, though Pillow (9.5 to 13.0) cuts them off at 255, which makes most of the image white.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader};
use png::{BitDepth, ColorType, InterlaceInfo};

use super::error::DataError;
use super::images::{CHANNELS, SIDE};
use super::truncated_jpeg::is_truncated;

/// File name extensions of images that are read, in lower case: those of torchvision's `ImageFolder`, and other names of the
/// same formats.
const READ: [&str; 14] = [
    "apng", "bmp", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff",
    "webp",
];

/// File name extensions of images that are not read.
const NOT_READ: [&str; 22] = [
    "arw", "avif", "cr2", "dds", "dib", "dng", "exr", "gif", "hdr", "heic", "heif", "ico", "j2k",
    "jp2", "jxl", "nef", "pcx", "psd", "qoi", "svg", "tga", "xcf",
];

/// A file, as its name has it.
pub(super) enum Kind {
    /// An image.
    Image,
    /// An image of a format that is not read.
    ImageNotRead,
    /// No image.
    Other,
}

impl Kind {
    /// The kind of a file with this name.
    pub(super) fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(OsStr::to_str);
        let is_in = |known: &[&str]| {
            let extension = extension.unwrap_or_default();
            known
                .iter()
                .any(|known| known.eq_ignore_ascii_case(extension))
        };
        if is_in(&READ) {
            Self::Image
        } else if is_in(&NOT_READ) {
            Self::ImageNotRead
        } else {
            Self::Other
        }
    }
}

/// Decodes one file into `[3, 32, 32]` bytes. Its size is checked before its pixels are decoded.
///
/// Returns whether the image is to be turned before it is shown, as its EXIF data say. It is not turned here, as Pillow does not
/// turn it, unless it is a TIFF file.
pub(super) fn decode(path: &Path, pixels: &mut [u8]) -> Result<bool, DataError> {
    let file = fs::read(path).map_err(|source| DataError::Unreadable {
        path: path.into(),
        source,
    })?;
    decode_bytes(path, &file, pixels)
}

/// Decodes the content of the file at `path`.
fn decode_bytes(path: &Path, file: &[u8], pixels: &mut [u8]) -> Result<bool, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.into(),
        source,
    };
    let damaged = |reason: &str| DataError::UnreadableImage {
        path: path.into(),
        reason: one_line(reason),
    };
    let undecodable = |error: ImageError| match error {
        ImageError::Unsupported(error) => DataError::UnsupportedImage {
            path: path.into(),
            reason: one_line(&error.to_string()),
        },
        error => damaged(&error.to_string()),
    };

    let reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(unreadable)?;
    let format = reader
        .format()
        .ok_or_else(|| damaged("its content is no image of a known format"))?;
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (SIDE as u32, SIDE as u32) {
        return Err(DataError::ImageSize {
            path: path.into(),
            width,
            height,
        });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut turned = orientation != Orientation::NoTransforms;
    let is_short = match format {
        ImageFormat::Jpeg => is_truncated(file),
        ImageFormat::WebP => is_short_webp(file),
        _ => false,
    };
    if is_short {
        return Err(damaged("the file ends before the image does"));
    }
    let mut image = match (DynamicImage::from_decoder(decoder), format) {
        (Ok(image), _) => image,
        (Err(ImageError::IoError(error)), ImageFormat::Png)
            if error.kind() == io::ErrorKind::UnexpectedEof =>
        {
            let image = png_without_its_end(file);
            image.ok_or_else(|| damaged("the file ends before the image does"))?
        }
        (Err(error), _) => return Err(undecodable(error)),
    };
    if format == ImageFormat::Tiff {
        image.apply_orientation(orientation);
        turned = false;
    }
    let color = image.color();
    let has_16_bits = color.bytes_per_pixel() == 2 * color.channel_count();
    let samples: Vec<u8> = if has_16_bits && format != ImageFormat::Pnm {
        let wide = image.into_rgb16();
        wide.iter().map(|sample| (sample >> 8) as u8).collect()
    } else {
        image.into_rgb8().into_raw()
    };
    for (channel, plane) in pixels.chunks_exact_mut(SIDE * SIDE).enumerate() {
        let interleaved = samples.iter().skip(channel).step_by(CHANNELS);
        for (pixel, value) in plane.iter_mut().zip(interleaved) {
            *pixel = *value;
        }
    }
    Ok(turned)
}

/// Tells whether a WebP file is shorter than it says. image-webp (0.2) makes up the last bytes.
fn is_short_webp(file: &[u8]) -> bool {
    /// The bytes before those that the file counts.
    const HEAD: u64 = 8;

    let length = file.get(4..).and_then(<[u8]>::first_chunk);
    length.is_some_and(|length| u64::from(u32::from_le_bytes(*length)) + HEAD > file.len() as u64)
}

/// Decodes a PNG file of 32×32 pixels that ends after its last pixel, where checksums and the marker of its end should be.
/// `image` (0.25) asks for them, Pillow does not.
fn png_without_its_end(file: &[u8]) -> Option<DynamicImage> {
    // The decoder asks for some bytes more than it needs. They are not pixels if it does not matter what they are.
    let [zeros, ones] = [0, 0xFF].map(|byte| rows_of_png(&[file, &[byte; 8]].concat()));
    let (color, depth, pixels) = zeros?;
    if ones?.2 != pixels {
        return None;
    }

    let side = SIDE as u32;
    let wide = || {
        let words = pixels.as_chunks().0.iter();
        words.map(|word| u16::from_be_bytes(*word)).collect()
    };
    use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    match (color, depth) {
        (Grayscale, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(side, side, wide()).map(DynamicImage::ImageLuma16)
        }
        (GrayscaleAlpha, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(side, side, wide()).map(DynamicImage::ImageLumaA16)
        }
        (Rgb, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(side, side, wide()).map(DynamicImage::ImageRgb16)
        }
        (Rgba, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(side, side, wide()).map(DynamicImage::ImageRgba16)
        }
        (Grayscale, _) => ImageBuffer::from_raw(side, side, pixels).map(DynamicImage::ImageLuma8),
        (GrayscaleAlpha, _) => {
            ImageBuffer::from_raw(side, side, pixels).map(DynamicImage::ImageLumaA8)
        }
        (Rgb, _) => ImageBuffer::from_raw(side, side, pixels).map(DynamicImage::ImageRgb8),
        (Rgba, _) => ImageBuffer::from_raw(side, side, pixels).map(DynamicImage::ImageRgba8),
        (Indexed, _) => None,
    }
}

/// The rows of a PNG file of 32×32 pixels, as `image` has them expanded, and what their samples are.
fn rows_of_png(file: &[u8]) -> Option<(ColorType, BitDepth, Vec<u8>)> {
    /// Rows of all passes of an interlaced image.
    const INTERLACED_ROWS: usize = 15 * SIDE / 8;

    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().ok()?;
    let mut pixels = vec![0; reader.output_buffer_size()?];
    let stride = reader.output_line_size(SIDE as u32)?;
    let (color, depth) = reader.output_color_type();
    let bits = color.samples() * depth as usize;
    let rows = if reader.info().interlaced {
        INTERLACED_ROWS
    } else {
        SIDE
    };
    for number in 0..rows {
        let row = reader.next_interlaced_row().ok()??;
        match row.interlace() {
            InterlaceInfo::Null(_) => {
                let line = pixels.get_mut(number * stride..)?;
                line.get_mut(..row.data().len())?
                    .copy_from_slice(row.data());
            }
            InterlaceInfo::Adam7(pass) => {
                png::expand_interlaced_row(&mut pixels, stride, row.data(), pass, bits as u8);
            }
        }
    }
    Some((color, depth, pixels))
}

/// `text` without its line breaks.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::data::images::IMAGE_BYTES;
    use crate::hostile_files::survive;

    /// An image of Pillow's: see `make_images.py` beside it.
    fn of_pillow(name: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images");
        Path::new(folder).join(name)
    }

    /// The pixels of an image of Pillow's, and whether it is to be turned.
    fn decoded(name: &str) -> (Vec<u8>, bool) {
        let mut pixels = vec![0; IMAGE_BYTES];
        let turned = decode(&of_pillow(name), &mut pixels).unwrap();
        (pixels, turned)
    }

    #[test]
    fn every_format_gives_the_same_pixels() {
        let png = decoded("rgb.png");
        for name in [
            "rgb.bmp",
            "rgb.ppm",
            "rgb.tif",
            "rgb.webp",
            "interlaced.png",
            "sixteen_bits_rgb.png",
            "sixteen_bits_rgba.png",
            "sixteen_bits_rgb.tif",
            "sixteen_bits_rgb.ppm",
        ] {
            assert!(decoded(name) == png, "{name}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_taken_only_where_pillow_does() {
        let taken = fs::read(of_pillow("taken.json")).unwrap();
        let taken: BTreeMap<String, BTreeMap<String, Vec<[usize; 2]>>> =
            serde_json::from_slice(&taken).unwrap();
        assert_eq!(taken.len(), 16);
        let mut pixels = vec![0; IMAGE_BYTES];
        for (name, tails) in &taken {
            let whole = fs::read(of_pillow(name)).unwrap();
            for (tail, ranges) in tails {
                let digits = tail.as_bytes().chunks(2);
                let tail: Vec<u8> = digits
                    .map(|it| u8::from_str_radix(str::from_utf8(it).unwrap(), 16).unwrap())
                    .collect();
                for length in 0..=whole.len() {
                    let expected = ranges
                        .iter()
                        .any(|[first, last]| (first..=last).contains(&&length));
                    let cut = [&whole[..length], &tail].concat();
                    let found = decode_bytes(Path::new(name), &cut, &mut pixels);
                    assert_eq!(
                        found.is_ok(),
                        expected,
                        "{length} bytes and {tail:?}: {found:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn half_a_jpeg_is_refused_by_its_name() {
        let whole = fs::read(of_pillow("baseline_420.jpg")).unwrap();
        let half = decode_bytes(
            Path::new("cat.jpg"),
            &whole[..whole.len() * 9 / 10],
            &mut [],
        );
        assert_eq!(
            half.unwrap_err().to_string(),
            "cat.jpg: not a readable image: the file ends before the image does; replace it, or move it \
             elsewhere"
        );
    }

    #[test]
    fn a_png_without_its_end_has_all_its_pixels() {
        for name in [
            "rgb.png",
            "interlaced.png",
            "palette.png",
            "grey_alpha.png",
            "sixteen_bits.png",
        ] {
            let whole = fs::read(of_pillow(name)).unwrap();
            let mut pixels = vec![0; IMAGE_BYTES];
            for missing in [12, 16, 20] {
                let cut = &whole[..whole.len() - missing];
                decode_bytes(Path::new(name), cut, &mut pixels).unwrap();
                assert!(pixels == decoded(name).0, "{name} without {missing} bytes");
            }
        }
    }

    #[test]
    fn a_png_whose_checksum_is_wrong_is_refused() {
        let mut file = fs::read(of_pillow("rgb.png")).unwrap();
        // The last byte of the pixels' checksum, before the twelve bytes of the end.
        let place = file.len() - 13;
        file[place] ^= 1;
        let mut pixels = vec![0; IMAGE_BYTES];
        let error = decode_bytes(Path::new("a.png"), &file, &mut pixels).unwrap_err();
        assert!(error.to_string().contains("CRC"), "{error}");
    }

    #[test]
    fn an_orientation_is_said_and_not_applied() {
        for (name, upright) in [
            ("turned.jpg", "baseline_420.jpg"),
            ("turned.png", "rgb.png"),
            ("turned.webp", "rgb.webp"),
        ] {
            let turned = decoded(name);
            assert!(turned.1, "{name}");
            let upright = decoded(upright);
            assert!(!upright.1, "{name}");
            assert!(turned.0 == upright.0, "{name}");
        }
    }

    #[test]
    fn pillow_applies_the_orientation_of_tiff_files_alone() {
        let (turned, said) = decoded("turned.tif");
        let (upright, _) = decoded("rgb.tif");
        assert!(!said);
        // A quarter to the right: the first row is the last column.
        let first_row = &upright[..SIDE];
        let last_column = turned.iter().skip(SIDE - 1).step_by(SIDE).take(SIDE);
        assert!(last_column.eq(first_row));
    }

    #[test]
    fn an_image_of_a_kind_that_is_not_read_is_no_damaged_one() {
        // Eight bits for a pixel, and colours looked up: not in `tiff` 0.11.
        let mut tiff = fs::read(of_pillow("rgb.tif")).unwrap();
        let photometric = [0x06, 0x01, 0x03, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02];
        let place = tiff.windows(9).position(|it| it == photometric).unwrap();
        tiff[place + 8] = 3;
        let error = decode_bytes(Path::new("a.tif"), &tiff, &mut [])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a.tif: an image that cannot be read: "),
            "{error}"
        );
        assert!(
            error.ends_with("; convert it to PNG, or move it elsewhere"),
            "{error}"
        );

        let error = decode_bytes(Path::new("a.png"), b"plain text", &mut []).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a.png: not a readable image: its content is no image of a known format; replace it, or move it \
             elsewhere"
        );
    }

    #[test]
    fn damaged_images_are_refused_or_read_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "baseline_420.jpg",
            "baseline_444.jpg",
            "grey.jpg",
            "grey_progressive.jpg",
            "interlaced.png",
            "palette.png",
            "progressive_422.jpg",
            "restarts_420.jpg",
            "rgb.bmp",
            "rgb.tif",
            "rgb.webp",
            "turned.jpg",
            "turned.png",
            "turned.webp",
        ];
        let paths = names.map(|name| {
            let path = folder.path().join(name);
            fs::copy(of_pillow(name), &path).unwrap();
            path
        });
        let mut pixels = vec![0; IMAGE_BYTES];
        survive("images", &paths, 64, |path| {
            let decoded = decode(path, &mut pixels).map(drop);
            decoded.map_err(|error| error.to_string())
        });
    }
}
