//! The averaged model for validation, with its BatchNorm re-estimated.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn::train::{InferenceStep, LearnerModel};
use swa_core::{
    Average, BatchNormError, BatchNormReport, BatchSize, ReestimationConfig, reestimate_batch_norm,
};

use crate::SwaError;

/// A loader of batches of type `O`.
type Loader<O> = Arc<dyn DataLoader<O>>;

type Input<M> = <M as InferenceStep>::Input;

/// The data that BatchNorm is re-estimated from, with the forward pass on them.
pub(crate) struct Data<M>(Arc<Pass<M>>);

/// A re-estimation of a model on an autodiff device.
type Pass<M> = dyn Fn(&M, &ReestimationConfig, &Device) -> Result<(M, BatchNormReport), BatchNormError>
    + Send
    + Sync;

impl<M: LearnerModel> Data<M> {
    /// No data: enough for a model in which no BatchNorm layer trains.
    pub(crate) fn none() -> Self {
        Self(Arc::new(|model, config, _| {
            reestimate_batch_norm(model, config, std::iter::empty::<()>(), |_, ()| 0)
        }))
    }

    /// Batches that the model's own [`InferenceStep::step`] takes, with the sizes that the loader's progress tells.
    pub(crate) fn inferred(loader: Loader<Input<M>>) -> Self
    where
        Input<M>: Clone,
    {
        let loader = OnDevice::new(loader);
        Self(Arc::new(move |model, config, device| {
            let loader = loader.on(device);
            // A pass begins when the first batch is asked for. A model without BatchNorm asks for none.
            let mut iterator = None;
            let mut items = 0;
            let batches = std::iter::from_fn(
                || -> Option<Result<_, Box<dyn Error + Send + Sync>>> {
                    let iterator = iterator.get_or_insert_with(|| loader.iter());
                    let batch = iterator.next()?;
                    let before = std::mem::replace(&mut items, iterator.progress().items_processed);
                    Some(match items.checked_sub(before) {
                        Some(items) => batch.map(|batch| (batch, items)).map_err(Into::into),
                        None => Err(format!(
                            "the progress of its loader fell from {before} items to {items}, and must count them up"
                        )
                        .into()),
                    })
                },
            );
            let forward = |model: &M, (batch, items): (Input<M>, usize)| {
                // Not every backend passes a batch without items.
                if items > 0 {
                    InferenceStep::step(model, batch);
                }
                items
            };
            reestimate_batch_norm(model, config, batches, forward)
        }))
    }

    /// Batches of any type, with a forward pass that tells their sizes.
    pub(crate) fn passed<B, S>(
        loader: Loader<B>,
        forward: impl Fn(&M, B) -> S + Send + Sync + 'static,
    ) -> Self
    where
        B: Clone + 'static,
        S: BatchSize,
    {
        let loader = OnDevice::new(loader);
        Self(Arc::new(move |model, config, device| {
            let loader = loader.on(device);
            let mut iterator = None;
            let batches =
                std::iter::from_fn(|| iterator.get_or_insert_with(|| loader.iter()).next());
            reestimate_batch_norm(model, config, batches, |model, batch: B| {
                forward(model, batch)
            })
        }))
    }
}

impl<M> Clone for Data<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// A loader, and the same on the device that it was last wanted on. That is made once, since each time, a shuffled Burn loader
/// forks its generator, and a threaded one starts its threads.
struct OnDevice<B> {
    loader: Loader<B>,
    last: Mutex<Option<(Device, Loader<B>)>>,
}

impl<B> OnDevice<B> {
    fn new(loader: Loader<B>) -> Self {
        Self {
            loader,
            last: Mutex::new(None),
        }
    }

    fn on(&self, device: &Device) -> Loader<B> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((on, loader)) if on == device => loader.clone(),
            _ => {
                let loader = self.loader.to_device(device);
                *last = Some((device.clone(), loader.clone()));
                loader
            }
        }
    }
}

/// The averaged models of a training that are ready for inference, and the data and settings to make them ready.
pub(crate) struct Evaluation<M: LearnerModel> {
    data: Data<M>,
    reestimation: Option<ReestimationConfig>,
    /// The last model of each average, by the average's name.
    evaluated: HashMap<Arc<str>, Evaluated<M>>,
}

