//! A curve as a module: its bends, and what else its records hold.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Device;
use burn::train::LearnerModel;
use swa_core::Counter;

use super::{Curve, CurveShape};
use crate::burn_0_22::unshared;

/// The container that the fields of a curve are visited in.
const CONTAINER: &str = "Struct:Curve";

impl<M: LearnerModel> Module for Curve<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let bends = self.bends.iter();
        bends.fold(devices, |devices, bend| bend.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.with_bends(|bend| unshared(bend).fork(device))
            .with_ends_on(device)
    }

    fn to_device(self, device: &Device) -> Self {
        self.with_bends(|bend| unshared(bend).to_device(device))
            .with_ends_on(device)
    }

    fn train(self) -> Self {
        self.with_bends(Module::train)
    }

    fn valid(&self) -> Self {
        let mut valid = self.clone().with_bends(|bend| bend.valid());
        valid.batches = Arc::default();
        valid
    }

    fn materialize(self) -> Self {
        self.with_bends(Module::materialize)
    }

    /// Visits the bends, and numbers that only records take. The networks at the ends are no part of the module.
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("bends", CONTAINER);
        for (place, bend) in self.bends.iter().enumerate() {
            let place = place.to_string();
            visitor.enter_module(&place, "Vec");
            bend.visit(visitor);
            visitor.exit_module(&place, "Vec");
        }
        visitor.exit_module("bends", CONTAINER);

        let device = self.device();
        let [start, end] = &self.fingerprints;
        for (name, number) in [
            ("steps", &self.steps),
            ("shape", &self.shape),
            ("start", start),
            ("end", end),
        ] {
            visitor.enter_module(name, CONTAINER);
            visitor.visit_int(&number.param(&device));
            visitor.exit_module(name, CONTAINER);
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        mapper.enter_module("bends", CONTAINER);
        let mut place = 0;
        let mut curve = self.with_bends(|bend| {
            let name = place.to_string();
            place += 1;
            mapper.enter_module(&name, "Vec");
            let bend = bend.map(mapper);
            mapper.exit_module(&name, "Vec");
            bend
        });
        mapper.exit_module("bends", CONTAINER);

        let device = curve.device();
        let mut mapped = |name: &str, number: Counter| {
            mapper.enter_module(name, CONTAINER);
            let number = number.map(mapper, &device);
            mapper.exit_module(name, CONTAINER);
            number
        };
        curve.steps = mapped("steps", curve.steps);
        curve.shape = mapped("shape", curve.shape);
        let [start, end] = curve.fingerprints;
        curve.fingerprints = [mapped("start", start), mapped("end", end)];
        curve
    }

    /// # Errors
    ///
    /// [`RecordError::Validation`] for the record of another model, and for that of a curve between other networks or of another shape.
    fn try_load_record(mut self, record: ModuleRecord) -> Result<Self, RecordError> {
        let (shape, fingerprints) = (self.config.shape, self.fingerprints.clone());
        self.batches = Arc::default();
        self.failure = Arc::default();
        // A module cannot call the method that it overrides. An option, which has the same paths, can.
        let Some(loaded) = Some(self).try_load_record(record)? else {
            unreachable!("an option that is mapped keeps its module");
        };
        if loaded.shape.value != shape.number() {
            let expected = match shape {
                CurveShape::Bezier => "a polygonal chain, and this is a Bezier curve",
                CurveShape::PolygonalChain => "a Bezier curve, and this is a polygonal chain",
            };
            return Err(RecordError::Validation(format!(
                "the record is of {expected}: go on with the other `CurveShape`"
            )));
        }
        let networks = loaded.fingerprints.iter().zip(&fingerprints);
        let mut networks = networks.zip(["first", "second"]);
        match networks.find(|((loaded, own), _)| loaded.value != own.value) {
            None => Ok(loaded),
            Some((_, network)) => Err(RecordError::Validation(format!(
                "the record is of a curve whose {network} network has other weights than this one's: load it into a curve between the \
                 networks that it was trained between, in their order"
            ))),
        }
    }
}

/// Shows the bends, so that a module that holds a curve can be shown.
impl<M: LearnerModel + ModuleDisplay> ModuleDisplayDefault for Curve<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("bends", &self.bends).optional()
    }
}

impl<M: LearnerModel + ModuleDisplay> ModuleDisplay for Curve<M> {}

impl<M: LearnerModel> Curve<M> {
    fn with_bends(mut self, change: impl FnMut(M) -> M) -> Self {
        self.bends = self.bends.into_iter().map(change).collect();
        self.middle = OnceCell::new();
        self
    }

    /// The same with the networks at the ends on `device`.
    fn with_ends_on(mut self, device: &Device) -> Self {
        self.ends = self.ends.map(|end| end.to_device(device));
        self.skeleton = unshared(self.skeleton).to_device(device);
        self
    }
}
