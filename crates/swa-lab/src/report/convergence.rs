//! The paper's convergence plot: test error over epochs of SGD, of the SWA average and of the models that
//! it averages, and the learning rate under it.

use std::ops::Range;

use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axes::{
    Axis, BELOW, Chart, Element, LABEL_SIZE, LEFT, MARGIN, RIGHT, draw_axes, panel, short, whole,
};
use super::comparison::Comparison;
use super::curve::{Point, curve};
use super::legend::draw_legend;
use super::line::{BLUE, GREY, Line, PURPLE, VERMILION, stroke};
use super::picture::{Canvas, Drawing, DrawingError, Drawn, SIZE, px, text};
use super::table::{COLUMNS, CONTROL_COLUMNS, epoch_of};
use crate::experiment::record::{EvaluationRecord, Method};

/// The lines.
#[rustfmt::skip]
pub(crate) const LINES: [Line; 4] = [
    Line { name: "SGD", color: BLACK, width: 1.6, dashes: None, mark: None },
    Line { name: "SWA average", color: VERMILION, width: 3.0, dashes: None, mark: None },
    Line { name: "live models that SWA averages", color: BLUE, width: 1.6, dashes: DASHES, mark: None },
    Line { name: "SGD for longer", color: PURPLE, width: 1.6, dashes: None, mark: None },
];
/// The lengths of a dash and of the gap after it.
const DASHES: Option<(f64, f64)> = Some((6.0, 3.5));
/// The indices of the lines.
const SGD: usize = 0;
const SWA: usize = 1;
const LIVE: usize = 2;
const LONGER: usize = 3;

/// The height of the upper panel, with the labels over it.
const ERROR_HEIGHT: f64 = 384.0;
const MARK_LABEL_HEIGHT: f64 = 40.0;
/// The height by which a label is raised if it would touch one to its right.
const RAISED: f64 = 17.0;
/// The least distance between labels.
const APART: f64 = 6.0;

/// The convergence plot of a comparison.
#[derive(Debug)]
pub(crate) struct Convergence {
    /// Test errors in per cent, in the order of [`LINES`].
    errors: [Vec<Point>; 4],
    /// The learning rates of SGD, of SWA and of SGD for longer.
    learning_rates: [Vec<Point>; 3],
    /// The numbers that the table has, as errors: epoch, error, line.
    in_table: Vec<(f64, f64, Line)>,
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
        // The paper plots errors.
        let error = |accuracy: f64| 100.0 - accuracy;
        let live = |epoch: &EvaluationRecord| Some(error(epoch.live_test_accuracy));
        // Of SGD for longer, the longest that the table has.
        let mut controls = CONTROL_COLUMNS.iter().rev();
        let control = controls.find_map(|(_, quarters, _)| {
            let epoch = epoch_of(run.budget, *quarters);
            Some((epoch, comparison.sgd_until(epoch))).filter(|(_, runs)| !runs.is_empty())
        });
        let (control_epoch, longer) = control.unwrap_or_default();
        let errors = [
            curve(&comparison.sgd, live),
            curve(&comparison.swa, |epoch| epoch.swa_test_accuracy.map(error)),
            curve(&comparison.swa, live),
            curve(&longer, live),
        ];
        let last = errors.iter().flatten().map(|point| point.epoch).max()?;

