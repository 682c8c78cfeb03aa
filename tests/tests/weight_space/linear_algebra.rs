//! Arithmetic of weights gives what the papers' own formulas give: products, planes, rays and lines through the weights of a
//! module.

use std::collections::BTreeMap;
use std::error::Error;

use burn::tensor::DType;
use burn_swa_test_support::random::uniform;
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, VectorsOf};
use serde::Deserialize;
use swa_lab::report::contour_levels;
use swa_landscape::{GridConfig, Line as StraightLine, Plane, Points};
use swa_train::swa_core::Weights;

use super::network::{Net, Parameter, flat};
use super::{FLOAT32, FLOAT64};

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
    margin: f64,
    grid: usize,
    axis: Vec<f64>,
    plane_points: Vec<PlanePoint>,
    rays: Vec<Ray>,
    lines: Vec<Line>,
    distance_to_plane_of_3: f64,
    contours: Contours,
    /// Other entries, such as the products `dot.0.1`.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Contours {
    values_stream: u64,
    loss: Levels,
    error: Levels,
}

#[derive(Debug, Deserialize)]
struct Levels {
    vmax: f64,
    log_alpha: f64,
    count: usize,
    levels: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct PlanePoint {
    tensor: String,
    i: usize,
    j: usize,
    x: f64,
    y: f64,
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

#[test]
fn weight_space_contour_levels_are_those_of_plane_plot() {
    let file = vectors::folder().join("weight_space/linear_algebra.safetensors");
    let vectors = VectorsOf::<LinearAlgebra>::read(&file);
    let vectors = vectors.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let LinearAlgebra { contours, grid, .. } = &vectors.description;
    let values = uniform(contours.values_stream, grid * grid, 2.0, 0.0);
    let values = values
        .into_iter()
        .map(|value| f64::from(value).abs() * 4.0 + 0.1);
    let values: Vec<f64> = values.collect();
    for expected in [&contours.loss, &contours.error] {
        let levels = contour_levels(&values, expected.vmax, expected.log_alpha, expected.count);
        assert_eq!(levels.len(), expected.levels.len());
        for (level, expected) in levels.iter().zip(&expected.levels) {
            assert!(
                (level - expected).abs() <= 1e-13 * expected,
                "{level} and {expected}"
            );
        }
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

    let plane = Plane::through(w0.clone(), w1.clone(), w2.clone())?;
    let [dx, dy] = plane.extent();
    number("plane dx".into(), dx, expected.dx, expected.dx);
    number("plane dy".into(), dy, expected.dy, expected.dy);
    let [u, v] = plane.basis();
    vector("basis.u", u)?;
    vector("basis.v", v)?;
    let networks = plane.networks().iter().copied();
    let computed = weights.iter().map(|point| plane.coordinates(point));
    let computed = computed.collect::<Result<Vec<_>, _>>()?;
    for (k, ours) in networks.enumerate().chain(computed.into_iter().enumerate()) {
        for (axis, ours) in ours.into_iter().enumerate() {
            let theirs = expected.coordinates[k][axis];
            number(format!("coordinate {k} {axis}"), ours, theirs, expected.dx);
        }
    }
    let theirs = expected.distance_to_plane_of_3;
    let ours = plane.distance(w3)?;
    number(
        "plane's distance from a fourth".into(),
        ours,
        theirs,
        theirs,
    );
    let grid = GridConfig::new()
        .with_margin(expected.margin)
        .with_points(expected.grid)
        .init(plane)?;
    assert_eq!(grid.axis().len(), expected.axis.len());
    for (k, (ours, theirs)) in grid.axis().iter().zip(&expected.axis).enumerate() {
        number(format!("axis {k}"), *ours, *theirs, 1.0);
    }
    let coordinates = grid.coordinates();
    assert_eq!(coordinates.len(), expected.grid * expected.grid);
    for PlanePoint { tensor, i, j, x, y } in &expected.plane_points {
        let at = coordinates[i * expected.grid + j];
        number(format!("grid {i} {j} x"), at[0], *x, expected.dx);
        number(format!("grid {i} {j} y"), at[1], *y, expected.dx);
        vector(tensor, &grid.weights(at)?)?;
    }

    for ray in &expected.rays {
        let noise = noise(ray.stream, parameters, dtype)?;
        let direction = noise.normalised()?;
        vector(&ray.direction, &direction)?;
        vector(&ray.tensor, &w0.axpy(ray.t, &direction)?)?;
        let filtered = ray.direction.replace("direction", "filter_normalised");
        vector(&filtered, &noise.filter_normalised(w0)?)?;
    }
    let line = StraightLine::between(w0.clone(), w1.clone())?;
    number(
        "distance of a line's ends".into(),
        line.distance(),
        distance,
        distance,
    );
    for Line { tensor, t } in &expected.lines {
        vector(tensor, &line.weights(*t)?)?;
    }
    for (name, deviation) in numbers {
        comparisons.note(name, deviation, allowed);
    }
    Ok(comparisons)
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
