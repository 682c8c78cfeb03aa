//! The averages that can be put together from a run's snapshots.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use swa_core::{Profile, post_hoc_coefficients, window_coefficients};
use swa_store::MemberFiles;

use super::KeptAverage;
use crate::Failure;
use crate::run::directory::RunDirectory;

/// The epochs after `after`, up to and with `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The number of epochs before it.
    pub after: usize,
    /// Its last epoch, counted from 1.
    pub upto: usize,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once(':');
        let ends = ends.and_then(|(after, upto)| Some((after.parse().ok()?, upto.parse().ok()?)));
        match ends {
            Some((after, upto)) if after < upto => Ok(Self { after, upto }),
            _ => {
                Err("expected two numbers of epochs, the first the smaller, as in 18:36".to_owned())
            }
        }
    }
}

/// An average that can be put together after the training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidate {
    /// The power-function average of this relative width, at the end of the training.
    Width(f64),
    /// The mean of the weights at the ends of these epochs.
    Window(Window),
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Width(width) => write!(f, "width {width}"),
            Self::Window(Window { after, upto }) if after + 1 == *upto => write!(f, "epoch {upto}"),
            Self::Window(Window { after, upto }) => write!(f, "epochs {} to {upto}", after + 1),
        }
    }
}

/// A linear combination of model files.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Combination {
    pub(super) terms: Vec<(f64, PathBuf)>,
    /// The deviation of its profile, if it has one.
    pub(super) deviation: Option<f64>,
}

/// The snapshots of a run, by the epochs after which they were taken.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    pub(super) steps_per_epoch: usize,
    pub(super) epochs: Vec<usize>,
    /// The folder of the run.
    pub(super) run: PathBuf,
}

impl Snapshots {
    /// The file of the snapshot after an epoch.
    pub(super) fn path(&self, kept: KeptAverage, epoch: usize) -> PathBuf {
        let files = MemberFiles::new(RunDirectory::at(&self.run).kept(kept));
        files.path_of_step(epoch * self.steps_per_epoch)
    }

    fn last(&self) -> usize {
        self.epochs.last().copied().unwrap_or_default()
    }

    /// The combination that is a candidate.
    ///
    /// # Errors
    ///
    /// If it cannot be put together from the snapshots that there are.
    pub(super) fn combination(&self, candidate: Candidate) -> Result<Combination, Failure> {
        match candidate {
            Candidate::Width(width) => self.of_width(width),
            Candidate::Window(window) => self.of_window(window),
        }
    }

    fn of_width(&self, width: f64) -> Result<Combination, Failure> {
        let mut profiles = Vec::new();
        let mut files = Vec::new();
        for &epoch in &self.epochs {
            for kept in KeptAverage::ALL {
                if let Some(width) = kept.width() {
                    // These averages are updated at every step.
                    profiles.push(Profile::of_width(width, epoch * self.steps_per_epoch)?);
                    files.push(self.path(kept, epoch));
                }
            }
        }
        let target = Profile::of_width(width, self.last() * self.steps_per_epoch);
        let target = target.map_err(|error| format!("--width {width}: {error}"))?;
        let found = post_hoc_coefficients(&profiles, target)?;
        Ok(Combination {
            terms: found.coefficients.into_iter().zip(files).collect(),
            deviation: Some(found.deviation),
        })
    }

    fn of_window(&self, Window { after, upto }: Window) -> Result<Combination, Failure> {
        let is_kept = |epoch: usize| self.epochs.contains(&epoch);
        if !(after == 0 || is_kept(after)) || !is_kept(upto) {
            let epochs: Vec<String> = self.epochs.iter().map(usize::to_string).collect();
            return Err(format!(
                "--window {after}:{upto} needs averages that were kept after these epochs, and {} has those after epoch {}",
                self.run.display(),
                epochs.join(", ")
            )
            .into());
        }
        let [first, second] = window_coefficients(after, upto)?;
        let mut terms = vec![(second, self.path(KeptAverage::Equal, upto))];
        if after > 0 {
            terms.insert(0, (first, self.path(KeptAverage::Equal, after)));
        }
        Ok(Combination {
            terms,
            deviation: None,
        })
    }

    /// The candidates if none are asked for.
    pub(super) fn grid(&self) -> Vec<Candidate> {
        let widths = [0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25];
        let upto = self.last();
        let earlier = self.epochs.iter().copied().filter(|epoch| *epoch < upto);
        let starts: Vec<usize> = std::iter::once(0).chain(earlier).collect();
        // About a dozen of them, the last one among them.
        let every = starts.len().div_ceil(12);
        let skipped = (starts.len() - 1) % every;
        let windows = starts.into_iter().skip(skipped).step_by(every);
        let windows = windows.map(|after| Candidate::Window(Window { after, upto }));
        widths
            .map(Candidate::Width)
            .into_iter()
            .chain(windows)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(epochs: &[usize]) -> Snapshots {
        Snapshots {
            steps_per_epoch: 10,
            epochs: epochs.to_vec(),
            run: PathBuf::from("run"),
        }
    }

    #[test]
    fn a_window_is_read_as_it_is_written() {
        let window: Window = "18:36".parse().unwrap();
        assert_eq!(Candidate::Window(window).to_string(), "epochs 19 to 36");
        for text in ["18", "36:18", "18:18", "a:b", "-1:5"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_is_made_of_two_snapshots_of_the_mean() {
        let snapshots = snapshots(&[4, 8]);
        let window = |after, upto| Candidate::Window(Window { after, upto });
        let made = snapshots.combination(window(4, 8)).unwrap();
        let path =
            |step: usize| PathBuf::from(format!("run/averages/equal/step-{step:08}.safetensors"));
        assert_eq!(made.terms, [(-1.0, path(40)), (2.0, path(80))]);
        let whole = snapshots.combination(window(0, 4)).unwrap();
        assert_eq!(whole.terms, [(1.0, path(40))]);
        let error = snapshots.combination(window(3, 8)).unwrap_err().to_string();
        assert!(error.contains("run has those after epoch 4, 8"), "{error}");
    }

    #[test]
    fn a_width_that_was_kept_is_its_last_snapshot() {
        let made = snapshots(&[4, 8])
            .combination(Candidate::Width(0.1))
            .unwrap();
        for (coefficient, file) in &made.terms {
            let is_last = file.ends_with("wide/step-00000080.safetensors");
            let expected = if is_last { 1.0 } else { 0.0 };
            assert!((coefficient - expected).abs() < 1e-9, "{made:?}");
        }
        assert!(made.deviation.unwrap() < 1e-6);
        let error = snapshots(&[4]).combination(Candidate::Width(0.5));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("--width 0.5: the width"), "{error}");
    }

    #[test]
    fn the_grid_has_a_dozen_windows_of_any_run() {
        let windows = |epochs: usize| -> Vec<usize> {
            let epochs: Vec<usize> = (1..=epochs).collect();
            let grid = snapshots(&epochs).grid().into_iter();
            let starts = grid.filter_map(|candidate| match candidate {
                Candidate::Window(window) => Some(window.after),
                Candidate::Width(_) => None,
            });
            starts.collect()
        };
        assert_eq!(windows(4), [0, 1, 2, 3]);
        let of_36 = windows(36);
        assert_eq!((of_36.len(), of_36.last()), (12, Some(&35)));
        assert_eq!(windows(300).len(), 12);
    }
}
