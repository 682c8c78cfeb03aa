//! `Swa` in Burn's `Learner`, on one device and on several.

mod adapters;
mod batch_norm;
mod devices;
mod ensembles;
mod loaders;
#[cfg(target_os = "linux")]
mod on_a_terminal;
mod parts;
mod replica;
mod snapshots;
mod way_out;
mod write_back;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::config::Config;
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::store::ModuleRecord;
use burn::tensor::{Device, FloatDType};
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::metric::{AccuracyMetric, LearningRateMetric, LossMetric};
use burn::train::{
    InferenceStep, Interrupter, Learner, LearnerModel, LearningResult, MetricEarlyStoppingStrategy,
    StoppingCondition, SupervisedTraining, TrainStep,
};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{
    Values, assert_is_mean_of, cast, elements, floats, is_running_statistic, shapes, weights,
};
use burn_swa_test_support::points::{BATCH, Batch, ITEMS, loader, loader_of};
use burn_swa_test_support::renderer::Recorder;
use swa_train::swa_core::{AveragingRule, reestimate_batch_norm};
use swa_train::{
    AverageConfig, Collect, ModelMetric, PaperLrSchedulerConfig, Pooling, ReestimationConfig,
    RuleConfig, RunLength, RunningStatistics, Swa, SwaConfig, SwaError, SwaMetrics,
};

use loaders::{CountingDown, Watched};
use replica::Replica;

const EPOCHS: usize = 6;

fn run_length() -> RunLength {
    RunLength::of_items(EPOCHS, ITEMS, BATCH).unwrap()
}

fn wrap(model: Net) -> Swa<Net> {
    wrap_for(model, &run_length())
}

fn wrap_for(model: Net, run: &RunLength) -> Swa<Net> {
    SwaConfig::new(Collect::from_epoch(3, run).unwrap())
        .init(model, loader())
        .unwrap()
}

fn learner<M: LearnerModel>(model: M) -> Learner<M> {
    learner_for(model, &run_length())
}

fn learner_for<M: LearnerModel>(model: M, run: &RunLength) -> Learner<M> {
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let collect = Collect::from_epoch(3, run).unwrap();
    let schedule = PaperLrSchedulerConfig::swa(0.1, 0.05, &collect);
    Learner::new(model, optimizer, schedule.init().unwrap())
}

type Loader = Arc<dyn DataLoader<Batch>>;

fn training<M>(directory: &std::path::Path) -> SupervisedTraining<M>
where
    M: LearnerModel
        + burn::train::TrainStep<Input = Batch>
        + burn::train::InferenceStep<Input = Batch>,
{
    training_on(loader(), directory)
}

fn training_on<M>(train: Loader, directory: &std::path::Path) -> SupervisedTraining<M>
where
    M: LearnerModel
        + burn::train::TrainStep<Input = Batch>
        + burn::train::InferenceStep<Input = Batch>,
{
    let valid: Loader = loader();
    SupervisedTraining::new(directory, train, valid)
        .renderer(Box::new(Recorder::default()))
        .with_application_logger(None)
        .num_epochs(EPOCHS)
}

fn in_temporary_folder<T>(run: impl FnOnce(&std::path::Path) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path())
}

/// Trains with SWA, and returns the result with the weights of the live model after every step.
fn train_swa(
    change: impl FnOnce(SupervisedTraining<Swa<Net>>) -> SupervisedTraining<Swa<Net>>,
) -> (LearningResult<Swa<Net>>, Vec<Values>) {
    let model = Net::new();
    let history = model.history.clone();
    let result =
        in_temporary_folder(|directory| change(training(directory)).launch(learner(wrap(model))));
    let history = history.lock().unwrap().clone();
    (result, history)
}

/// The running statistics of BatchNorm alone.
fn statistics_of(model: &Net) -> Values {
    let mut statistics = floats(model);
    statistics.retain(|path, _| is_running_statistic(path));
    statistics
}

/// The weights that `Collect::from_epoch(3)` collects.
fn collected(history: &[Values], steps_per_epoch: usize) -> Vec<&Values> {
    (3..=EPOCHS)
        .map(|epoch| &history[epoch * steps_per_epoch - 1])
        .collect()
}

