//! The average of files, computed when it is written or loaded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::store::BurnpackStore;
use burn::store::burn_pack::{Bytes, EXTENSION, Error as PackError, Tensor as Entry, Writer};
use burn::tensor::DType;

use super::error::CheckpointError;
use super::file::{BURN, Layout};
use super::mean::{Term, write_mean};
use crate::StateDict;
use crate::safetensors_file::{self, FORMAT};

/// A weighted mean of files: `the sum of coefficient x file`.
///
/// It has the names and dtypes of the first file. Floats, running statistics among them, are averaged, and accumulated in f32, or
/// in f64 if a file has them in f64. Ints and bools, such as `num_batches_tracked`, are those of the last file. Metadata that all
/// files agree on stay.
#[derive(Clone)]
pub struct CheckpointAverage {
    terms: Arc<[Term]>,
    /// The files that were opened, those that were not chosen among them.
    opened: Arc<[PathBuf]>,
    progress: Arc<Progress>,
}

/// A function of the bytes that are done and of all.
type Progress = dyn Fn(u64, u64) + Send + Sync;

impl CheckpointAverage {
    pub(super) fn new(terms: Vec<Term>, opened: Arc<[PathBuf]>) -> Self {
        Self {
            terms: terms.into(),
            opened,
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
    /// Faults of a tensor, such as a NaN, are errors of its loading.
    pub fn state_dict(&self) -> StateDict {
        let entries = self.deferred(&Failed::default()).into_iter();
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
        self.check_output(path)?;
        match path.extension() {
            Some(end) if end == EXTENSION => self.write_burnpack(path),
            _ => self.write_safetensors(path),
        }
    }

    /// Checks that the average may be written to a file: that its folder exists, that its name says what kind of file it is, and that it
    /// is none of those that were opened.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Write`], [`CheckpointError::OutputKind`] and [`CheckpointError::OutputIsInput`].
    pub fn check_output(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        let path = path.as_ref();
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        if folder.is_some_and(|folder| !folder.is_dir()) {
            return Err(not_written(path, "there is no such folder"));
        }
        let end = path.extension();
        if end.is_none_or(|end| end != "safetensors" && end != EXTENSION) {
            return Err(CheckpointError::OutputKind {
                path: path.to_owned(),
            });
        }
        // An output that does not exist is none of the files.
        let is_output = |input: &&PathBuf| same_file::is_same_file(input, path).unwrap_or(false);
        match self.opened.iter().find(is_output) {
            None => Ok(()),
            Some(input) => Err(CheckpointError::OutputIsInput {
                path: path.to_owned(),
                input: input.clone(),
            }),
        }
    }

    fn write_safetensors(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut metadata = self.common_metadata();
        if self.layout() == Some(Layout::Burn) {
            metadata.insert(FORMAT.to_owned(), BURN.to_owned());
        }
        let sum = Sum::of(self);
        let mut failure = None;
        let written =
            safetensors_file::write(path, self.entries(), &metadata, |entry, dtype, file| {
                let to_file = &mut |bytes: &[u8]| {
                    let written = file.write_all(bytes);
                    written.map_err(|error| not_written(path, error))
                };
                sum.write(entry, dtype, to_file).map_err(|error| {
                    let reason = error.to_string();
                    failure = Some(error);
                    reason
                })
            });
        match (failure, written) {
            (Some(failure), _) => Err(failure),
            (None, written) => written.map_err(|reason| not_written(path, reason)),
        }
    }

    fn write_burnpack(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut metadata = self.common_metadata();
        if self.layout() != Some(Layout::PyTorch) {
            metadata.extend(BurnpackStore::default_metadata());
        }
        let failure = Failed::default();
        let writer = Writer::new(self.deferred(&failure));
        let writer = metadata.iter().fold(writer, |writer, (key, value)| {
            writer.with_metadata(key, value)
        });
        let scalars = self.terms.last().map(|(file, _)| &file.scalars);
        let scalars = scalars.into_iter().flatten();
        let writer = scalars.fold(writer, |writer, (key, value)| {
            writer.with_scalar(key, *value)
        });
        let written = writer.write_to_file(path);
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (failure, written) {
            (Some(failure), _) => Err(failure),
            (None, written) => written.map_err(|error| not_written(path, error)),
        }
    }

    /// The tensors of the first file, whose names, shapes and dtypes the average has.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let first = self.terms.first();
        first
            .into_iter()
            .flat_map(|(first, _)| first.entries.values())
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
    fn deferred(&self, failure: &Failed) -> Vec<Entry> {
        let sum = Arc::new(Sum::of(self));
        let entries = self.entries().cloned();
        let entries = entries.map(|entry| {
            let (sum, failure, of) = (sum.clone(), failure.clone(), entry.clone());
            let bytes = move || {
                let mut bytes = Vec::with_capacity(of.byte_len());
                let written = sum.write(&of, of.dtype, &mut |part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                });
                match written {
                    Ok(()) => Ok(Bytes::from_bytes_vec(bytes)),
                    Err(error) => {
                        let reason = error.to_string();
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        Err(PackError::ValidationError(reason))
                    }
                }
            };
            let length = entry.byte_len();
            Entry::deferred(
                entry.name,
                entry.dtype,
                entry.shape,
                entry.param_id,
                length,
                bytes,
            )
        });
        entries.collect()
    }
}

/// The last thing that went wrong with a tensor. Burn's writer takes a text alone.
type Failed = Arc<Mutex<Option<CheckpointError>>>;

fn not_written(path: &Path, reason: impl ToString) -> CheckpointError {
    CheckpointError::Write {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The tensors of an average on their way to a file, or into memory.
struct Sum {
    terms: Arc<[Term]>,
    progress: Arc<Progress>,
    /// The bytes of the average that are done.
    done: AtomicU64,
    /// All of them.
    total: u64,
}

impl Sum {
    fn of(average: &CheckpointAverage) -> Self {
        let bytes = average.entries().map(|entry| entry.byte_len() as u64);
        Self {
            terms: average.terms.clone(),
            progress: average.progress.clone(),
            done: AtomicU64::new(0),
            total: bytes.sum(),
        }
    }

    /// Calls `write` with one part after the other of the tensor for which the first file has `entry`, in a dtype: floats are
    /// averaged, and ints and bools are those of the last file.
    fn write(
        &self,
        entry: &Entry,
        dtype: DType,
        write: &mut (dyn FnMut(&[u8]) -> Result<(), CheckpointError> + Send),
    ) -> Result<(), CheckpointError> {
        if entry.dtype.is_float() {
            write_mean(&entry.name, dtype, &self.terms, write)?;
        } else if let Some((last, _)) = self.terms.last() {
            write(last.data(&entry.name, dtype)?.as_bytes())?;
        }
        let length = entry.byte_len() as u64;
        let before = self.done.fetch_add(length, Ordering::Relaxed);
        (self.progress)(before + length, self.total);
        Ok(())
    }
}

impl fmt::Debug for CheckpointAverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.terms()).finish()
    }
}
