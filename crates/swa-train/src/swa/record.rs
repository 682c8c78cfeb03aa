//! The contents of a record, before it is loaded.

use std::collections::HashMap;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Device;
use swa_core::Counter;

use super::RECORD_FORMAT;
use super::collector::{MAIN, MEMBERS, SNAPSHOTS};

/// The name that all entries of SWA are below.
pub(crate) const PREFIX: &str = "swa_train";

/// The entry with the number of updates of the first average that its running statistics are of: those that validation shows. After
/// another number of updates, they are the training's latest, and still to be re-estimated.
pub(crate) const STATISTICS_OF: &str = "statistics_of";

/// The entry with the number of deviations that are kept for SWAG.
const SWAG_RANK: &str = "average.rank";

/// The contents of a record: by default, nothing of SWA.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// The number of its format, or `None` for a record of a training without SWA.
    pub(crate) format: Option<usize>,
    /// True if the running statistics of the first average need no re-estimation. Earlier formats do not tell.
    pub(crate) is_ready: bool,
    /// The names of the averages that it holds, of those that were asked for.
    averages: Vec<Arc<str>>,
    /// True if it holds the first average, asked for or not.
    has_average: bool,
    /// The number of deviations that SWAG keeps, if the first average has some.
    swag_rank: Option<usize>,
    /// True if it holds members of an ensemble.
    pub(crate) has_members: bool,
    /// The names of the averages that it holds snapshots of, of those that were asked for.
    snapshots: Vec<Arc<str>>,
}

impl Contents {
    /// Looks into a record, for averages with these names.
    ///
    /// # Errors
    ///
    /// [`RecordError::Validation`] for a record of a later version.
    pub(crate) fn of(
        record: &ModuleRecord,
        names: &[Arc<str>],
        device: &Device,
    ) -> Result<Self, RecordError> {
        let below = |path: &str| format!("{PREFIX}.{path}");
        let updates = |name: &str| {
            if name == MAIN {
                "average.updates".to_owned()
            } else {
                format!("averages.{name}.updates")
            }
        };
        let of_members = format!("{MEMBERS}.count");
        let first = ["format", "steps", STATISTICS_OF, &of_members, SWAG_RANK].map(str::to_owned);
        let named = [MAIN].into_iter().chain(names.iter().map(|name| &**name));
        let earlier: Vec<String> = first.into_iter().chain(named.map(updates)).collect();
        let of_snapshots = |name: &str| below(&format!("{SNAPSHOTS}.{name}.count"));
        let now = earlier.iter().map(|path| below(path));
        let now = now.chain(names.iter().map(|name| of_snapshots(name)));
        let numbers = numbers(record, now.chain(earlier.iter().cloned()), device)?;
        let number = |path: &str| numbers.get(path).copied();

        let format = match number(&below("format")) {
            Some(format) => Some(format),
            // A model of the user's own may have a field `average`, such as an average of its own.
            None => match (number(&updates(MAIN)), number("steps")) {
                (Some(_updates), Some(_steps)) => Some(number("format").unwrap_or(0)),
                _ => None,
            },
        };
        if let Some(format) = format
            && format > RECORD_FORMAT
        {
            return Err(RecordError::Validation(format!(
                "the record has format {format}, and this version of swa-train reads those up to {RECORD_FORMAT}: load it with the \
                 version that wrote it, or a later one"
            )));
        }
        let is_held = |name: &str| {
            let path = updates(name);
            if format.is_none_or(is_below_prefix) {
                number(&below(&path)).is_some()
            } else {
                number(&path).is_some()
            }
        };
        let statistics_of = number(&below(STATISTICS_OF));
        Ok(Self {
            format,
            is_ready: statistics_of.is_some() && statistics_of == number(&below(&updates(MAIN))),
            averages: names.iter().filter(|name| is_held(name)).cloned().collect(),
            has_average: is_held(MAIN),
            swag_rank: number(&below(SWAG_RANK)),
            has_members: number(&below(&of_members)).is_some(),
            snapshots: names
                .iter()
                .filter(|name| number(&of_snapshots(name)).is_some())
                .cloned()
                .collect(),
        })
    }

