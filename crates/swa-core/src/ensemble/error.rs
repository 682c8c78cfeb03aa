//! Errors of predictions and their ensembles.

use std::error::Error;

use thiserror::Error;

/// The reason why a model's predictions could not be made, or used.
///
/// Batches are counted from 1, items from 0, as in a data set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PredictionError {
    /// There is no item.
    #[error(
        "predictions need data, and there was no batch, or none with an item: check that the loader is not empty, and that each \
         call of `batches` begins it anew"
    )]
    NoItems,

    /// A batch has another number of labels than of logits' rows.
    #[error(
        "batch {batch} has logits of {items} items and {labels} labels, expected one label an item: return logits of shape \
         [items, classes] and labels of shape [items]"
    )]
    LabelCount {
        /// The batch, counted from 1.
        batch: usize,
        /// The number of rows of logits.
        items: usize,
        /// The number of labels.
        labels: usize,
    },

    /// A batch has another number of classes than those before.
    #[error(
        "batch {batch} has logits of {got} classes, expected {expected} as in the batches before: return logits of shape \
         [items, classes], of the same classes for each batch"
    )]
    BatchClasses {
        /// The batch, counted from 1.
        batch: usize,
        /// The number of classes before.
        expected: usize,
        /// The number of classes of this batch.
        got: usize,
    },

    /// A label names no class.
    #[error(
        "the label of item {item} (counted from 0) is {label}, expected at least 0 and less than {classes}, the number of \
         classes of the logits: check that the model and the data are of the same classes, and that labels count from 0"
    )]
    LabelOutOfRange {
        /// The item, counted from 0.
        item: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
    },

    /// A logit is NaN or infinite.
    #[error(
        "the logit of item {item} (counted from 0) for class {class} is {value}, expected a finite number: the weights diverged, \
         were sampled at too large a scale, or their BatchNorm statistics were not re-estimated; or the item's own values are \
         not finite. In an ensemble, leave the member out, or have all such members left out \
         (`EnsembleConfig::with_leave_out_not_finite`)"
    )]
    NotFinite {
        /// The item, counted from 0.
        item: usize,
        /// The class.
        class: usize,
        /// The logit.
        value: f64,
    },

    /// A temperature is not a positive finite number, or so small that a logit overflows.
    #[error(
        "the temperature is {temperature}, expected a positive finite number at which no logit overflows: take 1 for the logits as they are, or \
         `Logits::temperature` of held-out data"
    )]
    InvalidTemperature {
        /// The temperature.
        temperature: f64,
    },

    /// The number of bins is 0.
    #[error(
        "the number of reliability bins is 0, expected at least 1: take 15, as in the literature"
    )]
    ZeroBins,

    /// A batch could not be loaded.
    #[error("a batch could not be loaded: {0}")]
    Batch(#[source] Box<dyn Error + Send + Sync>),

    /// The device could not be read.
    #[error("reading the logits or labels of batch {batch} from the device failed: {reason}")]
    Device {
        /// The batch, counted from 1.
        batch: usize,
        /// The device's own message.
        reason: String,
    },
}

/// The reason why an ensemble could not be evaluated.
///
/// Members are counted from 1, in the order of the iterator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnsembleError {
    /// There is no member, or all were left out.
    #[error(
        "an ensemble needs at least one member, and there was {}",
        if *left_out == 0 {
            "none: check that the run has collected members, and that the files are there".to_owned()
        } else {
            format!("none but {left_out} with logits that are not finite, which were left out: the training has diverged")
        }
    )]
    NoMembers {
        /// The number of members that were left out.
        left_out: usize,
    },

    /// A member could not be loaded.
    #[error("member {member} of the ensemble could not be loaded: {source}")]
    Load {
        /// The member, counted from 1.
        member: usize,
        /// The loader's error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// A member's predictions could not be made.
    #[error("member {member} of the ensemble: {source}")]
    Member {
        /// The member, counted from 1.
        member: usize,
        /// The reason.
        source: PredictionError,
    },

    /// A member has predictions for another number of items than those before.
    #[error(
        "member {member} of the ensemble has predictions for {got} items, expected {expected} as the members before: return the \
         same batches at each call of `batches`"
    )]
    ItemCount {
        /// The member, counted from 1.
        member: usize,
        /// The number of items of the members before.
        expected: usize,
        /// The number of items of this member.
        got: usize,
    },

    /// A member has another number of classes than those before.
    #[error(
        "member {member} of the ensemble has logits of {got} classes, expected {expected} as the members before: take networks \
         of the same classes"
    )]
    ClassCount {
        /// The member, counted from 1.
        member: usize,
        /// The number of classes of the members before.
        expected: usize,
        /// The number of classes of this member.
        got: usize,
    },

    /// An item has another label than for the members before, so that it is another item.
    #[error(
        "member {member} of the ensemble has label {got} for item {item} (counted from 0), expected {expected} as for the members \
         before: return the same items in the same order at each call of `batches`, from a loader that does not shuffle"
    )]
    LabelsDiffer {
        /// The member, counted from 1.
        member: usize,
        /// The item, counted from 0.
        item: usize,
        /// The label for the members before.
        expected: usize,
        /// The label for this member.
        got: usize,
    },

    /// A weight is not a positive finite number, or the weights up to it have no finite sum.
    #[error(
        "the weight of member {member} of the ensemble is {weight}, expected positive weights with a finite sum: leave out \
         members that are not to count, or leave out `weights` for equal ones"
    )]
    InvalidWeight {
        /// The member, counted from 1.
        member: usize,
        /// Its weight.
        weight: f64,
    },

    /// There are more or fewer weights than members.
    #[error(
        "there are {weights} weights for {}{members} members, expected one a member: leave out `weights` for equal ones",
        if members > weights { "at least " } else { "" }
    )]
    WeightCount {
        /// The number of weights.
        weights: usize,
        /// The number of members, as far as they were counted.
        members: usize,
    },

    /// The number of bins is 0.
    #[error("the number of reliability bins is 0, expected at least 1: leave out `bins` for 15")]
    ZeroBins,
}
