//! A file whose tensors are read one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::store::burn_pack::{
    Bytes, HEADER_SIZE, Header, MAGIC_NUMBER, Reader as PackReader, Scalar, Tensor as Entry,
};
use burn::store::{ModuleStore, PytorchStore};
use burn::tensor::{DType, TensorData};
use burn_std::Reader;

use super::error::{CheckpointError, Misfit};
use crate::safetensors_file::{self, FORMAT, PYTORCH, Unreadable, first_bytes, is_safetensors};

/// A file of tensors.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
    /// The numbers that a file of Burn's holds beside its tensors.
    pub(super) scalars: BTreeMap<String, Scalar>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SafeTensors,
    Burnpack,
    PyTorch,
}

/// The name that Burn's `SafetensorsStore` gives its own files under [`FORMAT`].
pub(super) const BURN: &str = "safetensors";

/// The side whose names and layout a file has. A linear layer's weight is `[out, in]` in PyTorch and `[in, out]` in Burn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    PyTorch,
    Burn,
}

impl Checkpoint {
    /// Opens a file, whose kind its first bytes tell, and keeps what is under `key`, if there is one, without the key.
    pub(super) fn open(path: &Path, key: Option<&str>) -> Result<Self, CheckpointError> {
        let unreadable = |error| match error {
            Unreadable::Io(error) => CheckpointError::Read {
                path: path.to_owned(),
                error,
            },
            Unreadable::Damaged(reason) => corrupt(path, reason),
        };
        let first_bytes = first_bytes(path).map_err(|error| unreadable(error.into()))?;
        // The length of a SafeTensors header with these bytes would be out of its bounds.
        let opened = if first_bytes.starts_with(&MAGIC_NUMBER.to_le_bytes()) {
            open_burnpack(path)
        } else if is_safetensors(&first_bytes) {
            let opened = safetensors_file::open(path);
            opened
                .map(|(entries, metadata)| (Kind::SafeTensors, entries, metadata, BTreeMap::new()))
        } else {
            open_pytorch(path)
        };
        let (kind, entries, metadata, scalars) = opened.map_err(unreadable)?;
        let file = Self {
            path: path.to_owned(),
            entries,
            metadata,
            scalars,
            kind,
        };
        let file = match key {
            None => file,
            Some(key) => file.under(key)?,
        };
        if file.entries.is_empty() {
            return Err(corrupt(path, "it holds no tensor".to_owned()));
        }
        let quantized = |entry: &&Entry| matches!(entry.dtype, DType::QFloat(_));
        match file.entries.values().find(quantized) {
            None => Ok(file),
            Some(entry) => Err(CheckpointError::Quantized {
                path: file.path,
                tensor: entry.name.clone(),
            }),
        }
    }

    fn under(self, key: &str) -> Result<Self, CheckpointError> {
        let below = format!("{key}.");
        let names = self
            .entries
            .keys()
            .filter_map(|name| name.split('.').next());
        let found: BTreeSet<String> = names.map(str::to_owned).collect();
        let entries = self.entries.into_values().filter_map(|mut entry| {
            entry.name = entry.name.strip_prefix(&below)?.to_owned();
            Some((entry.name.clone(), entry))
        });
        let entries: BTreeMap<String, Entry> = entries.collect();
        if entries.is_empty() {
            return Err(CheckpointError::NoSuchKey {
                path: self.path,
                key: key.to_owned(),
                found: found.into_iter().collect(),
            });
        }
        Ok(Self { entries, ..self })
    }

    /// The names and layout of the file, if it says so. PyTorch's own SafeTensors files need not.
    pub(super) fn layout(&self) -> Option<Layout> {
        match (self.kind, self.metadata.get(FORMAT).map(String::as_str)) {
            (Kind::PyTorch, _) | (_, Some(PYTORCH)) => Some(Layout::PyTorch),
            (Kind::Burnpack, _) => Some(Layout::Burn),
            (Kind::SafeTensors, Some(BURN)) => Some(Layout::Burn),
            (Kind::SafeTensors, _) => None,
        }
    }

    /// Tells whether parts of a tensor can be read. Of the files of `torch.save`, burn-store (0.22.1) reads whole ones.
    pub(super) fn reads_parts(&self) -> bool {
        self.kind != Kind::PyTorch
    }

