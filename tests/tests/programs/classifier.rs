//! A convolutional classifier of images with BatchNorm, trained by AdamW along a cosine, with early stopping and checkpoints.
//!
//! With SWA from epoch 5 on, and its learning rate after the cosine: 9 lines added or changed.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, MetricEarlyStoppingStrategy, StoppingCondition,
    SupervisedTraining, TrainOutput, TrainStep,
};
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::random::uniform;
use burn_swa_test_support::renderer::Recorder;
use swa_train::{Collect, RunLength, Swa, SwaConfig, SwaLrSchedulerConfig}; // SWA
use swa_train::{load_averaged, load_live};
use tempfile::TempDir;

use crate::record::{History, alone, assert_same_bits, assert_weights, mean_of};

const EPOCHS: usize = 8;
const SWA_START: usize = 5; // SWA
const BATCH_SIZE: usize = 12;
/// Five batches, of which the last has 2 images.
const IMAGES: usize = 50;
const STEPS_PER_EPOCH: usize = 5;
const SIDE: usize = 8;

/// The program.
fn without_swa(
    given: &Given,
    learning_rate: impl Into<ModuleLrScheduler>,
) -> Result<Cnn, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Cnn::new(&device);
    let (train_loader, valid_loader) = (loader(given.train.clone()), loader(given.valid.clone()));

    let training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .early_stopping(no_improvement_since(given.patience))
        .with_default_checkpointers()
        .renderer(Box::new(given.recorder.clone()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let result = training.launch(Learner::new(
        model,
        AdamWConfig::new().init(),
        learning_rate,
    ));

    let model = result.model;
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(model)
}

/// The same with SWA.
fn with_swa(
    given: &Given,
    learning_rate: impl Into<ModuleLrScheduler>,
) -> Result<Trained, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Cnn::new(&device);
    let (train_loader, valid_loader) = (loader(given.train.clone()), loader(given.valid.clone()));
    let run = RunLength::of_loader(EPOCHS, &train_loader, BATCH_SIZE)?; // SWA
    let collect = Collect::from_epoch(SWA_START, &run)?; // SWA
    let model = SwaConfig::new(collect).init(model, train_loader.clone())?; // SWA
    let swa_rate = SwaLrSchedulerConfig::from_collect(&collect, 0.01, 2)?; // SWA
    let learning_rate = swa_rate.init(learning_rate)?; // SWA

    let training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .early_stopping(no_improvement_since(given.patience))
        .with_default_checkpointers()
        .renderer(Box::new(given.recorder.clone()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let model = model.with_interrupter(training.interrupter()); // SWA
    let result = training.launch(Learner::new(
        model,
        AdamWConfig::new().init(),
        learning_rate,
    ));

    let model = result.model.averaged_model()?; // SWA
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(Trained {
        averaged: model,
        swa: result.model,
    })
}

/// The cosine over the whole run, of Burn.
fn cosine() -> ModuleLrScheduler {
    let config = CosineAnnealingLrSchedulerConfig::new(0.02, EPOCHS * STEPS_PER_EPOCH);
    config.init().unwrap()
}

/// The arguments that a test gives to the program.
struct Given {
    directory: TempDir,
    train: Vec<Image>,
    valid: Vec<Image>,
    /// The number of epochs without improvement after which the training stops.
    patience: usize,
    recorder: Recorder,
}

impl Given {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            train: images(0),
            valid: images(7),
            patience: EPOCHS,
            recorder: Recorder::default(),
        }
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }
}

struct Trained {
    averaged: Cnn,
    swa: Swa<Cnn>,
}

fn no_improvement_since(n_epochs: usize) -> MetricEarlyStoppingStrategy {
    MetricEarlyStoppingStrategy::new(
        &LossMetric::new(),
        Aggregate::Mean,
        Direction::Lowest,
        Split::Valid,
        StoppingCondition::NoImprovementSince { n_epochs },
    )
}

#[derive(Module, Debug)]
struct Cnn {
    conv: Conv2d,
    norm: BatchNorm,
    output: Linear,
    #[module(skip)]
    history: History,
}

