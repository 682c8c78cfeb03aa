//! Averages of a part of the model, and averages on a device of their own.

use burn::tensor::Device;
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, values, weights};
use swa_train::{AverageConfig, Collect, Swa, SwaConfig, SwaError};

use super::{
    EPOCHS, both_averages, collected, in_temporary_folder, learner, loader, run_length, training,
    wrap_with_ema,
};

fn wrap(copied: &[&str]) -> Result<Swa<Net>, SwaError> {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let last = Collect::from_epoch(EPOCHS, &run_length()).unwrap();
    SwaConfig::new(collect)
        .with_swag_rank(Some(3))
        .with_further_averages(vec![AverageConfig::new("last".to_owned(), last)])
        .with_copied(copied.iter().map(|part| (*part).to_owned()).collect())
        .init(Net::new(), loader())
}

#[test]
fn a_copied_part_is_the_latest_and_the_rest_is_averaged() {
    let swa = || wrap(&["output"]).unwrap();
    let whole = in_temporary_folder(|folder| training(folder).launch(learner(swa())).model);
    let history = whole.live().history.lock().unwrap();
    let collected: Vec<&Values> = collected(&history, run_length().steps_per_epoch());

    let live = weights(whole.live());
    let averaged = weights(&whole.averaged_model().unwrap());
    for (path, averaged) in &averaged {
        if path.starts_with("output.") {
            assert_eq!(*averaged, live[path], "{path}");
            continue;
        }
        let mean = |at: usize| {
            let sum: f64 = collected.iter().map(|weights| weights[path][at]).sum();
            sum / collected.len() as f64
        };
        let is_mean = |(at, value): (usize, &f64)| (value - mean(at)).abs() < 1e-6;
        assert!(averaged.iter().enumerate().all(is_mean), "{path}");
    }
    assert_ne!(averaged["input.weight"], live["input.weight"]);
    let average = whole.average().unwrap();
    let vectors = average.variance().into_iter().chain(average.deviations());
    for vector in vectors {
        let is_zero = |path: &str| {
            let values = values(vector.parameter(path).unwrap());
            values.iter().all(|value| *value == 0.0)
        };
        assert!(is_zero("output.weight") && is_zero("output.bias"));
        assert!(!is_zero("input.weight"));
    }

    in_temporary_folder(|folder| {
        let checkpointed = || training(folder).with_default_checkpointers();
        checkpointed().num_epochs(4).launch(learner(swa()));
        let resumed = checkpointed().checkpoint(4).launch(learner(swa())).model;
        for name in ["averaged", "last"] {
            let of = |swa: &Swa<Net>| weights(&swa.averaged(name).unwrap());
            assert_eq!(of(&resumed), of(&whole));
        }
    });
}

#[test]
fn a_part_that_is_not_there_is_an_error_with_those_near_it() {
    let error = |parts: &[&str]| wrap(parts).unwrap_err().to_string();
    assert_eq!(
        error(&["output", "outputs"]),
        "the model has no part `outputs`, which `SwaConfig::copied` names: near it are `input`, `norm`, `output`"
    );
    let expected = "near it are `output.weight`, `output.bias`";
    let of_a_layer = error(&["output.weights.0"]);
    assert!(of_a_layer.ends_with(expected), "{of_a_layer}");
    // Running statistics have a setting of their own.
    let all = error(&["input", "norm", "output"]);
    assert!(all.contains("none of the model's weights"), "{all}");
    assert!(all.contains("`copied` of `SwaConfig`"), "{all}");
    wrap(&["input", "norm", "output.weight"]).unwrap();
}

#[test]
fn an_average_on_a_device_of_its_own_is_the_same() {
    let train = |swa| in_temporary_folder(|folder| training(folder).launch(learner(swa)).model);
    let apart = wrap_with_ema(Net::new());
    let apart = apart.with_device_of("ema", &Device::flex()).unwrap();
    let together = wrap_with_ema(Net::new());
    assert_eq!(
        both_averages(&train(apart)),
        both_averages(&train(together))
    );

    let error = wrap_with_ema(Net::new()).with_device_of("emma", &Device::flex());
    let error = error.unwrap_err();
    assert!(matches!(error, SwaError::UnknownAverage { .. }), "{error}");
}
