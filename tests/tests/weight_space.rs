//! Arithmetic of weights gives what the papers' own formulas give: products, planes, rays and lines through the weights of a
//! module. So do ensembles of predictions.
//!
//! `cargo test --release --test weight_space -- --nocapture` prints the deviations.

use std::collections::BTreeMap;
use std::error::Error;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::random::{bits, uniform};
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, Rule, VectorsOf};
use serde::Deserialize;
use swa_train::swa_core::{
    EnsembleConfig, EnsembleReport, Probabilities, Scores, Weights, WeightsError, evaluate_ensemble,
};

/// The tolerance for float32 against float64, as in the vectors' README: ten times the deviation by rounding alone.
const FLOAT32: f64 = 2.1e-6;

const FLOAT64: f64 = 1e-12;

#[derive(Debug, Deserialize)]
struct LinearAlgebra {
    parameters: Vec<Parameter>,
    stream: Vec<u64>,
    norm: Vec<f64>,
    distance_0_1: f64,
    cosine_0_1: f64,
    mean: Vec<f64>,
    dx: f64,
    dy: f64,
    coordinates: Vec<[f64; 2]>,
    plane_points: Vec<PlanePoint>,
    rays: Vec<Ray>,
    lines: Vec<Line>,
    distance_to_plane_of_3: f64,
    /// Other entries, such as the products `dot.0.1`.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Parameter {
    name: String,
    shape: Vec<usize>,
    rule: Rule,
}

#[derive(Debug, Deserialize)]
struct PlanePoint {
    tensor: String,
    alpha: f64,
    beta: f64,
}

#[derive(Debug, Deserialize)]
struct Ray {
    tensor: String,
    direction: String,
    stream: u64,
    t: f64,
}

#[derive(Debug, Deserialize)]
struct Line {
    tensor: String,
    t: f64,
}

/// The module whose parameters the vectors name.
#[derive(Module, Debug)]
struct Net {
    conv: Layer<4>,
    norm: Layer<1>,
    fc: Layer<2>,
}

#[derive(Module, Debug)]
struct Layer<const D: usize> {
    weight: Param<Tensor<D>>,
    bias: Param<Tensor<1>>,
}

impl Net {
    /// A module with the values that `values` returns for each parameter and its position.
    fn new(
        parameters: &[Parameter],
        dtype: DType,
        values: impl Fn(usize, &Parameter) -> Vec<f32>,
    ) -> Result<Self, Box<dyn Error>> {
        let data = |name: &str| -> Result<TensorData, Box<dyn Error>> {
            let named = |parameter: &&Parameter| parameter.name == name;
            let Some(parameter) = parameters.iter().find(named) else {
                return Err(format!("the file has no parameter {name}").into());
            };
            let position = parameters.iter().take_while(|it| it.name != name).count();
            Ok(TensorData::new(
                values(position, parameter),
                parameter.shape.clone(),
            ))
        };
        Ok(Self {
            conv: Layer::new("conv", dtype, data)?,
            norm: Layer::new("norm", dtype, data)?,
            fc: Layer::new("fc", dtype, data)?,
        })
    }
}

impl<const D: usize> Layer<D> {
    fn new(
        name: &str,
        dtype: DType,
        data: impl Fn(&str) -> Result<TensorData, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let device = Device::flex();
        let weight = Tensor::from_data(data(&format!("{name}.weight"))?, (&device, dtype));
        let bias = Tensor::from_data(data(&format!("{name}.bias"))?, (&device, dtype));
        Ok(Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
        })
    }
}

#[test]
fn weight_space_linear_algebra_agrees_with_the_papers_formulas() {
    let file = vectors::folder().join("weight_space/linear_algebra.safetensors");
    let vectors = VectorsOf::<LinearAlgebra>::read(&file);
    let vectors = vectors.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for (dtype, allowed) in [(DType::F32, FLOAT32), (DType::F64, FLOAT64)] {
        let comparisons = compare(&vectors, dtype, allowed).unwrap();
        println!("{dtype:?}: {}", comparisons.summary());
        comparisons.finish().unwrap();
    }
}

