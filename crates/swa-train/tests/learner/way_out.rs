//! The ways out of a training: models from checkpoints, and the way from and to trainings without SWA.

use std::path::{Path, PathBuf};

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::train::metric::LossMetric;
use burn::train::{Learner, LearnerModel, LearningResult};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, floats, weights};
use burn_swa_test_support::renderer::Recorder;
use swa_train::{
    Collect, RunLength, Swa, SwaConfig, SwaError, SwaLrSchedulerConfig, load_averaged, load_live,
    write_plain_checkpoint,
};

use super::{EPOCHS, in_temporary_folder, loader, run_length, train_swa, training, wrap};

fn model_file(directory: &Path, epoch: usize) -> PathBuf {
    directory.join(format!("checkpoint/model-{epoch}.bpk"))
}

/// Trains up to epoch `until` with checkpoints, from that of epoch `from` if there is one.
fn train_in<M>(
    directory: &Path,
    learner: Learner<M>,
    from: Option<usize>,
    until: usize,
) -> LearningResult<M>
where
    M: LearnerModel
        + burn::train::TrainStep<Input = super::Batch>
        + burn::train::InferenceStep<Input = super::Batch>,
{
    let training = training(directory)
        .with_default_checkpointers()
        .with_checkpointing_strategy(burn::train::checkpoint::KeepLastNCheckpoints::new(9))
        .num_epochs(until);
    let training = match from {
        Some(epoch) => training.checkpoint(epoch),
        None => training,
    };
    training.launch(learner)
}

/// A cosine over the run, to which the SWA rate is joined at epoch 3 if there is SWA.
fn cosine() -> CosineAnnealingLrSchedulerConfig {
    CosineAnnealingLrSchedulerConfig::new(0.1, run_length().total_steps())
}

fn optimizer() -> burn::optim::ModuleOptimizer {
    let momentum = burn::optim::momentum::MomentumConfig::new().with_dampening(0.0);
    let config = burn::optim::SgdConfig::new();
    config.with_momentum(Some(momentum)).init()
}

fn plain() -> Learner<Net> {
    Learner::new(Net::new(), optimizer(), cosine().init().unwrap())
}

fn with_swa(plain_epochs: usize) -> Learner<Swa<Net>> {
    let run = run_length().with_plain_epochs(plain_epochs);
    let collect = Collect::from_epoch(3, &run).unwrap();
    let schedule = SwaLrSchedulerConfig::from_collect(&collect, 0.05, 1).unwrap();
    let schedule = schedule.init(cosine().init().unwrap()).unwrap();
    let swa = SwaConfig::new(collect).init(Net::new(), loader()).unwrap();
    Learner::new(swa, optimizer(), schedule)
}

#[test]
fn a_checkpoint_gives_the_model_that_validation_showed() {
    in_temporary_folder(|directory| {
        let recorder = Recorder::default();
        let result = training(directory)
            .renderer(Box::new(recorder.clone()))
            .metrics((LossMetric::new(),))
            .with_default_checkpointers()
            .launch(super::learner(wrap(Net::new())));
        // Neither a loader nor a training.
        let averaged = load_averaged(model_file(directory, EPOCHS), Net::new()).unwrap();
        let expected = floats(&result.model.averaged_model().unwrap());
        assert_eq!(floats(&averaged), expected);
        let live = load_live(model_file(directory, EPOCHS), Net::new()).unwrap();
        assert_eq!(floats(&live), floats(result.model.live()));
        assert_ne!(floats(&averaged), floats(&live));
    });
}

#[test]
fn whatever_a_wrapper_is_saved_to_gives_both_models() {
    let (result, _) = train_swa(|training| training);
    let expected = [
        floats(&result.model.averaged_model().unwrap()),
        floats(result.model.live()),
    ];
    in_temporary_folder(|directory| {
        let file = directory.join("model.bpk");
        // As a program without SWA saves its model.
        result.model.into_record().save(&file).unwrap();
        let models = [
            load_averaged(&file, Net::new()).unwrap(),
            load_live(&file, Net::new()).unwrap(),
        ];
        assert_eq!(models.map(|model| floats(&model)), expected);

        let error = Net::new().try_load_file(&file).unwrap_err().to_string();
        assert!(
            error.contains("Unused tensors: [\"swa_train.average."),
            "{error}"
        );
    });
}

