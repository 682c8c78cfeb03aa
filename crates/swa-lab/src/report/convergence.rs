//! The paper's convergence plot: test error over epochs of SGD, of the SWA average and of the models that
//! it averages, and the learning rate under it.

use std::ops::Range;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Circle, DashedLineSeries, DrawingBackend, LineSeries, PathElement, Polygon, Rectangle, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, RGBColor, ShapeStyle, TRANSPARENT, WHITE};

use super::comparison::Comparison;
use super::curve::{Point, curve};
use super::picture::{Canvas, Drawing, Drawn, SIZE, px, text};
use super::table::epoch_of;
use crate::experiment::record::EvaluationRecord;

/// Colours that colour-blind readers can tell apart: Okabe and Ito, *Color Universal Design*, 2008.
const VERMILLION: RGBColor = RGBColor(213, 94, 0);
const BLUE: RGBColor = RGBColor(0, 114, 178);
/// The colour of all that is not data.
const GREY: RGBColor = RGBColor(110, 110, 110);
const LIGHT_GREY: RGBColor = RGBColor(222, 222, 222);

/// The style of a line. Each differs from the others without its colour, too.
#[derive(Debug, Clone, Copy)]
struct LineStyle {
    color: RGBColor,
    width: f64,
    /// The lengths of a dash and of the gap after it.
    dashes: Option<(f64, f64)>,
}

const SGD: LineStyle = LineStyle {
    color: BLACK,
    width: 1.6,
    dashes: None,
};
const SWA: LineStyle = LineStyle {
    color: VERMILLION,
    width: 3.0,
    dashes: None,
};
const LIVE: LineStyle = LineStyle {
    color: BLUE,
    width: 1.6,
    dashes: Some((6.0, 3.5)),
};

/// The names of the lines, in the words of the page.
pub(crate) const NAMES: [&str; 3] = ["SGD", "SWA average", "live models that SWA averages"];

const LABEL_SIZE: f64 = 16.0;
/// The distance between the edge and the nearest text.
const MARGIN: f64 = 10.0;
/// The distance from the left edge to the panels.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 28.0;
const LEGEND_HEIGHT: f64 = 34.0;
/// The height of the upper panel, with the labels over it.
const ERROR_HEIGHT: f64 = 384.0;
const MARK_LABEL_HEIGHT: f64 = 40.0;
/// The height by which a label is raised if it would touch the next one.
const RAISED: f64 = 17.0;

/// The convergence plot of a comparison.
#[derive(Debug)]
pub(crate) struct Convergence {
    /// Test errors in per cent, in the order of [`NAMES`].
    errors: [Vec<Point>; 3],
    /// The learning rates of SGD and of SWA.
    learning_rates: [Vec<Point>; 2],
    /// The numbers that the table has, as errors: epoch, error, style.
    in_table: Vec<(f64, f64, LineStyle)>,
    /// The epochs to be marked, and their labels.
    marks: Vec<(usize, String)>,
    /// The epochs on the axis.
    epochs: Range<f64>,
    /// The errors on the axis.
    shown: Range<f64>,
    seeds: usize,
}

impl Convergence {
    /// The plot of a comparison, if its runs have epochs to show.
    pub(crate) fn of(comparison: &Comparison<'_>) -> Option<Self> {
        let run = comparison.record();
        let live: fn(&EvaluationRecord) -> Option<f64> = |epoch| Some(epoch.live_test_error);
        let errors = [
            curve(&comparison.sgd, live),
            curve(&comparison.swa, |epoch| epoch.swa_test_error),
            curve(&comparison.swa, live),
        ];
        let last = errors.iter().flatten().map(|point| point.epoch).max()?;

        let quarters: [(usize, &str); 3] =
            [(4, "1 budget"), (5, "1.25 budgets"), (6, "1.5 budgets")];
        let budgets = quarters.map(|(quarters, name)| (epoch_of(run.budget, quarters), name));
        let mut in_table = Vec::new();
        for (index, (epoch, _)) in budgets.iter().enumerate() {
            let at = |points: &[Point], style| {
                let point = points.iter().find(|point| point.epoch == *epoch)?;
                Some((point.epoch as f64, point.mean, style))
            };
            in_table.extend(at(&errors[1], SWA));
            if index == 0 {
                in_table.extend(at(&errors[0], SGD));
            }
        }
        let mut marks: Vec<(usize, String)> = Vec::new();
        let start = run.swa_start.map(|start| (start, "SWA starts"));
        for (epoch, name) in start.into_iter().chain(budgets) {
            match marks.last_mut() {
                Some((last, names)) if *last == epoch => *names += &format!(", {name}"),
                _ => marks.push((epoch, name.to_owned())),
            }
        }
        marks.retain(|(epoch, _)| *epoch <= last);
        Some(Self {
            shown: shown(&errors, run.budget),
            learning_rates: [&comparison.sgd, &comparison.swa]
                .map(|runs| curve(runs, |epoch| Some(epoch.learning_rate))),
            in_table,
            marks,
            // Even a single epoch needs an axis of some width.
            epochs: 1.0..(last.max(2) as f64),
            errors,
            seeds: comparison.sgd.len().max(comparison.swa.len()),
        })
    }

