//! The picture of rays, as in Fig. 4 of SWA's paper: each direction thin, and the mean over directions bold.

use plotters::prelude::*;

use super::lines::{Trace, VALUES, draw_traces};
use crate::landscape::{PointsFile, RaysGeometry};
use crate::report::axes::{Axis, short};
use crate::report::line::{BLUE, GREEN, Line, PURPLE, VERMILION};
use crate::report::picture::{Canvas, Drawing, Drawn};
use crate::report::statistics::Sample;
use crate::report::wording::spread;

/// The test error, in per cent, whose distance is told: the number that the paper quotes.
const ERROR: f64 = 50.0;

/// The lines of networks.
#[rustfmt::skip]
const LINES: [Line; 4] = [
    Line { name: "", color: BLUE, width: 3.2, dashes: None, mark: None },
    Line { name: "", color: VERMILION, width: 3.2, dashes: Some((9.0, 5.0)), mark: None },
    Line { name: "", color: GREEN, width: 3.2, dashes: Some((3.0, 3.0)), mark: None },
    Line { name: "", color: PURPLE, width: 3.2, dashes: Some((12.0, 4.0)), mark: None },
];

/// The picture of rays.
pub(crate) struct RaysPicture {
    networks: Vec<Network>,
    title: &'static str,
}

/// A network's rays.
struct Network {
    name: String,
    line: Line,
    /// The distances, and the values of each panel, along each direction.
    directions: Vec<Vec<(f64, [f64; 2])>>,
}

impl RaysPicture {
    /// The picture of a file's points.
    pub(crate) fn of(file: &PointsFile<RaysGeometry>) -> Self {
        let RaysGeometry {
            points, directions, ..
        } = *file.settings();
        let of_network = file.points.chunks((points * directions).max(1));
        let networks = file.networks().iter().zip(of_network);
        let networks = networks.zip(LINES.into_iter().cycle());
        let networks = networks.map(|((network, all), line)| Network {
            name: network.name.clone(),
            line,
            directions: all
                .chunks(points.max(1))
                .map(|ray| {
                    let values = ray.iter().map(|point| {
                        let scores = point.scores.as_ref();
                        let values = VALUES
                            .each_ref()
                            .map(|value| scores.map_or(f64::NAN, value.of));
                        (point.at.t, values)
                    });
                    values.collect()
                })
                .collect(),
        });
        Self {
            networks: networks.collect(),
            title: if file.settings().filter_normalised {
                "distance, in lengths of the filters"
            } else {
                "distance"
            },
        }
    }

    /// The distances at which the error reaches [`ERROR`].
    pub(crate) fn sentences(&self) -> Vec<String> {
        let networks = self.networks.iter().map(|network| {
            let found = network.directions.iter().map(|ray| reaches(ray));
            let found: Vec<Option<f64>> = found.collect();
            let reached: Vec<f64> = found.iter().copied().flatten().collect();
            let name = &network.name;
            let own = own_error(&network.directions);
            if own >= ERROR {
                return format!("{name}: the test error is {own:.2} % at the network itself.");
            }
            match Sample::of(&reached) {
                None => {
                    format!("{name}: the test error reaches {ERROR} % on none of the directions.")
                }
                Some(Sample {
                    mean, deviation, n, ..
                }) => format!(
                    "{name}: the test error reaches {ERROR} % at a distance of {}{}.",
                    spread(mean, deviation, 2),
                    if n < found.len() {
                        format!(", on {n} of {} directions", found.len())
                    } else {
                        format!(" (mean and standard deviation over {n} directions)")
                    }
                ),
            }
        });
        networks.collect()
    }
}

impl Drawing for RaysPicture {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let mut traces = Vec::new();
        for network in &self.networks {
            let thin = Line {
                color: network.line.pale(),
                width: 0.9,
                dashes: None,
                ..network.line
            };
            traces.extend(network.directions.iter().map(|points| Trace {
                line: thin,
                name: None,
                points: points.clone(),
            }));
            traces.push(Trace {
                line: network.line,
                name: Some(network.name.clone()),
                points: mean(&network.directions),
            });
        }
        let x = Axis {
            title: self.title,
            labels: 12,
            label: short,
        };
        draw_traces(canvas, &traces, &x)
    }
}

