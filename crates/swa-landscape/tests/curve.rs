//! A curve between two trained networks, in Burn's `Learner`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::store::ModuleRecord;
use burn::tensor::{Device, Tensor};
use burn::train::metric::LossMetric;
use burn::train::{
    ExecutionStrategy, InferenceStep, Learner, LearnerModel, LearningResult, MultiDeviceOptim,
    SupervisedTraining, TrainStep,
};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::parameters::{
    Values, floats, is_running_statistic, mapped, values, weights,
};
use burn_swa_test_support::points::{Batch, loader};
use burn_swa_test_support::renderer::Recorder;
use swa_landscape::swa_core::{ReestimationConfig, Weights, reestimate_batch_norm};
use swa_landscape::{Curve, CurveConfig, CurveShape, Evaluation, Line, Points};

fn learner<M: LearnerModel>(model: M, rate: f64) -> Learner<M> {
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    Learner::new(model, optimizer, rate)
}

fn training<M>(directory: &Path, epochs: usize) -> SupervisedTraining<M>
where
    M: LearnerModel + TrainStep<Input = Batch> + InferenceStep<Input = Batch>,
{
    SupervisedTraining::new(directory, loader(), loader())
        .renderer(Box::new(Recorder::default()))
        .with_application_logger(None)
        .num_epochs(epochs)
}

/// Two trained networks, whose hidden units are in opposite orders, so that the straight line between them leads over a barrier.
fn ends() -> [Net; 2] {
    let train = |model: Net| {
        let directory = tempfile::tempdir().unwrap();
        training(directory.path(), 60)
            .launch(learner(model, 0.1))
            .model
    };
    let other = mapped(Net::new().valid(), |path, values| {
        if path.ends_with("weight") {
            values.flip([0]).mul_scalar(-1.3)
        } else {
            values
        }
    });
    [train(Net::new()), train(other.train())]
}

/// Two networks that were not trained: enough where only the ways of a training are looked at.
fn untrained() -> [Net; 2] {
    let other = mapped(Net::new(), |path, values| {
        if path.ends_with("weight") {
            values.flip([0])
        } else {
            values
        }
    });
    [Net::new(), other]
}

fn curve_of(config: &CurveConfig, ends: &[Net; 2]) -> Curve<Net> {
    config.init(&ends[0], &ends[1]).unwrap()
}

fn batches() -> Vec<Batch> {
    loader().iter().map(Result::unwrap).collect()
}

fn losses<P: Points>(points: &P) -> Vec<f64> {
    let model = Net::new();
    let forward = |model: &Net, batch: Batch| {
        let samples = batch.input.dims()[0];
        model.forward(batch.input.autodiff());
        samples
    };
    let config = ReestimationConfig::new();
    let evaluation = Evaluation::new(&model, &config, batches, forward);
    let mut evaluation = evaluation.unwrap();
    let scores = evaluation.scores(points, |_| None, |model: &Net| [loss(model)]);
    scores.map(|point| point.unwrap().score[0]).collect()
}

fn loss(model: &Net) -> f64 {
    let mut items = 0;
    let losses = batches().into_iter().map(|batch| {
        let count = batch.input.dims()[0];
        items += count;
        let output = InferenceStep::step(model, batch);
        output.loss.into_scalar::<f64>() * count as f64
    });
    let sum: f64 = losses.sum();
    sum / items as f64
}

/// The bends of a curve: all floats but running statistics.
fn bends(curve: &Curve<Net>) -> Values {
    weights(curve)
}

fn ids(module: &impl Module) -> Vec<ParamId> {
    #[derive(Default)]
    struct Ids {
        is_statistic: bool,
        ids: Vec<ParamId>,
    }
    impl ModuleVisitor for Ids {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.is_statistic = is_running_statistic(name);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !self.is_statistic {
                self.ids.push(param.id);
            }
        }
    }
    let mut found = Ids::default();
    module.visit(&mut found);
    found.ids
}

