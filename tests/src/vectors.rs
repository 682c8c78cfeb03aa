//! A file of reference vectors: what it says of the network, and what PyTorch computed.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::generator::uniform;

/// The folder that holds the reference vectors.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// The vectors files whose names start with `prefix`, such as `model_`, in alphabetical order.
pub fn files(prefix: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder())? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// One file.
#[derive(Debug)]
pub struct Vectors {
    /// The network, and how its weights are made.
    pub description: Description,
    tensors: BTreeMap<String, Vec<f64>>,
}

/// The JSON in the file's metadata.
#[derive(Debug, Deserialize)]
pub struct Description {
    /// The network's name.
    pub model: String,
    /// Where the streams of the file start.
    pub seed: u64,
    /// The network's weights and running statistics.
    pub entries: Vec<Entry>,
    /// Names of the trainable entries, in the order of every list of norms.
    pub parameters: Vec<String>,
}

/// One entry of the network's PyTorch state dict.
#[derive(Debug, Clone, Deserialize)]
pub struct Entry {
    /// PyTorch's name: `layer1.0.bn1.weight`.
    pub name: String,
    /// PyTorch's shape: a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    stream: u64,
    rule: Rule,
}

/// What an entry is, which decides the range of its values.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Weight,
    Scale,
    Shift,
    RunningMean,
    RunningVar,
}

impl Description {
    /// The entry of this name.
    pub fn entry(&self, name: &str) -> Result<&Entry, Box<dyn Error>> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.ok_or_else(|| format!("the file has no entry {name}").into())
    }
}

impl Entry {
    /// The values, row-major.
    pub fn values(&self) -> Vec<f32> {
        let fan_in: usize = self.shape.iter().skip(1).product();
        let (width, centre) = match self.rule {
            Rule::Weight => ((24.0 / fan_in as f64).sqrt(), 0.0),
            Rule::Scale => (0.4, 1.0),
            Rule::Shift | Rule::RunningMean => (0.2, 0.0),
            Rule::RunningVar => (1.0, 1.0),
        };
        uniform(self.stream, self.shape.iter().product(), width, centre)
    }
}

impl Vectors {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
        let description = metadata
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get("description"))
            .ok_or("the file's metadata has no description")?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
            let values = match tensor.dtype() {
                Dtype::F32 => numbers(tensor.data(), |bytes| f32::from_le_bytes(bytes).into()),
                Dtype::F64 => numbers(tensor.data(), f64::from_le_bytes),
                other => return Err(format!("{name} is {other:?}: expected F32 or F64").into()),
            };
            tensors.insert(name, values);
        }
        Ok(Self {
            description: serde_json::from_str(description)?,
            tensors,
        })
    }

    /// One of PyTorch's results, flat.
    pub fn tensor(&self, name: &str) -> Result<&[f64], Box<dyn Error>> {
        match self.tensors.get(name) {
            Some(values) => Ok(values),
            None => Err(format!("the file has no tensor {name}").into()),
        }
    }

    /// The results whose names start with `prefix`, without it.
    pub fn tensors_under(&self, prefix: &str) -> impl Iterator<Item = (&str, &[f64])> {
        self.tensors
            .iter()
            .filter_map(move |(name, values)| Some((name.strip_prefix(prefix)?, values.as_slice())))
    }
}

fn numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().map(|bytes| read(*bytes)).collect()
}
