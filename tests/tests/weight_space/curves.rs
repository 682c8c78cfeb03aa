//! Curves between networks have the authors' points, gradients, beginning, training and statistics.

use std::error::Error;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Device, ExecutionError, Tensor, TensorData};
use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::random::{bits, uniform};
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, VectorsOf};
use serde::Deserialize;
use swa_landscape::{Curve, CurveConfig, CurvePath, CurveShape, PathStatistics, Points};
use swa_train::swa_core::Weights;

use super::network::{Net, Parameter, flat};
use super::{FLOAT32, FLOAT64};

#[derive(Debug, Deserialize)]
struct Curves {
    parameters: Vec<Parameter>,
    stream: Vec<u64>,
    gradient_stream: u64,
    weight_decay: f64,
    cases: Vec<Case>,
    statistics: Statistics,
    training: Training,
}

#[derive(Debug, Deserialize)]
struct Case {
    kind: Kind,
    bends: usize,
    t: f64,
    coefficients: Vec<f64>,
    l2: f64,
    tensor: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Bezier,
    Polychain,
}

#[derive(Debug, Deserialize)]
struct Statistics {
    values_stream: u64,
    length: f64,
    min: f64,
    max: f64,
    mean: f64,
    integral: f64,
}

#[derive(Debug, Deserialize)]
struct Training {
    curvature_stream: u64,
    target_stream: u64,
    t_stream: u64,
    steps: usize,
    lr: f64,
    momentum: f64,
    t: Vec<f64>,
    runs: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Run {
    kind: Kind,
    bends: usize,
    losses: Vec<f64>,
}

impl Kind {
    fn shape(self) -> CurveShape {
        match self {
            Self::Bezier => CurveShape::Bezier,
            Self::Polychain => CurveShape::PolygonalChain,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bezier => "bezier",
            Self::Polychain => "polychain",
        }
    }
}

/// A loss of the weights alone: `<slope, w> + 1/2 sum curvature (w - target)^2`.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    slope: Tensor<1>,
    curvature: Tensor<1>,
    target: Tensor<1>,
}

#[derive(Debug)]
pub(crate) struct Value(f64);

impl ItemLazy for Value {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Loss {
    fn of(&self, net: &Net) -> Tensor<1> {
        let [slope, curvature, target] =
            [&self.slope, &self.curvature, &self.target].map(|it| Tensor::from_inner(it.clone()));
        let weights = net.flattened();
        let off = weights.clone().sub(target).square();
        let sum = weights.mul(slope).sum();
        sum.add(off.mul(curvature).sum().mul_scalar(0.5))
    }
}

impl TrainStep for Net {
    type Input = Loss;
    type Output = Value;

    fn step(&self, loss: Loss) -> TrainOutput<Value> {
        let loss = loss.of(self);
        let value = values(loss.clone().inner())[0];
        TrainOutput::new(self, loss.backward(), Value(value))
    }
}

impl InferenceStep for Net {
    type Input = ();
    type Output = Value;