impl Cnn {
    fn new(device: &Device) -> Self {
        Self {
            conv: Conv2dConfig::new([1, 4], [3, 3]).init(device),
            norm: BatchNormConfig::new(4).init(device),
            output: LinearConfig::new(4, 3).init(device),
            history: History::default(),
        }
    }

    /// Logits `[batch, 3]` of images `[batch, 1, 8, 8]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let features = relu(self.norm.forward(self.conv.forward(images)));
        let [batch, channels, ..] = features.dims();
        let pooled = features
            .reshape([batch, channels, (SIDE - 2) * (SIDE - 2)])
            .mean_dim(2);
        self.output.forward(pooled.reshape([batch, channels]))
    }

    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let output = self.forward(batch.images);
        let loss = CrossEntropyLossConfig::new().init(&output.device());
        let loss = loss.forward(output.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, output, batch.labels)
    }
}

impl TrainStep for Cnn {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let model = optimizer.step(learning_rate, self, gradients);
        model.history.keep(&model);
        model
    }
}

impl InferenceStep for Cnn {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}

#[derive(Debug, Clone)]
struct Image {
    pixels: Vec<f32>,
    label: i64,
}

/// Noise, brighter in one third of the rows, which is the class.
fn images(stream: u64) -> Vec<Image> {
    let images = (0..IMAGES as u64).map(|index| {
        let label = index % 3;
        let mut pixels = uniform(stream + 100 * index, SIDE * SIDE, 1.0, 0.0);
        let start = label as usize * 20;
        for (row, pixel) in pixels[start..start + 20].iter_mut().enumerate() {
            *pixel += 0.3 * (row % (2 + label as usize)) as f32;
        }
        Image {
            pixels,
            label: label as i64,
        }
    });
    images.collect()
}