#[test]
fn a_trained_curve_is_lower_in_its_middle_than_the_line() {
    let ends = ends();
    let held = ends.each_ref().map(floats);
    for shape in [CurveShape::Bezier, CurveShape::PolygonalChain] {
        let config = CurveConfig::new().with_shape(shape);
        let curve = curve_of(&config, &ends);
        let before = curve.path().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let trained = training(directory.path(), 60)
            .launch(learner(curve, 0.05))
            .model;
        assert_eq!(trained.steps(), 60 * 5);
        assert!(trained.failure().is_none());

        let path = trained.path().unwrap();
        let [start, end] = ends.each_ref().map(|end| Weights::of(end).unwrap());
        let line = Line::between(start.clone(), end.clone()).unwrap();
        let (along, straight) = (losses(&path), losses(&line));
        println!("{shape:?}: {:?}", path.statistics(&along).unwrap());
        println!("line: {:?}", line.barrier(&straight).unwrap());
        // Before the training, the curve is the line.
        assert!((losses(&before)[30] - straight[30]).abs() < 1e-4);
        assert!(
            straight[30] > 1.5 * along[30],
            "{} {}",
            straight[30],
            along[30]
        );
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        assert!(mean(&along) < mean(&straight));

        // The ends are the networks that were given, which have not changed.
        let points = path.points();
        assert_eq!(points[0].distance(&start).unwrap(), 0.0);
        assert_eq!(points[2].distance(&end).unwrap(), 0.0);
        assert_eq!(ends.each_ref().map(floats), held);
        assert!((along[0] - straight[0]).abs() < 1e-6);
        assert!((along[60] - straight[60]).abs() < 1e-6);
    }
}

#[test]
fn parameters_are_the_bends_with_ids_of_their_own() {
    let ends = untrained();
    let curve = curve_of(&CurveConfig::new().with_bends(2), &ends);
    let all = ids(&curve);
    let of_ends = ends.iter().flat_map(ids);
    let distinct: HashSet<ParamId> = all.iter().copied().chain(of_ends).collect();
    let a_network = ids(&ends[0]).len();
    assert_eq!(all.len(), 2 * a_network);
    // Two networks made alike have ids of their own too.
    assert_eq!(distinct.len(), 4 * a_network);
    let paths: Vec<String> = bends(&curve).into_keys().collect();
    assert!(
        paths
            .iter()
            .all(|path| path.starts_with("bends.0.") || path.starts_with("bends.1."))
    );

    // The optimizer holds momentum for as many tensors.
    let batch = batches().remove(0);
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let output = TrainStep::step(&curve, batch);
    assert_eq!(output.grads.len(), all.len());
    let trained = curve.optimize(&mut optimizer, 0.1.into(), output.grads);
    assert_eq!(ids(&trained), all);
    assert_eq!(optimizer.to_record().len(), all.len());
}

#[test]
fn a_step_leaves_no_statistics_behind() {
    let ends = untrained();
    let curve = curve_of(&CurveConfig::new(), &ends);
    let statistics = |curve: &Curve<Net>| -> BTreeMap<String, Vec<f64>> {
        let middle = curve.path().unwrap().weights(0.5).unwrap();
        let mut all = floats(&middle.put_into(&ends[0]).unwrap());
        all.retain(|path, _| is_running_statistic(path));
        all
    };
    let before = statistics(&curve);
    let batches = batches();
    let gradient = |t: f64, batch: &Batch| {
        let output = curve.step_at(t, batch.clone()).unwrap();
        let loss = values(output.item.loss.inner());
        loss[0]
    };
    let first = gradient(0.3, &batches[0]);
    gradient(0.9, &batches[1]);
    assert_eq!(gradient(0.3, &batches[0]), first);
    assert_eq!(statistics(&curve), before);
    assert_eq!(statistics(&curve.valid()), before);
}

