//! Training on several devices, by Burn's own strategies. Flex has no collectives, so the network adds
//! its gradients up itself.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::Device;
use burn::tensor::distributed::{DistributedConfig, DistributedContext, ReduceOperation};
use burn::train::{
    ExecutionStrategy, Interrupter, Learner, LearningResult, ModuleSharder, MultiDeviceOptim,
    SupervisedTraining, TrainStep,
};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, assert_is_mean_of, floats, values, weights};
use burn_swa_test_support::points::{BATCH, Batch, ITEMS, loader, loader_of};
use burn_swa_test_support::renderer::Recorder;
use swa_train::swa_core::Role;
use swa_train::{Collect, PaperLrSchedulerConfig, RunLength, Swa, SwaConfig};

use crate::ensembles::Shelf;
use crate::loaders::Watched;
use crate::replica::{Counts, Replica};
use crate::{EPOCHS, in_temporary_folder};

/// Two devices take 32 points each, in 4 batches.
const POINTS: usize = 64;
const DEVICE_BATCH: usize = 8;
const STEPS_PER_EPOCH: usize = 4;
const STEPS: usize = EPOCHS * STEPS_PER_EPOCH;
/// A step in the second epoch, so that the average is updated 20 times and validated after 5 epochs.
const FIRST_COLLECTED: usize = 5;
const UPDATES: usize = STEPS - FIRST_COLLECTED + 1;
const EVALUATIONS: usize = EPOCHS - 1;
/// The number of batches of the loader for validation and for the re-estimation of BatchNorm. A
/// re-estimation passes the first batch twice.
const BATCHES: usize = ITEMS.div_ceil(BATCH);
const INFERENCES: usize = EPOCHS * BATCHES + EVALUATIONS * (BATCHES + 1);

fn devices() -> Vec<Device> {
    vec![Device::flex(), Device::flex()]
}

fn multi(mode: MultiDeviceOptim) -> ExecutionStrategy {
    ExecutionStrategy::multi(devices(), mode)
}

/// Burn's own strategy, without the communication that flex lacks: [`Replica::of`] replaces it.
fn ddp() -> ExecutionStrategy {
    let config = DistributedConfig {
        all_reduce_op: ReduceOperation::Sum,
    };
    ExecutionStrategy::DistributedDataParallel {
        devices: devices(),
        context: DistributedContext::init(Vec::new(), config),
    }
}

/// The points in an order for one device, so that it takes batch after batch what two devices take at
/// the same time.
fn by_turns() -> Vec<usize> {
    (0..STEPS_PER_EPOCH)
        .flat_map(|batch| [batch * DEVICE_BATCH, POINTS / 2 + batch * DEVICE_BATCH])
        .flat_map(|first| first..first + DEVICE_BATCH)
        .collect()
}

fn wrap(model: Replica) -> Swa<Replica> {
    config().init(model, loader()).unwrap()
}

fn config() -> SwaConfig {
    let run = RunLength::new(EPOCHS, STEPS_PER_EPOCH).unwrap();
    SwaConfig::new(Collect::from_step(FIRST_COLLECTED, &run).unwrap())
}

fn learner(swa: Swa<Replica>, learning_rate: f64) -> Learner<Swa<Replica>> {
    let run = RunLength::new(EPOCHS, STEPS_PER_EPOCH).unwrap();
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let collect = Collect::from_epoch(3, &run).unwrap();
    let schedule = PaperLrSchedulerConfig::swa(learning_rate, learning_rate / 2.0, &collect);
    Learner::new(swa, optimizer, schedule.init().unwrap())
}

fn training(
    directory: &Path,
    train_loader: Arc<dyn DataLoader<Batch>>,
) -> SupervisedTraining<Swa<Replica>> {
    SupervisedTraining::new(directory, train_loader, loader())
        .renderer(Box::new(Recorder::default()))
        .with_application_logger(None)
        .num_epochs(EPOCHS)
}

fn on_two_devices(
    strategy: ExecutionStrategy,
    swa: Swa<Replica>,
    learning_rate: f64,
) -> LearningResult<Swa<Replica>> {
    in_temporary_folder(|directory| {
        training(directory, loader_of(0..POINTS, DEVICE_BATCH))
            .with_training_strategy(strategy.into())
            .launch(learner(swa, learning_rate))
    })
}

/// The weights of the live model, and the weights and statistics of the averaged one.
fn outcome(result: LearningResult<Swa<Replica>>) -> [Values; 2] {
    let live = weights(result.model.live());
    assert_eq!(result.model.updates(), UPDATES);
    assert_eq!(result.model.steps(), STEPS);
    [live, floats(&result.model.averaged_model().unwrap())]
}

