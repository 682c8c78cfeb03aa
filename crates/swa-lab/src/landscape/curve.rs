//! `curve.json`: a curve of low loss between two networks, beside the straight line.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use swa_core::Weights;
use swa_landscape::{CurvePath, CurveShape, Line, Points};
use swa_models::Network;

use super::curve_training::{CurveTraining, training_config};
use super::points_file::{Geometry, at_least_two};
use super::{End, Landscape};
use crate::Failure;

/// The arguments of a curve.
#[derive(Debug, Clone, clap::Args)]
pub struct CurveArgs {
    /// The number of points that are scored, both ends among them, on the curve and on the line
    #[arg(long, value_name = "N", default_value_t = 61)]
    pub points: usize,

    /// The number of bends, the networks that are trained between the two. (`--num_bends` of the authors' code counts the ends too)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub bends: usize,

    /// Train a polygonal chain instead of a Bezier curve
    #[arg(long)]
    pub chain: bool,

    /// The number of epochs that the bends are trained for [default: as many as the first network's run]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// The learning rate that this starts with [default: 0.3 of that run's, as the authors have it]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lr: Option<f64>,

    /// The seed of the order of the images, and of the points at which the curve is trained
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// The settings of a curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurveGeometry {
    /// The number of points on the curve, and on the line.
    pub points: usize,
    /// The number of bends.
    pub bends: usize,
    /// The shape.
    pub shape: CurveShape,
    /// The number of epochs that the bends were trained for.
    pub epochs: usize,
    /// The learning rate at the beginning.
    pub lr: f64,
    /// The weight decay of the point that a batch is passed through.
    pub weight_decay: f64,
    /// The number of images in a batch.
    pub batch_size: usize,
    /// The seed of the training.
    pub seed: u64,
}

/// One of the two ways from the first network to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The trained curve.
    Curve,
    /// The straight line.
    Line,
}

/// A point of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnPath {
    /// The curve or the line.
    pub way: Way,
    /// From 0 at the first network to 1 at the second.
    pub t: f64,
}

/// The largest number of bends, each of which is a network in memory.
const MOST_BENDS: usize = 100;

/// The lengths of the curve, known once it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurveKnown {
    /// The L2 distances between the curve's points, each from the one before.
    pub distances: Vec<f64>,
    /// The L2 distance between the networks.
    pub distance: f64,
}

impl Geometry for CurveGeometry {
    type At = OnPath;
    type Known = CurveKnown;

    const FILE: &'static str = "curve.json";
    const CONTENT: &'static str = "the points of a curve";

    fn count(&self, _networks: usize) -> usize {
        at_least_two(self.points).saturating_mul(2)
    }

    fn is_known_of(known: &CurveKnown, _networks: usize) -> bool {
        !known.distances.is_empty()
    }
}

/// Trains a curve between two networks, and scores its points and those of the straight line.
///
/// The bends are kept in model files in `curve`, below the folder of the points.
///
/// # Errors
///
/// If the networks differ or are the same, a setting is invalid, or what is there is of something else.
pub fn curve(args: &CurveArgs, landscape: &mut Landscape<'_>) -> Result<End, Failure> {
    landscape.given.check_count(2, 2)?;
    let run = &landscape.run;
    let settings = CurveGeometry {
        points: args.points,
        bends: args.bends,
        shape: if args.chain {
            CurveShape::PolygonalChain
        } else {
            CurveShape::Bezier
        },
        epochs: args.epochs.unwrap_or(run.epochs),
        // Of the authors' networks and curves: 0.05 and 0.015 for VGG16, 0.1 and 0.03 for PreResNet.
        lr: args.lr.unwrap_or(0.3 * run.sgd.lr),
        weight_decay: run.sgd.weight_decay,
        batch_size: run.sgd.batch_size,
        seed: args.seed,
    };
    landscape.given.check_points(&settings)?;
    if settings.bends > MOST_BENDS {
        return Err(format!(
            "--bends must be at most {MOST_BENDS}, not {}",
            settings.bends
        )
        .into());
    }
    let config = training_config(&settings, &landscape.run)?;
    let network = landscape.load(0)?;
    let ends = [network.clone(), landscape.load(1)?];
    let [start, end] = [Weights::of(&ends[0])?, Weights::of(&ends[1])?];
    let line = Line::between(start.clone(), end.clone());
    let line = line.map_err(|error| landscape.named(error))?;
    let line = line.with_points(args.points)?;
    let at = |way| move |t| OnPath { way, t };
    let points = || line.coordinates().into_iter();
    let points = points()
        .map(at(Way::Curve))
        .chain(points().map(at(Way::Line)));
    let mut file = landscape.points_file(settings.clone(), points.collect())?;
    let training = CurveTraining::open(&settings, config, landscape, file.was_there())?;
    if !file.was_there() {
        // It says which networks the bends in that folder are between.
        file.write()?;
    }

    let Some(bends) = training.bends(ends)? else {
        return Ok(End::Stopped);
    };
    let bends = bends.iter().map(Weights::of);
    let bends = bends.collect::<Result<Vec<Weights>, _>>()?;
    let path = [start].into_iter().chain(bends).chain([end]).collect();
    let path = CurvePath::through(settings.shape, path)?.with_points(args.points)?;
    if file.known().is_none() {
        file.learn(CurveKnown {
            distances: path.distances()?,
            distance: line.distance(),
        })?;
    }
    landscape.begin("curve and line", &file);
    let network: Network = network.valid();
    if landscape.fill(&network, &path, &mut file, 0, |_, _| false)? == End::Stopped {
        return Ok(End::Stopped);
    }
    landscape.fill(&network, &line, &mut file, args.points, |_, _| false)
}
