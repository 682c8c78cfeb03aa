//! The score of a network on images, class by class.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::{Device, Int, Tensor};

use crate::Failure;
use crate::data::{EpochLoader, Images, SIDE};
use crate::run::classifier::{ImageNetwork, cross_entropy};
use crate::run::epoch_log::Score;

/// CIFAR's images are evaluated in batches of this many, here and during training.
pub const BATCH_SIZE: usize = 250;

/// Larger images are evaluated in batches of this many.
const LARGE_IMAGES: usize = 32;

/// The number of logits among which an image's class has to be to count for the top-5 accuracy.
const TOP: usize = 5;

/// The number of these images that are evaluated at once.
pub(super) fn evaluated_at_once(images: &Images) -> usize {
    if images.side() <= SIDE {
        BATCH_SIZE
    } else {
        LARGE_IMAGES
    }
}

/// A network's score on images, all together and by class.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The score on all images.
    pub total: Score,
    /// The part of the images, in percent, for which at most four classes have a larger logit than their own.
    pub top_5_accuracy: f64,
    /// The number of images in each class, and the score on them.
    pub classes: Vec<(usize, Score)>,
}

impl Evaluation {
    /// A row for each class, and one for all together.
    pub fn table(&self, class_names: &[String]) -> String {
        let width = class_names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or_default().max("class".len());
        let mut rows = vec![format!(
            "{:width$} {:>7} {:>8} {:>10}",
            "class", "images", "loss", "accuracy"
        )];
        let row = |name: &str, count: usize, score: Score| {
            format!(
                "{name:width$} {count:>7} {:>8.4} {:>8.2} %",
                score.loss, score.accuracy
            )
        };
        for (name, (count, score)) in class_names.iter().zip(&self.classes) {
            rows.push(row(name, *count, *score));
        }
        let images = self.classes.iter().map(|(count, _)| count).sum();
        rows.push(row("all", images, self.total));
        rows.join("\n")
    }
}

/// Evaluates a network in inference mode.
///
/// # Errors
///
/// If there are no images, or they cannot be loaded.
pub fn evaluate<N: ImageNetwork>(
    network: &N,
    images: &Arc<Images>,
    classes: usize,
    device: &Device,
    mut done: impl FnMut(usize),
) -> Result<Evaluation, Failure> {
    let network = network.valid();
    let at_once = evaluated_at_once(images);
    let loader = EpochLoader::evaluation(images.clone(), at_once, device)?;
    let mut count = vec![0usize; classes];
    let mut loss = vec![0f64; classes];
    let mut correct = vec![0usize; classes];
    let mut near = 0usize;
    let mut batches = loader.iter();
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let logits = network.logits(batch.images);
        let losses = cross_entropy(logits.clone(), batch.labels.clone());
        let predicted: Tensor<1, Int> = logits.clone().argmax(1).squeeze_dim(1);
        let labels: Vec<i64> = batch.labels.into_data().iter::<i64>().collect();
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        for (label, logits) in labels.iter().zip(logits.chunks_exact(classes)) {
            near += usize::from(is_near(logits, *label as usize));
        }
        let losses: Vec<f64> = losses.into_data().iter::<f64>().collect();
        let predicted: Vec<i64> = predicted.into_data().iter::<i64>().collect();
        for ((label, image_loss), predicted) in labels.into_iter().zip(losses).zip(predicted) {
            let class = label as usize;
            count[class] += 1;
            loss[class] += image_loss;
            correct[class] += usize::from(predicted == label);
        }
        done(batches.progress().items_processed);
    }
    let score = |count: usize, loss: f64, correct: usize| Score {
        loss: loss / count as f64,
        accuracy: 100.0 * correct as f64 / count as f64,
    };
    Ok(Evaluation {
        top_5_accuracy: 100.0 * near as f64 / count.iter().sum::<usize>() as f64,
        total: score(count.iter().sum(), loss.iter().sum(), correct.iter().sum()),
        classes: (0..classes)
            .map(|class| {
                (
                    count[class],
                    score(count[class], loss[class], correct[class]),
                )
            })
            .collect(),
    })
}

/// Tells whether at most four of an image's `logits` are larger than that of its `label`. Without a number for one, it is none.
fn is_near(logits: &[f32], label: usize) -> bool {
    let own = logits[label];
    let larger = logits.iter().filter(|it| **it > own).count();
    !own.is_nan() && larger < TOP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_largest_logit_is_near_and_the_sixth_is_not() {
        let logits = [0.5, 6.0, 2.0, 5.0, 3.0, 4.0, 1.0];
        let near: Vec<usize> = (0..7).filter(|label| is_near(&logits, *label)).collect();
        assert_eq!(near, [1, 2, 3, 4, 5]);
        assert!(!is_near(&[f32::NAN, 1.0], 0));
    }
}
