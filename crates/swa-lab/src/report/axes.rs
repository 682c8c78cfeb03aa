//! The axes of a panel.

use std::ops::Range;

use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::line::{GREY, LIGHT_GREY, stroke};
use super::picture::{Canvas, Drawn, px, text};

/// The size of text.
pub(crate) const LABEL_SIZE: f64 = 16.0;
/// The distance between the edge and the nearest text.
pub(crate) const MARGIN: f64 = 10.0;
/// The distance from the left edge to the panels.
pub(crate) const LEFT: f64 = 76.0;
/// The distance from the panels to the right edge.
pub(crate) const RIGHT: f64 = 28.0;

/// The height of the labels below a panel.
pub(crate) const BELOW: f64 = 46.0;

/// A panel with plain numbers from left to right.
pub(crate) type Chart<'a, B, Y> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, Y>>;
/// Something that is drawn at coordinates of a panel.
pub(crate) type Element<B> = DynElement<'static, B, (f64, f64)>;

/// An axis.
pub(crate) struct Axis {
    pub(crate) title: &'static str,
    /// The number of labels, about.
    pub(crate) labels: usize,
    /// The label of a value.
    pub(crate) label: fn(&f64) -> String,
}

/// A panel as wide as the canvas, with room for labels at the left, `above` and `below` it.
pub(crate) fn panel<B: DrawingBackend>(
    canvas: &Canvas<B>,
    above: f64,
    below: f64,
) -> ChartBuilder<'_, 'static, B> {
    let mut panel = ChartBuilder::on(canvas);
    panel
        .margin_top(px(above))
        .margin_left(px(MARGIN))
        .margin_right(px(RIGHT))
        .margin_bottom(px(MARGIN))
        .x_label_area_size(px(below))
        .y_label_area_size(px(LEFT - MARGIN));
    panel
}

/// Draws the axes of a panel, with a grid of horizontal lines.
pub(crate) fn draw_axes<B, Y>(chart: &mut Chart<'_, B, Y>, x: &Axis, y: &Axis) -> Drawn<B>
where
    B: DrawingBackend,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(stroke(LIGHT_GREY, 0.8))
        .light_line_style(TRANSPARENT)
        .axis_style(stroke(GREY, 0.8))
        .x_desc(x.title)
        .y_desc(y.title)
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(&x.label)
        .y_label_formatter(&y.label)
        .label_style(text(LABEL_SIZE - 1.0).color(&GREY))
        .axis_desc_style(text(LABEL_SIZE))
        .set_all_tick_mark_size(px(4.0))
        .draw()
}

/// A point of a panel on the canvas that the panel is drawn on.
pub(crate) fn on_canvas<B, Y>(
    canvas: &Canvas<B>,
    chart: &Chart<'_, B, Y>,
    point: (f64, f64),
) -> (i32, i32)
where
    B: DrawingBackend,
    Y: Ranged<ValueType = f64>,
{
    let (x, y) = chart.backend_coord(&point);
    let (left, top) = canvas.get_base_pixel();
    (x - left, y - top)
}

/// The label of a number that counts something: none between whole numbers.
pub(crate) fn whole(number: &f64) -> String {
    match number.fract() {
        0.0 => format!("{number}"),
        _ => String::new(),
    }
}

/// The label of a number, as short as can be.
pub(crate) fn short(number: &f64) -> String {
    if number.abs() < 1e-5 && number.abs() > 1e-12 {
        return format!("{number:.0e}");
    }
    // Steps of plotters are sums of fractions: 0.30000000000000004.
    let rounded = format!("{number:.6}");
    let digits = rounded.trim_end_matches('0');
    digits.trim_end_matches('.').to_owned()
}

/// The range of some numbers, with a part of it more at both ends. Those that are not finite are left out.
pub(crate) fn range(numbers: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let finite: Vec<f64> = numbers.filter(|number| number.is_finite()).collect();
    let least = finite.iter().copied().fold(f64::INFINITY, f64::min);
    let most = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if least < most {
        let more = margin * (most - least);
        least - more..most + more
    } else if least == most {
        least - 0.5..most + 0.5
    } else {
        0.0..1.0
    }
}