        // SGD's point lies on that of the average after as many epochs.
        let in_table = [1, 0, 2, 3].map(|column| {
            let (method, quarters, _) = COLUMNS[column];
            let line = if method == Method::Sgd { SGD } else { SWA };
            (line, epoch_of(run.budget, quarters))
        });
        let in_table = in_table.into_iter().chain([(LONGER, control_epoch)]);
        let in_table = in_table.filter_map(|(line, epoch)| {
            let point = errors[line].iter().find(|point| point.epoch == epoch)?;
            Some((epoch as f64, point.mean, LINES[line]))
        });
        let in_table = in_table.collect();
        let mut marks: Vec<(usize, String)> = Vec::new();
        let start = run.swa_start.map(|start| (start, "SWA starts"));
        let budgets = COLUMNS.iter().filter_map(|(_, quarters, heading)| {
            let budgets = heading.strip_prefix("SWA, ")?;
            Some((epoch_of(run.budget, *quarters), budgets))
        });
        for (epoch, name) in start.into_iter().chain(budgets) {
            match marks.last_mut() {
                Some((last, names)) if *last == epoch => *names += &format!(", {name}"),
                _ => marks.push((epoch, name.to_owned())),
            }
        }
        marks.retain(|(epoch, _)| *epoch <= last);
        Some(Self {
            shown: shown(&errors, run.budget),
            learning_rates: [&comparison.sgd, &comparison.swa, &longer]
                .map(|runs| curve(runs, |epoch| Some(epoch.learning_rate))),
            in_table,
            marks,
            // Even a single epoch needs an axis of some width.
            epochs: 1.0..(last.max(2) as f64),
            errors,
            seeds: longer
                .len()
                .max(comparison.sgd.len())
                .max(comparison.swa.len()),
        })
    }

    fn draw_errors<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let top = self.shown.end;
        let labels = self.mark_labels(canvas)?;
        let raised = labels.iter().map(|label| label.raised).max().unwrap_or(0);
        // There is room for labels that are raised once.
        let further = RAISED * raised.saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(px(MARK_LABEL_HEIGHT + further))
            .margin_left(px(MARGIN))
            .margin_right(px(RIGHT))
            .y_label_area_size(px(LEFT - MARGIN))
            .build_cartesian_2d(self.epochs.clone(), self.shown.clone())?;
        let mut data = Vec::new();
        for (points, line) in self.errors.iter().zip(LINES) {
            data.extend(bands_below(points, line.color, top));
        }
        // The average is drawn last, on top of the others, because the picture is about it.
        for index in [LIVE, LONGER, SGD, SWA] {
            let parts = parts_below(&means(&self.errors[index]), top);
            data.extend(parts.into_iter().map(|part| LINES[index].path(part)));
        }
        let dots = self.in_table.iter();
        for &(epoch, error, line) in dots.filter(|(_, error, _)| *error <= top) {
            for (radius, color) in [(5.5, WHITE), (4.0, line.color)] {
                let dot = Circle::new((epoch, error), px(radius), color.filled());
                data.push(dot.into_dyn());
            }
        }
        let axis = Axis {
            title: "test error (%)",
            labels: 8,
            label: short,
        };
        self.draw_panel(&mut chart, &self.shown, &axis, data)?;
        let bottom = px(MARK_LABEL_HEIGHT + further - 5.0);
        for MarkLabel { name, left, raised } in labels {
            let place = (left, bottom - px(RAISED * raised as f64));
            canvas.draw(&Text::new(name, place, mark_style()))?;
        }
        Ok(())
    }

    fn draw_learning_rates<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let rates = || self.learning_rates.iter().flatten();
        let least = rates().map(|point| point.min).fold(f64::INFINITY, f64::min);
        let most = rates().map(|point| point.max).fold(0.0, f64::max);
        // Over less than half a decade, a linear axis shows more.
        let logarithmic = least > 0.0 && most / least > 3.0;
        let range = if logarithmic {
            least / 1.5..most * 1.5
        } else {
            0.0..if most > 0.0 { most * 1.2 } else { 1.0 }
        };
        let mut builder = panel(canvas, 12.0, BELOW);
        let lines = self.learning_rates.iter().zip([SGD, LIVE, LONGER]);
        let lines = lines.filter(|(points, _)| !points.is_empty());
        let data = lines.map(|(points, line)| LINES[line].path(means(points)));
        let data = data.collect();
        let epochs = self.epochs.clone();
        let axis = Axis {
            title: "learning rate",
            labels: 4,
            label: short,
        };
        if logarithmic {
            let values = range.clone().log_scale();
            let mut chart = builder.build_cartesian_2d(epochs, values)?;
            self.draw_panel(&mut chart, &range, &axis, data)
        } else {
            let mut chart = builder.build_cartesian_2d(epochs, range.clone())?;
            self.draw_panel(&mut chart, &range, &axis, data)
        }
    }

    /// Draws a panel: its axes, a vertical line at each marked epoch, and data.
    fn draw_panel<B, Y>(
        &self,
        chart: &mut Chart<'_, B, Y>,
        range: &Range<f64>,
        axis: &Axis,
        data: Vec<Element<B>>,
    ) -> Drawn<B>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let epochs = Axis {
            title: "epoch",
            labels: 12,
            label: whole,
        };
        draw_axes(chart, &epochs, axis)?;
        for (epoch, _) in &self.marks {
            let ends = [range.start, range.end].map(|value| (*epoch as f64, value));
            let dashes = DashedLineSeries::new(ends, px(1.5), px(3.0), stroke(GREY, 0.8));
            chart.draw_series(dashes)?;
        }
        chart.draw_series(data)?;
        Ok(())
    }

    /// The labels over the marked epochs, from the last to the first. One that would touch another is raised.
    fn mark_labels<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
    ) -> Result<Vec<MarkLabel<'_>>, DrawingError<B>> {
        let width = px(SIZE.0.into());
        // Plotters (0.3.7) leaves out the last unit.
        let ends_of_axis = (px(LEFT), width - px(RIGHT) - 1);
        let epochs = RangedCoordf64::from(self.epochs.clone());
        // The left ends of the last label at each height.
        let mut ends: Vec<i32> = Vec::new();
        let mut labels = Vec::new();
        for (epoch, name) in self.marks.iter().rev() {
            let x = epochs.map(&(*epoch as f64), ends_of_axis);
            let (length, _) = canvas.estimate_text_size(name, &mark_style())?;
            let length = length as i32;
            // The label is over its line, and within the picture.
            let edge = width - px(2.0) - length;
            let left = (x - length / 2).clamp(px(MARGIN), edge.max(px(MARGIN)));
            let is_free = |end: &i32| left + length + px(APART) <= *end;
            let raised = ends.iter().position(is_free).unwrap_or(ends.len());
            ends.resize(ends.len().max(raised + 1), left);
            ends[raised] = left;
            labels.push(MarkLabel { name, left, raised });
        }
        Ok(labels)
    }
}