#[test]
fn training_is_as_without_swa_and_the_average_is_the_mean() {
    let bare = in_temporary_folder(|directory| training(directory).launch(learner(Net::new())));
    let (result, history) = train_swa(|training| training);

    assert_eq!(weights(&bare.model), weights(result.model.live()));
    assert_eq!(history.len(), run_length().total_steps());
    assert_eq!(result.model.steps(), history.len());
    assert_eq!(result.model.updates(), 4);
    let averaged = result.model.averaged_model().unwrap();
    assert_is_mean_of(
        &averaged,
        &collected(&history, run_length().steps_per_epoch()),
    );
}

#[test]
fn an_average_from_elsewhere_goes_on_and_is_resumed() {
    in_temporary_folder(|directory| {
        let elsewhere = Net::new();
        let start = || {
            let swa = wrap(Net::new());
            swa.with_initial_average(&elsewhere.valid(), 3).unwrap()
        };
        let swa = start();
        let history = swa.live().history.clone();
        let checkpointed = || training(directory).with_default_checkpointers();
        let result = checkpointed().num_epochs(4).launch(learner(swa));
        assert_eq!(result.model.updates(), 5);
        let swa = start();
        let resumed = swa.live().history.clone();
        let result = checkpointed().checkpoint(4).launch(learner(swa));
        assert_eq!(result.model.updates(), 7);

        let history = [
            history.lock().unwrap().clone(),
            resumed.lock().unwrap().clone(),
        ]
        .concat();
        let elsewhere = weights(&elsewhere);
        let mut all = vec![&elsewhere; 3];
        all.extend(collected(&history, run_length().steps_per_epoch()));
        assert_is_mean_of(&result.model.averaged_model().unwrap(), &all);
    });
}

#[test]
fn steps_are_the_optimizers_when_gradients_are_accumulated() {
    let (result, history) = train_swa(|training| training.grads_accumulation(2));
    // Five batches an epoch make three steps, the last of them of one batch.
    assert_eq!(run_length().steps_per_epoch(), 5);
    let run = run_length().with_gradient_accumulation(2).unwrap();
    assert_eq!(run.steps_per_epoch(), 3);
    assert_eq!(history.len(), run.total_steps());
    assert_eq!(result.model.steps(), history.len());

    let bare = in_temporary_folder(|directory| {
        training(directory)
            .grads_accumulation(2)
            .launch(learner(Net::new()))
    });
    assert_eq!(weights(&bare.model), weights(result.model.live()));
}

#[test]
fn a_checkpoint_resumes_the_whole_training_to_the_bit() {
    let (whole, _) = train_swa(|training| training);
    let resumed = in_temporary_folder(|directory| {
        let first = training(directory)
            .with_default_checkpointers()
            .num_epochs(4)
            .launch(learner(wrap(Net::new())));
        assert_eq!(first.model.updates(), 2);
        training(directory)
            .with_default_checkpointers()
            .checkpoint(4)
            .launch(learner(wrap(Net::new())))
    });

    assert_eq!(resumed.model.updates(), 4);
    assert_eq!(resumed.model.steps(), run_length().total_steps());
    assert_eq!(weights(whole.model.live()), weights(resumed.model.live()));
    let averaged =
        |result: LearningResult<Swa<Net>>| floats(&result.model.averaged_model().unwrap());
    assert_eq!(averaged(whole), averaged(resumed));
}

