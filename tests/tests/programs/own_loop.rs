//! Two training loops of one's own, for a classifier of points with BatchNorm: one without a `Learner`, as Burn's example
//! `custom-training-loop` has it, and one of a `Learner`'s methods.
//!
//! With SWA: 10 lines added or changed in the first, by an `Average` alone, and 6 in the second, by the wrapper.

use std::error::Error;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, Learner, TrainOutput, TrainStep};
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::points::{BATCH, Batch, ITEMS, loader};
use swa_train::swa_core::{Average, EqualWeights, ReestimationConfig, reestimate_batch_norm}; // SWA
use swa_train::{Collect, RunLength, Swa, SwaConfig}; // SWA
use swa_train::{load_averaged, load_live};

use crate::record::{History, alone, assert_same_bits, assert_weights, ema_of, mean_of};

const EPOCHS: usize = 6;
const SWA_START: usize = 4; // SWA
const LEARNING_RATE: f64 = 0.01;
const STEPS_PER_EPOCH: usize = 5;

/// The loop without a `Learner`.
fn without_swa() -> Result<Net, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let mut model = Net::new(&device);
    let mut optimizer = AdamConfig::new().init();
    let (train_loader, valid_loader) = (loader(), loader());

    for _epoch in 1..=EPOCHS {
        for batch in train_loader.iter() {
            let loss = model.classify(batch?).loss;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(LEARNING_RATE, model, gradients);
            model.history.keep(&model);
        }
        let validated = model.valid();
        for batch in valid_loader.iter() {
            validated.classify(batch?);
        }
    }
    Ok(model.valid())
}

/// The same with SWA.
fn with_swa() -> Result<(Net, Net), Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let mut model = Net::new(&device);
    let mut optimizer = AdamConfig::new().init();
    let (train_loader, valid_loader) = (loader(), loader());
    let mut average = Average::new(&model, EqualWeights)?; // SWA

    for epoch in 1..=EPOCHS {
        for batch in train_loader.iter() {
            let loss = model.classify(batch?).loss;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(LEARNING_RATE, model, gradients);
            model.history.keep(&model);
        }
        // SWA: three lines.
        if epoch >= SWA_START {
            average.update(&model)?;
        }
        let validated = model.valid();
        for batch in valid_loader.iter() {
            validated.classify(batch?);
        }
    }
    let forward = |model: &Net, batch: Batch| model.forward(batch.input).dims()[0]; // SWA
    let (averaged, batches) = (average.model()?, train_loader.iter()); // SWA
    let config = ReestimationConfig::new(); // SWA
    let (averaged, _) = reestimate_batch_norm(&averaged, &config, batches, forward)?; // SWA
    Ok((averaged, model.valid()))
}

/// The loop of a `Learner`'s methods.
fn learner_without_swa() -> Result<Net, Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Net::new(&device);
    let (train_loader, valid_loader) = (loader(), loader());
    let mut learner = Learner::new(model, AdamConfig::new().init(), LEARNING_RATE);

    for _epoch in 1..=EPOCHS {
        for batch in train_loader.iter() {
            let output = learner.train_step(batch?);
            learner.lr_step();
            learner.optimizer_step(output.grads);
        }
        let validated = learner.model().valid();
        for batch in valid_loader.iter() {
            InferenceStep::step(&validated, batch?);
        }
    }
    Ok(learner.model().valid())
}

/// The same with SWA.
fn learner_with_swa() -> Result<(Net, Swa<Net>), Box<dyn Error>> {
    let device = Device::default().autodiff();
    device.seed(42);
    let model = Net::new(&device);
    let (train_loader, valid_loader) = (loader(), loader());
    let run = RunLength::of_loader(EPOCHS, &train_loader, BATCH)?; // SWA
    let collect = Collect::from_epoch(SWA_START, &run)?; // SWA
    let model = SwaConfig::new(collect).init(model, train_loader.clone())?; // SWA
    let mut learner = Learner::new(model, AdamConfig::new().init(), LEARNING_RATE);

    for _epoch in 1..=EPOCHS {
        for batch in train_loader.iter() {
            let output = learner.train_step(batch?);
            learner.lr_step();
            learner.optimizer_step(output.grads);
        }
        let validated = learner.model().valid();
        for batch in valid_loader.iter() {
            InferenceStep::step(&validated, batch?);
        }
    }
    let averaged = learner.model().averaged_model()?; // SWA
    Ok((averaged, learner.model()))
}

