//! Training with SWA in Burn's `Learner` computes what PyTorch computes: the losses of ten SGD steps, the weights of the
//! live model, of their mean and of their exponential average, and BatchNorm's statistics, re-estimated in three ways.
//!
//! `cargo test --release --test training_parity -- --nocapture` prints the deviations.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::lr_scheduler::constant::ConstantLr;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{SgdConfig, momentum::MomentumConfig};
use burn::tensor::Device;
use burn::train::metric::LossMetric;
use burn::train::{Learner, SupervisedTraining};
use burn_swa_test_support::parameters::{Values, values};
use burn_swa_test_support::renderer::Recorder;
use burn_swa_tests::batch_norm::{correction, values_per_image};
use burn_swa_tests::batches::{Batches, images};
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::named_tensors::{tensors, with_scaled_variances};
use burn_swa_tests::network::network;
use burn_swa_tests::vectors::{self, Description, Training, Vectors};
use swa_lab::run::classifier::Classifier;
use swa_models::Network;
use swa_train::{
    Collect, Pooling, ReestimationConfig, RuleConfig, RunLength, RunningStatistics, Swa, SwaConfig,
};

/// Float32 itself deviates by at most 1.2e-4 from float64 here.
const ALLOWED: f64 = 10.0 * 1.2e-4;

/// The largest relative deviation of one parameter's norm; the vectors' tolerance is for all norms as one vector. With
/// another seed and twice the steps, PyTorch's own float32 rounding moves one by 1.3e-3.
const SINGLE_NORM: f64 = 1e-2;

/// The ways to pool BatchNorm's statistics, by their names in the files.
const WAYS: [(Pooling, &str); 3] = [
    (Pooling::Equal, "bn_torch"),
    (Pooling::WeightedBySize, "bn_paper"),
    (Pooling::Exact, "bn_pooled"),
];

