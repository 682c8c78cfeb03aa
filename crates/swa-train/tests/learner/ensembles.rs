//! Collections for ensembles: members, and SWAG's deviations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::train::{Interrupter, Learner, LearnerModel, SupervisedTraining};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, floats, values, weights};
use burn_swa_test_support::points::loader;
use rand::SeedableRng;
use rand::rngs::StdRng;
use swa_train::swa_core::{AveragingRule, Covariance, Member, MemberSink, SinkError};
use swa_train::{
    Collect, CyclicalLrScheduler, CyclicalLrSchedulerConfig, RuleConfig, RunLength, Swa, SwaConfig,
    SwaError,
};

use crate::{
    EPOCHS, Loader, in_temporary_folder, learner, learner_for, run_length, train_swa, training,
    wrap,
};

/// Averages by their names, with their rules.
type Described = Vec<(String, Option<RuleConfig>)>;

/// Keeps the weights of members in memory, by their steps. A step can be lost, and one find no room.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) members: Arc<Mutex<BTreeMap<usize, Values>>>,
    /// The number of members that were put, each time that they were.
    pub(crate) puts: Arc<Mutex<usize>>,
    pub(crate) no_room_at: Option<usize>,
    /// The averages that it is told of.
    pub(crate) described: Arc<Mutex<Described>>,
}

impl<M: Module> MemberSink<M> for Shelf {
    fn put(&mut self, member: &Member, model: &M) -> Result<(), SinkError> {
        if self.no_room_at == Some(member.step) {
            return Err(format!("shelf {}: no space left", member.step).into());
        }
        *self.puts.lock().unwrap() += 1;
        let mut members = self.members.lock().unwrap();
        members.insert(member.step, weights(model));
        Ok(())
    }

    fn check(&mut self, member: &Member) -> Result<(), SinkError> {
        if self.members.lock().unwrap().contains_key(&member.step) {
            Ok(())
        } else {
            Err(format!("shelf {}: empty", member.step).into())
        }
    }

    fn describe(&mut self, name: &str, rule: &dyn AveragingRule) {
        let described = (name.to_owned(), rule.config());
        self.described.lock().unwrap().push(described);
    }
}

/// Three cycles of two epochs.
fn cycles() -> CyclicalLrSchedulerConfig {
    CyclicalLrSchedulerConfig::snapshot(0.1, 3, &run_length()).unwrap()
}

fn schedule() -> CyclicalLrScheduler {
    cycles().init().unwrap()
}

fn ensemble(shelf: &Shelf) -> Swa<Net> {
    let collect = cycles().collect(&run_length()).unwrap();
    Swa::ensemble(Net::new(), collect, shelf.clone()).unwrap()
}

fn cyclical<M: LearnerModel>(model: M) -> Learner<M> {
    use burn::optim::SgdConfig;
    Learner::new(model, SgdConfig::new().init(), schedule())
}

fn ends() -> [usize; 3] {
    let steps_per_epoch = run_length().steps_per_epoch();
    [2, 4, 6].map(|epoch| epoch * steps_per_epoch)
}

#[test]
fn members_are_the_live_networks_at_the_ends_of_cycles() {
    let shelf = Shelf::default();
    let swa = ensemble(&shelf);
    let history = swa.live().history.clone();
    let result = in_temporary_folder(|folder| training(folder).launch(cyclical(swa)));
    let bare = in_temporary_folder(|folder| training(folder).launch(cyclical(Net::new())));
    assert_eq!(weights(&bare.model), weights(result.model.live()));

    let history = history.lock().unwrap().clone();
    let kept = shelf.members.lock().unwrap().clone();
    let expected = ends().map(|step| (step, history[step - 1].clone()));
    assert_eq!(kept, BTreeMap::from(expected));

    let members = result.model.members();
    let steps: Vec<usize> = members.iter().map(|member| member.step).collect();
    assert_eq!(steps, ends());
    // The last step of a cycle of `c` steps, by eq. 2 of the paper.
    let cycle = f64::from(u32::try_from(ends()[0]).unwrap());
    let way = std::f64::consts::PI * (cycle - 1.0) / cycle;
    for member in members {
        let expected = 0.05 * (1.0 + way.cos());
        assert!((member.learning_rate - expected).abs() < 1e-15);
    }
    // There is no average, and validation shows the live model.
    assert_eq!(result.model.updates(), 0);
    let error = result.model.averaged_model().unwrap_err();
    assert!(matches!(error, SwaError::NoAverage), "{error}");
    let error = result.model.clone().with_initial_average(&Net::new(), 3);
    assert!(matches!(error, Err(SwaError::NoAverage)));
    let valid = result.model.valid();
    assert_eq!(floats(valid.validated()), floats(result.model.live()));
}

