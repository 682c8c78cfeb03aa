//! Burn's usual training program, with SWA turned on. The lines that do so are marked `SWA`.

mod digits;
mod lines;
mod model;

use burn::data::dataloader::DataLoaderBuilder;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{SgdConfig, decay::WeightDecayConfig};
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Learner, SupervisedTraining};
use swa_train::{Collect, ModelMetric, PaperLrSchedulerConfig, RunLength, SwaConfig}; // SWA

use digits::{DigitBatcher, digits};
use model::Model;

const EPOCHS: usize = 12;
const SWA_START: usize = 8; // SWA: about three quarters of the run
const BATCH_SIZE: usize = 64;
const TRAIN_ITEMS: usize = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::default().autodiff();
    device.seed(42);

    let train_loader = DataLoaderBuilder::new(DigitBatcher)
        .batch_size(BATCH_SIZE)
        .shuffle(42)
        .build(digits(TRAIN_ITEMS, 1));
    let valid_loader = DataLoaderBuilder::new(DigitBatcher)
        .batch_size(BATCH_SIZE)
        .build(digits(2000, 2));

    let run = RunLength::of_loader(EPOCHS, &train_loader, BATCH_SIZE)?; // SWA
    let collect = Collect::from_epoch(SWA_START, &run)?; // SWA: when to average

    let momentum = MomentumConfig::new().with_dampening(0.0);
    let optimizer = SgdConfig::new()
        .with_momentum(Some(momentum))
        .with_weight_decay(Some(WeightDecayConfig::new(5e-4)))
        .init();
    let learning_rate = PaperLrSchedulerConfig::swa(0.05, 0.02, &collect).init()?; // SWA: it stays high

    let directory = std::env::temp_dir().join("swa-quickstart");
    let mut training = SupervisedTraining::new(&directory, train_loader.clone(), valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .metric_valid_numeric(ModelMetric::new("live", AccuracyMetric::new())) // SWA
        .metric_valid_numeric(ModelMetric::new("live", LossMetric::new())) // SWA
        .num_epochs(EPOCHS)
        .summary();
    if let Some(renderer) = lines::unless_on_a_terminal() {
        training = training.renderer(renderer);
    }
    let model = SwaConfig::new(collect).init(Model::new(&device), train_loader)?; // SWA: the one wrapper
    let model = model.with_interrupter(training.interrupter()); // SWA: a failure stops the training
    let model = model.with_metrics_of(&["live"])?; // SWA: show SGD's own metrics too
    let result = training.launch(Learner::new(model, optimizer, learning_rate));

    drop(result.renderer); // gives the terminal back
    let updates = result.model.swa().updates();
    let averaged: Model = result.model.averaged_model()?; // SWA: the averaged model, ready to use
    let (image, label) = digits::example();
    println!(
        "\nThe average of {updates} epochs' weights reads a {label} as a {}.",
        averaged.classify(image)
    );
    Ok(())
}
