//! Loading a state dict into a network. This finds it in its file, and checks that it fits the network.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::{DType, Shape, TensorData};

use super::{AVERAGED_MODEL, BATCHES_TRACKED, Entry, StateDict, StateDictError, UPDATES, tensors};
use crate::burn_0_22::settled;

/// The tensors that [`StateDict::load_partly`] left, by PyTorch's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotLoaded {
    /// Tensors of the network that are not in the file. They keep their values.
    pub missing: Vec<String>,
    /// Tensors of the file that the network does not have.
    pub unknown: Vec<String>,
    /// Tensors of another shape or kind in the file: name, shape found and shape expected, in PyTorch's layout. They keep their
    /// values.
    pub misshapen: Vec<String>,
}

impl NotLoaded {
    /// Tells whether everything was loaded.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty() && self.misshapen.is_empty()
    }
}

/// A tensor of the network, and what else it may be called in a file.
struct Expected {
    entry: Entry,
    /// The other tensors of the network that are this very parameter: its weights are tied to theirs.
    tied: Vec<String>,
}

impl StateDict {
    /// Loads these parameters and running statistics into `model`, on the model's device.
    ///
    /// The state dict may be the whole file, or under a key in it, such as `state_dict`. Its names may be under a `module.`, as
    /// in `AveragedModel` and `DataParallel`. The prefix that gives most of the model's names is taken.
    ///
    /// Tied weights may be in the file once. A name that is not there takes the tensor of another one: of one that is the same
    /// parameter in `model` (that has its [`ParamId`](burn::module::ParamId)), or of the one that the file's metadata name, as
    /// `safetensors.torch.save_model` writes them.
    ///
    /// Floats take on the dtype of the model's; so do ints and bools, if none of them changes its value. Those of a SafeTensors
    /// file without a `format`, in which there are none, keep their values: earlier versions did not write them.
    ///
    /// In Burn, a clone shares the model's running statistics. So load into the model itself, and not into a clone of a model
    /// that trains on.
    ///
    /// # Errors
    ///
    /// - [`StateDictError::NoSuchKey`] if there is nothing under the key.
    /// - [`StateDictError::NoSuchPart`] if neither the file nor the model has a part that is to be left as it is.
    /// - [`StateDictError::Ambiguous`] if all of the model's names are there under several keys.
    /// - [`StateDictError::Misfit`] if tensors are missing, unknown, wrongly shaped or of another kind. It lists all of them.
    /// - [`StateDictError::Corrupt`] if there are no tensors at all, or one cannot be read.
    pub fn load<M: Module>(&self, model: M) -> Result<M, StateDictError> {
        let (model, tensors, left) = self.load_what_fits(model, true)?;
        if left.is_empty() {
            Ok(model)
        } else {
            Err(self.misfit(tensors, left))
        }
    }

    /// Loads what fits into `model`, and lists what was left, as PyTorch's `load_state_dict(..., strict=False)` does. Unlike
    /// PyTorch, it leaves tensors of another shape, too. See [`without`](Self::without) to name what is left.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load); [`StateDictError::Misfit`] only if nothing fits, and [`StateDictError::Ambiguous`] also if
    /// several keys have equally many of the model's names.
    pub fn load_partly<M: Module>(&self, model: M) -> Result<(M, NotLoaded), StateDictError> {
        let (model, _, left) = self.load_what_fits(model, false)?;
        Ok((model, left))
    }

    /// Loads what fits, or nothing if a `whole` network is asked for and something does not. Returns the number of the network's
    /// tensors too.
    fn load_what_fits<M: Module>(
        &self,
        mut model: M,
        whole: bool,
    ) -> Result<(M, usize, NotLoaded), StateDictError> {
        let entries = tensors(&settled(&model));
        let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        let expected = self.expected(entries);
        let count = expected.len();
        let prefix = self.prefix(&expected, whole)?;
        self.check_parts(&prefix, names)?;
        let (pairs, mut left) = self.compare(&prefix, &expected);
        if whole && !left.is_empty() {
            return Ok((model, count, left));
        }

        let mut tensors = Vec::with_capacity(count);
        for (expected, found) in pairs {
            let corrupt = |reason: String| self.corrupt(&found.name, reason);
            let data = bridge::to_data(found).map_err(|error| corrupt(error.to_string()))?;
            // The applier below would give the parameter the file's dtype.
            match cast(data, expected.dtype).map_err(corrupt)? {
                Some(data) => {
                    tensors.push(bridge::from_data(data, expected.name.clone(), None));
                }
                None => left.misshapen.push(format!(
                    "{} is {} and holds values that are none of {:?}",
                    expected.name,
                    described(found.dtype, &found.shape),
                    expected.dtype,
                )),
            }
        }
        if whole && !left.is_empty() {
            return Ok((model, count, left));
        }
        if tensors.is_empty() && count > 0 {
            return Err(self.misfit(count, left));
        }
        let result = model.apply(tensors, None, Some(Box::new(PyTorchToBurnAdapter)), true);
        match result.errors.first() {
            None => Ok((model, count, left)),
            Some(error) => Err(self.corrupt(&prefix, error.to_string())),
        }
    }

