//! The wrapper as a module: the live model, with the average and the number of steps in its records.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;
use burn::train::LearnerModel;

use super::Swa;
use crate::burn_0_22::is_sharder;

/// The container that the fields of a `Swa` are visited in.
const CONTAINER: &str = "Struct:Swa";

impl<M: LearnerModel, const LIVE: bool> Module for Swa<M, LIVE> {
    /// Where the live model is: the average follows it.
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.model.collect_devices(devices)
    }

    /// Forks the live model alone. Burn forks the whole module to every device at every step of a
    /// multi-device training, and no worker there needs the average.
    fn fork(mut self, device: &Device) -> Self {
        self.model = self.model.fork(device);
        self.evaluated = OnceCell::new();
        self
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.model = self.model.to_device(device);
        self.with_average(|average| average.to_device(device))
    }

    fn train(mut self) -> Self {
        self.model = self.model.train();
        self.evaluated = OnceCell::new();
        self
    }

    /// A copy for validation, which later steps of the training leave alone. What it evaluates is kept for
    /// [`Swa::into_averaged`].
    fn valid(&self) -> Self {
        self.check();
        let valid = Self {
            model: self.model.valid(),
            ..self.clone()
        };
        let evaluation = valid.evaluation.clone();
        Self {
            evaluation,
            ..valid.with_average(|average| average)
        }
    }

    fn materialize(mut self) -> Self {
        self.model = self.model.materialize();
        self
    }

    /// Of the live model, as if it were alone.
    fn num_params(&self) -> usize {
        self.model.num_params()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        // The live model first: its parameters have the same ids as the average's, and whoever looks
        // gradients up by id must meet them first.
        visitor.enter_module("model", CONTAINER);
        self.model.visit(visitor);
        visitor.exit_module("model", CONTAINER);

        visitor.enter_module("average", CONTAINER);
        self.collected().average.visit(visitor);
        visitor.exit_module("average", CONTAINER);

        visitor.enter_module("steps", CONTAINER);
        visitor.visit_int(&self.steps.param(&self.device()));
        visitor.exit_module("steps", CONTAINER);
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        mapper.enter_module("model", CONTAINER);
        self.model = self.model.map(mapper);
        mapper.exit_module("model", CONTAINER);

        if is_sharder::<Mapper>() {
            return self.into_replica();
        }

        mapper.enter_module("average", CONTAINER);
        self = self.with_average(|average| average.map(mapper));
        mapper.exit_module("average", CONTAINER);

        mapper.enter_module("steps", CONTAINER);
        let device = self.device();
        let before = self.steps();
        self.steps = self.steps.map(mapper, &device);
        if self.steps() != before {
            // A record's: what failed before is not of its steps.
            self.failure = Arc::new(self.failure.of_its_own());
        }
        mapper.exit_module("steps", CONTAINER);
        self
    }
}

impl<M: LearnerModel, const LIVE: bool> Swa<M, LIVE> {
    /// A replica that averages by itself: an average that all shared would move from device to device,
    /// to whichever worker is the first at a step.
    fn into_replica(mut self) -> Self {
        self.is_replica = true;
        self.with_average(|average| average)
    }
}
