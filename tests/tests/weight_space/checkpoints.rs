//! Averages of files are those of fairseq, timm, model soups and WSM.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use burn_swa_test_support::random::uniform;
use burn_swa_tests::comparison::{Comparisons, relative_l2};
use burn_swa_tests::vectors::{self, VectorsOf};
use serde::Deserialize;
use swa_store::{CheckpointAverage, CheckpointError, Checkpoints, Decay, StateDict};
use swa_train::swa_core::Weights;

use super::network::{Net, Walk, flat};
use super::{FLOAT32, FLOAT64};

#[derive(Debug, Deserialize)]
struct Expected {
    walk: Walk,
    target_stream: u64,
    scores: Vec<f64>,
    latest: Vec<usize>,
    best: Vec<usize>,
    greedy: Greedy,
    weights: Vec<f64>,
    windows: Vec<[u64; 2]>,
    merges: BTreeMap<String, Vec<f64>>,
}

#[derive(Debug, Deserialize)]
struct Greedy {
    tried: Vec<Tried>,
    ingredients: Vec<usize>,
    score: f64,
}

#[derive(Debug, Deserialize)]
struct Tried {
    checkpoint: usize,
    score: f64,
    taken: bool,
}

#[test]
fn weight_space_averages_of_files_are_the_peers() {
    let file = vectors::folder().join("weight_space/checkpoints.safetensors");
    let vectors = VectorsOf::<Expected>::read(&file);
    let vectors = vectors.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for (dtype, allowed) in [(DType::F32, FLOAT32), (DType::F64, FLOAT64)] {
        let comparisons = compare(&vectors, dtype, allowed).unwrap();
        println!("{dtype:?}: {}", comparisons.summary());
        comparisons.finish().unwrap();
    }
}

fn compare(
    vectors: &VectorsOf<Expected>,
    dtype: DType,
    allowed: f64,
) -> Result<Comparisons, Box<dyn Error>> {
    let expected = &vectors.description;
    let folder = tempfile::tempdir()?;
    let walk = Files::of(&expected.walk, dtype, folder.path())?;
    let checkpoints = Checkpoints::open(&walk.files)?;
    let mut comparisons = Comparisons::default();
    let mut note = |name: &str, average: &CheckpointAverage| -> Result<(), Box<dyn Error>> {
        let deviation = relative_l2(&walk.written(average)?, vectors.tensor(name)?);
        comparisons.note(name, deviation, allowed);
        Ok(())
    };

    note("uniform", &checkpoints.uniform())?;
    for &count in &expected.latest {
        note(
            &format!("latest_{count}"),
            &checkpoints.last(count)?.uniform(),
        )?;
    }
    for &count in &expected.best {
        let best = checkpoints.best(count, &expected.scores)?;
        note(&format!("best_{count}"), &best.uniform())?;
    }
    note("weighted", &checkpoints.weighted(&expected.weights)?)?;
    for &[first, last] in &expected.windows {
        let window = checkpoints.window(first..=last)?;
        note(&format!("window.{first}.{last}"), &window.uniform())?;
    }
    let mut merges = Vec::new();
    for (name, decay) in [("linear", Decay::Linear), ("minus_sqrt", Decay::MinusSqrt)] {
        let merged = checkpoints.merged(decay)?;
        note(&format!("merged.{name}"), &merged)?;
        let coefficients = merged.terms().map(|(_, coefficient)| coefficient);
        merges.push((name, coefficients.collect::<Vec<f64>>()));
    }

    let target = walk.target(expected.target_stream);
    let soup = checkpoints.greedy_soup(|average| -> Result<f64, Box<dyn Error>> {
        let squares = walk.loaded(&average.state_dict())?;
        let squares = squares
            .iter()
            .zip(&target)
            .map(|(w, target)| (w - target).powi(2));
        Ok(-squares.sum::<f64>())
    })?;
    note("greedy", &soup.average)?;
    comparisons.note(
        "soup",
        relative_l2(&[soup.score], &[expected.greedy.score]),
        1e-5,
    );
    let (first, others) = soup.tried.split_first().ok_or("nothing was tried")?;
    assert!(first.taken);
    for (tried, expected) in others.iter().zip(&expected.greedy.tried) {
        assert_eq!(tried.path, walk.files[expected.checkpoint - 1]);
        assert_eq!(tried.taken, expected.taken);
        let deviation = relative_l2(&[tried.score], &[expected.score]);
        comparisons.note("tried", deviation, 1e-5);
    }
    let ingredients = soup.average.terms().map(|(file, _)| file.to_owned());
    let expected_ingredients = expected.greedy.ingredients.iter();
    let expected_ingredients = expected_ingredients.map(|number| walk.files[number - 1].clone());
    assert_eq!(
        ingredients.collect::<Vec<PathBuf>>(),
        expected_ingredients.collect::<Vec<PathBuf>>()
    );
    assert_eq!(others.len(), expected.greedy.tried.len());
    for (name, coefficients) in merges {
        let theirs = expected.merges.get(name).ok_or("no such merge")?;
        let deviation = relative_l2(&coefficients, theirs);
        comparisons.note(format!("coefficients {name}"), deviation, FLOAT64);
    }
    Ok(comparisons)
}