/// Trains four epochs of 5 steps, and resumes with the changed training, whose epochs have `steps_per_epoch` steps.
fn resume_with_other_steps(
    steps_per_epoch: usize,
    batch_size: usize,
    change: impl FnOnce(SupervisedTraining<Swa<Net>>) -> SupervisedTraining<Swa<Net>>,
) {
    let run = RunLength::new(EPOCHS, steps_per_epoch).unwrap();
    let recorder = Recorder::default();
    let swa = wrap(Net::new());
    let mut history = vec![swa.live().history.clone()];
    let result = in_temporary_folder(|folder| {
        let first = training(folder).with_default_checkpointers().num_epochs(4);
        first.launch(learner(swa));
        let swa = wrap_for(Net::new(), &run);
        history.push(swa.live().history.clone());
        let train = loader_of(0..ITEMS, batch_size);
        let resumed = training_on(train, folder)
            .with_default_checkpointers()
            .renderer(Box::new(recorder.clone()))
            .metric_train_numeric(LearningRateMetric::new())
            .checkpoint(4);
        change(resumed).launch(learner_for(swa, &run))
    });

    // At the end of epochs 3 and 4 of 5 steps, and of 5 and 6 of so many.
    assert_eq!(result.model.steps(), run.total_steps());
    assert_eq!(result.model.updates(), 4);
    let [first, second] = [&history[0], &history[1]].map(|it| it.lock().unwrap().clone());
    assert_eq!(second.len(), 2 * steps_per_epoch);
    let ends = [
        &first[14],
        &first[19],
        &second[steps_per_epoch - 1],
        &second[second.len() - 1],
    ];
    assert_is_mean_of(&result.model.averaged_model().unwrap(), &ends);
    // That of the first two epochs is larger. While the first gradients are accumulated, there is none yet.
    let rates = recorder.training("Learning Rate");
    let highest = rates.iter().copied().fold(0.0, f64::max);
    assert!((highest - 0.05).abs() < 1e-9, "{rates:?}");
}

#[test]
fn a_run_whose_steps_changed_goes_on_by_epochs() {
    // With batches of 8, of 64, and with the gradients of two batches in a step.
    resume_with_other_steps(9, 8, |training| training);
    resume_with_other_steps(2, 64, |training| training);
    resume_with_other_steps(3, BATCH, |training| training.grads_accumulation(2));
}

#[test]
fn a_run_whose_steps_changed_within_an_epoch_stops_at_once() {
    // So that its 20 steps end within an epoch.
    let six = RunLength::new(EPOCHS, 6).unwrap();
    let six = six.unchecked();
    in_temporary_folder(|folder| {
        let checkpointed = || training(folder).with_default_checkpointers();
        let first = checkpointed().num_epochs(4);
        first.launch(learner(wrap_for(Net::new(), &six)));

        let interrupter = Interrupter::new();
        let swa = wrap(Net::new()).with_interrupter(interrupter.clone());
        let history = swa.live().history.clone();
        let resumed = checkpointed().checkpoint(4).with_interrupter(interrupter);
        let result = resumed.launch(learner(swa));
        let error = result.error.expect("the training fails").to_string();
        let expected = "within an epoch, after 20 optimizer steps at 6 an epoch, and this training has 5 an epoch";
        assert!(error.contains(expected), "{error}");
        assert_eq!(history.lock().unwrap().len(), 1);
        assert!(result.model.averaged_model().is_err());

        // Its average can be taken from the checkpoint all the same.
        let file = folder.join("checkpoint/model-4.bpk");
        let loaded = wrap(Net::new()).try_load_file(file).unwrap();
        loaded.averaged_model().unwrap();
        // So can the run go on, in the steps of before: after steps 18, 24 and 30.
        let resumed = checkpointed().checkpoint(4);
        let result = resumed.launch(learner(wrap_for(Net::new(), &six)));
        assert_eq!(result.model.updates(), 3);
    });
}

