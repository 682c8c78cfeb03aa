//! Training with SWA on wgpu computes what it computes on flex.
//!
//! Any wgpu device can be used. Without a GPU, use Mesa's software Vulkan (Debian's `mesa-vulkan-drivers`):
//!
//! ```text
//! cargo test --profile unoptimized --workspace --features burn-swa-tests/wgpu --test wgpu
//! cargo test --profile unoptimized --workspace --features burn-swa-tests/wgpu,burn-swa-tests/fusion --test wgpu
//! ```

use std::sync::{Arc, LazyLock};

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::constant::ConstantLr;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig, momentum::MomentumConfig};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, Tolerance, s};
use burn::train::SupervisedTraining;
use burn::train::{InferenceStep, Learner, TrainStep};
use burn_swa_test_support::parameters::{Values, cast, mapped, scaled, values};
use burn_swa_test_support::renderer::Recorder;
use burn_swa_tests::batches::Batches;
use burn_swa_tests::comparison::relative_l2;
use burn_swa_tests::named_tensors::tensors;
use swa_lab::data::ImageBatch;
use swa_lab::run::classifier::Classifier;
use swa_models::{PreResNet, PreResNetConfig};
use swa_train::swa_core::{
    Average, AverageError, EqualWeights, Exponential, Weights, reestimate_batch_norm,
};
use swa_train::{Collect, ReestimationConfig, RunLength, Swa, SwaConfig};

/// Two backends add in different orders. Over the few steps here, this changes a weight by some 1e-6 of its size.
const ALLOWED: f64 = 1e-4;

fn wgpu() -> Device {
    let device = swa_lab::device::parse("wgpu");
    device.expect("a wgpu device; Debian's mesa-vulkan-drivers brings one in software")
}

/// The smallest network with residual blocks and BatchNorm, the same every time and on every device. Its width is more than a
/// sixteenth, since with fusion, BatchNorm of a single channel has wrong gradients (Burn 0.22.1).
fn network(device: &Device) -> PreResNet {
    static NETWORK: LazyLock<PreResNet> = LazyLock::new(|| {
        Device::flex().seed(1);
        let config = PreResNetConfig::new(8).with_width_divisor(8);
        // In validation mode, parameters are initialised.
        config.init(&Device::flex()).expect("a network").valid()
    });
    // Not a clone, which would share its running statistics.
    NETWORK.valid().to_device(device).train()
}

fn batches(stream: u64, sizes: &[usize], device: &Device) -> Batches {
    Batches {
        stream,
        sizes: sizes.to_vec(),
        classes: 10,
        device: device.clone(),
    }
}

/// The number of steps of training. The weights after the second and all later ones are averaged.
const STEPS: usize = 4;

/// The sizes of the batches for the re-estimation of BatchNorm. Batches count by their size.
const REESTIMATION: [usize; 2] = [8, 4];
const REESTIMATION_STREAM: u64 = 100;

/// The network in `Swa`, in a `Learner`.
fn learner(device: &Device, average_on: Option<&Device>) -> Learner<Swa<Classifier<PreResNet>>> {
    let run = RunLength::new(1, STEPS).unwrap();
    let reestimation = batches(REESTIMATION_STREAM, &REESTIMATION, device);
    let model = Classifier::new(network(device), Arc::default());
    let mut swa = SwaConfig::new(Collect::from_step(2, &run).unwrap())
        .init(model, Arc::new(reestimation))
        .unwrap();
    if let Some(device) = average_on {
        swa = swa.with_device(device);
    }
    Learner::new(swa, optimizer(), ConstantLr::new(0.2))
}

fn optimizer() -> ModuleOptimizer {
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    SgdConfig::new().with_momentum(Some(momentum)).init()
}

/// Trains the network by Burn's own strategy, and validates once at the end.
fn train(device: &Device) -> Swa<Classifier<PreResNet>> {
    let folder = tempfile::tempdir().unwrap();
    let result = SupervisedTraining::new(
        folder.path(),
        Arc::new(batches(0, &[8; STEPS], device)),
        Arc::new(batches(200, &[4], device)),
    )
    .renderer(Box::new(Recorder::default()))
    .with_application_logger(None)
    .num_epochs(1)
    .launch(learner(device, None));
    assert!(result.error.is_none(), "{:?}", result.error);
    result.model
}