    /// Those of the network's tensors that are to be loaded.
    fn expected(&self, entries: Vec<Entry>) -> Vec<Expected> {
        let mut names = BTreeMap::<u64, Vec<String>>::new();
        for entry in &entries {
            if let Some(id) = entry.param_id {
                names.entry(id).or_default().push(entry.name.clone());
            }
        }
        let entries = entries
            .into_iter()
            .filter(|entry| !self.leaves(&entry.name));
        let expected = entries.map(|entry| {
            let same = entry.param_id.and_then(|id| names.get(&id));
            let others = same.into_iter().flatten();
            Expected {
                tied: others
                    .filter(|name| **name != entry.name)
                    .cloned()
                    .collect(),
                entry,
            }
        });
        expected.collect()
    }

    /// Tells whether a tensor of the network is to keep its values.
    fn leaves(&self, name: &str) -> bool {
        self.without.iter().any(|part| is_in(name, part))
    }

    /// Checks that each part that is to be left as it is exists: here, or among the `names` of the network's tensors.
    fn check_parts(&self, prefix: &str, mut names: Vec<String>) -> Result<(), StateDictError> {
        let in_file = self.entries.keys().filter_map(|it| it.strip_prefix(prefix));
        names.extend(in_file.map(str::to_owned));
        let unknown = self
            .without
            .iter()
            .find(|part| !names.iter().any(|name| is_in(name, part)));
        match unknown {
            None => Ok(()),
            Some(part) => Err(StateDictError::NoSuchPart {
                path: self.path.clone(),
                part: part.clone(),
                parts: first_parts(names.iter().map(String::as_str)),
            }),
        }
    }

    /// The tensor that `expected` takes its values from, with all names under `prefix`.
    fn find(&self, prefix: &str, expected: &Expected) -> Option<&Entry> {
        let name = format!("{prefix}{}", expected.entry.name);
        let there = self.entries.get(&name);
        let named = || self.entries.get(self.metadata.get(&name)?);
        let tied = || {
            let mut others = expected.tied.iter();
            others.find_map(|other| {
                let other = self.entries.get(&format!("{prefix}{other}"))?;
                // Burn has the transpose of a linear layer's weight.
                (other.shape == expected.entry.shape).then_some(other)
            })
        };
        there.or_else(named).or_else(tied)
    }

