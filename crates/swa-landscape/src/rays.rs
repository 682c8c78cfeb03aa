//! Rays from a network along random directions.

use std::sync::{Mutex, PoisonError};

use burn::config::Config;
use swa_core::Weights;

use crate::distance::finite_norm;
use crate::points::{check_count, evenly_spaced};
use crate::random::Random;
use crate::{LandscapeError, Points};

/// The settings of rays. Equal settings have equal directions for all networks of one kind, on all devices, so that two solutions can be
/// compared along the same ones.
#[derive(Config, Debug, PartialEq)]
pub struct RaysConfig {
    /// The largest distance `t` from the network, in units of a direction's length: see [`Directions`].
    pub radius: f64,
    /// The number of directions, at least 1: 10 by default, as in Fig. 4 of Izmailov et al. 2018.
    #[config(default = 10)]
    pub directions: usize,
    /// The number of points on each direction, at least 2, evenly spaced and symmetric in `t`: 21 by default, so that the network
    /// itself is one of them.
    #[config(default = 21)]
    pub points: usize,
    /// The kind of the directions: uniform on the sphere by default.
    #[config(default = "Directions::Uniform")]
    pub kind: Directions,
    /// The seed of the directions. Each has its own random numbers, whatever the number of directions is.
    #[config(default = 0)]
    pub seed: u64,
}

/// A kind of random directions.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Uniform on the sphere of radius 1, so that `t` is an L2 distance: Izmailov et al. 2018, sec. 3.3.
    Uniform,
    /// With filters as long as those of the network, so that `t = 1` moves each filter by its own length: Li et al. 2018,
    /// *Visualizing the Loss Landscape of Neural Nets*, sec. 4. For two networks, these are the same directions at first, each scaled
    /// to its network. Biases and the parameters of BatchNorm do not move.
    FilterNormalised,
}

impl RaysConfig {
    /// The rays from `weights`.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Invalid`] for a radius that is not a positive finite number, no direction, or fewer than 2 points;
    /// [`LandscapeError::NotFinite`]; and [`LandscapeError::Weights`].
    pub fn init(&self, weights: Weights) -> Result<Rays, LandscapeError> {
        if !(self.radius > 0.0 && self.radius.is_finite()) {
            let (name, expected) = ("the radius of rays", "a finite number above 0");
            return Err(LandscapeError::invalid(name, expected, self.radius));
        }
        if self.directions == 0 {
            let name = "the number of directions";
            return Err(LandscapeError::invalid(name, "at least 1", 0));
        }
        check_count("the number of points on a ray", self.points)?;
        finite_norm(&weights, 0)?;
        Ok(Rays {
            weights,
            config: self.clone(),
            last: Mutex::default(),
        })
    }
}

/// Rays `w + t d` from a network `w` along directions `d`, on both sides.
///
/// Points are ordered by direction, and those of one direction by `t`. It holds the network and one direction, which is drawn when a
/// point on it is asked for.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use swa_core::Weights;
/// use swa_landscape::{Points, RaysConfig};
///
/// let layer: Linear = LinearConfig::new(4, 2).init(&Device::default());
/// let weights = Weights::of(&layer)?;
/// let rays = RaysConfig::new(20.0).with_directions(2).with_points(3).init(weights.clone())?;
///
/// let points = rays.coordinates();
/// assert_eq!(points.iter().map(|at| (at.direction, at.t)).collect::<Vec<_>>(), [
///     (0, -20.0), (0, 0.0), (0, 20.0), (1, -20.0), (1, 0.0), (1, 20.0),
/// ]);
/// assert!((rays.weights(points[0])?.distance(&weights)? - 20.0).abs() < 1e-4);
/// # Ok::<(), swa_landscape::LandscapeError>(())
/// ```
#[derive(Debug)]
pub struct Rays {
    weights: Weights,
    config: RaysConfig,
    /// The direction that was drawn last.
    last: Mutex<Option<(usize, Weights)>>,
}

/// A point on a ray.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnRay {
    /// The number of the direction, counted from 0.
    pub direction: usize,
    /// The distance from the network, in units of the direction's length.
    pub t: f64,
}

impl Rays {
    /// The direction with this number.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] for a network without weights, and if the device could not be read.
    pub fn direction(&self, number: usize) -> Result<Weights, LandscapeError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((drawn, direction)) = &*last
            && *drawn == number
        {
            return Ok(direction.clone());
        }
        // Before the next one is drawn, so that there is one in memory.
        *last = None;
        let mut random = Random::at(self.config.seed, &[number as u64]);
        let uniform = self.weights.random_direction(&mut random)?;
        let direction = match self.config.kind {
            Directions::Uniform => uniform,
            Directions::FilterNormalised => uniform.filter_normalised(&self.weights)?,
        };
        *last = Some((number, direction.clone()));
        Ok(direction)
    }
}

impl Points for Rays {
    type At = OnRay;

    fn coordinates(&self) -> Vec<OnRay> {
        let RaysConfig { radius, points, .. } = self.config;
        let ts: Vec<f64> = evenly_spaced(-1.0, 1.0, points);
        // From both ends, so that it is symmetric to the bit.
        let symmetric = |place: usize| radius * (ts[place] - ts[points - 1 - place]) / 2.0;
        let directions = 0..self.config.directions;
        directions
            .flat_map(|direction| {
                (0..points).map(move |place| OnRay {
                    direction,
                    t: symmetric(place),
                })
            })
            .collect()
    }

    fn weights(&self, at: OnRay) -> Result<Weights, LandscapeError> {
        let direction = self.direction(at.direction)?;
        Ok(self.weights.axpy(at.t, &direction)?)
    }
}
