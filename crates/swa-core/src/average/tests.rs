use burn::module::{Lora, Param, ParamId, Quantizer};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::quantization::{Calibration, QuantScheme};
use burn::tensor::{Bool, DType, FloatDType, Int, Tensor};
use burn_swa_test_support::parameters::{cast, values};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::kernels::as_elsewhere;
use crate::{EqualWeights, Exponential};

impl<M: Module> Average<M> {
    /// The module with the averages, in the dtypes in which they are kept.
    fn state(&self) -> M {
        self.skeleton.filled(&self.weights)
    }
}

#[derive(Module, Debug)]
struct Net {
    weight: Param<Tensor<1>>,
    steps: Param<Tensor<1, Int>>,
    mask: Param<Tensor<1, Bool>>,
    norm: BatchNorm,
}

fn net(weight: [f32; 2], steps: i64, mask: bool, mean: f32, device: &Device) -> Net {
    let mut norm = BatchNormConfig::new(1).init(device);
    norm.running_mean = burn::module::RunningState::new(Tensor::from_floats([mean], device));
    Net {
        weight: Param::from_data(weight, device),
        steps: Param::initialized(ParamId::new(), Tensor::from_ints([steps], device)),
        mask: Param::initialized(ParamId::new(), Tensor::from_data([mask], device)),
        norm,
    }
}

fn autodiff() -> Device {
    Device::default().autodiff()
}

#[test]
fn weights_are_averaged_and_everything_else_is_the_latest() {
    let device = autodiff();
    let mut average = Average::new(&net([9.0, 9.0], 9, false, 9.0, &device), EqualWeights).unwrap();
    for (weight, steps, mask, mean) in [
        ([1.0, 8.0], 1, true, 2.0),
        ([2.0, 2.0], 2, false, 4.0),
        ([6.0, 2.0], 3, true, 6.0),
    ] {
        let model = net(weight, steps, mask, mean, &device);
        average.update(&model).unwrap();
    }

    let averaged = average.model().unwrap();
    assert_eq!(average.updates(), 3);
    // (1 + 2 + 6) / 3 and (8 + 2 + 2) / 3
    for (got, expected) in values(averaged.weight.val()).iter().zip([3.0, 4.0]) {
        assert!((got - expected).abs() < 1e-6, "{got}");
    }
    assert_eq!(averaged.steps.val().into_scalar::<i64>(), 3);
    assert!(averaged.mask.val().into_scalar::<bool>());
    assert_eq!(values(averaged.norm.running_mean.value()), [6.0]);
}

#[test]
fn a_model_is_overwritten_by_what_is_averaged_alone() {
    let device = autodiff();
    let mut average = Average::new(&net([9.0, 9.0], 9, false, 9.0, &device), EqualWeights).unwrap();
    let live = net([6.0, 2.0], 3, true, 6.0, &device);
    let error = average.overwrite(&live).err().unwrap();
    assert_eq!(error, AverageError::NothingAveraged);
    average
        .update(&net([1.0, 8.0], 1, true, 2.0, &device))
        .unwrap();
    average.update(&live).unwrap();

    let overwritten = average.overwrite(&live).unwrap();
    assert_eq!(values(overwritten.weight.val()), [3.5, 5.0]);
    assert_eq!(values(overwritten.norm.running_mean.value()), [6.0]);
    assert_eq!(overwritten.steps.val().into_scalar::<i64>(), 3);
    assert_eq!(overwritten.weight.id, live.weight.id);
    assert!(overwritten.weight.is_require_grad());
    assert!(overwritten.weight.val().is_autodiff());
    // The model that it was made of keeps its weights, and the average its own.
    assert_eq!(values(live.weight.val()), [6.0, 2.0]);
    average
        .update(&net([1.0, 8.0], 1, true, 2.0, &device))
        .unwrap();
    assert_eq!(values(overwritten.weight.val()), [3.5, 5.0]);

    let copied = Average::new(&live, EqualWeights).unwrap();
    let mut copied = copied
        .with_weights_averaged(|path| path != "weight")
        .unwrap()
        .with_running_statistics_averaged();
    copied
        .update(&net([1.0, 8.0], 1, true, 2.0, &device))
        .unwrap();
    let overwritten = copied.overwrite(&live).unwrap();
    assert_eq!(values(overwritten.weight.val()), [6.0, 2.0]);
    assert_eq!(values(overwritten.norm.running_mean.value()), [2.0]);
}

/// A layer of the user's own with a running state.
#[derive(Module, Debug)]
struct Centering {
    shift: Param<Tensor<1>>,
    center: burn::module::RunningState<Tensor<1>>,
}

#[test]
fn running_states_of_any_layer_are_the_latest() {
    let device = autodiff();
    let model = |value: f32| Centering {
        shift: Param::from_data([value], &device),
        center: burn::module::RunningState::new(Tensor::from_floats([value], &device)),
    };
    // A parameter without gradient is a weight.
    let mut average = Average::new(&model(9.0).no_grad(), EqualWeights).unwrap();
    for value in [1.0, 3.0] {
        average.update(&model(value)).unwrap();
    }
    let averaged = average.model().unwrap();
    assert_eq!(values(averaged.shift.val()), [2.0]);
    assert_eq!(values(averaged.center.value()), [3.0]);
}

#[test]
fn layers_are_frozen_as_in_the_model_of_the_last_update() {
    let device = autodiff();
    let model = || net([0.0, 0.0], 0, false, 0.0, &device);
    let mut average = Average::new(&model(), EqualWeights).unwrap();
    let is_frozen = |average: &Average<Net>| {
        let norm = average.model().unwrap().train().norm;
        !norm.training.is_enabled()
    };
    average.update(&model().valid()).unwrap();
    assert!(!is_frozen(&average));
    average.update(&model().freeze()).unwrap();
    assert!(is_frozen(&average));
    average.update_non_blocking(&model()).unwrap();
    assert!(!is_frozen(&average));
    average
        .update_non_blocking(&model().freeze().valid())
        .unwrap();
    assert!(is_frozen(&average));
    // An average from elsewhere says nothing of this training.
    average = average.with_initial_average(&model(), 3).unwrap();
    assert!(is_frozen(&average));
    let weights = average.read(&model()).unwrap();
    average.update_from(weights).unwrap();
    average.freeze_as(&model());
    assert!(!is_frozen(&average));
}

