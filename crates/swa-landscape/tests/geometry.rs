//! Planes, grids, rays and lines: their points, the order of their evaluation, and what is wrong with what a user gives.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{floats, mapped, scaled, values};
use burn_swa_test_support::points::{Batch, loader};
use burn_swa_test_support::random::uniform;
use swa_landscape::swa_core::{ReestimationConfig, Weights};
use swa_landscape::{
    Barrier, CurveConfig, CurvePath, CurveShape, Directions, Evaluation, Grid, GridConfig,
    LandscapeError, Line, OnRay, PathStatistics, Plane, Points, Rays, RaysConfig, Scored,
};

/// The network with other weights, from this stream on.
fn net(stream: u64) -> Net {
    let mut next = stream;
    mapped(Net::new(), |path, old| {
        next += 1;
        if path.contains("running") {
            return old;
        }
        let new = uniform(next, old.dims()[0], 1.0, 0.2);
        Tensor::from_floats(new.as_slice(), &old.device())
    })
}

fn weights(stream: u64) -> Weights {
    Weights::of(&net(stream)).unwrap()
}

fn plane() -> Plane {
    Plane::through(weights(0), weights(100), weights(200)).unwrap()
}

fn rays(config: RaysConfig) -> Rays {
    config.init(weights(0)).unwrap()
}

fn close(got: f64, expected: f64) {
    let off = (got - expected).abs();
    assert!(
        off < 1e-5 * expected.abs().max(1.0),
        "{got}, expected {expected}"
    );
}

fn batches() -> Vec<Batch> {
    loader().iter().map(Result::unwrap).collect()
}

/// The scores of a model: its loss, and the sum of all that it holds, running statistics too.
fn score(model: &Net) -> [f64; 2] {
    let losses = batches().into_iter().map(|batch| {
        let output = model.forward(batch.input);
        let loss = burn::nn::loss::CrossEntropyLossConfig::new().init(&output.device());
        loss.forward(output, batch.targets).into_scalar::<f64>()
    });
    let sum = floats(model).into_values().flatten().sum();
    [losses.sum(), sum]
}

fn forward(model: &Net, batch: Batch) -> usize {
    let samples = batch.input.dims()[0];
    model.forward(batch.input.autodiff());
    samples
}

fn evaluation(model: &Net) -> Evaluation<'_, Net> {
    let config = ReestimationConfig::new().with_first_batches(Some(2));
    Evaluation::new(model, &config, batches, forward).unwrap()
}

