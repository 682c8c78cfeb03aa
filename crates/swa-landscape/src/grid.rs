//! A grid on a plane.

use burn::config::Config;
use swa_core::Weights;

use crate::points::{check_count, evenly_spaced};
use crate::{LandscapeError, Plane, Points};

/// The settings of a grid.
#[derive(Config, Debug, PartialEq)]
pub struct GridConfig {
    /// The part of the plane's [extent](Plane::extent) that the grid reaches beyond the networks on each side: 0.2 by default, as
    /// in `plane.py`.
    #[config(default = 0.2)]
    pub margin: f64,
    /// The number of points along each axis, at least 2: 21 by default, as in `plane.py`.
    #[config(default = 21)]
    pub points: usize,
}

impl GridConfig {
    /// The grid on `plane`.
    ///
    /// # Errors
    ///
    /// [`LandscapeError::Invalid`] for a negative margin, and for fewer than 2 points.
    pub fn init(&self, plane: Plane) -> Result<Grid, LandscapeError> {
        check_count("the number of a grid's points along an axis", self.points)?;
        if !(self.margin >= 0.0 && self.margin.is_finite()) {
            let (name, expected) = ("the margin of a grid", "a finite number from 0 on");
            return Err(LandscapeError::invalid(name, expected, self.margin));
        }
        Ok(Grid {
            plane,
            axis: evenly_spaced(-self.margin, 1.0 + self.margin, self.points),
        })
    }
}

/// A square of points on a plane: `x = a dx` and `y = b dy` for `a` and `b` from `-margin` to `1 + margin`, so that the networks
/// `(0, 0)` and `(dx, 0)` are within it, and so is the third one's `y`.
///
/// Points are ordered by `x`, and those of one `x` by `y`: point `i * points + j` is `(axis[i] dx, axis[j] dy)`.
#[derive(Debug, Clone)]
pub struct Grid {
    plane: Plane,
    axis: Vec<f64>,
}

impl Grid {
    /// The plane.
    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    /// The values of `a` and `b`, in units of the plane's [extent](Plane::extent).
    pub fn axis(&self) -> &[f64] {
        &self.axis
    }
}

impl Points for Grid {
    /// `[x, y]`, as of [`Plane::point`].
    type At = [f64; 2];

    fn coordinates(&self) -> Vec<[f64; 2]> {
        let [dx, dy] = self.plane.extent();
        let columns = self.axis.iter();
        columns
            .flat_map(|a| self.axis.iter().map(move |b| [a * dx, b * dy]))
            .collect()
    }

    fn weights(&self, at: [f64; 2]) -> Result<Weights, LandscapeError> {
        self.plane.point(at)
    }
}