#[test]
fn a_run_that_went_on_with_other_steps_is_refused_again() {
    let six = RunLength::new(EPOCHS, 6).unwrap();
    let six = six.unchecked();
    let is_refused = |swa: &Swa<Net>| {
        let Some(SwaError::AfterStep { error, .. }) = swa.failure() else {
            return false;
        };
        matches!(
            *error,
            SwaError::StepsChanged {
                steps: 20,
                before: 6,
                now: 5
            }
        )
    };
    in_temporary_folder(|folder| {
        let checkpointed = || training(folder).with_default_checkpointers();
        let first = checkpointed().num_epochs(4);
        first.launch(learner(wrap_for(Net::new(), &six)));
        // Nothing interrupts it, so that it writes a checkpoint after epoch 5.
        let resumed = checkpointed().checkpoint(4).num_epochs(5);
        assert!(is_refused(&resumed.launch(learner(wrap(Net::new()))).model));
        let resumed = checkpointed().checkpoint(5);
        assert!(is_refused(&resumed.launch(learner(wrap(Net::new()))).model));

        // Another record makes up for it, even one of as many steps.
        let file = |folder: &std::path::Path| folder.join("checkpoint/model-4.bpk");
        let swa = wrap(Net::new()).try_load_file(file(folder)).unwrap();
        in_temporary_folder(|folder| {
            let checkpointed = || training(folder).with_default_checkpointers();
            checkpointed()
                .num_epochs(4)
                .launch(learner(wrap(Net::new())));
            let swa = swa.try_load_file(file(folder)).unwrap();
            let result = training(folder).num_epochs(1).launch(learner(swa));
            assert!(result.model.failure().is_none());
            assert_eq!((result.model.steps(), result.model.updates()), (25, 3));
        });
    });
}

#[test]
fn the_averaged_model_can_be_taken_from_a_checkpoint() {
    in_temporary_folder(|directory| {
        let checkpointed = training(directory).with_default_checkpointers();
        let result = checkpointed.launch(learner(wrap(Net::new())));
        let file = directory.join(format!("checkpoint/model-{EPOCHS}.bpk"));
        let loaded = wrap(Net::new()).try_load_file(file).unwrap();
        let averaged = |swa: Swa<Net>| floats(&swa.averaged_model().unwrap());
        assert_eq!(averaged(loaded), averaged(result.model));
    });
}

#[test]
fn the_averaged_model_is_validated_and_given_re_estimated() {
    let (result, _) = train_swa(|training| training);
    let report = result.model.batch_norm_report();
    let (expected, _) = reestimate_batch_norm(
        &result.model.average().unwrap().model().unwrap(),
        &ReestimationConfig::new(),
        loader()
            .to_device(&Device::default().autodiff())
            .iter()
            .map(Result::unwrap),
        |model, batch: Batch| {
            let items = batch.targets.dims()[0];
            model.forward(batch.input);
            items
        },
    )
    .unwrap();
    // The last validation has already re-estimated BatchNorm.
    assert_eq!(report.unwrap().samples, ITEMS);
    let latest = statistics_of(result.model.live());
    let averaged = statistics_of(&result.model.averaged_model().unwrap());
    assert_eq!(averaged, statistics_of(&expected));
    assert_ne!(averaged, latest);
}

#[test]
fn batch_norm_is_re_estimated_once_for_each_validation() {
    let loader = Watched::failing_in(0);
    let passes = loader.passes.clone();
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect).init(Net::new(), Arc::new(loader));
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa.unwrap())));
    result.model.averaged_model().unwrap();
    // After epochs 3, 4, 5 and 6, each validated in several batches.
    assert_eq!(passes.load(Ordering::SeqCst), 4);
}

#[test]
fn a_failed_re_estimation_is_told_and_averaging_goes_on() {
    let loader = Watched::failing_in(1);
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect).init(Net::new(), Arc::new(loader));
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa.unwrap())));
    let failure = result.model.failure().unwrap().to_string();
    assert!(failure.contains("disk on fire"), "{failure}");
    assert_eq!(result.model.updates(), 4);
    result.model.averaged_model().unwrap();
}

#[test]
fn fewer_batches_or_none_re_estimate_batch_norm_if_asked_to() {
    let samples = |running_statistics| {
        let collect = Collect::from_epoch(3, &run_length()).unwrap();
        let swa = SwaConfig::new(collect)
            .with_running_statistics(running_statistics)
            .init(Net::new(), loader())
            .unwrap();
        let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
        let report = result.model.batch_norm_report().unwrap();
        let live = statistics_of(result.model.live());
        let averaged = statistics_of(&result.model.averaged_model().unwrap());
        (report.samples, averaged == live)
    };
    let first_batches = |batches| {
        let config = ReestimationConfig::new().with_first_batches(Some(batches));
        RunningStatistics::Reestimated(config)
    };
    assert_eq!(samples(first_batches(2)), (2 * BATCH, false));
    assert_eq!(samples(RunningStatistics::Latest), (0, true));

    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let config = SwaConfig::new(collect).with_running_statistics(first_batches(0));
    assert!(config.init(Net::new(), loader()).is_err());
}