fn compare(
    vectors: &VectorsOf<LinearAlgebra>,
    dtype: DType,
    allowed: f64,
) -> Result<Comparisons, Box<dyn Error>> {
    let expected = &vectors.description;
    let parameters = &expected.parameters;
    let mut comparisons = Comparisons::default();
    let mut vector = |name: &str, ours: &Weights| -> Result<(), Box<dyn Error>> {
        let ours = flat(ours, parameters)?;
        let (kind, _) = name.split_once('.').unwrap_or((name, ""));
        let deviation = relative_l2(&ours, vectors.tensor(name)?);
        comparisons.note(format!("{kind} {name}"), deviation, allowed);
        Ok(())
    };
    let mut numbers = Vec::new();
    // Relative to the size of possible rounding errors, since a product of vectors at right angles is 0.
    let mut number = |name: String, ours: f64, theirs: f64, size: f64| {
        numbers.push((name, (ours - theirs).abs() / size));
    };

    let weights = expected.stream.iter().map(|stream| {
        let net = Net::new(parameters, dtype, |position, parameter| {
            parameter
                .rule
                .values(stream + position as u64, &parameter.shape)
        })?;
        Ok(Weights::of(&net)?)
    });
    let weights = weights.collect::<Result<Vec<Weights>, Box<dyn Error>>>()?;
    let ones = Net::new(parameters, dtype, |_, it| {
        vec![1.0; it.shape.iter().product()]
    })?;
    let ones = Weights::of(&ones)?;

    for (i, a) in weights.iter().enumerate() {
        let elements = a.num_elements() as f64;
        number(
            format!("norm {i}"),
            a.norm()?,
            expected.norm[i],
            expected.norm[i],
        );
        let mean = a.dot(&ones)? / elements;
        number(
            format!("mean {i}"),
            mean,
            expected.mean[i],
            expected.norm[i] / elements.sqrt(),
        );
        for (j, b) in weights.iter().enumerate().skip(i) {
            let name = format!("dot.{i}.{j}");
            let theirs = expected.rest.get(&name).and_then(serde_json::Value::as_f64);
            let theirs = theirs.ok_or_else(|| format!("the file has no {name}"))?;
            number(
                format!("dot {i} {j}"),
                a.dot(b)?,
                theirs,
                expected.norm[i] * expected.norm[j],
            );
        }
    }
    let [w0, w1, w2, w3] = weights.as_slice() else {
        return Err(format!("expected four vectors, got {}", weights.len()).into());
    };
    let distance = expected.distance_0_1;
    number("distance".into(), w0.distance(w1)?, distance, distance);
    let cosine = w0.dot(w1)? / (w0.norm()? * w1.norm()?);
    number("cosine".into(), cosine, expected.cosine_0_1, 1.0);

    let plane = Plane::through(w0, w1, w2)?;
    number("plane dx".into(), plane.dx, expected.dx, expected.dx);
    number("plane dy".into(), plane.dy, expected.dy, expected.dy);
    vector("basis.u", &plane.u)?;
    vector("basis.v", &plane.v)?;
    for (k, point) in weights.iter().enumerate() {
        for (axis, ours) in plane.coordinates(point)?.into_iter().enumerate() {
            let theirs = expected.coordinates[k][axis];
            number(format!("coordinate {k} {axis}"), ours, theirs, expected.dx);
        }
    }
    let [x, y] = plane.coordinates(w3)?;
    let height = w3.distance(&plane.point(x, y)?)?;
    let theirs = expected.distance_to_plane_of_3;
    number(
        "plane's distance from a fourth".into(),
        height,
        theirs,
        theirs,
    );
    for PlanePoint {
        tensor,
        alpha,
        beta,
    } in &expected.plane_points
    {
        vector(tensor, &plane.point(alpha * plane.dx, beta * plane.dy)?)?;
    }

    for ray in &expected.rays {
        let noise = noise(ray.stream, parameters, dtype)?;
        let direction = noise.normalised()?;
        vector(&ray.direction, &direction)?;
        vector(&ray.tensor, &w0.axpy(ray.t, &direction)?)?;
        let filtered = ray.direction.replace("direction", "filter_normalised");
        vector(&filtered, &noise.filter_normalised(w0)?)?;
    }
    for Line { tensor, t } in &expected.lines {
        vector(tensor, &w0.clone().lerp(w1, *t)?)?;
    }
    for (name, deviation) in numbers {
        comparisons.note(name, deviation, allowed);
    }
    Ok(comparisons)
}

