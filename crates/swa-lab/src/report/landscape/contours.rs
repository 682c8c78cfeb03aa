//! Filled contours of values on a grid.

use contour::ContourBuilder;
use geo_types::{LineString, Polygon};

use crate::Failure;

/// The number of bands between levels: that of `plane_plot.py`.
pub(super) const BANDS: usize = 7;

/// Levels of contours, closer to each other towards the least value: of `c = min(values, cap)`,
///
/// ```text
/// level_k = min c + exp(log_alpha + k (ln(max c - min c) - log_alpha) / count)        k = 0, …, count
/// ```
///
/// but for the first and the last, which are `min c` and `max c`. Where `max c - min c` is at most `exp(log_alpha)`, they are evenly
/// spaced. Values that are not finite are left out. Without a finite value, or if all of them are equal, there are no levels.
///
/// Source: Garipov et al. 2018, *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*, and its code's `plane_plot.py`, where
/// `log_alpha` is -5 for the loss and -1 for the error in per cent, and `count` is 7.
pub fn contour_levels(values: &[f64], cap: f64, log_alpha: f64, count: usize) -> Vec<f64> {
    let finite = values.iter().filter(|value| value.is_finite());
    let capped: Vec<f64> = finite.map(|value| value.min(cap)).collect();
    let least = capped.iter().copied().fold(f64::INFINITY, f64::min);
    let most = capped.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if least >= most {
        return Vec::new();
    }
    let range = most - least;
    let step = (range.ln() - log_alpha) / count as f64;
    let level = |k: usize| match k {
        0 => least,
        k if k == count => most,
        k if step > 0.0 => least + (log_alpha + k as f64 * step).exp(),
        k => least + range * k as f64 / count as f64,
    };
    (0..=count).map(level).collect()
}

/// The values of a square grid, which has the coordinates `axes` along `x` and `y`. The value at `x[i]` and `y[j]` has number
/// `i * y.len() + j`.
pub(super) struct Field<'a> {
    pub(super) axes: &'a [Vec<f64>; 2],
    pub(super) values: &'a [f64],
}

impl Field<'_> {
    /// The areas in which the values are at least `level`: rings of corners, each with its holes cut open.
    pub(super) fn at_least(&self, level: f64) -> Result<Vec<Vec<(f64, f64)>>, Failure> {
        let [x, y] = self.axes;
        // The library takes rows of equal y, and has a value in the middle of its cell. A gap is drawn over.
        let rows = (0..y.len()).flat_map(|j| (0..x.len()).map(move |i| i * y.len() + j));
        let values = rows.map(|index| match self.values[index] {
            value if value.is_finite() => value,
            _ => level,
        });
        let step = |axis: &[f64]| (axis[axis.len() - 1] - axis[0]) / (axis.len() - 1) as f64;
        let contours = ContourBuilder::new(x.len(), y.len(), true)
            .x_origin(x[0] - step(x) / 2.0)
            .y_origin(y[0] - step(y) / 2.0)
            .x_step(step(x))
            .y_step(step(y))
            .contours(&values.collect::<Vec<_>>(), &[level])?;
        let polygons = contours.iter().flat_map(|contour| contour.geometry());
        let areas = polygons.map(|polygon| self.opened(polygon));
        Ok(areas.collect())
    }

    /// A polygon as one ring: along its outline, and from there around each hole and back.
    fn opened(&self, polygon: &Polygon) -> Vec<(f64, f64)> {
        let exterior = self.ring(polygon.exterior());
        let outwards = signed_area(&exterior) > 0.0;
        let mut ring = exterior.clone();
        for hole in polygon.interiors() {
            let mut hole = self.ring(hole);
            if (signed_area(&hole) > 0.0) == outwards {
                hole.reverse();
            }
            ring.extend(hole);
            ring.extend(exterior.first());
        }
        ring
    }

    /// The corners of a ring, none of them outside of the grid, beyond which a contour at its edge reaches by half a cell.
    fn ring(&self, ring: &LineString) -> Vec<(f64, f64)> {
        let [x, y] = self.axes;
        let within = |axis: &[f64], value: f64| value.clamp(axis[0], axis[axis.len() - 1]);
        let corners = ring.points();
        corners
            .map(|corner| (within(x, corner.x()), within(y, corner.y())))
            .collect()
    }
}

/// Twice the area within a ring, which is positive if it goes round against the clock.
fn signed_area(ring: &[(f64, f64)]) -> f64 {
    let next = ring.iter().cycle().skip(1);
    let pairs = ring.iter().zip(next);
    pairs.map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grid of 5 x 5 points with `value(x, y)`.
    fn values(value: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let points = (0..5).flat_map(|i| (0..5).map(move |j| (f64::from(i), f64::from(j))));
        points.map(|(x, y)| value(x, y)).collect()
    }

    fn area(values: &[f64], level: f64) -> f64 {
        let axis = || (0..5).map(f64::from).collect();
        let axes = [axis(), axis()];
        let field = Field {
            axes: &axes,
            values,
        };
        let rings = field.at_least(level).unwrap();
        rings.iter().map(|ring| signed_area(ring).abs() / 2.0).sum()
    }

    #[test]
    fn an_area_ends_between_points_where_the_value_is_reached() {
        // Right of 2.25, in a square from 0 to 4.
        let slope = values(|x, _| x);
        assert!((area(&slope, 2.25) - 1.75 * 4.0).abs() < 1e-9);
        // Above 1.5, which x and y are not to be confused in.
        let slope = values(|_, y| 10.0 * y);
        assert!((area(&slope, 15.0) - 2.5 * 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_hole_is_no_part_of_an_area() {
        // A pit of depth 1 in the middle: half-way down, a square with corners half a step away.
        let pit = values(|x, y| if (x, y) == (2.0, 2.0) { 0.0 } else { 1.0 });
        assert!((area(&pit, 0.5) - (16.0 - 0.5)).abs() < 1e-9);
    }

    #[test]
    fn levels_of_values_that_hardly_differ_are_even() {
        // exp(-5) is 0.0067, and exp(-1) is 0.37.
        for (least, log_alpha) in [(0.5, -5.0), (30.0, -1.0)] {
            let values = [least, least + 0.004, least + 0.001];
            let levels = contour_levels(&values, 90.0, log_alpha, 4);
            assert_eq!(levels.len(), 5);
            for (k, level) in levels.iter().enumerate() {
                let expected = least + 0.001 * k as f64;
                assert!((level - expected).abs() < 1e-12, "{levels:?}");
            }
        }
    }

    #[test]
    fn equal_values_and_no_values_have_no_levels() {
        assert!(contour_levels(&[1.0, 1.0], 5.0, -5.0, 7).is_empty());
        assert!(contour_levels(&[f64::NAN], 5.0, -5.0, 7).is_empty());
        // All at the cap.
        assert!(contour_levels(&[6.0, 7.0], 5.0, -5.0, 7).is_empty());
    }
}
