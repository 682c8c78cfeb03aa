//! The picture of a plane: filled contours of the train loss and of the test error, side by side.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::contours::{BANDS, Field, contour_levels};
use crate::Failure;
use crate::landscape::{OnPlane, PlacedNetwork, PlaneGeometry, PointScores, PointsFile};
use crate::report::axes::{LABEL_SIZE, on_canvas, short};
use crate::report::line::{GREY, Mark, Shape, stroke};
use crate::report::picture::{Canvas, Drawing, Drawn, SIZE, px, text};

/// The width of the labels left of a panel, and of the bar right of it.
const LEFT: f64 = 62.0;
const BAR: f64 = 84.0;
/// The height of a panel's title, and of the labels below it.
const TITLE: f64 = 40.0;
const BELOW: f64 = 50.0;
/// The radius of a network's mark.
const MARK: f64 = 6.0;

/// A value that is shown.
struct Value {
    title: &'static str,
    of: fn(&PointScores) -> f64,
    /// That of guessing one of so many classes.
    guessing: fn(f64) -> f64,
    log_alpha: f64,
    decimals: usize,
}

/// The values, each in a panel, with the constants of `plane_plot.py`.
const VALUES: [Value; 2] = [
    Value {
        title: "train loss",
        of: |scores| scores.train_loss,
        guessing: f64::ln,
        log_alpha: -5.0,
        decimals: 3,
    },
    Value {
        title: "test error (%)",
        of: PointScores::test_error,
        guessing: |classes| 100.0 * (1.0 - 1.0 / classes),
        log_alpha: -1.0,
        decimals: 1,
    },
];

/// The corners of an area.
type Ring = Vec<(f64, f64)>;

/// The picture of a plane.
pub(crate) struct PlanePicture {
    axes: [Vec<f64>; 2],
    /// The values of each panel, in the order of the points.
    values: [Vec<f64>; 2],
    levels: [Vec<f64>; 2],
    /// The areas of each panel in which the value is at least that of a band, from the lowest band up.
    areas: [Vec<(usize, Ring)>; 2],
    networks: Vec<(String, PlacedNetwork)>,
    is_whole: bool,
}

impl PlanePicture {
    /// The picture of a file's points, if the places of its networks are known.
    ///
    /// # Errors
    ///
    /// If the points are on no grid.
    pub(crate) fn of(file: &PointsFile<PlaneGeometry>) -> Result<Option<Self>, Failure> {
        let Some(placed) = file.known() else {
            return Ok(None);
        };
        let count = file.settings().points;
        let places = file.points.iter().map(|point| point.at);
        let x: Vec<f64> = places.clone().step_by(count).map(|at| at.x).collect();
        let y: Vec<f64> = places.take(count).map(|at| at.y).collect();
        let rises = |axis: &[f64]| axis.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises(&x) || !rises(&y) {
            return Err("plane.json holds no grid: its coordinates do not rise".into());
        }
        let values = VALUES.map(|value| {
            let scores = file.points.iter().map(|point| point.scores.as_ref());
            let values = scores.map(|scores| scores.map_or(f64::NAN, value.of));
            values.collect::<Vec<f64>>()
        });
        let classes = file.scoring().images.classes() as f64;
        let levels = [0, 1].map(|panel| {
            let Value {
                guessing,
                log_alpha,
                ..
            } = VALUES[panel];
            let levels = |cap| contour_levels(&values[panel], cap, log_alpha, BANDS);
            match levels(guessing(classes)) {
                // Nothing is better than guessing.
                none if none.is_empty() => levels(f64::INFINITY),
                levels => levels,
            }
        });
        let axes = [x, y];
        let mut areas = [Vec::new(), Vec::new()];
        for (panel, areas) in areas.iter_mut().enumerate() {
            let field = Field {
                axes: &axes,
                values: &values[panel],
            };
            for (band, level) in levels[panel].iter().enumerate().take(BANDS).skip(1) {
                let rings = field.at_least(*level)?.into_iter();
                areas.extend(rings.map(|ring| (band, ring)));
            }
        }
        let names = file.networks().iter().map(|it| it.name.clone());
        Ok(Some(Self {
            axes,
            values,
            levels,
            areas,
            networks: names.zip(placed.iter().copied()).collect(),
            is_whole: file.left() == 0,
        }))
    }

