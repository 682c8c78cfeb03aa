//! Ensembles of predictions.

mod error;
mod predictions;
mod scores;
mod temperature;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::Loaded;
pub use error::{EnsembleError, PredictionError};
pub use predictions::{Logits, Probabilities};
pub use scores::{ReliabilityBin, Scores};

/// Evaluates the mean of the probabilities that models give to classes, after each of them, and each of them alone.
///
/// With the softmax `p_m[i, c]` of the logits of member `m`, the first `n` members together give item `i` the probabilities
///
/// ```text
/// p[i, c] = sum_m w_m p_m[i, c] / sum_m w_m          m = 1, .., n
/// ```
///
/// with equal weights `w_m` unless the settings give others (Snapshot Ensembles, Huang et al. 2017, sec. 3; Fast Geometric
/// Ensembling, Garipov et al. 2018, sec. 4; SWAG, Maddox et al. 2019, algorithm 1). The report has the [`Scores`] for every `n`,
/// and so shows what each member adds.
///
/// - `members` is any iterator of models, or of results of them such as a reader of files gives. It is asked for the next member
///   when the last one is gone, so that one is in memory at a time if it makes them as they are asked for. Members are evaluated in
///   validation mode. Averages and samples of SWAG need their BatchNorm [re-estimated](crate::reestimate_batch_norm) before.
/// - `batches` returns the same batches in the same order at each call, once a member: `|| loader.iter()` of a loader that does
///   not shuffle. They are of any type, or results of it.
/// - `forward` returns the logits of a model on a batch, of shape `[items, classes]`, and the labels, of shape `[items]`, counted
///   from 0. Name the types of its arguments, which nothing else tells.
///
/// Logits are read from the device once a batch; all else is in f64 in host memory, which holds the probabilities of the mean and
/// of one member: `16 * items * classes` bytes. That is 1.6 MB for CIFAR-10's test images, and 0.8 GB for ImageNet's.
///
/// # Example
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Distribution, Int, Tensor};
/// use swa_core::{EnsembleConfig, evaluate_ensemble};
///
/// let device = Device::default();
/// let input = Tensor::<2>::random([6, 4], Distribution::Default, &device);
/// let batches = [(input, Tensor::<1, Int>::from_ints([0, 1, 2, 0, 1, 2], &device))];
/// let members = (0..2).map(|_| LinearConfig::new(4, 3).init(&device));
///
/// let config = EnsembleConfig::new();
/// let forward = |model: &Linear, (input, labels): (Tensor<2>, Tensor<1, Int>)| (model.forward(input), labels);
/// let report = evaluate_ensemble(&config, members, || batches.clone(), forward)?;
///
/// let [first, second] = report.members.as_slice() else { unreachable!() };
/// // Together, members are no worse than they are alone on average, in likelihood and in Brier score.
/// assert!(second.ensemble.nll <= (first.alone.nll + second.alone.nll) / 2.0 + 1e-9);
/// # Ok::<(), swa_core::EnsembleError>(())
/// ```
///
/// # Errors
///
/// - [`EnsembleError::NoMembers`]: there is no member, or all were left out.
/// - [`EnsembleError::Load`]: a member could not be loaded.
/// - [`EnsembleError::Member`]: a member's predictions could not be made, as when there is no item, a label names no class, or
///   logits are not finite. Only the last is left out on request: [`EnsembleConfig::leave_out_not_finite`].
/// - [`EnsembleError::ItemCount`], [`EnsembleError::ClassCount`], [`EnsembleError::LabelsDiffer`]: a member's items or classes are
///   not those of the members before.
/// - [`EnsembleError::InvalidWeight`], [`EnsembleError::WeightCount`], [`EnsembleError::ZeroBins`]: the settings are invalid.
pub fn evaluate_ensemble<M, L, I, B>(
    config: &EnsembleConfig,
    members: L,
    mut batches: impl FnMut() -> I,
    mut forward: impl FnMut(&M, B) -> (Tensor<2>, Tensor<1, Int>),
) -> Result<EnsembleReport, EnsembleError>
where
    M: Module,
    L: IntoIterator,
    L::Item: Loaded<M>,
    I: IntoIterator,
    I::Item: Loaded<B>,
{
    let members = members.into_iter();
    config.check(members.size_hint())?;
    let mut report = Vec::new();
    let mut left_out = Vec::new();
    let mut mean: Option<Probabilities> = None;
    let mut total = 0.0;
    let mut count = 0;
    for (member, model) in (1..).zip(members) {
        count = member;
        let weight = config.weight(member)?;
        let load = |source| EnsembleError::Load { member, source };
        let logits = Logits::of(&model.loaded().map_err(load)?, batches(), &mut forward);
        let probabilities = match logits {
            Err(PredictionError::NotFinite { .. }) if config.leave_out_not_finite => {
                left_out.push(member);
                continue;
            }
            logits => logits
                .map_err(|source| EnsembleError::Member { member, source })?
                .softmax(),
        };
        let alone = config.scores(&probabilities)?;
        total += weight;
        let mean = match &mut mean {
            None => mean.insert(probabilities),
            Some(mean) => {
                check_items(member, mean, &probabilities)?;
                mean.lerp(&probabilities, weight / total);
                mean
            }
        };
        report.push(MemberScores {
            member,
            alone,
            ensemble: config.scores(mean)?,
        });
    }
    let Some(probabilities) = mean else {
        let left_out = left_out.len();
        return Err(EnsembleError::NoMembers { left_out });
    };
    config.check_count(count)?;
    Ok(EnsembleReport {
        members: report,
        left_out,
        probabilities,
    })
}

