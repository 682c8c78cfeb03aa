use burn::module::Module;
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{scaled, weights};
use burn_swa_test_support::points::loader;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::{Collect, RunLength};

fn swa_of(model: Net) -> Swa<Net> {
    let run = RunLength::new(1, 10).unwrap();
    SwaConfig::new(Collect::from_step(1, &run).unwrap())
        .init(model, loader())
        .unwrap()
}

fn swa() -> Swa<Net> {
    swa_of(Net::new())
}

#[test]
fn forks_for_workers_share_the_average_and_do_not_copy_it() {
    let swa = swa();
    let worker = swa.clone().fork(&Device::flex().autodiff());
    assert!(Arc::ptr_eq(&swa.state, &worker.state));
}

#[test]
fn clones_that_train_together_update_the_average_once_a_step() {
    let workers = [swa()].map(|first| [first.clone(), first]).concat();
    let workers: Vec<_> = workers.into_iter().map(|swa| swa.after_step(0.1)).collect();
    assert_eq!(workers[0].updates(), 1);
    let workers: Vec<_> = workers.into_iter().map(|swa| swa.after_step(0.1)).collect();
    assert_eq!(workers[1].updates(), 2);
}

#[test]
fn a_copy_for_validation_is_left_alone_by_later_steps() {
    let swa = swa().after_step(0.1);
    let valid = swa.valid();
    let swa = swa.after_step(0.1);
    assert_eq!((valid.updates(), swa.updates()), (1, 2));
}

#[test]
fn what_was_evaluated_is_not_taken_for_another_records() {
    let evaluated = swa().after_step(0.1);
    evaluated.clone().averaged_model().unwrap();
    let other = swa_of(scaled(Net::new(), 2.0)).after_step(0.1);
    let record = other.clone().into_record();
    let loaded = evaluated.try_load_record(record).unwrap();
    let averaged = loaded.averaged_model().unwrap();
    assert_eq!(weights(&averaged), weights(other.live()));
}

#[test]
fn diverged_weights_are_not_averaged_until_a_record_is_loaded() {
    let mut swa = swa().after_step(0.1);
    let record = swa.clone().into_record();
    assert!(swa.try_evaluate(MAIN).is_some());
    swa.model = scaled(swa.model, f64::NAN);
    let diverged = swa.after_step(0.1);
    assert!(diverged.try_evaluate(MAIN).is_none());
    assert!(diverged.clone().averaged_model().is_err());
    let mut rng = StdRng::seed_from_u64(1);
    let error = diverged.sample(0.5, Covariance::Full, &mut rng);
    assert!(matches!(error, Err(SwaError::AfterStep { .. })));
    let diverged = diverged.after_step(0.1);
    assert_eq!((diverged.updates(), diverged.steps()), (1, 3));

    let resumed = diverged.try_load_record(record).unwrap();
    assert!(resumed.failure().is_none());
    let resumed = resumed.after_step(0.1);
    assert_eq!((resumed.updates(), resumed.steps()), (2, 2));
    resumed.averaged_model().unwrap();
}

#[test]
fn a_record_of_the_same_step_is_not_judged_by_a_failure() {
    let record = swa().after_step(0.1).into_record();
    let mut swa = swa();
    swa.model = scaled(swa.model, f64::NAN);
    let diverged = swa.after_step(0.1);
    diverged.failure().unwrap();
    let resumed = diverged.try_load_record(record).unwrap();
    assert_eq!((resumed.steps(), resumed.first_step), (1, 1));
    assert!(resumed.failure().is_none());
    let resumed = resumed.after_step(0.1);
    assert_eq!((resumed.updates(), resumed.steps()), (2, 2));
    resumed.averaged_model().unwrap();
}

#[test]
fn weights_that_are_no_numbers_are_refused_before_the_training() {
    let run = RunLength::new(1, 10).unwrap();
    let config = SwaConfig::new(Collect::from_step(1, &run).unwrap());
    let error = config.init(scaled(Net::new(), f64::NAN), loader());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`input.weight` holds a NaN"), "{error}");
}

#[test]
fn a_training_with_a_clone_of_what_another_has_trained_is_told() {
    let start = swa();
    let first = (0..4).fold(start.clone(), |swa, _| swa.after_step(0.1));
    let averaged = first.clone().averaged_model().unwrap();
    let error = start.after_step(0.1).averaged_model().unwrap_err();
    assert!(error.to_string().contains("SwaConfig::init"), "{error}");
    assert_eq!(weights(&averaged), weights(first.live()));
}

fn swa_of_epochs(steps_per_epoch: usize) -> Swa<Net> {
    let run = RunLength::new(100, steps_per_epoch).unwrap();
    let config = SwaConfig::new(Collect::from_epoch(2, &run).unwrap());
    config.init(Net::new(), loader()).unwrap()
}