fn all<P: Points>(points: &P) -> Vec<Scored<P::At, 2>> {
    let model = net(7);
    let mut evaluation = evaluation(&model);
    let scores = evaluation.scores(points, |_| None, score);
    scores.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_plane_passes_its_networks_and_has_right_angles() {
    let plane = plane();
    let [u, v] = plane.basis();
    close(u.norm().unwrap(), 1.0);
    close(v.norm().unwrap(), 1.0);
    close(u.dot(v).unwrap(), 0.0);
    for (at, stream) in plane.networks().iter().zip([0, 100, 200]) {
        let network = weights(stream);
        close(plane.point(*at).unwrap().distance(&network).unwrap(), 0.0);
        close(plane.distance(&network).unwrap(), 0.0);
    }
    // Pythagoras: from the origin, along the plane, and up.
    let other = weights(300);
    let ([x, y], up) = (
        plane.coordinates(&other).unwrap(),
        plane.distance(&other).unwrap(),
    );
    let far = other.distance(&weights(0)).unwrap();
    close(x * x + y * y + up * up, far * far);
}

#[test]
fn a_random_direction_makes_a_plane_with_two_networks() {
    let plane = Plane::through_random(weights(0), weights(100), 5).unwrap();
    let [u, v] = plane.basis();
    close(u.dot(v).unwrap(), 0.0);
    let distance = weights(0).distance(&weights(100)).unwrap();
    close(plane.extent()[0], distance);
    close(plane.extent()[1], distance);
    close(plane.distance(&weights(100)).unwrap(), 0.0);
    let again = Plane::through_random(weights(0), weights(100), 5).unwrap();
    close(again.basis()[1].distance(v).unwrap(), 0.0);
    let other = Plane::through_random(weights(0), weights(100), 6).unwrap();
    assert!(other.basis()[1].distance(v).unwrap() > 0.1);
}

#[test]
fn directions_are_the_same_for_all_networks_and_counts() {
    for kind in [Directions::Uniform, Directions::FilterNormalised] {
        let config = RaysConfig::new(3.0).with_kind(kind).with_directions(4);
        let (few, first) = (
            rays(config.clone()),
            rays(config.clone().with_directions(9)),
        );
        // In another order, so that each is drawn anew.
        let direction = few.direction(2).unwrap();
        first.direction(0).unwrap();
        assert_eq!(flat(&first.direction(2).unwrap()), flat(&direction));
        assert_ne!(flat(&first.direction(3).unwrap()), flat(&direction));
        let other = rays(config.clone().with_seed(1));
        assert_ne!(flat(&other.direction(2).unwrap()), flat(&direction));
        let of_another = config.init(weights(100)).unwrap().direction(2).unwrap();
        let same = flat(&of_another) == flat(&direction);
        assert_eq!(same, kind == Directions::Uniform);
    }
}

fn flat(weights: &Weights) -> Vec<f64> {
    let parameters = weights.layout().parameters().iter();
    let values_of = |path: &str| values(weights.parameter(path).unwrap());
    parameters.flat_map(|it| values_of(&it.path)).collect()
}

#[test]
fn filters_of_rays_are_as_long_as_those_of_the_network() {
    let layer: Linear = LinearConfig::new(3, 2).init(&Device::flex());
    let config = RaysConfig::new(1.0).with_kind(Directions::FilterNormalised);
    let weights = Weights::of(&layer).unwrap();
    let direction = config.init(weights.clone()).unwrap().direction(0).unwrap();
    // A linear layer's weight is [in, out]: columns are filters.
    let (ours, theirs) = (flat(&direction), flat(&weights));
    for column in 0..2 {
        let length = |all: &[f64]| (0..3).map(|row| all[2 * row + column].powi(2)).sum::<f64>();
        close(length(&ours), length(&theirs));
    }
    assert_eq!(ours[6..], [0.0, 0.0]);
}

#[test]
fn points_on_rays_are_symmetric_and_at_their_distance() {
    for points in [2, 5, 21] {
        let rays = rays(RaysConfig::new(7.3).with_directions(2).with_points(points));
        let all = rays.coordinates();
        assert_eq!(all.len(), 2 * points);
        for (place, OnRay { direction, t }) in all.iter().copied().enumerate() {
            assert_eq!(direction, place / points);
            let opposite = all[direction * points + points - 1 - place % points].t;
            assert_eq!(t, -opposite);
        }
        assert_eq!((all[0].t, all[points - 1].t), (-7.3, 7.3));
        let far = rays.weights(all[points]).unwrap();
        close(far.distance(&weights(0)).unwrap(), 7.3);
    }
}

#[test]
fn the_order_of_points_does_not_change_a_bit_of_a_score() {
    let grid = GridConfig::new().with_points(3).init(plane()).unwrap();
    let forwards = all(&grid);
    // One at a time, from the last one on, and the others known.
    let model = net(7);
    for expected in forwards.iter().rev() {
        let mut evaluation = evaluation(&model);
        let known: BTreeMap<usize, [f64; 2]> = forwards
            .iter()
            .filter(|it| it.index != expected.index)
            .map(|it| (it.index, it.score))
            .collect();
        let mut evaluated = 0;
        let count = |model: &Net| {
            evaluated += 1;
            score(model)
        };
        let points = evaluation.scores(&grid, |index| known.get(&index).copied(), count);
        assert_eq!(points.len(), 9);
        let points = points.collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(evaluated, 1);
        for (point, other) in points.iter().zip(&forwards) {
            assert_eq!(point.score.map(f64::to_bits), other.score.map(f64::to_bits));
            assert_eq!(point.is_new, point.index == expected.index);
        }
    }
}

#[test]
fn batch_norm_of_a_point_is_that_of_its_weights_alone() {
    let plane = plane();
    let corner = plane.networks()[1];
    let grid = GridConfig::new().with_margin(0.0).with_points(2);
    let points = all(&grid.init(plane).unwrap());
    let expected = {
        // Re-estimated without a landscape.
        let config = ReestimationConfig::new().with_first_batches(Some(2));
        let (model, _) =
            swa_landscape::swa_core::reestimate_batch_norm(&net(100), &config, batches(), forward)
                .unwrap();
        score(&model)
    };
    let at = points.iter().find(|it| it.at == [corner[0], 0.0]).unwrap();
    close(at.score[0], expected[0]);
    close(at.score[1], expected[1]);
}

#[test]
fn kept_statistics_are_those_of_the_first_network() {
    let of_first = |model: &Net| -> BTreeMap<String, Vec<f64>> {
        let mut all = floats(model);
        all.retain(|path, _| path.contains("running"));
        all
    };
    let first = mapped(net(0), |path, values| {
        if path.contains("running") {
            values.add_scalar(0.5)
        } else {
            values
        }
    });
    let (expected, of_end) = (of_first(&first), of_first(&net(100)));
    let line = Line::between(Weights::of(&first).unwrap(), weights(100)).unwrap();
    let line = line.with_points(3).unwrap();
    let model = net(7);
    let mut evaluation = Evaluation::with_statistics_kept(&model);
    let mut seen = Vec::new();
    let look = |model: &Net| {
        seen.push(of_first(model));
        [0.0]
    };
    assert_eq!(evaluation.scores(&line, |_| None, look).count(), 3);
    // The second network comes as it is.
    assert_eq!(seen, [expected.clone(), expected, of_end]);
}

#[test]
fn a_nan_is_a_gap_and_not_an_end() {
    let line = Line::between(weights(0), weights(100)).unwrap();
    let line = line.with_points(5).unwrap();
    let model = net(7);
    let mut evaluation = evaluation(&model);
    let mut point = 0;
    let score = |_: &Net| {
        point += 1;
        [if point == 2 { f64::NAN } else { 1.0 }]
    };
    let points = evaluation.scores(&line, |_| None, score);
    let points = points.collect::<Result<Vec<_>, _>>().unwrap();
    let gaps = points.iter().filter(|it| it.is_gap()).map(|it| it.index);
    assert_eq!(gaps.collect::<Vec<_>>(), [1]);

    // So far out that BatchNorm's statistics overflow.
    let far = rays(RaysConfig::new(1e38).with_directions(1).with_points(3));
    let points = all(&far);
    assert_eq!(points.iter().filter(|it| it.is_gap()).count(), 2);
    assert!(!points[1].is_gap());
}

#[test]
fn an_error_of_a_score_names_its_point_and_others_follow() {
    let line = Line::between(weights(0), weights(100)).unwrap();
    let line = line.with_points(3).unwrap();
    let model = net(7);
    let mut point = 0;
    let score = |_: &Net| -> Result<[f64; 1], String> {
        point += 1;
        if point == 2 {
            Err("no data".into())
        } else {
            Ok([1.0])
        }
    };
    let mut evaluation = evaluation(&model);
    let points: Vec<_> = evaluation.scores(&line, |_| None, score).collect();
    let error = points[1].as_ref().unwrap_err().to_string();
    assert_eq!(error, "point 1 could not be scored: no data");
    assert!(points[2].is_ok());
}

#[test]
fn a_barrier_is_the_height_above_the_line_between_the_ends() {
    let line = Line::between(weights(0), weights(100)).unwrap();
    let line = line.with_points(5).unwrap();
    let barrier = |scores: [f64; 5]| -> Barrier { line.barrier(&scores).unwrap() };
    // Between 1 and 3, the line is at 1.5, 2 and 2.5.
    let found = barrier([1.0, 2.5, 2.75, 2.0, 3.0]);
    assert_eq!((found.height, found.t, found.gaps), (1.0, 0.25, 0));
    let below = barrier([1.0, 1.0, 1.0, 1.0, 3.0]);
    assert_eq!((below.height, below.t), (0.0, 0.0));
    let with_gaps = barrier([1.0, f64::NAN, 2.75, f64::INFINITY, 3.0]);
    assert_eq!(
        (with_gaps.height, with_gaps.t, with_gaps.gaps),
        (0.75, 0.5, 2)
    );
    assert!(barrier([f64::NAN, 1.0, 1.0, 1.0, 3.0]).height.is_nan());
    let error = line.barrier(&[1.0, 2.0]).unwrap_err().to_string();
    assert_eq!(
        error,
        "there are 2 scores of a line, expected 5: one for each point, in order"
    );
}

#[test]
fn statistics_of_a_path_leave_gaps_out() {
    // By hand: steps of 1, 2 and 3 between 4, 2, 6 and 1.
    let found = PathStatistics::of(&[4.0, 2.0, 6.0, 1.0], &[1.0, 2.0, 3.0]).unwrap();
    assert_eq!(
        (found.smallest, found.largest, found.mean),
        (1.0, 6.0, 3.25)
    );
    assert_eq!(
        (found.integral, found.length, found.gaps),
        (21.5 / 6.0, 6.0, 0)
    );
    // Without the third point, the step of 1 alone has a score at both ends.
    let found = PathStatistics::of(&[4.0, 2.0, f64::NAN, 1.0], &[1.0, 2.0, 3.0]).unwrap();
    assert_eq!((found.smallest, found.largest, found.gaps), (1.0, 4.0, 1));
    assert_eq!((found.integral, found.length), (3.0, 6.0));
    let found = PathStatistics::of(&[f64::NAN; 2], &[1.0]).unwrap();
    assert!(found.mean.is_nan() && found.largest.is_nan() && found.integral.is_nan());
}

#[test]
fn distances_on_a_path_are_those_of_its_points() {
    for shape in [CurveShape::Bezier, CurveShape::PolygonalChain] {
        let points = [0, 100, 200, 300].map(weights).to_vec();
        let path = CurvePath::through(shape, points)
            .unwrap()
            .with_points(8)
            .unwrap();
        let on_path = path
            .coordinates()
            .into_iter()
            .map(|t| path.weights(t).unwrap());
        let on_path: Vec<Weights> = on_path.collect();
        let distances = path.distances().unwrap();
        assert_eq!(distances.len(), 7);
        for (pair, distance) in on_path.windows(2).zip(distances) {
            close(pair[0].distance(&pair[1]).unwrap(), distance);
        }
    }
}

#[derive(Module, Debug)]
struct Masked {
    weight: Param<Tensor<1>>,
    mask: Param<Tensor<1>>,
}

#[test]
fn an_infinite_mask_stays_along_a_curve() {
    let masked = |value: f32| {
        let module = Masked {
            weight: Param::from_data([value, 1.0], &Device::flex()),
            mask: Param::from_data([f32::NEG_INFINITY, 0.0], &Device::flex()),
        };
        Weights::of(&module).unwrap()
    };
    for shape in [CurveShape::Bezier, CurveShape::PolygonalChain] {
        let path = CurvePath::through(shape, [1.0, 2.0, 4.0].map(masked).to_vec()).unwrap();
        for t in [0.0, 0.25, 0.5, 1.0] {
            let mask = path.weights(t).unwrap().parameter("mask").unwrap();
            assert_eq!(values(mask), [f64::NEG_INFINITY, 0.0]);
        }
    }
}

fn message<T>(result: Result<T, LandscapeError>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{message}");
            message
        }
    }
}