/// The bends after a training of `epochs`, resumed from the checkpoint of epoch `from`.
fn trained(
    config: &CurveConfig,
    directory: &Path,
    epochs: usize,
    from: Option<usize>,
    accumulation: Option<usize>,
) -> LearningResult<Curve<Net>> {
    let curve = curve_of(config, &untrained());
    let mut training = training(directory, epochs).with_default_checkpointers();
    if let Some(from) = from {
        training = training.checkpoint(from);
    }
    if let Some(count) = accumulation {
        training = training.grads_accumulation(count);
    }
    training.launch(learner(curve, 0.1))
}

#[test]
fn a_resumed_curve_is_the_same_to_the_bit() {
    for accumulation in [None, Some(2)] {
        let config = CurveConfig::new().with_bends(2).with_seed(9);
        let whole = tempfile::tempdir().unwrap();
        let whole = trained(&config, whole.path(), 6, None, accumulation).model;
        let parts = tempfile::tempdir().unwrap();
        trained(&config, parts.path(), 3, None, accumulation);
        let resumed = trained(&config, parts.path(), 6, Some(3), accumulation).model;
        let steps = if accumulation.is_some() { 18 } else { 30 };
        assert_eq!((whole.steps(), resumed.steps()), (steps, steps));
        assert_eq!(bends(&resumed), bends(&whole));
        // Another seed draws other points.
        let other = tempfile::tempdir().unwrap();
        let other = trained(&config.with_seed(8), other.path(), 6, None, accumulation).model;
        assert_ne!(bends(&other), bends(&whole));
    }
}

#[test]
fn every_batch_has_a_point_of_its_own() {
    let curve = curve_of(&CurveConfig::new(), &untrained());
    let batch: Batch = batches().remove(0);
    let loss = |curve: &Curve<Net>| {
        let output = TrainStep::step(curve, batch.clone());
        values(output.item.loss.inner())[0]
    };
    // A clone goes on where its step is, as accumulation clones the model.
    let drawn = [loss(&curve), loss(&curve.clone()), loss(&curve)];
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2]);
    let again = curve_of(&CurveConfig::new(), &untrained());
    assert_eq!(drawn, [loss(&again), loss(&again), loss(&again)]);

    // At a rate of 0, the next step has the same bends, and other points.
    let mut optimizer = SgdConfig::new().init();
    let gradients = TrainStep::step(&again, batch.clone()).grads;
    let next = again.optimize(&mut optimizer, 0.0.into(), gradients);
    let later = [loss(&next), loss(&next), loss(&next)];
    assert!(drawn.iter().all(|loss| !later.contains(loss)));
}

#[test]
fn a_curve_trains_on_several_devices_at_once() {
    let ends = ends();
    let devices = vec![Device::flex().autodiff(), Device::flex().autodiff()];
    let strategy = ExecutionStrategy::multi(devices, MultiDeviceOptim::OptimMainDevice);
    let directory = tempfile::tempdir().unwrap();
    let training = training(directory.path(), 60).with_training_strategy(strategy.into());
    let curve = curve_of(&CurveConfig::new(), &ends);
    let middle = |curve: &Curve<Net>| losses(&curve.path().unwrap())[30];
    let before = middle(&curve);
    let trained = training.launch(learner(curve, 0.05)).model;
    assert_eq!(trained.steps(), 60 * 3);
    let after = middle(&trained);
    assert!(before > 1.5 * after, "{before} {after}");
}

