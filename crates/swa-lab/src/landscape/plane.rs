//! `plane.json`: the plane through networks.

use serde::{Deserialize, Serialize};
use swa_core::Weights;
use swa_landscape::{GridConfig, Plane, Points};

use super::points_file::{Geometry, at_least_two};
use super::scoring::PointScores;
use super::{End, Landscape};
use crate::Failure;

/// The arguments of a plane.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaneArgs {
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

/// The settings of a plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaneGeometry {
    /// The number of points along each axis.
    pub points: usize,
    /// The part of the networks' distances that the grid reaches beyond them.
    pub margin: f64,
}

/// Coordinates on a plane, in L2 distances of weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnPlane {
    /// Along the line from the first network to the second.
    pub x: f64,
    /// At a right angle to it.
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
pub fn plane(args: &PlaneArgs, landscape: &mut Landscape<'_>) -> Result<End, Failure> {
    landscape.given.check_count(2, usize::MAX)?;
    let spanning = landscape.given.count().min(3);
    let mut weights = Vec::new();
    for number in 0..spanning {
        weights.push(Weights::of(&landscape.load(number)?)?);
    }
    let network = landscape.load(0)?;
    let mut weights = weights.into_iter();
    let plane = match [weights.next(), weights.next(), weights.next()] {
        [Some(first), Some(second), Some(third)] => Plane::through(first, second, third),
        [Some(first), Some(second), None] => Plane::through_random(first, second, 0),
        _ => return Err("a plane needs two networks".into()),
    };
    let plane = plane.map_err(|error| landscape.named(error))?;
    let places = plane.networks().to_vec();
    let grid = GridConfig {
        margin: args.margin,
        points: args.points,
    };
    let grid = grid.init(plane)?;
    let points = grid
        .coordinates()
        .into_iter()
        .map(|[x, y]| OnPlane { x, y });
    let settings = PlaneGeometry {
        points: args.points,
        margin: args.margin,
    };
    let mut file = landscape.points_file(settings, points.collect())?;
    landscape.begin("plane", &file);
    if file.known().is_none() {
        let mut placed = Vec::new();
        for number in 0..landscape.given.count() {
            let network = landscape.load(number)?;
            let scores = landscape.scoring.score_one(&network)?;
            let (place, distance) = match places.get(number) {
                Some(place) => (*place, 0.0),
                None => {
                    let weights = Weights::of(&network)?;
                    let first = grid.plane().basis()[0].layout();
                    let alike = first.check_alike(weights.layout());
                    alike.map_err(|error| landscape.unlike(number, &error))?;
                    let place = grid.plane().coordinates(&weights)?;
                    (place, grid.plane().distance(&weights)?)
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