#[test]
fn running_statistics_are_averaged_when_asked_to() {
    let device = autodiff();
    let model = |mean| net([0.0, 0.0], 0, false, mean, &device);
    let mut average = Average::new(&model(9.0), Exponential::new(0.75).unwrap())
        .unwrap()
        .with_running_statistics_averaged();
    for mean in [8.0, 4.0, 1.0] {
        average.update(&model(mean)).unwrap();
    }
    // As in the rule's test: 8, 7, 5.5.
    let averaged = average.model().unwrap();
    assert_eq!(values(averaged.norm.running_mean.value()), [5.5]);

    let error = average.update(&model(f32::NAN)).unwrap_err();
    assert!(error.to_string().contains("`norm.running_mean`"), "{error}");
}

#[test]
fn the_live_model_is_left_alone() {
    let device = autodiff();
    let model = net([1.0, 2.0], 1, true, 5.0, &device);
    let mut average = Average::new(&model, EqualWeights).unwrap();
    average.update(&model).unwrap();
    average
        .update(&net([3.0, 3.0], 2, true, 7.0, &device))
        .unwrap();

    assert_eq!(values(model.weight.val()), [1.0, 2.0]);
    assert_eq!(values(model.norm.running_mean.value()), [5.0]);
    assert!(model.weight.is_require_grad());
    assert!(model.weight.val().is_autodiff());

    let averaged = average.model().unwrap();
    assert!(!averaged.weight.is_require_grad());
    assert!(!averaged.weight.val().is_autodiff());
    assert!(!average.clone().train().state().weight.is_require_grad());
}

#[test]
fn an_average_without_updates_has_no_model() {
    let model = net([1.0, 2.0], 1, true, 5.0, &autodiff());
    let average = Average::new(&model, EqualWeights).unwrap();
    assert_eq!(average.model().unwrap_err(), AverageError::NothingAveraged);
}

#[test]
fn a_model_in_16_bits_is_averaged_in_32_and_comes_back_in_16() {
    let device = autodiff();
    let model = |value: f32| {
        let weight = Tensor::<1>::from_floats([value, 0.0], &device).cast(FloatDType::BF16);
        let mut model = net([0.0, 0.0], 0, false, 0.0, &device);
        model.weight = Param::from_tensor(weight);
        model
    };
    // 256 and 258 are neighbours in bf16: a mean of 257 needs more bits on the way.
    let mut average = Average::new(&model(256.0), EqualWeights).unwrap();
    for value in [256.0, 258.0, 258.0, 256.0] {
        average.update(&model(value)).unwrap();
    }
    assert_eq!(values(average.state().weight.val())[0], 257.0);
    assert_eq!(average.state().weight.val().dtype(), DType::F32);
    assert_eq!(average.model().unwrap().weight.val().dtype(), DType::BF16);
}

#[test]
fn f64_stays_f64() {
    let device = autodiff();
    let model = |value: f64| {
        let weight = Tensor::<1>::from_data([value, 0.0], (&device, DType::F64));
        let mut model = net([0.0, 0.0], 0, false, 0.0, &device);
        model.weight = Param::from_tensor(weight);
        model
    };
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    average.update(&model(1.0)).unwrap();
    average.update(&model(1.0 + 2e-12)).unwrap();
    let averaged = average.model().unwrap().weight.val();
    assert_eq!(averaged.dtype(), DType::F64);
    assert!((values(averaged)[0] - (1.0 + 1e-12)).abs() < 1e-15);
}

#[test]
fn not_finite_weights_are_refused_by_name_and_nothing_is_lost() {
    let device = autodiff();
    let model = |weight| net(weight, 7, true, 7.0, &device);
    let mut average = Average::new(&model([0.0, 0.0]), EqualWeights).unwrap();
    average.update(&model([1.0, 2.0])).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = average
            .update(&net([3.0, bad], 8, false, 8.0, &device))
            .unwrap_err();
        let expected = AverageError::NotFinite {
            path: "weight".into(),
            updates: 1,
        };
        assert_eq!(error, expected);
    }
    assert_eq!(average.updates(), 1);
    assert_eq!(values(average.model().unwrap().weight.val()), [1.0, 2.0]);
    average.update(&model([3.0, 4.0])).unwrap();
    assert_eq!(values(average.model().unwrap().weight.val()), [2.0, 3.0]);
}

#[test]
fn transposed_host_weights_are_checked_at_once_and_averaged() {
    let device = autodiff();
    let model = |bad: f32| Layers {
        layers: vec![{
            let mut layer: Linear = LinearConfig::new(2, 2).with_bias(false).init(&device);
            let rows = Tensor::<2>::from_floats([[1.0, 2.0], [bad, 4.0]], &device);
            layer.weight = Param::initialized(ParamId::new(), rows.transpose());
            layer
        }],
    };
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    average.update_non_blocking(&model(3.0)).unwrap();
    average.update_non_blocking(&model(5.0)).unwrap();
    let error = average.update_non_blocking(&model(f32::NAN)).unwrap_err();
    assert!(error.to_string().contains("`layers.0.weight`"), "{error}");
    let averaged = average.model().unwrap();
    // Transposed: the mean of 3 and 5 is in the first row.
    let weight = values(averaged.layers[0].weight.val());
    assert_eq!(weight, [1.0, 4.0, 2.0, 4.0]);
}