#[test]
fn an_average_at_every_step_is_an_ema() {
    let collect = Collect::from_step(1, &run_length()).unwrap();
    let model = Net::new();
    let history = model.history.clone();
    let swa = SwaConfig::new(collect)
        .with_rule(RuleConfig::exponential(0.9))
        .with_running_statistics(RunningStatistics::Averaged)
        .init(model, loader())
        .unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));

    let history = history.lock().unwrap();
    let mut expected = history[0].clone();
    for weights in &history[1..] {
        for (path, average) in &mut expected {
            for (average, weight) in average.iter_mut().zip(&weights[path]) {
                *average += 0.1 * (weight - *average);
            }
        }
    }
    let averaged = weights(&result.model.averaged_model().unwrap());
    for (path, averaged) in averaged {
        for (got, expected) in averaged.iter().zip(&expected[&path]) {
            assert!((got - expected).abs() < 1e-6, "{path}: {got} {expected}");
        }
    }
}

#[test]
fn a_training_that_never_collects_has_a_live_model_alone() {
    let (result, _) = train_swa(|training| training.num_epochs(2));
    let error = result.model.averaged_model().unwrap_err();
    assert!(
        matches!(error, SwaError::NothingCollected { first_step, steps, .. } if steps < first_step),
        "{error}"
    );
    assert!(error.to_string().contains("`into_live()`"), "{error}");
    // The error has not cost the trained model.
    let live = result.model.into_live();
    assert_eq!(shapes(&live), shapes(&Net::new()));
}

#[test]
fn live_metrics_stand_beside_the_averaged_ones() {
    let recorder = Recorder::default();
    in_temporary_folder(|directory| {
        training(directory)
            .renderer(Box::new(recorder.clone()))
            .metrics((AccuracyMetric::new(), LossMetric::new()))
            .metric_valid_numeric(ModelMetric::new("live", AccuracyMetric::new()))
            .metric_valid_numeric(ModelMetric::new("live", LossMetric::new()))
            .launch(learner(
                wrap(Net::new()).with_metrics_of(&["live"]).unwrap(),
            ))
    });

    let values = |name: &str| recorder.validation(name);
    let (averaged, live) = (values("Loss"), values("Loss (live)"));
    assert_eq!(averaged.len(), live.len());
    assert_eq!(values("Accuracy (live)").len(), live.len());
    // Two epochs without an average, then four with one.
    let third = averaged.len() / 3;
    assert_eq!(averaged[..third], live[..third]);
    assert_ne!(averaged[third..], live[third..]);
}

/// SWA from epoch 3 on, and an EMA from the first step on.
fn wrap_with_ema(model: Net) -> Swa<Net> {
    let run = run_length();
    let ema = AverageConfig::new("ema".to_owned(), Collect::from_step(1, &run).unwrap())
        .with_rule(RuleConfig::exponential(0.9));
    SwaConfig::new(Collect::from_epoch(3, &run).unwrap())
        .with_further_averages(vec![ema])
        .init(model, loader())
        .unwrap()
}

/// The weights and running statistics of both averages.
fn both_averages(swa: &Swa<Net>) -> [Values; 2] {
    ["averaged", "ema"].map(|name| floats(&swa.averaged(name).unwrap()))
}

#[test]
fn a_further_average_is_that_of_a_training_with_it_alone() {
    let train = |swa: Swa<Net>| in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let ema = SwaConfig::new(Collect::from_step(1, &run_length()).unwrap())
        .with_rule(RuleConfig::exponential(0.9));
    let ema = train(ema.init(Net::new(), loader()).unwrap()).model;
    let swa = train(wrap(Net::new())).model;
    let both = train(wrap_with_ema(Net::new())).model;

    assert_eq!(weights(both.live()), weights(swa.live()));
    let alone = [swa, ema].map(|swa| floats(&swa.averaged_model().unwrap()));
    assert_eq!(both_averages(&both), alone);
}

