//! The averaged model as it is validated: with its BatchNorm re-estimated.

use std::error::Error;
use std::sync::{Arc, Mutex};

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn::train::{InferenceStep, LearnerModel};
use swa_core::{Average, BatchNormReestimation, BatchNormReport, Pooling};

use crate::{SwaError, collect::positive, lock::lock};

/// From how much data BatchNorm's running statistics are re-estimated for a validation.
///
/// The report of a re-estimation says how far the statistics still moved over the last tenth of it
/// ([`Swa::batch_norm_report`](crate::Swa::batch_norm_report)), and so whether less data would do.
///
/// The default is from a measurement too. With PreResNet-8 at half its width, five passes in other orders over 63 batches
/// of 64, the test accuracy after each differed from that with all batches, at worst, by
///
/// | first batches | 1 | 2 | 4 | 8 | 16 | 32 | all 63 |
/// |---|---|---|---|---|---|---|---|
/// | points of accuracy | 1.0 | 1.2 | 0.9 | 0.9 | 0.4 | 0.2 | 0.1 |
///
/// It is not worse on average from 16 batches on (0.05 points), but more a matter of chance: a thousand samples will do to
/// watch a training, and all of them are for a result. (`cargo bench --bench batch_norm_batches` in the repository.)
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Reestimate {
    /// One pass over the training loader, as the paper and PyTorch's `update_bn` do.
    #[default]
    AllBatches,
    /// The loader's first batches, at least one.
    FirstBatches(usize),
    /// The loader's batches, as long as the statistics still move by more than this over the last tenth of them: see
    /// [`BatchNormReestimation::until_settled`].
    UntilSettled(f64),
    /// No data: the averaged model keeps the latest running statistics of the training (or their
    /// average, if they are averaged too).
    Never,
}

impl Reestimate {
    pub(crate) fn validate(self) -> Result<(), SwaError> {
        match self {
            Self::FirstBatches(batches) => positive(
                "the number of batches to re-estimate BatchNorm from",
                batches,
            ),
            Self::UntilSettled(within) if !(within > 0.0 && within.is_finite()) => {
                Err(SwaError::Invalid {
                    name: "what BatchNorm's statistics may still move by once they have settled",
                    expected: "a number above 0, such as 0.003",
                    got: within.to_string(),
                })
            }
            Self::AllBatches | Self::UntilSettled(_) | Self::Never => Ok(()),
        }
    }
}

/// A loader of batches of type `O`.
type Loader<O> = Arc<dyn DataLoader<O>>;

/// Prepares averaged models for inference, each once.
pub(crate) struct Evaluation<M: LearnerModel> {
    run: Arc<Run<M>>,
    last: Mutex<Option<Evaluated<M>>>,
}

/// The model of an average, on a device, re-estimated.
type Run<M> = dyn Fn(M, &Device) -> Result<(M, BatchNormReport), SwaError> + Send + Sync;

struct Evaluated<M> {
    updates: usize,
    device: Device,
    model: M,
    report: BatchNormReport,
}

impl<M: LearnerModel> Evaluation<M> {
    pub(crate) fn new(
        loader: Loader<<M as InferenceStep>::Input>,
        reestimate: Reestimate,
        pooling: Pooling,
    ) -> Self
    where
        <M as InferenceStep>::Input: Clone,
    {
        let loader = OnAutodiffDevice {
            loader,
            last: Mutex::new(None),
        };
        Self {
            run: Arc::new(move |model, device| {
                let way = BatchNormReestimation::default().with_pooling(pooling);
                let (way, batches) = match reestimate {
                    Reestimate::AllBatches => (way, usize::MAX),
                    Reestimate::FirstBatches(batches) => (way, batches),
                    Reestimate::UntilSettled(within) => (way.until_settled(within), usize::MAX),
                    Reestimate::Never => return Ok((model, BatchNormReport::default())),
                };
                let loader = loader.of(device);
                Ok(from_loader(way, &model, loader.as_ref(), batches)?)
            }),
            last: Mutex::new(None),
        }
    }

    /// The same preparation, for another average.
    pub(crate) fn of_its_own(&self) -> Self {
        Self {
            run: self.run.clone(),
            last: Mutex::new(None),
        }
    }

    /// The model of `average`, on `device`, with its BatchNorm re-estimated: anew only if the average
    /// was updated since the last time, or that was on another device.
    pub(crate) fn evaluate(&self, average: &Average<M>, device: &Device) -> Result<M, SwaError> {
        let mut last = lock(&self.last);
        let updates = average.updates();
        let is_it = |last: &Evaluated<M>| last.updates == updates && last.device == *device;
        let evaluated = match last.take().filter(is_it) {
            Some(evaluated) => evaluated,
            None => {
                let model = average
                    .model()?
                    .to_device(&device.clone().without_autodiff());
                let (model, report) = (self.run)(model, device)?;
                log::info!("SWA: re-estimated BatchNorm for {updates} updates: {report:?}");
                Evaluated {
                    updates,
                    device: device.clone(),
                    model,
                    report,
                }
            }
        };
        // A copy of its own: clones share their running statistics.
        let model = evaluated.model.valid();
        *last = Some(evaluated);
        Ok(model)
    }

    pub(crate) fn report(&self, updates: usize) -> Option<BatchNormReport> {
        lock(&self.last)
            .as_ref()
            .filter(|last| last.updates == updates)
            .map(|last| last.report)
    }

    /// Frees what was evaluated.
    pub(crate) fn forget(&self) {
        *lock(&self.last) = None;
    }
}

/// A loader with its batches on the autodiff device, where BatchNorm trains. Made once a device: a
/// shuffled Burn loader forks its generator each time, and a threaded one starts its threads.
struct OnAutodiffDevice<O> {
    loader: Loader<O>,
    last: Mutex<Option<(Device, Loader<O>)>>,
}

impl<O> OnAutodiffDevice<O> {
    fn of(&self, device: &Device) -> Loader<O> {
        let mut last = lock(&self.last);
        match &*last {
            Some((on, loader)) if on == device => loader.clone(),
            _ => {
                let loader = self.loader.to_device(&device.clone().autodiff());
                *last = Some((device.clone(), loader.clone()));
                loader
            }
        }
    }
}

fn from_loader<M>(
    way: BatchNormReestimation,
    model: &M,
    loader: &dyn DataLoader<<M as InferenceStep>::Input>,
    batches: usize,
) -> Result<(M, BatchNormReport), swa_core::BatchNormError>
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
    })
    .take(batches);

    way.run(
        model,
        batches,
        |model, (batch, items): (<M as InferenceStep>::Input, usize)| {
            InferenceStep::step(model, batch);
            items
        },
    )
}
