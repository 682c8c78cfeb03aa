//! A classifier of texts: a transformer, trained by Adam along Noam's schedule, with accumulated gradients.
//!
//! With an EMA: 3 lines added or changed. With SWA from epoch 4 on: 7.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::lr_scheduler::noam::NoamLrSchedulerConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::transformer::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
};
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::random::bits;
use burn_swa_test_support::renderer::Recorder;
use swa_train::load_averaged;
use swa_train::{Collect, RunLength, Swa, SwaConfig}; // SWA
use tempfile::TempDir;

use crate::record::{History, alone, assert_same_bits, assert_weights, ema_of, mean_of};

const EPOCHS: usize = 6;
const SWA_START: usize = 4; // SWA
const BATCH_SIZE: usize = 8;
/// Five batches, and so three optimizer steps, of which the last is of one batch.
const TEXTS: usize = 38;
const ACCUMULATED: usize = 2;
const STEPS_PER_EPOCH: usize = 3;
const WORDS: usize = 12;
const LENGTH: usize = 6;
const WIDTH: usize = 16;

/// The program.
fn without_swa(given: &Given) -> Result<Text, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Text::new(&device);
    let (train_loader, valid_loader) = (loader(texts(0)), loader(texts(1)));
    let learning_rate = NoamLrSchedulerConfig::new(0.1)
        .with_warmup_steps(6)
        .with_model_size(WIDTH)
        .init()?;
    let training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .grads_accumulation(ACCUMULATED)
        .with_default_checkpointers()
        .renderer(Box::new(given.recorder.clone()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let result = training.launch(Learner::new(model, AdamConfig::new().init(), learning_rate));

    let model = result.model;
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(model)
}

/// The same with an EMA.
fn with_ema(given: &Given) -> Result<Trained, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Text::new(&device);
    let model = SwaConfig::ema(0.999).init_without_data(model)?; // SWA
    let (train_loader, valid_loader) = (loader(texts(0)), loader(texts(1)));
    let learning_rate = NoamLrSchedulerConfig::new(0.1)
        .with_warmup_steps(6)
        .with_model_size(WIDTH)
        .init()?;
    let training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .grads_accumulation(ACCUMULATED)
        .with_default_checkpointers()
        .renderer(Box::new(given.recorder.clone()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let result = training.launch(Learner::new(model, AdamConfig::new().init(), learning_rate));

    let model = result.model.averaged_model()?; // SWA
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(Trained {
        averaged: model,
        swa: result.model,
    })
}

/// The same with SWA. `told` is the number of batches to a step that the run's length is told of.
fn with_swa(given: &Given, told: usize) -> Result<Trained, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Text::new(&device);
    let (train_loader, valid_loader) = (loader(texts(0)), loader(texts(1)));
    let run = RunLength::of_loader(EPOCHS, &train_loader, BATCH_SIZE)?; // SWA
    let run = run.with_gradient_accumulation(told)?; // SWA
    let collect = Collect::from_epoch(SWA_START, &run)?; // SWA
    let model = SwaConfig::new(collect).init_without_data(model)?; // SWA
    let learning_rate = NoamLrSchedulerConfig::new(0.1)
        .with_warmup_steps(6)
        .with_model_size(WIDTH)
        .init()?;
    let training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .grads_accumulation(ACCUMULATED)
        .with_default_checkpointers()
        .renderer(Box::new(given.recorder.clone()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let result = training.launch(Learner::new(model, AdamConfig::new().init(), learning_rate));

    let model = result.model.averaged_model()?; // SWA
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(Trained {
        averaged: model,
        swa: result.model,
    })
}

/// The arguments that a test gives to the program.
struct Given {
    directory: TempDir,
    recorder: Recorder,
}

impl Given {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            recorder: Recorder::default(),
        }
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }
}

struct Trained {
    averaged: Text,
    swa: Swa<Text>,
}

/// The fields are in the order of Burn's example `text-classification`, which is not that of the forward pass.
#[derive(Module, Debug)]
struct Text {
    transformer: TransformerEncoder,
    embedding_token: Embedding,
    embedding_position: Embedding,
    output: Linear,
    #[module(skip)]
    history: History,
}

impl Text {
    fn new(device: &Device) -> Self {
        Self {
            // With its dropout of 0.1.
            transformer: TransformerEncoderConfig::new(WIDTH, 32, 2, 2).init(device),
            embedding_token: EmbeddingConfig::new(WORDS, WIDTH).init(device),
            embedding_position: EmbeddingConfig::new(LENGTH, WIDTH).init(device),
            output: LinearConfig::new(WIDTH, 2).init(device),
            history: History::default(),
        }
    }

    /// Logits `[batch, 2]` of texts `[batch, 6]`.
    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [batch, length] = tokens.dims();
        let positions = Tensor::arange(0..length as i64, &tokens.device());
        let positions = positions.reshape([1, length]).repeat_dim(0, batch);
        let embedding =
            (self.embedding_position.forward(positions) + self.embedding_token.forward(tokens)) / 2;
        let encoded = TransformerEncoderInput::new(embedding);
        let encoded = self.transformer.forward(encoded);
        let first = encoded.slice([0..batch, 0..1]).reshape([batch, WIDTH]);
        self.output.forward(first)
    }

    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let output = self.forward(batch.tokens);
        let loss = CrossEntropyLossConfig::new().init(&output.device());
        let loss = loss.forward(output.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, output, batch.labels)
    }
}

