//! The file of candidates and their scores.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Candidate;
use crate::Failure;
use crate::provenance::Origin;
use crate::run::directory::{DirectoryError, read_json, write_json};

/// The name of the file.
const FILE: &str = "post_hoc.json";

/// `post_hoc.json`: runs, the averages that were put together of each, and their scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostHocFile {
    /// The command that began it.
    pub origin: Origin,
    /// The runs.
    pub runs: Vec<PostHocRun>,
    #[serde(skip)]
    path: PathBuf,
}

/// A run and its candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostHocRun {
    /// Its folder, as it was given.
    pub folder: PathBuf,
    /// The CRC-32 of its averaged model's file, by which it is known again.
    pub(super) checksum: u32,
    /// Its network.
    pub model: String,
    /// Its seed.
    pub seed: u64,
    /// Its number of epochs.
    pub epochs: usize,
    /// Its training, in words.
    pub method: String,
    /// The number of images that it trained on, from which BatchNorm is re-estimated.
    pub train_images: usize,
    /// The number of images that candidates are scored on.
    pub validation_images: usize,
    /// The number of images that the best is scored on.
    pub test_images: usize,
    /// The number of batches that BatchNorm is re-estimated from: all if none is said.
    pub batch_norm_batches: Option<usize>,
    /// The scores of its own average on the images that were held out.
    pub own: Option<Scores>,
    /// The candidates.
    pub candidates: Vec<ScoredCandidate>,
    /// The best of them.
    pub chosen: Option<Chosen>,
}

/// A candidate, with its scores once it has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoredCandidate {
    /// The average.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// The deviation of its profile from the one that was asked for, if it has one.
    pub deviation: Option<f64>,
    /// Its scores on the images that were held out.
    pub validation: Option<Scores>,
}

/// The best candidate of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The average.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// Its model file.
    pub file: PathBuf,
    /// Its scores on the test images.
    pub test: Scores,
    /// Those of the run's own average.
    pub own_test: Scores,
}

/// The scores of a network on images. Those of a network that has diverged are no numbers, and `null` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean cross-entropy, in nats.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// The share of images that are classified wrongly, in per cent.
    #[serde(deserialize_with = "or_nan")]
    pub error: f64,
}

fn or_nan<'de, D: serde::Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::NAN))
}

impl PostHocRun {
    /// The candidate with the least error on the images that were held out, and of those with the same the least loss, once all are
    /// scored.
    pub fn best(&self) -> Option<Candidate> {
        let mut scored = Vec::new();
        for candidate in &self.candidates {
            scored.push((candidate.validation?, candidate.candidate));
        }
        let finite = scored
            .into_iter()
            .filter(|(scores, _)| scores.loss.is_finite());
        let best = finite.min_by(|(one, _), (other, _)| {
            let by_error = one.error.total_cmp(&other.error);
            by_error.then(one.loss.total_cmp(&other.loss))
        });
        best.map(|(_, candidate)| candidate)
    }

    /// True if it is the same run, scored in the same way.
    fn is_same(&self, other: &Self) -> bool {
        let identity = |run: &Self| {
            (
                run.checksum,
                run.validation_images,
                run.test_images,
                run.batch_norm_batches,
            )
        };
        identity(self) == identity(other)
    }

    /// Adds the candidates of `asked` that it does not have.
    fn add(&mut self, asked: &Self) {
        for candidate in &asked.candidates {
            let mut known = self.candidates.iter();
            if !known.any(|it| it.candidate == candidate.candidate) {
                self.candidates.push(*candidate);
            }
        }
    }
}

impl PostHocFile {
    /// The file in `folder` that is of `asked`, with the candidates that it has already, or a new one.
    ///
    /// # Errors
    ///
    /// If the file that is there is of other runs.
    pub(super) fn open(
        folder: &Path,
        asked: Vec<PostHocRun>,
        device: &str,
        overwrite: bool,
    ) -> Result<Self, Failure> {
        let there = if overwrite { None } else { Self::read(folder)? };
        let Some(mut there) = there else {
            return Ok(Self {
                origin: Origin::of_this_command(device),
                runs: asked,
                path: folder.join(FILE),
            });
        };
        let is_same = there.runs.len() == asked.len()
            && there
                .runs
                .iter()
                .zip(&asked)
                .all(|(run, asked)| run.is_same(asked));
        if !is_same {
            return Err(format!(
                "{} is of {}, or was made with another number of images or batches: choose another folder with --out, or replace it with \
                 --overwrite",
                there.path.display(),
                there.folders()
            )
            .into());
        }
        for (run, asked) in there.runs.iter_mut().zip(&asked) {
            run.add(asked);
        }
        Ok(there)
    }