    /// The scores of the networks, and the best points.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let networks = self.networks.iter().map(|(name, placed)| {
            let PlacedNetwork {
                scores, distance, ..
            } = placed;
            let away = if *distance > 0.0 {
                format!(", {distance:.2} away from the plane")
            } else {
                String::new()
            };
            format!(
                "{name}: train loss {:.4}, test error {:.2} %{away}.",
                scores.train_loss,
                scores.test_error()
            )
        });
        let so_far = if self.is_whole { "" } else { " so far" };
        let best = VALUES.iter().zip(&self.values).filter_map(|(value, values)| {
            let finite = values.iter().enumerate().filter(|(_, it)| it.is_finite());
            let (index, least) = finite.min_by(|a, b| a.1.total_cmp(b.1))?;
            let (i, j) = (index / self.axes[1].len(), index % self.axes[1].len());
            let at = OnPlane {
                x: self.axes[0][i],
                y: self.axes[1][j],
            };
            let away = |placed: &PlacedNetwork| (placed.at.x - at.x).hypot(placed.at.y - at.y);
            let (name, nearest) = self
                .networks
                .iter()
                .map(|(name, placed)| (name, away(placed)))
                .min_by(|a, b| a.1.total_cmp(&b.1))?;
            Some(format!(
                "The least {} of the grid{so_far} is {least:.*}, at a distance of {nearest:.2} from {name}.",
                value.title, value.decimals
            ))
        });
        networks.chain(best).collect()
    }

    fn draw_panel<B: DrawingBackend>(&self, canvas: &Canvas<B>, panel: usize) -> Drawn<B> {
        let [x, y] = &self.axes;
        let range = |axis: &[f64]| axis[0]..axis[axis.len() - 1];
        let (width, height) = canvas.dim_in_pixel();
        let (width, height) = (width as i32, height as i32);
        let value = &VALUES[panel];
        let title = text(LABEL_SIZE + 1.0).pos(Pos::new(HPos::Center, VPos::Center));
        let middle = px(LEFT) + (width - px(LEFT + BAR)) / 2;
        canvas.draw(&Text::new(value.title, (middle, px(TITLE / 2.0)), title))?;

        let mut chart = ChartBuilder::on(canvas)
            .margin_top(px(TITLE))
            .margin_right(px(BAR))
            .x_label_area_size(px(BELOW))
            .y_label_area_size(px(LEFT))
            .build_cartesian_2d(range(x), range(y))?;
        let levels = &self.levels[panel];
        // Each area lies on that of the level below it.
        let whole = [(x[0], y[0]), (x[x.len() - 1], y[y.len() - 1])];
        let mut areas = vec![Rectangle::new(whole, band_color(0).filled()).into_dyn()];
        for (band, ring) in &self.areas[panel] {
            areas.push(Polygon::new(ring.clone(), band_color(*band).filled()).into_dyn());
        }
        chart.draw_series(areas)?;
        chart.draw_series(self.gaps(panel))?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(stroke(GREY, 0.8))
            .x_desc("distance")
            .y_desc("distance")
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .label_style(text(LABEL_SIZE - 1.0).color(&GREY))
            .axis_desc_style(text(LABEL_SIZE))
            .set_all_tick_mark_size(px(4.0))
            .draw()?;

        let marked = self.networks.iter().zip(Shape::ALL.iter().cycle());
        for ((name, placed), shape) in marked {
            let at = on_canvas(canvas, &chart, (placed.at.x, placed.at.y));
            let inside = (px(LEFT)..=width - px(BAR)).contains(&at.0)
                && (px(TITLE)..=height - px(BELOW)).contains(&at.1);
            if inside {
                let mark = Mark {
                    shape: *shape,
                    open: true,
                };
                mark.draw(canvas, at, MARK, BLACK)?;
                draw_name(canvas, name, at, (px(LEFT), width - px(BAR)))?;
            }
        }
        let top = px(TITLE + 10.0);
        // Values that are all equal have no levels, and one label.
        let mut finite = self.values[panel].iter().filter(|value| value.is_finite());
        let labels = match (levels.as_slice(), finite.next()) {
            ([], Some(constant)) => labels(&[*constant], value.decimals),
            (levels, _) => labels(levels, value.decimals),
        };
        draw_bar(
            canvas,
            &labels,
            (width - px(BAR) + px(14.0), top),
            height - px(BELOW + 10.0),
        )
    }

    /// White cells with a cross around the points that have no number.
    fn gaps<B: DrawingBackend>(&self, panel: usize) -> Vec<DynElement<'static, B, (f64, f64)>> {
        let [x, y] = &self.axes;
        let mut cells = Vec::new();
        for (index, _) in self.values[panel]
            .iter()
            .enumerate()
            .filter(|(_, it)| !it.is_finite())
        {
            let (i, j) = (index / y.len(), index % y.len());
            let edges = |axis: &[f64], place: usize| {
                let half = (axis[1] - axis[0]) / 2.0;
                let last = axis[axis.len() - 1];
                [axis[place] - half, axis[place] + half].map(|edge| edge.clamp(axis[0], last))
            };
            let ([left, right], [bottom, top]) = (edges(x, i), edges(y, j));
            cells.push(Rectangle::new([(left, bottom), (right, top)], WHITE.filled()).into_dyn());
            for ends in [
                [(left, bottom), (right, top)],
                [(left, top), (right, bottom)],
            ] {
                cells.push(PathElement::new(ends.to_vec(), stroke(GREY, 0.8)).into_dyn());
            }
        }
        cells
    }
}

