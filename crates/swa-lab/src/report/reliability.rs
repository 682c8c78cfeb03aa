//! The reliability diagram: accuracy over confidence, of each predictor (Guo et al. 2017, *On Calibration of
//! Modern Neural Networks*).

use std::collections::BTreeMap;

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axes::{Axis, BELOW, LABEL_SIZE, LEFT, MARGIN, draw_axes, on_canvas, short};
use super::legend::draw_sample;
use super::line::{GREY, LIGHT_GREY, Line, stroke};
use super::methods::{MethodRow, Methods, SCORES};
use super::picture::{Canvas, Drawing, Drawn, SIZE, px, text};
use crate::experiment::record::{PredictionsRecord, ReliabilityRecord};

/// The width of the diagram with its labels. The rest is the column of predictors.
const DIAGRAM_WIDTH: f64 = 590.0;
const TOP: f64 = 20.0;
/// The distance from the diagram to the column, and from the column to the edge.
const GAP: f64 = 18.0;
/// The most height that a predictor of the column takes.
const PREDICTOR_HEIGHT: f64 = 78.0;
/// The height of a predictor's name, over its histogram.
const NAME_HEIGHT: f64 = 24.0;

/// The number of images below which a bin has a pale mark and no line. The standard error of an accuracy
/// of so many images is up to five points.
const SMALL: f64 = 100.0;
/// The radius of the mark of a bin that would hold all images. Marks have areas like shares.
const RADIUS: f64 = 11.0;
/// The least and the largest radius of a mark.
const RADII: (f64, f64) = (2.2, 5.5);

/// The reliability diagram of a network's predictors.
#[derive(Debug)]
pub(crate) struct Reliability {
    predictors: Vec<(Line, String, Vec<Bin>)>,
}

/// The images of all seeds with a confidence between two limits.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bin {
    lower: f64,
    upper: f64,
    images: f64,
    /// Their part of all images.
    share: f64,
    /// The mean of their confidences.
    confidence: f64,
    /// The part of them whose class is predicted.
    accuracy: f64,
}

impl Reliability {
    /// The diagram of some methods, if there are bins to show.
    pub(crate) fn of(methods: &Methods<'_>) -> Option<Self> {
        let predictors = methods.rows.iter().map(|row| {
            let bins = pooled(&row.predictions);
            (row.predictor.line, calibration_error(row), bins)
        });
        let predictors = predictors.filter(|(.., bins)| !bins.is_empty());
        let predictors: Vec<_> = predictors.collect();
        if predictors.is_empty() {
            None
        } else {
            Some(Self { predictors })
        }
    }

    /// The beginning of the axes. Only small bins may lie outside.
    fn start(&self) -> f64 {
        let bins = self.predictors.iter().flat_map(|(.., bins)| bins);
        let large = bins.filter(|bin| !bin.is_small());
        let least = large.map(|bin| bin.lower.min(bin.accuracy));
        let least = least.reduce(f64::min).unwrap_or(0.0);
        ((10.0 * least).floor() / 10.0).clamp(0.0, 0.8)
    }