/// An averaged model that is ready for inference.
pub(crate) struct Evaluated<M: LearnerModel> {
    updates: usize,
    device: Device,
    pub(crate) model: M,
    /// The report of the re-estimation.
    pub(crate) report: BatchNormReport,
    /// Its average with its running statistics, once a record has asked for it.
    recorded: OnceCell<Option<Average<M>>>,
}

/// An averaged model whose BatchNorm is still to be re-estimated.
pub(crate) struct Pending<M: LearnerModel> {
    updates: usize,
    device: Device,
    model: M,
    reestimation: Option<(ReestimationConfig, Data<M>)>,
}

impl<M: LearnerModel> Evaluation<M> {
    /// Makes models ready with `data`. Without `reestimation`, running statistics stay as they are.
    pub(crate) fn new(data: Data<M>, reestimation: Option<ReestimationConfig>) -> Self {
        Self {
            data,
            reestimation,
            evaluated: HashMap::new(),
        }
    }

    /// The same for other averages, without evaluated models.
    pub(crate) fn fresh(&self) -> Self {
        Self::new(self.data.clone(), self.reestimation.clone())
    }

    /// The model of the average called `name` after this number of updates, if it was evaluated on `device`.
    pub(crate) fn ready(&self, name: &str, updates: usize, device: &Device) -> Option<M> {
        let last = self.last(name, updates);
        let last = last.filter(|last| last.device == *device);
        // Not a clone, which would share its running statistics.
        last.map(|last| last.model.valid())
    }

    /// The average called `name` with the running statistics that were re-estimated for it, if they were. It is kept, since every
    /// visitor asks for it, such as the one that accumulates the gradients of a batch.
    pub(crate) fn recorded(&self, name: &str, average: &Average<M>) -> Option<&Average<M>> {
        let last = self.last(name, average.updates())?;
        if last.report.layers == 0 {
            return None;
        }
        let recorded = || average.clone().with_running_statistics_of(&last.model);
        last.recorded.get_or_init(|| recorded().ok()).as_ref()
    }

    /// Tells whether the record of the average called `name` has the running statistics that validation shows.
    pub(crate) fn is_ready(&self, name: &str, average: &Average<M>) -> bool {
        self.reestimation.is_none() || self.last(name, average.updates()).is_some()
    }

    fn last(&self, name: &str, updates: usize) -> Option<&Evaluated<M>> {
        let last = self.evaluated.get(name);
        last.filter(|last| last.updates == updates)
    }

    /// A model of an average after so many updates, to be made ready on `device`.
    pub(crate) fn pending(&self, model: M, updates: usize, device: &Device) -> Pending<M> {
        let reestimation = self.reestimation.clone();
        Pending {
            updates,
            device: device.clone(),
            model: model.to_device(&device.clone().without_autodiff()),
            reestimation: reestimation.map(|config| (config, self.data.clone())),
        }
    }

    /// Keeps a model of the average called `name`, and returns a copy.
    pub(crate) fn keep(&mut self, name: &str, evaluated: Evaluated<M>) -> M {
        let model = evaluated.model.valid();
        self.evaluated.insert(name.into(), evaluated);
        model
    }

    pub(crate) fn report(&self, name: &str, updates: usize) -> Option<BatchNormReport> {
        self.last(name, updates).map(|last| last.report.clone())
    }

    /// Frees the evaluated model of the average called `name`.
    pub(crate) fn forget(&mut self, name: &str) {
        self.evaluated.remove(name);
    }
}

impl<M: LearnerModel> Pending<M> {
    /// Makes the model ready, with a pass over the data if there is BatchNorm to re-estimate.
    ///
    /// # Errors
    ///
    /// [`SwaError::BatchNorm`].
    pub(crate) fn evaluate(self) -> Result<Evaluated<M>, SwaError> {
        let (model, report) = match self.reestimation {
            None => (self.model, BatchNormReport::default()),
            Some((config, Data(pass))) => {
                pass(&self.model, &config, &self.device.clone().autodiff())?
            }
        };
        if report.layers > 0 {
            let updates = self.updates;
            log::info!("SWA: re-estimated BatchNorm for {updates} updates: {report:?}");
        }
        Ok(Evaluated {
            updates: self.updates,
            device: self.device,
            model,
            report,
            recorded: OnceCell::new(),
        })
    }
}
