//! Greedy soups: a file joins the mean if the mean gets better by it.

use std::path::PathBuf;

use super::Checkpoints;
use super::average::CheckpointAverage;
use super::error::CheckpointError;

/// A greedy soup.
#[derive(Debug, Clone)]
pub struct GreedySoup {
    /// The mean of the files that were taken.
    pub average: CheckpointAverage,
    /// Its score.
    pub score: f64,
    /// All files, from the highest score of their own to the lowest.
    pub tried: Vec<Tried>,
}

/// A file that was tried in a greedy soup.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// The file.
    pub path: PathBuf,
    /// The score of the mean of it and all that were taken before.
    pub score: f64,
    /// Tells whether it was taken.
    pub taken: bool,
}

impl Checkpoints {
    /// The greedy soup of Wortsman et al. 2022 (*Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    /// increasing inference time*, recipe 1).
    ///
    /// Of each file alone, `score` gives the score, higher for a better network. By falling score, each is then added to the mean of
    /// those taken so far, and taken if the score of that is higher. (The paper takes those of equal score too; its code, `main.py` of
    /// `model-soups`, does not, and neither does this.)
    ///
    /// Score on held-out data: a soup that is chosen on test data says nothing about other data. `score` may load the average as a
    /// [state dict](CheckpointAverage::state_dict), or [write](CheckpointAverage::write) it.
    ///
    /// # Errors
    ///
    /// Those of `score`, and [`CheckpointError::Score`] for a NaN.
    pub fn greedy_soup<E: From<CheckpointError>>(
        &self,
        mut score: impl FnMut(&CheckpointAverage) -> Result<f64, E>,
    ) -> Result<GreedySoup, E> {
        let alone = self.each().map(|(_, alone)| score(&alone));
        let scores: Vec<f64> = alone.collect::<Result<_, E>>()?;
        let order = self.by_falling_score(&scores)?;
        let (mut taken, mut best, mut tried) = (Vec::new(), f64::NEG_INFINITY, Vec::new());
        for position in order {
            let path = self.files[position].path.clone();
            taken.push(position);
            let score = match taken.as_slice() {
                [first] => scores[*first],
                together => score(&self.only(together).uniform())?,
            };
            if score.is_nan() {
                return Err(CheckpointError::Score { path, score }.into());
            }
            let is_better = taken.len() == 1 || score > best;
            if is_better {
                best = score;
            } else {
                taken.pop();
            }
            let taken = is_better;
            tried.push(Tried { path, score, taken });
        }
        Ok(GreedySoup {
            average: self.only(&taken).uniform(),
            score: best,
            tried,
        })
    }
}
