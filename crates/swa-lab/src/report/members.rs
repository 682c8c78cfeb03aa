//! The curve over members: accuracy and NLL of an ensemble as it grows.

use std::cmp::Reverse;
use std::ops::Range;

use plotters::prelude::*;

use super::axes::{Axis, BELOW, Element, LEFT, RIGHT, draw_axes, on_canvas, panel, short, whole};
use super::legend::{MARK, draw_legend};
use super::line::Line;
use super::methods::{MethodRow, Methods, SCORES, Scores};
use super::picture::{Canvas, Drawing, Drawn, SIZE, px};
use super::statistics::Sample;
use crate::experiment::record::{Method, PredictingModels, ScoresRecord};

/// The height by which the two legends are nearer to each other than to the panels.
const NEARER: f64 = 8.0;
/// The least distance between marks.
const MARK_DISTANCE: f64 = 15.0;

/// The curves over members of a network's ensembles.
#[derive(Debug)]
pub(crate) struct MemberCurves {
    ensembles: Vec<(Line, [Curve; 2])>,
    /// The networks that predict alone.
    single: Vec<(Line, [f64; 2])>,
}

/// A score over seeds of the first member, the first two, and so on.
type Curve = Vec<Sample>;

/// The scores that are shown: their headings, and a score of an ensemble.
const PANELS: [Panel; 2] = [
    (SCORES[0].heading, |scores| scores.accuracy),
    (SCORES[1].heading, |scores| scores.nll),
];
type Panel = (&'static str, fn(&ScoresRecord) -> f64);

impl MemberCurves {
    /// The curves of some methods, if there is an ensemble among them.
    pub(crate) fn of(methods: &Methods<'_>) -> Option<Self> {
        let rows = methods.rows.iter();
        let ensembles = rows.filter_map(|row| {
            let curves = PANELS.map(|(_, score)| curve(row, score));
            let grows = curves[0].len() > 1;
            let shown = row.predictor.models != PredictingModels::DiagonalSamples;
            if grows && shown {
                Some((row.predictor.line, curves))
            } else {
                None
            }
        });
        let rows = methods.rows.iter().filter(|row| is_reference(row));
        let single = rows.filter_map(|row| {
            let Scores { accuracy, nll, .. } = &row.scores;
            let mean = [accuracy.as_ref()?, nll.as_ref()?].map(|score| score.sample.mean);
            let line = Line {
                mark: None,
                ..row.predictor.line
            };
            Some((line, mean))
        });
        let curves = Self {
            ensembles: ensembles.collect(),
            single: single.collect(),
        };
        if curves.ensembles.is_empty() {
            None
        } else {
            Some(curves)
        }
    }

    /// The most members.
    fn most(&self) -> usize {
        let members = self.ensembles.iter().map(|(_, curves)| curves[0].len());
        members.max().unwrap_or(1)
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
        place: usize,
        below: f64,
    ) -> Drawn<B> {
        let most = self.most() as f64;
        // Room for the marks at both ends.
        let room = 0.015 * (most - 1.0);
        let mut chart = panel(canvas, 8.0, below)
            .build_cartesian_2d(1.0 - room..most + room, self.shown(place))?;
        let members = Axis {
            title: "networks in the ensemble",
            labels: 12.min(self.most()),
            label: whole,
        };
        let score = Axis {
            title: PANELS[place].0,
            labels: 5,
            label: short,
        };
        draw_axes(&mut chart, &members, &score)?;

        // Shorter curves lie on top of longer ones.
        let mut ensembles: Vec<_> = self.ensembles.iter().collect();
        ensembles.sort_by_key(|(_, curves)| Reverse(curves[place].len()));
        let mut data: Vec<Element<B>> = Vec::new();
        for (line, curves) in &ensembles {
            data.extend(band(&curves[place], line.color));
        }
        for (line, means) in &self.single {
            let ends = [1.0 - room, most + room].map(|x| (x, means[place]));
            data.push(line.path(ends.to_vec()));
        }
        for (line, curves) in &ensembles {
            data.push(line.path(points(&curves[place]).collect()));
        }
        chart.draw_series(data)?;
        // The last network has a mark, and so many before it as do not touch.
        let width = f64::from(SIZE.0) - LEFT - RIGHT;
        let every = (MARK_DISTANCE * (most - 1.0) / width).ceil().max(1.0) as usize;
        for (line, curves) in &ensembles {
            let marked = points(&curves[place]).rev().step_by(every);
            for point in marked {
                let point = on_canvas(canvas, &chart, point);
                if let Some(mark) = line.mark {
                    mark.draw(canvas, point, MARK, line.color)?;
                }
            }
        }
        Ok(())
    }

    /// The range of a panel's scores.
    fn shown(&self, place: usize) -> Range<f64> {
        let curves = self.ensembles.iter().flat_map(|(_, curves)| &curves[place]);
        let ends = curves.flat_map(|point| {
            let deviation = point.deviation.unwrap_or(0.0);
            [point.mean - deviation, point.mean + deviation]
        });
        let single = self.single.iter().map(|(_, means)| means[place]);
        let all: Vec<f64> = ends.chain(single).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let margin = (0.06 * (most - least)).max(0.001);
        least - margin..most + margin
    }
}

impl Drawing for MemberCurves {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let lines = self.ensembles.iter();
        let lines = lines.map(|(line, _)| (line.name.to_owned(), *line));
        let bands = self
            .has_bands()
            .then_some("± standard deviation over seeds");
        let ensembles = draw_legend(canvas, lines, bands)? - NEARER;
        let (_, below) = canvas.split_vertically(px(ensembles));
        let lines = self.single.iter();
        let lines = lines.map(|(line, _)| (format!("one network of {}", line.name), *line));
        let single = draw_legend(&below, lines, None)?;

        let (_, panels) = below.split_vertically(px(single));
        let height = f64::from(SIZE.1) - ensembles - single - BELOW;
        let (accuracy, nll) = panels.split_vertically(px(height / 2.0));
        self.draw_panel(&accuracy, 0, 0.0)?;
        self.draw_panel(&nll, 1, BELOW)
    }

    /// There are some if there is more than one seed.
    fn has_bands(&self) -> bool {
        let mut points = self.ensembles.iter().flat_map(|(_, curves)| &curves[0]);
        points.any(|point| point.deviation.is_some())
    }
}

