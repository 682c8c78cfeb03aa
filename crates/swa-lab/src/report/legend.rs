//! The legend over a picture.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axes::{LABEL_SIZE, LEFT};
use super::line::{LIGHT_GREY, Line};
use super::picture::{Canvas, DrawingError, Drawn, px, text};

/// The height of a legend on one line.
pub(crate) const LEGEND_HEIGHT: f64 = 34.0;
/// The height of each further line.
const FURTHER: f64 = 22.0;
/// The most lines. Names beyond them are left out, so that there is room for the picture.
const MOST: usize = 10;
/// The length of a line's sample.
const SAMPLE: f64 = 34.0;
/// The radius of the marks of a sample.
pub(crate) const MARK: f64 = 4.0;

/// Draws a legend at the top of a canvas: names with samples of their lines, and the name of the bands, if there are some. It goes on
/// below where a line is full. Returns its height in pixels.
pub(crate) fn draw_legend<B: DrawingBackend>(
    canvas: &Canvas<B>,
    lines: impl IntoIterator<Item = (String, Line)>,
    bands: Option<&'static str>,
) -> Result<f64, DrawingError<B>> {
    let style = text(LABEL_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
    let (sample, gap) = (px(SAMPLE), px(7.0));
    let right = canvas.dim_in_pixel().0 as i32 - px(2.0);
    let lines = lines.into_iter().map(|(name, line)| (name, Some(line)));
    let bands = bands.map(|name| (name.to_owned(), None));
    let (mut left, mut further) = (px(LEFT), 0);
    for (name, line) in lines.chain(bands) {
        let (width, _) = canvas.estimate_text_size(&name, &style)?;
        let width = sample + gap + width as i32;
        if left > px(LEFT) && left + width > right {
            left = px(LEFT);
            further += 1;
        }
        if further == MOST {
            break;
        }
        let middle = px(LEGEND_HEIGHT / 2.0 + FURTHER * further as f64);
        if let Some(line) = line {
            draw_sample(canvas, &line, (left, middle), sample)?;
        } else {
            let (top, bottom) = (middle - px(6.0), middle + px(6.0));
            let corners = [(left, top), (left + sample, bottom)];
            canvas.draw(&Rectangle::new(corners, LIGHT_GREY.filled()))?;
        }
        let place = (left + sample + gap, middle);
        canvas.draw(&Text::new(name, place, style.clone()))?;
        left += width + px(26.0);
    }
    Ok(LEGEND_HEIGHT + FURTHER * further.min(MOST - 1) as f64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::line::BLUE;
    use crate::report::picture::{Drawing, Picture};

    struct Legend {
        names: Vec<String>,
    }

    impl Drawing for Legend {
        fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
            let line = Line {
                name: "",
                color: BLUE,
                width: 2.0,
                dashes: None,
                mark: None,
            };
            let lines = self.names.iter().map(|name| (name.clone(), line));
            let height = draw_legend(canvas, lines, Some("range over seeds"))?;
            let ends = vec![(0, px(height)), (px(880.0), px(height))];
            canvas.draw(&PathElement::new(ends, BLUE))
        }
    }

    /// The names in a legend, each with its place in pixels.
    fn places(names: &[&str]) -> Vec<(f64, f64, String)> {
        let names = names.iter().map(ToString::to_string).collect();
        let svg = Picture::of(&Legend { names }).unwrap().svg;
        let texts = svg.split("<text ").skip(1).map(|text| {
            let number = |name: &str| -> f64 {
                let value = text.split_once(&format!("{name}=\"")).unwrap().1;
                let value = value.split_once('"').unwrap().0;
                value.parse::<f64>().unwrap() / 6.0
            };
            let words = text.split_once(">\n").unwrap().1;
            let words = words.split_once('\n').unwrap().0;
            (number("x"), number("y"), words.to_owned())
        });
        texts.collect()
    }

    #[test]
    fn a_legend_goes_on_below_where_its_line_is_full() {
        let short = places(&["SGD", "SWA"]);
        assert!(short.iter().all(|(_, y, _)| *y == 17.0), "{short:?}");

        let names = [1, 2, 3, 4].map(|seed| format!("cifar10-preresnet-14-swa-seed{seed}"));
        let long = places(&names.each_ref().map(String::as_str));
        // A name is less than 200 pixels long, and its sample 41: three have room on 880 pixels beside a margin of 76.
        let lines: Vec<f64> = long.iter().map(|(_, y, _)| *y).collect();
        assert_eq!(lines, [17.0, 17.0, 17.0, 39.0, 39.0], "{long:?}");
        for (x, _, name) in &long {
            assert!(x + 8.0 * name.len() as f64 <= 880.0, "{long:?}");
        }
    }

    #[test]
    fn a_legend_leaves_room_for_its_picture() {
        let name = "a".repeat(80);
        let many = places(&vec![name.as_str(); 30]);
        assert_eq!(many.len(), 10);
        assert_eq!(many.last().unwrap().1, 17.0 + 9.0 * 22.0);
    }
}