#[test]
fn a_checkpoint_of_swag_gives_both_models() {
    let swag = super::ensembles::swag();
    let result = in_temporary_folder(|folder| training(folder).launch(super::learner(swag)));
    let expected = [
        floats(&result.model.averaged_model().unwrap()),
        floats(result.model.live()),
    ];
    in_temporary_folder(|directory| {
        let file = directory.join("model.bpk");
        result.model.save_file(&file).unwrap();
        let models = [
            load_averaged(&file, Net::new()).unwrap(),
            load_live(&file, Net::new()).unwrap(),
        ];
        assert_eq!(models.map(|model| floats(&model)), expected);
    });
}

#[test]
fn statistics_that_no_validation_followed_are_not_given() {
    // Stopped within its second epoch.
    let run = run_length().unchecked();
    let swa = SwaConfig::new(Collect::from_step(1, &run).unwrap());
    let swa = swa.init(Net::new(), loader()).unwrap();
    let mut learner = super::learner(swa);
    let on_autodiff = loader().to_device(&super::Device::default().autodiff());
    let batch = on_autodiff.iter().next().unwrap().unwrap();
    for _ in 0..3 {
        let output = learner.train_step(batch.clone());
        learner.lr_step();
        learner.optimizer_step(output.grads);
    }
    let swa = learner.model();
    in_temporary_folder(|directory| {
        let file = directory.join("model.bpk");
        swa.clone().save_file(&file).unwrap();
        let error = load_averaged(&file, Net::new()).unwrap_err();
        assert!(matches!(error, SwaError::NotReestimated { .. }), "{error}");
        // As the message says.
        let wrapper = SwaConfig::new(Collect::from_step(1, &run).unwrap());
        let wrapper = wrapper.init(Net::new(), loader()).unwrap();
        let averaged = wrapper
            .try_load_file(&file)
            .unwrap()
            .averaged_model()
            .unwrap();
        // Once it was re-estimated, the file has it.
        let expected = floats(&swa.averaged_model().unwrap());
        assert_eq!(floats(&averaged), expected);
        swa.save_file(&file).unwrap();
        assert_eq!(floats(&load_averaged(&file, Net::new()).unwrap()), expected);
        // So has one that is loaded and saved again, until the next update.
        let wrapper = SwaConfig::new(Collect::from_step(1, &run).unwrap());
        let wrapper = wrapper.init(Net::new(), loader()).unwrap();
        let wrapper = wrapper.try_load_file(&file).unwrap();
        wrapper.clone().save_file(&file).unwrap();
        assert_eq!(floats(&load_averaged(&file, Net::new()).unwrap()), expected);
        let mut learner = super::learner(wrapper);
        let output = learner.train_step(batch);
        learner.lr_step();
        learner.optimizer_step(output.grads);
        learner.model().save_file(&file).unwrap();
        let error = load_averaged(&file, Net::new()).unwrap_err();
        assert!(matches!(error, SwaError::NotReestimated { .. }), "{error}");
    });
}

#[test]
fn a_file_without_an_average_says_what_it_is() {
    in_temporary_folder(|directory| {
        let refused = |file: &Path| {
            let error = load_averaged(file, Net::new()).unwrap_err().to_string();
            assert!(error.contains(&file.display().to_string()), "{error}");
            error
        };
        let file = directory.join("early.bpk");
        wrap(Net::new()).save_file(&file).unwrap();
        assert!(refused(&file).contains("nothing had been averaged"));
        load_live(&file, Net::new()).unwrap();

        let file = directory.join("plain.bpk");
        Net::new().save_file(&file).unwrap();
        assert!(refused(&file).contains("it is not of a training with SWA"));
        assert!(load_live(&file, Net::new()).is_err());

        let file = directory.join("other.bpk");
        let (result, _) = train_swa(|training| training);
        result.model.save_file(&file).unwrap();
        let other = || Net::new().without_batch_norm();
        for refused in [load_averaged(&file, other()), load_live(&file, other())] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("it is of another network"), "{error}");
            assert!(error.contains("norm.beta`, and lacks 3 more"), "{error}");
        }
        let file_of_other = directory.join("fewer.bpk");
        let collect = Collect::from_epoch(3, &run_length()).unwrap();
        let swa = SwaConfig::new(collect).init_without_data(other()).unwrap();
        let trained = in_temporary_folder(|it| training(it).launch(super::learner(swa)));
        trained.model.save_file(&file_of_other).unwrap();
        assert!(refused(&file_of_other).contains("norm.gamma"));

        refused(&directory.join("none.bpk"));
        let file = directory.join("text.bpk");
        std::fs::write(&file, "not a record").unwrap();
        refused(&file);
    });
}