#[test]
fn steps_of_a_record_are_converted_at_the_end_of_an_epoch() {
    let record = |steps_per_epoch, steps| {
        let swa = swa_of_epochs(steps_per_epoch);
        (0..steps)
            .fold(swa, |swa, _| swa.after_step(0.1))
            .into_record()
    };
    for (before, now) in [(3, 7), (7, 3), (4, 1), (1, 4)] {
        for epochs in [0, 1, 2] {
            let loaded = swa_of_epochs(now).load_record(record(before, epochs * before));
            assert_eq!(loaded.steps(), epochs * now);
            let recorded = loaded.updates();
            let mut trained = (0..now).fold(loaded, |swa, _| swa.after_step(0.1));
            let expected = if epochs == 0 { 0 } else { recorded + 1 };
            assert_eq!(trained.updates(), expected);
            // It records its own steps, and is no longer converted.
            trained = swa_of_epochs(now).load_record(trained.into_record());
            assert_eq!(trained.steps(), (epochs + 1) * now);
            assert!(trained.after_step(0.1).failure().is_none());
        }
    }

    // Within an epoch: the first step fails, and another record can be loaded still.
    let loaded = swa_of_epochs(4).load_record(record(3, 7));
    assert_eq!((loaded.steps(), loaded.updates()), (7, 1));
    assert!(loaded.clone().averaged_model().is_ok());
    let failed = loaded.after_step(0.1);
    let Some(SwaError::AfterStep { step: 8, error }) = failed.failure() else {
        panic!("{:?}", failed.failure());
    };
    assert!(matches!(
        *error,
        SwaError::StepsChanged {
            steps: 7,
            before: 3,
            now: 4
        }
    ));
    let loaded = failed.load_record(record(3, 6));
    assert_eq!(loaded.steps(), 8);
    assert!(loaded.after_step(0.1).failure().is_none());
    // The same steps as before.
    let loaded = swa_of_epochs(3).load_record(record(3, 7));
    assert!(loaded.after_step(0.1).failure().is_none());
}

#[test]
fn counts_of_a_record_do_not_wrap() {
    let most = usize::MAX;
    for (before, now, steps, expected) in [
        (1, 1, most, i64::MAX as usize),
        (1, 3, most, most),
        (3, 1, 0, 0),
        (most, 3, most, 3),
    ] {
        let mut swa = swa_of_epochs(before);
        swa.steps.value = steps;
        let loaded = swa_of_epochs(now).load_record(swa.into_record());
        assert_eq!(loaded.steps(), expected);
        let trained = loaded.after_step(0.1);
        assert_eq!(trained.steps(), expected.saturating_add(1));
        assert!(trained.after_step(0.1).failure().is_none());
    }
}

#[test]
fn a_model_of_the_users_own_may_have_a_field_called_average() {
    let device = Device::flex();
    let record = |path: &str| {
        let number = Counter::new(3).param(&device);
        Below(vec![(path.to_owned(), number)]).into_record()
    };
    let format = |path| Contents::of(&record(path), &[], &device).unwrap().format;
    assert_eq!(format("average.updates"), None);
    assert_eq!(format("format"), None);
    assert_eq!(format("swa_train.format"), Some(3));
}

#[test]
fn a_record_without_an_average_leaves_none_of_before() {
    let early = swa_of_epochs(3).after_step(0.1);
    let record = || early.clone().into_record();
    let late = (0..6).fold(swa_of_epochs(3), |swa, _| swa.after_step(0.1));
    assert_eq!(late.updates(), 1);
    let loaded = late.load_record(record());
    assert_eq!((loaded.steps(), loaded.updates()), (1, 0));
    assert!(loaded.averaged_model().is_err());
    // Nor are statistics taken to be of another average with as many updates.
    let contents = |swa: &Swa<Net>| Contents::of(&swa.clone().into_record(), &[], &Device::flex());
    let validated = (0..6).fold(swa_of_epochs(3), |swa, _| swa.after_step(0.1));
    validated.averaged_model().unwrap();
    let resumed = swa_of_epochs(3).load_record(validated.into_record());
    assert!(contents(&resumed).unwrap().is_ready);
    let other = resumed.load_record(record());
    let other = (0..5).fold(other, |swa, _| swa.after_step(0.1));
    assert_eq!(other.updates(), 1);
    assert!(!contents(&other).unwrap().is_ready);
    // An average from elsewhere goes on, if the training begins with the record.
    let begun = swa_of_epochs(3)
        .with_initial_average(&Net::new(), 5)
        .unwrap();
    assert_eq!(begun.load_record(record()).updates(), 5);
}

#[test]
fn steps_are_kept_where_no_length_of_an_epoch_is_known() {
    for steps in [6, 7] {
        let trained = (0..steps).fold(swa_of_epochs(3), |swa, _| swa.after_step(0.1));
        let ema = SwaConfig::ema(0.9).init_without_data(Net::new()).unwrap();
        let loaded = ema.load_record(trained.into_record()).after_step(0.1);
        assert_eq!(loaded.steps(), steps + 1);
        assert!(loaded.failure().is_none());
    }
}

#[test]
fn the_record_of_a_later_version_is_refused() {
    let mut later = swa().after_step(0.1);
    later.format.value = RECORD_FORMAT + 1;
    let error = swa().try_load_record(later.into_record()).unwrap_err();
    let expected = format!(
        "has format {}, and this version of swa-train reads those up to",
        RECORD_FORMAT + 1
    );
    assert!(error.to_string().contains(&expected), "{error}");
}

#[test]
fn a_copy_for_validation_that_is_trained_collects_by_itself() {
    let swa = swa().after_step(0.1);
    let copy = swa.valid().train().after_step(0.1);
    assert_eq!((copy.updates(), swa.updates()), (2, 1));
}
