//! Snapshots of averages, from which others are put together after the training.

use burn::train::{LearningResult, SupervisedTraining};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, weights};
use swa_train::swa_core::{
    AveragingRule, Member, PowerFunction, Profile, post_hoc_coefficients, window_coefficients,
};
use swa_train::{AverageConfig, Collect, RuleConfig, RunningStatistics, Swa, SwaConfig, SwaError};

use crate::ensembles::Shelf;
use crate::{EPOCHS, in_temporary_folder, learner, run_length, training};

/// The widths of two averages at every step.
const WIDTHS: [f64; 2] = [0.1, 0.2];

/// Takes snapshots after each epoch.
fn wrap(model: Net, shelves: [&Shelf; 2]) -> Swa<Net> {
    let every_step = Collect::from_step(1, &run_length()).unwrap();
    let every_epoch = Collect::from_epoch(1, &run_length()).unwrap();
    let [narrow, wide] = WIDTHS.map(|width| RuleConfig::PowerFunction { width });
    let further = AverageConfig::new("wide".to_owned(), every_step).with_rule(wide);
    let swa = SwaConfig::new(every_step)
        .with_rule(narrow)
        .with_further_averages(vec![further])
        .with_running_statistics(RunningStatistics::Averaged)
        .init_without_data(model)
        .unwrap();
    ["averaged", "wide"]
        .into_iter()
        .zip(shelves)
        .fold(swa, |swa, (name, shelf)| {
            swa.with_snapshots(name, every_epoch, shelf.clone())
                .unwrap()
        })
}

fn steps(members: &[Member]) -> Vec<usize> {
    members.iter().map(|member| member.step).collect()
}

/// The sum of `coefficient * weights`.
fn combined<'a>(terms: impl IntoIterator<Item = (f64, &'a Values)>) -> Values {
    let mut sum = Values::new();
    for (coefficient, weights) in terms {
        for (path, values) in weights {
            let sum = sum
                .entry(path.clone())
                .or_insert_with(|| vec![0.0; values.len()]);
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += coefficient * value;
            }
        }
    }
    sum
}

