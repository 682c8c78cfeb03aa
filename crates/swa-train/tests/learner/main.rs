//! `Swa` in Burn's `Learner`, on one device and on several.

mod devices;
mod net;
mod replica;
mod silent;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use burn::data::dataloader::DataLoader;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::store::ModuleRecord;
use burn::tensor::{Device, FloatDType, Tensor};
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{
    Interrupter, Learner, LearnerModel, LearningResult, MetricEarlyStoppingStrategy,
    StoppingCondition, SupervisedTraining,
};
use swa_train::swa_core::{Exponential, reestimate_batch_norm};
use swa_train::{Collect, Live, PaperLrScheduler, Reestimate, RunLength, Swa, SwaConfig, SwaError};

use net::{BATCH, Batch, ITEMS, Net, Watched, loader, weights};

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
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let schedule = PaperLrScheduler::swa(0.1, 0.05, 3, &run_length()).unwrap();
    Learner::new(model, optimizer, schedule)
}

type Loader = Arc<dyn DataLoader<Batch>>;

fn training<M>(directory: &std::path::Path) -> SupervisedTraining<M>
where
    M: LearnerModel
        + burn::train::TrainStep<Input = Batch>
        + burn::train::InferenceStep<Input = Batch>,
{
    let (train, valid): (Loader, Loader) = (loader(), loader());
    SupervisedTraining::new(directory, train, valid)
        .renderer(Box::new(silent::Silent))
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
) -> (LearningResult<Swa<Net>>, Vec<Vec<f32>>) {
    let model = Net::new();
    let history = model.history.clone();
    let result =
        in_temporary_folder(|directory| change(training(directory)).launch(learner(wrap(model))));
    let history = history.lock().unwrap().clone();
    (result, history)
}

fn mean(of: &[&Vec<f32>]) -> Vec<f64> {
    (0..of[0].len())
        .map(|index| {
            let sum: f64 = of.iter().map(|weights| f64::from(weights[index])).sum();
            sum / of.len() as f64
        })
        .collect()
}

fn assert_is_mean_of(average: &Net, collected: &[&Vec<f32>]) {
    let expected = mean(collected);
    for (got, expected) in weights(average).iter().zip(expected) {
        assert!(
            (f64::from(*got) - expected).abs() < 1e-6,
            "{got} {expected}"
        );
    }
}

/// The weights that `Collect::from_epoch(3)` collects.
fn collected(history: &[Vec<f32>], steps_per_epoch: usize) -> Vec<&Vec<f32>> {
    (3..=EPOCHS)
        .map(|epoch| &history[epoch * steps_per_epoch - 1])
        .collect()
}

#[test]
fn the_live_model_trains_as_if_it_were_alone_and_the_average_is_the_mean_of_what_it_passes() {
    let bare = in_temporary_folder(|directory| training(directory).launch(learner(Net::new())));
    let (result, history) = train_swa(|training| training);

    assert_eq!(weights(&bare.model), weights(result.model.live()));
    assert_eq!(history.len(), run_length().total_steps());
    assert_eq!(result.model.steps(), history.len());
    assert_eq!(result.model.updates(), 4);
    let averaged = result.model.into_averaged().unwrap();
    assert_is_mean_of(
        &averaged,
        &collected(&history, run_length().steps_per_epoch()),
    );
}

#[test]
fn an_average_from_elsewhere_goes_on_and_is_resumed() {
    in_temporary_folder(|directory| {
        let elsewhere = Net::new();
        let start = || wrap(Net::new()).continuing(&elsewhere.valid(), 3).unwrap();
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
        assert_is_mean_of(&result.model.into_averaged().unwrap(), &all);
    });
}

