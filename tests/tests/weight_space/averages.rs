//! The averages that peers' rules give, and means over windows.

use std::error::Error;

use burn::tensor::DType;
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, VectorsOf};
use serde::Deserialize;
use swa_train::swa_core::{Average, EqualWeights, PowerFunction, Weights, window_coefficients};

use super::network::{Net, Parameter, flat};
use super::peers::{Peer, Settings};
use super::{FLOAT32, FLOAT64};

#[derive(Debug, Deserialize)]
struct Averages {
    walk: Walk,
    after_update: Vec<usize>,
    rules: Vec<RuleOfPeer>,
}

#[derive(Debug, Deserialize)]
struct Walk {
    parameters: Vec<Parameter>,
    stream: u64,
    steps: usize,
    jitter: f64,
}

#[derive(Debug, Deserialize)]
struct RuleOfPeer {
    name: String,
    start: Start,
    config: serde_json::Value,
}

/// The values that an average holds before the first call.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Start {
    Initial,
    Zero,
    First,
    None,
}

/// The length of a window.
#[derive(Debug, Deserialize)]
struct Latest {
    k: usize,
}

#[test]
fn weight_space_averages_are_those_of_peers() {
    let file = vectors::folder().join("weight_space/ema_averages.safetensors");
    let vectors = VectorsOf::<Averages>::read(&file);
    let vectors = vectors.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for (dtype, allowed) in [(DType::F32, FLOAT32), (DType::F64, FLOAT64)] {
        let mut comparisons = Comparisons::default();
        for rule in &vectors.description.rules {
            let steps = vectors.description.walk.models(dtype).unwrap();
            let compared = if rule.start == Start::None {
                compare_window(&mut comparisons, &vectors, rule, &steps, allowed)
            } else {
                compare(&mut comparisons, &vectors, rule, &steps, allowed)
            };
            compared.unwrap_or_else(|error| panic!("{}: {error}", rule.name));
        }
        println!("{dtype:?}: {}", comparisons.summary());
        comparisons.finish().unwrap();
    }
}

fn compare(
    comparisons: &mut Comparisons,
    vectors: &VectorsOf<Averages>,
    rule: &RuleOfPeer,
    models: &[Net],
    allowed: f64,
) -> Result<(), Box<dyn Error>> {
    let settings: Settings = serde_json::from_value(rule.config.clone())?;
    let peer = Peer::of(&rule.name, &settings)?;
    let parameters = &vectors.description.walk.parameters;
    let mut average = Average::new(&models[0], peer.rule.init()?)?;
    if rule.name == "ema_pytorch_karras" {
        // The first call is its second update.
        average = average.with_rule(Late(PowerFunction::of_width(0.1)?));
    }
    if peer.begins_with_model {
        let weights = Weights::of(&models[0])?;
        let begins_at = match rule.start {
            Start::Zero => Weights::combine(&[(0.0, &weights)])?,
            _ => weights,
        };
        average = average.with_initial_average(&begins_at.put_into(&models[0])?, 1)?;
    }
    for (call, model) in models.iter().enumerate().skip(1) {
        let is_collected = call >= peer.first && peer.updates_before(call).is_some();
        if is_collected {
            average.update(model)?;
        }
        if vectors.description.after_update.contains(&call) {
            // A peer copies while nothing is collected, and so is the live model.
            let ours = if average.updates() == 0 {
                flat(&Weights::of(model)?, parameters)?
            } else {
                flat(average.weights(), parameters)?
            };
            let name = format!("{}.{call}", rule.name);
            let deviation = relative_l2(&ours, vectors.tensor(&name)?);
            comparisons.note(name, deviation, allowed);
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Late(PowerFunction);

impl swa_train::swa_core::AveragingRule for Late {
    fn weight(&self, updates: usize) -> f64 {
        self.0.weight(updates + 1)
    }
}

/// Compares the mean of the last `k` updates, found from two snapshots of the mean of all.
fn compare_window(
    comparisons: &mut Comparisons,
    vectors: &VectorsOf<Averages>,
    rule: &RuleOfPeer,
    models: &[Net],
    allowed: f64,
) -> Result<(), Box<dyn Error>> {
    let Latest { k } = serde_json::from_value(rule.config.clone())?;
    let parameters = &vectors.description.walk.parameters;
    let mut average = Average::new(&models[0], EqualWeights)?;
    let mut snapshots = vec![average.weights().clone()];
    for model in models.iter().skip(1) {
        average.update(model)?;
        snapshots.push(average.weights().clone());
    }
    for &upto in &vectors.description.after_update {
        let after = upto.saturating_sub(k);
        let [first, second] = window_coefficients(after, upto)?;
        let window = Weights::combine(&[(first, &snapshots[after]), (second, &snapshots[upto])])?;
        let name = format!("{}.{upto}", rule.name);
        let deviation = relative_l2(&flat(&window, parameters)?, vectors.tensor(&name)?);
        // The subtraction makes rounding errors this many times as large.
        let lost = (after + upto) as f64 / (upto - after) as f64;
        comparisons.note(format!("window {name}"), deviation, allowed * lost);
    }
    Ok(())
}

impl Walk {
    /// The model before the first step, and after each.
    fn models(&self, dtype: DType) -> Result<Vec<Net>, Box<dyn Error>> {
        let walks = self.parameters.iter().zip(0..);
        let walks = walks.map(|(parameter, position)| {
            let stream = self.stream + position;
            let rule = parameter.rule;
            rule.walk(stream, &parameter.shape, self.steps, self.jitter)
        });
        let walks: Vec<Vec<Vec<f32>>> = walks.collect();
        let models = (0..=self.steps).map(|step| {
            Net::new(&self.parameters, dtype, |position, _| {
                walks[position][step].clone()
            })
        });
        models.collect()
    }
}
