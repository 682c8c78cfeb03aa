//! `plane.json`: the plane through networks.

use serde::{Deserialize, Serialize};
use swa_core::{Weights, WeightsError};
use swa_landscape::{GridConfig, Plane, Points};

use super::points_file::{Geometry, at_least_two};
use super::scoring::PointScores;
use super::{End, Landscape};
use crate::Failure;

/// The settings of a plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct PlaneGeometry {
    /// The number of points along each axis
    #[arg(long, value_name = "N", default_value_t = 21)]
    pub points: usize,

    /// The part of the networks' distances that the grid reaches beyond them
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.2,
        allow_negative_numbers = true
    )]
    pub margin: f64,
}

/// Coordinates on a plane, in L2 distances of weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnPlane {
    /// Along the line between the two of the first three networks that are farthest apart.
    pub x: f64,
    /// At a right angle to it, towards the third.
    pub y: f64,
}

/// A network's place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlacedNetwork {
    /// The nearest point of the plane.
    pub at: OnPlane,
    /// Its distance from the plane: 0 for the networks that it was made through.
    pub distance: f64,
    /// The scores of the network itself.
    pub scores: PointScores,
}

impl Geometry for PlaneGeometry {
    type At = OnPlane;
    /// The networks' places.
    type Known = Vec<PlacedNetwork>;

    const FILE: &'static str = "plane.json";
    const CONTENT: &'static str = "the points of a plane";

    fn count(&self, _networks: usize) -> usize {
        let along = at_least_two(self.points);
        along.saturating_mul(along)
    }

    fn is_known_of(known: &Self::Known, networks: usize) -> bool {
        known.len() == networks
    }
}

/// Scores the plane through two networks and a random direction, or through the first three, on which further ones are marked.
///
/// # Errors
///
/// If networks differ or are on a line, a setting is invalid, or the file is of something else.
pub fn plane(settings: &PlaneGeometry, landscape: &mut Landscape<'_>) -> Result<End, Failure> {
    landscape.given.check_count(2, usize::MAX)?;
    landscape.given.check_points(settings)?;
    let mut weights = Vec::new();
    for number in 0..landscape.given.count().min(3) {
        weights.push(Weights::of(&landscape.load(number)?)?);
    }
    let order =
        farthest_apart(&weights).map_err(|(number, error)| landscape.unlike(number, &error))?;
    let mut weights: Vec<Option<Weights>> = weights.into_iter().map(Some).collect();
    let mut spanning = order.iter().filter_map(|number| weights[*number].take());
    let plane = match [spanning.next(), spanning.next(), spanning.next()] {
        [Some(first), Some(second), Some(third)] => Plane::through(first, second, third),
        [Some(first), Some(second), None] => Plane::through_random(first, second, 0),
        _ => return Err("a plane needs two networks".into()),
    };
    let plane = plane.map_err(|error| landscape.named_in(&order, error))?;
    let network = landscape.load(order[0])?;
    let places = plane.networks().to_vec();
    let grid = GridConfig {
        margin: settings.margin,
        points: settings.points,
    };
    let grid = grid.init(plane)?;
    let points = grid
        .coordinates()
        .into_iter()
        .map(|[x, y]| OnPlane { x, y });
    let mut file = landscape.points_file(settings.clone(), points.collect())?;
    landscape.begin("plane", &file);
    if file.known().is_none() {
        let mut placed = Vec::new();
        for number in 0..landscape.given.count() {
            let network = landscape.load(number)?;
            let scores = landscape.scoring.score_one(&network)?;
            let spanning = order.iter().position(|it| *it == number);
            let (place, distance) = match spanning {
                Some(place) => (places[place], 0.0),
                None => {
                    let weights = Weights::of(&network)?;
                    let first = grid.plane().basis()[0].layout();
                    let alike = first.check_alike(weights.layout());
                    alike.map_err(|error| landscape.unlike(number, &error))?;
                    let place = grid.plane().coordinates(&weights)?;
                    let distance = grid.plane().distance(&weights)?;
                    if !distance.is_finite() {
                        return Err(landscape.not_finite(number));
                    }
                    (place, distance)
                }
            };
            let [x, y] = place;
            placed.push(PlacedNetwork {
                at: OnPlane { x, y },
                distance,
                scores,
            });
        }
        file.learn(placed)?;
    }
    landscape.fill(&network, &grid, &mut file, 0, |_, _| false)
}

/// The numbers of two or three networks, those first that are farthest apart, so that the third is beside the line between them and
/// within a grid. An error has the number of a network that is unlike the first.
fn farthest_apart(networks: &[Weights]) -> Result<Vec<usize>, (usize, WeightsError)> {
    let [first, second, third] = networks else {
        return Ok((0..networks.len()).collect());
    };
    let sides = [
        (
            vec![0, 1, 2],
            first.distance(second).map_err(|error| (1, error))?,
        ),
        (
            vec![0, 2, 1],
            first.distance(third).map_err(|error| (2, error))?,
        ),
        (
            vec![1, 2, 0],
            second.distance(third).map_err(|error| (2, error))?,
        ),
    ];
    // The first of the longest.
    let longest = sides.into_iter().rev().max_by(|a, b| a.1.total_cmp(&b.1));
    Ok(longest.map(|(order, _)| order).unwrap_or_default())
}
