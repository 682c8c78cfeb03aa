//! BatchNorm that the validation does not reach, that is frozen, or that is not Burn's.

use std::process::Command;

use burn::module::{Module, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn::train::{InferenceStep, Interrupter, RegressionOutput, TrainOutput, TrainStep};
use burn_swa_test_support::parameters::floats;
use burn_swa_test_support::points::{Batch, loader, loader_of};
use swa_train::swa_core::{BatchNormReport, KeptReason};
use swa_train::{Collect, RunLength, Swa, SwaConfig};

use super::{EPOCHS, in_temporary_folder, learner, run_length, training};

/// A network with an auxiliary head that only the training uses, as GoogLeNet has one.
#[derive(Module, Debug)]
struct Headed {
    backbone: Norm,
    output: Linear,
    head: Norm,
    /// The last mean of the input, kept by a layer of the user's own.
    seen: RunningState<Tensor<1>>,
    /// The optimizer steps after which the backbone is frozen.
    #[module(skip)]
    frozen_after: Option<usize>,
    #[module(skip)]
    steps: usize,
}

#[derive(Module, Debug)]
struct Norm {
    linear: Linear,
    norm: BatchNorm,
}

impl Norm {
    fn new(outputs: usize, device: &Device) -> Self {
        Self {
            linear: LinearConfig::new(2, outputs).init(device),
            norm: BatchNormConfig::new(outputs).init(device),
        }
    }

    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.norm.forward(self.linear.forward(input))
    }
}

impl Headed {
    fn new() -> Self {
        let device = Device::default().autodiff();
        device.seed(7);
        Self {
            backbone: Norm::new(2, &device),
            output: LinearConfig::new(2, 2).init(&device),
            head: Norm::new(2, &device),
            seen: RunningState::new(Tensor::zeros([2], &device)),
            frozen_after: None,
            steps: 0,
        }
    }

    fn forward(&self, batch: Batch) -> RegressionOutput {
        let features = self.backbone.forward(batch.input.clone());
        let output = self
            .output
            .forward(burn::tensor::activation::relu(features));
        let loss = (output.clone() - batch.input.clone()).square().mean();
        RegressionOutput::new(loss, output, batch.input)
    }

    /// The same, with the auxiliary head.
    fn forward_with_head(&self, batch: Batch) -> RegressionOutput {
        let auxiliary = self
            .head
            .forward(self.backbone.forward(batch.input.clone()));
        let mut output = self.forward(batch);
        output.loss = output.loss + auxiliary.square().mean() * 0.1;
        output
    }
}