#[test]
fn a_checkpoint_resumes_all_averages_to_the_bit() {
    let swa = || learner(wrap_with_ema(Net::new()));
    let whole = in_temporary_folder(|folder| training(folder).launch(swa()));
    in_temporary_folder(|folder| {
        let checkpointed = || training(folder).with_default_checkpointers();
        checkpointed().num_epochs(4).launch(swa());
        let resumed = checkpointed().checkpoint(4).launch(swa());
        assert_eq!(both_averages(&whole.model), both_averages(&resumed.model));
        // The metrics of further models do not change what is recorded.
        let file = folder.join(format!("checkpoint/model-{EPOCHS}.bpk"));
        let shown = wrap_with_ema(Net::new()).with_metrics_of(&["ema"]).unwrap();
        let loaded = shown.try_load_file(file).unwrap().into_swa();
        assert_eq!(both_averages(&loaded), both_averages(&whole.model));
    });
}

#[test]
fn a_loader_may_ask_the_wrapper_while_it_re_estimates() {
    let loader = Watched::failing_in(0);
    let (passes, asked) = (loader.passes.clone(), loader.asked.clone());
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect).init(Net::new(), Arc::new(loader));
    let swa = swa.unwrap();
    *asked.lock().unwrap() = Some(swa.clone());
    in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    assert_eq!(passes.load(Ordering::SeqCst), 4);
}

#[test]
fn live_weights_are_read_once_a_step_and_models_passed_once_a_batch() {
    let run = run_length().unchecked();
    let every_step = Collect::from_step(2, &run).unwrap();
    let further = ["a", "b"].map(|name| AverageConfig::new(name.to_owned(), every_step));
    let model = Replica::alone(Net::new());
    let counts = model.counts.clone();
    let count = |of: &AtomicUsize| of.swap(0, Ordering::SeqCst);
    let swa = SwaConfig::new(every_step)
        .with_running_statistics(RunningStatistics::Averaged)
        .with_further_averages(further.to_vec())
        .init(model, loader())
        .unwrap();
    let mut swa = swa.with_metrics_of(&["live", "a", "averaged"]).unwrap();

    let batch = loader().iter().next().unwrap().unwrap();
    let mut optimizer = SgdConfig::new().init();
    // Nothing is averaged in the first step, and all names are of the live model.
    for (step, models) in [(1, 1), (2, 3)] {
        let on_autodiff = loader().to_device(&Device::default().autodiff());
        let item = on_autodiff.iter().next().unwrap().unwrap();
        let gradients = TrainStep::step(&swa, item).grads;
        count(&counts.copies);
        swa = swa.optimize(&mut optimizer, 0.1.into(), gradients);
        assert_eq!(count(&counts.copies), step - 1);

        let valid = swa.valid();
        count(&counts.inferences);
        InferenceStep::step(&valid, batch.clone());
        assert_eq!(count(&counts.inferences), models);
    }
}

#[test]
fn metrics_of_each_model_stand_under_its_name() {
    let recorder = Recorder::default();
    let swa = wrap_with_ema(Net::new());
    let models = ["ema", "live", "averaged"];
    let swa: SwaMetrics<Net> = swa.with_metrics_of(&models).unwrap();
    in_temporary_folder(|folder| {
        let training = training(folder)
            .renderer(Box::new(recorder.clone()))
            .metric_valid_numeric(LossMetric::new());
        let metric = |name| ModelMetric::new(name, LossMetric::new());
        let training = models
            .map(metric)
            .into_iter()
            .fold(training, SupervisedTraining::metric_valid_numeric);
        training.launch(learner(swa))
    });

    let values = |name: &str| recorder.validation(name);
    let [ema, live, averaged] = models.map(|name| values(&format!("Loss ({name})")));
    assert_eq!(averaged, values("Loss"));
    // The EMA is there from the first epoch on, the first average from the third.
    let third = live.len() / 3;
    assert_eq!(averaged[..third], live[..third]);
    assert_ne!(averaged[third..], live[third..]);
    assert_ne!(ema[..third], live[..third]);
    assert_ne!(ema[third..], averaged[third..]);
}