    fn draw_diagram<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let start = self.start();
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(px(TOP))
            .margin_left(px(MARGIN))
            .margin_bottom(px(MARGIN))
            .x_label_area_size(px(BELOW))
            .y_label_area_size(px(LEFT - MARGIN))
            .build_cartesian_2d(start..1.0, start..1.0)?;
        let axis = |title| Axis {
            title,
            labels: 11,
            label: short,
        };
        draw_axes(&mut chart, &axis("confidence"), &axis("accuracy"))?;
        let ends = [(start, start), (1.0, 1.0)];
        let diagonal = DashedPathElement::new(ends, px(1.5), px(3.0), stroke(GREY, 1.2));
        chart.draw_series([diagonal])?;
        let style = text(LABEL_SIZE - 1.0).color(&GREY);
        for (name, place, side) in [
            ("less confident than accurate", [0.04, 0.95], HPos::Left),
            ("more confident than accurate", [0.96, 0.05], HPos::Right),
        ] {
            let style = style.pos(Pos::new(side, VPos::Center));
            let place = place.map(|part: f64| start + part * (1.0 - start));
            let place = on_canvas(canvas, &chart, place.into());
            canvas.draw(&Text::new(name, place, style))?;
        }
        let lines = self.predictors.iter().flat_map(|(line, _, bins)| {
            let parts = bins.split(Bin::is_small);
            let parts = parts.filter(|part| !part.is_empty());
            parts.map(|part| line.path(part.iter().map(Bin::point).collect()))
        });
        chart.draw_series(lines)?;
        // The marks of small bins are drawn first, below the others.
        for small in [true, false] {
            for (line, _, bins) in &self.predictors {
                let bins = bins.iter().filter(|bin| bin.is_small() == small);
                for bin in bins.filter(|bin| bin.confidence.min(bin.accuracy) >= start) {
                    let color = if small { line.pale() } else { line.color };
                    let radius = (RADIUS * bin.share.sqrt()).clamp(RADII.0, RADII.1);
                    let point = on_canvas(canvas, &chart, bin.point());
                    if let Some(mark) = line.mark {
                        mark.draw(canvas, point, radius, color)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Draws a column with the name of each predictor, its calibration error, and its histogram.
    fn draw_predictors<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let bottom = f64::from(SIZE.1) - BELOW - MARGIN;
        let (left, right) = (GAP, f64::from(SIZE.0) - DIAGRAM_WIDTH - GAP);
        let height = (bottom - TOP) / self.predictors.len() as f64;
        let height = height.min(PREDICTOR_HEIGHT);
        let shares = self.predictors.iter().flat_map(|(.., bins)| bins);
        let most = shares.map(|bin| bin.share).fold(0.0, f64::max);
        let style = |side| text(LABEL_SIZE - 1.0).pos(Pos::new(side, VPos::Center));
        let mut top = TOP;
        for (line, error, bins) in &self.predictors {
            let middle = px(top + NAME_HEIGHT / 2.0);
            draw_sample(canvas, line, (px(left), middle), px(34.0))?;
            let name = Text::new(line.name, (px(left + 41.0), middle), style(HPos::Left));
            canvas.draw(&name)?;
            let error = Text::new(error.as_str(), (px(right), middle), style(HPos::Right));
            canvas.draw(&error)?;

            let base = top + height - 6.0;
            let tallest = height - 6.0 - NAME_HEIGHT;
            let x = |confidence: f64| px(left + (right - left) * confidence);
            for bin in bins {
                let bar = base - tallest * bin.share / most;
                let corners = [(x(bin.lower) + px(1.0), px(bar)), (x(bin.upper), px(base))];
                canvas.draw(&Rectangle::new(corners, line.pale().filled()))?;
            }
            let ends = vec![(px(left), px(base)), (px(right), px(base))];
            canvas.draw(&PathElement::new(ends, stroke(LIGHT_GREY, 0.8)))?;
            top += height;
        }
        let style = text(LABEL_SIZE - 1.0).color(&GREY);
        let title = "share of images, over confidence";
        for (label, x, side, y) in [
            ("0", left, HPos::Left, top + 10.0),
            ("1", right, HPos::Right, top + 10.0),
            (title, f64::midpoint(left, right), HPos::Center, top + 10.0),
        ] {
            let style = style.pos(Pos::new(side, VPos::Center));
            canvas.draw(&Text::new(label, (px(x), px(y)), style))?;
        }
        Ok(())
    }
}

impl Drawing for Reliability {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let (diagram, predictors) = canvas.split_horizontally(px(DIAGRAM_WIDTH));
        self.draw_diagram(&diagram)?;
        self.draw_predictors(&predictors)
    }
}

impl Bin {
    fn is_small(&self) -> bool {
        self.images < SMALL
    }

    fn point(&self) -> (f64, f64) {
        (self.confidence, self.accuracy)
    }
}

/// The calibration error of a predictor, as in the table.
fn calibration_error(row: &MethodRow<'_>) -> String {
    let [.., column] = SCORES;
    let error = row.scores.ece.map(|ece| ece.sample.mean);
    error.map_or_else(String::new, |error| {
        format!("{} {error:.*}", column.heading, column.decimals)
    })
}

/// The bins of all seeds together: each image counts alike.
fn pooled(predictions: &[&PredictionsRecord]) -> Vec<Bin> {
    // A line of the results that somebody has edited may have any number.
    let is_valid = |bin: &&ReliabilityRecord| {
        let parts = [bin.lower, bin.upper, bin.confidence, bin.accuracy];
        parts.iter().all(|part| (0.0..=1.0).contains(part))
    };
    // The bits of positive numbers are in the numbers' order.
    let mut bins: BTreeMap<(u64, u64), [f64; 3]> = BTreeMap::new();
    let all = predictions.iter().flat_map(|of| &of.reliability);
    for bin in all.filter(is_valid) {
        let count = bin.count as f64;
        let limits = (bin.lower.to_bits(), bin.upper.to_bits());
        let [images, confidence, accuracy] = bins.entry(limits).or_default();
        *images += count;
        *confidence += count * bin.confidence;
        *accuracy += count * bin.accuracy;
    }
    let all: f64 = bins.values().map(|[images, ..]| images).sum();
    let bins = bins.into_iter().filter(|(_, [images, ..])| *images > 0.0);
    let bins = bins.map(|((lower, upper), [images, confidence, accuracy])| Bin {
        lower: f64::from_bits(lower),
        upper: f64::from_bits(upper),
        images,
        share: images / all,
        confidence: confidence / images,
        accuracy: accuracy / images,
    });
    bins.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::PredictingModels;
    use crate::report::fixture::{bin, predictions};
    use crate::report::predictor::PREDICTORS;

    #[test]
    fn the_bins_of_all_seeds_are_pooled_by_their_images() {
        let of = |reliability| PredictionsRecord {
            reliability,
            ..predictions("any", PredictingModels::Live, &[])
        };
        let one = of(vec![
            bin(0.2, 0, 0.3, 0.3),
            bin(0.4, 10, 0.5, 0.6),
            bin(0.4, 10, 5e300, 0.6),
        ]);
        let other = of(vec![bin(0.4, 30, 0.45, 0.2), bin(0.8, 60, 0.9, 0.75)]);
        let pooled = pooled(&[&other, &one]);
        let expected = [
            // 10 and 30 of 100 images: (5 + 13.5) / 40, and (6 + 6) / 40.
            (0.4, 40.0, 0.4, 0.4625, 0.3),
            (0.8, 60.0, 0.6, 0.9, 0.75),
        ];
        assert_eq!(pooled.len(), expected.len());
        for (bin, (lower, images, share, confidence, accuracy)) in pooled.iter().zip(expected) {
            assert_eq!((bin.lower, bin.images), (lower, images));
            for (number, expected) in [
                (bin.share, share),
                (bin.confidence, confidence),
                (bin.accuracy, accuracy),
            ] {
                assert!((number - expected).abs() < 1e-12, "{bin:?}");
            }
        }
    }

    #[test]
    fn the_axes_begin_below_all_but_small_bins() {
        let start = |reliability: &[_]| {
            let of = PredictionsRecord {
                reliability: reliability.to_vec(),
                ..predictions("any", PredictingModels::Live, &[])
            };
            let [predictor, ..] = PREDICTORS;
            let bins = pooled(&[&of]);
            let predictors = vec![(predictor.line, String::new(), bins)];
            Reliability { predictors }.start()
        };
        let small = bin(0.2, 99, 0.3, 0.0);
        // The accuracy of the lowest large bin is below the bin.
        assert_eq!(start(&[small, bin(0.6, 100, 0.7, 0.56)]), 0.5);
        assert_eq!(start(&[small, bin(0.6, 100, 0.7, 0.9)]), 0.6);
        // A diagram is not of next to nothing.
        assert_eq!(start(&[small, bin(0.95, 100, 0.97, 0.99)]), 0.8);
        assert_eq!(start(&[small]), 0.0);
    }
}
