use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, LinearLayout};
use burn::tensor::{Bool, DType, Int};
use burn_swa_test_support::parameters::{cast, values};
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::kernels::as_elsewhere;

#[derive(Module, Debug)]
struct Net {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    steps: Param<Tensor<1, Int>>,
    mask: Param<Tensor<2, Bool>>,
    norm: BatchNorm,
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// A network with a BatchNorm whose scale is 0.
fn net(weight: [[f32; 2]; 2], bias: [f32; 2], steps: i64, mean: f32) -> Net {
    let device = device();
    let mut norm: BatchNorm = BatchNormConfig::new(1).init(&device);
    norm.gamma = norm.gamma.map(|gamma| gamma.zeros_like());
    norm.running_mean = burn::module::RunningState::new(Tensor::from_floats([mean], &device));
    Net {
        weight: Param::from_data(weight, &device),
        bias: Param::from_data(bias, &device),
        steps: Param::initialized(ParamId::new(), Tensor::from_ints([steps], &device)),
        mask: Param::initialized(
            ParamId::new(),
            Tensor::from_data([[steps > 1, true]], &device),
        ),
        norm,
    }
}

fn first() -> Net {
    net([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0], 1, 7.0)
}

fn second() -> Net {
    net([[3.0, 2.0], [1.0, 0.0]], [-1.0, 2.0], 2, 9.0)
}

fn weights(net: &Net) -> Weights {
    Weights::of(net).unwrap()
}

fn assert_is(net: &Net, weight: [f64; 4], bias: [f64; 2]) {
    assert_eq!(values(net.weight.val()), weight);
    assert_eq!(values(net.bias.val()), bias);
    // These are the first operand's.
    assert_eq!(net.steps.val().into_scalar::<i64>(), 1);
    assert_eq!(values(net.norm.running_mean.value()), [7.0]);
}

#[test]
fn a_module_gives_its_parameters_by_path_and_takes_them_back() {
    let net = second();
    let weights = weights(&net);
    let parameters = weights.layout().parameters().iter();
    let described: Vec<_> = parameters
        .map(|it| (it.path.as_str(), it.shape.as_slice(), it.role))
        .collect();
    let expected: [(&str, &[usize], Role); 8] = [
        ("weight", &[2, 2], Role::Weight),
        ("bias", &[2], Role::Weight),
        ("steps", &[1], Role::Int),
        ("mask", &[1, 2], Role::Bool),
        ("norm.gamma", &[1], Role::Weight),
        ("norm.beta", &[1], Role::Weight),
        ("norm.running_mean", &[1], Role::RunningStatistic),
        ("norm.running_var", &[1], Role::RunningStatistic),
    ];
    assert_eq!(described, expected);
    assert_eq!(weights.num_elements(), 8);
    assert_eq!(
        values(weights.parameter("weight").unwrap()),
        [3.0, 2.0, 1.0, 0.0]
    );
    assert!(weights.parameter("steps").is_none() && weights.parameter("wieght").is_none());

    let into = first();
    let filled = weights.put_into(&into).unwrap();
    assert_eq!(values(filled.weight.val()), [3.0, 2.0, 1.0, 0.0]);
    assert_eq!(filled.steps.val().into_scalar::<i64>(), 2);
    assert_eq!(
        filled
            .mask
            .val()
            .into_data()
            .iter::<bool>()
            .collect::<Vec<_>>(),
        [true, true]
    );
    assert_eq!(values(filled.norm.running_mean.value()), [9.0]);
    assert!(!filled.weight.val().is_autodiff() && filled.train().weight.is_require_grad());
    assert_is(&into, [1.0, 2.0, 3.0, 4.0], [5.0, 6.0]);
}

#[test]
fn arithmetic_is_on_weights_and_the_rest_is_the_first_operands() {
    let (a, b) = (weights(&first()), weights(&second()));
    let put = |weights: Weights| weights.put_into(&second()).unwrap();
    assert_is(&put(a.clone().lerp(&b, 0.5).unwrap()), [2.0; 4], [2.0, 4.0]);
    assert_is(
        &put(a.clone().lerp(&b, 0.0).unwrap()),
        [1.0, 2.0, 3.0, 4.0],
        [5.0, 6.0],
    );
    assert_is(
        &put(a.clone().lerp(&b, 1.0).unwrap()),
        [3.0, 2.0, 1.0, 0.0],
        [-1.0, 2.0],
    );
    assert_is(
        &put(a.clone().lerp(&b, 2.0).unwrap()),
        [5.0, 2.0, -1.0, -4.0],
        [-7.0, -2.0],
    );
    assert_is(
        &put(a.axpy(-2.0, &b).unwrap()),
        [-5.0, -2.0, 1.0, 4.0],
        [7.0, 2.0],
    );
    let sum = Weights::combine(&[(1.0, &a), (0.5, &b), (1.0, &a)]).unwrap();
    assert_is(&put(sum), [3.5, 5.0, 6.5, 8.0], [9.5, 13.0]);

    // 3 + 4 + 3 + 0 - 5 + 12
    assert_eq!(a.dot(&b).unwrap(), 17.0);
    assert_eq!(a.norm().unwrap(), 91.0_f64.sqrt());
    // 4 + 0 + 4 + 16 + 36 + 16
    assert_eq!(a.distance(&b).unwrap(), 76.0_f64.sqrt());
    assert_eq!(Weights::combine(&[]).unwrap_err(), WeightsError::Nothing);
}

#[test]
fn a_point_between_far_apart_weights_is_between_them() {
    let net = |value: f32| net([[value, f32::NEG_INFINITY], [1.0; 2]], [0.0; 2], 1, 7.0);
    let between = |t| {
        let lerp = weights(&net(-3e38)).lerp(&weights(&net(3e38)), t);
        values(lerp.unwrap().parameter("weight").unwrap())
    };
    assert_eq!(between(0.5), [0.0, f64::NEG_INFINITY, 1.0, 1.0]);
    assert!((between(0.75)[0] - 1.5e38).abs() < 1e32);
}

/// Checks sums on `device` of vectors that all have an infinity in the same place.
fn check_infinities(device: &Device) {
    let lowest = f32::NEG_INFINITY;
    let net = |value: f32| {
        let mut layer: Linear = LinearConfig::new(2, 2).with_bias(false).init(device);
        layer.weight = Param::from_data([[value, lowest], [1.0; 2]], device);
        Weights::of(&layer).unwrap()
    };
    let weight = |sum: Weights| values(sum.parameter("weight").unwrap());
    let infinity = f64::NEG_INFINITY;
    let (a, b) = (net(1.0), net(3.0));
    let extrapolated = Weights::combine(&[(-2.0, &a), (3.0, &b)]).unwrap();
    assert_eq!(weight(extrapolated), [7.0, infinity, 1.0, 1.0]);
    assert_eq!(weight(a.axpy(-1.0, &b).unwrap()), [-2.0, 0.0, 0.0, 0.0]);
    assert_eq!(weight(a.axpy(0.0, &b).unwrap()), weight(a.clone()));
    assert_eq!(a.distance(&b).unwrap(), 2.0);
    // 0.1 + 0.2 - 0.3 is 5.6e-17.
    let difference = Weights::combine(&[(0.1, &a), (0.2, &a), (-0.3, &b)]).unwrap();
    assert_eq!(weight(difference)[1], 0.0);
    let nothing = Weights::combine(&[(0.0, &a), (0.0, &b)]).unwrap();
    assert_eq!(weight(nothing), [0.0; 4]);
}

#[test]
fn infinities_that_all_terms_hold_stay_in_sums_and_not_in_differences() {
    check_infinities(&Device::flex());
    as_elsewhere(|| check_infinities(&Device::flex()));
}

#[cfg(feature = "wgpu")]
#[test]
fn on_wgpu_infinities_that_all_terms_hold_stay_in_sums() {
    check_infinities(&Device::wgpu(burn::tensor::DeviceKind::default()));
}

#[test]
fn an_infinity_that_one_side_alone_holds_is_no_constant() {
    let net = |value: f32| weights(&net([[value; 2], [1.0; 2]], [0.0; 2], 1, 7.0));
    let check = || {
        let between = |t: f64| {
            let point = net(f32::INFINITY).lerp(&net(2.0), t).unwrap();
            values(point.parameter("weight").unwrap())[0]
        };
        assert_eq!([0.0, 0.5, 1.0].map(between), [f64::INFINITY, 2.0, 2.0]);
        let sum = net(f32::INFINITY).axpy(-1.0, &net(2.0)).unwrap();
        assert_eq!(values(sum.parameter("weight").unwrap())[0], f64::INFINITY);
    };
    check();
    as_elsewhere(check);
}

#[test]
fn weights_in_16_bits_are_combined_in_32_and_come_back_in_16() {
    let net = |value: f32| cast(net([[value; 2]; 2], [0.0; 2], 1, 7.0), FloatDType::BF16);
    // 256 and 258 are neighbours in bf16: halfway between them is not.
    let halfway = weights(&net(256.0))
        .lerp(&weights(&net(258.0)), 0.5)
        .unwrap();
    assert_eq!(values(halfway.parameter("weight").unwrap()), [257.0; 4]);
    assert_eq!(
        halfway.put_into(&net(0.0)).unwrap().weight.val().dtype(),
        DType::BF16
    );
    let dot = weights(&net(257.0)).dot(&weights(&net(256.0))).unwrap();
    assert_eq!(dot, 4.0 * 256.0 * 256.0);
}

/// The first parameter of a `Net` and another, in reverse order.
#[derive(Module, Debug)]
struct Reversed {
    bias: Param<Tensor<1>>,
    weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct InOrder {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[test]
fn parameters_are_matched_by_path_whatever_their_order() {
    let net = first();
    let (weight, bias) = (net.weight.clone(), net.bias.clone());
    let in_order = InOrder { weight, bias };
    let (weight, bias) = (net.weight, net.bias);
    let reversed = Reversed { bias, weight };
    let (a, b) = (
        Weights::of(&in_order).unwrap(),
        Weights::of(&reversed).unwrap(),
    );
    assert_eq!(a.distance(&b).unwrap(), 0.0);
    assert_eq!(a.dot(&b).unwrap(), 91.0);
    let doubled = a.axpy(1.0, &b).unwrap().put_into(&reversed).unwrap();
    assert_eq!(values(doubled.bias.val()), [10.0, 12.0]);
}

#[test]
fn weights_of_another_module_are_refused_with_the_path() {
    let net = first();
    let (a, other) = (
        weights(&net),
        InOrder {
            weight: net.weight,
            bias: net.bias,
        },
    );
    let b = Weights::of(&other).unwrap();
    let path = "steps".to_owned();
    assert_eq!(
        a.dot(&b).unwrap_err(),
        WeightsError::MissingParameter { path: path.clone() }
    );
    assert_eq!(
        b.clone().lerp(&a, 0.5).unwrap_err(),
        WeightsError::UnknownParameter { path }
    );
    let wide = InOrder {
        weight: Param::from_data([[1.0, 2.0, 3.0]], &device()),
        ..other
    };
    let error = b.put_into(&wide).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`weight` has shape [2, 2], expected [1, 3]"),
        "{error}"
    );
}

/// Two layers with a hand-written traversal, which visits and maps them by these names, or without names if they are empty.
#[derive(Debug, Clone)]
struct ByHand {
    layers: [Linear; 2],
    visited: [&'static str; 2],
    mapped: [&'static str; 2],
}

impl Module for ByHand {
    fn collect_devices(&self, devices: burn::module::Devices) -> burn::module::Devices {
        self.layers.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(self, device: &Device) -> Self {
        let layers = self.layers.map(|layer| layer.to_device(device));
        Self { layers, ..self }
    }

    fn train(self) -> Self {
        let layers = self.layers.map(Linear::train);
        Self { layers, ..self }
    }

    fn valid(&self) -> Self {
        let layers = self.layers.each_ref().map(Linear::valid);
        Self { layers, ..*self }
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (layer, name) in self.layers.iter().zip(self.visited) {
            if name.is_empty() {
                layer.visit(visitor);
            } else {
                visitor.enter_module(name, "Struct:ByHand");
                layer.visit(visitor);
                visitor.exit_module(name, "Struct:ByHand");
            }
        }
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        let mut names = self.mapped.into_iter();
        self.layers = self.layers.map(|layer| {
            let name = names.next().unwrap();
            mapper.enter_module(name, "Struct:ByHand");
            let layer = layer.map(mapper);
            mapper.exit_module(name, "Struct:ByHand");
            layer
        });
        self
    }
}

#[test]
fn traversals_that_do_not_tell_parameters_apart_are_refused() {
    let layer = || LinearConfig::new(2, 2).init(&device());
    let by_hand = |visited, mapped| ByHand {
        layers: [layer(), layer()],
        visited,
        mapped,
    };
    let unnamed = by_hand([""; 2], [""; 2]);
    let error = Weights::of(&unnamed).unwrap_err();
    assert!(
        error.to_string().contains("two parameters at `weight`"),
        "{error}"
    );

    let differing = by_hand(["a", "b"], ["a", "c"]);
    let weights = Weights::of(&differing).unwrap();
    let error = weights.put_into(&differing).unwrap_err();
    assert!(
        error.to_string().contains("a parameter at `c.weight`"),
        "{error}"
    );
    let error = crate::Average::new(&differing, crate::EqualWeights).unwrap_err();
    assert!(error.to_string().contains("enter_module"), "{error}");

    let twice = by_hand(["a", "b"], ["a", "a"]);
    let error = Weights::of(&twice).unwrap().put_into(&twice).unwrap_err();
    assert!(
        error.to_string().contains("a parameter at `b.weight`"),
        "{error}"
    );

    let named = by_hand(["a", "b"], ["a", "b"]);
    Weights::of(&named).unwrap().put_into(&named).unwrap();
}

#[test]
fn a_vector_that_nobody_shares_is_changed_in_place() {
    let address = |weights: &Weights| {
        let values = weights.parameter("weight").unwrap();
        let values = values.try_into_primitive::<burn::backend::Flex>().unwrap();
        values.bytes().as_ptr()
    };
    let other = weights(&second());
    let shared = weights(&first());
    let own = shared.clone().lerp(&other, 0.5).unwrap();
    let before = address(&own);
    let own = own.lerp(&other, 0.5).unwrap();
    assert_eq!(address(&own), before);
    assert_eq!(
        values(own.parameter("weight").unwrap()),
        [2.5, 2.0, 1.5, 1.0]
    );
    assert_eq!(
        values(shared.parameter("weight").unwrap()),
        [1.0, 2.0, 3.0, 4.0]
    );
}

#[test]
fn a_skeleton_holds_an_element_a_parameter_and_all_else_of_it() {
    #[derive(Default, PartialEq, Debug)]
    struct Seen {
        ids: Vec<ParamId>,
        ranks: Vec<usize>,
        elements: usize,
        require_grad: Vec<bool>,
    }
    impl ModuleVisitor for Seen {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.ids.push(param.id);
            self.ranks.push(D);
            self.elements += param.val().shape().num_elements();
            self.require_grad.push(param.is_require_grad());
        }
    }
    fn seen(module: &impl Module) -> Seen {
        let mut seen = Seen::default();
        module.visit(&mut seen);
        seen
    }
    // Stored with its weight transposed, in a way that only its parameter knows.
    let config = LinearConfig::new(3, 50).with_layout(LinearLayout::Col);
    let mut layer: Linear = config.init(&device());
    layer.bias = layer.bias.map(|bias| bias.set_require_grad(false));
    let weights = Weights::of(&layer).unwrap();
    let skeleton = Skeleton::of(layer.valid(), weights.layout()).unwrap();
    let (bare, whole) = (seen(&skeleton.filled(&weights).train()), seen(&layer));
    assert_eq!(bare, whole);
    assert_eq!(whole.require_grad, [true, false]);

    let mut hollow = Seen::default();
    skeleton.visit(
        &Weights::from_parts(Arc::default(), Vec::new()),
        &mut hollow,
    );
    assert_eq!((hollow.elements, hollow.ranks), (2, vec![2, 1]));

    let record = |layer: Linear| layer.into_record().into_bytes().unwrap();
    assert!(record(skeleton.filled(&weights)) == record(layer.valid()));
    let (same, taken) = skeleton.clone().map(weights.clone(), &mut Nothing);
    assert!(record(same.filled(&taken)) == record(layer.valid()));
}

struct Nothing;

impl ModuleMapper for Nothing {}

#[test]
fn directions_have_the_length_that_they_are_said_to_have() {
    let device = device();
    let layer: Linear = LinearConfig::new(50, 60).init(&device);
    let weights = Weights::of(&layer).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let direction = weights.random_direction(&mut rng).unwrap();
    assert!((direction.norm().unwrap() - 1.0).abs() < 1e-6);
    let other = weights.random_direction(&mut rng).unwrap();
    // In 3060 dimensions, two directions are nearly at right angles: their cosine is 0.018 on average.
    assert!(direction.dot(&other).unwrap().abs() < 0.1);
    let values = values(direction.parameter("weight").unwrap());
    assert!(values.iter().sum::<f64>().abs() < 4.0);
    assert!(values.iter().any(|value| *value < 0.0) && values.iter().any(|value| *value > 0.0));

    let scaled = direction
        .normalised()
        .unwrap()
        .axpy(2.0, &direction)
        .unwrap();
    assert!((scaled.norm().unwrap() - 3.0).abs() < 1e-5);
    let nothing = direction.axpy(-1.0, &direction).unwrap();
    let error = nothing.normalised().unwrap_err();
    assert_eq!(error, WeightsError::NoDirection { length: 0.0 });
}

#[test]
fn filters_of_a_direction_are_as_long_as_those_of_the_weights() {
    let net = |weight, bias| InOrder {
        weight: Param::from_data(weight, &device()),
        bias: Param::from_data(bias, &device()),
    };
    let of = |module: &InOrder| Weights::of(module).unwrap();
    let weights = of(&net([[3.0, 4.0], [0.0, 2.0]], [1.0, 1.0]));
    let direction = of(&net([[0.0, 10.0], [3.0, 4.0]], [1.0, 1.0]));
    let normalised = direction.filter_normalised(&weights).unwrap();
    // Rows are filters: of length 5 and 2 instead of 10 and 5.
    let close = |got: Vec<f64>, expected: [f64; 4]| {
        let mut pairs = got.iter().zip(expected);
        assert!(
            pairs.all(|(got, expected)| (got - expected).abs() < 1e-6),
            "{got:?}"
        );
    };
    close(
        values(normalised.parameter("weight").unwrap()),
        [0.0, 5.0, 1.2, 1.6],
    );
    assert_eq!(values(normalised.parameter("bias").unwrap()), [0.0, 0.0]);

    // A linear layer's weight is [in, out]: columns are filters.
    let layer = |weight: [[f32; 2]; 2]| {
        let mut layer: Linear = LinearConfig::new(2, 2).with_bias(false).init(&device());
        layer.weight = Param::from_data(weight, &device());
        Weights::of(&layer).unwrap()
    };
    let weights = layer([[3.0, 0.0], [4.0, 2.0]]);
    let normalised = layer([[0.0, 3.0], [10.0, 4.0]])
        .filter_normalised(&weights)
        .unwrap();
    close(
        values(normalised.parameter("weight").unwrap()),
        [0.0, 1.2, 5.0, 1.6],
    );
}