impl Drawing for PlanePicture {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let (left, right) = canvas.split_horizontally(px(f64::from(SIZE.0) / 2.0));
        self.draw_panel(&left, 0)?;
        self.draw_panel(&right, 1)
    }
}

/// The colour of a band: from dark to light, as bright as its value is high, for print and for colour-blind readers.
fn band_color(band: usize) -> RGBColor {
    ViridisRGB::get_color((band as f64 + 0.5) / BANDS as f64)
}

/// Writes a network's name above its mark, or below where there is no room, with a white edge.
fn draw_name<B: DrawingBackend>(
    canvas: &Canvas<B>,
    name: &str,
    (x, y): (i32, i32),
    (left, right): (i32, i32),
) -> Drawn<B> {
    let style = text(LABEL_SIZE - 1.0).pos(Pos::new(HPos::Center, VPos::Center));
    let (width, _) = canvas.estimate_text_size(name, &style)?;
    let half = width as i32 / 2 + px(4.0);
    let x = x.clamp((left + half).min(right - half), right - half);
    let y = if y < px(TITLE + 30.0) {
        y + px(18.0)
    } else {
        y - px(18.0)
    };
    let corners = [(x - half, y - px(9.0)), (x + half, y + px(9.0))];
    canvas.draw(&Rectangle::new(corners, WHITE.mix(0.8).filled()))?;
    canvas.draw(&Text::new(name.to_owned(), (x, y), style))
}

/// The labels of levels, with so many decimals, or as many more as they need to differ.
fn labels(levels: &[f64], decimals: usize) -> Vec<String> {
    /// As many as fit beside the bar.
    const MOST: usize = 6;

    let with = |decimals: usize| -> Vec<String> {
        let labels = levels.iter().map(|level| format!("{level:.decimals$}"));
        labels.collect()
    };
    let differ = |labels: &[String]| labels.windows(2).all(|pair| pair[0] != pair[1]);
    let mut tries = (decimals..MOST).map(with);
    tries
        .find(|labels| differ(labels))
        .unwrap_or_else(|| with(MOST))
}

/// Draws the bands from the bottom up, with the levels between them. The last one is open above.
fn draw_bar<B: DrawingBackend>(
    canvas: &Canvas<B>,
    labels: &[String],
    (left, top): (i32, i32),
    bottom: i32,
) -> Drawn<B> {
    let height = f64::from(bottom - top) / BANDS as f64;
    let edge = |band: usize| bottom - (height * band as f64).round() as i32;
    let style = text(LABEL_SIZE - 3.0).pos(Pos::new(HPos::Left, VPos::Center));
    let right = left + px(16.0);
    for band in 0..BANDS {
        let corners = [(left, edge(band + 1)), (right, edge(band))];
        canvas.draw(&Rectangle::new(corners, band_color(band).filled()))?;
    }
    for (band, label) in labels.iter().enumerate().take(BANDS) {
        canvas.draw(&Text::new(
            label.as_str(),
            (right + px(5.0), edge(band)),
            style.clone(),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_decimals_that_tell_them_apart() {
        assert_eq!(labels(&[0.5, 1.25, 2.0], 1), ["0.5", "1.2", "2.0"]);
        let near = [1.02501, 1.02503, 1.02506];
        assert_eq!(labels(&near, 3), ["1.02501", "1.02503", "1.02506"]);
        assert_eq!(labels(&[1.0, 1.0 + 1e-9], 3), ["1.000000", "1.000000"]);
        assert_eq!(labels(&[40.0], 1), ["40.0"]);
    }
}