    /// Tells whether some errors lie above the picture.
    pub(crate) fn is_cut(&self) -> bool {
        let mut points = self.errors.iter().flatten();
        points.any(|point| point.max > self.shown.end)
    }

    /// Tells whether there are bands, which need more than one seed.
    pub(crate) fn has_bands(&self) -> bool {
        self.seeds > 1
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        const SAMPLE: f64 = 34.0;
        const GAP: f64 = 26.0;

        let style = text(LABEL_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
        let middle = px(LEGEND_HEIGHT / 2.0);
        let mut left = px(LEFT);
        for ((name, line), points) in NAMES.iter().zip([SGD, SWA, LIVE]).zip(&self.errors) {
            if points.is_empty() {
                continue;
            }
            let ends = [(left, middle), (left + px(SAMPLE), middle)];
            match line.dashes {
                None => canvas.draw(&PathElement::new(ends, line.stroke()))?,
                Some((dash, gap)) => {
                    for element in DashedLineSeries::new(ends, px(dash), px(gap), line.stroke()) {
                        canvas.draw(&element)?;
                    }
                }
            }
            let label = left + px(SAMPLE + 7.0);
            canvas.draw(&Text::new(*name, (label, middle), style.clone()))?;
            let (width, _) = canvas.estimate_text_size(name, &style)?;
            left = label + width as i32 + px(GAP);
        }
        if self.has_bands() {
            let corners = [
                (left, middle - px(6.0)),
                (left + px(SAMPLE), middle + px(6.0)),
            ];
            canvas.draw(&Rectangle::new(corners, LIGHT_GREY.filled()))?;
            let label = left + px(SAMPLE + 7.0);
            canvas.draw(&Text::new("range over seeds", (label, middle), style))?;
        }
        Ok(())
    }

    fn draw_errors<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(px(MARK_LABEL_HEIGHT))
            .margin_left(px(MARGIN))
            .margin_right(px(RIGHT))
            .y_label_area_size(px(LEFT - MARGIN))
            .build_cartesian_2d(self.epochs.clone(), self.shown.clone())?;
        draw_mesh(&mut chart, "test error (%)", 8)?;
        self.draw_marks(&mut chart, &self.shown)?;
        for (points, style) in self.errors.iter().zip([SGD, SWA, LIVE]) {
            draw_band(&mut chart, points, style, self.shown.end)?;
        }
        // The average is drawn last, on top of the others, because the picture is about it.
        for index in [2, 0, 1] {
            let style = [SGD, SWA, LIVE][index];
            let points = self.errors[index].iter();
            let points: Vec<_> = points
                .map(|point| (point.epoch as f64, point.mean))
                .collect();
            for part in parts_below(&points, self.shown.end) {
                draw_line(&mut chart, part, style)?;
            }
        }
        let dots = self.in_table.iter();
        for (epoch, error, style) in dots.filter(|(_, error, _)| *error <= self.shown.end) {
            let dot = |radius: f64, color: RGBColor| {
                Circle::new((*epoch, *error), px(radius), color.filled())
            };
            chart.draw_series([dot(5.5, WHITE), dot(4.0, style.color)])?;
        }
        self.label_marks(&chart, canvas)
    }