/// The mean over directions at each distance, of those that have a number there.
fn mean(directions: &[Vec<(f64, [f64; 2])>]) -> Vec<(f64, [f64; 2])> {
    let first = directions.first().into_iter().flatten().enumerate();
    let means = first.map(|(place, (t, _))| {
        let values = [0, 1].map(|panel| {
            let values = directions.iter().map(|ray| ray[place].1[panel]);
            let finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
            finite.iter().sum::<f64>() / finite.len() as f64
        });
        (*t, values)
    });
    means.collect()
}

/// The error of the network itself, which is a point of all directions if there is an odd number on each.
fn own_error(directions: &[Vec<(f64, [f64; 2])>]) -> f64 {
    let mut points = directions.iter().flatten();
    let own = points.find(|(t, _)| *t == 0.0);
    own.map_or(f64::NAN, |(_, [error, _])| *error)
}

/// The distance at which the error of a ray first reaches [`ERROR`], straight between points: the mean of both sides, or that of
/// the side that reaches it.
fn reaches(ray: &[(f64, [f64; 2])]) -> Option<f64> {
    let outwards = ray.iter().filter(|(t, _)| *t >= 0.0);
    let backwards = ray.iter().rev().filter(|(t, _)| *t <= 0.0);
    let sides = [first_at(outwards), first_at(backwards)];
    let found: Vec<f64> = sides.into_iter().flatten().collect();
    Sample::of(&found).map(|sample| sample.mean)
}

/// The distance of the first point of a side where the error is reached. A gap is passed over.
fn first_at<'a>(side: impl Iterator<Item = &'a (f64, [f64; 2])>) -> Option<f64> {
    let mut before: Option<(f64, f64)> = None;
    for (t, [error, _]) in side {
        let t = t.abs();
        if *error >= ERROR {
            return Some(match before {
                None => t,
                Some((last, below)) => last + (t - last) * (ERROR - below) / (error - below),
            });
        }
        if error.is_finite() {
            before = Some((t, *error));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ray(errors: [f64; 5]) -> Vec<(f64, [f64; 2])> {
        let points = [-4.0, -2.0, 0.0, 2.0, 4.0].into_iter().zip(errors);
        points.map(|(t, error)| (t, [error, 1.0])).collect()
    }

    #[test]
    fn the_distance_is_straight_between_points_on_both_sides() {
        // Half-way from 2 to 4, and at 1: 40 at 0, 60 at -2.
        assert_eq!(reaches(&ray([70.0, 60.0, 40.0, 45.0, 55.0])), Some(2.0));
        // One side does not reach it.
        assert_eq!(reaches(&ray([45.0, 42.0, 40.0, 45.0, 55.0])), Some(3.0));
        assert_eq!(reaches(&ray([45.0, 42.0, 40.0, 45.0, 49.0])), None);
        // From 40 at 0 to 60 at 4, with a gap between.
        assert_eq!(reaches(&ray([45.0, 42.0, 40.0, f64::NAN, 60.0])), Some(2.0));
        // A network that is as bad itself.
        assert_eq!(reaches(&ray([90.0, 80.0, 60.0, 80.0, 90.0])), Some(0.0));
    }

    #[test]
    fn a_mean_is_over_the_directions_that_have_a_number() {
        let rays = [
            ray([45.0, f64::NAN, 40.0, 50.0, f64::NAN]),
            ray([55.0, 60.0, 40.0, 60.0, f64::NAN]),
        ];
        let errors: Vec<f64> = mean(&rays).iter().map(|(_, values)| values[0]).collect();
        assert_eq!(errors[..4], [50.0, 60.0, 40.0, 55.0]);
        assert!(errors[4].is_nan());
    }
}
