//! What a record holds, before it is loaded.

use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Device;
use swa_core::Counter;

use super::RECORD_FORMAT;
use super::collector::MAIN;

/// The name that all entries of SWA are below.
pub(crate) const PREFIX: &str = "swa_train";

/// The entry that is 1 if the first average has the running statistics that validation shows, and 0 if they are the training's
/// latest, and still to be re-estimated.
pub(crate) const IS_READY: &str = "is_ready";

/// What a record holds.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    /// The number of its format, or `None` for a record of a training without SWA.
    pub(crate) format: Option<usize>,
    /// True if the running statistics of the first average need no re-estimation. Earlier formats do not tell.
    pub(crate) is_ready: bool,
    /// The names of the averages that it holds, of those that were asked for.
    averages: Vec<String>,
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
        let number = |path: &[&str]| number_at(record, path, device);
        let format = match number(&[PREFIX, "format"])? {
            Some(format) => Some(format),
            // A model of the user's own may have a field `average`, such as an average of its own.
            None => match (number(&["average", "updates"])?, number(&["steps"])?) {
                (Some(_updates), Some(_steps)) => Some(number(&["format"])?.unwrap_or(0)),
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
        let prefix: &[&str] = if format.is_none_or(is_below_prefix) {
            &[PREFIX]
        } else {
            &[]
        };
        let mut averages = Vec::new();
        for name in names {
            let name = &**name;
            let path: &[&str] = if name == MAIN {
                &["average", "updates"]
            } else {
                &["averages", name, "updates"]
            };
            if number(&[prefix, path].concat())?.is_some() {
                averages.push(name.to_owned());
            }
        }
        Ok(Self {
            format,
            is_ready: number(&[PREFIX, IS_READY])? == Some(1),
            averages,
        })
    }

    /// Tells whether SWA's entries are below [`PREFIX`], and the live model's on the first level.
    pub(crate) fn is_below_prefix(&self) -> bool {
        self.format.is_none_or(is_below_prefix)
    }

    /// Tells whether it holds the average with this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.averages.iter().any(|held| held == name)
    }
}

fn is_below_prefix(format: usize) -> bool {
    format > 2
}

/// The number at a path of a record, if there is one.
fn number_at(
    record: &ModuleRecord,
    path: &[&str],
    device: &Device,
) -> Result<Option<usize>, RecordError> {
    let probe = Below {
        path,
        module: Counter::new(0).param(device),
    };
    // A clone of a record from a file takes no memory, since its tensors are read when they are used. A clone of a record in
    // memory is a copy for a moment. An entry of another shape is no number of ours.
    let record = record.clone().allow_partial(true).allow_unused(true);
    let found = probe.try_load_record(record.validate(false))?.module;
    Ok(found.is_initialized().then(|| Counter::of(&found).value))
}

/// A module below a path.
#[derive(Debug, Clone)]
pub(crate) struct Below<'a, M> {
    pub(crate) path: &'a [&'a str],
    pub(crate) module: M,
}

impl<M: Module> Below<'_, M> {
    fn with(self, change: impl FnOnce(M) -> M) -> Self {
        Self {
            module: change(self.module),
            ..self
        }
    }
}

impl<M: Module> Module for Below<'_, M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.module.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.with(|module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|module| module.to_device(device))
    }

    fn train(self) -> Self {
        self.with(Module::train)
    }

    fn valid(&self) -> Self {
        Self {
            module: self.module.valid(),
            ..*self
        }
    }

    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for name in self.path {
            visitor.enter_module(name, "");
        }
        self.module.visit(visitor);
        for name in self.path {
            visitor.exit_module(name, "");
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        for name in self.path {
            mapper.enter_module(name, "");
        }
        let mapped = Self {
            module: self.module.map(mapper),
            ..self
        };
        for name in mapped.path {
            mapper.exit_module(name, "");
        }
        mapped
    }
}