#[test]
fn two_devices_give_the_bits_of_one_that_accumulates_gradients() {
    // Burn adds the devices' gradients up, as it does those that it accumulates, and BatchNorm
    // normalises each batch by itself in both.
    let expected = in_temporary_folder(|directory| {
        let result = training(directory, loader_of(by_turns(), DEVICE_BATCH))
            .grads_accumulation(2)
            .launch(learner(wrap(Replica::alone(Net::new())), 0.1));
        outcome(result)
    });
    let alone = || wrap(Replica::alone(Net::new()));
    for mode in [
        MultiDeviceOptim::OptimMainDevice,
        MultiDeviceOptim::OptimSharded,
    ] {
        let got = outcome(on_two_devices(multi(mode), alone(), 0.1));
        assert_eq!(got, expected, "{mode:?}");
    }
    let replicas = wrap(Replica::of(2, Net::new()));
    assert_eq!(outcome(on_two_devices(ddp(), replicas, 0.1)), expected);
}

#[test]
fn two_devices_give_what_one_gives_with_their_batches_in_one() {
    // BatchNorm would normalise by 16 points here and by 8 there.
    let net = || Net::new().without_batch_norm();
    let one = in_temporary_folder(|directory| {
        training(directory, loader_of(by_turns(), 2 * DEVICE_BATCH))
            .launch(learner(wrap(Replica::alone(net())), 0.1))
    });
    let expected = weights(&one.model.averaged_model().unwrap());

    for strategy in [
        multi(MultiDeviceOptim::OptimMainDevice),
        multi(MultiDeviceOptim::OptimSharded),
        ddp(),
    ] {
        let model = match &strategy {
            ExecutionStrategy::DistributedDataParallel { .. } => Replica::of(2, net()),
            _ => Replica::alone(net()),
        };
        // The loss is a mean over a batch, and two means are added: twice that over both batches.
        let two = on_two_devices(strategy, wrap(model), 0.05);
        let averaged = weights(&two.model.averaged_model().unwrap());
        // A sum over 16 points is rounded otherwise than two over 8: one or two units in the last place
        // (6e-8) of a gradient of about 1, in each of 24 steps.
        for (path, averaged) in averaged {
            for (got, expected) in averaged.iter().zip(&expected[&path]) {
                assert!((got - expected).abs() < 2e-6, "{path}: {got} {expected}");
            }
        }
    }
}

fn counts_of(
    strategy: ExecutionStrategy,
    model: Replica,
) -> (LearningResult<Swa<Replica>>, Arc<Counts>, usize) {
    let counts = model.counts.clone();
    let loader = Watched::failing_in(0);
    let passes = loader.passes.clone();
    let swa = config().init(model, Arc::new(loader)).unwrap();
    let result = on_two_devices(strategy, swa, 0.1);
    result.model.clone().averaged_model().unwrap();
    assert_eq!(counts.inferences.load(Ordering::SeqCst), INFERENCES);
    (result, counts, passes.load(Ordering::SeqCst))
}

#[test]
fn devices_get_the_live_model_alone_and_one_re_estimates() {
    for (mode, forks_to_the_main_device) in [
        (MultiDeviceOptim::OptimMainDevice, 1),
        // Here the model also moves back after every epoch.
        (MultiDeviceOptim::OptimSharded, 1 + EPOCHS),
    ] {
        let (_, counts, passes) = counts_of(multi(mode), Replica::alone(Net::new()));
        let forks = forks_to_the_main_device + 2 * STEPS;
        // The average moves to where it is evaluated, if it is elsewhere.
        let expected = (forks, EVALUATIONS, 0);
        assert_eq!(counts.forks_moves_and_shardings(), expected, "{mode:?}");
        assert_eq!(passes, EVALUATIONS, "{mode:?}");
    }
}

#[test]
fn ddp_marks_live_replicas_alone_and_the_main_one_re_estimates() {
    let (result, counts, passes) = counts_of(ddp(), Replica::of(2, Net::new()));
    let expected = (2, EVALUATIONS, 2);
    assert_eq!(counts.forks_moves_and_shardings(), expected);
    assert_eq!(passes, EVALUATIONS);

    // Both replicas write down their weights, step by step.
    let history = result.model.live().net.history.lock().unwrap().clone();
    let (steps, []) = history.as_chunks::<2>() else {
        panic!("a step of one replica alone");
    };
    assert_eq!(steps.len(), STEPS);
    assert!(steps.iter().all(|[one, other]| one == other));
    let collected: Vec<_> = steps[FIRST_COLLECTED - 1..]
        .iter()
        .map(|[it, _]| it)
        .collect();
    assert_is_mean_of(&result.model.averaged_model().unwrap().net, &collected);
}

