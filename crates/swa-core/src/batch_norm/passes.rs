//! The passes of one batch through a layer, told apart.
//!
//! A layer that a batch passes again adds the statistics of its input to those of the inputs before, and their sum does not
//! tell them apart. So before a layer is passed again, what the layers have is taken out of them, and they start anew: all that
//! were passed since, so that a network that is passed again as a whole is traversed once.
//!
//! No visitor learns of a pass. But Burn 0.22.1's `BatchNorm` reads its `gamma` and its `beta` at the start of each, which calls
//! their reparameterizations: ones that give them back as they are.

use core::fmt;
use std::sync::{Arc, Mutex};

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;

use super::layers::{Layers, Start, start_from};
use super::statistics::{LeftOnDevice, OnDevice, left_in};
use crate::lock::lock;

/// A model whose layers are watched, while batches pass it.
pub(super) struct Watched<M> {
    model: M,
    layers: Arc<Layers>,
    batch: Arc<Mutex<Batch<M>>>,
}

/// The passes since a batch started.
struct Batch<M> {
    /// The model without watches. It shares the running states.
    unwatched: M,
    start: Start,
    /// Tells of each layer whether the batch has passed it, in training mode or not.
    passed: Vec<bool>,
    /// Tells of each layer whether the batch has entered it since it started.
    entered: Vec<bool>,
    /// The layer whose `gamma` was read last.
    last: Option<usize>,
    /// The statistics that were taken out of layers, with their places.
    left: Vec<(usize, LeftOnDevice)>,
}

impl<M: Module + 'static> Watched<M> {
    pub(super) fn new(model: M, layers: Arc<Layers>) -> Self {
        let batch = Arc::new(Mutex::new(Batch {
            unwatched: model.clone(),
            start: Start::ToRead,
            passed: vec![false; layers.len()],
            entered: vec![false; layers.len()],
            last: None,
            left: Vec::new(),
        }));
        let on_read = {
            let (batch, layers) = (batch.clone(), layers.clone());
            OnRead(Arc::new(move |watch, is_autodiff| {
                let mut batch = lock(&batch);
                match watch.parameter {
                    Parameter::Gamma => {
                        batch.last = Some(watch.place);
                        // In a copy for validation, nothing is updated.
                        if is_autodiff {
                            batch.enter(watch.place, &layers);
                        }
                    }
                    // A pass reads both. A penalty on all parameters, for example, may read one alone.
                    Parameter::Beta if batch.last == Some(watch.place) => {
                        batch.passed[watch.place] = true;
                    }
                    Parameter::Beta => {}
                }
            }))
        };
        let attach = Attach {
            layers: &layers,
            on_read,
        };
        Self {
            model: model.apply_reparameterization(attach),
            layers,
            batch,
        }
    }

    /// The model, about to be passed by a batch.
    pub(super) fn start(self, start: Start) -> Self {
        let mut batch = lock(&self.batch);
        batch.start = start;
        batch.passed.fill(false);
        batch.entered.fill(false);
        batch.last = None;
        batch.left.clear();
        drop(batch);
        let all = vec![true; self.layers.len()];
        Self {
            model: start_from(self.model, &self.layers, &all, start),
            ..self
        }
    }

    pub(super) fn model(&self) -> &M {
        &self.model
    }

    /// The passes of the batch.
    pub(super) fn passes(&self) -> OnDevice {
        let last = left_in(&self.model, &self.layers);
        let mut batch = lock(&self.batch);
        let mut left = std::mem::take(&mut batch.left);
        let last = last.into_iter().enumerate();
        left.extend(last.filter_map(|(place, left)| Some((place, left?))));
        OnDevice::join(left, batch.passed.clone(), &self.layers)
    }
}

impl<M: Module> Batch<M> {
    fn enter(&mut self, place: usize, layers: &Layers) {
        if self.entered[place] {
            for (place, left) in left_in(&self.unwatched, layers).into_iter().enumerate() {
                let left = left.filter(|_| self.entered[place]);
                self.left.extend(left.map(|left| (place, left)));
            }
            // This writes through to the running states of the watched model.
            start_from(self.unwatched.clone(), layers, &self.entered, self.start);
            self.entered.fill(false);
        }
        self.entered[place] = true;
    }
}

/// Attaches watches to the parameters of each layer.
struct Attach<'a> {
    layers: &'a Layers,
    on_read: OnRead,
}

impl Reparameterizer for Attach<'_> {
    type Reparam = Watch;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Watch>) {
        let (layer, name) = path.rsplit_once('.').unwrap_or(("", path));
        let parameter = match name {
            "gamma" => Some(Parameter::Gamma),
            "beta" => Some(Parameter::Beta),
            _ => None,
        };
        let watch = parameter.zip(self.layers.place(layer));
        let watch = watch.map(|(parameter, place)| Watch {
            parameter,
            place,
            on_read: self.on_read.clone(),
        });
        (param, watch)
    }
}

/// Tells of each time that a parameter of a layer is read.
#[derive(Module, Debug)]
struct Watch {
    #[module(skip)]
    parameter: Parameter,
    #[module(skip)]
    place: usize,
    #[module(skip)]
    on_read: OnRead,
}

/// A parameter that a layer reads at the start of each pass: `gamma`, which others may read too, and then `beta`.
#[derive(Clone, Copy, Debug)]
enum Parameter {
    Gamma,
    Beta,
}

impl Reparameterization for Watch {
    const NAME: &'static str = "watch";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        (self.on_read.0)(self, base.is_autodiff());
        base
    }
}

/// Takes a watch of the parameter that is read, and whether that is on an autodiff device.
type ReadFn = dyn Fn(&Watch, bool) + Send + Sync;

#[derive(Clone)]
struct OnRead(Arc<ReadFn>);

impl fmt::Debug for OnRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRead")
    }
}