    /// Tells whether SWA's entries are below [`PREFIX`], and the live model's on the first level.
    pub(crate) fn is_below_prefix(&self) -> bool {
        self.format.is_none_or(is_below_prefix)
    }

    /// The reason why it may not fit a training with collectors like these, and what to do: none if it holds what they collect. (With
    /// options of Burn's, such as `allow_unused`, it may fit all the same.)
    pub(super) fn difference(
        &self,
        has_average: bool,
        has_members: bool,
        swag_rank: Option<usize>,
    ) -> Option<String> {
        let deviations = |rank: Option<usize>| match rank {
            Some(rank) => format!("{rank} deviations"),
            None => "no deviations".to_owned(),
        };
        if self.has_average && !has_average {
            Some(
                "the record holds an average, and this training collects the members of an ensemble alone: wrap the model by \
                 `SwaConfig::init` and `with_members`, or begin with the model of `load_live`"
                    .to_owned(),
            )
        } else if self.has_average && self.swag_rank != swag_rank {
            Some(format!(
                "the record is of a training that keeps {} for SWAG, and this one keeps {}: go on with \
                 `SwaConfig::with_swag_rank({:?})`",
                deviations(self.swag_rank),
                deviations(swag_rank),
                self.swag_rank,
            ))
        } else if self.has_members && !has_members {
            Some(
                "the record holds the members of an ensemble, and this training collects none: add `with_members`"
                    .to_owned(),
            )
        } else {
            None
        }
    }

    /// Tells whether it holds snapshots of the average with this name.
    pub(crate) fn holds_snapshots(&self, name: &str) -> bool {
        self.snapshots.iter().any(|held| **held == *name)
    }

    /// Tells whether it holds the average with this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.averages.iter().any(|held| **held == *name)
    }
}

fn is_below_prefix(format: usize) -> bool {
    format > 2
}

/// The numbers at those of the paths where a record has one.
fn numbers(
    record: &ModuleRecord,
    paths: impl Iterator<Item = String>,
    device: &Device,
) -> Result<HashMap<String, usize>, RecordError> {
    let probes = paths.map(|path| (path, Counter::new(0).param(device)));
    // A clone of a record from a file takes no memory, since its tensors are read when they are used. A clone of a record in
    // memory is a copy for a moment. An entry of another shape is no number of ours.
    let record = record.clone().allow_partial(true).allow_unused(true);
    let found = Below(probes.collect()).try_load_record(record.validate(false))?;
    let found = found.0.into_iter().filter(|(_, it)| it.is_initialized());
    Ok(found
        .map(|(path, it)| (path, Counter::of(&it).value))
        .collect())
}

/// Modules, each below a path of its own, which is dotted, or empty for the first level.
#[derive(Debug, Clone)]
pub(crate) struct Below<M>(pub(crate) Vec<(String, M)>);

impl<M: Module> Below<M> {
    fn map_each(self, mut change: impl FnMut(&str, M) -> M) -> Self {
        let modules = self.0.into_iter().map(|(path, module)| {
            let module = change(&path, module);
            (path, module)
        });
        Self(modules.collect())
    }
}

impl<M: Module> Module for Below<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let modules = self.0.iter();
        modules.fold(devices, |devices, (_, module)| {
            module.collect_devices(devices)
        })
    }

    fn fork(self, device: &Device) -> Self {
        self.map_each(|_, module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_each(|_, module| module.to_device(device))
    }

    fn train(self) -> Self {
        self.map_each(|_, module| module.train())
    }

    fn valid(&self) -> Self {
        let modules = self.0.iter();
        Self(
            modules
                .map(|(path, module)| (path.clone(), module.valid()))
                .collect(),
        )
    }

    fn materialize(self) -> Self {
        self.map_each(|_, module| module.materialize())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (path, module) in &self.0 {
            if path.is_empty() {
                module.visit(visitor);
                continue;
            }
            visitor.enter_module(path, "");
            module.visit(visitor);
            visitor.exit_module(path, "");
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        self.map_each(|path, module| {
            if path.is_empty() {
                return module.map(mapper);
            }
            mapper.enter_module(path, "");
            let module = module.map(mapper);
            mapper.exit_module(path, "");
            module
        })
    }
}
