//! Planes through networks.

use swa_core::Weights;

use crate::LandscapeError;
use crate::distance::{apart, finite_norm, rounding};
use crate::error::of_network;
use crate::random::Random;

/// A plane in weight space, with an orthonormal basis `u`, `v` at the first network `w0`:
///
/// ```text
/// point(x, y)    = w0 + x u + y v
/// coordinates(w) = (<w - w0, u>, <w - w0, v>)
/// ```
///
/// Coordinates are L2 distances in weight space. Source: Garipov et al. 2018, *Loss Surfaces, Mode Connectivity, and Fast
/// Ensembling of DNNs*, and its code's `plane.py` (where the third network comes second); Fig. 1 and 3 of Izmailov et al. 2018.
///
/// It holds three copies of the weights: `w0`, `u` and `v`. While it is made, there are up to four. Networks are given by value, so
/// that they take no more memory than that: clone those that are needed later, whose clones share their memory.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use swa_core::Weights;
/// use swa_landscape::Plane;
///
/// let device = Device::default();
/// let layer = || -> Linear { LinearConfig::new(4, 2).init(&device) };
/// let [sgd, swa, live] = [Weights::of(&layer())?, Weights::of(&layer())?, Weights::of(&layer())?];
///
/// let plane = Plane::through(sgd, swa.clone(), live)?;
/// let [x, y] = plane.coordinates(&swa)?;
/// assert!(y.abs() < 1e-5 && (x - plane.networks()[1][0]).abs() < 1e-5);
/// assert!(plane.distance(&swa)? < 1e-5);
/// # Ok::<(), swa_landscape::LandscapeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plane {
    origin: Weights,
    u: Weights,
    v: Weights,
    networks: Vec<[f64; 2]>,
    extent: [f64; 2],
}

impl Plane {
    /// The plane through three networks, by Gram and Schmidt: `u` is along `w1 - w0`, and `v` along what `w2 - w0` has at a right
    /// angle to it.
    ///
    /// # Errors
    ///
    /// - [`LandscapeError::Unlike`] for networks with other parameters than the first.
    /// - [`LandscapeError::NotFinite`], [`LandscapeError::SameNetwork`] for the first two, and [`LandscapeError::OnALine`].
    /// - [`LandscapeError::Weights`] if the device could not be read.
    pub fn through(w0: Weights, w1: Weights, w2: Weights) -> Result<Self, LandscapeError> {
        let (u, dx) = first_axis(&w0, w1)?;
        let norm = finite_norm(&w2, 2)?.max(w0.norm()?);
        let (beside, x) = {
            let to_third = Weights::combine(&[(-1.0, &w0), (1.0, &w2)]);
            let to_third = to_third.map_err(of_network(2))?;
            drop(w2);
            let x = u.dot(&to_third)?;
            (to_third.axpy(-x, &u)?, x)
        };
        let dy = beside.norm()?;
        if dy <= rounding(&w0, norm.max(dx)) {
            return Err(LandscapeError::OnALine { distance: dy });
        }
        Ok(Self {
            v: beside.normalised()?,
            origin: w0,
            u,
            networks: vec![[0.0, 0.0], [dx, 0.0], [x, dy]],
            extent: [dx, dy],
        })
    }

    /// The plane through two networks along a random direction: `v` is the part of a direction uniform on the sphere, number 0 of
    /// `seed`, at a right angle to `u`. Its [extent](Self::extent) is the networks' distance in both directions.
    ///
    /// # Errors
    ///
    /// Those of [`through`](Self::through), and [`LandscapeError::Weights`] for networks of a single weight.
    pub fn through_random(w0: Weights, w1: Weights, seed: u64) -> Result<Self, LandscapeError> {
        let (u, dx) = first_axis(&w0, w1)?;
        let direction = w0.random_direction(&mut Random::at(seed, &[0]))?;
        let beside = direction.axpy(-u.dot(&direction)?, &u)?;
        drop(direction);
        Ok(Self {
            v: beside.normalised()?,
            origin: w0,
            u,
            networks: vec![[0.0, 0.0], [dx, 0.0]],
            extent: [dx, dx],
        })
    }

    /// The weights at `(x, y)`, with the running statistics of the first network.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] if the device could not be read.
    pub fn point(&self, [x, y]: [f64; 2]) -> Result<Weights, LandscapeError> {
        let terms = [(1.0, &self.origin), (x, &self.u), (y, &self.v)];
        Ok(Weights::combine(&terms)?)
    }

    /// The coordinates of the point of the plane that is nearest to `weights`.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Weights`] for those of another network, which names the parameter.
    pub fn coordinates(&self, weights: &Weights) -> Result<[f64; 2], LandscapeError> {
        let from_origin = Weights::combine(&[(-1.0, &self.origin), (1.0, weights)])?;
        Ok([from_origin.dot(&self.u)?, from_origin.dot(&self.v)?])
    }

    /// The L2 distance of `weights` from the plane.
    ///
    /// # Errors
    ///
    /// Those of [`coordinates`](Self::coordinates).
    pub fn distance(&self, weights: &Weights) -> Result<f64, LandscapeError> {
        let [x, y] = self.coordinates(weights)?;
        let terms = [
            (-1.0, &self.origin),
            (1.0, weights),
            (-x, &self.u),
            (-y, &self.v),
        ];
        Ok(Weights::combine(&terms)?.norm()?)
    }

    /// The basis: `u` and `v`.
    pub fn basis(&self) -> [&Weights; 2] {
        [&self.u, &self.v]
    }

    /// The coordinates of the networks that the plane was made through, in their order: `(0, 0)`, `(dx, 0)`, `(x, dy)`.
    pub fn networks(&self) -> &[[f64; 2]] {
        &self.networks
    }

    /// The units of a [`Grid`](crate::Grid): `dx`, the distance of the first two networks, and `dy`, the third one's from the line
    /// through them.
    pub fn extent(&self) -> [f64; 2] {
        self.extent
    }
}

/// The direction from the first network to the second, and their distance.
fn first_axis(w0: &Weights, w1: Weights) -> Result<(Weights, f64), LandscapeError> {
    let (between, distance) = apart(w0, &w1)?;
    drop(w1);
    Ok((between.normalised()?, distance))
}