    fn step(&self, (): ()) -> Value {
        Value(f64::NAN)
    }
}

fn vectors() -> VectorsOf<Curves> {
    let file = vectors::folder().join("weight_space/curves.safetensors");
    VectorsOf::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Compares in both precisions.
fn compare(
    with: impl Fn(&VectorsOf<Curves>, &Precision, &mut Comparisons) -> Result<(), Box<dyn Error>>,
) {
    let vectors = vectors();
    for (dtype, allowed) in [(DType::F32, FLOAT32), (DType::F64, FLOAT64)] {
        let precision = Precision { dtype, allowed };
        let mut comparisons = Comparisons::default();
        with(&vectors, &precision, &mut comparisons).unwrap();
        println!("{dtype:?}: {}", comparisons.summary());
        comparisons.finish().unwrap();
    }
}

/// The precision of a comparison.
struct Precision {
    dtype: DType,
    allowed: f64,
}

impl Precision {
    /// The networks that are the points of the curves.
    fn networks(&self, expected: &Curves) -> Result<Vec<Net>, Box<dyn Error>> {
        let networks = expected.stream.iter().map(|stream| {
            Net::new(&expected.parameters, self.dtype, |position, parameter| {
                let stream = stream + position as u64;
                parameter.rule.values(stream, &parameter.shape)
            })
        });
        networks.collect()
    }

    /// A flat vector of uniform numbers, one for each weight.
    fn uniform(&self, expected: &Curves, stream: u64, width: f64, centre: f64) -> Tensor<1> {
        let shapes = expected.parameters.iter().map(|parameter| &parameter.shape);
        let count = shapes.map(|shape| shape.iter().product::<usize>()).sum();
        let data = TensorData::new(uniform(stream, count, width, centre), [count]);
        Tensor::from_data(data, (&Device::flex(), self.dtype))
    }
}

fn weights(networks: &[Net]) -> Result<Vec<Weights>, Box<dyn Error>> {
    Ok(networks.iter().map(Weights::of).collect::<Result<_, _>>()?)
}

#[test]
fn weight_space_curves_have_the_papers_points() {
    compare(|vectors, precision, comparisons| {
        let expected = &vectors.description;
        let points = weights(&precision.networks(expected)?)?;
        for case in &expected.cases {
            let Case { kind, bends, t, .. } = *case;
            let coefficients = kind.shape().coefficients(t, bends);
            let off = relative_l2(&coefficients, &case.coefficients);
            let name = format!("{} {bends} {t}", kind.name());
            comparisons.note(format!("coefficients {name}"), off, FLOAT64);
            let path = CurvePath::through(kind.shape(), points[..bends].to_vec())?;
            let point = path.weights(t)?;
            let off = (point.dot(&point)? / case.l2 - 1.0).abs();
            comparisons.note(format!("square {name}"), off, precision.allowed);
            if let Some(tensor) = &case.tensor {
                let theirs = vectors.tensor(&format!("{tensor}.point"))?;
                let off = relative_l2(&flat(&point, &expected.parameters)?, theirs);
                comparisons.note(format!("point {name}"), off, precision.allowed);
            }
        }
        Ok(())
    });
}

#[test]
fn weight_space_curves_begin_on_the_line_between_their_ends() {
    compare(|vectors, precision, comparisons| {
        let expected = &vectors.description;
        let networks = precision.networks(expected)?;
        for points in [3, 4, 5] {
            let config = CurveConfig::new().with_bends(points - 2);
            let path = config.init(&networks[0], &networks[1])?.path()?;
            for (bend, ours) in path.points().iter().enumerate().skip(1).take(points - 2) {
                let name = format!("linear_init.{points}.bend{bend}");
                let ours = flat(ours, &expected.parameters)?;
                let off = relative_l2(&ours, vectors.tensor(&name)?);
                comparisons.note(name, off, precision.allowed);
            }
        }
        Ok(())
    });
}

/// The curve with these points for its bends, the first and the last of which are its ends.
fn curve_through(
    points: &[Net],
    kind: Kind,
    weight_decay: f64,
) -> Result<Curve<Net>, Box<dyn Error>> {
    let [start, bends @ .., end] = points else {
        return Err("a curve has two ends".into());
    };
    let config = CurveConfig::new()
        .with_shape(kind.shape())
        .with_weight_decay(weight_decay)
        .with_bends(bends.len());
    let curve = config.init(start, end)?;
    // A record with other bends: the same entries, with the values of other modules.
    let others = config.init(start, end)?;
    Ok(curve.load_record(replaced(others, bends).into_record()))
}

/// The curve with the weights of these networks in its bends.
fn replaced(curve: Curve<Net>, bends: &[Net]) -> Curve<Net> {
    struct Replaced<'a> {
        path: Vec<String>,
        bends: &'a [Weights],
    }
    impl burn::module::ModuleMapper for Replaced<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            // `bends.K.` and the path in the network.
            let bend: usize = self.path[1].parse().expect("a bend's number");
            let parameter = self.path[2..].join(".");
            let values = self.bends[bend].parameter(&parameter).expect("a parameter");
            param.map(|old| Tensor::from_inner(values.reshape(old.shape())).require_grad())
        }
    }
    let bends: Vec<Weights> = bends
        .iter()
        .map(|bend| Weights::of(bend).unwrap())
        .collect();
    let (path, bends) = (Vec::new(), bends.as_slice());
    curve.map(&mut Replaced { path, bends })
}

/// The gradients of each bend, flat.
fn gradients(curve: &Curve<Net>, gradients: &GradientsParams) -> Vec<f64> {
    struct Reader<'a> {
        gradients: &'a GradientsParams,
        all: Vec<f64>,
    }
    impl ModuleVisitor for Reader<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            self.all
                .extend(values(gradient.expect("a gradient for each parameter")));
        }
    }
    let all = Vec::new();
    let mut reader = Reader { gradients, all };
    curve.visit(&mut reader);
    reader.all
}

#[test]
fn weight_space_gradients_of_bends_are_the_authors() {
    compare(|vectors, precision, comparisons| {
        let expected = &vectors.description;
        let networks = precision.networks(expected)?;
        let gradient = precision.uniform(expected, expected.gradient_stream, 1.0, 0.0);
        for case in &expected.cases {
            let Some(tensor) = &case.tensor else { continue };
            let points = &networks[..case.bends];
            let curve = curve_through(points, case.kind, expected.weight_decay)?;
            let loss = Loss {
                slope: gradient.clone(),
                curvature: gradient.zeros_like(),
                target: gradient.zeros_like(),
            };
            let output = curve.step_at(case.t, loss)?;
            let ours = gradients(&curve, &output.grads);
            let theirs = (1..case.bends - 1).map(|bend| {
                let name = format!("{tensor}.gradient_of_bend{bend}");
                vectors.tensor(&name)
            });
            let theirs = theirs.collect::<Result<Vec<_>, _>>()?.concat();
            let off = relative_l2(&ours, &theirs);
            comparisons.note(format!("gradient {tensor}"), off, precision.allowed);
        }
        Ok(())
    });
}