fn averaged(swa: Swa<Classifier<PreResNet>>) -> Values {
    tensors(&swa.averaged_model().unwrap().into_network())
}

fn assert_close(ours: &Values, theirs: &Values, allowed: f64) {
    assert!(ours.keys().eq(theirs.keys()));
    for (name, values) in ours {
        let deviation = relative_l2(values, &theirs[name]);
        assert!(deviation <= allowed, "{name} deviates by {deviation:.1e}");
    }
    let all = |of: &Values| of.values().flatten().copied().collect::<Vec<_>>();
    println!("deviates by {:.1e}", relative_l2(&all(ours), &all(theirs)));
}

#[test]
fn a_training_averages_and_reestimates_as_on_flex() {
    let (here, there) = (train(&wgpu()), train(&Device::flex()));
    assert_eq!((here.updates(), here.steps()), (STEPS - 1, STEPS));
    let reports = [&here, &there].map(|swa| swa.batch_norm_report().unwrap());
    assert_eq!(reports[0].samples, REESTIMATION.iter().sum::<usize>());
    assert_eq!(reports[0].samples, reports[1].samples);

    let live = [&here, &there].map(|swa| tensors(&swa.live().clone().into_network()));
    let [ours, theirs] = [averaged(here), averaged(there)];
    assert_close(&live[0], &live[1], ALLOWED);
    assert_close(&ours, &theirs, ALLOWED);
    // The result is an average, and not the last weights.
    let weight = "conv1.weight";
    assert!(relative_l2(&ours[weight], &live[0][weight]) > 10.0 * ALLOWED);
}

/// Trains step by step, and compares the averaged model with the mean of this training's weights, with BatchNorm re-estimated
/// on flex.
fn assert_averages_its_own_weights(average_on: Option<&Device>) {
    let device = wgpu();
    let mut learner = learner(&device, average_on);
    let mut collected = Vec::new();
    let training = batches(0, &[8; STEPS], &device.clone().autodiff());
    for (step, batch) in (1..).zip(training.iter()) {
        let output = learner.train_step(batch.unwrap());
        learner.lr_step();
        learner.optimizer_step(output.grads);
        if step >= 2 {
            collected.push(learner.model().live().valid().to_device(&Device::flex()));
        }
    }
    let trained = learner.model();
    assert_eq!(trained.updates(), collected.len());
    let home = average_on.unwrap_or(&device);
    assert_eq!(
        &trained.average().unwrap().devices(),
        std::slice::from_ref(home)
    );

    let mut mean = Average::new(&collected[0], EqualWeights).unwrap();
    for weights in &collected {
        mean.update(weights).unwrap();
    }
    let stream = batches(
        REESTIMATION_STREAM,
        &REESTIMATION,
        &Device::flex().autodiff(),
    );
    let stream = stream.iter().map(Result::unwrap).zip(REESTIMATION);
    let forward = |model: &Classifier<PreResNet>, (batch, size): (ImageBatch, usize)| {
        InferenceStep::step(model, batch);
        size
    };
    let config = ReestimationConfig::new();
    let mean = mean.model().unwrap();
    let (expected, _) = reestimate_batch_norm(&mean, &config, stream, forward).unwrap();
    let averaged = trained.averaged_model().unwrap();
    assert_eq!(averaged.devices(), [device]);
    assert_close(
        &tensors(&averaged.into_network()),
        &tensors(&expected.into_network()),
        1e-5,
    );
}

#[test]
fn an_average_on_the_accelerator_is_the_mean_of_its_own_weights() {
    assert_averages_its_own_weights(None);
}

#[test]
fn an_average_on_the_cpu_is_the_mean_of_the_trainings_weights() {
    assert_averages_its_own_weights(Some(&Device::flex()));
}