#[test]
fn training_with_swa_agrees_with_pytorch() {
    let files = vectors::files("training_").expect("there are vectors");
    let mut failures = Vec::new();
    for file in &files {
        if let Err(error) = compare_file(file) {
            failures.push(format!("{}: {error}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn compare_file(file: &Path) -> Result<(), Box<dyn Error>> {
    let vectors = Vectors::read(file)?;
    let mut comparisons = Comparisons::default();
    for (pooling, way) in WAYS {
        let trained = train(&vectors.description, RuleConfig::EqualWeights, pooling)?;
        if pooling == Pooling::Exact {
            compare_weights(&mut comparisons, &vectors, "live", &trained.live)?;
            compare_weights(&mut comparisons, &vectors, "swa", &trained.averaged)?;
            let deviation = relative_l2(&trained.losses, vectors.tensor("losses")?);
            comparisons.note("losses", deviation, ALLOWED);
        }
        compare_batch_norm(&mut comparisons, &vectors, pooling, way, &trained)?;
    }
    let decay = training_of(&vectors.description)?.ema_decay;
    let ema = train(
        &vectors.description,
        RuleConfig::exponential(decay),
        Pooling::Exact,
    )?;
    compare_weights(&mut comparisons, &vectors, "ema", &ema.averaged)?;

    let lost = if statistics_are_lost(&vectors) {
        ", the peers' statistics lost in the file and compared by their logits"
    } else {
        ""
    };
    println!(
        "{}{lost}: {}",
        vectors.description.model,
        comparisons.summary()
    );
    comparisons.finish()
}

fn training_of(description: &Description) -> Result<&Training, Box<dyn Error>> {
    let training = description.training.as_ref();
    training.ok_or_else(|| "the file does not say how the network was trained".into())
}

/// The results of a training: tensors by PyTorch's names, and logits of the averaged model with unbiased variances.
struct Trained {
    losses: Vec<f64>,
    live: Values,
    averaged: Values,
    logits: Vec<f64>,
}

fn train(
    description: &Description,
    rule: RuleConfig,
    pooling: Pooling,
) -> Result<Trained, Box<dyn Error>> {
    let network = network(description, &Device::flex().autodiff())?;
    let training = training_of(description)?;
    let batches = |index: u64, sizes: &[usize]| -> Result<_, Box<dyn Error>> {
        Ok(Arc::new(Batches {
            stream: description.seed * 4096 + 4010 + 2 * index,
            sizes: sizes.to_vec(),
            classes: description.classes()?,
            device: Device::flex(),
        }))
    };
    let run = RunLength::new(1, training.step_sizes.len())?;
    let collect = Collect::from_step(training.averaged_from_step, &run)?;
    let reestimation = ReestimationConfig::new().with_pooling(pooling);
    let swa = SwaConfig::new(collect)
        .with_rule(rule)
        .with_running_statistics(RunningStatistics::Reestimated(reestimation))
        .init(
            Classifier::new(network, Arc::default()),
            batches(100, &training.bn_batch_sizes)?,
        )?;
    let optimizer = SgdConfig::new()
        .with_momentum(Some(
            MomentumConfig::new()
                .with_momentum(training.momentum)
                .with_dampening(0.0),
        ))
        .with_weight_decay(Some(WeightDecayConfig::new(training.weight_decay as f32)))
        .init();

    let (folder, recorder) = (tempfile::tempdir()?, Recorder::default());
    let result = SupervisedTraining::new(
        folder.path(),
        batches(0, &training.step_sizes)?,
        batches(200, &[4])?,
    )
    .renderer(Box::new(recorder.clone()))
    .metrics((LossMetric::new(),))
    .with_application_logger(None)
    .num_epochs(1)
    .launch(Learner::new(swa, optimizer, ConstantLr::new(training.lr)));
    if let Some(error) = result.error {
        return Err(error.to_string().into());
    }
    let swa: Swa<Classifier<Network>> = result.model;

    let mut losses = recorder.training("Loss");
    // The last value is the mean of the epoch.
    losses.pop();
    let live = tensors(&swa.live().clone().into_network());
    let averaged = swa.averaged_model()?.into_network();
    let statistics = tensors(&averaged);
    let counts = counts(description)?;
    let unbiased = with_scaled_variances(averaged, |layer| {
        variance_correction(pooling, &counts[layer])
    });
    let stream = description.seed * 4096 + 4010 + 2 * 200;
    Ok(Trained {
        losses,
        live,
        averaged: statistics,
        logits: values(unbiased.forward(images(stream, 4, &Device::flex()))),
    })
}

/// For every BatchNorm layer, the number of values of a channel in each batch of the re-estimation.
fn counts(description: &Description) -> Result<BTreeMap<String, Vec<usize>>, Box<dyn Error>> {
    let sizes = &training_of(description)?.bn_batch_sizes;
    let layers = description.entries.iter();
    let layers = layers.filter_map(|entry| entry.name.strip_suffix(".running_var"));
    let counts = layers.map(|layer| {
        let per_image = values_per_image(description, layer)?;
        let counts = sizes.iter().map(|size| size * per_image);
        Ok((layer.to_owned(), counts.collect()))
    });
    counts.collect()
}

/// The factor from the biased variance of all batches to PyTorch's unbiased one.
///
/// PyTorch's two ways pool the unbiased variances of batches. This pools their factors instead. The difference is the product
/// of two small numbers: the differences between the factors and between the variances.
fn variance_correction(pooling: Pooling, counts: &[usize]) -> f64 {
    let total: usize = counts.iter().sum();
    let factors = counts.iter().map(|count| correction(*count));
    match pooling {
        Pooling::Exact => correction(total),
        Pooling::Equal => factors.sum::<f64>() / counts.len() as f64,
        Pooling::WeightedBySize => {
            let weighted = factors
                .zip(counts)
                .map(|(factor, count)| factor * *count as f64);
            weighted.sum::<f64>() / total as f64
        }
    }
}

fn compare_weights(
    comparisons: &mut Comparisons,
    vectors: &Vectors,
    which: &str,
    ours: &Values,
) -> Result<(), Box<dyn Error>> {
    let names = &vectors.description.parameters;
    let theirs = vectors.tensor(&format!("{which}.param_norms"))?;
    let mut norms = Vec::new();
    for name in names {
        let values = ours.get(name).ok_or(format!("no parameter {name}"))?;
        norms.push(values.iter().map(|value| value * value).sum::<f64>().sqrt());
    }
    let deviation = relative_l2(&norms, theirs);
    comparisons.note(format!("{which}_norms"), deviation, ALLOWED);
    for ((name, ours), theirs) in names.iter().zip(&norms).zip(theirs) {
        let what = format!("{which}_norm of {name}");
        comparisons.note(what, relative_l2(&[*ours], &[*theirs]), SINGLE_NORM);
    }
    let theirs = vectors.tensor(&format!("{which}.first_param"))?;
    let what = format!("{which}_first of {}", names[0]);
    comparisons.note(what, relative_l2(&ours[&names[0]], theirs), ALLOWED);
    Ok(())
}

fn compare_batch_norm(
    comparisons: &mut Comparisons,
    vectors: &Vectors,
    pooling: Pooling,
    way: &str,
    trained: &Trained,
) -> Result<(), Box<dyn Error>> {
    let theirs = vectors.tensor(&format!("{way}.logits"))?;
    let deviation = relative_l2(&trained.logits, theirs);
    comparisons.note(format!("{way}_logits"), deviation, ALLOWED);
    if pooling != Pooling::Exact && statistics_are_lost(vectors) {
        return Ok(());
    }

    // By their names in the files, with unbiased variances.
    let mut statistics = BTreeMap::new();
    for (layer, counts) in counts(&vectors.description)? {
        let correction = variance_correction(pooling, &counts);
        for (statistic, factor) in [("running_mean", 1.0), ("running_var", correction)] {
            let name = format!("{layer}.{statistic}");
            let ours = trained.averaged.get(&name).ok_or(format!("no {name}"))?;
            let ours: Vec<f64> = ours.iter().map(|value| value * factor).collect();
            let theirs = vectors.tensor(&format!("{way}.{name}"))?;
            comparisons.note(format!("{way} {name}"), relative_l2(&ours, theirs), ALLOWED);
            statistics.insert(name, ours);
        }
    }
    // In places, the ways differ by less than the tolerance. Over all, each has to be clearly closest to its own values.
    let far_from = |way: &str| -> Result<f64, Box<dyn Error>> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (name, values) in &statistics {
            ours.extend(values);
            theirs.extend(vectors.tensor(&format!("{way}.{name}"))?);
        }
        Ok(relative_l2(&ours, &theirs))
    };
    for (other, name) in WAYS {
        if other != pooling && !statistics_are_lost(vectors) && !statistics.is_empty() {
            let ratio = far_from(way)? / far_from(name)?;
            comparisons.note(format!("{way}_rather_than_{name}"), ratio, 0.5);
        }
    }
    Ok(())
}

/// Tells whether the file has the same pooled statistics three times. A first version of `make_parity.py` did not copy the
/// tensors, which the layers then changed. Its logits are right.
fn statistics_are_lost(vectors: &Vectors) -> bool {
    let of = |way: &str| -> Vec<_> {
        let statistics = vectors.tensors_under(way);
        statistics.filter(|(name, _)| *name != "logits").collect()
    };
    let pooled = of("bn_pooled.");
    !pooled.is_empty() && of("bn_torch.") == pooled
}