/// A plane through three points: its origin, and an orthonormal basis, by Gram and Schmidt.
struct Plane {
    origin: Weights,
    u: Weights,
    v: Weights,
    dx: f64,
    dy: f64,
}

impl Plane {
    fn through(w0: &Weights, w1: &Weights, w2: &Weights) -> Result<Self, WeightsError> {
        let u = w1.axpy(-1.0, w0)?;
        let (dx, u) = (u.norm()?, u.normalised()?);
        let v = w2.axpy(-1.0, w0)?;
        let v = v.axpy(-u.dot(&v)?, &u)?;
        let (dy, v) = (v.norm()?, v.normalised()?);
        let origin = w0.clone();
        Ok(Self {
            origin,
            u,
            v,
            dx,
            dy,
        })
    }

    fn point(&self, x: f64, y: f64) -> Result<Weights, WeightsError> {
        Weights::combine(&[(1.0, &self.origin), (x, &self.u), (y, &self.v)])
    }

    fn coordinates(&self, point: &Weights) -> Result<[f64; 2], WeightsError> {
        let from_origin = point.axpy(-1.0, &self.origin)?;
        Ok([from_origin.dot(&self.u)?, from_origin.dot(&self.v)?])
    }
}

/// Uniform numbers from one stream, over all parameters.
fn noise(stream: u64, parameters: &[Parameter], dtype: DType) -> Result<Weights, Box<dyn Error>> {
    let elements = |parameter: &Parameter| parameter.shape.iter().product::<usize>();
    let all = uniform(stream, parameters.iter().map(elements).sum(), 2.0, 0.0);
    let net = Net::new(parameters, dtype, |position, parameter| {
        let before: usize = parameters[..position].iter().map(elements).sum();
        all[before..before + elements(parameter)].to_vec()
    })?;
    Ok(Weights::of(&net)?)
}

/// The whole vector, in the order of the file's parameters.
fn flat(weights: &Weights, parameters: &[Parameter]) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut all = Vec::new();
    for Parameter { name, .. } in parameters {
        let parameter = weights.parameter(name);
        all.extend(values(
            parameter.ok_or_else(|| format!("no parameter {name}"))?,
        ));
    }
    Ok(all)
}