#[test]
fn an_unknown_model_is_an_error_that_lists_those_there_are() {
    let swa = wrap_with_ema(Net::new());
    let expected = "there is no model called `emma` here, only `live`, `averaged`, `ema`";
    let error = swa.clone().with_metrics_of(&["emma"]).unwrap_err();
    assert!(error.to_string().starts_with(expected), "{error}");
    let error = swa.averaged("emma").unwrap_err().to_string();
    assert!(error.contains("only `averaged`, `ema`"), "{error}");

    let outcome = in_temporary_folder(|folder| {
        let metric = ModelMetric::new("ema", LossMetric::new());
        let training = training(folder).metric_valid_numeric(metric);
        let swa = swa.with_metrics_of(&["live"]).unwrap();
        training
            .launch(learner(swa))
            .error
            .map(|error| error.to_string())
    });
    let error = outcome.expect("the training fails");
    assert!(error.contains("with_metrics_of"), "{error}");
}

#[test]
fn names_of_averages_are_checked() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let named = |names: &[&str]| {
        let averages = names
            .iter()
            .map(|name| AverageConfig::new((*name).to_owned(), collect));
        SwaConfig::new(collect)
            .with_further_averages(averages.collect())
            .init(Net::new(), loader())
    };
    assert!(named(&["ema", "slow"]).is_ok());
    for names in [
        &[""][..],
        &["a.b"],
        &["live"],
        &["averaged"],
        &["ema", "ema"],
    ] {
        let error = named(names).unwrap_err().to_string();
        assert!(error.contains("the name of an average"), "{error}");
    }
    let longer = RunLength::new(EPOCHS, run_length().steps_per_epoch() + 1).unwrap();
    let ema = AverageConfig::new("ema".to_owned(), Collect::from_step(1, &longer).unwrap());
    let config = SwaConfig::new(collect).with_further_averages(vec![ema]);
    let error = config.init(Net::new(), loader()).unwrap_err().to_string();
    assert!(error.contains("that of the other averages"), "{error}");
}

