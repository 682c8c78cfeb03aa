//! Loading a state dict into a network: where it is in its file, and whether it is the network's.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::{DType, Shape};

use super::{AVERAGED_MODEL, BATCHES_TRACKED, Entry, StateDict, StateDictError, UPDATES, tensors};
use crate::burn_0_22::settled;

impl StateDict {
    /// `model` with the parameters and running statistics of this, on the device that it is on.
    ///
    /// The state dict may be the whole file or under a key in it, such as `state_dict`, and its names under a `module.`, as
    /// those of `AveragedModel` and `DataParallel` are: the prefix is taken that gives most of the model's names.
    ///
    /// The running statistics of a clone are the model's own in Burn: load into the model itself, not into a clone of one
    /// that trains on.
    ///
    /// # Errors
    ///
    /// [`StateDictError::NoSuchKey`] if there is nothing under the key, [`StateDictError::Ambiguous`] if all of the model's
    /// names are there under several, [`StateDictError::Misfit`] if there are missing, unknown or wrongly shaped tensors,
    /// which it lists all, [`StateDictError::Corrupt`] if there are no tensors at all, or one cannot be read.
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
            let data = match data.dtype() == expected.dtype {
                true => data,
                false => data.convert_dtype(expected.dtype),
            };
            tensors.push(bridge::from_data(data, expected.name.clone(), None));
        }
        let result = model.apply(tensors, None, Some(Box::new(PyTorchToBurnAdapter)), true);
        match result.errors.first() {
            None => Ok(model),
            Some(error) => Err(self.corrupt(&prefix, error.to_string())),
        }
    }

    /// What stands before the model's names in the file: of all that stand before the name of one of its tensors, that
    /// under which most of them are.
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
            // What is right under the key, or right in the file, needs no further name.
            [first, ..] if *first == below => Ok(below),
            [] => {
                // The shortest of those that are equally good.
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

    /// Whether the tensors under `prefix` are those of the model, by name and by shape.
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

    /// The number of updates that an `AveragedModel`'s state dict says it is of, to continue the average with.
    ///
    /// # Errors
    ///
    /// [`StateDictError::Ambiguous`] if there are several under several keys, [`StateDictError::Corrupt`] if it cannot be
    /// read, or is no such number.
    pub fn updates(&self) -> Result<Option<usize>, StateDictError> {
        // The count stands beside the `module` that the network is in.
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

/// Whether an entry is one of PyTorch's counts, which no module here has a place for.
fn is_a_count(name: &str) -> bool {
    name == UPDATES || name.rsplit('.').next() == Some(BATCHES_TRACKED)
}

fn described(dtype: DType, shape: &Shape) -> String {
    match dtype.is_float() {
        true => format!("{:?}", shape.to_vec()),
        false => format!("{:?} of {dtype:?}", shape.to_vec()),
    }
}
