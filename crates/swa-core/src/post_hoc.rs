//! Averages that are chosen after the training, from snapshots of others.
//!
//! An average is a linear combination of the weights that a training passed through, and so is every linear combination of averages.
//! [`Weights::combine`](crate::Weights::combine) puts one together from the coefficients that are found here.

use thiserror::Error;

use crate::{AverageError, PowerFunction};

/// The profile of a [`PowerFunction`] average after a number of updates: how much each update counts in it.
///
/// Over continuous time, update `s` of `t` counts `(gamma + 1) s^gamma / t^(gamma + 1)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// The rule of the average.
    pub rule: PowerFunction,
    /// The number of its updates, which is [`Average::updates`](crate::Average::updates).
    pub updates: usize,
}

impl Profile {
    /// The profile of an average of this relative width after `updates` updates.
    ///
    /// # Errors
    ///
    /// [`AverageError::InvalidRule`] for a width that is [out of range](PowerFunction::of_width).
    pub fn of_width(width: f64, updates: usize) -> Result<Self, AverageError> {
        let rule = PowerFunction::of_width(width)?;
        Ok(Self { rule, updates })
    }

    /// The product of two profiles: the integral of the product of their weights over time.
    ///
    /// ```text
    /// (ga + 1) (gb + 1) (a / b)^e / ((ga + gb + 1) max(a, b)),  e = gb if a < b, else -ga
    /// ```
    fn dot(&self, other: &Self) -> f64 {
        let (a, b) = (self.updates as f64, other.updates as f64);
        let (gamma_a, gamma_b) = (self.rule.gamma(), other.rule.gamma());
        let power = if a < b {
            (a / b).powf(gamma_b)
        } else {
            (b / a).powf(gamma_a)
        };
        (gamma_a + 1.0) * (gamma_b + 1.0) * power / ((gamma_a + gamma_b + 1.0) * a.max(b))
    }
}

/// An average put together from snapshots of others.
#[derive(Debug, Clone, PartialEq)]
pub struct PostHoc {
    /// The coefficient of each snapshot, in their order. Their sum is 1. Some are negative, and those of later snapshots than the
    /// target are 0.
    pub coefficients: Vec<f64>,
    /// The distance of its profile from the one that was asked for, over the length of that: 0 for a profile that is met. The weights
    /// deviate by less, as far as they have no noise of their own: see the page on methods.
    pub deviation: f64,
}

/// The reason why an average cannot be put together.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PostHocError {
    /// There is no snapshot from before the target.
    #[error(
        "an average of {updates} updates needs snapshots of averages of at most as many, and there is none among {snapshots}"
    )]
    NoSnapshots {
        /// The number of updates that were asked for.
        updates: usize,
        /// The number of snapshots.
        snapshots: usize,
    },

    /// A snapshot has no updates, or the same profile as another.
    #[error(
        "snapshot {place}, of width {width} after {updates} updates, tells nothing that those before it do not: expected \
         snapshots after at least one update, each of another width or after another number of updates"
    )]
    Dependent {
        /// Its place among the snapshots, counted from 1.
        place: usize,
        /// The relative width of its rule.
        width: f64,
        /// The number of its updates.
        updates: usize,
    },

    /// A window without updates.
    #[error("a window of updates begins before it ends: ({after}, {upto}] holds none")]
    EmptyWindow {
        /// The number of updates before the window.
        after: usize,
        /// The number of updates at its end.
        upto: usize,
    },
}