    fn draw_learning_rates<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let rates = self.learning_rates.iter().flatten();
        let (least, most) = rates.fold((f64::INFINITY, 0f64), |(least, most), point| {
            (least.min(point.min), most.max(point.max))
        });
        let mut builder = ChartBuilder::on(canvas);
        builder
            .margin_top(px(12.0))
            .margin_left(px(MARGIN))
            .margin_right(px(RIGHT))
            .margin_bottom(px(MARGIN))
            .x_label_area_size(px(46.0))
            .y_label_area_size(px(LEFT - MARGIN));
        // Over less than half a decade, a linear axis shows more.
        if least > 0.0 && most / least > 3.0 {
            let range = least / 1.5..most * 1.5;
            let chart =
                builder.build_cartesian_2d(self.epochs.clone(), range.clone().log_scale())?;
            self.draw_rates_on(chart, &range)
        } else {
            let range = 0.0..if most > 0.0 { most * 1.2 } else { 1.0 };
            let chart = builder.build_cartesian_2d(self.epochs.clone(), range.clone())?;
            self.draw_rates_on(chart, &range)
        }
    }

    fn draw_rates_on<B, Y>(
        &self,
        mut chart: ChartContext<'_, B, Cartesian2d<RangedCoordf64, Y>>,
        range: &Range<f64>,
    ) -> Drawn<B>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        draw_mesh(&mut chart, "learning rate", 4)?;
        self.draw_marks(&mut chart, range)?;
        for (points, style) in self.learning_rates.iter().zip([SGD, LIVE]) {
            let points = points.iter().map(|point| (point.epoch as f64, point.mean));
            draw_line(&mut chart, points.collect(), style)?;
        }
        Ok(())
    }

    /// Draws a vertical line at each marked epoch.
    fn draw_marks<B, Y>(
        &self,
        chart: &mut ChartContext<'_, B, Cartesian2d<RangedCoordf64, Y>>,
        range: &Range<f64>,
    ) -> Drawn<B>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64>,
    {
        for (epoch, _) in &self.marks {
            let epoch = *epoch as f64;
            let ends = [(epoch, range.start), (epoch, range.end)];
            let style = GREY.stroke_width(px(0.8) as u32);
            chart.draw_series(DashedLineSeries::new(ends, px(1.5), px(3.0), style))?;
        }
        Ok(())
    }

    fn label_marks<B: DrawingBackend>(
        &self,
        chart: &ChartContext<'_, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
        canvas: &Canvas<B>,
    ) -> Drawn<B> {
        let (canvas_left, canvas_top) = canvas.get_base_pixel();
        let mut next = i32::MAX;
        for (epoch, name) in self.marks.iter().rev() {
            let (x, y) = chart.backend_coord(&(*epoch as f64, self.shown.end));
            let (x, y) = (x - canvas_left, y - canvas_top);
            let style = text(LABEL_SIZE - 1.0).color(&GREY);
            let (width, _) = canvas.estimate_text_size(name, &style)?;
            // The label is over its line, and within the picture.
            let edge = px(SIZE.0.into()) - px(2.0) - width as i32;
            let left = (x - width as i32 / 2).clamp(px(MARGIN), edge.max(px(MARGIN)));
            let raised = if left + width as i32 + px(6.0) > next {
                px(RAISED)
            } else {
                0
            };
            let style = style.pos(Pos::new(HPos::Left, VPos::Bottom));
            canvas.draw(&Text::new(
                name.as_str(),
                (left, y - px(5.0) - raised),
                style,
            ))?;
            next = left;
        }
        Ok(())
    }
}

impl Drawing for Convergence {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let (legend, panels) = canvas.split_vertically(px(LEGEND_HEIGHT));
        let (errors, rates) = panels.split_vertically(px(ERROR_HEIGHT));
        self.draw_legend(&legend)?;
        self.draw_errors(&errors)?;
        self.draw_learning_rates(&rates)
    }
}

impl LineStyle {
    fn stroke(self) -> ShapeStyle {
        self.color.stroke_width(px(self.width) as u32)
    }
}

