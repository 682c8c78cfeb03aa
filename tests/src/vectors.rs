//! A file of reference vectors: the description of the network, and PyTorch's results.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use burn_swa_test_support::random::uniform;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The folder that holds the reference vectors: `SWA_PARITY_DIR` if it is set, else this project's.
///
/// Vectors that `make_parity.py` wrote from another seed, or of other networks, need no change to the code.
pub fn folder() -> PathBuf {
    match std::env::var_os("SWA_PARITY_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"),
    }
}

/// The vectors files whose names start with `prefix`, such as `model_`, in alphabetical order: at least one.
pub fn files(prefix: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let folder = folder();
    let entries = std::fs::read_dir(&folder)
        .map_err(|error| format!("cannot read the vectors in {}: {error}", folder.display()))?;
    for file in entries {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        Err(format!("{} has no {prefix}*.safetensors", folder.display()).into())
    } else {
        Ok(files)
    }
}

/// Reads a file of JSON below the [`folder`].
pub fn read_json<D: DeserializeOwned>(name: &str) -> Result<D, Box<dyn Error>> {
    let path = folder().join(name);
    let read = || Ok::<D, Box<dyn Error>>(serde_json::from_slice(&std::fs::read(&path)?)?);
    read().map_err(|error| format!("{}: {error}", path.display()).into())
}

/// One file, with a description of its contents.
#[derive(Debug)]
pub struct VectorsOf<D> {
    /// The network and the way to make its weights, or the subject of other vectors.
    pub description: D,
    tensors: BTreeMap<String, Vec<f64>>,
}

/// The JSON in the file's metadata.
#[derive(Debug, Deserialize)]
pub struct Description {
    /// The network's name.
    pub model: String,
    /// The number from which the file's streams are counted.
    pub seed: u64,
    /// The network's weights and running statistics.
    pub entries: Vec<Entry>,
    /// Names of the trainable entries, in the order of every list of norms.
    pub parameters: Vec<String>,
    /// Height and width of the images: CIFAR's, if the file does not say.
    #[serde(default = "of_cifar")]
    pub image_size: usize,
    /// Height x width of every BatchNorm layer's input. The files of CIFAR's networks do not say.
    #[serde(default)]
    pub pixels: BTreeMap<String, usize>,
    /// The deviation of float32 itself. The files of CIFAR's networks do not say: their README does.
    pub rounding: Option<Rounding>,
    /// The training of the network, in a file of training vectors.
    #[serde(flatten)]
    pub training: Option<Training>,
}

/// The largest relative L2 deviation of PyTorch's float32 from float64.
#[derive(Debug, Clone, Deserialize)]
pub struct Rounding {
    /// Of logits in inference.
    pub inference: f64,
    /// Of logits and the loss in training.
    pub training: f64,
    /// Of one running mean or variance.
    pub statistics: f64,
    /// Of all gradients' norms as one vector.
    pub gradients: f64,
    /// Of one gradient's norm.
    pub single_gradient: f64,
}

fn of_cifar() -> usize {
    32
}

/// SGD steps, averages of the weights, and a re-estimation of BatchNorm.
#[derive(Debug, Clone, Deserialize)]
pub struct Training {
    /// The learning rate.
    pub lr: f64,
    /// The momentum, without dampening.
    pub momentum: f64,
    /// The weight decay, of every parameter.
    pub weight_decay: f64,
    /// The number of images of every step.
    pub step_sizes: Vec<usize>,
    /// The step, counted from 1, after which the averages are first updated.
    pub averaged_from_step: usize,
    /// The decay of the exponential average.
    pub ema_decay: f64,
    /// The number of images of every batch that BatchNorm is re-estimated from.
    pub bn_batch_sizes: Vec<usize>,
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

/// The kind of an entry, which decides the range of its values.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Around 0, with a width that depends on the fan-in.
    Weight,
    /// Around 1.
    Scale,
    /// Around 0.
    Shift,
    /// Around 0.
    RunningMean,
    /// Around 1, and positive.
    RunningVar,
    /// Around 0, and the same at all steps of a walk.
    Frozen,
}

impl Rule {
    /// The values of an entry of `shape`, row-major.
    pub fn values(self, stream: u64, shape: &[usize]) -> Vec<f32> {
        let (width, centre) = self.width_and_centre(shape);
        uniform(stream, shape.iter().product(), width, centre)
    }

    /// The values after each of `steps` random steps, and before the first: `f32(w[0] + d[1] + .. + d[i])`, where `w[0]` are the
    /// [`values`](Self::values), and `d[j]` is uniform around 0, `jitter` times as wide, of stream `stream + 16 j`.
    pub fn walk(self, stream: u64, shape: &[usize], steps: usize, jitter: f64) -> Vec<Vec<f32>> {
        let first = self.values(stream, shape);
        let (width, _) = self.width_and_centre(shape);
        let mut sums: Vec<f64> = first.iter().copied().map(f64::from).collect();
        let mut walk = vec![first];
        for step in 1..=steps {
            if !matches!(self, Self::Frozen) {
                let increments =
                    uniform(stream + 16 * step as u64, sums.len(), jitter * width, 0.0);
                for (sum, increment) in sums.iter_mut().zip(increments) {
                    *sum += f64::from(increment);
                }
            }
            walk.push(sums.iter().map(|sum| *sum as f32).collect());
        }
        walk
    }

    fn width_and_centre(self, shape: &[usize]) -> (f64, f64) {
        let fan_in: usize = shape.iter().skip(1).product();
        match self {
            Self::Weight => ((24.0 / fan_in as f64).sqrt(), 0.0),
            Self::Scale => (0.4, 1.0),
            Self::Shift | Self::RunningMean | Self::Frozen => (0.2, 0.0),
            Self::RunningVar => (1.0, 1.0),
        }
    }
}

impl Description {
    /// The number of the network's classes, which is the number of elements of its last bias.
    pub fn classes(&self) -> Result<usize, Box<dyn Error>> {
        let last = self
            .entries
            .iter()
            .rev()
            .find(|entry| entry.name.ends_with(".bias"));
        let classes = last.and_then(|entry| entry.shape.first().copied());
        classes.ok_or_else(|| "the network has no bias".into())
    }

    /// The entry of this name.
    pub fn entry(&self, name: &str) -> Result<&Entry, Box<dyn Error>> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.ok_or_else(|| format!("the file has no entry {name}").into())
    }
}

impl Entry {
    /// The values, row-major.
    pub fn values(&self) -> Vec<f32> {
        self.rule.values(self.stream, &self.shape)
    }
}

/// Vectors of a network.
pub type Vectors = VectorsOf<Description>;

impl<D: DeserializeOwned> VectorsOf<D> {
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