#[test]
fn a_checkpoint_before_the_first_update_has_no_second_copy() {
    let length = |swa: Swa<Net>| swa.into_record().into_bytes().unwrap().len();
    let plain = Net::new().into_record().into_bytes().unwrap().len();
    let (result, _) = train_swa(|training| training);
    assert!(length(wrap(Net::new())) < plain + plain / 2);
    assert!(length(result.model) > 2 * plain);
}

#[test]
fn a_training_without_swa_goes_on_with_it() {
    // Until epoch 3, SWA changes nothing.
    let expected =
        in_temporary_folder(|directory| train_in(directory, with_swa(0), None, EPOCHS).model);
    for plain_epochs in [1, 2] {
        in_temporary_folder(|directory| {
            train_in(directory, plain(), None, plain_epochs);
            let learner = with_swa(plain_epochs);
            let resumed = train_in(directory, learner, Some(plain_epochs), EPOCHS).model;
            assert_eq!(resumed.updates(), 4);
            assert_eq!(resumed.steps(), expected.steps());
            assert_eq!(weights(resumed.live()), weights(expected.live()));
            let averaged = |swa: &Swa<Net>| floats(&swa.averaged_model().unwrap());
            assert_eq!(averaged(&resumed), averaged(&expected));
            // Its own checkpoint is resumed as ever, whatever the plain epochs were.
            let again = train_in(directory, with_swa(plain_epochs), Some(4), EPOCHS).model;
            assert_eq!(averaged(&again), averaged(&expected));
        });
    }
}

#[test]
fn a_plain_checkpoint_of_unknown_length_is_refused() {
    in_temporary_folder(|directory| {
        train_in(directory, plain(), None, 1);
        let record = || ModuleRecord::load(model_file(directory, 1)).unwrap();
        let swa = wrap(Net::new());
        let error = swa.try_load_record(record()).unwrap_err().to_string();
        assert!(error.contains("`with_plain_epochs(n)`"), "{error}");

        // An average over every step counts in no epochs.
        let ema = SwaConfig::ema(0.999).with_running_statistics(super::RunningStatistics::Averaged);
        let ema = ema.init_without_data(Net::new()).unwrap();
        assert_eq!(ema.try_load_record(record()).unwrap().steps(), 0);

        let other = wrap(Net::new().without_batch_norm());
        let error = other.try_load_record(record()).unwrap_err().to_string();
        assert!(error.contains("norm"), "{error}");
    });
}

#[test]
fn a_training_with_swa_goes_on_without_it() {
    let live = |model: &Net| -> Values { floats(model) };
    in_temporary_folder(|directory| {
        let [plainly, averaged, back] = ["plain", "swa", "back"].map(|name| directory.join(name));
        let expected = train_in(&plainly, plain(), None, EPOCHS).model;
        train_in(&averaged, with_swa(0), None, EPOCHS);
        // Up to epoch 2, the rates are those of the cosine alone.
        write_plain_checkpoint(Net::new(), 2, &averaged, &back).unwrap();
        let resumed = train_in(&back, plain(), Some(2), EPOCHS).model;
        assert_eq!(live(&resumed), live(&expected));

        let error = write_plain_checkpoint(Net::new(), 2, &averaged, &averaged).unwrap_err();
        assert!(
            error.to_string().contains("would be overwritten"),
            "{error}"
        );
        let error = write_plain_checkpoint(Net::new(), 1, &plainly, &back).unwrap_err();
        assert!(matches!(error, SwaError::Checkpoint { .. }), "{error}");
    });
}

#[test]
fn an_ema_takes_neither_a_length_nor_data() {
    let ema = SwaConfig::ema(0.9).init_without_data(Net::new()).unwrap();
    let history = ema.live().history.clone();
    let result = in_temporary_folder(|directory| training(directory).launch(super::learner(ema)));
    let history = history.lock().unwrap();
    assert_eq!(result.model.updates(), history.len());
    let averaged = weights(&result.model.averaged_model().unwrap());
    // timm's warm-up, by hand.
    let mut expected = history[0].clone();
    for (n, after) in history.iter().enumerate().skip(1) {
        let weight = 0.1_f64.max((1.0 + n as f64).powf(-2.0 / 3.0));
        for (path, values) in &mut expected {
            for (value, live) in values.iter_mut().zip(&after[path]) {
                *value += weight * (live - *value);
            }
        }
    }
    for (path, values) in &expected {
        for (got, value) in averaged[path].iter().zip(values) {
            assert!((got - value).abs() < 1e-5, "{path}: {got} {value}");
        }
    }
}