/// The coefficients with which snapshots of power-function averages give the average of another width, at any time of the training.
///
/// They are the least-squares fit of the target's profile by those of the snapshots `i` up to the target's time, divided by its sum:
///
/// ```text
/// A x = b,  A_ij = <p_i, p_j>,  b_i = <p_i, p_target>,  coefficients = x / sum(x)
/// ```
///
/// Two averages (EDM2 has widths 0.05 and 0.10) with some tens of snapshots each give any width between them, and wider ones as well.
/// Narrower ones than both are out of reach: the [deviation](PostHoc::deviation) tells.
///
/// ```
/// use swa_core::{Profile, post_hoc_coefficients};
///
/// // A snapshot of each after every 1000 updates.
/// let snapshots: Vec<Profile> = (1..=8)
///     .flat_map(|k| [0.05, 0.10].map(|width| Profile::of_width(width, 1000 * k)))
///     .collect::<Result<_, _>>()?;
/// let found = post_hoc_coefficients(&snapshots, Profile::of_width(0.075, 8000)?)?;
/// assert!((found.coefficients.iter().sum::<f64>() - 1.0).abs() < 1e-12);
/// assert!(found.deviation < 0.03);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: Karras et al. 2024 (EDM2), section 3.2 and algorithm 3; its code's `solve_posthoc_coefficients`, which divides by the sum, as
/// ema-pytorch's does not.
///
/// # Errors
///
/// [`PostHocError::NoSnapshots`] and [`PostHocError::Dependent`].
pub fn post_hoc_coefficients(
    snapshots: &[Profile],
    target: Profile,
) -> Result<PostHoc, PostHocError> {
    let numbered = snapshots.iter().enumerate();
    let (places, used): (Vec<usize>, Vec<&Profile>) = numbered
        .filter(|(_, snapshot)| snapshot.updates <= target.updates)
        .unzip();
    if used.is_empty() || target.updates == 0 {
        return Err(PostHocError::NoSnapshots {
            updates: target.updates,
            snapshots: snapshots.len(),
        });
    }
    // Profiles of length 1: whether one depends on the others is then the same question at all times.
    let length = |profile: &Profile| profile.dot(profile).sqrt();
    let lengths: Vec<f64> = used.iter().map(|profile| length(profile)).collect();
    let unit_dot = |i: usize, j: usize| used[i].dot(used[j]) / (lengths[i] * lengths[j]);
    let products: Vec<f64> = used
        .iter()
        .zip(&lengths)
        .map(|(profile, length)| profile.dot(&target) / length)
        .collect();
    let solved = solved(unit_dot, &products).map_err(|index| PostHocError::Dependent {
        place: places[index] + 1,
        width: used[index].rule.width(),
        updates: used[index].updates,
    })?;
    let fitted = solved.iter().zip(&lengths).map(|(x, length)| x / length);
    let fitted: Vec<f64> = fitted.collect();
    let sum: f64 = fitted.iter().sum();
    let mut coefficients = vec![0.0; snapshots.len()];
    for (place, coefficient) in places.iter().zip(&fitted) {
        coefficients[*place] = coefficient / sum;
    }
    let terms = used.iter().zip(&places);
    let squares: f64 = terms
        .clone()
        .map(|(profile, place)| {
            let others = terms.clone();
            let products = others.map(|(other, at)| coefficients[*at] * profile.dot(other));
            coefficients[*place] * (products.sum::<f64>() - 2.0 * profile.dot(&target))
        })
        .sum();
    let deviation = (squares / target.dot(&target) + 1.0).max(0.0).sqrt();
    Ok(PostHoc {
        coefficients,
        deviation,
    })
}

/// The coefficients with which snapshots of an average by equal weights, after `after` and after `upto` updates, give the mean of the
/// updates in between, those in `(after, upto]`:
///
/// ```text
/// -after / (upto - after),  upto / (upto - after)
/// ```
///
/// So the start of an average can be chosen after the training. If `after` is 0, the first snapshot is not needed: its coefficient is 0.
///
/// The subtraction costs precision: snapshots in f32 have a rounding error of 6e-8 of their size, and it becomes
/// `(upto + after) / (upto - after)` times as large. Measured, in a random walk of 40 updates: the last one alone comes out to 1.5e-6 of
/// its size.
///
/// ```
/// use swa_core::window_coefficients;
///
/// // Mean of 8 updates: 4; of the first 6: 3. So that of the last two: (8 * 4 - 6 * 3) / 2 = 7.
/// let [first, second] = window_coefficients(6, 8)?;
/// assert_eq!(first * 3.0 + second * 4.0, 7.0);
/// # Ok::<(), swa_core::PostHocError>(())
/// ```
///
/// # Errors
///
/// [`PostHocError::EmptyWindow`] unless `after` is less than `upto`.
pub fn window_coefficients(after: usize, upto: usize) -> Result<[f64; 2], PostHocError> {
    if after >= upto {
        return Err(PostHocError::EmptyWindow { after, upto });
    }
    let length = (upto - after) as f64;
    Ok([-(after as f64) / length, upto as f64 / length])
}

