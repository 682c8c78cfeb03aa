//! Image files: told by their names, and decoded.
//!
//! A file that Pillow, and so torchvision, refuses as truncated is refused, even if `image` would make up the rest of its image;
//! one that Pillow takes is taken. Refused here by name, and taken by Pillow, are: a PNG file whose checksum says that it is
//! damaged; a TIFF file with a palette, in colours other than grey and RGB, in floats, compressed with zstd, LZMA or for faxes, or
//! without the last bytes of its list of tags; a JPEG file with a segment after its last row, such as DNL; other formats under
//! these names.
//!
//! Decoded images have the bytes of Pillow's `convert("RGB")`, but for JPEG, whose standard leaves room. There, zune-jpeg (0.5)
//! differs from Pillow's libjpeg-turbo (3.2) by 4 at most, and in the mean by 0.39 with chroma at half the resolution and by 0.01 with
//! chroma at the full one (twenty photographs of 500×375 pixels, qualities 30 to 95). The part of an image that a JPEG file lacks before
//! the marker of its end, which is rare, is grey in Pillow, and here of the last colour.
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

/// The size and kind of an image, as its file says before its pixels are decoded.
pub(super) struct Header {
    /// Its width, in pixels.
    pub(super) width: u32,
    /// Its height, in pixels.
    pub(super) height: u32,
    /// True if it is grey, without alpha, and of 16 bits a sample.
    pub(super) is_grey_of_16_bits: bool,
}

/// A decoded image.
pub(super) struct Decoded {
    /// Its width, in pixels.
    pub(super) width: u32,
    /// Its height, in pixels.
    pub(super) height: u32,
    /// Red, green and blue of each pixel, row by row.
    pub(super) samples: Vec<u8>,
    /// True if it is to be turned before it is shown, as its EXIF data say. It is not turned here, as Pillow does not turn it,
    /// unless it is a TIFF file.
    pub(super) turned: bool,
}

/// Decodes one file, unless `accept` returns an error.
pub(super) fn decode(
    path: &Path,
    accept: impl FnOnce(&Header) -> Result<(), DataError>,
) -> Result<Decoded, DataError> {
    let file = fs::read(path).map_err(|source| DataError::Unreadable {
        path: path.into(),
        source,
    })?;
    decode_bytes(path, &file, accept)
}

/// Decodes the content of the file at `path`.
fn decode_bytes(
    path: &Path,
    file: &[u8],
    accept: impl FnOnce(&Header) -> Result<(), DataError>,
) -> Result<Decoded, DataError> {
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
    accept(&Header {
        width,
        height,
        is_grey_of_16_bits: decoder.color_type() == image::ColorType::L16,
    })?;
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
    let (width, height) = (image.width(), image.height());
    let samples: Vec<u8> = if has_16_bits && format != ImageFormat::Pnm {
        let wide = image.into_rgb16();
        wide.iter().map(|sample| (sample >> 8) as u8).collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Ok(Decoded {
        width,
        height,
        samples,
        turned,
    })
}

/// Tells whether a WebP file is shorter than it says. image-webp (0.2) makes up the last bytes.
fn is_short_webp(file: &[u8]) -> bool {
    /// The bytes before those that the file counts.
    const HEAD: u64 = 8;

    let length = file.get(4..).and_then(<[u8]>::first_chunk);
    length.is_some_and(|length| u64::from(u32::from_le_bytes(*length)) + HEAD > file.len() as u64)
}

/// Decodes a PNG file that ends after its last pixel, where checksums and the marker of its end should be.
/// `image` (0.25) asks for them, Pillow does not.
fn png_without_its_end(file: &[u8]) -> Option<DynamicImage> {
    // The decoder asks for some bytes more than it needs. They are not pixels if it does not matter what they are.
    let [zeros, ones] = [0, 0xFF].map(|byte| PngRows::read(&[file, &[byte; 8]].concat()));
    let PngRows {
        width,
        height,
        color,
        depth,
        pixels,
    } = zeros?;
    if ones?.pixels != pixels {
        return None;
    }

    let wide = || {
        let words = pixels.as_chunks().0.iter();
        words.map(|word| u16::from_be_bytes(*word)).collect()
    };
    use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    match (color, depth) {
        (Grayscale, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(width, height, wide()).map(DynamicImage::ImageLuma16)
        }
        (GrayscaleAlpha, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(width, height, wide()).map(DynamicImage::ImageLumaA16)
        }
        (Rgb, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(width, height, wide()).map(DynamicImage::ImageRgb16)
        }
        (Rgba, BitDepth::Sixteen) => {
            ImageBuffer::from_raw(width, height, wide()).map(DynamicImage::ImageRgba16)
        }
        (Grayscale, _) => {
            ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8)
        }
        (GrayscaleAlpha, _) => {
            ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageLumaA8)
        }
        (Rgb, _) => ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
        (Rgba, _) => ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8),
        (Indexed, _) => None,
    }
}

