//! Ensembles of predictions have the papers' scores.

use std::error::Error;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_swa_test_support::random::{bits, uniform};
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors;
use serde::Deserialize;
use swa_train::swa_core::{
    EnsembleConfig, EnsembleReport, Probabilities, Scores, evaluate_ensemble,
};

use super::{FLOAT32, FLOAT64};

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
