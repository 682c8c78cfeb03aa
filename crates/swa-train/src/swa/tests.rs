use burn::module::Module;
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{scaled, weights};
use burn_swa_test_support::points::loader;

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
    let workers: Vec<_> = workers.into_iter().map(Swa::after_step).collect();
    assert_eq!(workers[0].updates(), 1);
    let workers: Vec<_> = workers.into_iter().map(Swa::after_step).collect();
    assert_eq!(workers[1].updates(), 2);
}

#[test]
fn a_copy_for_validation_is_left_alone_by_later_steps() {
    let swa = swa().after_step();
    let valid = swa.valid();
    let swa = swa.after_step();
    assert_eq!((valid.updates(), swa.updates()), (1, 2));
}

#[test]
fn what_was_evaluated_is_not_taken_for_another_records() {
    let evaluated = swa().after_step();
    evaluated.clone().into_averaged().unwrap();
    let other = swa_of(scaled(Net::new(), 2.0)).after_step();
    let record = other.clone().into_record();
    let loaded = evaluated.try_load_record(record).unwrap();
    let averaged = loaded.into_averaged().unwrap();
    assert_eq!(weights(&averaged), weights(other.live()));
}

#[test]
fn diverged_weights_are_not_averaged_until_a_record_is_loaded() {
    let mut swa = swa().after_step();
    let record = swa.clone().into_record();
    assert!(swa.try_evaluate(MAIN).is_some());
    swa.model = scaled(swa.model, f64::NAN);
    let diverged = swa.after_step();
    assert!(diverged.try_evaluate(MAIN).is_none());
    assert!(diverged.clone().into_averaged().is_err());
    let diverged = diverged.after_step();
    assert_eq!((diverged.updates(), diverged.steps()), (1, 3));

    let resumed = diverged.try_load_record(record).unwrap();
    assert!(resumed.failure().is_none());
    let resumed = resumed.after_step();
    assert_eq!((resumed.updates(), resumed.steps()), (2, 2));
    resumed.into_averaged().unwrap();
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
    let first = (0..4).fold(start.clone(), |swa, _| swa.after_step());
    let averaged = first.clone().into_averaged().unwrap();
    let error = start.after_step().into_averaged().unwrap_err();
    assert!(error.to_string().contains("SwaConfig::init"), "{error}");
    assert_eq!(weights(&averaged), weights(first.live()));
}

#[test]
fn the_record_of_a_later_version_is_refused() {
    let mut later = swa().after_step();
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
    let swa = swa().after_step();
    let copy = swa.valid().train().after_step();
    assert_eq!((copy.updates(), swa.updates()), (2, 1));
}
