//! The average of files, computed when it is written or loaded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::store::BurnpackStore;
use burn::store::burn_pack::{EXTENSION, Error as PackError, Tensor as Entry, Writer};

use super::error::CheckpointError;
use super::file::Layout;
use super::mean::{Term, mean_of};
use crate::StateDict;
use crate::safetensors_file::{self, FORMAT, PYTORCH};

/// A weighted mean of files: `the sum of coefficient x file`.
///
/// It has the names and dtypes of the first file. Floats, running statistics among them, are averaged, and accumulated in f32, or
/// in f64 if a file has them in f64. Ints and bools, such as `num_batches_tracked`, are those of the last file. So are the metadata
/// that all files agree on.
#[derive(Clone)]
pub struct CheckpointAverage {
    terms: Arc<[Term]>,
    progress: Arc<Progress>,
}

/// A function of the bytes that are done and of all.
type Progress = dyn Fn(u64, u64) + Send + Sync;

impl CheckpointAverage {
    pub(super) fn new(terms: Vec<Term>) -> Self {
        Self {
            terms: terms.into(),
            progress: Arc::new(|_, _| {}),
        }
    }

    /// Calls `progress` after each tensor, with the number of bytes of the average that are done, and of all.
    pub fn with_progress(mut self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    /// The files and their coefficients, whose sum is 1.
    pub fn terms(&self) -> impl Iterator<Item = (&Path, f64)> {
        let terms = self.terms.iter();
        terms.map(|(file, coefficient)| (file.path.as_path(), *coefficient))
    }

    /// The average as a state dict of PyTorch's names and layout, whose tensors are computed when they are loaded: for files that
    /// [`StateDict`] reads or wrote.
    ///
    /// What is wrong with a tensor, such as a NaN, is an error of its loading.
    pub fn state_dict(&self) -> StateDict {
        let entries = self.entries(Failed::default());
        let entries = entries.map(|entry| (entry.name.clone(), entry)).collect();
        let path = PathBuf::from(format!("the average of {} files", self.terms.len()));
        StateDict::from_file(&path, entries, self.common_metadata())
    }

    /// Writes the average to a file that ends in `.safetensors`, or in `.bpk` for Burn.
    ///
    /// It is written beside its place, and moved there. The same files give the same bytes.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::OutputKind`], [`CheckpointError::OutputIsInput`], [`CheckpointError::Write`], and those of the files'
    /// tensors: [`CheckpointError::NotFinite`], [`CheckpointError::TooLarge`] and [`CheckpointError::Corrupt`]. What was there stays as
    /// it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        let path = path.as_ref();
        let as_burnpack = match path.extension().and_then(|end| end.to_str()) {
            Some("safetensors") => false,
            Some(EXTENSION) => true,
            _ => {
                return Err(CheckpointError::OutputKind {
                    path: path.to_owned(),
                });
            }
        };
        let mut inputs = self.terms.iter().map(|(file, _)| &file.path);
        // An output that does not exist is none of the files.
        let is_output = |input: &&PathBuf| same_file::is_same_file(input, path).unwrap_or(false);
        if let Some(input) = inputs.find(is_output) {
            return Err(CheckpointError::OutputIsInput {
                path: path.to_owned(),
                input: input.clone(),
            });
        }

        let failure = Failed::default();
        let written = if as_burnpack {
            self.write_burnpack(path, failure.clone())
        } else {
            let entries: Vec<Entry> = self.entries(failure.clone()).collect();
            let mut metadata = self.common_metadata();
            if self.layout() == Some(Layout::Burn) {
                metadata.insert(FORMAT.to_owned(), "safetensors".to_owned());
            } else {
                metadata.insert(FORMAT.to_owned(), PYTORCH.to_owned());
            }
            safetensors_file::write(path, entries.iter(), &metadata)
        };
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (failure, written) {
            (Some(failure), _) => Err(failure),
            (None, Ok(())) => Ok(()),
            (None, Err(reason)) => Err(CheckpointError::Write {
                path: path.to_owned(),
                reason,
            }),
        }
    }

    fn write_burnpack(&self, path: &Path, failure: Failed) -> Result<(), String> {
        let mut metadata = self.common_metadata();
        if self.layout() != Some(Layout::PyTorch) {
            metadata.extend(BurnpackStore::default_metadata());
        }
        let writer = Writer::new(self.entries(failure).collect());
        let writer = metadata.iter().fold(writer, |writer, (key, value)| {
            writer.with_metadata(key, value)
        });
        let scalars = self.terms.last().map(|(file, _)| &file.scalars);
        let scalars = scalars.into_iter().flatten();
        let writer = scalars.fold(writer, |writer, (key, value)| {
            writer.with_scalar(key, *value)
        });
        writer
            .write_to_file(path)
            .map_err(|error| error.to_string())
    }

    fn layout(&self) -> Option<Layout> {
        self.terms.iter().find_map(|(file, _)| file.layout())
    }

    /// The metadata that all files have.
    fn common_metadata(&self) -> BTreeMap<String, String> {
        let mut files = self.terms.iter().map(|(file, _)| &file.metadata);
        let mut common = files.next().cloned().unwrap_or_default();
        for metadata in files {
            common.retain(|key, value| metadata.get(key) == Some(value));
        }
        common
    }

    /// The tensors of the average, each of which is computed when its bytes are asked for. What goes wrong then is in `failure`.
    fn entries(&self, failure: Failed) -> impl Iterator<Item = Entry> {
        let entries = self.terms.first().map(|(first, _)| first.entries.values());
        let entries: Vec<&Entry> = entries.into_iter().flatten().collect();
        let total = entries.iter().map(|entry| entry.byte_len() as u64).sum();
        let done = Arc::new(AtomicU64::new(0));
        entries.into_iter().map(move |entry| {
            let (terms, progress) = (self.terms.clone(), self.progress.clone());
            let (failure, done) = (failure.clone(), done.clone());
            let (name, length) = (entry.name.clone(), entry.byte_len());
            let bytes = move || match mean_of(&name, &terms) {
                Ok(bytes) => {
                    let before = done.fetch_add(length as u64, Ordering::Relaxed);
                    progress(before + length as u64, total);
                    Ok(bytes)
                }
                Err(error) => {
                    let reason = error.to_string();
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err(PackError::ValidationError(reason))
                }
            };
            let (name, shape) = (entry.name.clone(), entry.shape.clone());
            Entry::deferred(name, entry.dtype, shape, entry.param_id, length, bytes)
        })
    }
}

/// The first thing that went wrong with a tensor. Burn's writer and loader take a text alone.
type Failed = Arc<Mutex<Option<CheckpointError>>>;

impl fmt::Debug for CheckpointAverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.terms()).finish()
    }
}
