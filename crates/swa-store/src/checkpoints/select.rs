//! The choice of files: by the step that they are of, or by a score.

use std::cmp::Ordering;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Checkpoints;
use super::error::CheckpointError;
use super::file::Checkpoint;

impl Checkpoints {
    /// The last `count` by step, from the first to the last: fairseq's `average_checkpoints.py --num-update-checkpoints`.
    ///
    /// The step of a file is `step` in its metadata, as [`MemberFiles`](crate::MemberFiles) writes it, or else the last number in its
    /// name, as in `checkpoint_12.pt`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Count`], [`CheckpointError::NoStep`] and [`CheckpointError::SameStep`].
    pub fn last(&self, count: usize) -> Result<Self, CheckpointError> {
        self.check_count(count)?;
        let files = self.in_order()?.into_iter().map(|(_, file)| file);
        let files: Vec<Arc<Checkpoint>> = files.collect();
        Ok(self.chosen(files[files.len() - count..].to_vec()))
    }

    /// Those of the steps in a range, both of its ends included, from the first to the last.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::EmptyWindow`] if there is none, [`CheckpointError::NoStep`] and [`CheckpointError::SameStep`].
    pub fn window(&self, steps: RangeInclusive<u64>) -> Result<Self, CheckpointError> {
        let all = self.in_order()?;
        let files = all.iter().filter(|(step, _)| steps.contains(step));
        let files: Vec<Arc<Checkpoint>> = files.map(|(_, file)| file.clone()).collect();
        if files.is_empty() {
            return Err(CheckpointError::EmptyWindow {
                first: *steps.start(),
                last: *steps.end(),
                steps: all.into_iter().map(|(step, _)| step).collect(),
            });
        }
        Ok(self.chosen(files))
    }

    /// The `count` with the highest scores, of equal ones those that were named first: timm's `avg_checkpoints.py`. They stay in their
    /// order.
    ///
    /// There is a score for each file, higher for a better network: an accuracy, or the negative of a loss.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Count`], [`CheckpointError::NotOneForEach`] and [`CheckpointError::Score`].
    pub fn best(&self, count: usize, scores: &[f64]) -> Result<Self, CheckpointError> {
        self.check_count(count)?;
        let mut chosen = self.by_falling_score(scores)?;
        chosen.truncate(count);
        chosen.sort_unstable();
        Ok(self.only(&chosen))
    }

    /// The files by their steps, from the first to the last.
    pub(super) fn in_order(&self) -> Result<Vec<(u64, Arc<Checkpoint>)>, CheckpointError> {
        let files = self.files.iter();
        let files = files.map(|file| Ok((step_of(file)?, file.clone())));
        let mut files: Vec<(u64, Arc<Checkpoint>)> =
            files.collect::<Result<_, CheckpointError>>()?;
        files.sort_by_key(|(step, _)| *step);
        match files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            None => Ok(files),
            Some(pair) => Err(CheckpointError::SameStep {
                step: pair[0].0,
                first: pair[0].1.path.clone(),
                second: pair[1].1.path.clone(),
            }),
        }
    }

    /// The positions of all files, from the highest score to the lowest.
    pub(super) fn by_falling_score(&self, scores: &[f64]) -> Result<Vec<usize>, CheckpointError> {
        self.check_one_for_each("scores", scores.len())?;
        let scored = self.files.iter().zip(scores);
        if let Some((file, score)) = scored.clone().find(|(_, score)| score.is_nan()) {
            return Err(CheckpointError::Score {
                path: file.path.clone(),
                score: *score,
            });
        }
        let mut positions: Vec<usize> = (0..scores.len()).collect();
        // This leaves equal ones as they are.
        positions.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal));
        Ok(positions)
    }

    /// The files at these positions, in this order.
    pub(super) fn only(&self, positions: &[usize]) -> Self {
        let files = positions.iter();
        self.chosen(files.map(|&it| self.files[it].clone()).collect())
    }

    pub(super) fn check_one_for_each(
        &self,
        what: &'static str,
        got: usize,
    ) -> Result<(), CheckpointError> {
        let files = self.files.len();
        if got == files {
            Ok(())
        } else {
            Err(CheckpointError::NotOneForEach { what, got, files })
        }
    }

    fn check_count(&self, asked: usize) -> Result<(), CheckpointError> {
        let available = self.files.len();
        if (1..=available).contains(&asked) {
            Ok(())
        } else {
            Err(CheckpointError::Count { asked, available })
        }
    }
}

/// The step of a file: in its metadata, or the last number in its name.
fn step_of(file: &Checkpoint) -> Result<u64, CheckpointError> {
    let said = file.metadata.get("step").and_then(|step| step.parse().ok());
    let step = said.or_else(|| last_number(file.path.file_stem()?.to_str()?));
    step.ok_or_else(|| CheckpointError::NoStep {
        path: file.path.clone(),
    })
}

/// The last number in a text.
fn last_number(text: &str) -> Option<u64> {
    let numbers = text.split(|it: char| !it.is_ascii_digit());
    let mut numbers = numbers.filter(|number| !number.is_empty());
    numbers.next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_step_is_the_last_number_in_a_name() {
        for (name, step) in [
            ("checkpoint_12", Some(12)),
            ("model-3", Some(3)),
            ("checkpoint_2_12000", Some(12000)),
            ("step-00000391", Some(391)),
            ("resnet50.epoch7.best", Some(7)),
            ("last", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(last_number(name), step, "{name}");
        }
        // An extension is no part of it.
        assert_eq!(
            last_number(Path::new("last.v2").file_stem().unwrap().to_str().unwrap()),
            None
        );
    }
}