    /// The tensors in which this file differs from `first`. Floats may have another dtype.
    pub(super) fn misfit(&self, first: &Self) -> Misfit {
        let missing = first.entries.keys();
        let missing = missing.filter(|name| !self.entries.contains_key(*name));
        let unknown = self.entries.keys();
        let unknown = unknown.filter(|name| !first.entries.contains_key(*name));
        let mut misshapen = Vec::new();
        for entry in self.entries.values() {
            let Some(expected) = first.entries.get(&entry.name) else {
                continue;
            };
            let both_floats = entry.dtype.is_float() && expected.dtype.is_float();
            let same_kind = both_floats || entry.dtype == expected.dtype;
            if entry.shape != expected.shape || !same_kind {
                misshapen.push(format!(
                    "{} is {}, expected {}",
                    entry.name,
                    described(entry),
                    described(expected)
                ));
            }
        }
        Misfit {
            path: self.path.clone(),
            missing: missing.cloned().collect(),
            unknown: unknown.cloned().collect(),
            misshapen,
        }
    }

    /// A tensor of this name.
    pub(super) fn entry(&self, name: &str) -> Result<&Entry, CheckpointError> {
        let entry = self.entries.get(name);
        entry.ok_or_else(|| corrupt(&self.path, format!("it has no `{name}`")))
    }

    /// The bytes of a tensor. Of a file that [reads parts](Self::reads_parts), they stay on the disk until
    /// [`read_part`](Self::read_part).
    pub(super) fn bytes(&self, name: &str) -> Result<Bytes, CheckpointError> {
        let bytes = self.entry(name)?.to_bytes();
        bytes.map_err(|error| corrupt(&self.path, error.to_string()))
    }

    /// A whole tensor in a dtype.
    pub(super) fn data(&self, name: &str, dtype: DType) -> Result<TensorData, CheckpointError> {
        let entry = self.entry(name)?;
        let bytes = self.bytes(name)?;
        // Whoever looks at bytes in a file panics if the file cannot be read (burn-std 0.22.1), and not if they are in memory.
        let read = bytes.read(Reader::new());
        read.map_err(|error| corrupt(&self.path, error.to_string()))?;
        let data = TensorData::try_from_bytes(bytes, entry.shape.clone(), entry.dtype);
        let data = data.and_then(|data| data.try_cast(dtype));
        data.map_err(|error| corrupt(&self.path, error.to_string()))
    }

    /// Calls `with` with a part of these bytes.
    pub(super) fn read_part<R>(
        &self,
        bytes: &Bytes,
        part: Range<usize>,
        with: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, CheckpointError> {
        let failed = |reason: String| corrupt(&self.path, reason);
        match bytes.view(part.start, part.end) {
            Ok(view) => {
                let read = view.read(Reader::new());
                Ok(with(read.map_err(|error| failed(error.to_string()))?))
            }
            // They are in memory.
            Err(_) => {
                let read = bytes.read(Reader::new());
                let read = read.map_err(|error| failed(error.to_string()))?;
                let part = read.get(part);
                Ok(with(part.ok_or_else(|| {
                    failed("a tensor is too short".to_owned())
                })?))
            }
        }
    }
}

fn described(entry: &Entry) -> String {
    format!("{:?} of {:?}", entry.shape.to_vec(), entry.dtype)
}

type Opened = (
    Kind,
    BTreeMap<String, Entry>,
    BTreeMap<String, String>,
    BTreeMap<String, Scalar>,
);

fn open_burnpack(path: &Path) -> Result<Opened, Unreadable> {
    let damaged = |error: &dyn ToString| Unreadable::Damaged(error.to_string());
    // Burn (0.22.1) would reserve as much memory as the header says.
    let mut file = File::open(path)?;
    let mut header = [0; HEADER_SIZE];
    file.read_exact(&mut header)?;
    let header = Header::from_bytes(&header).map_err(|error| damaged(&error))?;
    let size = file.seek(SeekFrom::End(0))?;
    if u64::from(header.metadata_size) > size {
        let length = header.metadata_size;
        return Err(damaged(&format!(
            "its metadata are said to have {length} bytes, and the file has {size}"
        )));
    }
    let reader = PackReader::from_file_exact(path).map_err(|error| damaged(&error))?;
    let (metadata, scalars) = (reader.metadata().clone(), reader.scalars().clone());
    let entries = reader.into_tensors().map_err(|error| damaged(&error))?;
    let entries = entries.into_iter();
    let entries = entries.map(|entry| (entry.name.clone(), entry)).collect();
    Ok((Kind::Burnpack, entries, metadata, scalars))
}

fn open_pytorch(path: &Path) -> Result<Opened, Unreadable> {
    // Burn's default renumbers the layers of a `Sequential` without gaps.
    let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
    let entries = store.get_all_tensors();
    let entries = entries.map_err(|error| Unreadable::Damaged(error.to_string()))?;
    Ok((
        Kind::PyTorch,
        entries.clone(),
        BTreeMap::new(),
        BTreeMap::new(),
    ))
}

pub(super) fn corrupt(path: &Path, reason: String) -> CheckpointError {
    CheckpointError::Corrupt {
        path: path.to_owned(),
        reason,
    }
}
