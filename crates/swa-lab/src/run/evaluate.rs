//! The score of a network on images, class by class.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::{Device, Int, Tensor};

use crate::Failure;
use crate::data::{EpochLoader, Images};
use crate::run::classifier::{ImageNetwork, cross_entropy};
use crate::run::epoch_log::Score;

/// Images are evaluated in batches of this many, here and during training.
pub const BATCH_SIZE: usize = 250;

/// A network's score on images, all together and by class.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The score on all images.
    pub total: Score,
    /// The number of images in each class, and the score on them.
    pub classes: Vec<(usize, Score)>,
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
    let loader = EpochLoader::evaluation(images.clone(), BATCH_SIZE, device)?;
    let mut count = vec![0usize; classes];
    let mut loss = vec![0f64; classes];
    let mut correct = vec![0usize; classes];
    let mut batches = loader.iter();
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let logits = network.logits(batch.images);
        let losses = cross_entropy(logits.clone(), batch.labels.clone());
        let predicted: Tensor<1, Int> = logits.argmax(1).squeeze_dim(1);
        let labels: Vec<i64> = batch.labels.into_data().iter::<i64>().collect();
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