/// The checkpoints of a walk, in files.
struct Files<'a> {
    walk: &'a Walk,
    dtype: DType,
    values: Vec<Vec<Vec<f32>>>,
    files: Vec<PathBuf>,
    out: PathBuf,
}

impl<'a> Files<'a> {
    fn of(walk: &'a Walk, dtype: DType, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let mut walked = Self {
            walk,
            dtype,
            values: walk.steps(),
            files: Vec::new(),
            out: folder.join("average.safetensors"),
        };
        for step in 1..=walk.steps {
            let file = folder.join(format!("checkpoint_{step}.safetensors"));
            StateDict::of(&walked.net(step)?).write(&file)?;
            walked.files.push(file);
        }
        Ok(walked)
    }

    fn net(&self, step: usize) -> Result<Net, Box<dyn Error>> {
        let values = |position: usize, _: &_| self.values[position][step].clone();
        Net::new(&self.walk.parameters, self.dtype, values)
    }

    /// The weights of a state dict, flat.
    fn loaded(&self, state_dict: &StateDict) -> Result<Vec<f64>, Box<dyn Error>> {
        let net = state_dict.load(self.net(0)?)?;
        flat(&Weights::of(&net)?, &self.walk.parameters)
    }

    /// An average, by way of a file.
    fn written(&self, average: &CheckpointAverage) -> Result<Vec<f64>, Box<dyn Error>> {
        average.write(&self.out)?;
        self.loaded(&StateDict::read(&self.out)?)
    }

    /// The mean of checkpoints 2 to 4, and noise.
    fn target(&self, stream: u64) -> Vec<f64> {
        let steps = (2..=4).map(|step| {
            let all = self.values.iter().flat_map(move |values| &values[step]);
            all.map(|value| f64::from(*value)).collect::<Vec<f64>>()
        });
        let steps: Vec<Vec<f64>> = steps.collect();
        let noise = uniform(stream, steps[0].len(), 0.05, 0.0);
        let mean =
            (0..steps[0].len()).map(|at| steps.iter().map(|step| step[at]).sum::<f64>() / 3.0);
        mean.zip(noise)
            .map(|(mean, noise)| mean + f64::from(noise))
            .collect()
    }
}

#[test]
fn weight_space_files_are_told_apart_by_their_steps() {
    let file = vectors::folder().join("weight_space/checkpoints.safetensors");
    let vectors = VectorsOf::<Expected>::read(&file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let walk = Files::of(&vectors.description.walk, DType::F32, folder.path()).unwrap();
    let backwards: Vec<&PathBuf> = walk.files.iter().rev().collect();
    let last = Checkpoints::open(&backwards).unwrap().last(2).unwrap();
    let expected = &walk.files[walk.files.len() - 2..];
    assert_eq!(last.paths().collect::<Vec<&Path>>(), expected);
    let elsewhere = Checkpoints::open(&backwards).unwrap().window(100..=200);
    assert!(matches!(
        elsewhere,
        Err(CheckpointError::EmptyWindow { .. })
    ));
}
