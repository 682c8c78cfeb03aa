//! SWAG collects the moments and deviations of the authors' code, and draws its samples from the same noise.

use std::error::Error;

use burn::tensor::DType;
use burn_swa_test_support::parameters::values;
use burn_swa_test_support::random::uniform;
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, VectorsOf};
use serde::Deserialize;
use swa_train::swa_core::{Average, Covariance, EqualWeights, Weights};

use super::FLOAT64;
use super::network::{Net, Parameter, Walk, flat};

#[derive(Debug, Deserialize)]
struct Swag {
    walk: Walk,
    max_rank: usize,
    collected: Vec<usize>,
    samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    tensor: String,
    collected: usize,
    scale: f64,
    full: bool,
    z1_stream: u64,
    z2_stream: u64,
    z2_length: usize,
}

/// The tolerances: ten times the deviation of the authors' float32 from float64, as the vectors' README says.
struct Tolerances {
    moments: f64,
    deviations: f64,
    samples: f64,
}

#[test]
fn weight_space_swag_collects_and_samples_as_the_authors_code() {
    let file = vectors::folder().join("weight_space/swag.safetensors");
    let vectors = VectorsOf::<Swag>::read(&file);
    let vectors = vectors.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let float32 = Tolerances {
        moments: 1.7e-6,
        deviations: 8e-5,
        samples: 1e-4,
    };
    // The noise is in float32 in both. The spread that the authors' clamp leaves to a weight that never moved is 1e-15.
    let float64 = Tolerances {
        moments: FLOAT64,
        deviations: FLOAT64,
        samples: FLOAT64,
    };
    for (dtype, allowed) in [(DType::F32, float32), (DType::F64, float64)] {
        let comparisons = compare(&vectors, dtype, &allowed).unwrap();
        println!("{dtype:?}: {}", comparisons.summary());
        comparisons.finish().unwrap();
    }
}

fn compare(
    vectors: &VectorsOf<Swag>,
    dtype: DType,
    allowed: &Tolerances,
) -> Result<Comparisons, Box<dyn Error>> {
    let expected = &vectors.description;
    let walk = &expected.walk;
    let mut comparisons = Comparisons::default();
    let steps = walk.steps();
    let model = |step: usize| {
        Net::new(&walk.parameters, dtype, |position, _| {
            steps[position][step].clone()
        })
    };
    for &count in &expected.collected {
        let mut average = Average::new(&model(0)?, EqualWeights)?;
        average = average.with_deviations(expected.max_rank)?;
        for step in 1..=count {
            average.update(&model(step)?)?;
        }
        let variance = average.variance().ok_or("no variance")?;
        let deviations = average.deviations();
        assert_eq!(deviations.len(), count.min(expected.max_rank));
        for Parameter { name, .. } in &walk.parameters {
            let of = |weights: &Weights| -> Result<Vec<f64>, Box<dyn Error>> {
                let parameter = weights.parameter(name);
                Ok(values(parameter.ok_or_else(|| format!("no {name}"))?))
            };
            let mean = of(average.weights())?;
            let squares = mean.iter().zip(of(&variance)?);
            let squares: Vec<f64> = squares.map(|(mean, it)| mean * mean + it).collect();
            let rows = deviations.iter().map(of);
            let rows: Vec<Vec<f64>> = rows.collect::<Result<_, Box<dyn Error>>>()?;
            for (part, ours, allowed) in [
                ("mean", mean, allowed.moments),
                ("sq_mean", squares, allowed.moments),
                ("deviations", rows.concat(), allowed.deviations),
            ] {
                let theirs = vectors.tensor(&format!("{count}.{part}.{name}"))?;
                let deviation = relative_l2(&ours, theirs);
                comparisons.note(format!("{part} {count} {name}"), deviation, allowed);
            }
        }
        for sample in expected.samples.iter().filter(|it| it.collected == count) {
            let ours = sample.drawn_from(&average, walk)?;
            let deviation = relative_l2(&ours, vectors.tensor(&sample.tensor)?);
            comparisons.note(
                format!("sample {}", sample.tensor),
                deviation,
                allowed.samples,
            );
        }
    }
    Ok(comparisons)
}

impl Sample {
    /// The sample with the vectors' noise, flat.
    fn drawn_from(&self, average: &Average<Net>, walk: &Walk) -> Result<Vec<f64>, Box<dyn Error>> {
        let covariance = if self.full {
            Covariance::Full
        } else {
            Covariance::Diagonal
        };
        let noise = |stream, length| uniform(stream, length, 12.0_f64.sqrt(), 0.0);
        let elements = average.weights().num_elements();
        let of_weights = noise(self.z1_stream, elements);
        let of_deviations = noise(self.z2_stream, self.z2_length);
        let mut all = of_weights.into_iter().chain(of_deviations);
        let next = || all.next().expect("a number for each weight and deviation");
        let sampled = average.sample_from(self.scale, covariance, next)?;
        flat(&Weights::of(&sampled)?, &walk.parameters)
    }
}
