//! The legend over a picture.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axes::{LABEL_SIZE, LEFT};
use super::line::{LIGHT_GREY, Line};
use super::picture::{Canvas, Drawn, px, text};

/// The height of a legend.
pub(crate) const LEGEND_HEIGHT: f64 = 34.0;
/// The length of a line's sample.
const SAMPLE: f64 = 34.0;
/// The radius of the marks of a sample.
pub(crate) const MARK: f64 = 4.0;

/// Draws a legend on one line: names with samples of their lines, and the name of the bands, if there
/// are some.
pub(crate) fn draw_legend<B: DrawingBackend>(
    canvas: &Canvas<B>,
    lines: impl IntoIterator<Item = (String, Line)>,
    bands: Option<&'static str>,
) -> Drawn<B> {
    let style = text(LABEL_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
    let (sample, gap) = (px(SAMPLE), px(7.0));
    let middle = px(LEGEND_HEIGHT / 2.0);
    let mut left = px(LEFT);
    for (name, line) in lines {
        draw_sample(canvas, &line, (left, middle), sample)?;
        left += sample + gap;
        let (width, _) = canvas.estimate_text_size(&name, &style)?;
        canvas.draw(&Text::new(name, (left, middle), style.clone()))?;
        left += width as i32 + px(26.0);
    }
    if let Some(name) = bands {
        let (top, bottom) = (middle - px(6.0), middle + px(6.0));
        let corners = [(left, top), (left + sample, bottom)];
        canvas.draw(&Rectangle::new(corners, LIGHT_GREY.filled()))?;
        left += sample + gap;
        canvas.draw(&Text::new(name, (left, middle), style))?;
    }
    Ok(())
}

/// Draws a piece of a line, with its mark, from a point to the right.
pub(crate) fn draw_sample<B: DrawingBackend>(
    canvas: &Canvas<B>,
    line: &Line,
    (left, y): (i32, i32),
    length: i32,
) -> Drawn<B> {
    let ends = [(left, y), (left + length, y)];
    canvas.draw(&line.path(ends.to_vec()))?;
    if let Some(mark) = line.mark {
        mark.draw(canvas, (left + length / 2, y), MARK, line.color)?;
    }
    Ok(())
}