fn distance(left: &Values, right: &Values) -> f64 {
    let difference = combined([(1.0, left), (-1.0, right)]);
    let values = difference.values().flatten();
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// The average by a rule of the weights after each of the first `count` steps.
fn averaged(rule: &impl AveragingRule, history: &[Values], count: usize) -> Values {
    let first = combined([(1.0, &history[0])]);
    (1..count).fold(first, |average, updates| {
        let weight = rule.weight(updates);
        combined([(1.0 - weight, &average), (weight, &history[updates])])
    })
}

#[test]
fn snapshots_are_the_averages_at_the_ends_of_epochs() {
    let shelves = [Shelf::default(), Shelf::default()];
    let swa = wrap(Net::new(), shelves.each_ref());
    let history = swa.live().history.clone();
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let history = history.lock().unwrap();

    let steps_per_epoch = run_length().steps_per_epoch();
    let ends: Vec<usize> = (1..=EPOCHS).map(|epoch| epoch * steps_per_epoch).collect();
    for ((name, shelf), width) in ["averaged", "wide"].into_iter().zip(&shelves).zip(WIDTHS) {
        let kept = result.model.snapshots(name).unwrap();
        assert_eq!(steps(&kept), ends);
        let updates: Vec<Option<usize>> = kept.iter().map(|it| it.updates).collect();
        assert_eq!(updates, ends.iter().copied().map(Some).collect::<Vec<_>>());
        let rule = PowerFunction::of_width(width).unwrap();
        for (step, snapshot) in &*shelf.members.lock().unwrap() {
            let off = distance(snapshot, &averaged(&rule, &history, *step));
            assert!(off < 1e-5, "{name} after {step}: {off}");
        }
        assert_eq!(
            shelf.described.lock().unwrap().as_slice(),
            [(name.to_owned(), Some(RuleConfig::PowerFunction { width }))]
        );
    }
    assert!(result.model.members().is_empty());
    let error = result.model.snapshots("narrow").unwrap_err();
    assert!(matches!(error, SwaError::UnknownAverage { .. }), "{error}");
}

#[test]
fn snapshots_give_an_average_of_another_width() {
    let shelves = [Shelf::default(), Shelf::default()];
    let swa = wrap(Net::new(), shelves.each_ref());
    let history = swa.live().history.clone();
    in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let history = history.lock().unwrap();

    let (mut profiles, mut snapshots) = (Vec::new(), Vec::new());
    for (shelf, width) in shelves.iter().zip(WIDTHS) {
        for (step, snapshot) in &*shelf.members.lock().unwrap() {
            profiles.push(Profile::of_width(width, *step).unwrap());
            snapshots.push(snapshot.clone());
        }
    }
    let steps = history.len();
    let target = Profile::of_width(0.15, steps).unwrap();
    let found = post_hoc_coefficients(&profiles, target).unwrap();
    let put_together = combined(found.coefficients.into_iter().zip(&snapshots));
    let direct = averaged(&target.rule, &history, steps);
    let off = distance(&put_together, &direct);
    // The averages it is made of are much farther away.
    let nearest = snapshots.iter().map(|it| distance(it, &direct));
    let nearest = nearest.fold(f64::INFINITY, f64::min);
    assert!(off < nearest / 10.0, "{off} {nearest}");
}

#[test]
fn snapshots_of_a_mean_give_the_mean_of_any_window() {
    let shelf = Shelf::default();
    let every_step = Collect::from_step(1, &run_length()).unwrap();
    let every_epoch = Collect::from_epoch(1, &run_length()).unwrap();
    let swa = SwaConfig::new(every_step)
        .with_running_statistics(RunningStatistics::Averaged)
        .init_without_data(Net::new())
        .unwrap()
        .with_snapshots("averaged", every_epoch, shelf.clone())
        .unwrap();
    let history = swa.live().history.clone();
    in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let history = history.lock().unwrap();
    let snapshots = shelf.members.lock().unwrap();
    for (after, upto) in [(5, 30), (20, 25), (0, 10)] {
        let [first, second] = window_coefficients(after, upto).unwrap();
        let earlier = snapshots.get(&after).map(|snapshot| (first, snapshot));
        let window = combined(earlier.into_iter().chain([(second, &snapshots[&upto])]));
        let part = 1.0 / (upto - after) as f64;
        let mean = combined(history[after..upto].iter().map(|weights| (part, weights)));
        let off = distance(&window, &mean);
        assert!(off < 1e-5, "({after}, {upto}]: {off}");
    }
}

/// Trains for 4 of 6 epochs, and then from the checkpoint of an epoch on.
fn resumed(from: usize, shelves: [&Shelf; 2], between: impl FnOnce()) -> LearningResult<Swa<Net>> {
    in_temporary_folder(|folder| {
        let checkpointed =
            || -> SupervisedTraining<Swa<Net>> { training(folder).with_default_checkpointers() };
        let first = checkpointed().num_epochs(4);
        first.launch(learner(wrap(Net::new(), shelves)));
        between();
        checkpointed()
            .checkpoint(from)
            .launch(learner(wrap(Net::new(), shelves)))
    })
}

#[test]
fn a_resumed_training_neither_loses_nor_repeats_a_snapshot() {
    let whole = [Shelf::default(), Shelf::default()];
    let swa = wrap(Net::new(), whole.each_ref());
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    // From epoch 3 on, the snapshots of epoch 4 are taken again, to the same places.
    for (from, puts) in [(4, 6), (3, 7)] {
        let shelves = [Shelf::default(), Shelf::default()];
        let resumed = resumed(from, shelves.each_ref(), || {});
        assert!(resumed.model.failure().is_none());
        for ((name, shelf), whole) in ["averaged", "wide"].into_iter().zip(&shelves).zip(&whole) {
            let expected = result.model.snapshots(name).unwrap();
            assert_eq!(resumed.model.snapshots(name).unwrap(), expected);
            assert_eq!(*shelf.puts.lock().unwrap(), puts);
            assert_eq!(
                *shelf.members.lock().unwrap(),
                *whole.members.lock().unwrap()
            );
        }
    }
}

#[test]
fn a_snapshot_that_is_gone_is_a_failure_and_the_training_goes_on() {
    let shelves = [Shelf::default(), Shelf::default()];
    let result = resumed(4, shelves.each_ref(), || {
        shelves[1].members.lock().unwrap().remove(&10);
    });
    let failure = result.model.failure().unwrap().to_string();
    assert!(
        failure.contains("the member after step 10 is gone"),
        "{failure}"
    );
    assert_eq!(
        steps(&result.model.snapshots("wide").unwrap()),
        [5, 15, 20, 25, 30]
    );
    assert_eq!(result.model.snapshots("averaged").unwrap().len(), EPOCHS);
    assert_eq!(result.model.updates(), run_length().total_steps());
}

#[test]
fn nothing_is_handed_on_before_there_is_an_average() {
    let shelf = Shelf::default();
    let every_epoch = Collect::from_epoch(1, &run_length()).unwrap();
    let swa = crate::wrap(Net::new()).with_snapshots("averaged", every_epoch, shelf.clone());
    let swa = swa.unwrap();
    let result = in_temporary_folder(|folder| training(folder).launch(learner(swa)));
    let kept = result.model.snapshots("averaged").unwrap();
    assert_eq!(steps(&kept), [15, 20, 25, 30]);
    assert_eq!(kept[0].updates, Some(1));
    let last = shelf.members.lock().unwrap()[&30].clone();
    assert_eq!(last, weights(&result.model.averaged_model().unwrap()));
}
