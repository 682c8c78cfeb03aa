//! Loading a state dict into a network. This finds it in its file, and checks that it fits the network.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::{DType, Shape};

use super::{AVERAGED_MODEL, BATCHES_TRACKED, Entry, StateDict, StateDictError, UPDATES, tensors};
use crate::burn_0_22::settled;

impl StateDict {
    /// Loads these parameters and running statistics into `model`, on the model's device.
    ///
    /// The state dict may be the whole file, or under a key in it, such as `state_dict`. Its names may be under a `module.`, as
    /// in `AveragedModel` and `DataParallel`. The prefix that gives most of the model's names is taken.
    ///
    /// In Burn, a clone shares the model's running statistics. So load into the model itself, and not into a clone of a model
    /// that trains on.
    ///
    /// # Errors
    ///
    /// - [`StateDictError::NoSuchKey`] if there is nothing under the key.
    /// - [`StateDictError::Ambiguous`] if all of the model's names are there under several keys.
    /// - [`StateDictError::Misfit`] if tensors are missing, unknown or wrongly shaped. It lists all of them.
    /// - [`StateDictError::Corrupt`] if there are no tensors at all, or one cannot be read.
    pub fn load<M: Module>(&self, mut model: M) -> Result<M, StateDictError> {
        let expected = tensors(&settled(&model));
        let prefix = self.prefix(&expected)?;
        self.compare(&prefix, &expected)?;

        let mut tensors = Vec::with_capacity(expected.len());
        for expected in &expected {
            let name = format!("{prefix}{}", expected.name);
            let data = bridge::to_data(&self.entries[&name])
                .map_err(|error| self.corrupt(&name, error.to_string()))?;
            // The applier below would give the parameter the file's dtype.
            let data = if data.dtype() == expected.dtype {
                data
            } else {
                data.convert_dtype(expected.dtype)
            };
            tensors.push(bridge::from_data(data, expected.name.clone(), None));
        }
        let result = model.apply(tensors, None, Some(Box::new(PyTorchToBurnAdapter)), true);
        match result.errors.first() {
            None => Ok(model),
            Some(error) => Err(self.corrupt(&prefix, error.to_string())),
        }
    }