#[test]
fn weights_whose_sum_overflows_are_finite_all_the_same() {
    let device = autodiff();
    let model = net([3e38, 3e38], 0, false, 0.0, &device);
    let mut average = Average::new(&model, EqualWeights).unwrap();
    average.update(&model).unwrap();
}

/// A weight that is trained, and a causal mask that is not.
#[derive(Module, Debug)]
struct Masked {
    weight: Param<Tensor<1>>,
    mask: Param<Tensor<2>>,
}

fn masked(weight: f32, hidden: f32, device: &Device) -> Masked {
    let mask = Tensor::from_floats([[0.0, hidden], [0.0, 0.0]], device);
    Masked {
        weight: Param::from_data([weight], device),
        mask: Param::initialized(ParamId::new(), mask),
    }
}

#[test]
fn the_infinities_of_a_mask_stay_in_the_averaged_model() {
    let device = autodiff();
    let lowest = f32::NEG_INFINITY;
    for dtype in [
        FloatDType::F64,
        FloatDType::F32,
        FloatDType::F16,
        FloatDType::BF16,
    ] {
        let model = |weight| cast(masked(weight, lowest, &device), dtype);
        let mut average = Average::new(&model(9.0), EqualWeights).unwrap();
        let mut unread = average.clone();
        for weight in [1.0, 2.0, 6.0] {
            average.update(&model(weight)).unwrap();
            as_elsewhere(|| unread.update_non_blocking(&model(weight))).unwrap();
        }
        assert_eq!(unread.check(), Ok(()));
        for average in [average, unread] {
            let averaged = average.model().unwrap();
            assert_eq!(average.updates(), 3);
            assert_eq!(values(averaged.mask.val()), [0.0, -f64::INFINITY, 0.0, 0.0]);
            assert_eq!(values(averaged.weight.val()), [3.0]);

            // A resumed average holds them too.
            let bytes = average.into_record().into_bytes().unwrap();
            let record = burn::store::ModuleRecord::from_bytes(bytes).unwrap();
            let resumed = Average::new(&model(0.0), EqualWeights).unwrap();
            let mut resumed = resumed.try_load_record(record).unwrap();
            resumed.update(&model(7.0)).unwrap();
            let resumed = resumed.model().unwrap();
            assert_eq!(values(resumed.weight.val()), [4.0]);
            assert_eq!(values(resumed.mask.val())[1], -f64::INFINITY);
        }
    }
}

#[test]
fn a_parameter_without_gradient_is_not_said_to_diverge() {
    let device = autodiff();
    let mut average = Average::new(&masked(0.0, 0.0, &device), EqualWeights).unwrap();
    average.update(&masked(1.0, 0.0, &device)).unwrap();
    let frozen = AverageError::FrozenNotFinite {
        path: "mask".into(),
        updates: 1,
    };
    assert!(
        frozen
            .to_string()
            .contains("`mask`, which requires no gradient")
    );
    for hidden in [f32::NEG_INFINITY, f32::NAN] {
        let error = average.update(&masked(2.0, hidden, &device)).unwrap_err();
        assert_eq!(error, frozen);
    }
    let hidden = masked(2.0, f32::NEG_INFINITY, &device);
    as_elsewhere(|| average.update_non_blocking(&hidden)).unwrap();
    assert_eq!(average.check(), Err(frozen));

    // The same for a layer that was frozen, but not where nothing is trained, as in models from files.
    let trained = AverageError::NotFinite {
        path: "weight".into(),
        updates: 0,
    };
    let bad = || masked(f32::INFINITY, 0.0, &device);
    let update = |model: &Masked| {
        let mut average = Average::new(model, EqualWeights).unwrap();
        average.update(&bad()).unwrap_err()
    };
    assert_eq!(update(&masked(0.0, 0.0, &device)), trained);
    assert_eq!(update(&masked(0.0, 0.0, &device).no_grad()), trained);
    let mut model = masked(0.0, 0.0, &device);
    model.weight = model.weight.set_require_grad(false);
    model.mask = model.mask.set_require_grad(true);
    let error = update(&model).to_string();
    assert!(
        error.contains("`weight`, which requires no gradient"),
        "{error}"
    );
}

#[test]
fn a_nan_is_refused_even_if_the_average_holds_it() {
    let device = autodiff();
    let model = || net([f32::NAN, 0.0], 0, false, 0.0, &device);
    let mut average = Average::new(&model(), EqualWeights).unwrap();
    let error = average.update(&model()).unwrap_err();
    assert!(
        matches!(error, AverageError::NotFinite { updates: 0, .. }),
        "{error}"
    );
}

#[test]
fn the_average_of_finite_weights_is_finite_however_far_apart() {
    let device = autodiff();
    for (dtype, far) in [
        (FloatDType::F64, f64::MAX),
        (FloatDType::F32, f32::MAX.into()),
        (FloatDType::BF16, 3.38e38),
        (FloatDType::F16, 65504.0),
    ] {
        let model = |value: f64| {
            let mut model = net([0.0, 0.0], 0, false, 0.0, &device);
            let weight = Tensor::<1>::from_data([value, -value], (&device, DType::F64));
            model.weight = Param::from_tensor(weight.cast(dtype));
            model
        };
        let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
        for value in [far, -far, far, -far, -far] {
            average.update(&model(value)).unwrap();
            let averaged = values(average.model().unwrap().weight.val());
            assert!(averaged.iter().all(|it| it.is_finite()), "{averaged:?}");
        }
        // (2 - 3) / 5
        let averaged = values(average.model().unwrap().weight.val());
        let share = averaged.iter().map(|value| value / far);
        for (got, expected) in share.zip([-0.2, 0.2]) {
            assert!((got - expected).abs() < 0.01, "{got} {expected}");
        }
    }
}