/// Tells whether a predictor is one of the two that ensembles are held against.
fn is_reference(row: &MethodRow<'_>) -> bool {
    let predictor = row.predictor;
    matches!(predictor.method, Method::Sgd | Method::Swa) && !predictor.tempered
}

/// The curve of a score over as many members as the ensembles of all seeds have.
fn curve(row: &MethodRow<'_>, score: fn(&ScoresRecord) -> f64) -> Curve {
    let ensembles = &row.predictions;
    let counts = ensembles.iter().map(|of| of.members.len());
    let points = (0..counts.min().unwrap_or(0)).filter_map(|member| {
        let scores = ensembles.iter();
        let scores = scores.map(|of| score(&of.members[member].ensemble));
        Sample::of(&scores.collect::<Vec<_>>())
    });
    points.collect()
}

/// The points of a curve.
fn points(curve: &[Sample]) -> impl DoubleEndedIterator<Item = (f64, f64)> + ExactSizeIterator {
    let points = curve.iter().enumerate();
    points.map(|(index, sample)| (index as f64 + 1.0, sample.mean))
}

/// The area within a standard deviation of a curve, if it has one.
fn band<B: DrawingBackend>(curve: &[Sample], color: RGBColor) -> Option<Element<B>> {
    let side = |sign: f64| {
        let points = points(curve).zip(curve);
        points.filter_map(move |((x, mean), sample)| Some((x, mean + sign * sample.deviation?)))
    };
    let mut outline: Vec<_> = side(1.0).collect();
    if outline.is_empty() {
        return None;
    }
    let lower: Vec<_> = side(-1.0).collect();
    outline.extend(lower.into_iter().rev());
    Some(Polygon::new(outline, color.mix(0.18)).into_dyn())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::Comparison;
    use crate::report::fixture::method_run;

    fn scores(accuracies: &[f64]) -> Vec<[f64; 4]> {
        let scores = accuracies.iter().map(|accuracy| [*accuracy, 1.0, 0.5, 0.1]);
        scores.collect()
    }

    #[test]
    fn a_curve_ends_where_the_first_seed_has_no_more_members() {
        let fge = |seed, accuracies: &[f64]| {
            let members = PredictingModels::Members;
            method_run(Method::Fge, seed, members, &scores(accuracies))
        };
        let runs = [
            fge(1, &[50.0, 60.0, 61.0]),
            fge(2, &[52.0, 60.0]),
            method_run(Method::Sgd, 1, PredictingModels::Live, &scores(&[58.0])),
        ];
        let comparisons = Comparison::all(&runs);
        let methods = Methods::of(&comparisons[0]).unwrap();
        let curves = MemberCurves::of(&methods).unwrap();
        let [(line, [accuracy, _])] = curves.ensembles.as_slice() else {
            panic!("{curves:?}");
        };
        assert_eq!(line.name, "FGE");
        let means: Vec<f64> = accuracy.iter().map(|point| point.mean).collect();
        assert_eq!(means, [51.0, 60.0]);
        let [(line, means)] = curves.single.as_slice() else {
            panic!("{curves:?}");
        };
        assert_eq!((line.name, *means), ("SGD", [58.0, 1.0]));
        // 51 ± sqrt(2) to 60, and 6 % of this around it.
        let shown = curves.shown(0);
        let least = 51.0 - 2f64.sqrt();
        let margin = 0.06 * (60.0 - least);
        assert!((shown.start - (least - margin)).abs() < 1e-12, "{shown:?}");
        assert!((shown.end - (60.0 + margin)).abs() < 1e-12, "{shown:?}");
    }

    #[test]
    fn networks_that_predict_alone_have_no_curves() {
        let runs = [
            method_run(Method::Sgd, 1, PredictingModels::Live, &scores(&[58.0])),
            method_run(Method::Ema, 1, PredictingModels::Averaged, &scores(&[59.0])),
        ];
        let comparisons = Comparison::all(&runs);
        let methods = Methods::of(&comparisons[0]).unwrap();
        assert!(MemberCurves::of(&methods).is_none());
    }
}
