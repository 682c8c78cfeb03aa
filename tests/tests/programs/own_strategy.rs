//! A `SupervisedLearningStrategy` of one's own, as in Burn's example `custom-learning-strategy`.
//!
//! With SWA: 7 lines added or changed in the program, and none in the strategy.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::AdamConfig;
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{
    EventProcessorTraining, InferenceStep, Learner, LearnerEvent, LearnerModel,
    SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader,
    TrainingComponents, TrainingItem, TrainingStrategy, ValidLoader,
};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::assert_is_mean_of;
use burn_swa_test_support::points::{BATCH, loader};
use burn_swa_test_support::renderer::Recorder;
use swa_train::load_averaged;
use swa_train::{Collect, RunLength, Swa, SwaConfig}; // SWA
use tempfile::TempDir;

use crate::record::assert_same_bits;

const EPOCHS: usize = 6;
const SWA_START: usize = 4; // SWA
const STEPS_PER_EPOCH: usize = 5;

/// The program.
fn without_swa(given: &Given) -> Result<Net, Box<dyn Error>> {
    let device = Device::default().autodiff();
    let model = given.model.clone();
    let strategy = OwnStrategy::new(device, given.epochs_a_validation);
    let (train_loader, valid_loader) = (loader(), loader());
    let training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .with_default_checkpointers()
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)))
        .renderer(Box::new(Recorder::default()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    let result = training.launch(Learner::new(model, AdamConfig::new().init(), 0.01));

    let model = result.model;
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(model)
}

/// The same with SWA, also from a checkpoint on.
fn with_swa(given: &Given, checkpoint: Option<usize>) -> Result<Trained, Box<dyn Error>> {
    let device = Device::default().autodiff();
    let model = given.model.clone();
    let strategy = OwnStrategy::new(device, given.epochs_a_validation);
    let (train_loader, valid_loader) = (loader(), loader());
    let run = RunLength::of_loader(EPOCHS, &train_loader, BATCH)?; // SWA
    let run = given.length(run);
    let collect = Collect::from_epoch(SWA_START, &run)?; // SWA
    let model = SwaConfig::new(collect).init(model, train_loader.clone())?; // SWA
    let mut training = SupervisedTraining::new(given.directory(), train_loader, valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .with_default_checkpointers()
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)))
        .renderer(Box::new(Recorder::default()))
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    if let Some(epoch) = checkpoint {
        training = training.checkpoint(epoch);
    }
    let model = model.with_interrupter(training.interrupter()); // SWA
    let result = training.launch(Learner::new(model, AdamConfig::new().init(), 0.01));

    let model = result.model.averaged_model()?; // SWA
    model
        .clone()
        .save_file(given.directory().join("model.bpk"))?;
    Ok(Trained {
        averaged: model,
        swa: result.model,
    })
}

/// Trains on one device, and validates at the end of every few epochs.
struct OwnStrategy {
    device: Device,
    epochs_a_validation: usize,
}

impl OwnStrategy {
    fn new(device: Device, epochs_a_validation: usize) -> Self {
        Self {
            device,
            epochs_a_validation,
        }
    }
}