#[test]
fn what_an_average_holds_may_be_far_away_however_it_got_there() {
    let device = autodiff();
    let model = |value: f32| net([value, -value], 0, false, 0.0, &device);
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    average.update(&model(f32::MAX)).unwrap();
    let record = average.clone().into_record();
    let loaded = Average::new(&model(0.0), EqualWeights).unwrap();
    let mut started = loaded.clone();
    started.update(&model(1.0)).unwrap();
    for mut average in [
        average.clone().to_device(&device),
        started.with_initial_average(&model(f32::MAX), 1).unwrap(),
        loaded.try_load_record(record).unwrap(),
        average,
    ] {
        // In f32, the difference is infinite, though this is no large number.
        average.update(&model(-1e37)).unwrap();
        let expected = (f64::from(f32::MAX) - 1e37) / 2.0;
        let averaged = values(average.model().unwrap().weight.val());
        for (got, expected) in averaged.iter().zip([expected, -expected]) {
            assert!(
                (got - expected).abs() < 1e-6 * expected.abs(),
                "{got} {expected}"
            );
        }
    }
}

/// Updates as an accelerator does: the sums stay on the device until the host reads them.
fn update_unread(average: &mut Average<Net>, model: &Net) {
    as_elsewhere(|| average.update_non_blocking(model)).unwrap();
}

#[test]
fn an_accelerator_keeps_the_last_good_average_unread() {
    let device = autodiff();
    let model = |weight, steps| net(weight, steps, true, steps as f32, &device);
    let mut average = Average::new(&model([0.0, 0.0], 0), EqualWeights).unwrap();
    update_unread(&mut average, &model([1.0, 2.0], 1));
    assert_eq!(average.check(), Ok(()));
    update_unread(&mut average, &model([3.0, 4.0], 2));
    update_unread(&mut average, &model([f32::NAN, 4.0], 3));
    update_unread(&mut average, &model([100.0, 100.0], 4));

    let expected = AverageError::NotFinite {
        path: "weight".into(),
        updates: 2,
    };
    assert_eq!(average.check(), Err(expected));
    assert_eq!(average.updates(), 2);
    let averaged = average.model().unwrap();
    assert_eq!(values(averaged.weight.val()), [2.0, 3.0]);
    assert_eq!(averaged.steps.val().into_scalar::<i64>(), 2);
    assert_eq!(values(averaged.norm.running_mean.value()), [2.0]);

    // The average goes on from there.
    update_unread(&mut average, &model([5.0, 6.0], 5));
    assert_eq!(average.check(), Ok(()));
    assert_eq!(values(average.model().unwrap().weight.val()), [3.0, 4.0]);
}

#[derive(Module, Debug)]
struct Layers {
    layers: Vec<Linear>,
}

fn layers(widths: &[usize]) -> Layers {
    let device = autodiff();
    let layers = widths.windows(2);
    Layers {
        layers: layers
            .map(|width| LinearConfig::new(width[0], width[1]).init(&device))
            .collect(),
    }
}

#[test]
fn another_model_is_refused_with_the_path_of_the_difference() {
    let mut average = Average::new(&layers(&[2, 3, 4]), EqualWeights).unwrap();
    average.update(&layers(&[2, 3, 4])).unwrap();
    let mut error = |widths: &[usize]| average.update(&layers(widths)).unwrap_err();

    let path = "layers.1.weight".to_owned();
    assert_eq!(error(&[2, 3]), AverageError::MissingParameter { path });
    let path = "layers.2.weight".to_owned();
    assert_eq!(
        error(&[2, 3, 4, 5]),
        AverageError::UnknownParameter { path }
    );
    let expected = AverageError::ShapeMismatch {
        path: "layers.1.weight".to_owned(),
        expected: vec![3, 4],
        got: vec![3, 7],
    };
    assert_eq!(error(&[2, 3, 7]), expected);
}

#[test]
fn adapters_are_averaged_by_their_effective_weights() {
    let adapted = || layers(&[8, 8]).apply_lora(Lora::new(2, 4.0));
    let mut average = Average::new(&adapted(), EqualWeights).unwrap();
    let models = [adapted(), adapted(), adapted()];
    for model in &models {
        average.update(model).unwrap();
    }
    let averaged = average.model().unwrap();
    assert_eq!(averaged.num_params(), 64 + 8);
    let weights = models
        .each_ref()
        .map(|model| values(model.layers[0].weight.val()));
    for (at, got) in values(averaged.layers[0].weight.val()).iter().enumerate() {
        let expected = weights.iter().map(|values| values[at]).sum::<f64>() / 3.0;
        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
    }
    // They stay where they are in the model itself.
    assert_eq!(models[0].num_params(), 64 + 8 + 2 * 8 * 2);
}

#[test]
fn weights_that_are_tied_stay_equal() {
    let tied = || {
        let mut model = layers(&[97, 97, 97]);
        model.layers[1] = model.layers[0].clone();
        model
    };
    let mut average = Average::new(&tied(), Exponential::new(0.9).unwrap()).unwrap();
    for _ in 0..7 {
        average.update(&tied()).unwrap();
    }
    let record = average.clone().into_record();
    let loaded = Average::new(&tied(), EqualWeights)
        .unwrap()
        .load_record(record);
    for average in [average, loaded] {
        let [first, second] = [0, 1].map(|layer| average.model().unwrap().layers[layer].clone());
        assert_eq!(values(first.weight.val()), values(second.weight.val()));
        assert_eq!(first.weight.id, second.weight.id);
    }
}

#[test]
fn running_statistics_of_another_model_can_be_put_in() {
    let device = autodiff();
    let mut average = Average::new(&net([0.0, 0.0], 0, true, 1.0, &device), EqualWeights).unwrap();
    average
        .update(&net([1.0, 2.0], 0, true, 3.0, &device))
        .unwrap();
    let mut shown = average
        .clone()
        .with_running_statistics_of(&net([9.0, 9.0], 9, true, 5.0, &device))
        .unwrap();
    let mean = |average: &Average<Net>| {
        let norm = average.model().unwrap().norm;
        norm.running_mean.value().into_scalar::<f32>()
    };
    assert_eq!((mean(&average), mean(&shown)), (3.0, 5.0));
    assert_eq!(values(shown.model().unwrap().weight.val()), [1.0, 2.0]);
    shown
        .update(&net([3.0, 2.0], 0, true, 7.0, &device))
        .unwrap();
    assert_eq!(mean(&shown), 7.0);
}