#[test]
fn networks_that_differ_are_told_with_the_parameter() {
    let without = || Weights::of(&Net::new().without_batch_norm()).unwrap();
    let error = message(Plane::through(weights(0), weights(100), without()));
    assert!(
        error.starts_with("the third network is unlike the first: "),
        "{error}"
    );
    assert!(error.contains("`norm.gamma`"), "{error}");
    for error in [
        message(Line::between(weights(0), without())),
        message(Plane::through(weights(0), without(), weights(100))),
        message(CurvePath::through(
            CurveShape::Bezier,
            vec![weights(0), without()],
        )),
        message(CurveConfig::new().init(&Net::new(), &Net::new().without_batch_norm())),
    ] {
        assert!(
            error.starts_with("the second network is unlike the first: "),
            "{error}"
        );
        assert!(error.contains("`norm.gamma`"), "{error}");
    }
    let error = message(plane().coordinates(&without()));
    assert!(error.contains("`norm.gamma`"), "{error}");
    let other = Net::new().without_batch_norm();
    let line = Line::between(weights(0), weights(100)).unwrap();
    let mut evaluation = Evaluation::with_statistics_kept(&other);
    let mut scores = evaluation.scores(&line, |_| None, |_: &Net| [0.0]);
    let error = message(scores.next().unwrap());
    assert!(error.contains("`norm.gamma`"), "{error}");
}

