//! The averages that a run keeps on the way, from which others are made after it.

use swa_train::{AverageConfig, Collect, RuleConfig, RunLength, SwaError};

/// An average whose snapshots a run keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptAverage {
    /// A power-function average over every step, of EDM2's smaller width.
    Narrow,
    /// The same of its larger width.
    Wide,
    /// The mean of the weights at the ends of all epochs.
    Equal,
}

/// The widths of EDM2's two averages (Karras et al. 2024, section 3.2).
const WIDTHS: [f64; 2] = [0.05, 0.10];

impl KeptAverage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Narrow, Self::Wide, Self::Equal];

    /// Its name: of its folder, and in the training.
    pub fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Wide => "wide",
            Self::Equal => "equal",
        }
    }

    /// Its relative width, unless its weights are equal.
    pub fn width(self) -> Option<f64> {
        match self {
            Self::Narrow => Some(WIDTHS[0]),
            Self::Wide => Some(WIDTHS[1]),
            Self::Equal => None,
        }
    }

    /// The average in a training of this length.
    pub(super) fn config(self, length: &RunLength) -> Result<AverageConfig, SwaError> {
        let name = self.name().to_owned();
        Ok(match self.width() {
            Some(width) => AverageConfig::new(name, Collect::from_step(1, length)?)
                .with_rule(RuleConfig::PowerFunction { width }),
            None => AverageConfig::new(name, Collect::from_epoch(1, length)?),
        })
    }
}