#[derive(Debug, Clone)]
struct Batch {
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

struct ToBatch;

impl Batcher<Image, Batch> for ToBatch {
    fn batch(&self, items: Vec<Image>, device: &Device) -> Batch {
        let count = items.len();
        let labels: Vec<i64> = items.iter().map(|image| image.label).collect();
        let pixels: Vec<f32> = items.into_iter().flat_map(|image| image.pixels).collect();
        Batch {
            images: Tensor::from_data(TensorData::new(pixels, [count, 1, SIDE, SIDE]), device),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
        }
    }
}

fn loader(images: Vec<Image>) -> Arc<dyn DataLoader<Batch>> {
    DataLoaderBuilder::new(ToBatch)
        .batch_size(BATCH_SIZE)
        .build(InMemDataset::new(images))
}

/// All images in one batch, for plain models in inference.
fn all(images: Vec<Image>) -> Batch {
    ToBatch.batch(images, &Device::default())
}

fn plain() -> Cnn {
    Cnn::new(&Device::default())
}

#[test]
fn the_classifier_trains_as_without_averaging() {
    let _alone = alone();
    let (given, given_without) = (Given::new(), Given::new());
    let trained = with_swa(&given, cosine()).unwrap();

    let run = RunLength::new(EPOCHS, STEPS_PER_EPOCH).unwrap();
    let collect = Collect::from_epoch(SWA_START, &run).unwrap();
    let swa_rate = SwaLrSchedulerConfig::from_collect(&collect, 0.01, 2).unwrap();
    let same_schedule = swa_rate.init(cosine()).unwrap();
    let alone = without_swa(&given_without, same_schedule).unwrap();

    assert_eq!(alone.history.all().len(), EPOCHS * STEPS_PER_EPOCH);
    assert_same_bits(trained.swa.live(), &alone);
    let losses = given.recorder.training("Loss");
    assert_eq!(losses, given_without.recorder.training("Loss"));
    assert!(losses[losses.len() - 1] < losses[0]);
}

#[test]
fn the_classifiers_average_is_the_mean_with_its_statistics() {
    let _alone = alone();
    let given = Given::new();
    let Trained { averaged, swa } = with_swa(&given, cosine()).unwrap();

    let history = &swa.live().history;
    let collected = history.at_the_ends_of(SWA_START..=EPOCHS, STEPS_PER_EPOCH);
    assert_eq!(swa.updates(), 4);
    assert_weights(&averaged, &mean_of(&collected));

    // One BatchNorm, right after the convolution: its statistics are those of the convolution's output.
    let features = averaged.conv.forward(all(given.train).images);
    let features = features.swap_dims(0, 1).reshape([4, -1]);
    let mean = features.clone().mean_dim(1);
    let variance = (features - mean.clone()).square().mean_dim(1);
    let close = |got: Tensor<1>, expected: Tensor<2>| {
        let pairs = values(got).into_iter().zip(values(expected));
        for (got, expected) in pairs {
            assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");
        }
    };
    close(averaged.norm.running_mean.value(), mean);
    close(averaged.norm.running_var.value(), variance);
}

#[test]
fn the_classifiers_files_give_the_average() {
    let _alone = alone();
    let given = Given::new();
    let Trained { averaged, swa } = with_swa(&given, cosine()).unwrap();

    let loaded = plain().load_file(given.directory().join("model.bpk"));
    assert_same_bits(&loaded, &averaged);
    let valid = all(given.valid.clone()).images;
    let outputs = |model: &Cnn| values(model.forward(valid.clone()));
    assert_eq!(outputs(&loaded), outputs(&averaged));

    // The model that the last validation showed, which ends with the mean over its batches.
    let checkpoint = given.directory().join("checkpoint/model-8.bpk");
    let from_checkpoint = load_averaged(&checkpoint, plain()).unwrap();
    assert_same_bits(&from_checkpoint, &averaged);
    let batches = loader(given.valid.clone());
    let losses = batches.iter().map(|batch| {
        let output = InferenceStep::step(&from_checkpoint, batch.unwrap());
        f64::from(output.loss.into_scalar::<f32>())
    });
    let losses: Vec<f64> = losses.collect();
    let shown = given.recorder.validation("Loss");
    let last = &shown[shown.len() - losses.len() - 1..shown.len() - 1];
    assert_eq!(last, losses);
    let live = load_live(&checkpoint, plain()).unwrap();
    assert_same_bits(&live, swa.live());
}

#[test]
fn stopping_before_the_first_collection_names_into_live() {
    let _alone = alone();
    let mut given = Given::new();
    given.patience = 1;
    for image in &mut given.valid {
        // The better the training, the worse the validation.
        image.label = (image.label + 1) % 3;
    }
    let error = with_swa(&given, cosine()).err().unwrap().to_string();
    assert!(
        error.starts_with(
            "nothing was averaged: the training ended at the end of epoch 2 of 8 (by early stopping"
        ),
        "{error}"
    );
    assert!(
        error.contains("first time in epoch 5, after step 25. `into_live()` is the trained model"),
        "{error}"
    );
}

#[test]
fn a_nan_stops_the_classifier_and_its_step_is_named() {
    let _alone = alone();
    let mut given = Given::new();
    // The weights are NaN from step 3 on, and are first looked at when the first epoch ends.
    given.train[30].pixels[0] = f32::NAN;
    let error = with_swa(&given, cosine()).err().unwrap().to_string();
    let expected = "after optimizer step 5: parameter `conv.weight` holds a NaN or an infinity";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_wrapper_saved_in_place_of_its_model_is_refused() {
    let _alone = alone();
    let given = Given::new();
    let Trained { averaged, swa } = with_swa(&given, cosine()).unwrap();
    // The line of the program without SWA: it still compiles.
    let file = given.directory().join("wrapper.bpk");
    swa.save_file(&file).unwrap();
    let error = plain().try_load_file(&file).unwrap_err().to_string();
    assert!(error.contains("swa_train"), "{error}");
    assert_same_bits(&load_averaged(&file, plain()).unwrap(), &averaged);

    let model_file = given.directory().join("model.bpk");
    let error = load_averaged(model_file, plain()).unwrap_err().to_string();
    assert!(error.contains("the model itself loads it"), "{error}");
}
