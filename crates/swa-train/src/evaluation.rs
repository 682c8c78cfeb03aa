//! The averaged model for validation, with its BatchNorm re-estimated.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

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

/// A forward pass of a model on a batch, which returns the batch's size.
pub(crate) type Forward<M> = Arc<dyn Fn(&M, Input<M>) -> Box<dyn BatchSize> + Send + Sync>;

/// The averaged models of a training that are ready for inference, and the data and settings to make them ready.
pub(crate) struct Evaluation<M: LearnerModel> {
    loader: Loader<Input<M>>,
    /// The loader on the autodiff device, where BatchNorm trains. It is made once per device, since each time, a shuffled Burn
    /// loader forks its generator, and a threaded one starts its threads.
    on_device: Option<(Device, Loader<Input<M>>)>,
    reestimation: Option<ReestimationConfig>,
    /// The forward pass that re-estimates BatchNorm, if it is another than the model's [`InferenceStep::step`].
    pub(crate) forward: Option<Forward<M>>,
    /// [`reestimate`], for a type of batches that can be cloned.
    reestimate: Reestimate<M>,
    /// The last model of each average, by the average's name.
    evaluated: HashMap<Arc<str>, Evaluated<M>>,
}

type Reestimate<M> = fn(
    &M,
    &ReestimationConfig,
    &dyn DataLoader<Input<M>>,
    Option<&Forward<M>>,
) -> Result<(M, BatchNormReport), BatchNormError>;

/// An averaged model that is ready for inference.
pub(crate) struct Evaluated<M> {
    updates: usize,
    device: Device,
    model: M,
    report: BatchNormReport,
}

/// An averaged model whose BatchNorm is still to be re-estimated.
pub(crate) struct Pending<M: LearnerModel> {
    updates: usize,
    device: Device,
    model: M,
    reestimation: Option<Reestimation<M>>,
}

/// All that it takes to re-estimate BatchNorm.
struct Reestimation<M: LearnerModel> {
    config: ReestimationConfig,
    loader: Loader<Input<M>>,
    forward: Option<Forward<M>>,
    reestimate: Reestimate<M>,
}

impl<M: LearnerModel> Evaluation<M> {
    /// Makes models ready with data from `loader`. Without `reestimation`, running statistics stay as they are.
    pub(crate) fn new(loader: Loader<Input<M>>, reestimation: Option<ReestimationConfig>) -> Self
    where
        Input<M>: Clone,
    {
        Self {
            loader,
            on_device: None,
            reestimation,
            forward: None,
            reestimate: reestimate::<M>,
            evaluated: HashMap::new(),
        }
    }

    /// The same for other averages, without evaluated models.
    pub(crate) fn fresh(&self) -> Self {
        Self {
            loader: self.loader.clone(),
            on_device: self.on_device.clone(),
            reestimation: self.reestimation.clone(),
            forward: self.forward.clone(),
            reestimate: self.reestimate,
            evaluated: HashMap::new(),
        }
    }

    /// The model of the average called `name` after this number of updates, if it was evaluated on `device`.
    pub(crate) fn ready(&self, name: &str, updates: usize, device: &Device) -> Option<M> {
        let last = self.evaluated.get(name);
        let last = last.filter(|last| last.updates == updates && last.device == *device);
        // Not a clone, which would share its running statistics.
        last.map(|last| last.model.valid())
    }

    /// The model of `average`, to be made ready on `device`.
    ///
    /// # Errors
    ///
    /// [`SwaError::Average`].
    pub(crate) fn pending(
        &mut self,
        average: &Average<M>,
        device: &Device,
    ) -> Result<Pending<M>, SwaError> {
        let model = average
            .model()?
            .to_device(&device.clone().without_autodiff());
        let reestimation = self.reestimation.clone().map(|config| Reestimation {
            config,
            loader: self.loader_on(device),
            forward: self.forward.clone(),
            reestimate: self.reestimate,
        });
        Ok(Pending {
            updates: average.updates(),
            device: device.clone(),
            model,
            reestimation,
        })
    }

    fn loader_on(&mut self, device: &Device) -> Loader<Input<M>> {
        match &self.on_device {
            Some((on, loader)) if on == device => loader.clone(),
            _ => {
                let loader = self.loader.to_device(&device.clone().autodiff());
                self.on_device = Some((device.clone(), loader.clone()));
                loader
            }
        }
    }

    /// Keeps a model of the average called `name`, and returns a copy.
    pub(crate) fn keep(&mut self, name: &str, evaluated: Evaluated<M>) -> M {
        let model = evaluated.model.valid();
        self.evaluated.insert(name.into(), evaluated);
        model
    }

    pub(crate) fn report(&self, name: &str, updates: usize) -> Option<BatchNormReport> {
        let last = self.evaluated.get(name);
        last.filter(|last| last.updates == updates)
            .map(|last| last.report.clone())
    }

    /// Frees the evaluated model of the average called `name`.
    pub(crate) fn forget(&mut self, name: &str) {
        self.evaluated.remove(name);
    }
}

impl<M> Evaluated<M> {
    /// The report of the re-estimation.
    pub(crate) fn report(&self) -> &BatchNormReport {
        &self.report
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
            Some(Reestimation {
                config,
                loader,
                forward,
                reestimate,
            }) => {
                let loader = loader.as_ref();
                let (model, report) = reestimate(&self.model, &config, loader, forward.as_ref())?;
                let updates = self.updates;
                log::info!("SWA: re-estimated BatchNorm for {updates} updates: {report:?}");
                (model, report)
            }
        };
        Ok(Evaluated {
            updates: self.updates,
            device: self.device,
            model,
            report,
        })
    }
}

fn reestimate<M>(
    model: &M,
    config: &ReestimationConfig,
    loader: &dyn DataLoader<Input<M>>,
    forward: Option<&Forward<M>>,
) -> Result<(M, BatchNormReport), BatchNormError>
where
    M: LearnerModel,
    Input<M>: Clone,
{
    // A pass begins when the first batch is asked for. A model without BatchNorm asks for none.
    if let Some(forward) = forward {
        let mut iterator = None;
        let batches = std::iter::from_fn(|| iterator.get_or_insert_with(|| loader.iter()).next());
        return reestimate_batch_norm(model, config, batches, |model, batch: Input<M>| {
            forward(model, batch)
        });
    }

    let mut iterator = None;
    let mut items = 0;
    let batches = std::iter::from_fn(|| -> Option<Result<_, Box<dyn Error + Send + Sync>>> {
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
    });

    reestimate_batch_norm(
        model,
        config,
        batches,
        |model, (batch, items): (Input<M>, usize)| {
            // Not every backend passes a batch without items.
            if items > 0 {
                InferenceStep::step(model, batch);
            }
            items
        },
    )
}
