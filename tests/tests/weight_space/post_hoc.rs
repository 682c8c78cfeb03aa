//! Widths of power-function averages, and averages of other widths put together from snapshots.

use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, Rule};
use serde::Deserialize;
use swa_train::swa_core::{AveragingRule, PowerFunction, Profile, post_hoc_coefficients};

use super::FLOAT64;

/// The tolerance of coefficients, as in the vectors' README.
const COEFFICIENTS: f64 = 1e-10;

#[derive(Debug, Deserialize)]
struct Edm2 {
    walk: Walk,
    conversions: Vec<Conversion>,
    snapshots: Vec<Snapshot>,
    reconstructions: Vec<Reconstruction>,
    profile: WeightOfUpdates,
}

#[derive(Debug, Deserialize)]
struct Walk {
    parameters: Vec<Parameter>,
    stream: u64,
    steps: usize,
    jitter: f64,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    shape: Vec<usize>,
    rule: Rule,
}

#[derive(Debug, Deserialize)]
struct Conversion {
    std: f64,
    gamma: f64,
}

#[derive(Debug, Deserialize)]
struct Snapshot {
    step: usize,
    std: f64,
    value: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Reconstruction {
    step: usize,
    std: f64,
    snapshots: Vec<(usize, f64)>,
    coefficients: Vec<f64>,
    result: Vec<f64>,
    direct: Vec<f64>,
    relative_error: f64,
}

#[derive(Debug, Deserialize)]
struct WeightOfUpdates {
    std: f64,
    steps: usize,
    weight_of_update: Vec<f64>,
}

fn vectors() -> Edm2 {
    vectors::read_json("weight_space/edm2.json").unwrap()
}

#[test]
fn weight_space_widths_have_the_profiles_of_edm2() {
    let Edm2 {
        conversions,
        profile,
        ..
    } = vectors();
    let mut comparisons = Comparisons::default();
    for Conversion { std, gamma } in conversions {
        let rule = PowerFunction::of_width(std).unwrap();
        let deviation = (rule.gamma() / gamma - 1.0).abs();
        comparisons.note(format!("gamma {std}"), deviation, FLOAT64);
    }
    let rule = PowerFunction::of_width(profile.std).unwrap();
    let mut kept = 1.0;
    let weights = (0..profile.steps).rev().map(|update| {
        let weight = rule.weight(update);
        let counts = weight * kept;
        kept *= 1.0 - weight;
        counts
    });
    let mut weights: Vec<f64> = weights.collect();
    weights.reverse();
    let deviation = relative_l2(&weights, &profile.weight_of_update);
    comparisons.note("profile", deviation, FLOAT64);
    comparisons.finish().unwrap();
}

#[test]
fn weight_space_snapshots_give_averages_of_other_widths() {
    let edm2 = vectors();
    let mut comparisons = Comparisons::default();
    // The walk, averaged by the crate's rule.
    for snapshot in &edm2.snapshots {
        let ours = edm2.walk.averaged(snapshot.std, snapshot.step);
        let deviation = relative_l2(&ours, &snapshot.value);
        comparisons.note(
            format!("snapshot {} {}", snapshot.std, snapshot.step),
            deviation,
            FLOAT64,
        );
    }
    let profiles = edm2.snapshots.iter();
    let profiles = profiles.map(|it| Profile::of_width(it.std, it.step).unwrap());
    let profiles: Vec<Profile> = profiles.collect();
    for expected in &edm2.reconstructions {
        let name = format!("{} {}", expected.std, expected.step);
        let target = Profile::of_width(expected.std, expected.step).unwrap();
        let found = post_hoc_coefficients(&profiles, target).unwrap();
        // Those of later snapshots are 0, and not among the expected ones.
        let theirs = edm2.snapshots.iter().map(|snapshot| {
            let of = (snapshot.step, snapshot.std);
            let place = expected.snapshots.iter().position(|it| *it == of);
            place.map_or(0.0, |place| expected.coefficients[place])
        });
        let deviations = found.coefficients.iter().zip(theirs);
        let deviation = deviations
            .map(|(ours, theirs)| (ours - theirs).abs())
            .fold(0.0, f64::max);
        comparisons.note(format!("coefficients {name}"), deviation, COEFFICIENTS);

        let mut put_together = vec![0.0; expected.result.len()];
        for (coefficient, snapshot) in found.coefficients.iter().zip(&edm2.snapshots) {
            for (sum, value) in put_together.iter_mut().zip(&snapshot.value) {
                *sum += coefficient * value;
            }
        }
        let deviation = relative_l2(&put_together, &expected.result);
        comparisons.note(format!("result {name}"), deviation, COEFFICIENTS);
        // As near to the average that had this width from the start as EDM2's is.
        let deviation = relative_l2(&put_together, &expected.direct);
        let allowed = expected.relative_error * (1.0 + 1e-6) + COEFFICIENTS;
        comparisons.note(format!("direct {name}"), deviation, allowed);
        println!(
            "width {name}: profile deviates by {:.1e}, weights by {:.1e}",
            found.deviation, deviation
        );
    }
    println!("{}", comparisons.summary());
    comparisons.finish().unwrap();
}

impl Walk {
    /// The average of this width after `steps` steps.
    fn averaged(&self, width: f64, steps: usize) -> Vec<f64> {
        let rule = PowerFunction::of_width(width).unwrap();
        let walks = self.parameters.iter().zip(0..);
        let averages = walks.flat_map(|(parameter, position)| {
            let stream = self.stream + position;
            let walk = parameter
                .rule
                .walk(stream, &parameter.shape, self.steps, self.jitter);
            let elements = walk[0].len();
            (1..=steps).fold(vec![0.0; elements], |average, step| {
                let weight = rule.weight(step - 1);
                let values = average.iter().zip(&walk[step]);
                values
                    .map(|(average, value)| average + weight * (f64::from(*value) - average))
                    .collect()
            })
        });
        averages.collect()
    }
}