/// Burn writes its checkpoints, which are records, in a thread of their own while the training goes on.
#[test]
fn later_steps_leave_a_record_alone() {
    let device = wgpu();
    let mut learner = learner(&device, None);
    learner.lr_step();
    let (mut swa, mut optimizer) = (learner.model(), optimizer());
    let training = batches(0, &[8; STEPS], &device.autodiff());
    let mut records = None;
    for (step, batch) in (1..).zip(training.iter()) {
        let gradients = TrainStep::step(&swa, batch.unwrap()).grads;
        swa = swa.optimize(&mut optimizer, learner.lr_current(), gradients);
        // Recorded before the last step. The average's first update was in the step before.
        if step == STEPS - 1 {
            let record = || (swa.clone().into_record(), optimizer.to_record());
            let (model, state) = record();
            let written = (model.into_bytes().unwrap(), state.into_bytes().unwrap());
            records = Some((record(), written));
        }
    }
    let ((model, state), (model_then, state_then)) = records.unwrap();
    assert!(state.into_bytes().unwrap() == state_then);
    assert!(model.into_bytes().unwrap() == model_then);
}

#[test]
fn later_updates_leave_copies_and_records_of_an_average_alone() {
    let model = || network(&wgpu());
    let mut average = Average::new(&model(), EqualWeights).unwrap();
    for _ in 0..3 {
        average.update(&model()).unwrap();
    }
    let copy = || average.model().unwrap().to_device(&Device::flex());
    let (record, copied) = (average.clone().into_record(), copy());
    let expected = (
        average.clone().into_record().into_bytes().unwrap(),
        tensors(&copy()),
    );
    average.update(&scaled(model(), 5.0)).unwrap();
    assert!(record.into_bytes().unwrap() == expected.0);
    assert!(tensors(&copied) == expected.1);
}

#[test]
fn an_average_is_the_mean_and_leaves_out_what_is_not_finite() {
    let model = || network(&wgpu());
    let mut average = Average::new(&model(), EqualWeights).unwrap();
    for factor in [1.0, 2.0, 6.0] {
        average.update(&scaled(model(), factor)).unwrap();
    }
    let mean =
        |average: &Average<PreResNet>| tensors(&average.model().unwrap())["fc.weight"].clone();
    let three: Vec<f64> = tensors(&model())["fc.weight"]
        .iter()
        .map(|weight| 3.0 * weight)
        .collect();
    assert!(relative_l2(&mean(&average), &three) < 1e-6);

    let bad = || scaled(model(), f64::NAN);
    let error = average.update(&bad()).unwrap_err();
    assert!(
        matches!(&error, AverageError::NotFinite { path, updates: 3 } if path == "conv1.weight")
    );
    assert!(relative_l2(&mean(&average), &three) < 1e-6);

    // The host does not read, and the device leaves the update out.
    average.update_non_blocking(&scaled(model(), 3.0)).unwrap();
    average.update_non_blocking(&bad()).unwrap();
    average.update_non_blocking(&model()).unwrap();
    assert!(matches!(
        average.check(),
        Err(AverageError::NotFinite { updates: 4, .. })
    ));
    assert_eq!(average.updates(), 4);
    assert!(relative_l2(&mean(&average), &three) < 1e-6);
}

#[test]
fn a_model_is_overwritten_and_the_average_goes_on() {
    let device = wgpu().autodiff();
    let times = |factor: f64| scaled(network(&device), factor);
    let live = network(&device);
    let mut average = Average::new(&live, EqualWeights).unwrap();
    average.update_non_blocking(&times(3.0)).unwrap();
    average.update_non_blocking(&live).unwrap();
    let overwritten = average.overwrite(&live).unwrap();
    average.update_non_blocking(&times(5.0)).unwrap();
    average.check().unwrap();

    let is = |model: &PreResNet, factor: f64| {
        let weights = Weights::of(model).unwrap();
        let expected = Weights::of(&times(factor)).unwrap();
        let off = weights.distance(&expected).unwrap() / expected.norm().unwrap();
        assert!(off < 1e-6, "{factor}: {off}");
    };
    is(&overwritten, 2.0);
    is(&live, 1.0);
    is(&average.model().unwrap(), 3.0);
    // It trains on.
    let images = Tensor::ones([2, 3, 32, 32], &device);
    let loss = overwritten.forward(images).square().mean();
    let gradients = GradientsParams::from_grads(loss.backward(), &overwritten);
    let trained = optimizer().step(0.1, overwritten.clone(), gradients);
    assert_ne!(tensors(&trained), tensors(&overwritten));
}

