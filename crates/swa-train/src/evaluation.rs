//! The averaged model as it is validated: with its BatchNorm re-estimated.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn::train::{InferenceStep, LearnerModel};
use swa_core::{
    Average, BatchNormError, BatchNormReport, ReestimationConfig, reestimate_batch_norm,
};

use crate::SwaError;

/// A loader of batches of type `O`.
type Loader<O> = Arc<dyn DataLoader<O>>;

/// Prepares averaged models for inference, each once.
pub(crate) struct Evaluation<M: LearnerModel> {
    loader: Loader<<M as InferenceStep>::Input>,
    /// On the autodiff device, where BatchNorm trains. Made once a device: a shuffled Burn loader forks its generator each time,
    /// and a threaded one starts its threads.
    on_device: Option<(Device, Loader<<M as InferenceStep>::Input>)>,
    reestimation: Option<ReestimationConfig>,
    /// [`reestimate`], which only takes batches that can be cloned.
    reestimate: Reestimate<M>,
    /// The last model of each average, by the average's name.
    evaluated: HashMap<String, Evaluated<M>>,
}

type Reestimate<M> = fn(
    &M,
    &ReestimationConfig,
    &dyn DataLoader<<M as InferenceStep>::Input>,
) -> Result<(M, BatchNormReport), BatchNormError>;

struct Evaluated<M> {
    updates: usize,
    device: Device,
    model: M,
    report: BatchNormReport,
}

impl<M: LearnerModel> Evaluation<M> {
    /// Without `reestimation`, running statistics stay as they are.
    pub(crate) fn new(
        loader: Loader<<M as InferenceStep>::Input>,
        reestimation: Option<ReestimationConfig>,
    ) -> Self
    where
        <M as InferenceStep>::Input: Clone,
    {
        Self {
            loader,
            on_device: None,
            reestimation,
            reestimate: reestimate::<M>,
            evaluated: HashMap::new(),
        }
    }

    /// The same preparation, for other averages.
    pub(crate) fn fresh(&self) -> Self {
        Self {
            loader: self.loader.clone(),
            on_device: self.on_device.clone(),
            reestimation: self.reestimation.clone(),
            reestimate: self.reestimate,
            evaluated: HashMap::new(),
        }
    }

    /// The model of the average called `name`, on `device`, with its BatchNorm re-estimated: anew only if the average was
    /// updated since the last time, or that was on another device.
    ///
    /// # Errors
    ///
    /// [`SwaError::Average`], [`SwaError::BatchNorm`].
    pub(crate) fn evaluate(
        &mut self,
        name: &str,
        average: &Average<M>,
        device: &Device,
    ) -> Result<M, SwaError> {
        let updates = average.updates();
        let is_it = |last: &Evaluated<M>| last.updates == updates && last.device == *device;
        if !self.evaluated.get(name).is_some_and(is_it) {
            // Before the next one takes memory.
            self.forget(name);
            let model = average
                .model()?
                .to_device(&device.clone().without_autodiff());
            let (model, report) = self.reestimated(model, device)?;
            log::info!("SWA: re-estimated BatchNorm for {updates} updates: {report:?}");
            let evaluated = Evaluated {
                updates,
                device: device.clone(),
                model,
                report,
            };
            self.evaluated.insert(name.to_owned(), evaluated);
        }
        // A copy of its own: clones share their running statistics.
        Ok(self.evaluated[name].model.valid())
    }

    fn reestimated(
        &mut self,
        model: M,
        device: &Device,
    ) -> Result<(M, BatchNormReport), BatchNormError> {
        let Some(reestimation) = &self.reestimation else {
            return Ok((model, BatchNormReport::default()));
        };
        let is_there = |(on, _): &(Device, _)| on == device;
        let (_, loader) = match self.on_device.take().filter(is_there) {
            Some(on_device) => self.on_device.insert(on_device),
            None => {
                let loader = self.loader.to_device(&device.clone().autodiff());
                self.on_device.insert((device.clone(), loader))
            }
        };
        (self.reestimate)(&model, reestimation, loader.as_ref())
    }

    pub(crate) fn report(&self, name: &str, updates: usize) -> Option<BatchNormReport> {
        let last = self.evaluated.get(name);
        last.filter(|last| last.updates == updates)
            .map(|last| last.report)
    }

    /// Frees what was evaluated of the average called `name`.
    pub(crate) fn forget(&mut self, name: &str) {
        self.evaluated.remove(name);
    }
}

fn reestimate<M>(
    model: &M,
    config: &ReestimationConfig,
    loader: &dyn DataLoader<<M as InferenceStep>::Input>,
) -> Result<(M, BatchNormReport), BatchNormError>
where
    M: LearnerModel,
    <M as InferenceStep>::Input: Clone,
{
    // Not before the first batch is asked for: a model without BatchNorm asks for none.
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
        |model, (batch, items): (<M as InferenceStep>::Input, usize)| {
            InferenceStep::step(model, batch);
            items
        },
    )
}
