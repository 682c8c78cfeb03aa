//! The wrapper as a module: the live model, with the averages and the number of steps in its records.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Device;
use burn::train::LearnerModel;
use swa_core::{Average, Counter};

use super::collector::{Collectors, MAIN};
use super::record::{Contents, PREFIX, STATISTICS_OF};
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
        self.with_collectors(collectors.on(device))
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
        self.model.visit(visitor);

        visitor.enter_module(PREFIX, CONTAINER);
        let mut statistics_of = self.statistics_of.clone();
        {
            let state = self.state();
            let collectors = self.snapshot.as_ref().unwrap_or(&state.collectors);
            collectors.visit(visitor, &state.evaluation);
            if let Some(average) = collectors.main()
                && state.evaluation.is_ready(MAIN, average)
            {
                statistics_of.value = average.updates();
            }
        }
        let device = self.device();
        let (steps, steps_per_epoch) = self.recorded_steps();
        for (name, number) in [
            ("steps", &steps),
            ("format", &self.format),
            ("steps_per_epoch", &steps_per_epoch),
            (STATISTICS_OF, &statistics_of),
        ] {
            number.visit_as(name, CONTAINER, visitor, &device);
        }
        visitor.exit_module(PREFIX, CONTAINER);
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        let contents = self.loaded.take();
        let format = contents.as_ref().and_then(|it| it.format);
        let format = format.unwrap_or(RECORD_FORMAT);
        // Where the format has no such level, the entries are on the first one.
        let (of_model, of_swa) = if contents.as_ref().is_none_or(Contents::is_below_prefix) {
            (None, Some(PREFIX))
        } else {
            (Some("model"), None)
        };

        enter(mapper, of_model);
        self.model = self.model.map(mapper);
        exit(mapper, of_model);

        if is_sharder::<Mapper>() {
            return self.into_replica();
        }

        enter(mapper, of_swa);
        let held = contents.as_ref();
        let collectors = self.collectors_to_load(held).map(mapper, held);
        self = self.with_collectors(collectors);

        let device = self.device();
        let (_, mut steps_per_epoch) = self.recorded_steps();
        let now = self.steps_per_epoch.value;
        let mut mapped =
            |number: Counter, name: &str| number.map_as(name, CONTAINER, mapper, &device);
        self.steps = mapped(self.steps, "steps");
        if format > 0 {
            self.format = mapped(self.format, "format");
        }
        if format > 1 {
            steps_per_epoch = mapped(steps_per_epoch, "steps_per_epoch");
        }
        if format > 2 {
            self.statistics_of = mapped(self.statistics_of, STATISTICS_OF);
        }
        exit(mapper, of_swa);

        if self.steps.is_loaded() {
            self.forget_failures();
            self.convert_steps(steps_per_epoch.value);
            self.first_step = self.steps();
        }
        self.steps_per_epoch = steps_per_epoch;
        self.steps_per_epoch.value = now;
        // Records that are written from here on are of this version's format.
        self.format.value = RECORD_FORMAT;
        self
    }

    /// Takes records of earlier versions, and of trainings without SWA, too.
    ///
    /// # Errors
    ///
    /// [`RecordError::Validation`] for the record of another model, for that of a later version, and for that of a training without
    /// SWA whose length is not known.
    fn try_load_record(mut self, record: ModuleRecord) -> Result<Self, RecordError> {
        let names = self.read(Collectors::names);
        let contents = Contents::of(&record, &names, &self.device())?;
        if contents.format.is_none() {
            return self.load_plain_record(record);
        }
        let difference = self.read(|all| {
            let (average, members) = (all.main(), all.members.is_some());
            contents.difference(average.is_some(), members, average.and_then(Average::rank))
        });
        self.loaded = Some(contents);
        // A module cannot call the method that it overrides. An option, which has the same paths, can.
        match (Some(self).try_load_record(record), difference) {
            (Ok(Some(swa)), _) => Ok(swa),
            (Ok(None), _) => unreachable!("an option that is mapped keeps its module"),
            (Err(RecordError::Validation(reason)), Some(difference)) => {
                Err(RecordError::Validation(format!("{difference} ({reason})")))
            }
            (Err(error), _) => Err(error),
        }
    }
}

fn enter<Mapper: ModuleMapper>(mapper: &mut Mapper, name: Option<&str>) {
    if let Some(name) = name {
        mapper.enter_module(name, CONTAINER);
    }
}

fn exit<Mapper: ModuleMapper>(mapper: &mut Mapper, name: Option<&str>) {
    if let Some(name) = name {
        mapper.exit_module(name, CONTAINER);
    }
}

impl<M: LearnerModel> Swa<M> {
    /// Goes on from the record of a training without SWA.
    fn load_plain_record(mut self, record: ModuleRecord) -> Result<Self, RecordError> {
        self.model = self.model.try_load_record(record)?;
        let steps = match self.read(Collectors::run).map(|run| run.plain_steps()) {
            Some(0) => return Err(RecordError::Validation(SwaError::PlainRecord.to_string())),
            Some(steps) => steps,
            // Without epochs, nothing depends on it.
            None => 0,
        };
        let collectors = self.collectors_to_load(Some(&Contents::default()));
        self.steps.value = steps;
        self.first_step = steps;
        self.forget_failures();
        Ok(self.with_collectors(collectors))
    }

    /// The averages that a record is loaded into. Those that it does not hold begin anew, unless this wrapper has not trained: then
    /// they may go on from [`Swa::with_initial_average`].
    fn collectors_to_load(&self, held: Option<&Contents>) -> Collectors<M> {
        let collectors = self.collectors();
        if self.steps() == 0 {
            return collectors;
        }
        collectors.restarted_unless(held)
    }

    /// The number of steps, and of those in an epoch, for a record. If the steps of a record could not be converted, these are still
    /// the record's, so that a checkpoint of a training that went on nevertheless is refused too.
    fn recorded_steps(&self) -> (Counter, Counter) {
        let (mut all, mut of_epoch) = (self.steps.clone(), self.steps_per_epoch.clone());
        if let Some(SwaError::StepsChanged { steps, before, .. }) = self.steps_changed {
            (all.value, of_epoch.value) = (steps, before);
        }
        (all, of_epoch)
    }

    /// Forgets the failures of before, which are not of the steps of the record that was loaded.
    fn forget_failures(&mut self) {
        self.failures = Arc::default();
        self.steps_changed = None;
    }

    /// Converts the steps of a record in which an epoch had `before` of them.
    fn convert_steps(&mut self, before: usize) {
        let (steps, now) = (self.steps(), self.steps_per_epoch.value);
        // Without epochs, then or now, steps are taken as they are.
        if before == now || before == 0 || now == 0 {
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