#[test]
fn averages_in_one_pass_are_those_of_separate_updates() {
    // More than a launch takes of one parameter. One is in the host's memory.
    let average = |index: usize| {
        let decay = 0.05 * (index + 1) as f64;
        let average = Average::new(&network(&wgpu()), Exponential::new(decay).unwrap()).unwrap();
        if index == 9 {
            average.with_device(&Device::flex())
        } else {
            average
        }
    };
    let [mut together, mut apart] = [(); 2].map(|()| (0..10).map(average).collect::<Vec<_>>());
    let mut update = |step: usize, model: PreResNet| {
        let mut due = Vec::new();
        for (index, (together, apart)) in together.iter_mut().zip(&mut apart).enumerate() {
            // All after each third step, and every second one after all steps.
            if step.is_multiple_of(3) || index.is_multiple_of(2) {
                apart.update_non_blocking(&model).unwrap();
                due.push(together);
            }
        }
        let weights = due[0].read(&model).unwrap();
        Average::update_all_from(&mut due, weights).unwrap();
    };
    for (step, factor) in [(1, 1.0), (2, 0.5), (3, 4.0), (4, 2.0), (5, -1.0), (6, 1.0)] {
        update(step, scaled(network(&wgpu()), factor));
    }
    // The device leaves this out, and all later updates.
    update(7, scaled(network(&wgpu()), f64::NAN));
    update(8, network(&wgpu()));
    for (index, (together, apart)) in together.iter_mut().zip(&mut apart).enumerate() {
        let checks = [together.check(), apart.check()];
        assert_eq!(checks[0], checks[1], "{index}");
        assert_eq!(checks[0].is_err(), index % 2 == 0, "{index}");
        assert_eq!(together.updates(), [6, 2][index % 2]);
        let [together, apart] = [together, apart].map(|it| tensors(&it.model().unwrap()));
        assert_close(&together, &apart, 1e-6);
    }
}

