//! The ends of a curve, which no record holds.

use swa_core::{Role, Weights, WeightsError};

use crate::LandscapeError;
use crate::random::mix;

/// A number of 31 bits that differs between two networks, but for one pair in two thousand millions: for a record, to be told from
/// that of a curve between others. So small that every device's integers hold it.
///
/// # Errors
///
/// [`LandscapeError::Weights`] if the device could not be read.
pub(super) fn fingerprint(weights: &Weights) -> Result<usize, LandscapeError> {
    let mut state = 0;
    for parameter in weights.layout().parameters() {
        if parameter.role == Role::Weight
            && let Some(values) = weights.parameter(&parameter.path)
        {
            let data = values.try_into_data();
            let data = data.map_err(|error| WeightsError::Device {
                reason: error.to_string(),
            })?;
            for value in data.iter::<f64>() {
                state = mix(state ^ value.to_bits()).wrapping_add(1);
            }
        }
    }
    Ok((state >> 33) as usize)
}