/// A label over a marked epoch.
#[derive(Debug)]
struct MarkLabel<'a> {
    name: &'a str,
    left: i32,
    /// The number of labels that it is raised over.
    raised: usize,
}

fn mark_style() -> TextStyle<'static> {
    let style = text(LABEL_SIZE - 1.0).color(&GREY);
    style.pos(Pos::new(HPos::Left, VPos::Bottom))
}

impl Drawing for Convergence {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let lines = LINES.iter().zip(&self.errors);
        let lines = lines.filter(|(_, points)| !points.is_empty());
        let lines = lines.map(|(line, _)| (line.name.to_owned(), *line));
        let bands = self.has_bands().then_some("range over seeds");
        let legend = draw_legend(canvas, lines, bands)?;
        let (_, panels) = canvas.split_vertically(px(legend));
        let (errors, rates) = panels.split_vertically(px(ERROR_HEIGHT));
        self.draw_errors(&errors)?;
        self.draw_learning_rates(&rates)
    }

    /// There are some if there is more than one seed.
    fn has_bands(&self) -> bool {
        self.seeds > 1
    }

    fn is_cut(&self) -> bool {
        let mut points = self.errors.iter().flatten();
        points.any(|point| point.max > self.shown.end)
    }
}

fn means(points: &[Point]) -> Vec<(f64, f64)> {
    let points = points.iter();
    points
        .map(|point| (point.epoch as f64, point.mean))
        .collect()
}

/// The range of errors on the axis. It holds all errors from a quarter of a budget on. Those of the
/// first epochs are so large that they would take most of the room.
fn shown(errors: &[Vec<Point>; 4], budget: usize) -> Range<f64> {
    let points = || errors.iter().flatten();
    let least = points()
        .map(|point| point.min)
        .fold(f64::INFINITY, f64::min);
    let most = |after: usize| {
        let late = points().filter(|point| 4 * point.epoch >= after);
        late.map(|point| point.max).reduce(f64::max)
    };
    let top = most(budget).or(most(0)).unwrap_or(least);
    let margin = (0.06 * (top - least)).max(0.1);
    (least - margin).max(0.0)..(top + margin).min(100.0)
}

/// The parts of a line that are not above `top`.
fn parts_below(points: &[(f64, f64)], top: f64) -> Vec<Vec<(f64, f64)>> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    for &(x, y) in points {
        if let Some(&(x0, y0)) = line.last()
            && (y0 <= top) != (y <= top)
        {
            // The line crosses the top between this point and the one before.
            line.push((x0 + (x - x0) * (top - y0) / (y - y0), top));
        }
        line.push((x, y));
    }
    let parts = line.split(|(_, y)| *y > top);
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(<[_]>::to_vec).collect()
}