#[test]
fn an_infinity_that_one_of_several_averages_lacks_is_refused() {
    let model = |hidden: f32| {
        mapped(network(&wgpu()), |path, values| {
            if path == "fc.bias" {
                values.full_like(hidden)
            } else {
                values
            }
        })
    };
    let average = |hidden| Average::new(&model(hidden), EqualWeights).unwrap();
    let lowest = f32::NEG_INFINITY;
    for lacks in [None, Some(0), Some(1), Some(2)] {
        let held = |index| if lacks == Some(index) { 0.0 } else { lowest };
        let mut all = [0, 1, 2].map(|index| average(held(index)));
        for _ in 0..2 {
            let weights = all[0].read(&model(lowest)).unwrap();
            let [first, second, third] = &mut all;
            Average::update_all_from(&mut [first, second, third], weights).unwrap();
        }
        for average in &mut all {
            match (lacks, average.check()) {
                (None, checked) => assert_eq!(checked, Ok(())),
                (_, Err(AverageError::NotFinite { path, updates: 0 })) if path == "fc.bias" => {}
                (_, checked) => panic!("{lacks:?}: {checked:?}"),
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_found_in_any_place_of_any_parameter() {
    /// The network with another number at the end of the parameter at `path`.
    fn ending(path: &str, with: f32) -> PreResNet {
        mapped(network(&wgpu()), |at, values| {
            if at != path {
                return values;
            }
            let count = values.shape().num_elements();
            let last = Tensor::full([1], with, &values.device());
            values.slice_assign(s![count - 1..count], last)
        })
    }
    let mut average = Average::new(&network(&wgpu()), EqualWeights).unwrap();
    for (bad, expected) in [
        (f32::NAN, "conv1.weight"),
        (f32::INFINITY, "layer1.0.bn1.gamma"),
        (f32::NEG_INFINITY, "layer1.0.conv2.weight"),
    ] {
        let error = average.update(&ending(expected, bad)).unwrap_err();
        assert!(
            matches!(&error, AverageError::NotFinite { path, .. } if path == expected),
            "{error}"
        );
    }
    // The largest finite number.
    let finite = ending("conv1.weight", f32::MAX);
    average.update(&finite).unwrap();
}

#[test]
fn weights_are_averaged_whatever_the_layout_of_their_elements() {
    #[derive(Module, Debug)]
    struct Weight {
        weight: Param<Tensor<2>>,
    }
    let device = wgpu();
    let numbers = || Tensor::<1, Int>::arange(0..35, &device).float();
    let rows = || -> Tensor<2> { numbers().reshape([7, 5]) };
    let columns = || -> Tensor<2> { numbers().mul_scalar(-10.0).reshape([5, 7]).transpose() };
    let values = |model: &Weight| model.weight.val().into_data();
    for order in [[0, 1, 0, 1], [1, 0, 0, 1]] {
        let models = [rows(), columns()].map(|weight| Weight {
            weight: Param::from_tensor(weight),
        });
        let mut average = Average::new(&models[0], EqualWeights).unwrap();
        for which in order {
            average.update(&models[which]).unwrap();
        }
        let expected = (rows() + columns()).div_scalar(2.0).into_data();
        values(&average.model().unwrap()).assert_approx_eq::<f32>(&expected, Tolerance::default());
        // The first update shares the model's memory, and the second does not change it.
        assert_eq!(values(&models[0]), rows().into_data());
        assert_eq!(values(&models[1]), columns().into_data());
    }
}

#[test]
fn arithmetic_of_weights_is_that_of_flex() {
    let networks = |device: &Device| {
        let network = network(device);
        let scaled = |by| Weights::of(&scaled(network.valid(), by)).unwrap();
        [1.0, -2.0, 0.3].map(scaled)
    };
    let of = |weights: &Weights, path| values(weights.parameter(path).unwrap());
    let [ours, theirs] = [wgpu(), Device::flex()].map(|device| {
        let [a, b, c] = networks(&device);
        // The same with more terms than a launch can bind buffers for.
        let few = Weights::combine(&[(0.5, &a), (2.0, &b), (-1.0, &c)]).unwrap();
        let many = Weights::combine(&[(0.01, &a); 200]).unwrap();
        let line = a.clone().lerp(&b, 0.25).unwrap();
        let numbers = [
            a.norm().unwrap(),
            a.dot(&b).unwrap(),
            a.distance(&c).unwrap(),
        ];
        let filtered = c.filter_normalised(&a).unwrap();
        ([few, many, line, filtered], numbers)
    });
    for (ours, theirs) in ours.1.iter().zip(theirs.1) {
        assert!(
            (ours - theirs).abs() < 1e-5 * theirs.abs(),
            "{ours} {theirs}"
        );
    }
    for (ours, theirs) in ours.0.iter().zip(&theirs.0) {
        for path in ["conv1.weight", "layer2.0.bn1.gamma", "fc.weight", "fc.bias"] {
            let deviation = relative_l2(&of(ours, path), &of(theirs, path));
            assert!(deviation < 1e-5, "{path} deviates by {deviation:.1e}");
        }
    }
    // 0.5 - 4 - 0.3
    let expected: Vec<f64> = tensors(&network(&wgpu()))["conv1.weight"]
        .iter()
        .map(|weight| -3.8 * weight)
        .collect();
    assert!(relative_l2(&of(&ours.0[0], "conv1.weight"), &expected) < 1e-5);

    let into = network(&wgpu());
    let filled = ours.0[1].put_into(&into).unwrap();
    assert_eq!(filled.devices(), [wgpu()]);
}

#[derive(Default)]
struct Dtypes(Vec<DType>);

impl ModuleVisitor for Dtypes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().dtype());
    }
}

#[test]
fn a_model_in_f16_is_averaged_in_f32_and_given_back_in_f16() {
    let model = || cast(network(&wgpu()), FloatDType::F16);
    let mut average = Average::new(&model(), EqualWeights).unwrap();
    average.update(&model()).unwrap();
    average.update(&model()).unwrap();
    let averaged = average.model().unwrap();
    let mut dtypes = Dtypes::default();
    averaged.visit(&mut dtypes);
    assert!(!dtypes.0.is_empty() && dtypes.0.iter().all(|dtype| *dtype == DType::F16));
    assert_eq!(
        tensors(&averaged)["fc.weight"],
        tensors(&model())["fc.weight"]
    );
}