#[test]
fn steps_are_those_of_the_optimizer_when_gradients_are_accumulated() {
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
fn a_checkpoint_resumes_weights_average_counters_and_learning_rate_to_the_bit() {
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
    let averaged = |result: LearningResult<Swa<Net>>| {
        let averaged = result.model.into_averaged().unwrap();
        (weights(&averaged), averaged.running_statistics())
    };
    assert_eq!(averaged(whole), averaged(resumed));
}

#[test]
fn the_averaged_model_can_be_taken_from_a_checkpoint() {
    in_temporary_folder(|directory| {
        let checkpointed = training(directory).with_default_checkpointers();
        let result = checkpointed.launch(learner(wrap(Net::new())));
        let file = directory.join(format!("checkpoint/model-{EPOCHS}.bpk"));
        let loaded = wrap(Net::new()).try_load_file(file).unwrap();
        let averaged = |swa: Swa<Net>| {
            let averaged = swa.into_averaged().unwrap();
            (weights(&averaged), averaged.running_statistics())
        };
        assert_eq!(averaged(loaded), averaged(result.model));
    });
}

#[test]
fn the_averaged_model_is_validated_and_handed_over_with_its_statistics_re_estimated() {
    let (result, _) = train_swa(|training| training);
    let report = result.model.batch_norm_report();
    let (expected, _) = reestimate_batch_norm(
        &result.model.average().model().unwrap(),
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
    // The last validation did it already.
    assert_eq!(report.unwrap().samples, ITEMS);
    let latest = result.model.live().running_statistics();
    let averaged = result.model.into_averaged().unwrap();
    assert_eq!(averaged.running_statistics(), expected.running_statistics());
    assert_ne!(averaged.running_statistics(), latest);
}

#[test]
fn batch_norm_is_re_estimated_once_a_validation_and_not_again_for_the_result() {
    let loader = Watched::failing_in(0);
    let passes = loader.passes.clone();
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect).init(Net::new(), Arc::new(loader));
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa.unwrap())));
    result.model.into_averaged().unwrap();
    // After epochs 3, 4, 5 and 6, each validated in several batches.
    assert_eq!(passes.load(Ordering::SeqCst), 4);
}

#[test]
fn a_re_estimation_that_fails_is_told_and_does_not_stop_the_average() {
    let loader = Watched::failing_in(1);
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect).init(Net::new(), Arc::new(loader));
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa.unwrap())));
    let failure = result.model.failure().unwrap().to_string();
    assert!(failure.contains("disk on fire"), "{failure}");
    assert_eq!(result.model.updates(), 4);
    result.model.into_averaged().unwrap();
}

#[test]
fn fewer_batches_or_none_re_estimate_batch_norm_if_asked_to() {
    let samples = |reestimate| {
        let collect = Collect::from_epoch(3, &run_length()).unwrap();
        let swa = SwaConfig::new(collect)
            .with_reestimation(reestimate)
            .init(Net::new(), loader())
            .unwrap();
        let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
        let report = result.model.batch_norm_report().unwrap();
        let live = result.model.live().running_statistics();
        let averaged = result.model.into_averaged().unwrap().running_statistics();
        (report.samples, averaged == live)
    };
    assert_eq!(samples(Reestimate::FirstBatches(2)), (2 * BATCH, false));
    assert_eq!(samples(Reestimate::Never), (0, true));

    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let config = SwaConfig::new(collect).with_reestimation(Reestimate::FirstBatches(0));
    assert!(config.init(Net::new(), loader()).is_err());
}

#[test]
fn an_average_at_every_step_is_an_ema() {
    let collect = Collect::from_step(1, &run_length()).unwrap();
    let model = Net::new();
    let history = model.history.clone();
    let swa = SwaConfig::new(collect)
        .with_rule(Exponential::new(0.9).unwrap())
        .averaging_running_statistics()
        .init(model, loader())
        .unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));

    let history = history.lock().unwrap();
    let mut expected: Vec<f64> = history[0].iter().map(|weight| f64::from(*weight)).collect();
    for weights in &history[1..] {
        for (average, weight) in expected.iter_mut().zip(weights) {
            *average += 0.1 * (f64::from(*weight) - *average);
        }
    }
    let averaged = result.model.into_averaged().unwrap();
    for (got, expected) in weights(&averaged).iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 1e-6);
    }
}

#[test]
fn a_training_that_ends_before_it_collects_has_no_averaged_model_but_a_live_one() {
    let (result, _) = train_swa(|training| training.num_epochs(2));
    let live = weights(&result.model.clone().into_live());
    assert_eq!(live.len(), weights(&Net::new()).len());
    let error = result.model.into_averaged().unwrap_err();
    assert!(
        matches!(error, SwaError::NothingCollected { first_step, steps } if steps < first_step),
        "{error}"
    );
}