/// The rows of a PNG file, as `image` has them expanded, and what their samples are.
struct PngRows {
    width: u32,
    height: u32,
    color: ColorType,
    depth: BitDepth,
    pixels: Vec<u8>,
}

impl PngRows {
    fn read(file: &[u8]) -> Option<Self> {
        let mut decoder = png::Decoder::new(Cursor::new(file));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().ok()?;
        let (width, height) = (reader.info().width, reader.info().height);
        let mut pixels = vec![0; reader.output_buffer_size()?];
        let stride = reader.output_line_size(width)?;
        let (color, depth) = reader.output_color_type();
        let bits = color.samples() * depth as usize;
        let rows = if reader.info().interlaced {
            interlaced_rows(width, height)
        } else {
            height as usize
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
        Some(Self {
            width,
            height,
            color,
            depth,
            pixels,
        })
    }
}

/// The rows of all seven passes of an interlaced PNG image that have pixels.
fn interlaced_rows(width: u32, height: u32) -> usize {
    /// The first column and row of each pass, and the rows from one to the next (PNG, section 8.2).
    const PASSES: [[u32; 3]; 7] = [
        [0, 0, 8],
        [4, 0, 8],
        [0, 4, 8],
        [2, 0, 4],
        [0, 2, 4],
        [1, 0, 2],
        [0, 1, 2],
    ];

    let passes = PASSES.iter().filter(|[column, _, _]| *column < width);
    passes
        .map(|[_, row, apart]| height.saturating_sub(*row).div_ceil(*apart) as usize)
        .sum()
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
    use crate::data::images::SIDE;
    use crate::hostile_files::survive;

    fn accept(_: &Header) -> Result<(), DataError> {
        Ok(())
    }

    fn decode_bytes(name: &str, file: &[u8]) -> Result<Decoded, DataError> {
        super::decode_bytes(Path::new(name), file, accept)
    }

    /// An image of Pillow's: see `make_images.py` beside it.
    fn of_pillow(name: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images");
        Path::new(folder).join(name)
    }

    /// The pixels of an image of Pillow's, and whether it is to be turned.
    fn decoded(name: &str) -> (Vec<u8>, bool) {
        let image = decode(&of_pillow(name), accept).unwrap();
        assert_eq!((image.width, image.height), (32, 32), "{name}");
        (image.samples, image.turned)
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
                    let found = decode_bytes(name, &cut).err();
                    assert_eq!(
                        found.is_none(),
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
        let half = decode_bytes("cat.jpg", &whole[..whole.len() * 9 / 10]);
        assert_eq!(
            half.err().unwrap().to_string(),
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
            for missing in [12, 16, 20] {
                let cut = &whole[..whole.len() - missing];
                let pixels = decode_bytes(name, cut).unwrap().samples;
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
        let error = decode_bytes("a.png", &file).err().unwrap();
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
        let first_row = upright.as_chunks::<3>().0.iter().take(SIDE);
        let turned = turned.as_chunks::<3>().0.iter();
        assert!(turned.skip(SIDE - 1).step_by(SIDE).eq(first_row));
    }

    #[test]
    fn an_image_of_a_kind_that_is_not_read_is_no_damaged_one() {
        // Eight bits for a pixel, and colours looked up: not in `tiff` 0.11.
        let mut tiff = fs::read(of_pillow("rgb.tif")).unwrap();
        let photometric = [0x06, 0x01, 0x03, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02];
        let place = tiff.windows(9).position(|it| it == photometric).unwrap();
        tiff[place + 8] = 3;
        let error = decode_bytes("a.tif", &tiff).err().unwrap().to_string();
        assert!(
            error.starts_with("a.tif: an image that cannot be read: "),
            "{error}"
        );
        assert!(
            error.ends_with("; convert it to PNG, or move it elsewhere"),
            "{error}"
        );

        let error = decode_bytes("a.png", b"plain text").err().unwrap();
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
        survive("images", &paths, 64, |path| {
            let small = |header: &Header| {
                if header.width.saturating_mul(header.height) <= 1 << 14 {
                    Ok(())
                } else {
                    Err(DataError::EmptySet)
                }
            };
            let decoded = decode(path, small).map(drop);
            decoded.map_err(|error| error.to_string())
        });
    }
}