impl<M: LearnerModel> SupervisedLearningStrategy<M> for OwnStrategy {
    fn fit(
        &self,
        components: TrainingComponents<M>,
        mut learner: Learner<M>,
        train_loader: TrainLoader<M>,
        valid_loader: ValidLoader<M>,
        starting_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let train_loader = train_loader.to_device(&self.device);
        let valid_loader = valid_loader.to_device(&self.device.clone().inner());
        learner.fork(&self.device);
        let mut events = components.event_processor;
        let mut checkpointer = components.checkpointer;
        let interrupter = components.interrupter;

        for epoch in starting_epoch..=components.num_epochs {
            interrupter.fail_on_error(events.process_train(LearnerEvent::StartSplit {
                epoch_number: epoch,
                total_items: train_loader.num_items(),
            }));
            let mut batches = train_loader.iter();
            let mut iteration = 0;
            while let Some(Ok(batch)) = batches.next()
                && !interrupter.should_stop()
            {
                iteration += 1;
                learner.lr_step();
                let output = learner.train_step(batch);
                learner.optimizer_step(output.grads);
                let rate = Some(learner.lr_current());
                let item =
                    TrainingItem::new(output.item, batches.progress(), Some(iteration), rate);
                interrupter.fail_on_error(events.process_train(LearnerEvent::ProcessedItem(item)));
            }
            interrupter.fail_on_error(events.process_train(LearnerEvent::EndSplit(epoch)));
            if interrupter.should_stop() {
                break;
            }

            if epoch.is_multiple_of(self.epochs_a_validation) {
                let model = learner.model().valid();
                interrupter.fail_on_error(events.process_valid(LearnerEvent::StartSplit {
                    epoch_number: epoch,
                    total_items: valid_loader.num_items(),
                }));
                let mut batches = valid_loader.iter();
                while let Some(Ok(batch)) = batches.next() {
                    let output = InferenceStep::step(&model, batch);
                    let item = TrainingItem::new(output, batches.progress(), None, None);
                    interrupter
                        .fail_on_error(events.process_valid(LearnerEvent::ProcessedItem(item)));
                }
                interrupter.fail_on_error(events.process_valid(LearnerEvent::EndSplit(epoch)));
            }
            interrupter.fail_on_error(events.process_train(LearnerEvent::EndEpoch(epoch)));

            if let Some(checkpointer) = &mut checkpointer {
                interrupter.fail_on_error(events.flush());
                checkpointer.checkpoint(&learner, epoch, &components.event_store);
            }
        }
        (learner.model(), events)
    }
}

/// The arguments that a test gives to the program.
struct Given {
    directory: TempDir,
    model: Net,
    /// The number of epochs from one validation to the next.
    epochs_a_validation: usize,
    is_length_checked: bool,
}

impl Given {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            model: Net::new(),
            epochs_a_validation: 1,
            is_length_checked: true,
        }
    }

    fn length(&self, run: RunLength) -> RunLength {
        if self.is_length_checked {
            run
        } else {
            run.unchecked()
        }
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Asserts that `averaged` is the mean of the weights at the ends of epochs 4, 5 and 6.
    fn assert_is_mean(&self, averaged: &Net) {
        let history = self.model.history.lock().unwrap();
        let ends = (SWA_START..=EPOCHS).map(|epoch| &history[epoch * STEPS_PER_EPOCH - 1]);
        assert_is_mean_of(averaged, &ends.collect::<Vec<_>>());
    }
}

struct Trained {
    averaged: Net,
    swa: Swa<Net>,
}

#[test]
fn a_strategy_trains_as_without_swa() {
    let alone = without_swa(&Given::new()).unwrap();
    let trained = with_swa(&Given::new(), None).unwrap();
    assert_same_bits(trained.swa.live(), &alone);
}

#[test]
fn a_strategys_average_is_the_mean_and_in_its_files() {
    let given = Given::new();
    let Trained { averaged, .. } = with_swa(&given, None).unwrap();
    given.assert_is_mean(&averaged);

    let loaded = Net::new().load_file(given.directory().join("model.bpk"));
    assert_same_bits(&loaded, &averaged);
    let checkpoint = given.directory().join("checkpoint/model-6.bpk");
    assert_same_bits(&load_averaged(checkpoint, Net::new()).unwrap(), &averaged);
}

#[test]
fn a_strategy_goes_on_from_a_checkpoint_to_the_same_bits() {
    let given = Given::new();
    let whole = with_swa(&given, None).unwrap();
    let resumed = with_swa(&given, Some(5)).unwrap();
    assert_same_bits(resumed.swa.live(), whole.swa.live());
    assert_same_bits(&resumed.averaged, &whole.averaged);
}

#[test]
fn a_strategy_may_validate_every_second_epoch_if_it_says_so() {
    let mut given = Given::new();
    given.epochs_a_validation = 2;
    let error = with_swa(&given, None).err().unwrap().to_string();
    assert!(error.contains("`unchecked()`"), "{error}");

    let mut given = Given::new();
    given.epochs_a_validation = 2;
    given.is_length_checked = false;
    let Trained { averaged, .. } = with_swa(&given, None).unwrap();
    given.assert_is_mean(&averaged);
}

#[test]
fn a_nan_stops_a_strategy_and_its_step_is_named() {
    let mut given = Given::new();
    // The weights are collected after step 20.
    given.model = given.model.diverging_at(20);
    let error = with_swa(&given, None).err().unwrap().to_string();
    let expected = "after optimizer step 20: parameter `input.weight` holds a NaN or an infinity";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(given.model.history.lock().unwrap().len(), 20);
}