#[test]
fn validation_shows_the_network_in_the_middle() {
    let ends = untrained();
    let curve = curve_of(&CurveConfig::new(), &ends).with_reestimation(|middle| {
        let forward = |model: &Net, batch: Batch| {
            let samples = batch.input.dims()[0];
            model.forward(batch.input.autodiff());
            samples
        };
        let config = ReestimationConfig::new();
        Ok(reestimate_batch_norm(middle, &config, batches(), forward)?.0)
    });
    let path = curve.path().unwrap().with_points(3).unwrap();
    let expected = losses(&path)[1];
    let directory = tempfile::tempdir().unwrap();
    let recorder = Recorder::default();
    let training = training(directory.path(), 1)
        .metrics((LossMetric::new(),))
        .renderer(Box::new(recorder.clone()));
    // A rate of 0, so that the middle stays where it is.
    training.launch(learner(curve, 0.0));
    let shown = recorder.validation("Loss");
    // Of five batches, and the last once more at the end of the epoch (Burn 0.22.1).
    assert_eq!(shown.len(), 6);
    let sizes = [16.0, 16.0, 16.0, 16.0, 6.0];
    let sum: f64 = shown
        .iter()
        .zip(sizes)
        .map(|(loss, size)| loss * size)
        .sum();
    assert!((sum / 70.0 - expected).abs() < 1e-5, "{sum} {expected}");
}

#[test]
fn a_failed_validation_stops_the_training_and_is_told() {
    let curve = curve_of(&CurveConfig::new(), &untrained()).with_reestimation(|middle| {
        let none = std::iter::empty::<Batch>();
        let config = ReestimationConfig::new();
        Ok(reestimate_batch_norm(middle, &config, none, |_, _| 0)?.0)
    });
    let directory = tempfile::tempdir().unwrap();
    let training = training(directory.path(), 5);
    let curve = curve.with_interrupter(training.interrupter());
    let result = training.launch(learner(curve, 0.1));
    assert_eq!(result.model.steps(), 5);
    let reason = result.interrupted.unwrap().reason.unwrap();
    assert!(reason.contains("needs data"), "{reason}");
    let failure = result.model.failure().unwrap().to_string();
    assert!(reason.ends_with(&failure), "{failure}");
}

#[test]
fn records_of_other_curves_are_refused() {
    let ends = untrained();
    let record = |curve: Curve<Net>| -> ModuleRecord { curve.into_record() };
    let config = CurveConfig::new();
    let [start, end] = &ends;
    let refused = |curve: Curve<Net>, record: ModuleRecord| {
        curve.try_load_record(record).unwrap_err().to_string()
    };
    let curve = || curve_of(&config, &ends);
    assert!(curve().try_load_record(record(curve())).is_ok());

    let third = mapped(Net::new(), |_, values| values.mul_scalar(1.5));
    let other = config.init(start, &third).unwrap();
    let error = refused(curve(), record(other));
    assert!(
        error.contains("whose second network has other weights"),
        "{error}"
    );
    let turned = config.init(end, start).unwrap();
    let error = refused(curve(), record(turned));
    assert!(
        error.contains("whose first network has other weights"),
        "{error}"
    );
    let chain = config.clone().with_shape(CurveShape::PolygonalChain);
    let error = refused(curve(), record(curve_of(&chain, &ends)));
    assert!(error.contains("is of a polygonal chain"), "{error}");
    let error = refused(
        curve(),
        record(curve_of(&config.clone().with_bends(2), &ends)),
    );
    assert!(error.contains("bends.1"), "{error}");
    let error = refused(curve(), ends[0].clone().into_record());
    assert!(error.contains("bends.0"), "{error}");
}

#[test]
fn frozen_parameters_of_the_networks_stay() {
    let freeze = |net: Net| net.freeze_group(burn::module::ParamGroup::from_predicate("norm"));
    let ends = untrained().map(freeze);
    let curve = curve_of(&CurveConfig::new(), &ends);
    let before = bends(&curve);
    let directory = tempfile::tempdir().unwrap();
    let after = bends(
        &training(directory.path(), 2)
            .launch(learner(curve, 0.1))
            .model,
    );
    for (path, values) in before {
        let is_frozen = path.contains("norm");
        assert_eq!(after[&path] == values, is_frozen, "{path}");
    }
}