#[test]
fn members_beside_an_average_leave_it_as_it_is() {
    let shelf = Shelf::default();
    let collect = Collect::from_epoch(5, &run_length()).unwrap();
    let swa = wrap(Net::new())
        .with_members(collect, shelf.clone())
        .unwrap();
    let history = swa.live().history.clone();
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let (alone, _) = train_swa(|training| training);
    let averaged = |swa: &Swa<Net>| floats(&swa.averaged_model().unwrap());
    assert_eq!(averaged(&result.model), averaged(&alone.model));
    let history = history.lock().unwrap();
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    assert_eq!(steps, [25, 30]);
    assert_eq!(shelf.members.lock().unwrap()[&25], history[24]);
}

/// Trains for 3 of 6 epochs, and then from the checkpoint of an epoch on.
fn resumed(
    from: usize,
    shelf: &Shelf,
    between: impl FnOnce(),
) -> burn::train::LearningResult<Swa<Net>> {
    in_temporary_folder(|folder| {
        let checkpointed =
            || -> SupervisedTraining<Swa<Net>> { training(folder).with_default_checkpointers() };
        let first = checkpointed().num_epochs(4);
        first.launch(cyclical(ensemble(shelf)));
        between();
        checkpointed()
            .checkpoint(from)
            .launch(cyclical(ensemble(shelf)))
    })
}

#[test]
fn a_resumed_training_neither_loses_nor_repeats_a_member() {
    let whole = Shelf::default();
    let result = in_temporary_folder(|folder| training(folder).launch(cyclical(ensemble(&whole))));
    let expected = result.model.members();
    // From epoch 3 on, the member of epoch 4 is collected again, to the same place.
    for (from, puts) in [(4, 3), (3, 4)] {
        let shelf = Shelf::default();
        let result = resumed(from, &shelf, || {});
        assert!(result.model.failure().is_none());
        assert_eq!(result.model.members(), expected);
        assert_eq!(*shelf.puts.lock().unwrap(), puts);
        let members = shelf.members.lock().unwrap();
        assert_eq!(*members, *whole.members.lock().unwrap());
    }
}

#[test]
fn a_member_that_is_gone_is_a_failure_and_the_training_goes_on() {
    let shelf = Shelf::default();
    let result = resumed(4, &shelf, || {
        shelf.members.lock().unwrap().remove(&10);
    });
    let failure = result.model.failure().unwrap().to_string();
    assert!(
        failure.ends_with(
            "the member after step 10 is gone: shelf 10: empty. The training goes on without it"
        ),
        "{failure}"
    );
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    assert_eq!(steps, [20, 30]);
}

#[test]
fn a_member_that_finds_no_room_does_not_stop_the_training() {
    let shelf = Shelf {
        no_room_at: Some(20),
        ..Shelf::default()
    };
    let interrupter = Interrupter::new();
    let swa = ensemble(&shelf).with_interrupter(interrupter.clone());
    let result = in_temporary_folder(|folder| {
        training(folder)
            .with_interrupter(interrupter)
            .launch(cyclical(swa))
    });
    assert!(result.error.is_none());
    let failure = result.model.failure().unwrap().to_string();
    assert!(
        failure.contains("step 20 was not kept: shelf 20: no space left"),
        "{failure}"
    );
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    assert_eq!(steps, [10, 30]);
    assert_eq!(result.model.steps(), 30);
}

#[test]
fn members_of_another_length_of_epochs_are_refused() {
    let run = RunLength::new(EPOCHS, 7).unwrap();
    let collect = Collect::from_epoch(5, &run).unwrap();
    let error = wrap(Net::new())
        .with_members(collect, Shelf::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("not 7 (`members`) beside 5"), "{error}");
}