    /// The prefix of the model's names in the file. Of all prefixes of the name of one of its tensors, it is the one that most of
    /// its tensors have.
    fn prefix(&self, expected: &[Expected], whole: bool) -> Result<String, StateDictError> {
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
                let before = expected
                    .iter()
                    .map(|expected| name.strip_suffix(&expected.entry.name));
                let whole_parts = |before: &&str| before.is_empty() || before.ends_with('.');
                before.flatten().filter(whole_parts)
            })
            .filter(|prefix| prefix.starts_with(&below))
            .collect();
        let found_under = |prefix: &str| {
            let found = expected.iter().filter_map(|it| self.find(prefix, it));
            found.count()
        };
        let found: Vec<(&str, usize)> = prefixes
            .into_iter()
            .map(|prefix| (prefix, found_under(prefix)))
            .collect();
        let most = found.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let best = found.into_iter().filter(|(_, count)| *count == most);
        let best: Vec<&str> = best.map(|(prefix, _)| prefix).collect();
        match best.as_slice() {
            [] => Ok(below),
            [only] => Ok((*only).to_owned()),
            // The network directly under the key, or directly in the file, has priority.
            [first, ..] if *first == below => Ok(below),
            // Whichever it is, it will be refused. The shortest is the most probable.
            several if whole && most < expected.len() => {
                let shortest = several.iter().min_by_key(|prefix| prefix.len());
                Ok(shortest.map_or(below, |prefix| (*prefix).to_owned()))
            }
            several => Err(self.ambiguous(several.iter().copied())),
        }
    }

    fn nothing_there(&self) -> StateDictError {
        let keys = first_parts(self.entries.keys().map(String::as_str));
        match &self.key {
            Some(key) if !keys.is_empty() => StateDictError::NoSuchKey {
                path: self.path.clone(),
                key: key.clone(),
                keys,
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

    fn misfit(&self, tensors: usize, left: NotLoaded) -> StateDictError {
        StateDictError::Misfit {
            path: self.path.clone(),
            tensors,
            missing: left.missing,
            unknown: left.unknown,
            misshapen: left.misshapen,
        }
    }

    /// Pairs the tensors of the model with those under `prefix`, by name and by shape, and lists what is left on either side.
    fn compare<'a>(
        &'a self,
        prefix: &str,
        expected: &'a [Expected],
    ) -> (Vec<(&'a Entry, &'a Entry)>, NotLoaded) {
        let (mut pairs, mut left) = (Vec::new(), NotLoaded::default());
        let mut known = BTreeSet::new();
        for expected in expected {
            let (found, expected) = (self.find(prefix, expected), &expected.entry);
            match found {
                None if self.lacks_ints && is_whole(expected.dtype) => {}
                None => left.missing.push(expected.name.clone()),
                Some(found) if fits(found, expected) => pairs.push((expected, found)),
                Some(found) => left.misshapen.push(format!(
                    "{} is {}, expected {}",
                    expected.name,
                    described(found.dtype, &found.shape),
                    described(expected.dtype, &expected.shape),
                )),
            }
            known.extend(found.map(|found| found.name.as_str()));
        }
        let others = self
            .entries
            .keys()
            .filter(|name| !known.contains(name.as_str()));
        left.unknown = others
            .filter_map(|name| name.strip_prefix(prefix))
            .filter(|name| !is_a_count(name) && !self.leaves(name))
            .map(str::to_owned)
            .collect();
        (pairs, left)
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

/// Tells whether a tensor is that of this name, or one of the module of this name.
fn is_in(name: &str, part: &str) -> bool {
    let rest = name.strip_prefix(part);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Tells whether an entry is one of PyTorch's counts, which Burn's modules do not have.
pub(super) fn is_a_count(name: &str) -> bool {
    name == UPDATES || name.rsplit('.').next() == Some(BATCHES_TRACKED)
}

/// Tells whether a tensor can take the place of another: it has its shape and is of its kind, which is floats, or ints and bools.
fn fits(found: &Entry, expected: &Entry) -> bool {
    let both = |is: fn(DType) -> bool| is(found.dtype) && is(expected.dtype);
    found.shape == expected.shape && (both(|dtype| dtype.is_float()) || both(is_whole))
}

/// Tells whether a tensor's elements are ints or bools.
pub(super) fn is_whole(dtype: DType) -> bool {
    dtype.is_int() || dtype.is_uint() || dtype.is_bool()
}

/// `data` as `dtype`, which is of the same kind; nothing if an int or a bool is not one of its values.
fn cast(data: TensorData, dtype: DType) -> Result<Option<TensorData>, String> {
    let fits = !is_whole(dtype)
        || match range(dtype) {
            // Bools too, as a damaged file's bytes may be neither 0 nor 1.
            Some((least, most)) => match data.dtype() {
                DType::U64 => data.iter::<u64>().all(|it| it <= most),
                _ => data
                    .iter::<i64>()
                    .all(|it| it >= least && (it < 0 || it as u64 <= most)),
            },
            None => false,
        };
    if !fits {
        return Ok(None);
    }
    let data = data.try_cast(dtype).map_err(|error| error.to_string())?;
    Ok(Some(data))
}

/// The least and the greatest value of an int or a bool.
fn range(dtype: DType) -> Option<(i64, u64)> {
    Some(match dtype {
        DType::I64 => (i64::MIN, i64::MAX as u64),
        DType::I32 => (i64::from(i32::MIN), i32::MAX as u64),
        DType::I16 => (i64::from(i16::MIN), i16::MAX as u64),
        DType::I8 => (i64::from(i8::MIN), i8::MAX as u64),
        DType::U64 => (0, u64::MAX),
        DType::U32 => (0, u64::from(u32::MAX)),
        DType::U16 => (0, u64::from(u16::MAX)),
        DType::U8 => (0, u64::from(u8::MAX)),
        DType::Bool(_) => (0, 1),
        _ => return None,
    })
}

/// The first parts of names with dots, each once.
fn first_parts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let parts = names.map(|name| name.split('.').next().unwrap_or(name));
    let parts: BTreeSet<&str> = parts.collect();
    parts.into_iter().map(str::to_owned).collect()
}

fn described(dtype: DType, shape: &Shape) -> String {
    if dtype.is_float() {
        format!("{:?}", shape.to_vec())
    } else {
        format!("{:?} of {dtype:?}", shape.to_vec())
    }
}
