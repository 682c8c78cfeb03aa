//! The wrapper as a module: the live model, with the averages and the number of steps in its records.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor, Param};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::{Device, Int, Tensor};
use burn::train::LearnerModel;
use swa_core::Counter;

use super::{RECORD_FORMAT, Swa};
use crate::SwaError;
use crate::burn_0_22::is_sharder;
use crate::collect::converted_steps;

/// The container that the fields of a `Swa` are visited in.
const CONTAINER: &str = "Struct:Swa";

impl<M: LearnerModel> Module for Swa<M> {
    /// The devices of the live model, which the average follows.
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.model.collect_devices(devices)
    }

    /// Forks only the live model. Burn forks the whole module to every device at every step of a
    /// multi-device training, and no worker there needs the average.
    fn fork(mut self, device: &Device) -> Self {
        self.model = self.model.fork(device);
        self.evaluated = OnceCell::new();
        self
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.model = self.model.to_device(device);
        let collectors = self.collectors();
        self.with_collectors(collectors.with_each(|average| average.to_device(device)))
    }

    fn train(mut self) -> Self {
        self.model = self.model.train();
        self.evaluated = OnceCell::new();
        self
    }

    /// A copy for validation, which later steps of the training do not change. The models that it evaluates
    /// are kept for [`Swa::averaged_model`].
    fn valid(&self) -> Self {
        self.check();
        Self {
            model: self.model.valid(),
            snapshot: Some(self.collectors()),
            ..self.clone()
        }
    }

    fn materialize(mut self) -> Self {
        self.model = self.model.materialize();
        self
    }

    /// The number of parameters of the live model alone.
    fn num_params(&self) -> usize {
        self.model.num_params()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        // The live model is visited first. Its parameters have the same ids as the average's, and a
        // visitor that looks up gradients by id must find those of the live model.
        visitor.enter_module("model", CONTAINER);
        self.model.visit(visitor);
        visitor.exit_module("model", CONTAINER);

        self.read(|collectors| collectors.visit(visitor, CONTAINER));

        let device = self.device();
        let (steps, steps_per_epoch) = self.recorded_steps();
        for (name, number) in [
            ("steps", &steps),
            ("format", &self.format),
            ("steps_per_epoch", &steps_per_epoch),
        ] {
            visitor.enter_module(name, CONTAINER);
            visitor.visit_int(&number.param(&device));
            visitor.exit_module(name, CONTAINER);
        }
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        mapper.enter_module("model", CONTAINER);
        self.model = self.model.map(mapper);
        mapper.exit_module("model", CONTAINER);

        if is_sharder::<Mapper>() {
            return self.into_replica();
        }

        let collectors = self.collectors().map(mapper, CONTAINER);
        self = self.with_collectors(collectors);

        let device = self.device();
        mapper.enter_module("steps", CONTAINER);
        let before = self.steps();
        self.steps = self.steps.map(mapper, &device);
        if self.steps() != before {
            // A record was loaded, and the earlier failures are not of its steps.
            self.failures = Arc::default();
            self.steps_changed = None;
        }
        mapper.exit_module("steps", CONTAINER);

        if self.format.value > 0 {
            mapper.enter_module("format", CONTAINER);
            self.format = self.format.map(mapper, &device);
            mapper.exit_module("format", CONTAINER);
        }
        if self.format.value > 1 {
            mapper.enter_module("steps_per_epoch", CONTAINER);
            let now = self.steps_per_epoch.value;
            let (_, recorded) = self.recorded_steps();
            self.steps_per_epoch = recorded.clone().map(mapper, &device);
            let before = std::mem::replace(&mut self.steps_per_epoch.value, now);
            if before != recorded.value {
                // Another record was loaded.
                self.failures = Arc::default();
                self.steps_changed = None;
                self.convert_steps(before);
            }
            mapper.exit_module("steps_per_epoch", CONTAINER);
        }
        // Records that are written from here on are of this version's format.
        self.format.value = RECORD_FORMAT;
        self
    }

    /// Takes records of earlier versions too.
    ///
    /// # Errors
    ///
    /// [`RecordError::Validation`] for the record of another model, and for that of a later version.
    fn try_load_record(mut self, record: ModuleRecord) -> Result<Self, RecordError> {
        let format = Format::of(&record, &self.device())?;
        if format > RECORD_FORMAT {
            return Err(RecordError::Validation(format!(
                "the record has format {format}, and this version of swa-train reads those up to {RECORD_FORMAT}: load it with the \
                 version that wrote it, or a later one"
            )));
        }
        self.format.value = format;
        // A module cannot call the method that it overrides. An option, which has the same paths, can.
        match Some(self).try_load_record(record)? {
            Some(swa) => Ok(swa),
            None => unreachable!("an option that is mapped keeps its module"),
        }
    }
}

/// The entry of a record that says its format.
#[derive(Module, Debug)]
struct Format {
    format: Param<Tensor<1, Int>>,
}

impl Format {
    /// The number of the format of a record: 0 if it has no such entry.
    fn of(record: &ModuleRecord, device: &Device) -> Result<usize, RecordError> {
        let none = Counter::new(0).param(device);
        let format = Self { format: none };
        // A clone of a record from a file takes no memory, since its tensors are read when they are used. A clone of a record in
        // memory is a copy for a moment.
        let record = record.clone().allow_partial(true).allow_unused(true);
        let format = format.try_load_record(record)?.format;
        Ok(Counter::of(&format).value)
    }
}

impl<M: LearnerModel> Swa<M> {
    /// The number of steps, and of those in an epoch, for a record. If the steps of a record could not be converted, these are still
    /// the record's, so that a checkpoint of a training that went on nevertheless is refused too.
    fn recorded_steps(&self) -> (Counter, Counter) {
        let (mut all, mut of_epoch) = (self.steps.clone(), self.steps_per_epoch.clone());
        if let Some(SwaError::StepsChanged { steps, before, .. }) = self.steps_changed {
            (all.value, of_epoch.value) = (steps, before);
        }
        (all, of_epoch)
    }

    /// Converts the steps of a record in which an epoch had `before` of them.
    fn convert_steps(&mut self, before: usize) {
        let (steps, now) = (self.steps(), self.steps_per_epoch.value);
        if before == now || before == 0 {
            return;
        }
        if steps.is_multiple_of(before) {
            self.steps.value = converted_steps(steps, before, now);
            let epochs = steps / before;
            log::info!("SWA: resumes after {epochs} epochs of {before} steps with {now} an epoch");
        } else {
            self.steps_changed = Some(SwaError::StepsChanged { steps, before, now });
        }
    }

    /// A replica with its own average. A shared average would move from device to device, to the first
    /// worker of each step.
    fn into_replica(mut self) -> Self {
        self.is_replica = true;
        let collectors = self.collectors();
        self.with_collectors(collectors)
    }
}
