//! The picture of rays, as in Fig. 4 of SWA's paper: each direction thin, and the mean over directions bold.

use plotters::prelude::*;

use super::lines::{Trace, draw_traces, not_scored_yet, values};
use crate::landscape::{PointsFile, RaysGeometry};
use crate::report::axes::{Axis, short};
use crate::report::line::{BLUE, GREEN, Line, Mark, PURPLE, Shape, VERMILION};
use crate::report::picture::{Canvas, Drawing, Drawn};
use crate::report::statistics::Sample;
use crate::report::wording::spread;

/// The test error, in per cent, whose distance is told: the number that the paper quotes.
const ERROR: f64 = 50.0;

/// The lines of the first networks. Further ones have marks.
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
    not_scored_yet: Option<String>,
}

impl RaysPicture {
    /// The picture of a file's points.
    pub(crate) fn of(file: &PointsFile<RaysGeometry>) -> Self {
        let RaysGeometry {
            points, directions, ..
        } = *file.settings();
        let of_network = file.points.chunks((points * directions).max(1));
        let networks = file.networks().iter().zip(of_network).enumerate();
        let networks = networks.map(|(number, (network, all))| {
            let directions = all.chunks(points.max(1)).map(|ray| {
                let points = ray.iter();
                let points = points.map(|point| (point.at.t, values(point.scores)));
                points.collect()
            });
            let scores = all.iter().map(|point| point.scores);
            Network {
                name: network.name.clone(),
                line: line(number),
                directions: directions.collect(),
                not_scored_yet: not_scored_yet(&network.name, scores),
            }
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
            if let Some(sentence) = &network.not_scored_yet {
                return sentence.clone();
            }
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
                    match found.len() {
                        1 => String::new(),
                        all if n < all => format!(", on {n} of {all} directions"),
                        all => format!(" (mean and standard deviation over {all} directions)"),
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
                mark: None,
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

/// The look of a network's line.
fn line(number: usize) -> Line {
    let shapes = Shape::ALL.len();
    let round = number / LINES.len();
    let mark = round.checked_sub(1).map(|round| Mark {
        shape: Shape::ALL[round % shapes],
        open: round / shapes % 2 == 1,
    });
    Line {
        mark,
        ..LINES[number % LINES.len()]
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

    fn network(name: &str, errors: &[[f64; 5]]) -> Network {
        Network {
            name: name.to_owned(),
            line: line(0),
            directions: errors.iter().map(|errors| ray(*errors)).collect(),
            not_scored_yet: None,
        }
    }

    #[test]
    fn a_spread_is_told_of_several_directions_only() {
        let at_2 = [70.0, 60.0, 40.0, 45.0, 55.0];
        let at_3 = [45.0, 42.0, 40.0, 45.0, 55.0];
        let never = [45.0, 42.0, 40.0, 45.0, 49.0];
        let picture = RaysPicture {
            networks: vec![
                network("one", &[at_2]),
                network("two", &[at_2, at_3]),
                network("some", &[at_2, never]),
            ],
            title: "distance",
        };
        let reaches = "the test error reaches 50 % at a distance of";
        assert_eq!(
            picture.sentences(),
            [
                format!("one: {reaches} 2.00."),
                // 2 and 3: sqrt(1/2) around 2.5.
                format!(
                    "two: {reaches} 2.50 ± 0.71 (mean and standard deviation over 2 directions)."
                ),
                format!("some: {reaches} 2.00, on 1 of 2 directions."),
            ]
        );
    }

    #[test]
    fn forty_networks_have_lines_that_differ() {
        let looks: Vec<Line> = (0..40).map(line).collect();
        for (index, one) in looks.iter().enumerate() {
            for other in &looks[index + 1..] {
                assert!((one.color, one.mark) != (other.color, other.mark));
            }
        }
        assert!(looks[3].mark.is_none() && looks[4].mark.is_some());
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