/// `momentum * velocity + gradient` for each parameter of the curve.
fn with_momentum(
    curve: &Curve<Net>,
    gradients: &GradientsParams,
    velocity: &GradientsParams,
    momentum: f64,
) -> GradientsParams {
    struct Adder<'a> {
        gradients: &'a GradientsParams,
        velocity: &'a GradientsParams,
        momentum: f64,
        sum: GradientsParams,
    }
    impl ModuleVisitor for Adder<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id).expect("a gradient");
            let sum = match self.velocity.get::<D>(param.id) {
                Some(velocity) => velocity.mul_scalar(self.momentum).add(gradient),
                None => gradient,
            };
            self.sum.register(param.id, sum);
        }
    }
    let mut adder = Adder {
        gradients,
        velocity,
        momentum,
        sum: GradientsParams::new(),
    };
    curve.visit(&mut adder);
    adder.sum
}

#[test]
fn weight_space_a_curve_trains_as_by_the_authors_code() {
    compare(|vectors, precision, comparisons| {
        let expected = &vectors.description;
        let training = &expected.training;
        let networks = precision.networks(expected)?;
        let curvature = precision.uniform(expected, training.curvature_stream, 1.0, 1.0);
        let loss = Loss {
            slope: curvature.zeros_like(),
            curvature,
            target: precision.uniform(expected, training.target_stream, 0.5, 0.0),
        };
        let drawn = bits(training.t_stream, training.steps);
        assert!(
            drawn
                .map(|bits| bits as f64 / 16_777_216.0)
                .eq(training.t.iter().copied())
        );
        for Run {
            kind,
            bends,
            losses,
        } in &training.runs
        {
            let mut curve = CurveConfig::new()
                .with_shape(kind.shape())
                .with_bends(bends - 2)
                .with_weight_decay(expected.weight_decay)
                .init(&networks[0], &networks[1])?;
            // Burn 0.22.1 rounds the momentum to f32. So in f64, it is added here.
            let rounds_momentum = precision.dtype == DType::F64;
            let momentum = MomentumConfig::new()
                .with_momentum(training.momentum)
                .with_dampening(0.0);
            let momentum = if rounds_momentum {
                None
            } else {
                Some(momentum)
            };
            let mut optimizer = SgdConfig::new().with_momentum(momentum).init();
            let mut velocity = GradientsParams::new();
            for (t, theirs) in training.t.iter().zip(losses) {
                let point = curve.path()?.weights(*t)?;
                let output = curve.step_at(*t, loss.clone())?;
                let decay = expected.weight_decay / 2.0 * point.dot(&point)?;
                let off = ((output.item.0 + decay) / theirs - 1.0).abs();
                let name = format!("loss {} {bends} {t}", kind.name());
                comparisons.note(name, off, precision.allowed);
                let mut step = output.grads;
                if rounds_momentum {
                    step = with_momentum(&curve, &step, &velocity, training.momentum);
                    velocity = with_momentum(&curve, &step, &velocity, 0.0);
                }
                curve = curve.optimize(&mut optimizer, training.lr.into(), step);
            }
            assert_eq!(curve.steps(), training.steps);
            let path = curve.path()?;
            for (bend, ours) in path.points().iter().enumerate().skip(1).take(bends - 2) {
                let name = format!("trained.{}.{bends}.bend{bend}", kind.name());
                let ours = flat(ours, &expected.parameters)?;
                let off = relative_l2(&ours, vectors.tensor(&name)?);
                comparisons.note(name, off, precision.allowed);
            }
        }
        Ok(())
    });
}

#[test]
fn weight_space_statistics_of_a_path_are_eval_curves() {
    compare(|vectors, precision, comparisons| {
        let expected = &vectors.description.statistics;
        let points = weights(&precision.networks(&vectors.description)?)?;
        let through = [0, 2, 1].map(|point| points[point].clone());
        let path = CurvePath::through(CurveShape::Bezier, through.to_vec())?;
        let scores = uniform(expected.values_stream, 61, 2.0, 0.0);
        let scores: Vec<f64> = scores.iter().map(|it| f64::from(it.abs())).collect();
        let PathStatistics {
            smallest,
            largest,
            mean,
            integral,
            length,
            gaps,
            ..
        } = path.statistics(&scores)?;
        assert_eq!(gaps, 0);
        for (name, ours, theirs) in [
            ("smallest", smallest, expected.min),
            ("largest", largest, expected.max),
            ("mean", mean, expected.mean),
            ("integral", integral, expected.integral),
            ("length", length, expected.length),
        ] {
            let off = (ours / theirs - 1.0).abs();
            comparisons.note(name, off, precision.allowed);
        }
        Ok(())
    });
}
