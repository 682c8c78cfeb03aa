//! The memory that averaging takes.
//!
//! Three epochs of VGG16 with BatchNorm through Burn's `Learner` on flex: the bare model, and the model
//! in `Swa`, which collects after every epoch, and is validated with its BatchNorm re-estimated. Each
//! run is a process of its own. Its peak is that of its resident memory (`VmHWM`), so a machine must have
//! this much. **Limit: 1.1 f32 copies of the parameters more than the bare run.**
//!
//! With batches of 8 images, the peak consists of parameters; with the paper's 128, of activations.
//!
//! With Burn's checkpoints, there is a second copy while a checkpoint is written: Burn 0.22.1 copies
//! everything that a checkpoint will hold, and it holds the average beside the live model. Small batches
//! show this. With large ones, this takes less memory than a step does.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use burn::train::metric::{Adaptor, LossInput, LossMetric};
use burn::train::{
    ClassificationOutput, InferenceStep, LearnerModel, SupervisedTraining, TrainStep,
};
use burn_swa_benches::{peak_megabytes, print_peak, rounds};
use swa_lab::data::{Augmentation, EpochLoader, ImageBatch, Images};
use swa_lab::measure::{LEARNING_RATE, Spread, by_turns, images, learner, swa};
use swa_lab::run::classifier::Classifier;
use swa_lab::run::progress::{PlainRenderer, Progress};
use swa_models::{Vgg, VggConfig};
use swa_train::{Collect, RunLength, SwaConfig};

const ROUNDS: usize = 3;
const EPOCHS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [model, checkpoints, batch_size] = arguments.as_slice() {
        let batch_size = batch_size.parse().expect("a number");
        train(model == "swa", checkpoints == "with", batch_size);
        print_peak();
        return;
    }

    let copy = (size_of::<f32>() * network().num_params()) as f64 / 1e6;
    for (batch_size, checkpoints) in [("8", "without"), ("8", "with"), ("128", "with")] {
        let [bare, swa] = by_turns(
            rounds(ROUNDS),
            [
                &mut || peak_megabytes(&["bare", checkpoints, batch_size]),
                &mut || peak_megabytes(&["swa", checkpoints, batch_size]),
            ],
        );
        let more = bare.iter().zip(&swa).map(|(bare, swa)| (swa - bare) / copy);
        println!(
            "batches of {batch_size}, {checkpoints} checkpoints: SWA {:.0} MB, bare {:.0} MB: \
             {:.2} copies of the parameters ({copy:.0} MB) more, limit 1.1",
            Spread::of(swa.iter().copied()).median,
            Spread::of(bare.iter().copied()).median,
            Spread::of(more),
        );
    }
}

fn network() -> Vgg {
    let device = Device::flex().autodiff();
    let config = VggConfig::new(16).with_batch_norm(true);
    config.init(&device).expect("a network of the paper")
}

fn train(with_swa: bool, with_checkpoints: bool, batch_size: usize) {
    let images = images(batch_size.max(32));
    if with_swa {
        let run = RunLength::of_items(EPOCHS, images.len(), batch_size).expect("a run");
        let collect = Collect::from_epoch(1, &run).expect("within the run");
        let config = SwaConfig::new(collect);
        let model = swa(network(), config, &images, batch_size, &Device::flex());
        let model = model.expect("a network that can be averaged");
        let model = launch(model, &images, with_checkpoints, batch_size);
        assert_eq!(
            (model.updates(), model.failure().is_some()),
            (EPOCHS, false)
        );
        assert!(model.batch_norm_report().is_some(), "validated");
    } else {
        let model = Classifier::new(network(), Arc::default());
        launch(model, &images, with_checkpoints, batch_size);
    }
}

/// Trains, validates and returns the model.
fn launch<M>(model: M, images: &Arc<Images>, with_checkpoints: bool, batch_size: usize) -> M
where
    M: LearnerModel
        + TrainStep<Input = ImageBatch, Output = ClassificationOutput>
        + InferenceStep<Input = ImageBatch>,
    <M as InferenceStep>::Output: Adaptor<LossInput>,
{
    let directory = tempfile::tempdir().expect("a directory");
    let device = Device::flex();
    let train = EpochLoader::training(images.clone(), batch_size, Augmentation::None, 0, &device);
    let valid = EpochLoader::evaluation(images.clone(), batch_size, &device);
    let mut training = SupervisedTraining::new(
        directory.path(),
        Arc::new(train.expect("images")),
        Arc::new(valid.expect("images")),
    )
    .metrics((LossMetric::new(),))
    .renderer(Box::new(PlainRenderer::new(Progress::of_images())))
    .with_application_logger(None)
    .num_epochs(EPOCHS);
    if with_checkpoints {
        training = training.with_default_checkpointers();
    }
    let result = training.launch(learner(model, LEARNING_RATE));
    assert!(result.error.is_none());
    result.model
}
