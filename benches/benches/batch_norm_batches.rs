//! The number of batches that the re-estimation of BatchNorm needs.
//!
//! PreResNet-8 at half its width is trained on the built-in images for six epochs of 63 batches of 64 at a constant learning
//! rate, and the weights after each of the last three are averaged. BatchNorm of that average is then re-estimated from the
//! first N batches of several passes over the training images, each in another order and with other augmentation. Each result
//! is evaluated on the 2,000 test images.
//!
//! `drift` is what the re-estimation itself reports: the change of the statistics over the last tenth of the samples, in
//! standard deviations. The last columns are the differences of test loss and accuracy from those with all batches: the mean
//! over the passes, and the worst.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::Learner;
use burn_swa_benches::rounds;
use swa_core::{Average, BatchNormReport, EqualWeights, ReestimationConfig, reestimate_batch_norm};
use swa_lab::data::{
    Augmentation, DataSource, EpochLoader, ImageBatch, ImageSet, Padding, Synthetic,
};
use swa_lab::measure::learner;
use swa_lab::run::classifier::Classifier;
use swa_lab::run::epoch_log::Score;
use swa_lab::run::evaluate::evaluate;
use swa_models::{PreResNet, PreResNetConfig};

const BATCH_SIZE: usize = 64;
const EPOCHS: usize = 6;
const PASSES: usize = 5;
const AUGMENTATION: Augmentation = Augmentation::CropAndFlip(Padding::Zero);

fn main() {
    let data = DataSource::Synthetic(Synthetic::default());
    let data = data.load(&|_, _| {}).expect("built-in images");
    let averaged = train(&data);

    let passes: Vec<_> = (0..rounds(PASSES))
        .map(|number| pass(&data, number))
        .collect();
    let all = data.train.len().div_ceil(BATCH_SIZE);
    let whole: Vec<_> = passes
        .iter()
        .map(|pass| score(&averaged, pass, all, &data))
        .collect();
    let reference = Score {
        loss: mean(whole.iter().map(|(_, score)| score.loss)),
        accuracy: mean(whole.iter().map(|(_, score)| score.accuracy)),
    };
    println!(
        "all {all} batches: test loss {:.4}, test accuracy {:.2} %",
        reference.loss, reference.accuracy
    );
    println!("batches  drift  test loss: mean, worst  accuracy: mean, worst");
    for batches in [1, 2, 4, 8, 16, 32, all] {
        let scores: Vec<_> = passes
            .iter()
            .map(|pass| score(&averaged, pass, batches, &data))
            .collect();
        let drift = mean(
            scores
                .iter()
                .map(|(report, _)| report.drift.unwrap_or(f64::NAN)),
        );
        let loss = scores.iter().map(|(_, score)| score.loss - reference.loss);
        let accuracy = scores
            .iter()
            .map(|(_, score)| score.accuracy - reference.accuracy);
        println!(
            "{batches:7}  {drift:.4}  {:+.4}, {:+.4}         {:+.2}, {:+.2}",
            mean(loss.clone()),
            loss.fold(0.0, farther),
            mean(accuracy.clone()),
            accuracy.fold(0.0, farther),
        );
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the number that is farther from 0.
fn farther(one: f64, other: f64) -> f64 {
    if other.abs() > one.abs() { other } else { one }
}

/// The `number`th pass over the training images. Each has its own order and augmentation.
fn pass(data: &ImageSet, number: usize) -> EpochLoader {
    let device = Device::flex().autodiff();
    let (images, seed) = (data.train.clone(), number as u64);
    let loader = EpochLoader::reestimation(images, BATCH_SIZE, AUGMENTATION, seed, &device);
    loader.expect("images")
}

/// The average of the weights after the last epochs.
fn train(data: &ImageSet) -> PreResNet {
    let device = Device::flex().autodiff();
    device.seed(1);
    let config = PreResNetConfig::new(8).with_width_divisor(2);
    let network = config.init(&device).expect("a network of the paper");
    let mut average = Average::new(&network, EqualWeights).expect("a network");
    let classifier = Classifier::new(network, Arc::default());
    let mut learner: Learner<Classifier<PreResNet>> = learner(classifier, 0.05);
    let images = data.train.clone();
    let loader = EpochLoader::training(images, BATCH_SIZE, AUGMENTATION, 1, &device);
    let loader = loader.expect("images");
    for epoch in 1..=EPOCHS {
        for batch in loader.iter() {
            let output = learner.train_step(batch.expect("images in memory"));
            learner.lr_step();
            learner.optimizer_step(output.grads);
        }
        if epoch > EPOCHS - 3 {
            average
                .update(&learner.model().into_network())
                .expect("finite weights");
        }
    }
    average.model().expect("an average")
}

/// Re-estimates from the first batches of a pass, and evaluates.
fn score(
    averaged: &PreResNet,
    pass: &EpochLoader,
    batches: usize,
    data: &ImageSet,
) -> (BatchNormReport, Score) {
    let (model, report) = reestimate_batch_norm(
        averaged,
        &ReestimationConfig::new().with_first_batches(Some(batches)),
        pass.iter(),
        |network: &PreResNet, batch: ImageBatch| {
            let count = batch.images.dims()[0];
            network.forward(batch.images);
            count
        },
    )
    .expect("statistics");
    let classes = data.class_names.len();
    let evaluation = evaluate(&model.valid(), &data.test, classes, &Device::flex(), |_| {});
    (report, evaluation.expect("images").total)
}