/// Solves `A x = b` for a symmetric matrix with ones on its diagonal, by its Cholesky factor.
///
/// # Errors
///
/// The index of the first row that depends on those before it.
fn solved(matrix: impl Fn(usize, usize) -> f64, right: &[f64]) -> Result<Vec<f64>, usize> {
    let count = right.len();
    let mut factor: Vec<Vec<f64>> = Vec::new();
    for i in 0..count {
        let mut row: Vec<f64> = Vec::new();
        for j in 0..=i {
            let before = row.iter().zip(factor.get(j).unwrap_or(&row));
            let rest = matrix(i, j) - before.take(j).map(|(a, b)| a * b).sum::<f64>();
            if j < i {
                row.push(rest / factor[j][j]);
            } else if rest > f64::EPSILON * count as f64 {
                row.push(rest.sqrt());
            } else {
                return Err(i);
            }
        }
        factor.push(row);
    }
    let mut x = right.to_vec();
    for i in 0..count {
        let before: f64 = (0..i).map(|j| factor[i][j] * x[j]).sum();
        x[i] = (x[i] - before) / factor[i][i];
    }
    for i in (0..count).rev() {
        let after: f64 = (i + 1..count).map(|j| factor[j][i] * x[j]).sum();
        x[i] = (x[i] - after) / factor[i][i];
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(width: f64, updates: usize) -> Profile {
        Profile::of_width(width, updates).unwrap()
    }

    #[test]
    fn a_profile_that_is_among_the_snapshots_is_taken_alone() {
        let snapshots = [
            profile(0.05, 10),
            profile(0.1, 10),
            profile(0.05, 20),
            profile(0.1, 20),
        ];
        let found = post_hoc_coefficients(&snapshots, profile(0.1, 20)).unwrap();
        for (coefficient, expected) in found.coefficients.iter().zip([0.0, 0.0, 0.0, 1.0]) {
            assert!((coefficient - expected).abs() < 1e-12, "{found:?}");
        }
        assert!(found.deviation < 1e-7, "{found:?}");
    }

    #[test]
    fn later_snapshots_do_not_count() {
        let snapshots = [profile(0.05, 10), profile(0.1, 10), profile(0.05, 30)];
        let found = post_hoc_coefficients(&snapshots, profile(0.07, 20)).unwrap();
        assert_eq!(found.coefficients[2], 0.0);
        let error = post_hoc_coefficients(&snapshots, profile(0.07, 9)).unwrap_err();
        assert!(matches!(error, PostHocError::NoSnapshots { .. }), "{error}");
    }

    #[test]
    fn a_narrow_profile_is_out_of_reach_of_wide_ones() {
        let snapshots: Vec<Profile> = (1..=8).map(|at| profile(0.2, 100 * at)).collect();
        let wide = post_hoc_coefficients(&snapshots, profile(0.21, 800)).unwrap();
        let narrow = post_hoc_coefficients(&snapshots, profile(0.01, 800)).unwrap();
        assert!(
            wide.deviation < 0.1 && narrow.deviation > 0.5,
            "{wide:?} {narrow:?}"
        );
    }

    #[test]
    fn a_snapshot_that_is_there_twice_is_named() {
        let snapshots = [profile(0.05, 10), profile(0.1, 10), profile(0.05, 10)];
        let error = post_hoc_coefficients(&snapshots, profile(0.07, 10)).unwrap_err();
        assert!(error.to_string().contains("snapshot 3"), "{error}");
        let empty = [profile(0.05, 0), profile(0.1, 10)];
        assert!(post_hoc_coefficients(&empty, profile(0.07, 10)).is_err());
    }

    #[test]
    fn hundreds_of_snapshots_can_be_used() {
        let snapshots: Vec<Profile> = (1..=200)
            .flat_map(|at| [profile(0.05, 391 * at), profile(0.1, 391 * at)])
            .collect();
        let found = post_hoc_coefficients(&snapshots, profile(0.15, 391 * 200)).unwrap();
        let sum: f64 = found.coefficients.iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        assert!(found.deviation < 1e-2, "{}", found.deviation);
    }

    #[test]
    fn a_window_is_the_mean_of_what_it_holds() {
        assert_eq!(window_coefficients(0, 5), Ok([0.0, 1.0]));
        assert!(window_coefficients(5, 5).is_err());
        let error = window_coefficients(6, 5).unwrap_err();
        assert!(error.to_string().contains("(6, 5]"), "{error}");
    }
}