#[test]
fn settings_are_saved_loaded_and_checked_by_init() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("swa.json");
    let run = run_length();
    let reestimation = ReestimationConfig::new()
        .with_pooling(Pooling::Equal)
        .with_first_batches(Some(4));
    let ema = AverageConfig::new("ema".to_owned(), Collect::from_step(2, &run).unwrap())
        .with_rule(RuleConfig::exponential(0.99));
    let config = SwaConfig::new(Collect::from_epoch(3, &run).unwrap())
        .with_running_statistics(RunningStatistics::Reestimated(reestimation))
        .with_further_averages(vec![ema]);
    config.save(&file).unwrap();
    assert_eq!(SwaConfig::load(&file).unwrap(), config);

    let saved = std::fs::read_to_string(&file).unwrap();
    for (setting, changed, expected) in [
        ("0.99", "1.5", "must be in [0, 1], not 1.5"),
        (
            "\"first_step\": 15",
            "\"first_step\": 0",
            "the step to start collecting at",
        ),
        ("\"first_step\": 15", "\"first_step\": 99", "after step 99"),
        (
            "\"every_steps\": 5",
            "\"every_steps\": 0",
            "from one collection to the next",
        ),
        ("\"epochs\": 6", "\"epochs\": 0", "the number of epochs"),
        (
            "\"first_batches\": 4",
            "\"first_batches\": 0",
            "at least 1, not 0",
        ),
    ] {
        assert!(saved.contains(setting), "{setting} in {saved}");
        std::fs::write(&file, saved.replace(setting, changed)).unwrap();
        let error = match SwaConfig::load(&file) {
            Ok(config) => config.init(Net::new(), loader()).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_rule_of_ones_own_is_taken() {
    #[derive(Debug)]
    struct Latest;
    impl AveragingRule for Latest {
        fn weight(&self, _updates: usize) -> f64 {
            1.0
        }
    }
    let swa = wrap(Net::new()).with_rule(Latest);
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let live = weights(result.model.live());
    assert_eq!(weights(&result.model.averaged_model().unwrap()), live);
}

#[test]
fn early_stopping_keeps_what_was_averaged() {
    let (result, history) = train_swa(|training| {
        training
            .metrics((LossMetric::new(),))
            .early_stopping(MetricEarlyStoppingStrategy::new(
                &LossMetric::new(),
                Aggregate::Mean,
                // The loss would have to grow, so that the training stops after the second epoch of patience.
                Direction::Highest,
                Split::Valid,
                StoppingCondition::NoImprovementSince { n_epochs: 3 },
            ))
    });
    assert!(history.len() < run_length().total_steps());
    assert!(result.model.updates() > 0);
    result.model.averaged_model().unwrap();
}

#[test]
fn weights_that_diverge_stop_the_training_with_the_last_average() {
    let interrupter = Interrupter::new();
    let model = Net::new().diverging_at(18);
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect)
        .init(model, loader())
        .unwrap()
        .with_interrupter(interrupter.clone());
    let result = in_temporary_folder(|directory| {
        training(directory)
            .with_interrupter(interrupter)
            .launch(learner(swa))
    });

    let error = result.error.expect("the training fails").to_string();
    assert!(error.contains("`input.weight` holds a NaN"), "{error}");
    assert_eq!(result.model.updates(), 1);
    let average = result.model.average().unwrap().model().unwrap();
    let weights = weights(&average);
    assert!(weights.values().flatten().all(|it| it.is_finite()));
    assert!(result.model.averaged_model().is_err());
}

#[test]
fn a_loader_without_data_is_an_error_that_says_so() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect)
        .init(Net::new(), loader_of([], BATCH))
        .unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
    let error = result.model.averaged_model().unwrap_err();
    assert!(error.to_string().contains("there was no batch"), "{error}");
}

#[test]
fn a_loader_whose_progress_falls_is_an_error_that_says_so() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect)
        .init(Net::new(), Arc::new(CountingDown(loader())))
        .unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
    let error = result.model.averaged_model().unwrap_err();
    assert!(error.to_string().contains("its loader fell"), "{error}");
}

#[test]
fn batch_norm_in_16_bits_is_refused_unless_it_is_averaged_too() {
    let model = || cast(Net::new(), FloatDType::BF16);
    let swa = || SwaConfig::new(Collect::from_epoch(3, &run_length()).unwrap());
    let error = swa().init(model(), loader()).unwrap_err();
    assert!(error.to_string().contains("`norm`"), "{error}");
    let averaging = swa().with_running_statistics(RunningStatistics::Averaged);
    averaging.init(model(), loader()).unwrap();
}

#[test]
fn the_record_holds_live_weights_the_average_and_counters() {
    let swa = wrap(Net::new());
    // Before the first update, there is no second copy: steps, format, the steps in an epoch, and
    // whether its statistics are ready.
    let live = shapes(swa.live());
    assert_eq!(elements(&shapes(&swa)), elements(&live) + 4);
    let (result, _) = train_swa(|training| training);
    let swa = result.model;
    let recorded = shapes(&swa);
    for path in [
        "input.weight",
        "swa_train.average.model.input.weight",
        "swa_train.average.model.norm.running_mean",
        "swa_train.average.updates",
        "swa_train.steps",
        "swa_train.format",
        "swa_train.steps_per_epoch",
    ] {
        let found = recorded.iter().any(|(it, _)| it == path);
        assert!(found, "{path} in {recorded:?}");
    }
    assert_eq!(swa.num_params(), Net::new().num_params());
    // One more number for every number of the model, and the number of updates.
    assert_eq!(elements(&recorded), 2 * elements(&live) + 5);

    let bytes = swa.clone().into_record().into_bytes().unwrap();
    let record = ModuleRecord::from_bytes(bytes).unwrap();
    wrap(Net::new()).try_load_record(record).unwrap();
}