/// The range of errors on the axis. It holds all errors from a quarter of a budget on. Those of the
/// first epochs are so large that they would take most of the room.
fn shown(errors: &[Vec<Point>; 3], budget: usize) -> Range<f64> {
    let points = || errors.iter().flatten();
    let late = || points().filter(|point| 4 * point.epoch >= budget);
    let most = |points: &mut dyn Iterator<Item = &Point>| {
        points
            .map(|point| point.max)
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let least = points()
        .map(|point| point.min)
        .fold(f64::INFINITY, f64::min);
    let top = match most(&mut late()) {
        top if top.is_finite() => top,
        _ => most(&mut points()),
    };
    let margin = (0.06 * (top - least)).max(0.1);
    (least - margin).max(0.0)..(top + margin).min(100.0)
}

/// The parts of a line that are not above `top`.
fn parts_below(points: &[(f64, f64)], top: f64) -> Vec<Vec<(f64, f64)>> {
    let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut before: Option<(f64, f64)> = None;
    for &(x, y) in points {
        let below = y <= top;
        let was_below = before.is_some_and(|(_, y)| y <= top);
        // Where the line crosses the top, if it does between this point and the one before.
        let crossing = before
            .filter(|_| below != was_below)
            .map(|(x0, y0)| (x0 + (x - x0) * (top - y0) / (y - y0), top));
        if below && !was_below {
            parts.push(Vec::from_iter(crossing));
        }
        if let Some(part) = parts.last_mut() {
            if below {
                part.push((x, y));
            } else if was_below {
                part.extend(crossing);
            }
        }
        before = Some((x, y));
    }
    parts
}

fn draw_mesh<B, Y>(
    chart: &mut ChartContext<'_, B, Cartesian2d<RangedCoordf64, Y>>,
    title: &str,
    labels: usize,
) -> Drawn<B>
where
    B: DrawingBackend,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(LIGHT_GREY.stroke_width(px(0.8) as u32))
        .light_line_style(TRANSPARENT)
        .axis_style(GREY.stroke_width(px(0.8) as u32))
        .x_desc("epoch")
        .y_desc(title)
        .x_labels(12)
        .y_labels(labels)
        .x_label_formatter(&|epoch| {
            if epoch.fract() == 0.0 {
                format!("{epoch}")
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|value| {
            // Steps of plotters are sums of fractions: 0.30000000000000004.
            let rounded = format!("{value:.6}");
            let digits = rounded.trim_end_matches('0');
            digits.trim_end_matches('.').to_owned()
        })
        .label_style(text(LABEL_SIZE - 1.0).color(&GREY))
        .axis_desc_style(text(LABEL_SIZE))
        .set_all_tick_mark_size(px(4.0))
        .draw()
}

fn draw_band<B: DrawingBackend>(
    chart: &mut ChartContext<'_, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
    points: &[Point],
    style: LineStyle,
    top: f64,
) -> Drawn<B> {
    if points.iter().all(|point| point.min == point.max) {
        return Ok(());
    }
    for part in points.split(|point| point.min > top) {
        let upper = part.iter();
        let upper = upper.map(|point| (point.epoch as f64, point.max.min(top)));
        let lower = part.iter().rev();
        let lower = lower.map(|point| (point.epoch as f64, point.min));
        let outline: Vec<_> = upper.chain(lower).collect();
        chart.draw_series([Polygon::new(outline, style.color.mix(0.18))])?;
    }
    Ok(())
}

fn draw_line<B, Y>(
    chart: &mut ChartContext<'_, B, Cartesian2d<RangedCoordf64, Y>>,
    points: Vec<(f64, f64)>,
    style: LineStyle,
) -> Drawn<B>
where
    B: DrawingBackend,
    Y: Ranged<ValueType = f64>,
{
    match style.dashes {
        None => drop(chart.draw_series(LineSeries::new(points, style.stroke()))?),
        Some((dash, gap)) => {
            let dashes = DashedLineSeries::new(points, px(dash), px(gap), style.stroke());
            chart.draw_series(dashes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{sgd_run, swa_run};

    #[test]
    fn a_line_is_cut_where_it_crosses_the_top() {
        // From (1, 90) to (2, 30) it crosses 60 half way, and from (3, 30) to (5, 75) at two thirds.
        let points = [
            (1.0, 90.0),
            (2.0, 30.0),
            (3.0, 30.0),
            (5.0, 75.0),
            (6.0, 80.0),
        ];
        let third = 3.0 + 2.0 * 2.0 / 3.0;
        assert_eq!(
            parts_below(&points, 60.0),
            [[(1.5, 60.0), (2.0, 30.0), (3.0, 30.0), (third, 60.0)]]
        );
        assert_eq!(parts_below(&points, 95.0), [points]);
        assert!(parts_below(&points, 10.0).is_empty());
    }

    #[test]
    fn the_axis_holds_all_from_a_quarter_of_a_budget_on() {
        let runs = [sgd_run(1, &[90.0; 8]), swa_run(1, &[20.0; 6])];
        let mut runs = runs.map(|mut run| {
            run.record.budget = 8;
            run
        });
        for (epoch, evaluation) in &mut runs[0].epochs {
            evaluation.live_test_error = match *epoch {
                1 => 90.0,
                2 => 60.0,
                _ => 40.0,
            };
        }
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        // Two epochs are a quarter of a budget: errors from 20 to 60, and 6 % of these 40 around them.
        assert_eq!(plot.shown, 17.6..62.4);
        assert!(plot.is_cut());
    }

    #[test]
    fn what_happens_at_the_same_epoch_has_one_mark() {
        // A budget of 4, at whose end SWA starts; the runs end before 1.5 budgets.
        let mut run = swa_run(1, &[40.0; 3]);
        run.record.swa_start = Some(4);
        let runs = [run];
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        let mark = |epoch, name: &str| (epoch, name.to_owned());
        let expected = [mark(4, "SWA starts, 1 budget"), mark(5, "1.25 budgets")];
        assert_eq!(plot.marks, expected);
    }

    #[test]
    fn the_points_are_the_tables_numbers() {
        // A budget of 4: SGD and SWA at 4, SWA at 5 and 6.
        let runs = [
            sgd_run(1, &[80.0, 70.0, 60.0, 40.0]),
            swa_run(1, &[60.0, 41.0, 39.0, 36.0]),
        ];
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        let points = plot
            .in_table
            .iter()
            .map(|(epoch, error, _)| (*epoch, *error));
        let points: Vec<_> = points.collect();
        assert_eq!(points, [(4.0, 41.0), (4.0, 40.0), (5.0, 39.0), (6.0, 36.0)]);
    }
}
