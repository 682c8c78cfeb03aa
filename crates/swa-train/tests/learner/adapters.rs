//! Models whose parameters are reparameterized by adapters.

use burn::module::{Lora, Module};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, floats, weights};
use swa_train::{Swa, SwaConfig, load_averaged};

use super::{
    Collect, EPOCHS, assert_is_mean_of, collected, in_temporary_folder, learner, loader,
    run_length, training,
};

fn wrap(model: Net) -> Swa<Net> {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    SwaConfig::new(collect).init(model, loader()).unwrap()
}

fn adapted() -> Net {
    Net::new().apply_lora(Lora::new(RANK, 4.0))
}

/// The values of all parameters, with the products of the factors added to those that are adapted: `base + alpha / rank * a b`.
fn effective(visited: &Values) -> Values {
    let mut effective = visited.clone();
    effective.retain(|path, _| !path.contains(".lora."));
    for (path, base) in &mut effective {
        let factor = |name: &str| visited.get(&format!("{path}.lora.{name}"));
        if let (Some(a), Some(b)) = (factor("a"), factor("b")) {
            let columns = b.len() / RANK;
            for (at, value) in base.iter_mut().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let product = |rank| a[row * RANK + rank] * b[rank * columns + column];
                *value += 2.0 * (0..RANK).map(product).sum::<f64>();
            }
        }
    }
    effective
}

const RANK: usize = 2;

#[test]
fn the_average_of_a_model_with_adapters_is_of_effective_weights() {
    let swa = wrap(adapted());
    let history = swa.live().history.clone();
    in_temporary_folder(|directory| {
        let training = || training(directory).with_default_checkpointers();
        let trained = training().launch(learner(swa)).model;
        let history = history.lock().unwrap();
        let steps_per_epoch = run_length().steps_per_epoch();
        let averaged = trained.averaged_model().unwrap();
        let paths: Vec<_> = weights(&averaged).into_keys().collect();
        assert_eq!(paths, weights(&Net::new()).into_keys().collect::<Vec<_>>());
        let effective: Vec<Values> = history.iter().map(effective).collect();
        assert_is_mean_of(&averaged, &collected(&effective, steps_per_epoch));
        // Only the adapters made them move.
        assert_eq!(history[0]["input.weight"], history[29]["input.weight"]);
        assert_ne!(effective[0]["input.weight"], effective[29]["input.weight"]);

        // The live model keeps its adapters, and the checkpoint has both.
        let with_adapters = weights(trained.live()).len();
        assert!(with_adapters > paths.len());
        let file = directory.join(format!("checkpoint/model-{EPOCHS}.bpk"));
        let loaded = load_averaged(&file, Net::new()).unwrap();
        assert_eq!(floats(&loaded), floats(&averaged));
        let resumed = wrap(adapted()).try_load_file(&file).unwrap();
        assert_eq!(weights(resumed.live()), weights(trained.live()));
        assert_eq!(
            floats(&resumed.averaged_model().unwrap()),
            floats(&averaged)
        );
    });
}
