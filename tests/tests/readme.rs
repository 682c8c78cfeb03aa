//! The lines of the READMEs that turn averaging on are lines of this file, which compiles.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::optim::ModuleOptimizer;
use burn::tensor::{Int, Tensor};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{ClassificationOutput, InferenceStep, TrainStep};
use burn::train::{Learner, LearnerModel, LearningResult, SupervisedTraining};
use rand::SeedableRng;
use rand::rngs::StdRng;
use swa_landscape::{Curve, CurveConfig, Line, RaysConfig};
use swa_models::PreResNet;
use swa_store::{Checkpoints, MemberFiles};
use swa_train::swa_core::{
    self, Covariance, EnsembleConfig, Profile, ReestimationConfig, Weights, evaluate_ensemble,
    post_hoc_coefficients,
};
use swa_train::{
    AverageConfig, Collect, CyclicalLrSchedulerConfig, PaperLrSchedulerConfig, RuleConfig,
    RunLength, Swa, SwaConfig,
};

type Loader = Arc<dyn DataLoader<Tensor<4>>>;

#[allow(dead_code, reason = "that it compiles is the test")]
fn swa<M>(
    model: M,
    (train_loader, valid_loader): (Loader, Loader),
    optimizer: ModuleOptimizer,
    dir: &Path,
    (epochs, batch_size): (usize, usize),
) -> Result<M, Box<dyn Error>>
where
    M: LearnerModel
        + TrainStep<Input = Tensor<4>, Output = ClassificationOutput>
        + InferenceStep<Input = Tensor<4>, Output = ClassificationOutput>,
{
    use swa_train::{Collect, PaperLrSchedulerConfig, RunLength, SwaConfig};

    let run = RunLength::of_loader(epochs, &train_loader, batch_size)?;
    let collect = Collect::from_epoch(161, &run)?;
    let learning_rate = PaperLrSchedulerConfig::swa(0.05, 0.01, &collect).init()?;

    let training = SupervisedTraining::new(dir, train_loader.clone(), valid_loader)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .with_default_checkpointers()
        .num_epochs(epochs);
    let swa = SwaConfig::new(collect)
        .init(model, train_loader)?
        .with_interrupter(training.interrupter());
    let result = training.launch(Learner::new(swa, optimizer, learning_rate));
    let model = result.model.averaged_model()?;
    Ok(model)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn ema<M: LearnerModel>(
    model: M,
    training: SupervisedTraining<swa_train::Swa<M>>,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
) -> Result<M, Box<dyn Error>> {
    use swa_train::SwaConfig;

    let ema = SwaConfig::ema(0.999).init_without_data(model)?;
    let result = training.launch(Learner::new(ema, optimizer, learning_rate));
    let model = result.model.averaged_model()?;
    Ok(model)
}

#[derive(Clone)]
struct Batch {
    images: Tensor<4>,
    labels: Tensor<1, Int>,
    len: usize,
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn core(
    (model, start, end): (PreResNet, PreResNet, PreResNet),
    (first, second, third): (Weights, Weights, Weights),
    train_loader: &Arc<dyn DataLoader<Batch>>,
) -> Result<PreResNet, Box<dyn Error>> {
    use swa_core::{Average, EqualWeights, ReestimationConfig, reestimate_batch_norm};

    let mut average = Average::new(&model, EqualWeights)?;
    average.update(&model)?;
    let config = ReestimationConfig::new();
    let (model, report) = reestimate_batch_norm(
        &average.model()?,
        &config,
        train_loader.iter(),
        |model, batch: Batch| {
            model.forward(batch.images);
            batch.len
        },
    )?;
    assert!(report.samples > 0);
    let halfway = Weights::of(&start)?
        .lerp(&Weights::of(&end)?, 0.5)?
        .put_into(&start)?;
    let soup = Weights::combine(&[(0.5, &first), (0.3, &second), (0.2, &third)])?;
    drop((soup, halfway));

    let mut rng = StdRng::seed_from_u64(1);
    let mut average = Average::new(&model, EqualWeights)?.with_deviations(20)?;
    average.update(&model)?;
    let sampled = average.sample(0.5, Covariance::Full, &mut rng)?;
    drop(sampled);
    Ok(model)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn ensemble(
    members: Vec<PreResNet>,
    test_loader: &Arc<dyn DataLoader<Batch>>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    use swa_core::{EnsembleConfig, evaluate_ensemble};
    type Net = PreResNet;

    let forward = |model: &Net, batch: Batch| (model.forward(batch.images), batch.labels);
    let report = evaluate_ensemble(
        &EnsembleConfig::new(),
        members,
        || test_loader.iter(),
        forward,
    )?;
    let losses: Vec<f64> = report
        .members
        .iter()
        .map(|first| first.ensemble.nll)
        .collect();
    Ok(losses)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn snapshots<M: LearnerModel>(
    (model, net): (M, PreResNet),
    training: SupervisedTraining<Swa<M>>,
    optimizer: ModuleOptimizer,
    run: RunLength,
    test_loader: &Arc<dyn DataLoader<Batch>>,
) -> Result<f64, Box<dyn Error>> {
    let cycles = CyclicalLrSchedulerConfig::snapshot(0.2, 5, &run)?;
    let files = MemberFiles::new("members");
    let snapshots = Swa::ensemble(model, cycles.collect(&run)?, files.clone())?;
    let result = training.launch(Learner::new(snapshots, optimizer, cycles.init()?));
    let members = result.model.members();

    let model = net;
    let forward = |model: &PreResNet, batch: Batch| (model.forward(batch.images), batch.labels);
    let members = members
        .iter()
        .map(|member| files.load(member, model.clone()));
    let report = evaluate_ensemble(
        &EnsembleConfig::new(),
        members,
        || test_loader.iter(),
        forward,
    )?;
    Ok(report.members[0].ensemble.nll)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn fge<M: LearnerModel>(
    model: M,
    optimizer: ModuleOptimizer,
    run: RunLength,
    files: &MemberFiles,
) -> Result<Learner<Swa<M>>, Box<dyn Error>> {
    let cycles = CyclicalLrSchedulerConfig::fge(0.05, 5e-4, 4, &run)?.from_epoch(161, &run)?;
    let schedule = cycles.init_after(PaperLrSchedulerConfig::sgd(0.05, run).init()?)?;
    let fge = Swa::ensemble(model, cycles.collect(&run)?, files.clone())?;
    Ok(Learner::new(fge, optimizer, schedule))
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn swag<M>(
    model: M,
    train_loader: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    collect: Collect,
    launch: impl FnOnce(Swa<M>) -> LearningResult<Swa<M>>,
) -> Result<M, Box<dyn Error>>
where
    M: LearnerModel,
    <M as InferenceStep>::Input: Clone,
{
    let mut rng = StdRng::seed_from_u64(1);
    let swag = SwaConfig::new(collect)
        .with_swag_rank(Some(20))
        .init(model, train_loader)?;
    let result = launch(swag);
    let sampled = result.model.sample(0.5, Covariance::Full, &mut rng)?;
    Ok(sampled)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn landscape(
    (sgd, swa, live): (PreResNet, PreResNet, PreResNet),
    (first, second): (PreResNet, PreResNet),
    train_loader: &Arc<dyn DataLoader<Batch>>,
    forward: impl Fn(&PreResNet, Batch) -> usize,
    [loss, error]: [fn(&PreResNet) -> f64; 2],
    known: &BTreeMap<usize, [f64; 2]>,
    losses: Vec<f64>,
) -> Result<f64, Box<dyn Error>> {
    use swa_landscape::{Evaluation, GridConfig, Plane};

    let plane = Plane::through(Weights::of(&sgd)?, Weights::of(&swa)?, Weights::of(&live)?)?;
    let grid = GridConfig::new().init(plane)?;
    let config = ReestimationConfig::new().with_first_batches(Some(16));
    let mut evaluation = Evaluation::new(&swa, &config, || train_loader.iter(), forward)?;
    for point in evaluation.scores(
        &grid,
        |index| known.get(&index).copied(),
        |model| [loss(model), error(model)],
    ) {
        let point = point?;
        println!("{:?} {:?}", point.at, point.score);
    }
    for solution in [&sgd, &swa] {
        let rays = RaysConfig::new(20.0).init(Weights::of(solution)?)?;
        let errors = evaluation.scores(&rays, |_| None, |model| [error(model)]);
        println!("{}", errors.len());
    }
    let line = Line::between(Weights::of(&first)?, Weights::of(&second)?)?;
    let barrier = line.barrier(&losses)?.height;
    Ok(barrier)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn curve<M: LearnerModel>(
    (first, second): (M, M),
    training: SupervisedTraining<Curve<M>>,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    losses: Vec<f64>,
) -> Result<f64, Box<dyn Error>> {
    let curve = CurveConfig::new()
        .with_weight_decay(5e-4)
        .init(&first, &second)?;
    let result = training.launch(Learner::new(curve, optimizer, learning_rate));
    let path = result.model.path()?;
    let statistics = path.statistics(&losses)?;
    Ok(statistics.integral)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn files(paths: &[std::path::PathBuf]) -> Result<(), Box<dyn Error>> {
    let files = Checkpoints::open(paths)?;
    files.last(5)?.uniform().write("averaged.safetensors")?;
    Ok(())
}

/// The code of a README, without comments and line breaks.
#[allow(dead_code, reason = "that it compiles is the test")]
fn after_training<M: LearnerModel>(
    model: M,
    run: RunLength,
    train_loader: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    trained: Swa<M>,
) -> Result<(), Box<dyn Error>>
where
    <M as InferenceStep>::Input: Clone,
{
    let (mut profiles, mut paths) = (Vec::new(), Vec::new());
    for (name, folder, width) in [("averaged", "narrow", 0.05), ("wide", "wide", 0.10)] {
        for snapshot in trained.snapshots(name)? {
            profiles.push(Profile::of_width(
                width,
                snapshot.updates.unwrap_or_default(),
            )?);
            paths.push(MemberFiles::new(folder).path(&snapshot));
        }
    }
    let found = post_hoc_coefficients(&profiles, Profile::of_width(0.15, trained.updates())?)?;
    Checkpoints::open(paths)?
        .weighted(&found.coefficients)?
        .write("width-0.15.safetensors")?;

    let power = |width| RuleConfig::PowerFunction { width };
    let wide = AverageConfig::new("wide".into(), Collect::every_step()).with_rule(power(0.10));
    let every_epoch = Collect::from_epoch(1, &run)?;
    let swa = SwaConfig::new(Collect::every_step())
        .with_rule(power(0.05))
        .with_further_averages(vec![wide])
        .init(model, train_loader)?
        .with_snapshots("averaged", every_epoch, MemberFiles::new("narrow"))?
        .with_snapshots("wide", every_epoch, MemberFiles::new("wide"))?;
    drop(swa);
    Ok(())
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn second_average<M: LearnerModel>(
    model: M,
    collect: Collect,
    run: RunLength,
    train_loader: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
) -> Result<(), Box<dyn Error>>
where
    <M as InferenceStep>::Input: Clone,
{
    let ema = AverageConfig::new("ema".into(), Collect::every_step())
        .with_rule(RuleConfig::exponential(0.99));
    let swa = SwaConfig::new(collect)
        .with_further_averages(vec![ema])
        .init(model, train_loader)?;
    let swa = swa.with_metrics_of(&["live", "ema"])?;
    drop(swa);

    let config = SwaConfig::new(collect).with_copied(vec!["backbone".into()]);
    let switch_ema = SwaConfig::ema(0.999).with_write_back(Some(Collect::from_epoch(1, &run)?));
    let _ = (config, switch_ema);
    Ok(())
}

fn statements(readme: &str) -> Vec<String> {
    let blocks = readme.split("```rust,ignore\n").skip(1);
    let code = blocks.map(|block| block.split("```").next().unwrap_or_default());
    let code: String = code.flat_map(str::lines).map(without_comment).collect();
    code.split_inclusive(';').map(str::to_owned).collect()
}

fn without_comment(line: &str) -> String {
    let code = line.split("//").next().unwrap_or_default();
    code.chars().filter(|char| !char.is_whitespace()).collect()
}

#[test]
fn the_code_of_the_readmes_is_code_of_this_file() {
    let here: String = include_str!("readme.rs")
        .lines()
        .map(without_comment)
        .collect();
    let here = here.replace(",)", ")");
    for readme in [
        include_str!("../../README.md"),
        include_str!("../../crates/swa-train/README.md"),
        include_str!("../../crates/swa-core/README.md"),
        include_str!("../../crates/swa-landscape/README.md"),
        include_str!("../../docs/methods.md"),
        include_str!("../../docs/landscape.md"),
        include_str!("../../docs/after-training.md"),
    ] {
        let statements = statements(readme);
        assert!(statements.len() > 4, "{statements:?}");
        for statement in statements {
            assert!(
                here.contains(&statement),
                "`{statement}` is not in this file"
            );
        }
    }
}