/// Members of an ensemble, and the scores of their predictions.
#[derive(Debug, Deserialize)]
struct Ensembles {
    items: usize,
    classes: usize,
    width: f64,
    help: f64,
    stream: Vec<u64>,
    label_stream: u64,
    single: Vec<Expected>,
    mean_of_softmax: Vec<Expected>,
    softmax_of_mean_logits: Expected,
    mean_of_softmax_f32: Expected,
    weights: Vec<f64>,
    weighted: Expected,
    /// Mean confidence, accuracy and share of the items.
    reliability_swag_20: Vec<[f64; 3]>,
    first_item: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Expected {
    accuracy: f64,
    nll: f64,
    brier: f64,
    entropy: f64,
    ece_swag_20: f64,
    ece_even_20: f64,
    ece_even_15: f64,
}

/// A model whose logits are its parameters.
#[derive(Module, Debug)]
struct Fixed {
    logits: Param<Tensor<2>>,
}

#[test]
fn weight_space_ensembles_agree_with_the_papers_scores() {
    let vectors = vectors::read_json::<Ensembles>("weight_space/ensembles.json").unwrap();
    let comparisons = compare_ensembles(&vectors).unwrap();
    println!("{}", comparisons.summary());
    comparisons.finish().unwrap();
}

fn compare_ensembles(expected: &Ensembles) -> Result<Comparisons, Box<dyn Error>> {
    let mut comparisons = Comparisons::default();
    let members: Vec<Vec<f64>> = expected.logits();
    let evaluate = |members: &[Vec<f64>], weights: Option<Vec<f64>>, bins: usize| {
        let config = EnsembleConfig::new().with_bins(bins).with_weights(weights);
        expected.evaluate(&config, members)
    };

    for bins in [15, 20] {
        let report = evaluate(&members, None, bins)?;
        let alone = expected.single.iter().zip(&expected.mean_of_softmax);
        for (scores, (single, mean)) in report.members.iter().zip(alone) {
            let place = scores.member;
            single.compare_scores(
                &mut comparisons,
                &format!("alone {place}"),
                &scores.alone,
                bins,
            );
            mean.compare_scores(
                &mut comparisons,
                &format!("mean {place}"),
                &scores.ensemble,
                bins,
            );
        }
        let counted = (report.members.len(), expected.mean_of_softmax.len());
        assert_eq!(counted, (members.len(), members.len()));
        let weighted = evaluate(&members, Some(expected.weights.clone()), bins)?;
        let scores = &weighted.members.last().ok_or("no member")?.ensemble;
        expected
            .weighted
            .compare_scores(&mut comparisons, "weighted", scores, bins);
    }

    for (at, mean) in expected.mean_of_softmax.iter().enumerate() {
        let report = evaluate(&members[..=at], None, 15)?;
        mean.compare_others(
            &mut comparisons,
            &format!("mean {}", at + 1),
            &report.probabilities,
        );
    }
    for (at, single) in expected.single.iter().enumerate() {
        let report = evaluate(&members[at..=at], None, 15)?;
        single.compare_others(
            &mut comparisons,
            &format!("alone {}", at + 1),
            &report.probabilities,
        );
    }
    let weighted = evaluate(&members, Some(expected.weights.clone()), 15)?;
    expected
        .weighted
        .compare_others(&mut comparisons, "weighted", &weighted.probabilities);

    let report = evaluate(&members, None, 15)?;
    let first = &report.probabilities.values()[..expected.classes];
    comparisons.note(
        "first item",
        relative_l2(first, &expected.first_item),
        FLOAT64,
    );
    let (_, rows) = swag_calibration(&report.probabilities, 20);
    let (rows, theirs) = (rows.concat(), expected.reliability_swag_20.concat());
    comparisons.note("reliability swag", relative_l2(&rows, &theirs), FLOAT64);
    let in_f32 = &expected.mean_of_softmax_f32;
    let scores = &report.members.last().ok_or("no member")?.ensemble;
    comparisons.note(
        "float32 nll",
        (scores.nll / in_f32.nll - 1.0).abs(),
        FLOAT32,
    );
    comparisons.note(
        "float32 brier",
        (scores.brier / in_f32.brier - 1.0).abs(),
        FLOAT32,
    );

    let sums = (0..members[0].len()).map(|at| members.iter().map(|it| it[at]).sum::<f64>());
    let mean: Vec<f64> = sums.map(|sum| sum / members.len() as f64).collect();
    let report = evaluate(&[mean], None, 15)?;
    let theirs = &expected.softmax_of_mean_logits;
    theirs.compare_scores(
        &mut comparisons,
        "of mean logits",
        &report.members[0].alone,
        15,
    );
    theirs.compare_others(&mut comparisons, "of mean logits", &report.probabilities);
    Ok(comparisons)
}

impl Ensembles {
    fn labels(&self) -> Vec<i64> {
        let bits = bits(self.label_stream, self.items);
        bits.map(|bits| (bits % self.classes as u64) as i64)
            .collect()
    }

    /// The logits of each member: uniform, but for the help at the label.
    fn logits(&self) -> Vec<Vec<f64>> {
        let labels = self.labels();
        let member = |stream: &u64| {
            let raw = uniform(*stream, self.items * self.classes, self.width, 0.0);
            let mut logits: Vec<f64> = raw.into_iter().map(f64::from).collect();
            for (row, label) in logits.chunks_exact_mut(self.classes).zip(&labels) {
                let value = &mut row[*label as usize];
                *value = f64::from((*value + self.help) as f32);
            }
            logits
        };
        self.stream.iter().map(member).collect()
    }