/// Checks that a member has predicted the items of the members before.
fn check_items(
    member: usize,
    before: &Probabilities,
    new: &Probabilities,
) -> Result<(), EnsembleError> {
    let (expected, got) = (before.labels().len(), new.labels().len());
    if expected != got {
        return Err(EnsembleError::ItemCount {
            member,
            expected,
            got,
        });
    }
    let (expected, got) = (before.classes(), new.classes());
    if expected != got {
        return Err(EnsembleError::ClassCount {
            member,
            expected,
            got,
        });
    }
    let labels = before.labels().iter().zip(new.labels());
    match labels.enumerate().find(|(_, (before, new))| before != new) {
        None => Ok(()),
        Some((item, (&expected, &got))) => Err(EnsembleError::LabelsDiffer {
            member,
            item,
            expected,
            got,
        }),
    }
}

/// The settings of an ensemble's evaluation.
#[derive(Config, Debug, PartialEq)]
pub struct EnsembleConfig {
    /// The weights of members in the mean, one a member, positive. Equal ones by default, as in the papers. They need not sum to 1,
    /// and members that are left out keep theirs.
    pub weights: Option<Vec<f64>>,
    /// The number of bins of the calibration error, at least 1. By default 15, as in Guo et al. 2017, *On Calibration of Modern
    /// Neural Networks*.
    #[config(default = 15)]
    pub bins: usize,
    /// Leaves out members whose logits are not finite, and names them in the report. By default they are an error.
    #[config(default = false)]
    pub leave_out_not_finite: bool,
}

impl EnsembleConfig {
    /// Checks the settings, and the number of weights as far as the number of members is known beforehand.
    fn check(&self, (least, most): (usize, Option<usize>)) -> Result<(), EnsembleError> {
        if self.bins == 0 {
            return Err(EnsembleError::ZeroBins);
        }
        let mut sum = 0.0;
        for (member, &weight) in (1..).zip(self.weights.iter().flatten()) {
            sum += weight;
            // False for NaN.
            let is_valid = weight > 0.0 && f64::is_finite(sum);
            if !is_valid {
                return Err(EnsembleError::InvalidWeight { member, weight });
            }
        }
        if least > 0 && Some(least) == most {
            self.check_count(least)?;
        }
        Ok(())
    }

    /// The weight of a member, counted from 1.
    fn weight(&self, member: usize) -> Result<f64, EnsembleError> {
        let Some(weights) = &self.weights else {
            return Ok(1.0);
        };
        let weight = weights.get(member - 1).copied();
        weight.ok_or(EnsembleError::WeightCount {
            weights: weights.len(),
            members: member,
        })
    }

    /// Checks that there is one weight for each of so many members.
    fn check_count(&self, members: usize) -> Result<(), EnsembleError> {
        match &self.weights {
            Some(weights) if weights.len() != members => Err(EnsembleError::WeightCount {
                weights: weights.len(),
                members,
            }),
            _ => Ok(()),
        }
    }

    fn scores(&self, probabilities: &Probabilities) -> Result<Scores, EnsembleError> {
        probabilities
            .scores(self.bins)
            .map_err(|_| EnsembleError::ZeroBins)
    }
}

/// The scores of an ensemble, as it grows.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EnsembleReport {
    /// The members that count, in order: at least one.
    pub members: Vec<MemberScores>,
    /// The members that were left out, counted from 1, since a logit of theirs is not finite.
    pub left_out: Vec<usize>,
    /// The mean of all members' probabilities.
    pub probabilities: Probabilities,
}

/// The scores of a member, and of the ensemble up to it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MemberScores {
    /// The member's place, counted from 1. Members that are left out count too.
    pub member: usize,
    /// The scores of the member alone.
    pub alone: Scores,
    /// The scores of the mean of this member and those before.
    pub ensemble: Scores,
}

#[cfg(test)]
mod tests;
