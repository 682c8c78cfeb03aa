//! Two panels of lines over one axis: the test error above, the train loss below.

use plotters::prelude::*;

use crate::landscape::PointScores;
use crate::report::axes::{Axis, BELOW, draw_axes, on_canvas, panel, range, short};
use crate::report::legend::{MARK, draw_legend};
use crate::report::line::Line;
use crate::report::picture::{Canvas, Drawn, SIZE, px};

/// The value of a panel.
pub(super) struct Value {
    pub(super) title: &'static str,
    pub(super) of: fn(&PointScores) -> f64,
}

/// The panels, from the top.
#[rustfmt::skip]
pub(super) const VALUES: [Value; 2] = [
    Value { title: "test error (%)", of: PointScores::test_error },
    Value { title: "train loss", of: |scores| scores.train_loss },
];

/// The value of each panel at a point: NaN without scores.
pub(super) fn values(scores: Option<PointScores>) -> [f64; 2] {
    let values = VALUES.each_ref();
    values.map(|value| scores.as_ref().map_or(f64::NAN, value.of))
}

/// The sentence for points that are not all scored yet, from which nothing is concluded.
pub(super) fn not_scored_yet(
    name: &str,
    scores: impl Iterator<Item = Option<PointScores>> + Clone,
) -> Option<String> {
    let left = scores.clone().filter(Option::is_none).count();
    let all = scores.count();
    if left == 0 {
        None
    } else {
        Some(format!(
            "{name}: {left} of {all} points are not scored yet."
        ))
    }
}

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
    let named = traces.iter();
    let named = named.filter_map(|trace| Some((trace.name.clone()?, trace.line)));
    let legend = draw_legend(canvas, named, None)?;
    let (_, panels) = canvas.split_vertically(px(legend));
    let height = (f64::from(SIZE.1) - legend - BELOW) / 2.0;
    let (above, below) = panels.split_vertically(px(height));
    draw_panel(&above, traces, 0, x, 0.0)?;
    draw_panel(&below, traces, 1, x, BELOW)
}

fn draw_panel<B: DrawingBackend>(
    canvas: &Canvas<B>,
    traces: &[Trace],
    place: usize,
    x: &Axis,
    below: f64,
) -> Drawn<B> {
    let points = traces.iter().flat_map(|trace| &trace.points);
    let mut chart = panel(canvas, 8.0, below).build_cartesian_2d(
        range(points.clone().map(|(x, _)| *x), 0.0),
        range(points.map(|(_, values)| values[place]), 0.06),
    )?;
    let y = Axis {
        title: VALUES[place].title,
        labels: 5,
        label: short,
    };
    draw_axes(&mut chart, x, &y)?;
    // Lines with a name lie on those without.
    let (named, unnamed): (Vec<&Trace>, Vec<&Trace>) =
        traces.iter().partition(|trace| trace.name.is_some());
    for trace in unnamed.into_iter().chain(named) {
        for part in trace.points.split(|(_, values)| !values[place].is_finite()) {
            let part = part.iter().map(|(x, values)| (*x, values[place]));
            let part: Vec<_> = part.collect();
            chart.draw_series([trace.line.path(part.clone())])?;
            for point in part {
                if let Some(mark) = trace.line.mark {
                    let at = on_canvas(canvas, &chart, point);
                    mark.draw(canvas, at, MARK, trace.line.color)?;
                }
            }
        }
    }
    Ok(())
}