#[test]
fn data_are_asked_for_where_batch_norm_needs_them() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let config = SwaConfig::new(collect);
    let error = config.init_without_data(Net::new()).unwrap_err();
    assert!(matches!(error, SwaError::NoData), "{error}");
    let net = || Net::new().without_batch_norm();
    let swa = config.init_without_data(net()).unwrap();
    config.init_without_data(Net::new().freeze()).unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(super::learner(swa)));
    let with_loader = config.init(net(), loader()).unwrap();
    let expected =
        in_temporary_folder(|directory| training(directory).launch(super::learner(with_loader)));
    let averaged = |swa: Swa<Net>| floats(&swa.averaged_model().unwrap());
    assert_eq!(averaged(result.model), averaged(expected.model));
}

#[test]
fn a_length_that_is_not_the_trainings_fails_at_its_first_validation() {
    // The training has five steps an epoch.
    for (said, accumulated, taken) in [(3, None, 5), (7, None, 5), (5, Some(2), 3), (10, None, 5)] {
        let run = RunLength::new(EPOCHS, said).unwrap();
        let swa = super::wrap_for(Net::new(), &run);
        let result = in_temporary_folder(|directory| {
            let training = training(directory);
            let training = match accumulated {
                Some(batches) => training.grads_accumulation(batches),
                None => training,
            };
            let swa = swa.with_interrupter(training.interrupter());
            training.launch(super::learner(swa))
        });
        let error = result.model.averaged_model().unwrap_err();
        let SwaError::AfterStep { step, error } = error else {
            panic!("{error}");
        };
        assert_eq!(step, taken);
        let expected = format!("`RunLength::new(6, {taken})`");
        assert!(error.to_string().contains(&expected), "{error}");
        let error = result.error.unwrap().to_string();
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_training_that_diverges_before_the_average_fails_that_epoch() {
    let result = in_temporary_folder(|directory| {
        let training: super::SupervisedTraining<Swa<Net>> = training(directory);
        let swa = wrap(Net::new().diverging_at(7));
        let swa = swa.with_interrupter(training.interrupter());
        training.launch(super::learner(swa))
    });
    // The second epoch ends with step 10, and weights are first collected after step 15. A program that ends with `?` or `unwrap`
    // shows the same.
    let error = result.model.averaged_model().unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    let error = error.to_string();
    let expected = "after optimizer step 10: parameter `input.weight` holds a NaN";
    assert!(error.starts_with(expected), "{error}");
    assert!(result.error.unwrap().to_string().contains(expected));
}

#[test]
fn a_training_that_was_stopped_can_be_evaluated() {
    let (result, _) = train_swa(|training| {
        training.interrupter().stop(None);
        training
    });
    // Stopped after its first step, which is not the length of an epoch.
    let batch = loader().iter().next().unwrap().unwrap();
    burn::train::InferenceStep::step(&result.model, batch);
    assert!(result.model.failure().is_none());
}

#[test]
fn what_was_not_averaged_is_told_by_the_cause_that_applies() {
    let told =
        |change: fn(super::SupervisedTraining<Swa<Net>>) -> super::SupervisedTraining<Swa<Net>>| {
            let (result, _) = train_swa(change);
            let error = result.model.averaged_model().unwrap_err().to_string();
            assert!(
                error.contains("`into_live()` is the trained model"),
                "{error}"
            );
            error
        };
    let error = told(|training| training.num_epochs(2));
    let expected = "the training ended at the end of epoch 2 of 6 (by early stopping, an interrupt, or `num_epochs`), and SWA \
                    collects for the first time in epoch 3, after step 15";
    assert!(error.contains(expected), "{error}");
    let error = told(|training| {
        let interrupter = training.interrupter();
        interrupter.stop(None);
        training
    });
    let expected = "the training was stopped within epoch 1 of 6, after optimizer step 1";
    assert!(error.contains(expected), "{error}");
    let untrained = wrap(Net::new()).averaged_model().unwrap_err().to_string();
    assert!(
        untrained.contains("no optimizer step was taken"),
        "{untrained}"
    );
}