#[test]
fn a_second_sink_is_refused() {
    let collect = Collect::every_step();
    let once = wrap(Net::new()).with_members(collect, Shelf::default());
    let once = once.and_then(|swa| swa.with_snapshots("averaged", collect, Shelf::default()));
    let twice = |swa: Swa<Net>, name| match name {
        "members" => swa.with_members(collect, Shelf::default()),
        name => swa.with_snapshots(name, collect, Shelf::default()),
    };
    for name in ["members", "averaged"] {
        let error = twice(once.as_ref().unwrap().clone(), name).unwrap_err();
        let expected = format!("must be given once, not a second time (`{name}`)");
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
}

pub(crate) fn swag() -> Swa<Net> {
    SwaConfig::new(Collect::from_epoch(3, &run_length()).unwrap())
        .with_swag_rank(Some(3))
        .init(Net::new(), loader())
        .unwrap()
}

/// The values of variance and deviations at a parameter.
fn spread(swa: &Swa<Net>, path: &str) -> (Vec<f64>, Vec<Vec<f64>>) {
    let average = swa.average().unwrap();
    let variance = average.variance().unwrap().parameter(path).unwrap();
    let deviations = average.deviations();
    let deviations = deviations.iter();
    let deviations = deviations.map(|it| values(it.parameter(path).unwrap()));
    (values(variance), deviations.collect())
}

#[test]
fn swag_collects_the_spread_of_the_averaged_weights() {
    let swa = swag();
    let history = swa.live().history.clone();
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let (alone, _) = train_swa(|training| training);
    let averaged = |swa: &Swa<Net>| floats(&swa.averaged_model().unwrap());
    assert_eq!(averaged(&result.model), averaged(&alone.model));

    let history = history.lock().unwrap();
    for path in ["input.weight", "output.bias", "norm.gamma"] {
        let collected = [3, 4, 5, 6].map(|epoch| &history[epoch * 5 - 1][path]);
        let (variance, deviations) = spread(&result.model, path);
        assert_eq!(deviations.len(), 3);
        for (at, variance) in variance.iter().enumerate() {
            let values = collected.map(|weights| weights[at]);
            let mean_of = |count: usize| values[..count].iter().sum::<f64>() / count as f64;
            let squares = values.map(|value| (value - mean_of(4)).powi(2));
            let expected = squares.iter().sum::<f64>() / 4.0;
            assert!(
                (variance - expected).abs() < 1e-6,
                "{path}: {variance} {expected}"
            );
            for (row, count) in deviations.iter().zip([2, 3, 4]) {
                let expected = values[count - 1] - mean_of(count);
                assert!((row[at] - expected).abs() < 1e-6, "{path}");
            }
        }
    }
}

#[test]
fn a_sample_of_swag_has_its_own_batch_norm_statistics() {
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swag())));
    let swa = &result.model;
    let sample = |scale: f64, covariance| {
        let mut rng = StdRng::seed_from_u64(5);
        swa.sample(scale, covariance, &mut rng).unwrap()
    };
    // Of scale 0, it is the averaged model with its re-estimated statistics.
    let averaged = floats(&swa.averaged_model().unwrap());
    assert_eq!(floats(&sample(0.0, Covariance::Full)), averaged);
    let [full, diagonal] =
        [Covariance::Full, Covariance::Diagonal].map(|it| floats(&sample(0.5, it)));
    for path in ["input.weight", "norm.running_mean", "norm.running_var"] {
        assert_ne!(full[path], averaged[path]);
        assert_ne!(full[path], diagonal[path]);
    }
    assert_eq!(floats(&sample(0.5, Covariance::Full)), full);
    let error = wrap(Net::new())
        .sample(0.5, Covariance::Full, &mut StdRng::seed_from_u64(5))
        .unwrap_err();
    assert!(
        error.to_string().contains("`with_deviations(20)`"),
        "{error}"
    );
}

#[test]
fn swag_resumes_to_the_bit() {
    let all = |swa: &Swa<Net>| {
        let paths = ["input.weight", "output.weight", "norm.beta"];
        let spread = paths.map(|path| spread(swa, path));
        (spread, floats(&swa.averaged_model().unwrap()))
    };
    let whole = in_temporary_folder(|folder| training(folder).launch(learner(swag())));
    for epochs in [2, 4, 5] {
        let resumed = in_temporary_folder(|folder| {
            let checkpointed = || training(folder).with_default_checkpointers();
            let first = checkpointed().num_epochs(epochs);
            first.launch(learner(swag()));
            checkpointed().checkpoint(epochs).launch(learner(swag()))
        });
        assert_eq!(all(&resumed.model), all(&whole.model));
    }
}