#[test]
fn every_worker_of_ddp_has_the_same_average_once_a_step() {
    let swa = wrap(Replica::of(2, Net::new()));
    let workers = [0, 1].map(|worker| {
        let swa = swa.clone();
        thread::spawn(move || {
            let device = Device::flex().autodiff();
            let mut swa = swa.fork(&device).map(&mut ModuleSharder);
            let mut optimizer = SgdConfig::new().init();
            let points = worker * POINTS / 2..(worker + 1) * POINTS / 2;
            for batch in loader_of(points, DEVICE_BATCH).to_device(&device).iter() {
                for _ in 0..EPOCHS {
                    let gradients = TrainStep::step(&swa, batch.as_ref().unwrap().clone()).grads;
                    swa = swa.optimize(&mut optimizer, 0.1.into(), gradients);
                }
            }
            swa
        })
    });
    let [one, other] = workers.map(|worker| worker.join().unwrap());
    assert_eq!([one.updates(), other.updates()], [UPDATES; 2]);
    let average = |swa: &Swa<Replica>| weights(&swa.average().unwrap().model().unwrap());
    assert_eq!(average(&one), average(&other));
    assert_ne!(average(&one), weights(one.live()));
    // It is also not the one that both began with.
    assert_eq!(swa.updates(), 0);
}

#[test]
fn ddp_resumes_weights_and_average_to_the_bit() {
    let replicas = || wrap(Replica::of(2, Net::new()));
    let whole = outcome(on_two_devices(ddp(), replicas(), 0.1));
    let resumed = in_temporary_folder(|directory| {
        let training = || {
            training(directory, loader_of(0..POINTS, DEVICE_BATCH))
                .with_training_strategy(ddp().into())
                .with_default_checkpointers()
        };
        training().num_epochs(4).launch(learner(replicas(), 0.1));
        let result = training().checkpoint(4).launch(learner(replicas(), 0.1));
        outcome(result)
    });
    assert_eq!(resumed, whole);
}

/// The outcome of a training with SWAG that collects members too.
fn of_all_collectors(
    result: LearningResult<Swa<Replica>>,
    shelf: &Shelf,
) -> impl PartialEq + Debug + use<> {
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    assert_eq!(steps, [4, 8, 12, 16, 20, 24]);
    assert_eq!(*shelf.puts.lock().unwrap(), steps.len());
    let average = result.model.average().unwrap();
    let deviations = average.deviations();
    let variance = average.variance().unwrap();
    let spread = deviations.iter().chain([&variance]).map(|vector| {
        let layout = vector.layout().parameters().iter();
        let layout = layout.filter(|it| it.role == Role::Weight);
        let of = |path: &str| values(vector.parameter(path).unwrap());
        layout.map(|it| of(&it.path)).collect::<Vec<_>>()
    });
    let spread: Vec<_> = spread.collect();
    let members = shelf.members.lock().unwrap().clone();
    (outcome(result), spread, members)
}

#[test]
fn members_and_swag_are_the_same_on_two_devices() {
    let wrap = |model: Replica, shelf: &Shelf| {
        let run = RunLength::new(EPOCHS, STEPS_PER_EPOCH).unwrap();
        let collect = Collect::from_epoch(1, &run).unwrap();
        let swa = config().with_swag_rank(Some(3)).init(model, loader());
        swa.unwrap().with_members(collect, shelf.clone()).unwrap()
    };
    let shelf = Shelf::default();
    let expected = in_temporary_folder(|directory| {
        let swa = wrap(Replica::alone(Net::new()), &shelf);
        training(directory, loader_of(by_turns(), DEVICE_BATCH))
            .grads_accumulation(2)
            .launch(learner(swa, 0.1))
    });
    let expected = of_all_collectors(expected, &shelf);
    for strategy in [
        multi(MultiDeviceOptim::OptimMainDevice),
        multi(MultiDeviceOptim::OptimSharded),
        ddp(),
    ] {
        let model = match &strategy {
            ExecutionStrategy::DistributedDataParallel { .. } => Replica::of(2, Net::new()),
            _ => Replica::alone(Net::new()),
        };
        let shelf = Shelf::default();
        let result = on_two_devices(strategy, wrap(model, &shelf), 0.1);
        assert!(of_all_collectors(result, &shelf) == expected);
    }
}