    /// The prefix of the model's names in the file. Of all prefixes of the name of one of its tensors, it is the one that most of
    /// its tensors have.
    fn prefix(&self, expected: &[Entry]) -> Result<String, StateDictError> {
        let below = self
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!("{key}."));
        let names = self.entries.keys().filter(|name| name.starts_with(&below));
        let names: Vec<&str> = names.map(String::as_str).collect();
        if names.is_empty() {
            return Err(self.nothing_there());
        }
        let prefixes: BTreeSet<&str> = names
            .iter()
            .flat_map(|name| {
                let before = expected.iter().map(|entry| name.strip_suffix(&entry.name));
                let whole_parts = |before: &&str| before.is_empty() || before.ends_with('.');
                before.flatten().filter(whole_parts)
            })
            .filter(|prefix| prefix.starts_with(&below))
            .collect();
        let names_under = |prefix: &str| {
            let names = expected
                .iter()
                .map(|entry| format!("{prefix}{}", entry.name));
            names.filter(|name| self.entries.contains_key(name)).count()
        };
        let complete = prefixes
            .iter()
            .copied()
            .filter(|prefix| names_under(prefix) == expected.len());
        let complete: Vec<&str> = complete.collect();
        match complete.as_slice() {
            [only] => Ok((*only).to_owned()),
            // The network directly under the key, or directly in the file, has priority.
            [first, ..] if *first == below => Ok(below),
            [] => {
                // Of equally good ones, the shortest.
                let best = prefixes
                    .into_iter()
                    .max_by_key(|prefix| (names_under(prefix), usize::MAX - prefix.len()));
                Ok(best.unwrap_or(&below).to_owned())
            }
            several => Err(self.ambiguous(several.iter().copied())),
        }
    }

    fn nothing_there(&self) -> StateDictError {
        let first_parts = self.entries.keys().map(|name| match name.split_once('.') {
            None => name.clone(),
            Some((first, _)) => first.to_owned(),
        });
        let keys: BTreeSet<String> = first_parts.collect();
        match &self.key {
            Some(key) if !keys.is_empty() => StateDictError::NoSuchKey {
                path: self.path.clone(),
                key: key.clone(),
                keys: keys.into_iter().collect(),
            },
            _ => StateDictError::Corrupt {
                path: self.path.clone(),
                reason: "it holds no tensor".to_owned(),
            },
        }
    }

    fn ambiguous<'a>(&self, prefixes: impl Iterator<Item = &'a str>) -> StateDictError {
        let keys = prefixes.map(|prefix| prefix.trim_end_matches('.').to_owned());
        StateDictError::Ambiguous {
            path: self.path.clone(),
            keys: keys.collect(),
        }
    }

    fn corrupt(&self, name: &str, reason: String) -> StateDictError {
        StateDictError::Corrupt {
            path: self.path.clone(),
            reason: format!("`{name}` cannot be read: {reason}"),
        }
    }

    /// Checks that the tensors under `prefix` are those of the model, by name and by shape.
    fn compare(&self, prefix: &str, expected: &[Entry]) -> Result<(), StateDictError> {
        let mut missing = Vec::new();
        let mut misshapen = Vec::new();
        for expected in expected {
            match self.entries.get(&format!("{prefix}{}", expected.name)) {
                None => missing.push(expected.name.clone()),
                Some(entry)
                    if entry.shape != expected.shape
                        || !entry.dtype.is_float()
                        || !expected.dtype.is_float() =>
                {
                    misshapen.push(format!(
                        "{} is {}, expected {}",
                        expected.name,
                        described(entry.dtype, &entry.shape),
                        described(expected.dtype, &expected.shape),
                    ));
                }
                Some(_) => {}
            }
        }
        let known: BTreeSet<&str> = expected.iter().map(|entry| entry.name.as_str()).collect();
        let unknown: Vec<String> = self
            .entries
            .keys()
            .filter_map(|name| name.strip_prefix(prefix))
            .filter(|name| !known.contains(name) && !is_a_count(name))
            .map(str::to_owned)
            .collect();
        if missing.is_empty() && unknown.is_empty() && misshapen.is_empty() {
            return Ok(());
        }
        Err(StateDictError::Misfit {
            path: self.path.clone(),
            tensors: expected.len(),
            missing,
            unknown,
            misshapen,
        })
    }

    /// The number of updates in the state dict of an `AveragedModel`, to continue its average.
    ///
    /// # Errors
    ///
    /// [`StateDictError::Ambiguous`] if several keys have one, [`StateDictError::Corrupt`] if it cannot be read, or is no such
    /// number.
    pub fn updates(&self) -> Result<Option<usize>, StateDictError> {
        // The count is beside the `module` that holds the network.
        let key = self.key.as_ref().map(|key| format!("{key}."));
        let below = match key.as_deref() {
            None | Some(AVERAGED_MODEL) => "",
            Some(key) => match key.strip_suffix(AVERAGED_MODEL) {
                Some(before) if before.ends_with('.') => before,
                _ => key,
            },
        };
        let counts: Vec<&Entry> = self
            .entries
            .values()
            .filter(|entry| entry.name.starts_with(below))
            .filter(|entry| entry.name.rsplit('.').next() == Some(UPDATES))
            .collect();
        let count = match counts.as_slice() {
            [] => return Ok(None),
            [only] => only,
            several => {
                let prefixes = several
                    .iter()
                    .filter_map(|entry| entry.name.strip_suffix(UPDATES));
                return Err(self.ambiguous(prefixes));
            }
        };
        let corrupt = |reason: String| self.corrupt(&count.name, reason);
        let is_one_integer = count.shape.num_elements() == 1 && count.dtype.is_int();
        if !is_one_integer {
            let got = described(count.dtype, &count.shape);
            return Err(corrupt(format!("expected one integer, got {got}")));
        }
        let data = bridge::to_data(count).map_err(|error| corrupt(error.to_string()))?;
        let value = data.iter::<i64>().next().unwrap_or_default();
        match usize::try_from(value) {
            Ok(updates) => Ok(Some(updates)),
            Err(_) => Err(corrupt(format!("expected at least 0, got {value}"))),
        }
    }
}

/// Tells whether an entry is one of PyTorch's counts, which Burn's modules do not have.
fn is_a_count(name: &str) -> bool {
    name == UPDATES || name.rsplit('.').next() == Some(BATCHES_TRACKED)
}

fn described(dtype: DType, shape: &Shape) -> String {
    if dtype.is_float() {
        format!("{:?}", shape.to_vec())
    } else {
        format!("{:?} of {dtype:?}", shape.to_vec())
    }
}