impl TrainStep for Headed {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> TrainOutput<RegressionOutput> {
        let mean = batch.input.clone().mean_dim(0).reshape([2]);
        self.seen.update(mean);
        let output = self.forward_with_head(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let mut model = optimizer.step(learning_rate, self, gradients);
        model.steps += 1;
        if model.frozen_after == Some(model.steps) {
            model.backbone = model.backbone.freeze();
        }
        model
    }
}

impl InferenceStep for Headed {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> RegressionOutput {
        self.forward(batch)
    }
}

fn wrap(model: Headed) -> Swa<Headed> {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    SwaConfig::new(collect).init(model, loader()).unwrap()
}

fn train(swa: Swa<Headed>) -> Swa<Headed> {
    let result = in_temporary_folder(|directory| training(directory).launch(learner(swa)));
    result.model
}

fn kept(report: &BatchNormReport) -> Vec<(&str, KeptReason)> {
    let kept = report.kept.iter();
    kept.map(|it| (it.path.as_str(), it.reason)).collect()
}

const SEEN: (&str, KeptReason) = ("seen", KeptReason::AnotherMake);

#[test]
fn a_head_that_only_the_training_uses_keeps_its_statistics() {
    let trained = train(wrap(Headed::new()));
    assert!(trained.failure().is_none());
    let report = trained.batch_norm_report().unwrap();
    assert_eq!(report.layers, 1);
    assert_eq!(kept(&report), [SEEN, ("head.norm", KeptReason::NotUpdated)]);
    let live = floats(trained.live());
    let averaged = floats(&trained.averaged_model().unwrap());
    for path in ["head.norm.running_mean", "head.norm.running_var", "seen"] {
        assert_eq!(averaged[path], live[path], "{path}");
    }
    for path in ["backbone.norm.running_mean", "head.linear.weight"] {
        assert_ne!(averaged[path], live[path], "{path}");
    }
}

#[test]
fn another_forward_pass_re_estimates_the_head_too() {
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let forward = |model: &Headed, batch: Batch| {
        let samples = batch.targets.dims()[0];
        model.forward_with_head(batch);
        samples
    };
    let swa = SwaConfig::new(collect).init_with_forward(Headed::new(), loader(), forward);
    let trained = train(swa.unwrap());
    let report = trained.batch_norm_report().unwrap();
    assert_eq!((report.layers, report.samples), (2, 70));
    assert_eq!(kept(&report), [SEEN]);
    let live = floats(trained.live());
    let averaged = floats(&trained.averaged_model().unwrap());
    assert_ne!(
        averaged["head.norm.running_mean"],
        live["head.norm.running_mean"]
    );
}

#[test]
fn a_frozen_backbone_is_the_same_in_the_averaged_model() {
    let mut model = Headed::new();
    model.backbone = model.backbone.freeze();
    let before = floats(&model.backbone);
    let trained = train(wrap(model));
    let report = trained.batch_norm_report().unwrap();
    assert!(kept(&report).contains(&("backbone.norm", KeptReason::Frozen)));
    let averaged = trained.averaged_model().unwrap();
    assert_eq!(floats(&averaged.backbone), before);
}

#[test]
fn a_backbone_that_is_frozen_midway_keeps_its_statistics() {
    let steps_per_epoch = run_length().steps_per_epoch();
    let mut model = Headed::new();
    model.frozen_after = Some(steps_per_epoch);
    let trained = train(wrap(model));
    let report = trained.batch_norm_report().unwrap();
    assert!(kept(&report).contains(&("backbone.norm", KeptReason::Frozen)));
    // Nothing was collected before it was frozen.
    let live = floats(&trained.live().valid().backbone);
    assert_eq!(floats(&trained.averaged_model().unwrap().backbone), live);
}

/// Runs an ignored test of this program, and returns what it writes to the terminal.
fn terminal_of(test: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([
        "--exact",
        &format!("batch_norm::{test}"),
        "--ignored",
        "--nocapture",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_is_not_re_estimated_is_named_on_the_terminal_once() {
    let terminal = terminal_of("trains_with_a_head");
    assert_eq!(
        terminal.matches("not re-estimated").count(),
        1,
        "{terminal}"
    );
    for part in [
        "`head.norm` (no batch passed",
        "`seen` (not the",
        "init_with_forward",
    ] {
        assert!(terminal.contains(part), "{terminal}");
    }
}

#[test]
#[ignore = "writes to the terminal, for another test"]
fn trains_with_a_head() {
    train(wrap(Headed::new()));
}

#[test]
fn a_failed_re_estimation_is_shown_on_the_terminal_once() {
    let terminal = terminal_of("trains_without_data_for_batch_norm");
    assert_eq!(
        terminal.matches("there was no batch").count(),
        1,
        "{terminal}"
    );
}

#[test]
#[ignore = "writes to the terminal, for another test"]
fn trains_without_data_for_batch_norm() {
    let run = RunLength::of_items(EPOCHS, 70, 16).unwrap();
    let collect = Collect::from_epoch(3, &run).unwrap();
    let swa = SwaConfig::new(collect).init(Headed::new(), loader_of([], 16));
    train(swa.unwrap());
}

#[test]
fn a_failed_re_estimation_stops_the_training_if_asked_to() {
    let interrupter = Interrupter::new();
    let collect = Collect::from_epoch(3, &run_length()).unwrap();
    let swa = SwaConfig::new(collect).init(Headed::new(), loader_of([], 16));
    let swa = swa.unwrap().with_interrupter(interrupter.clone());
    let result = in_temporary_folder(|directory| {
        let training = training(directory).with_interrupter(interrupter);
        training.launch(learner(swa))
    });
    let error = result.error.expect("the training fails").to_string();
    assert!(error.contains("there was no batch"), "{error}");
    // At the first validation of the average, at the end of epoch 3.
    assert_eq!(result.model.steps(), 3 * run_length().steps_per_epoch());
}
