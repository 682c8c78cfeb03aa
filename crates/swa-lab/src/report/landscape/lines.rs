//! Two panels of lines over one axis: the test error above, the train loss below.

use plotters::prelude::*;

use crate::landscape::PointScores;
use crate::report::axes::{Axis, LEFT, MARGIN, RIGHT, draw_axes, range, short};
use crate::report::legend::{LEGEND_HEIGHT, draw_legend};
use crate::report::line::Line;
use crate::report::picture::{Canvas, Drawn, SIZE, px};

/// The height of the labels below a panel.
const BELOW: f64 = 46.0;

/// The value of a panel.
pub(super) struct Value {
    pub(super) title: &'static str,
    pub(super) of: fn(&PointScores) -> f64,
}

/// The panels, from the top.
pub(super) const VALUES: [Value; 2] = [
    Value {
        title: "test error (%)",
        of: PointScores::test_error,
    },
    Value {
        title: "train loss",
        of: |scores| scores.train_loss,
    },
];

/// A line of a panel.
pub(super) struct Trace {
    pub(super) line: Line,
    /// The name in the legend, which a thin line among others has none in.
    pub(super) name: Option<String>,
    /// The coordinate, and the value of each panel. A value that is not finite is a gap.
    pub(super) points: Vec<(f64, [f64; 2])>,
}

/// Draws the panels and the legend over them.
pub(super) fn draw_traces<B: DrawingBackend>(
    canvas: &Canvas<B>,
    traces: &[Trace],
    x: &Axis,
) -> Drawn<B> {
    let (legend, panels) = canvas.split_vertically(px(LEGEND_HEIGHT));
    let named = traces.iter();
    let named = named.filter_map(|trace| Some((trace.name.clone()?, trace.line)));
    draw_legend(&legend, named, None)?;
    let height = (f64::from(SIZE.1) - LEGEND_HEIGHT - BELOW) / 2.0;
    let (above, below) = panels.split_vertically(px(height));
    draw_panel(&above, traces, 0, x, 0.0)?;
    draw_panel(&below, traces, 1, x, BELOW)
}

fn draw_panel<B: DrawingBackend>(
    canvas: &Canvas<B>,
    traces: &[Trace],
    panel: usize,
    x: &Axis,
    below: f64,
) -> Drawn<B> {
    let points = traces.iter().flat_map(|trace| &trace.points);
    let mut chart = ChartBuilder::on(canvas)
        .margin_top(px(8.0))
        .margin_left(px(MARGIN))
        .margin_right(px(RIGHT))
        .margin_bottom(px(MARGIN))
        .x_label_area_size(px(below))
        .y_label_area_size(px(LEFT - MARGIN))
        .build_cartesian_2d(
            range(points.clone().map(|(x, _)| *x), 0.0),
            range(points.map(|(_, values)| values[panel]), 0.06),
        )?;
    let y = Axis {
        title: VALUES[panel].title,
        labels: 5,
        label: short,
    };
    draw_axes(&mut chart, x, &y)?;
    // Lines with a name lie on those without.
    let (named, unnamed): (Vec<&Trace>, Vec<&Trace>) =
        traces.iter().partition(|trace| trace.name.is_some());
    for trace in unnamed.into_iter().chain(named) {
        for part in trace.points.split(|(_, values)| !values[panel].is_finite()) {
            let part = part.iter().map(|(x, values)| (*x, values[panel]));
            chart.draw_series([trace.line.path(part.collect())])?;
        }
    }
    Ok(())
}
