//! The end state of a run.

use std::collections::BTreeMap;
use std::path::Path;

use burn::store::burn_pack::{Reader, Tensor};

use crate::snapshot::Snapshot;

/// Everything that a run ends with, apart from the time it took.
#[derive(Debug)]
pub(crate) struct EndState {
    /// The bytes of `averaged.safetensors`, `live.safetensors`, and the files of members, of those that there are.
    models: BTreeMap<String, Vec<u8>>,
    /// The content of `swag.bpk`, if there is one.
    swag: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    checkpoint: Checkpoint,
    metrics: Metrics,
}

impl EndState {
    /// The names of its model files.
    pub(crate) fn models(&self) -> Vec<&str> {
        self.models.keys().map(String::as_str).collect()
    }

    /// The number of tensors in `swag.bpk`.
    pub(crate) fn tensors_of_swag(&self) -> usize {
        self.swag.len()
    }

    /// The end state of a small run.
    pub(crate) fn of(out: &Path) -> Self {
        Self::after_epoch(out, 6)
    }

    pub(crate) fn after_epoch(out: &Path, epoch: usize) -> Self {
        let models = Snapshot::of(out).files.into_iter();
        let models =
            models.filter(|(name, _)| name.extension().is_some_and(|end| end == "safetensors"));
        let models = models.map(|(name, bytes)| (name.to_str().unwrap().to_owned(), bytes));
        let swag = out.join("swag.bpk");
        let swag = if swag.exists() {
            Reader::from_file_exact(swag)
                .unwrap()
                .into_tensors()
                .unwrap()
        } else {
            Vec::new()
        };
        Self {
            models: models.collect(),
            swag: swag
                .iter()
                .map(|tensor| (tensor.name.clone(), content(tensor)))
                .collect(),
            checkpoint: Checkpoint::read(out, &epoch.to_string()),
            metrics: Metrics::read(out),
        }
    }

    /// Asserts that all bits are the same, apart from the training metrics of epochs that were
    /// interrupted: no process has seen the whole of these.
    pub(crate) fn assert_same_bits(&self, other: &Self, resumed_amid: &[usize]) {
        assert_same_entries(&self.models, &other.models);
        assert_same_entries(&self.swag, &other.swag);
        let [this, other_checkpoint] = [&self.checkpoint, &other.checkpoint];
        assert_same_entries(&this.tensors, &other_checkpoint.tensors);
        assert_eq!(this.scalars, other_checkpoint.scalars);
        assert_eq!(
            self.metrics.without_training_of(resumed_amid),
            other.metrics.without_training_of(resumed_amid)
        );
    }
}

/// The shape and the bytes of a tensor.
fn content(tensor: &Tensor) -> (Vec<usize>, Vec<u8>) {
    (tensor.shape.to_vec(), tensor.to_bytes().unwrap().to_vec())
}

fn assert_same_entries<T: PartialEq>(left: &BTreeMap<String, T>, right: &BTreeMap<String, T>) {
    assert!(left.keys().eq(right.keys()));
    let different = left.iter().filter(|(name, value)| right[*name] != **value);
    let different: Vec<&String> = different.map(|(name, _)| name).collect();
    assert!(different.is_empty(), "{different:?} are not the same");
}

/// The content of a checkpoint's three files, by the names of the parameters: their ids, which the
/// optimizer's file uses, differ in every run.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Shape and bytes.
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    /// The state of the learning-rate schedule.
    scalars: BTreeMap<String, String>,
}

impl Checkpoint {
    /// The checkpoint at a position, such as `6`, or `4+3` amid the fifth epoch.
    pub(crate) fn read(out: &Path, position: &str) -> Self {
        let reader = |part: &str| {
            let file = out.join(format!("checkpoint/{part}-{position}.bpk"));
            Reader::from_file_exact(file).unwrap()
        };
        let model = reader("model").into_tensors().unwrap();
        let mut tensors: BTreeMap<_, _> = model
            .iter()
            .map(|tensor| (tensor.name.clone(), content(tensor)))
            .collect();
        let live: BTreeMap<u64, &str> = model
            .iter()
            .filter(|tensor| !tensor.name.starts_with("swa_train."))
            .map(|tensor| (tensor.param_id.unwrap(), tensor.name.as_str()))
            .collect();
        for tensor in reader("optim").into_tensors().unwrap() {
            let (id, field) = tensor.name.split_once('.').unwrap();
            let parameter = live[&id.parse().unwrap()];
            tensors.insert(format!("optimizer {parameter} {field}"), content(&tensor));
        }
        let scalars = reader("scheduler").scalars().clone();
        Self {
            tensors,
            scalars: scalars
                .iter()
                .map(|(name, scalar)| (name.clone(), format!("{scalar:?}")))
                .collect(),
        }
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let (values, []) = self.tensors[name].1.as_chunks() else {
            panic!("{name} does not hold floats");
        };
        values.iter().copied().map(f32::from_le_bytes).collect()
    }

    /// An integer parameter of one element.
    pub(crate) fn integer(&self, name: &str) -> usize {
        let bytes = &self.tensors[name].1;
        match bytes.len() {
            4 => i32::from_le_bytes(bytes[..].try_into().unwrap()) as usize,
            8 => i64::from_le_bytes(bytes[..].try_into().unwrap()) as usize,
            length => panic!("{name} has {length} bytes"),
        }
    }

    pub(crate) fn schedule(&self) -> &BTreeMap<String, String> {
        &self.scalars
    }
}

/// `metrics.csv`.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Metrics {
    pub(crate) fn read(out: &Path) -> Self {
        let mut reader = csv::Reader::from_path(out.join("metrics.csv")).unwrap();
        let row = |record: &csv::StringRecord| record.iter().map(String::from).collect();
        Self {
            columns: row(reader.headers().unwrap()),
            rows: reader
                .records()
                .map(|record| row(&record.unwrap()))
                .collect(),
        }
    }

    pub(crate) fn column(&self, name: &str) -> Vec<&str> {
        let column = self.columns.iter().position(|column| column == name);
        let column = column.unwrap();
        self.rows.iter().map(|row| row[column].as_str()).collect()
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f64> {
        let column = self.column(name);
        column.iter().map(|value| value.parse().unwrap()).collect()
    }

    /// The rows without their time, and without the training metrics of these epochs.
    fn without_training_of(&self, epochs: &[usize]) -> Vec<Vec<&str>> {
        let numbers = self.column("epoch");
        let mut rows = Vec::new();
        for (row, epoch) in self.rows.iter().zip(numbers) {
            let amid = epochs.contains(&epoch.parse().unwrap());
            let columns = self.columns.iter().zip(row);
            let kept = columns.filter(|(name, _)| {
                let of_training = name.starts_with("train_");
                !(name.ends_with("seconds") || amid && of_training)
            });
            rows.push(kept.map(|(_, value)| value.as_str()).collect());
        }
        rows
    }
}
