//! The lines of pictures. Each differs from the others without its colour, too.

use std::f64::consts::PI;

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::picture::{Canvas, Drawn, px};

/// The look of a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// Its name, in the words of the page.
    pub(crate) name: &'static str,
    pub(crate) color: RGBColor,
    /// Its width in pixels.
    pub(crate) width: f64,
    /// The lengths of a dash and of the gap after it in pixels, if it is dashed.
    pub(crate) dashes: Option<(f64, f64)>,
    /// The marks at its points, if it has any.
    pub(crate) mark: Option<Mark>,
}

/// A mark at a point of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mark {
    pub(crate) shape: Shape,
    /// White inside.
    pub(crate) open: bool,
}

/// The shape of a mark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Circle,
    Square,
    Diamond,
    Triangle,
    /// A triangle that stands on its tip.
    Tip,
}

// Colours that colour-blind readers can tell apart: Okabe and Ito, *Color Universal Design*, 2008.
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(crate) const PURPLE: RGBColor = RGBColor(204, 121, 167);

/// The colour of all that is not data.
pub(crate) const GREY: RGBColor = RGBColor(110, 110, 110);
pub(crate) const LIGHT_GREY: RGBColor = RGBColor(222, 222, 222);

impl Line {
    /// Its colour, paler, for what is not to catch the eye.
    pub(crate) fn pale(&self) -> RGBColor {
        let RGBColor(red, green, blue) = self.color;
        let [red, green, blue] = [red, green, blue].map(|part| 255 - (255 - part) / 3);
        RGBColor(red, green, blue)
    }

    /// The line through some points.
    pub(crate) fn path<B: DrawingBackend, C: Clone + 'static>(
        &self,
        points: Vec<C>,
    ) -> DynElement<'static, B, C> {
        let stroke = stroke(self.color, self.width);
        match self.dashes {
            None => PathElement::new(points, stroke).into_dyn(),
            Some((dash, gap)) => {
                DashedPathElement::new(points, px(dash), px(gap), stroke).into_dyn()
            }
        }
    }
}

impl Mark {
    /// Draws the mark at a point. Its area is that of a circle with this radius in pixels, whatever its
    /// shape.
    pub(crate) fn draw<B: DrawingBackend>(
        self,
        canvas: &Canvas<B>,
        (x, y): (i32, i32),
        radius: f64,
        color: RGBColor,
    ) -> Drawn<B> {
        let inside = if self.open { WHITE } else { color };
        // A white edge keeps it apart from the lines and marks below it.
        for (radius, color) in [
            (radius + 1.0, WHITE),
            (radius, color),
            (0.6 * radius, inside),
        ] {
            let corners = self.shape.corners(radius).into_iter();
            let corners = corners.map(|(right, down)| (x + right, y + down));
            let corners: Vec<_> = corners.collect();
            canvas.draw(&Polygon::new(corners, color.filled()))?;
        }
        Ok(())
    }
}

impl Shape {
    /// All shapes, in the order in which pictures take them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Diamond,
        Self::Tip,
    ];

    /// The corners around the middle, for the area of a circle with this radius in pixels.
    fn corners(self, radius: f64) -> Vec<(i32, i32)> {
        // The number of corners, and the angle of the first one from the right, clockwise.
        let (count, first) = match self {
            Self::Circle => (24, 0.0),
            Self::Square => (4, 45.0),
            Self::Diamond => (4, 0.0),
            Self::Triangle => (3, -90.0),
            Self::Tip => (3, 90.0),
        };
        let turn = 2.0 * PI / f64::from(count);
        // A regular polygon with n corners at distance R has the area n/2 R² sin(2π/n).
        let distance = radius * (2.0 * PI / (f64::from(count) * turn.sin())).sqrt();
        let corner = |index| {
            let angle = f64::to_radians(first) + turn * f64::from(index);
            (px(distance * angle.cos()), px(distance * angle.sin()))
        };
        (0..count).map(corner).collect()
    }
}

/// A stroke of a width in pixels.
pub(crate) fn stroke(color: impl Color, width: f64) -> ShapeStyle {
    color.stroke_width(px(width) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_all_shapes_have_the_area_of_their_circle() {
        for shape in Shape::ALL {
            // The shoelace formula, on corners that are rounded to units.
            let corners = shape.corners(10.0);
            let next = corners.iter().cycle().skip(1);
            let twice = corners.iter().zip(next);
            let twice: i32 = twice.map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum();
            let expected = PI * f64::from(px(10.0)).powi(2);
            let ratio = f64::from(twice) / 2.0 / expected;
            assert!((ratio - 1.0).abs() < 0.02, "{shape:?}: {ratio}");
        }
    }
}
