//! A drawing as SVG and as PNG.

use std::error::Error;

use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::Failure;

/// A picture's width and height in pixels of the page.
pub(crate) const SIZE: (u32, u32) = (880, 590);

/// The units in a pixel of the page. Plotters (0.3.7) draws at whole units. If these were pixels, a
/// smooth curve would show steps.
const UNITS: u32 = 6;

/// The pixels of a PNG file in a pixel of the page, for print and for fine screens.
const PNG_SCALE: u32 = 2;

/// The font of all text. For SVG, the reader's browser chooses it.
const FONT: &str = "sans-serif";

/// The area that plotters draws on.
pub(crate) type Canvas<B> = DrawingArea<B, Shift>;

/// The result of drawing on it.
pub(crate) type Drawn<B> = Result<(), DrawingError<B>>;
/// The error of drawing on it.
pub(crate) type DrawingError<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;

/// Something that can be drawn.
pub(crate) trait Drawing {
    /// Draws it on a white canvas of [`SIZE`].
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B>;

    /// Tells whether lines have bands around them, over seeds.
    fn has_bands(&self) -> bool {
        false
    }

    /// Tells whether a part of the lines lies above it.
    fn is_cut(&self) -> bool {
        false
    }
}

/// Converts pixels of the page to the units of a drawing.
pub(crate) fn px(pixels: f64) -> i32 {
    (pixels * f64::from(UNITS)).round() as i32
}

/// Text of a size in pixels.
pub(crate) fn text(size: f64) -> TextStyle<'static> {
    (FONT, px(size)).into()
}

/// A picture in both formats, which show the same.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) svg: String,
    pub(crate) png: Vec<u8>,
}

impl Picture {
    /// Draws a picture.
    pub(crate) fn of(drawing: &impl Drawing) -> Result<Self, Failure> {
        // With this font, PNG files look alike on every machine, even if it has no fonts.
        let font = include_bytes!("font/Roboto-Regular.ttf");
        register_font(FONT, FontStyle::Normal, font)
            .map_err(|_| "the font for PNG files cannot be read")?;
        Ok(Self {
            svg: svg(drawing)?,
            png: png(drawing)?,
        })
    }
}

/// The canvas in units.
const CANVAS: (u32, u32) = (SIZE.0 * UNITS, SIZE.1 * UNITS);

fn svg(drawing: &impl Drawing) -> Result<String, Failure> {
    let mut svg = String::new();
    draw_on(SVGBackend::with_string(&mut svg, CANVAS), drawing)?;
    // The drawing is in units, and its size on the page in pixels: the view box stays as it is.
    let size = |(width, height): (u32, u32)| format!(r#"width="{width}" height="{height}""#);
    Ok(svg.replacen(&size(CANVAS), &size(SIZE), 1))
}

fn png(drawing: &impl Drawing) -> Result<Vec<u8>, Failure> {
    let (width, height) = CANVAS;
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    draw_on(BitMapBackend::with_buffer(&mut pixels, CANVAS), drawing)?;
    let image = RgbImage::from_raw(width, height, pixels).ok_or("a picture of another size")?;
    // Plotters (0.3.7) draws thick lines without smoothing their edges, so that is done here.
    let (width, height) = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
    let image = resize(&image, width, height, FilterType::Triangle);
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&image, width, height, ExtendedColorType::Rgb8)?;
    Ok(png)
}

fn draw_on<B>(backend: B, drawing: &impl Drawing) -> Result<(), Failure>
where
    B: DrawingBackend,
    B::ErrorType: Error + Send + Sync + 'static,
{
    let canvas = backend.into_drawing_area();
    canvas.fill(&WHITE)?;
    drawing.draw(&canvas)?;
    canvas.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A black upper left quarter.
    struct Quarter;

    impl Drawing for Quarter {
        fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
            let corners = [(0, 0), (px(440.0), px(295.0))];
            canvas.draw(&Rectangle::new(corners, BLACK.filled()))
        }
    }

    #[test]
    fn a_drawing_shows_the_same_in_both_formats() {
        let picture = Picture::of(&Quarter).unwrap();
        let begin = r#"<svg width="880" height="590" viewBox="0 0 5280 3540""#;
        assert!(picture.svg.starts_with(begin), "{}", picture.svg);
        assert!(
            picture.svg.contains(r#"width="2640" height="1770""#),
            "{}",
            picture.svg
        );

        let image = image::load_from_memory(&picture.png).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (1760, 1180));
        for (x, y, brightness) in [(0, 0, 0), (870, 580, 0), (890, 580, 255), (870, 600, 255)] {
            assert_eq!(image.get_pixel(x, y).0, [brightness; 3], "at {x}, {y}");
        }
    }
}