/// The areas between the least and the most, up to `top`. There are none if all seeds agree.
fn bands_below<B: DrawingBackend>(points: &[Point], color: RGBColor, top: f64) -> Vec<Element<B>> {
    if points.iter().all(|point| point.min == point.max) {
        return Vec::new();
    }
    let parts = points.split(|point| point.min > top);
    let bands = parts.map(|part| {
        let upper = part
            .iter()
            .map(|point| (point.epoch as f64, point.max.min(top)));
        let lower = part.iter().map(|point| (point.epoch as f64, point.min));
        let outline: Vec<_> = upper.chain(lower.rev()).collect();
        Polygon::new(outline, color.mix(0.18)).into_dyn()
    });
    bands.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{sgd_run, swa_run};
    use crate::report::picture::Picture;

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
        let runs = [sgd_run(1, &[10.0; 8]), swa_run(1, &[80.0; 6])];
        let mut runs = runs.map(|mut run| {
            run.record.budget = 8;
            run
        });
        for (epoch, evaluation) in &mut runs[0].epochs {
            evaluation.live_test_accuracy = match *epoch {
                1 => 10.0,
                2 => 40.0,
                _ => 60.0,
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
        let mut run = swa_run(1, &[60.0; 3]);
        run.record.swa_start = Some(4);
        let runs = [run];
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        let mark = |epoch, name: &str| (epoch, name.to_owned());
        let expected = [mark(4, "SWA starts, 1 budget"), mark(5, "1.25 budgets")];
        assert_eq!(plot.marks, expected);
    }

    #[test]
    fn labels_that_would_touch_are_raised_over_each_other() {
        // Budgets of 4 epochs, of which SWA starts with the third. A label is about 70 pixels long.
        let raised = |epochs: usize| {
            let runs = [swa_run(1, &vec![60.0; epochs - 2])];
            let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
            // Knows the font, too.
            Picture::of(&plot).unwrap();
            let mut svg = String::new();
            let canvas = SVGBackend::with_string(&mut svg, (5280, 3540)).into_drawing_area();
            let labels = plot.mark_labels(&canvas).unwrap();
            let names: Vec<&str> = labels.iter().map(|label| label.name).collect();
            let expected = ["1.5 budgets", "1.25 budgets", "1 budget", "SWA starts"];
            assert_eq!(names, expected);
            labels.iter().map(|label| label.raised).collect::<Vec<_>>()
        };
        // Epochs are 155 pixels apart, 46 and 8.
        assert_eq!(raised(6), [0, 0, 0, 0]);
        assert_eq!(raised(18), [0, 1, 0, 1]);
        assert_eq!(raised(100), [0, 1, 2, 3]);
    }

    #[test]
    fn bands_of_sgd_for_longer_alone_are_in_the_legend() {
        let runs = [
            sgd_run(1, &[60.0; 4]),
            swa_run(1, &[60.0; 4]),
            sgd_run(1, &[70.0; 6]),
            sgd_run(2, &[70.0; 6]),
        ];
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        assert!(plot.has_bands());
        let one_seed = Convergence::of(&Comparison::all(&runs[..3])[0]).unwrap();
        assert!(!one_seed.has_bands());
    }

    #[test]
    fn the_points_are_the_tables_numbers() {
        // A budget of 4: SGD and SWA at 4, SWA at 5 and 6.
        let runs = [
            sgd_run(1, &[20.0, 30.0, 40.0, 60.0]),
            swa_run(1, &[40.0, 59.0, 61.0, 64.0]),
        ];
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        let points = plot
            .in_table
            .iter()
            .map(|(epoch, error, _)| (*epoch, *error));
        let points: Vec<_> = points.collect();
        assert_eq!(points, [(4.0, 41.0), (4.0, 40.0), (5.0, 39.0), (6.0, 36.0)]);
        assert!(plot.errors[LONGER].is_empty());
    }

    #[test]
    fn sgd_for_longer_has_a_line_that_ends_in_its_number() {
        let runs = [sgd_run(1, &[60.0; 4]), sgd_run(1, &[70.0; 6])];
        let plot = Convergence::of(&Comparison::all(&runs)[0]).unwrap();
        assert_eq!(plot.errors[LONGER].len(), 6);
        assert_eq!(plot.learning_rates.each_ref().map(Vec::len), [4, 0, 6]);
        let points: Vec<_> = plot
            .in_table
            .iter()
            .map(|(epoch, error, _)| (*epoch, *error))
            .collect();
        assert_eq!(points, [(4.0, 40.0), (6.0, 30.0)]);
    }
}
