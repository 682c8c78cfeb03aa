//! The average, written into the model that trains.

use burn::module::{Lora, Module, Param, ParamId};
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use burn::train::{Interrupter, LearningResult, TrainStep};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{Values, floats, weights};
use burn_swa_test_support::points::loader;
use swa_train::swa_core::{Average, Exponential};
use swa_train::{Collect, RuleConfig, RunLength, RunningStatistics, Swa, SwaConfig, SwaError};

use crate::{EPOCHS, in_temporary_folder, learner, run_length, training};

/// An average of every step, written back after each epoch from the second on.
fn config(running_statistics: RunningStatistics) -> SwaConfig {
    SwaConfig::new(Collect::from_step(1, &run_length()).unwrap())
        .with_rule(RuleConfig::exponential(0.9))
        .with_running_statistics(running_statistics)
        .with_write_back(Some(Collect::from_epoch(2, &run_length()).unwrap()))
}

fn wrap(running_statistics: RunningStatistics) -> Swa<Net> {
    let config = config(running_statistics);
    config.init_without_data(Net::new()).unwrap()
}

fn optimizer() -> ModuleOptimizer {
    let momentum = MomentumConfig::new().with_dampening(0.0);
    SgdConfig::new().with_momentum(Some(momentum)).init()
}

/// Trains `model` at a constant rate, in a loop without a learner, and calls `after_step` after each step.
fn by_hand<M>(mut model: M, mut after_step: impl FnMut(usize, M) -> M) -> M
where
    M: Module + TrainStep<Input = burn_swa_test_support::points::Batch>,
{
    let (mut optimizer, loader) = (optimizer(), loader());
    let mut step = 0;
    for _ in 0..EPOCHS {
        for batch in loader.iter() {
            let output = TrainStep::step(&model, batch.unwrap());
            let gradients: GradientsParams = output.grads;
            model = model.optimize(&mut optimizer, 0.1.into(), gradients);
            step += 1;
            model = after_step(step, model);
        }
    }
    model
}

#[test]
fn training_goes_on_from_the_average_with_the_optimizers_state() {
    let steps_per_epoch = run_length().steps_per_epoch();
    for running_statistics in [RunningStatistics::Latest, RunningStatistics::Averaged] {
        let mut average = Average::new(&Net::new(), Exponential::new(0.9).unwrap()).unwrap();
        if running_statistics == RunningStatistics::Averaged {
            average = average.with_running_statistics_averaged();
        }
        let expected = by_hand(Net::new(), |step, model| {
            average.update(&model).unwrap();
            if step % steps_per_epoch == 0 && step > steps_per_epoch {
                average.overwrite(&model).unwrap()
            } else {
                model
            }
        });
        let swa = by_hand(wrap(running_statistics), |_, swa| swa);
        assert_eq!(floats(swa.live()), floats(&expected));
        assert_eq!(swa.updates(), run_length().total_steps());
        let averaged = average.model().unwrap();
        assert_eq!(floats(&swa.averaged_model().unwrap()), floats(&averaged));
        // The last step of the run was one to write back after.
        assert_eq!(weights(swa.live()), weights(&averaged));
        assert!(swa.failure().is_none());
    }
}

#[test]
fn parameters_keep_their_ids_and_their_gradients() {
    #[derive(Default, Debug, PartialEq)]
    struct Kept(Vec<(ParamId, bool, bool)>);
    impl burn::module::ModuleVisitor for Kept {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.0
                .push((param.id, param.is_require_grad(), tensor.is_autodiff()));
        }
    }
    let kept = |model: &Net| {
        let mut kept = Kept::default();
        model.visit(&mut kept);
        kept
    };
    let swa = wrap(RunningStatistics::Averaged);
    let before = kept(swa.live());
    assert!(before.0.iter().any(|(_, requires_grad, _)| *requires_grad));
    let swa = by_hand(swa, |_, swa| swa);
    assert_eq!(kept(swa.live()), before);
}

/// Trains for 3 or 4 epochs, and then from their checkpoint on.
fn resumed(from: usize) -> LearningResult<Swa<Net>> {
    in_temporary_folder(|folder| {
        let checkpointed = || training(folder).with_default_checkpointers();
        let first = checkpointed().num_epochs(from);
        first.launch(learner(wrap(RunningStatistics::Averaged)));
        checkpointed()
            .checkpoint(from)
            .launch(learner(wrap(RunningStatistics::Averaged)))
    })
}

#[test]
fn a_training_that_is_written_back_to_is_resumed_to_the_bit() {
    let of = |result: &LearningResult<Swa<Net>>| -> [Values; 2] {
        let averaged = result.model.averaged_model().unwrap();
        [floats(result.model.live()), floats(&averaged)]
    };
    let whole = in_temporary_folder(|folder| {
        training(folder).launch(learner(wrap(RunningStatistics::Averaged)))
    });
    for from in [1, 3] {
        assert_eq!(of(&resumed(from)), of(&whole));
    }
}

#[test]
fn a_training_that_diverges_is_not_written_back_to() {
    let interrupter = Interrupter::new();
    let config = config(RunningStatistics::Averaged);
    let swa = config
        .init_without_data(Net::new().diverging_at(9))
        .unwrap();
    let swa = swa.with_interrupter(interrupter.clone());
    let result = in_temporary_folder(|folder| {
        training(folder)
            .with_interrupter(interrupter)
            .launch(learner(swa))
    });
    assert!(result.error.is_some());
    assert_eq!(result.model.updates(), 8);
    let live = weights(result.model.live());
    assert!(live["input.weight"].iter().all(|value| value.is_nan()));
}

#[test]
fn what_has_no_place_for_an_average_is_refused_at_once() {
    let config = config(RunningStatistics::Averaged);
    let adapted = Net::new().apply_lora(Lora::new(2, 4.0));
    let error = config.init_without_data(adapted).unwrap_err();
    assert!(matches!(error, SwaError::Average(_)), "{error}");
    assert!(error.to_string().contains("reparameterized"), "{error}");

    let other = RunLength::new(EPOCHS, 7).unwrap();
    let of_other = Collect::from_epoch(2, &other).unwrap();
    let config = config.with_write_back(Some(of_other));
    let error = config
        .init_without_data(Net::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("write_back"), "{error}");
}