#[test]
fn an_average_is_written_back_the_same_on_two_devices() {
    let run = RunLength::new(EPOCHS, STEPS_PER_EPOCH).unwrap();
    let every_epoch = Collect::from_epoch(3, &run).unwrap();
    let wrap = |model: Replica| {
        let config = config().with_write_back(Some(every_epoch));
        config.init(model, loader()).unwrap()
    };
    let expected = in_temporary_folder(|directory| {
        let result = training(directory, loader_of(by_turns(), DEVICE_BATCH))
            .grads_accumulation(2)
            .launch(learner(wrap(Replica::alone(Net::new())), 0.1));
        outcome(result)
    });
    let [live, averaged] = &expected;
    assert!(live.iter().all(|(path, values)| averaged[path] == *values));
    for strategy in [
        multi(MultiDeviceOptim::OptimMainDevice),
        multi(MultiDeviceOptim::OptimSharded),
        ddp(),
    ] {
        let model = match &strategy {
            ExecutionStrategy::DistributedDataParallel { .. } => Replica::of(2, Net::new()),
            _ => Replica::alone(Net::new()),
        };
        let result = on_two_devices(strategy, wrap(model), 0.1);
        assert_eq!(outcome(result), expected);
    }
}

#[test]
fn a_member_that_finds_no_room_does_not_stop_ddp() {
    let shelf = Shelf {
        no_room_at: Some(8),
        ..Shelf::default()
    };
    let run = RunLength::new(EPOCHS, STEPS_PER_EPOCH).unwrap();
    let collect = Collect::from_epoch(1, &run).unwrap();
    let interrupter = Interrupter::new();
    let swa = wrap(Replica::of(2, Net::new())).with_members(collect, shelf);
    let swa = swa.unwrap().with_interrupter(interrupter.clone());
    let result = in_temporary_folder(|directory| {
        training(directory, loader_of(0..POINTS, DEVICE_BATCH))
            .with_training_strategy(ddp().into())
            .with_interrupter(interrupter)
            .launch(learner(swa, 0.1))
    });
    assert!(result.error.is_none());
    assert_eq!(result.model.steps(), STEPS);
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    assert_eq!(steps, [4, 12, 16, 20, 24]);
    let failure = result.model.failure().unwrap().to_string();
    assert!(failure.contains("step 8 was not kept"), "{failure}");
}

#[test]
fn ddp_stops_if_its_steps_changed_within_an_epoch() {
    in_temporary_folder(|directory| {
        let training = || {
            training(directory, loader_of(0..POINTS, DEVICE_BATCH))
                .with_training_strategy(ddp().into())
                .with_default_checkpointers()
        };
        let replicas = |steps_per_epoch| {
            let run = RunLength::new(EPOCHS, steps_per_epoch).unwrap();
            let config = SwaConfig::new(Collect::from_step(FIRST_COLLECTED, &run).unwrap());
            config.init(Replica::of(2, Net::new()), loader()).unwrap()
        };
        let first = training().num_epochs(2);
        first.launch(learner(replicas(STEPS_PER_EPOCH + 1), 0.1));

        let interrupter = Interrupter::new();
        let swa = replicas(STEPS_PER_EPOCH).with_interrupter(interrupter.clone());
        let resumed = training().checkpoint(2).with_interrupter(interrupter);
        let result = resumed.launch(learner(swa, 0.1));
        let error = result.error.expect("the training fails").to_string();
        assert!(
            error.contains("after 8 optimizer steps at 5 an epoch"),
            "{error}"
        );
    });
}

#[test]
fn a_failure_stops_all_workers_of_ddp_after_the_same_step() {
    let interrupted = |net: Net, loader: Watched| {
        let interrupter = Interrupter::new();
        let swa = config()
            .init(Replica::of(2, net), Arc::new(loader))
            .unwrap();
        let swa = swa.with_interrupter(interrupter.clone());
        let history = swa.live().net.history.clone();
        let result = in_temporary_folder(|directory| {
            training(directory, loader_of(0..POINTS, DEVICE_BATCH))
                .with_training_strategy(ddp().into())
                .with_interrupter(interrupter)
                .launch(learner(swa, 0.1))
        });
        let steps = history.lock().unwrap().len() as f64 / 2.0;
        let error = result.error.expect("the training fails").to_string();
        (steps, error, result.model)
    };

    // Fails in the validation of the main worker, after the second epoch, while the other worker goes on.
    let (steps, error, swa) = interrupted(Net::new(), Watched::failing_in(1));
    assert!(error.contains("disk on fire"), "{error}");
    assert_eq!(steps, 9.0);
    assert_eq!(swa.updates(), 5);

    // Fails in step 10, in the weights of the worker that is the first.
    let diverging = Net::new().diverging_at(2 * 9 + 1);
    let (steps, error, swa) = interrupted(diverging, Watched::failing_in(0));
    assert!(error.contains("`input.weight` holds a NaN"), "{error}");
    assert_eq!(steps, 11.0);
    assert!(swa.averaged_model().is_err());
}
