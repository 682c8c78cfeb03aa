//! The tests' record of a training, and comparisons with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::Module;
use burn_swa_test_support::parameters::{Values, floats, weights};

/// The weights after every optimizer step. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Vec<Values>>>);

impl History {
    /// Adds the weights of `model`.
    pub(crate) fn keep(&self, model: &impl Module) {
        self.0.lock().unwrap().push(weights(model));
    }

    /// The weights after all steps: those of step `n` are at `n - 1`.
    pub(crate) fn all(&self) -> Vec<Values> {
        self.0.lock().unwrap().clone()
    }

    /// The weights after the last step of each of these epochs.
    pub(crate) fn at_the_ends_of(
        &self,
        epochs: impl IntoIterator<Item = usize>,
        steps_per_epoch: usize,
    ) -> Vec<Values> {
        let all = self.all();
        let ends = epochs.into_iter().map(|epoch| epoch * steps_per_epoch - 1);
        ends.map(|step| all[step].clone()).collect()
    }
}

/// Keeps other tests from the random numbers of the device, which are the process's.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static RANDOM_NUMBERS: Mutex<()> = Mutex::new(());
    RANDOM_NUMBERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Asserts that two models have the same weights and running statistics, to the bit.
pub(crate) fn assert_same_bits(left: &impl Module, right: &impl Module) {
    let bits = |values: Values| -> Vec<(String, Vec<u64>)> {
        let bits = values.into_iter();
        bits.map(|(path, values)| (path, values.into_iter().map(f64::to_bits).collect()))
            .collect()
    };
    let (left, right) = (bits(floats(left)), bits(floats(right)));
    assert!(!left.is_empty());
    assert!(left == right, "the models differ");
}

/// The mean of weights.
pub(crate) fn mean_of(collected: &[Values]) -> Values {
    let mut mean = collected[0].clone();
    for (path, values) in &mut mean {
        for (index, value) in values.iter_mut().enumerate() {
            let sum: f64 = collected.iter().map(|weights| weights[path][index]).sum();
            *value = sum / collected.len() as f64;
        }
    }
    mean
}

/// The exponential moving average of timm's `ModelEmaV3` with `use_warmup`, updated after each of its training's updates.
pub(crate) fn ema_of(collected: &[Values], decay: f64) -> Values {
    let mut average = collected[0].clone();
    for (step, weights) in collected.iter().enumerate().skip(1) {
        let decay = decay.min(1.0 - (1.0 + step as f64).powf(-2.0 / 3.0));
        for (path, values) in &mut average {
            for (value, weight) in values.iter_mut().zip(&weights[path]) {
                *value = decay * *value + (1.0 - decay) * weight;
            }
        }
    }
    average
}

/// Asserts that `model` has these weights, to 1e-6.
pub(crate) fn assert_weights(model: &impl Module, expected: &Values) {
    let got = weights(model);
    assert!(got.keys().eq(expected.keys()));
    for (path, values) in &got {
        for (index, value) in values.iter().enumerate() {
            let expected = expected[path][index];
            let off = (value - expected).abs();
            assert!(off < 1e-6, "{path}[{index}]: {value}, expected {expected}");
        }
    }
}