impl TrainStep for Text {
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

impl InferenceStep for Text {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}

/// Words at random. The class is of the first one.
fn texts(stream: u64) -> Vec<[i64; LENGTH]> {
    let words: Vec<i64> = bits(stream, TEXTS * LENGTH)
        .map(|bits| (bits % WORDS as u64) as i64)
        .collect();
    let texts = words.chunks_exact(LENGTH);
    texts.map(|text| text.try_into().unwrap()).collect()
}

#[derive(Debug, Clone)]
struct Batch {
    tokens: Tensor<2, Int>,
    labels: Tensor<1, Int>,
}

struct ToBatch;

impl Batcher<[i64; LENGTH], Batch> for ToBatch {
    fn batch(&self, texts: Vec<[i64; LENGTH]>, device: &Device) -> Batch {
        let count = texts.len();
        let labels: Vec<i64> = texts.iter().map(|text| text[0] % 2).collect();
        let tokens: Vec<i64> = texts.into_iter().flatten().collect();
        Batch {
            tokens: Tensor::from_data(TensorData::new(tokens, [count, LENGTH]), device),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
        }
    }
}

fn loader(texts: Vec<[i64; LENGTH]>) -> Arc<dyn DataLoader<Batch>> {
    DataLoaderBuilder::new(ToBatch)
        .batch_size(BATCH_SIZE)
        .build(InMemDataset::new(texts))
}

/// Asserts that the files give the averaged model, without wrapper and training.
fn assert_files_give(averaged: &Text, given: &Given) {
    let plain = || Text::new(&Device::default());
    let loaded = plain().load_file(given.directory().join("model.bpk"));
    assert_same_bits(&loaded, averaged);
    let tokens = ToBatch.batch(texts(1), &Device::default()).tokens;
    let outputs = |model: &Text| values(model.forward(tokens.clone()));
    assert_eq!(outputs(&loaded), outputs(averaged));

    let checkpoint = given.directory().join("checkpoint/model-6.bpk");
    let from_checkpoint = load_averaged(checkpoint, plain()).unwrap();
    assert_same_bits(&from_checkpoint, averaged);
}

#[test]
fn the_transformer_trains_as_without_ema_and_swa() {
    let _alone = alone();
    let alone = without_swa(&Given::new()).unwrap();
    assert_eq!(alone.history.all().len(), EPOCHS * STEPS_PER_EPOCH);
    let ema = with_ema(&Given::new()).unwrap();
    assert_same_bits(ema.swa.live(), &alone);
    let swa = with_swa(&Given::new(), ACCUMULATED).unwrap();
    assert_same_bits(swa.swa.live(), &alone);
}

#[test]
fn the_transformers_ema_is_timms() {
    let _alone = alone();
    let given = Given::new();
    let Trained { averaged, swa } = with_ema(&given).unwrap();
    let history = swa.live().history.all();
    assert_eq!(swa.updates(), history.len());
    assert_weights(&averaged, &ema_of(&history, 0.999));
    assert_files_give(&averaged, &given);
}

#[test]
fn the_transformers_average_is_the_mean_of_epochs() {
    let _alone = alone();
    let given = Given::new();
    let Trained { averaged, swa } = with_swa(&given, ACCUMULATED).unwrap();
    let history = &swa.live().history;
    let collected = history.at_the_ends_of(SWA_START..=EPOCHS, STEPS_PER_EPOCH);
    assert_weights(&averaged, &mean_of(&collected));
    assert_files_give(&averaged, &given);
}

#[test]
fn an_accumulation_that_was_forgotten_is_told() {
    let _alone = alone();
    let error = with_swa(&Given::new(), 1).err().unwrap().to_string();
    let expected =
        "an epoch of this training has 3 optimizer steps, and `RunLength` says 5: tell it";
    assert!(error.contains(expected), "{error}");
    for remedy in ["`with_gradient_accumulation`", "`RunLength::new(6, 3)`"] {
        assert!(error.contains(remedy), "{error}");
    }
    assert!(error.contains("`with_gradient_accumulation`"), "{error}");
}