#[test]
fn networks_without_a_plane_line_or_curve_are_refused() {
    let between = weights(0).lerp(&weights(100), 0.3).unwrap();
    let error = message(Plane::through(weights(0), weights(100), between));
    assert!(
        error.contains("from the line through the first two"),
        "{error}"
    );
    for error in [
        message(Plane::through(weights(0), weights(0), weights(100))),
        message(Plane::through_random(weights(0), weights(0), 0)),
        message(Line::between(weights(0), weights(0))),
        message(CurveConfig::new().init(&net(0), &net(0))),
    ] {
        assert!(error.contains("are 0e0 apart"), "{error}");
    }
    let diverged = || Weights::of(&scaled(net(3), f64::NAN)).unwrap();
    let error = message(Line::between(weights(0), diverged()));
    assert!(error.contains("second network holds a NaN"), "{error}");
    let error = message(Plane::through(weights(0), weights(100), diverged()));
    assert!(error.contains("third network holds a NaN"), "{error}");
    let error = message(RaysConfig::new(1.0).init(diverged()));
    assert!(error.contains("first network holds a NaN"), "{error}");
    let frozen = (net(0).no_grad(), net(100).no_grad());
    let error = message(CurveConfig::new().init(&frozen.0, &frozen.1));
    assert!(error.contains("nothing to train"), "{error}");
}