    /// Evaluates members in batches, the last of them shorter.
    fn evaluate(
        &self,
        config: &EnsembleConfig,
        members: &[Vec<f64>],
    ) -> Result<EnsembleReport, Box<dyn Error>> {
        let device = Device::flex();
        let labels = self.labels();
        let members = members.iter().map(|logits| {
            let data = TensorData::new(logits.clone(), [self.items, self.classes]);
            let logits = Tensor::from_data(data, (&device, DType::F64));
            Fixed {
                logits: Param::from_tensor(logits),
            }
        });
        let batches = || (0..self.items).step_by(64);
        let forward = |model: &Fixed, start: usize| {
            let items = start..self.items.min(start + 64);
            let labels = Tensor::<1, Int>::from_data(&labels[items.clone()], &device);
            (model.logits.val().slice(items), labels)
        };
        Ok(evaluate_ensemble(config, members, batches, forward)?)
    }
}

impl Expected {
    fn compare_scores(&self, comparisons: &mut Comparisons, of: &str, ours: &Scores, bins: usize) {
        let ece = if bins == 20 {
            self.ece_even_20
        } else {
            self.ece_even_15
        };
        for (score, ours, theirs) in [
            ("accuracy", ours.accuracy, self.accuracy),
            ("nll", ours.nll, self.nll),
            ("brier", ours.brier, self.brier),
            ("ece", ours.ece, ece),
        ] {
            comparisons.note(format!("{score} {of}"), (ours - theirs).abs(), FLOAT64);
        }
    }

    /// Compares what probabilities give by formulas that are not in the crate.
    fn compare_others(&self, comparisons: &mut Comparisons, of: &str, ours: &Probabilities) {
        let (ece, _) = swag_calibration(ours, 20);
        comparisons.note(
            format!("ece_swag {of}"),
            (ece - self.ece_swag_20).abs(),
            FLOAT64,
        );
        let terms = ours.values().iter().map(|p| -(p + 1e-12).ln() * p);
        let entropy = terms.sum::<f64>() / ours.labels().len() as f64;
        comparisons.note(
            format!("entropy {of}"),
            (entropy - self.entropy).abs(),
            FLOAT64,
        );
    }
}

/// The calibration error of the SWAG paper's code (`save_calibration_curves.py`), and its bins of equal counts: mean confidence,
/// accuracy, share. Items on an edge count nowhere.
fn swag_calibration(probabilities: &Probabilities, bins: usize) -> (f64, Vec<[f64; 3]>) {
    let rows = probabilities.values().chunks_exact(probabilities.classes());
    let items = rows.zip(probabilities.labels()).map(|(row, label)| {
        let confidence = row.iter().copied().fold(0.0, f64::max);
        let predicted = row.iter().position(|p| *p == confidence);
        (confidence, f64::from(u8::from(predicted == Some(*label))))
    });
    let items: Vec<(f64, f64)> = items.collect();
    let mut sorted: Vec<f64> = items.iter().map(|(confidence, _)| *confidence).collect();
    sorted.sort_by(f64::total_cmp);
    let step = items.len().div_ceil(bins);
    let mut edges: Vec<f64> = sorted.iter().copied().step_by(step).collect();
    if items.len() % step != 1 {
        edges.extend(sorted.last());
    }
    let mut curve = Vec::new();
    for edges in edges.windows(2) {
        let is_inside = |item: &&(f64, f64)| edges[0] < item.0 && item.0 < edges[1];
        let inside: Vec<_> = items.iter().filter(is_inside).collect();
        if !inside.is_empty() {
            let count = inside.len() as f64;
            let confidence = inside.iter().map(|it| it.0).sum::<f64>() / count;
            let accuracy = inside.iter().map(|it| it.1).sum::<f64>() / count;
            curve.push([confidence, accuracy, count / items.len() as f64]);
        }
    }
    let gaps = curve
        .iter()
        .map(|[confidence, accuracy, share]| (confidence - accuracy).abs() * share);
    (gaps.sum(), curve)
}