    fn folders(&self) -> String {
        let folders = self.runs.iter().map(|run| run.folder.display().to_string());
        folders.collect::<Vec<_>>().join(", ")
    }

    /// The file in `folder`, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or holds something else.
    pub fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let content = "averages chosen after a training";
        let mut file: Self = read_json(&path, content).map_err(|error| match error {
            DirectoryError::Content { path, reason, .. } => Failure::from(format!(
                "{} does not hold {content} ({reason}): replace it with `cifar average … --overwrite`, or move it elsewhere",
                path.display(),
            )),
            error => error.into(),
        })?;
        if file.runs.is_empty() || file.runs.iter().any(|run| run.candidates.is_empty()) {
            return Err(format!(
                "{} has lost a part: it has a run without candidates, or no run. Replace it with `cifar average … --overwrite`, or \
                 move it elsewhere",
                path.display()
            )
            .into());
        }
        file.path = path;
        Ok(Some(file))
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// If it cannot be written; what was there stays.
    pub(super) fn write(&self) -> Result<(), Failure> {
        Ok(write_json(&self.path, self)?)
    }

    fn all(&self) -> impl Iterator<Item = &ScoredCandidate> {
        self.runs.iter().flat_map(|run| &run.candidates)
    }

    /// The number of candidates with scores.
    pub fn scored(&self) -> usize {
        self.all().filter(|it| it.validation.is_some()).count()
    }

    /// The number of candidates without.
    pub fn left(&self) -> usize {
        self.all().filter(|it| it.validation.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::hostile_files::survive;
    use crate::post_hoc::Window;

    fn run(checksum: u32, candidates: &[(Candidate, Option<[f64; 2]>)]) -> PostHocRun {
        let candidates = candidates
            .iter()
            .map(|(candidate, validation)| ScoredCandidate {
                candidate: *candidate,
                deviation: None,
                validation: validation.map(|[loss, error]| Scores { loss, error }),
            });
        PostHocRun {
            folder: PathBuf::from("a"),
            checksum,
            model: "preresnet-8".to_owned(),
            seed: 1,
            epochs: 4,
            method: "SGD".to_owned(),
            train_images: 20,
            validation_images: 10,
            test_images: 10,
            batch_norm_batches: None,
            own: None,
            candidates: candidates.collect(),
            chosen: None,
        }
    }

    const WIDTH: Candidate = Candidate::Width(0.1);
    const WINDOW: Candidate = Candidate::Window(Window { after: 2, upto: 4 });

    #[test]
    fn the_best_has_the_least_error_and_then_the_least_loss() {
        let nan = [f64::NAN, 0.0];
        let third = Candidate::Width(0.2);
        let scored = [
            (WIDTH, Some([1.0, 30.0])),
            (WINDOW, Some([0.9, 30.0])),
            (third, Some(nan)),
        ];
        assert_eq!(run(1, &scored).best(), Some(WINDOW));
        assert_eq!(run(1, &[(WIDTH, Some(nan))]).best(), None);
        // All are to be scored before one is chosen.
        let unscored = [(WIDTH, Some([1.0, 30.0])), (WINDOW, None)];
        assert_eq!(run(1, &unscored).best(), None);
    }

    #[test]
    fn further_candidates_join_those_that_are_scored() {
        let folder = tempfile::tempdir().unwrap();
        let open = |run, overwrite| PostHocFile::open(folder.path(), vec![run], "flex", overwrite);
        let first = open(run(1, &[(WIDTH, Some([1.0, 30.0]))]), false).unwrap();
        first.write().unwrap();
        let both = open(run(1, &[(WINDOW, None), (WIDTH, None)]), false).unwrap();
        assert_eq!((both.scored(), both.left()), (1, 1));
        let other = open(run(2, &[(WIDTH, None)]), false);
        let error = other.unwrap_err().to_string();
        assert!(error.contains("--overwrite"), "{error}");
        let anew = open(run(2, &[(WIDTH, None)]), true).unwrap();
        assert_eq!((anew.scored(), anew.left()), (0, 1));
    }

    #[test]
    fn damaged_files_are_refused_or_read_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let runs = vec![run(1, &[(WIDTH, Some([1.0, 30.0])), (WINDOW, None)])];
        let file = PostHocFile::open(folder.path(), runs, "flex", false).unwrap();
        file.write().unwrap();
        let path = folder.path().join(FILE);
        assert!(fs::read_to_string(&path).unwrap().contains("0.1"));
        survive("averages", &[path], 64, |path| {
            let folder = path.parent().unwrap();
            let read = PostHocFile::read(folder);
            read.map(drop).map_err(|error| error.to_string())
        });
    }
}
