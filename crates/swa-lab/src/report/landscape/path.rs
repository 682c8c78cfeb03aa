//! The picture of ways between two networks: the straight line, and a curve beside it.

use plotters::prelude::*;
use swa_landscape::{Barrier, LandscapeError, PathStatistics};

use super::lines::{Trace, VALUES, draw_traces, not_scored_yet, values};
use crate::landscape::{CurveGeometry, LineGeometry, PointsFile, Way};
use crate::report::axes::{Axis, short};
use crate::report::line::{BLUE, Line, VERMILION};
use crate::report::picture::{Canvas, Drawing, Drawn};

#[rustfmt::skip]
const LINE: Line = Line { name: "straight line", color: VERMILION, width: 2.2, dashes: Some((9.0, 5.0)), mark: None };
#[rustfmt::skip]
const CURVE: Line = Line { name: "curve", color: BLUE, width: 3.0, dashes: None, mark: None };

/// The picture of one or two ways.
pub(crate) struct PathPicture {
    traces: Vec<Trace>,
}

impl PathPicture {
    /// The picture of a line's points, and its barriers in sentences.
    pub(crate) fn of_line(file: &PointsFile<LineGeometry>) -> (Self, Vec<String>) {
        let scores = file.points.iter().map(|point| point.scores);
        let points = file.points.iter();
        let points = points.map(|point| (point.at.t, values(point.scores)));
        let points: Points = points.collect();
        let names = file.networks().iter().map(|it| it.name.as_str());
        let between = names.collect::<Vec<_>>().join(" and ");
        let sentences = match not_scored_yet(&format!("The line between {between}"), scores) {
            Some(sentence) => vec![sentence],
            None => barriers(&points, &between),
        };
        let traces = vec![trace(LINE, points)];
        (Self { traces }, sentences)
    }

    /// The picture of a curve's points and of the straight line's, if the curve is trained, and the statistics of both in sentences.
    pub(crate) fn of_curve(file: &PointsFile<CurveGeometry>) -> Option<(Self, Vec<String>)> {
        let known = file.known()?;
        let on = |way: Way| file.points.iter().filter(move |point| point.at.way == way);
        let of = |way: Way| -> Points {
            let points = on(way).map(|point| (point.at.t, values(point.scores)));
            points.collect()
        };
        let (curve, line) = (of(Way::Curve), of(Way::Line));
        let steps = line.len().saturating_sub(1);
        let straight = vec![known.distance / steps as f64; steps];
        let mut ways = vec![
            (Way::Curve, CURVE.name, &curve, &known.distances),
            (Way::Line, LINE.name, &line, &straight),
        ];
        let mut sentences = Vec::new();
        ways.retain(|(way, name, ..)| {
            let left = not_scored_yet(name, on(*way).map(|point| point.scores));
            let is_whole = left.is_none();
            sentences.extend(left);
            is_whole
        });
        for (panel, value) in VALUES.iter().enumerate() {
            for (_, name, points, distances) in &ways {
                let scores = points.iter().map(|(_, values)| values[panel]);
                let statistics = PathStatistics::of(&scores.collect::<Vec<_>>(), distances);
                sentences.extend(in_words(value.title, name, statistics));
            }
        }
        let traces = vec![trace(LINE, line), trace(CURVE, curve)];
        Some((Self { traces }, sentences))
    }
}

impl Drawing for PathPicture {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let x = Axis {
            title: "t, from the first network to the second",
            labels: 11,
            label: short,
        };
        draw_traces(canvas, &self.traces, &x)
    }
}

type Points = Vec<(f64, [f64; 2])>;

fn trace(line: Line, points: Points) -> Trace {
    Trace {
        line,
        name: Some(line.name.to_owned()),
        points,
    }
}

/// The barrier of each value.
fn barriers(points: &Points, between: &str) -> Vec<String> {
    let ts: Vec<f64> = points.iter().map(|(t, _)| *t).collect();
    let sentences = VALUES.iter().enumerate().filter_map(|(panel, value)| {
        let scores: Vec<f64> = points.iter().map(|(_, values)| values[panel]).collect();
        let barrier = Barrier::of(&ts, &scores).ok()?;
        Some(if barrier.height.is_nan() {
            format!(
                "The barrier of the {} between {between} is not known: an end is a gap.",
                value.title
            )
        } else {
            format!(
                "The barrier of the {} between {between} is {:.3} high, at t = {}.",
                value.title,
                barrier.height,
                short(&barrier.t)
            )
        })
    });
    sentences.collect()
}

/// The statistics of a value along a way, if it has any.
fn in_words(
    title: &str,
    way: &str,
    statistics: Result<PathStatistics, LandscapeError>,
) -> Option<String> {
    let PathStatistics {
        smallest,
        largest,
        mean,
        integral,
        length,
        ..
    } = statistics.ok()?;
    Some(format!(
        "{title}, {way}: {smallest:.3} to {largest:.3}, mean {mean:.3} over t and {integral:.3} over its length of {length:.2}."
    ))
}