#[test]
fn live_metrics_stand_beside_the_averaged_ones_under_their_own_names() {
    let metrics = Arc::new(Mutex::new(Vec::new()));
    let recorder = silent::Recorder(metrics.clone());
    in_temporary_folder(|directory| {
        training(directory)
            .renderer(Box::new(recorder))
            .metrics((AccuracyMetric::new(), LossMetric::new()))
            .metric_valid_numeric(Live::new(AccuracyMetric::new()))
            .metric_valid_numeric(Live::new(LossMetric::new()))
            .launch(learner(wrap(Net::new()).with_live_metrics()))
    });

    let metrics = metrics.lock().unwrap();
    let values = |name: &str| -> Vec<f64> {
        let of_name = metrics.iter().filter(|(metric, _)| metric == name);
        of_name.map(|(_, value)| *value).collect()
    };
    let (averaged, live) = (values("Loss"), values("Loss (live)"));
    assert_eq!(averaged.len(), live.len());
    assert_eq!(values("Accuracy (live)").len(), live.len());
    // Two epochs without an average, then four with one.
    let third = averaged.len() / 3;
    assert_eq!(averaged[..third], live[..third]);
    assert_ne!(averaged[third..], live[third..]);
}

#[test]
fn early_stopping_keeps_what_was_averaged() {
    let (result, history) = train_swa(|training| {
        training
            .metrics((LossMetric::new(),))
            .early_stopping(MetricEarlyStoppingStrategy::new(
                &LossMetric::new(),
                Aggregate::Mean,
                // A loss that has to grow: it stops after the second epoch of patience.
                Direction::Highest,
                Split::Valid,
                StoppingCondition::NoImprovementSince { n_epochs: 3 },
            ))
    });
    assert!(history.len() < run_length().total_steps());
    assert!(result.model.updates() > 0);
    result.model.into_averaged().unwrap();
}

#[test]
fn weights_that_diverge_stop_the_training_and_leave_the_last_good_average() {
    let interrupter = Interrupter::new();
    let model = Net::new().diverging_at(18);
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect)
        .with_interrupter(interrupter.clone())
        .init(model, loader())
        .unwrap();
    let result = in_temporary_folder(|directory| {
        training(directory)
            .with_interrupter(interrupter)
            .launch(learner(swa))
    });

    let error = result.error.expect("the training fails").to_string();
    assert!(error.contains("`input.weight` holds a NaN"), "{error}");
    assert_eq!(result.model.updates(), 1);
    let average = result.model.average().model().unwrap();
    assert!(weights(&average).iter().all(|weight| weight.is_finite()));
    assert!(result.model.into_averaged().is_err());
}

#[test]
fn a_loader_without_data_is_an_error_that_says_so() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect)
        .init(Net::new(), net::empty_loader())
        .unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
    let error = result.model.into_averaged().unwrap_err();
    assert!(error.to_string().contains("there was no batch"), "{error}");
}

#[test]
fn a_loader_whose_progress_falls_is_an_error_that_says_so() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect)
        .init(Net::new(), Arc::new(net::CountingDown(loader())))
        .unwrap();
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
    let error = result.model.into_averaged().unwrap_err();
    assert!(error.to_string().contains("its loader fell"), "{error}");
}

#[test]
fn batch_norm_in_16_bits_is_refused_before_the_training_unless_it_is_averaged_too() {
    struct ToBf16;
    impl ModuleMapper for ToBf16 {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(FloatDType::BF16))
        }
    }
    let model = || Net::new().map(&mut ToBf16);
    let swa = || SwaConfig::new(Collect::from_epoch(3, &run_length()).unwrap());
    let error = swa().init(model(), loader()).unwrap_err();
    assert!(error.to_string().contains("`norm`"), "{error}");
    let averaging = swa().averaging_running_statistics();
    averaging.init(model(), loader()).unwrap();
}

#[test]
fn the_record_holds_the_live_weights_the_average_and_both_counters() {
    let swa = wrap(Net::new());
    let paths = net::paths(&swa);
    for path in [
        "model.input.weight",
        "average.model.input.weight",
        "average.model.norm.running_mean",
        "average.updates",
        "steps",
    ] {
        assert!(paths.iter().any(|it| it == path), "{path} in {paths:?}");
    }
    assert_eq!(swa.num_params(), Net::new().num_params());
    // One number more for every one of the model's, and two counters.
    let recorded = net::elements(&swa);
    assert_eq!(recorded, 2 * net::elements(swa.live()) + 2);

    let bytes = swa.clone().into_record().into_bytes().unwrap();
    let record = ModuleRecord::from_bytes(bytes).unwrap();
    wrap(Net::new()).try_load_record(record).unwrap();
}