#[test]
fn quantised_parameters_are_refused() {
    let mut quantizer = Quantizer::new(Calibration::MinMax, QuantScheme::default());
    let model = layers(&[32, 32]).valid().quantize_weights(&mut quantizer);
    let error = Average::new(&model, EqualWeights).unwrap_err();
    assert!(matches!(error, AverageError::Quantized { .. }), "{error}");
}

#[test]
fn a_record_brings_back_the_average_and_its_count() {
    let device = autodiff();
    let model = |weight| net(weight, 1, true, 1.0, &device);
    let mut average = Average::new(&model([0.0, 0.0]), EqualWeights).unwrap();
    average.update(&model([1.0, 2.0])).unwrap();
    average.update(&model([4.0, 4.0])).unwrap();
    let bytes = average.clone().into_record().into_bytes().unwrap();

    let record = burn::store::ModuleRecord::from_bytes(bytes).unwrap();
    let mut resumed = Average::new(&model([7.0, 7.0]), EqualWeights)
        .unwrap()
        .try_load_record(record)
        .unwrap();
    assert_eq!(resumed.updates(), 2);

    for average in [&mut average, &mut resumed] {
        average.update(&model([0.7, 0.1])).unwrap();
    }
    let weight = |average: &Average<Net>| values(average.state().weight.val());
    assert_eq!(weight(&average), weight(&resumed));
}

#[test]
fn a_record_in_16_bits_is_averaged_in_32_from_there_on() {
    let device = autodiff();
    let model = |value: f32| net([value, 0.0], 0, false, 0.0, &device);
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    average.update(&model(256.0)).unwrap();
    // To halve the record's size, for example.
    let record = cast(average.clone(), FloatDType::BF16).into_record();

    let mut resumed = average.try_load_record(record).unwrap();
    assert_eq!(resumed.state().weight.val().dtype(), DType::BF16);
    resumed.update(&model(258.0)).unwrap();
    // 257 needs more bits than bf16 has.
    assert_eq!(values(resumed.state().weight.val())[0], 257.0);
}

#[test]
fn a_record_is_not_judged_by_what_was_found_before() {
    let device = autodiff();
    let model = |value| net([value, value], 0, true, 0.0, &device);
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    average.update(&model(1.0)).unwrap();
    let record = average.clone().into_record();

    update_unread(&mut average, &model(f32::NAN));
    let mut resumed = average.clone().try_load_record(record).unwrap();
    assert_eq!(resumed.check(), Ok(()));
    resumed.update(&model(3.0)).unwrap();
    assert_eq!(values(resumed.model().unwrap().weight.val()), [2.0, 2.0]);
    // The other still has something to check.
    assert!(average.check().is_err());
}

#[test]
fn a_record_of_as_many_updates_is_not_judged_by_them() {
    let device = autodiff();
    let model = |value| net([value, value], 0, true, 0.0, &device);
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    average.update(&model(1.0)).unwrap();
    let mut healthy = average.clone();
    healthy.update(&model(3.0)).unwrap();

    update_unread(&mut average, &model(f32::NAN));
    let mut resumed = average.try_load_record(healthy.into_record()).unwrap();
    assert_eq!((resumed.check(), resumed.updates()), (Ok(()), 2));
    assert_eq!(values(resumed.model().unwrap().weight.val()), [2.0, 2.0]);
}

#[test]
fn a_mapper_that_looks_at_numbers_leaves_the_verdict() {
    struct Look;
    impl ModuleMapper for Look {
        fn map_int<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Int>>,
        ) -> Param<Tensor<D, Int>> {
            param.map(|tensor| tensor)
        }
    }
    let device = autodiff();
    let model = |value| net([value, value], 0, true, 0.0, &device);
    let mut average = Average::new(&model(0.0), EqualWeights).unwrap();
    update_unread(&mut average, &model(f32::NAN));
    let mut average = average.map(&mut Look);
    average.check().unwrap_err();
    assert_eq!(average.updates(), 0);
}

