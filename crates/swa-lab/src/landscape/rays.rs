//! `rays.json`: rays from networks along random directions.

use serde::{Deserialize, Serialize};
use swa_core::Weights;
use swa_landscape::{Directions, OnRay, Points, RaysConfig};

use super::points_file::{Geometry, at_least_two};
use super::{End, Landscape};
use crate::Failure;

/// The arguments of rays.
#[derive(Debug, Clone, clap::Args)]
pub struct RaysArgs {
    /// The number of points on each direction, from one end to the other, the network in the middle
    #[arg(long, value_name = "N", default_value_t = 21)]
    pub points: usize,

    /// The number of directions
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub directions: usize,

    /// The largest distance from the networks [default: the length of the first one's weights; with --filter-normalised 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub radius: Option<f64>,

    /// Make each filter of a direction as long as that of the network (Li et al. 2018), instead of directions uniform on the sphere
    #[arg(long)]
    pub filter_normalised: bool,
}

/// The settings of rays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RaysGeometry {
    /// The number of points on each direction.
    pub points: usize,
    /// The number of directions.
    pub directions: usize,
    /// The largest distance from the networks.
    pub radius: f64,
    /// True for filter-normalised directions, in whose units distances are then.
    pub filter_normalised: bool,
}

/// A point on a ray of a network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnRayOf {
    /// The number of the network, counted from 0.
    pub network: usize,
    /// The number of the direction, counted from 0.
    pub direction: usize,
    /// The distance from the network.
    pub t: f64,
}

impl Geometry for RaysGeometry {
    type At = OnRayOf;
    /// The lengths of the networks' weights.
    type Known = Vec<f64>;

    const FILE: &'static str = "rays.json";
    const CONTENT: &'static str = "the points of rays";

    fn count(&self, networks: usize) -> usize {
        let each = at_least_two(self.points).saturating_mul(self.directions);
        each.saturating_mul(networks)
    }

    fn is_known_of(known: &Self::Known, networks: usize) -> bool {
        known.len() == networks
    }
}

/// Scores the points on rays from networks, along the same directions.
///
/// # Errors
///
/// If networks differ, a setting is invalid, or the file is of something else.
pub fn rays(args: &RaysArgs, landscape: &mut Landscape<'_>) -> Result<End, Failure> {
    landscape.given.check_count(1, usize::MAX)?;
    let mut settings = RaysGeometry {
        points: args.points,
        directions: args.directions,
        radius: 0.0,
        filter_normalised: args.filter_normalised,
    };
    landscape.given.check_points(&settings)?;
    let mut lengths = Vec::new();
    let mut layout = None;
    for number in 0..landscape.given.count() {
        let weights = Weights::of(&landscape.load(number)?)?;
        let first = layout.get_or_insert_with(|| weights.layout().clone());
        let alike = first.check_alike(weights.layout());
        alike.map_err(|error| landscape.unlike(number, &error))?;
        let length = weights.norm()?;
        if !length.is_finite() {
            return Err(landscape.not_finite(number));
        }
        lengths.push(length);
    }
    let radius = match args.radius {
        Some(radius) => radius,
        None if args.filter_normalised => 1.0,
        None => in_three_digits(lengths[0]),
    };
    let config = RaysConfig::new(radius)
        .with_directions(args.directions)
        .with_points(args.points)
        .with_kind(if args.filter_normalised {
            Directions::FilterNormalised
        } else {
            Directions::Uniform
        });
    // All networks have the same.
    let coordinates = config
        .init(Weights::of(&landscape.load(0)?)?)?
        .coordinates();
    let points = (0..landscape.given.count()).flat_map(|network| {
        let coordinates = coordinates.iter();
        coordinates.map(move |&OnRay { direction, t }| OnRayOf {
            network,
            direction,
            t,
        })
    });
    settings.radius = radius;
    let mut file = landscape.points_file(settings, points.collect())?;
    landscape.begin("rays", &file);
    if file.known().is_none() {
        file.learn(lengths)?;
    }
    for number in 0..landscape.given.count() {
        let network = landscape.load(number)?;
        let rays = config.init(Weights::of(&network)?)?;
        let first = number * args.points * args.directions;
        // All directions have the network itself in their middle.
        let is_same = |one: OnRay, other: OnRay| one.t == 0.0 && other.t == 0.0;
        if landscape.fill(&network, &rays, &mut file, first, is_same)? == End::Stopped {
            return Ok(End::Stopped);
        }
    }
    Ok(End::Finished)
}

/// A number in three digits, which is the same where devices add in other orders.
fn in_three_digits(number: f64) -> f64 {
    format!("{number:.2e}").parse().unwrap_or(number)
}