#[derive(Module, Debug)]
struct Net {
    input: Linear,
    norm: BatchNorm,
    output: Linear,
    #[module(skip)]
    history: History,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            input: LinearConfig::new(2, 8).init(device),
            norm: BatchNormConfig::new(8).init(device),
            output: LinearConfig::new(8, 3).init(device),
            history: History::default(),
        }
    }

    fn forward(&self, points: Tensor<2>) -> Tensor<2> {
        let hidden = self.norm.forward(self.input.forward(points));
        self.output.forward(relu(hidden))
    }

    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let output = self.forward(batch.input);
        let loss = CrossEntropyLossConfig::new().init(&output.device());
        let loss = loss.forward(output.clone(), batch.targets.clone());
        ClassificationOutput::new(loss, output, batch.targets)
    }
}

impl TrainStep for Net {
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

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}

fn plain() -> Net {
    Net::new(&Device::default())
}

/// Asserts that BatchNorm, right after a linear layer, has the statistics of that layer's outputs on all points.
fn assert_statistics_of_all_points(model: &Net) {
    let all = loader().iter().map(|batch| batch.unwrap().input).collect();
    let hidden = model.input.forward(Tensor::cat(all, 0));
    assert_eq!(hidden.dims()[0], ITEMS);
    let mean = hidden.clone().mean_dim(0);
    let variance = (hidden - mean.clone()).square().mean_dim(0);
    let got = values(model.norm.running_mean.value()).into_iter();
    let got = got.chain(values(model.norm.running_var.value()));
    let expected = values(mean).into_iter().chain(values(variance));
    for (got, expected) in got.zip(expected) {
        assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");
    }
}

#[test]
fn a_loop_trains_as_without_an_average() {
    let _alone = alone();
    let alone = without_swa().unwrap();
    let (_averaged, live) = with_swa().unwrap();
    assert_same_bits(&live, &alone);
}

#[test]
fn a_loops_average_is_the_mean_with_its_statistics() {
    let _alone = alone();
    let (averaged, live) = with_swa().unwrap();
    let collected = live
        .history
        .at_the_ends_of(SWA_START..=EPOCHS, STEPS_PER_EPOCH);
    assert_weights(&averaged, &mean_of(&collected));
    assert_statistics_of_all_points(&averaged);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("averaged.bpk");
    averaged.clone().save_file(&file).unwrap();
    assert_same_bits(&plain().load_file(&file), &averaged);
}

#[test]
fn a_loop_of_a_learner_trains_as_without_swa() {
    let _alone = alone();
    let alone = learner_without_swa().unwrap();
    let (_averaged, swa) = learner_with_swa().unwrap();
    assert_same_bits(&swa.live().valid(), &alone);
}

#[test]
fn a_loop_of_a_learner_averages_and_saves_as_it_does() {
    let _alone = alone();
    let (averaged, swa) = learner_with_swa().unwrap();
    let history = &swa.live().history;
    let collected = history.at_the_ends_of(SWA_START..=EPOCHS, STEPS_PER_EPOCH);
    assert_weights(&averaged, &mean_of(&collected));
    assert_statistics_of_all_points(&averaged);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swa.bpk");
    let live = swa.live().valid();
    swa.save_file(&file).unwrap();
    assert_same_bits(&load_averaged(&file, plain()).unwrap(), &averaged);
    assert_same_bits(&load_live(&file, plain()).unwrap(), &live);
}

#[test]
fn a_nan_in_a_loop_is_an_error_of_the_update() {
    let _alone = alone();
    let device = Device::default().autodiff();
    let mut model = Net::new(&device);
    let mut average = Average::new(&model, EqualWeights).unwrap();
    average.update(&model).unwrap();
    let before = average.model().unwrap();
    model.output.weight = model
        .output
        .weight
        .map(|weight| weight.mul_scalar(f32::NAN));
    let error = average.update(&model).unwrap_err().to_string();
    assert!(
        error.starts_with("parameter `output.weight` holds a NaN"),
        "{error}"
    );
    assert_same_bits(&average.model().unwrap(), &before);
}

#[test]
fn a_nan_in_a_loop_of_a_learner_is_told_with_its_step() {
    let _alone = alone();
    let device = Device::default().autodiff();
    let model = Net::new(&device);
    let model = SwaConfig::ema(0.999).init_without_data(model).unwrap();
    let mut learner = Learner::new(model, AdamConfig::new().init(), LEARNING_RATE);
    for (index, batch) in loader().iter().enumerate() {
        let mut batch = batch.unwrap();
        if index == 2 {
            batch.input = batch.input * f32::NAN;
        }
        let output = learner.train_step(batch);
        learner.lr_step();
        learner.optimizer_step(output.grads);
        let failure = learner.model().failure();
        assert_eq!(failure.is_some(), index >= 2);
    }
    let swa = learner.model();
    let error = swa.averaged_model().unwrap_err().to_string();
    let expected = "after optimizer step 3: parameter `input.weight` holds a NaN";
    assert!(error.starts_with(expected), "{error}");
    // The last good average.
    let good = &swa.live().history.all()[..2];
    assert_weights(
        &swa.average().unwrap().model().unwrap(),
        &ema_of(good, 0.999),
    );
}
