//! `line.json`: the straight line between two networks.

use serde::{Deserialize, Serialize};
use swa_core::Weights;
use swa_landscape::{Line, Points};

use super::points_file::{Geometry, at_least_two};
use super::{End, Landscape};
use crate::Failure;

/// The settings of a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct LineGeometry {
    /// The number of points, both ends among them
    #[arg(long, value_name = "N", default_value_t = 61)]
    pub points: usize,
}

/// A point of a line, `(1 - t) first + t second`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnLine {
    /// From 0 at the first network to 1 at the second.
    pub t: f64,
}

impl Geometry for LineGeometry {
    type At = OnLine;
    /// The distance between the networks.
    type Known = f64;

    const FILE: &'static str = "line.json";
    const CONTENT: &'static str = "the points of a line";

    fn count(&self, _networks: usize) -> usize {
        at_least_two(self.points)
    }

    fn is_known_of(_known: &f64, _networks: usize) -> bool {
        true
    }
}

/// Scores the points of the line between two networks.
///
/// # Errors
///
/// If the networks differ or are the same, a setting is invalid, or the file is of something else.
pub fn line(settings: &LineGeometry, landscape: &mut Landscape<'_>) -> Result<End, Failure> {
    landscape.given.check_count(2, 2)?;
    landscape.given.check_points(settings)?;
    let network = landscape.load(0)?;
    let line = Line::between(Weights::of(&network)?, Weights::of(&landscape.load(1)?)?);
    let line = line.map_err(|error| landscape.named(error))?;
    let line = line.with_points(settings.points)?;
    let points = line.coordinates().into_iter().map(|t| OnLine { t });
    let mut file = landscape.points_file(settings.clone(), points.collect())?;
    landscape.begin("line", &file);
    if file.known().is_none() {
        file.learn(line.distance())?;
    }
    landscape.fill(&network, &line, &mut file, 0, |_, _| false)
}