#[test]
fn a_record_of_another_rank_says_which_to_take() {
    let trained = |swa: Swa<Net>| {
        let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
        result.model.into_record()
    };
    let error = |swa: Swa<Net>, record| swa.try_load_record(record).unwrap_err().to_string();
    let got = error(wrap(Net::new()), trained(swag()));
    let expected = "keeps 3 deviations for SWAG, and this one keeps no deviations: go on with \
                    `SwaConfig::with_swag_rank(Some(3))`";
    assert!(got.contains(expected), "{got}");
    let got = error(swag(), trained(wrap(Net::new())));
    assert!(got.contains("`SwaConfig::with_swag_rank(None)`"), "{got}");
}

#[test]
fn a_record_of_other_collectors_says_what_to_do() {
    let averaged = in_temporary_folder(|folder| training(folder).launch(learner(wrap(Net::new()))));
    let record = averaged.model.into_record();
    let shelf = Shelf::default();
    let error = ensemble(&shelf).try_load_record(record).unwrap_err();
    assert!(error.to_string().contains("`load_live`"), "{error}");

    let swa = ensemble(&shelf);
    let members = in_temporary_folder(|folder| training(folder).launch(cyclical(swa)));
    let record = members.model.into_record();
    let error = wrap(Net::new()).try_load_record(record).unwrap_err();
    assert!(error.to_string().contains("add `with_members`"), "{error}");
}

#[test]
fn swag_of_a_single_deviation_is_refused_before_the_training() {
    let config = SwaConfig::new(Collect::from_epoch(3, &run_length()).unwrap());
    let error = config.with_swag_rank(Some(1)).init(Net::new(), loader());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("at least 2, not 1"), "{error}");
}

#[test]
fn swag_on_a_device_of_its_own_is_the_same() {
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swag())));
    let apart = swag().with_device(&burn::tensor::Device::flex());
    let apart = in_temporary_folder(|folder| training(folder).launch(learner(apart)));
    let path = "input.weight";
    assert_eq!(spread(&result.model, path), spread(&apart.model, path));
}

#[test]
fn fewer_steps_in_an_epoch_overwrite_no_member() {
    let shelf = Shelf::default();
    let shorter = RunLength::new(EPOCHS, 4).unwrap();
    let result = in_temporary_folder(|folder| {
        let first: SupervisedTraining<Swa<Net>> = training(folder);
        let first = first.with_default_checkpointers().num_epochs(4);
        first.launch(cyclical(ensemble(&shelf)));
        // Epoch 5 now ends after step 20, as epoch 4 did before.
        let collect = Collect::from_epoch(5, &shorter).unwrap();
        let swa = Swa::ensemble(Net::new(), collect, shelf.clone()).unwrap();
        let train: Loader =
            burn_swa_test_support::points::loader_of(0..burn_swa_test_support::points::ITEMS, 18);
        let resumed = crate::training_on(train, folder)
            .with_default_checkpointers()
            .checkpoint(4);
        resumed.launch(learner_for(swa, &shorter))
    });
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    assert_eq!(steps, [10, 20, 24]);
    assert_eq!(*shelf.puts.lock().unwrap(), 3);
    let failure = result.model.failure().unwrap().to_string();
    assert!(failure.contains("step 20 was not kept"), "{failure}");
}

#[test]
fn a_checkpoint_with_members_goes_on_with_other_steps_in_an_epoch() {
    let shelf = Shelf::default();
    let longer = RunLength::new(EPOCHS, 9).unwrap();
    let result = in_temporary_folder(|folder| {
        let first: SupervisedTraining<Swa<Net>> = training(folder);
        let first = first.with_default_checkpointers().num_epochs(4);
        first.launch(cyclical(ensemble(&shelf)));
        let collect = Collect::from_epoch(2, &longer).unwrap();
        let collect = collect.every_epochs(2).unwrap();
        let swa = Swa::ensemble(Net::new(), collect, shelf.clone()).unwrap();
        let train: Loader =
            burn_swa_test_support::points::loader_of(0..burn_swa_test_support::points::ITEMS, 8);
        let resumed = crate::training_on(train, folder)
            .with_default_checkpointers()
            .checkpoint(4);
        resumed.launch(learner_for(swa, &longer))
    });
    let steps: Vec<usize> = result.model.members().iter().map(|it| it.step).collect();
    // The steps that they were collected after, then and now.
    assert_eq!(steps, [10, 20, 54]);
}