#[test]
fn settings_without_a_point_are_refused() {
    let grid = |config: GridConfig| -> Result<Grid, LandscapeError> { config.init(plane()) };
    let error = message(grid(GridConfig::new().with_points(1)));
    assert_eq!(
        error,
        "the number of a grid's points along an axis must be at least 2, one for each end, not 1"
    );
    for margin in [-0.1, f64::NAN, f64::INFINITY] {
        message(grid(GridConfig::new().with_margin(margin)));
    }
    let from = |config: RaysConfig| config.init(weights(0));
    for radius in [0.0, -1.0, f64::NAN] {
        message(from(RaysConfig::new(radius)));
    }
    let error = message(from(RaysConfig::new(1.0).with_directions(0)));
    assert_eq!(error, "the number of directions must be at least 1, not 0");
    message(from(RaysConfig::new(1.0).with_points(1)));
    let line = Line::between(weights(0), weights(100)).unwrap();
    message(line.with_points(1));
    message(CurveConfig::new().with_bends(0).init(&net(0), &net(100)));
    let config = CurveConfig::new().with_weight_decay(-1.0);
    message(config.init(&net(0), &net(100)));
    let config = ReestimationConfig::new().with_first_batches(Some(0));
    let model = net(0);
    message(Evaluation::new(&model, &config, batches, forward));
}