#[test]
fn counts_of_updates_do_not_wrap() {
    let device = autodiff();
    let model = |value| net([value, value], 0, true, 0.0, &device);
    let average = |updates| {
        let average = Average::new(&model(0.0), EqualWeights).unwrap();
        average.with_initial_average(&model(2.0), updates).unwrap()
    };
    for updates in [usize::MAX - 1, usize::MAX] {
        let mut average = average(updates);
        average.update(&model(4.0)).unwrap();
        update_unread(&mut average, &model(4.0));
        assert_eq!(average.check(), Ok(()));
        assert_eq!(average.updates(), usize::MAX);
        assert_eq!(values(average.model().unwrap().weight.val()), [2.0, 2.0]);

        let record = average.clone().into_record();
        let loaded = average.try_load_record(record).unwrap();
        assert_eq!(loaded.updates(), i64::MAX as usize);
    }

    // After as many updates as a device can count, the host reads how many were good.
    let mut average = average(1);
    update_unread(&mut average, &model(f32::NAN));
    update_unread(&mut average, &model(4.0));
    average.unread().unwrap().lock().fill();
    let error = as_elsewhere(|| average.update_non_blocking(&model(4.0)).unwrap_err());
    assert!(
        matches!(error, AverageError::NotFinite { updates: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_weight_that_is_no_share_is_refused_and_nothing_is_lost() {
    #[derive(Debug)]
    struct Wrong(f64);
    impl AveragingRule for Wrong {
        fn weight(&self, _updates: usize) -> f64 {
            self.0
        }
    }
    let device = autodiff();
    let model = |value| net([value, value], 0, true, 0.0, &device);
    for wrong in [f64::NAN, -0.1, 1.5, f64::INFINITY] {
        let mut average = Average::new(&model(0.0), Wrong(wrong)).unwrap();
        average.update(&model(1.0)).unwrap();
        let error = average.update(&model(3.0)).unwrap_err();
        assert!(error.to_string().contains("[0, 1]"), "{error}");
        assert_eq!(average.updates(), 1);
        assert_eq!(values(average.model().unwrap().weight.val()), [1.0, 1.0]);
    }
}

#[test]
fn an_average_goes_on_from_another() {
    let device = autodiff();
    let model = |weight, mean| net(weight, 1, true, mean, &device);
    let average = Average::new(&model([9.0, 9.0], 9.0), EqualWeights).unwrap();
    let mut average = average
        .with_initial_average(&model([2.0, 4.0], 5.0), 3)
        .unwrap();
    assert_eq!(average.updates(), 3);
    let averaged = average.model().unwrap();
    assert_eq!(values(averaged.weight.val()), [2.0, 4.0]);
    assert_eq!(values(averaged.norm.running_mean.value()), [5.0]);

    // (3 * 2 + 6) / 4 and (3 * 4 + 0) / 4
    average.update(&model([6.0, 0.0], 6.0)).unwrap();
    assert_eq!(values(average.model().unwrap().weight.val()), [3.0, 3.0]);

    // The same under a rule that would not copy.
    #[derive(Debug)]
    struct Tenth;
    impl AveragingRule for Tenth {
        fn weight(&self, _updates: usize) -> f64 {
            0.1
        }
    }
    let tenth = Average::new(&model([9.0, 9.0], 9.0), Tenth).unwrap();
    let mut tenth = tenth
        .with_initial_average(&model([2.0, 4.0], 5.0), 3)
        .unwrap();
    tenth.update(&model([12.0, 14.0], 6.0)).unwrap();
    for (got, expected) in values(tenth.model().unwrap().weight.val())
        .iter()
        .zip([3.0, 5.0])
    {
        assert!((got - expected).abs() < 1e-6, "{got}");
    }

    // An average of 0 updates starts from the first update.
    let mut average = average
        .with_initial_average(&model([7.0, 7.0], 7.0), 0)
        .unwrap();
    assert_eq!(average.model().unwrap_err(), AverageError::NothingAveraged);
    average.update(&model([1.0, 2.0], 1.0)).unwrap();
    assert_eq!(values(average.model().unwrap().weight.val()), [1.0, 2.0]);
}

#[test]
fn an_average_on_a_device_of_its_own_stays_there() {
    let device = Device::flex();
    let model = net([1.0, 2.0], 1, true, 1.0, &autodiff());
    let mut average = Average::new(&model, EqualWeights)
        .unwrap()
        .with_device(&device);
    average.update(&model).unwrap();
    assert_eq!(average.devices(), vec![device]);
}

#[derive(Module, Debug)]
struct Nothing {
    width: usize,
}

#[test]
fn an_average_of_no_parameters_is_of_a_module_without_any() {
    let mut average = Average::new(&Nothing { width: 1 }, EqualWeights).unwrap();
    average.update(&Nothing { width: 1 }).unwrap();
    assert_eq!(average.updates(), 1);

    // Two modules of one type, one of which has no layers.
    let mut average = Average::new(&layers(&[2]), EqualWeights).unwrap();
    let error = average.update(&layers(&[2, 3])).unwrap_err();
    let path = "layers.0.weight".to_owned();
    assert_eq!(error, AverageError::UnknownParameter { path });
}

#[test]
fn what_is_unread_is_read_before_other_values_are_checked() {
    let device = autodiff();
    let model = |weight: f32, mean| net([weight; 2], 1, true, mean, &device);
    let mut average = Average::new(&model(0.0, 0.0), EqualWeights).unwrap();
    update_unread(&mut average, &model(1.0, 1.0));
    let mut average = average.with_running_statistics_averaged();
    update_unread(&mut average, &model(3.0, 5.0));
    assert_eq!(average.check(), Ok(()));
    let averaged = average.model().unwrap();
    assert_eq!(values(averaged.weight.val()), [2.0, 2.0]);
    assert_eq!(values(averaged.norm.running_mean.value()), [3.0]);

    // In the host's memory, where the check is immediate.
    update_unread(&mut average, &model(f32::NAN, 5.0));
    let error = average.update_non_blocking(&model(5.0, 5.0)).unwrap_err();
    assert!(error.to_string().contains("`weight`"), "{error}");
    assert_eq!(average.updates(), 2);
}

/// The updates, dtypes and bits of all values, variances and deviations.
fn bits<M: Module>(average: &Average<M>) -> (usize, Vec<(String, DType, Vec<u64>)>) {
    let vectors = [average.weights().clone()].into_iter();
    let vectors = vectors.chain(average.variance());
    let vectors: Vec<Weights> = vectors.chain(average.deviations()).collect();
    let mut all = Vec::new();
    for vector in vectors {
        let parameters = vector.layout().parameters().iter().zip(vector.values());
        for (parameter, value) in parameters {
            let (dtype, values) = match value.clone() {
                crate::weights::Value::Float(it) => (it.dtype(), values(it.flat())),
                crate::weights::Value::Int(it) => (it.dtype(), it.into_data().iter().collect()),
                crate::weights::Value::Bool(it) => (it.dtype(), it.into_data().iter().collect()),
            };
            let values = values.iter().map(|value: &f64| value.to_bits());
            all.push((parameter.path.clone(), dtype, values.collect()));
        }
    }
    (average.updates(), all)
}

#[test]
fn averages_in_one_pass_have_the_bits_of_separate_ones() {
    #[derive(Debug)]
    struct Latest;
    impl AveragingRule for Latest {
        fn weight(&self, _updates: usize) -> f64 {
            1.0
        }
    }
    let device = autodiff();
    let dtypes = [
        FloatDType::F32,
        FloatDType::F64,
        FloatDType::F16,
        FloatDType::BF16,
    ];
    let run = |seed: u64, far: f32| {
        let mut rng = StdRng::seed_from_u64(seed);
        let of_models = dtypes[rng.random_range(0..4)];
        let mut model = |dtype| {
            let far = if dtype == FloatDType::F16 { 6e4 } else { far };
            let mut number = || match rng.random_range(0..4) {
                0 => far * rng.random_range(-1.0..1.0),
                1 => 0.1,
                _ => rng.random_range(-2.0..2.0),
            };
            let weight = [number(), number()];
            cast(net(weight, 1, true, number(), &device), dtype)
        };
        let mut rng = StdRng::seed_from_u64(!seed);
        let mut average = || {
            // Half of them are made of a model in another dtype.
            let dtype = [of_models, dtypes[rng.random_range(0..4)]][rng.random_range(0..2)];
            let model = model(dtype);
            let mut average = match rng.random_range(0..4) {
                0 => Average::new(&model, EqualWeights),
                1 => Average::new(&model, Exponential::new(0.9).unwrap()),
                2 => Average::new(&model, Exponential::new(0.3).unwrap()),
                _ => Average::new(&model, Latest),
            }
            .unwrap();
            if rng.random_range(0..3) == 0 {
                average = average.with_running_statistics_averaged();
            }
            if rng.random_range(0..3) == 0 {
                average = average
                    .with_weights_averaged(|path| path == "weight")
                    .unwrap();
            }
            if rng.random_range(0..4) == 0 {
                average = average.with_deviations(2).unwrap();
            }
            if rng.random_range(0..3) == 0 {
                average = average.with_device(&Device::flex());
            }
            (average, rng.random_range(1..4))
        };
        let (mut together, periods): (Vec<Average<Net>>, Vec<usize>) =
            [(); 4].map(|()| average()).into_iter().unzip();
        let mut apart = together.clone();
        for step in 1..=7 {
            let model = model(of_models);
            let mut due: Vec<&mut Average<Net>> = Vec::new();
            for ((together, apart), period) in together.iter_mut().zip(&mut apart).zip(&periods) {
                if step % period == 0 {
                    let weights = apart.read(&model).unwrap();
                    apart.update_from(weights).unwrap();
                    due.push(together);
                }
            }
            if let Some(first) = due.first() {
                let weights = first.read(&model).unwrap();
                Average::update_all_from(&mut due, weights).unwrap();
            }
        }
        for (together, apart) in together.iter_mut().zip(&mut apart) {
            assert_eq!(together.check(), apart.check());
            assert_eq!(bits(together), bits(apart), "seed {seed}");
        }
    };
    for seed in 0..60 {
        run(seed, 3e38);
        // There, sums tell whether all elements are finite.
        as_elsewhere(|| run(seed, 1e38));
    }
}

/// Updates all averages as an accelerator does.
fn update_all_unread(averages: &mut [&mut Average<Net>], model: &Net) {
    let weights = averages[0].read(model).unwrap();
    as_elsewhere(|| Average::update_all_from(averages, weights)).unwrap();
}

#[test]
fn averages_of_one_pass_stop_together_and_each_counts_its_own() {
    let device = autodiff();
    let model = |value: f32| net([value, value], 0, true, value, &device);
    let average = || Average::new(&model(0.0), EqualWeights).unwrap();
    let [mut each, mut second, mut early] = [average(), average(), average()];
    for step in 1..=6 {
        let value = if step == 5 { f32::NAN } else { step as f32 };
        let mut due = vec![&mut each];
        if step % 2 == 0 {
            due.push(&mut second);
        }
        if step == 2 || step == 3 {
            due.push(&mut early);
        }
        update_all_unread(&mut due, &model(value));
    }
    let stopped = |updates| {
        let path = "weight".into();
        Err(AverageError::NotFinite { path, updates })
    };
    // Those of steps 1 to 4, 2 and 4, 2 and 3. The second was not there at step 5, but had step 6 left out.
    assert_eq!((each.check(), second.check()), (stopped(4), stopped(2)));
    assert_eq!(early.check(), Ok(()));
    for (average, updates, expected) in [(&each, 4, 2.5), (&second, 2, 3.0), (&early, 2, 2.5)] {
        let weight = values(average.model().unwrap().weight.val());
        assert_eq!((average.updates(), weight), (updates, vec![expected; 2]));
    }
    // They go on from there, together.
    update_all_unread(&mut [&mut each, &mut second, &mut early], &model(6.0));
    let checks = [each.check(), second.check(), early.check()];
    assert_eq!(checks, [const { Ok(()) }; 3]);
    assert_eq!(
        [each.updates(), second.updates(), early.updates()],
        [5, 3, 3]
    );
}

#[test]
fn averages_that_were_updated_apart_are_checked_to_go_together() {
    let device = autodiff();
    let model = |value: f32| net([value, value], 0, true, value, &device);
    let average = || Average::new(&model(0.0), EqualWeights).unwrap();
    let [mut first, mut second] = [average(), average()];
    update_unread(&mut first, &model(1.0));
    update_unread(&mut second, &model(2.0));
    update_unread(&mut second, &model(f32::NAN));
    let weights = first.read(&model(3.0)).unwrap();
    let mut both = [&mut first, &mut second];
    let failed = as_elsewhere(|| Average::update_all_from(&mut both, weights.clone()));
    let (index, error) = failed.unwrap_err();
    assert!(matches!(error, AverageError::NotFinite { updates: 1, .. }) && index == 1);
    as_elsewhere(|| Average::update_all_from(&mut both, weights)).unwrap();
    assert_eq!((first.check(), second.check()), (Ok(()), Ok(())));
    let averaged = |average: &Average<Net>| values(average.model().unwrap().weight.val())[0];
    assert_eq!((averaged(&first), averaged(&second)), (2.0, 2.5));

    // A copy has a verdict of its own.
    update_all_unread(&mut [&mut first, &mut second], &model(5.0));
    let mut copy = first.clone();
    update_unread(&mut copy, &model(f32::NAN));
    update_all_unread(&mut [&mut first, &mut second], &model(5.0));
    assert_eq!((first.check(), second.check()), (Ok(()), Ok(())));
    assert_eq!((first.updates(), copy.check().is_err()), (4, true));
}

#[test]
fn no_average_takes_what_one_of_a_pass_refuses() {
    let device = autodiff();
    let hidden = |weight, hidden| masked(weight, hidden, &device);
    let update = || {
        let lowest = f32::NEG_INFINITY;
        let with_mask = Average::new(&hidden(0.0, lowest), EqualWeights).unwrap();
        let without = Average::new(&hidden(0.0, 0.0), EqualWeights).unwrap();
        let copying = Average::new(&hidden(0.0, 0.0), EqualWeights).unwrap();
        // What is copied is not compared.
        let mut copying = copying
            .with_weights_averaged(|path| path == "weight")
            .unwrap();
        let (mut with_mask, mut without) = (with_mask, without);
        let weights = with_mask.read(&hidden(1.0, lowest)).unwrap();
        let both = &mut [&mut with_mask, &mut copying];
        Average::update_all_from(both, weights.clone()).unwrap();
        let refused = Average::update_all_from(&mut [&mut with_mask, &mut without], weights);
        let refused = refused
            .map_err(|(_, error)| error)
            .and_then(|()| without.check());
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("`mask`"), "{error}");
        assert_eq!(copying.check(), Ok(()));
        _ = with_mask.check();
        [with_mask, without, copying].map(|it| it.updates())
    };
    assert_eq!(update(), [1, 0, 1]);
    assert_eq!(as_elsewhere(update), [1, 0, 1]);
}

#[test]
fn an_average_that_cannot_be_updated_is_told_by_its_index() {
    #[derive(Debug)]
    struct Wrong;
    impl AveragingRule for Wrong {
        fn weight(&self, _updates: usize) -> f64 {
            2.0
        }
    }
    let device = autodiff();
    let model = |value: f32| net([value, value], 0, true, value, &device);
    let mut good = Average::new(&model(0.0), EqualWeights).unwrap();
    let mut wrong = Average::new(&model(0.0), Wrong).unwrap();
    let weights = good.read(&model(1.0)).unwrap();
    let mut both = [&mut good, &mut wrong];
    Average::update_all_from(&mut both, weights.clone()).unwrap();
    let (index, error) = Average::update_all_from(&mut both, weights).unwrap_err();
    assert!(matches!(error, AverageError::InvalidWeight { .. }) && index == 1);
    assert_eq!((good.updates(), wrong.updates()), (1, 1));
    let nothing: &mut [&mut Average<Net>] = &mut [];
    let weights = good.read(&model(1.0)).unwrap();
    assert_eq!(Average::update_all_from(nothing, weights), Ok(()));
}

#[test]
fn weights_that_are_not_to_be_averaged_are_the_latest() {
    let device = autodiff();
    let model = |value: f32| {
        let layer = |rows: usize| {
            let mut layer: Linear = LinearConfig::new(rows, 1).with_bias(false).init(&device);
            let weight = Tensor::<2>::full([rows, 1], value, &device);
            layer.weight = Param::from_tensor(weight.cast(FloatDType::BF16));
            layer
        };
        Layers {
            layers: vec![layer(3), layer(2)],
        }
    };
    let average = Average::new(&model(9.0), EqualWeights).unwrap();
    let average = average.with_weights_averaged(|path| path.starts_with("layers.1"));
    let mut average = average.unwrap().with_deviations(2).unwrap();
    for value in [1.0, 2.0, 6.0] {
        average.update(&model(value)).unwrap();
    }
    let of = |weights: &Weights| {
        ["layers.0.weight", "layers.1.weight"].map(|path| {
            let values = weights.parameter(path).unwrap();
            (values.dtype(), values.into_data().iter::<f64>().collect())
        })
    };
    let averaged = of(average.weights());
    assert_eq!(
        averaged,
        [(DType::BF16, vec![6.0; 3]), (DType::F32, vec![3.0; 2])]
    );
    // The squares of 1, 2 and 6 less 3: 4 + 1 + 9.
    let [copied, variance] = of(&average.variance().unwrap());
    assert_eq!(copied.1, [0.0; 3]);
    assert!((variance.1[0] - 14.0 / 3.0).abs() < 1e-6);
    for deviation in average.deviations() {
        assert_eq!(of(&deviation)[0].1, [0.0; 3]);
    }
    let mut rng = StdRng::seed_from_u64(1);
    let sampled = average.sample(0.5, Covariance::Full, &mut rng).unwrap();
    assert_eq!(values(sampled.layers[0].weight.val()), [6.0; 3]);
    assert_ne!(values(sampled.layers[1].weight.val()), [3.0; 2]);

    // An average that is resumed averages what it is told to from there on.
    let record = average.into_record();
    let all = Average::new(&model(9.0), EqualWeights).unwrap();
    let all = all.with_deviations(2).unwrap();
    let mut all = all.try_load_record(record).unwrap();
    all.update(&model(2.0)).unwrap();
    let [first, second] = of(all.weights());
    assert_eq!((first.1, second.1), (vec![5.0; 3], vec![2.75; 2]));
}

#[test]
fn an_average_of_no_weight_at_all_is_refused() {
    let model = layers(&[2, 3]);
    let average = || Average::new(&model, EqualWeights).unwrap();
    let error = average().with_weights_averaged(|path| path == "layers.7.weight");
    let path = "layers.0.weight".to_owned();
    assert_eq!(error.unwrap_err(), AverageError::NoneAveraged { path });
    average().with_weights_averaged(|_| true).unwrap();
}
