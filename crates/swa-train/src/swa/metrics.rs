//! The wrapper that shows metrics of further models.

use core::{fmt, ptr};
use std::cell::OnceCell;
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::optim::{
    GradientsParams, ModuleOptimizer, MultiGradientsParams,
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Device;
use burn::train::{InferenceStep, LearnerModel, TrainOutput, TrainStep};

use super::collector::MAIN;
use super::{LIVE, Swa};
use crate::{ModelOutputs, SwaError};

/// A [`Swa`] whose validation passes each batch through further models too, for their metrics: made by
/// [`Swa::with_metrics_of`].
///
/// Its records are those of the `Swa`, which [`into_swa`](Self::into_swa) gives back.
pub struct SwaMetrics<M: LearnerModel> {
    swa: Swa<M>,
    further: Vec<Further<M>>,
}

/// A further model, once it has been evaluated.
struct Further<M> {
    name: Arc<str>,
    evaluated: OnceCell<Option<M>>,
}

impl<M> Clone for Further<M> {
    /// A copy that has not been evaluated.
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            evaluated: OnceCell::new(),
        }
    }
}

impl<M: LearnerModel> SwaMetrics<M> {
    pub(super) fn new(swa: Swa<M>, names: &[&str]) -> Result<Self, SwaError> {
        let mut further: Vec<Further<M>> = Vec::new();
        for name in names {
            if *name != LIVE {
                swa.read(|all| all.named(name).map(drop))
                    .map_err(with_live)?;
            }
            if !further.iter().any(|other| *other.name == **name) {
                further.push(Further {
                    name: (*name).into(),
                    evaluated: OnceCell::new(),
                });
            }
        }
        Ok(Self { swa, further })
    }

    /// The wrapper.
    pub fn swa(&self) -> &Swa<M> {
        &self.swa
    }

    /// The wrapper, without the metrics of further models.
    pub fn into_swa(self) -> Swa<M> {
        self.swa
    }

    /// See [`Swa::averaged_model`].
    ///
    /// # Errors
    ///
    /// Those of [`Swa::averaged_model`].
    pub fn averaged_model(&self) -> Result<M, SwaError> {
        self.swa.averaged_model()
    }

    fn map_swa(self, change: impl FnOnce(Swa<M>) -> Swa<M>) -> Self {
        Self {
            swa: change(self.swa),
            further: self.further.clone(),
        }
    }

    /// The model with this name, or the live one while nothing has been averaged.
    fn model<'a>(&'a self, further: &'a Further<M>) -> &'a M {
        let evaluated = match &*further.name {
            LIVE => None,
            MAIN => return self.swa.evaluated(),
            name => further
                .evaluated
                .get_or_init(|| self.swa.try_evaluate(name))
                .as_ref(),
        };
        evaluated.unwrap_or(self.swa.live())
    }
}

/// The error, with the live model in its list of names.
fn with_live(error: SwaError) -> SwaError {
    match error {
        SwaError::UnknownAverage { name, mut known } => {
            known.insert(0, LIVE.to_owned());
            SwaError::UnknownAverage { name, known }
        }
        other => other,
    }
}

impl<M: LearnerModel> TrainStep for SwaMetrics<M>
where
    <M as InferenceStep>::Input: Clone,
{
    type Input = <M as TrainStep>::Input;
    type Output = <M as TrainStep>::Output;

    fn step(&self, item: Self::Input) -> TrainOutput<Self::Output> {
        TrainStep::step(&self.swa, item)
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        self.map_swa(|swa| swa.optimize(optimizer, learning_rate, gradients))
    }

    fn optimize_multi(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        self.map_swa(|swa| swa.optimize_multi(optimizer, learning_rate, gradients))
    }
}

impl<M: LearnerModel> InferenceStep for SwaMetrics<M>
where
    <M as InferenceStep>::Input: Clone,
{
    type Input = <M as InferenceStep>::Input;
    type Output = ModelOutputs<<M as InferenceStep>::Output>;

    fn step(&self, item: Self::Input) -> Self::Output {
        let evaluated = self.swa.evaluated();
        // Several names may be of one model, which takes the batch once.
        let mut passed: Vec<&M> = vec![evaluated];
        let mut outputs = vec![InferenceStep::step(evaluated, item.clone())];
        let names = self.further.iter().map(|further| {
            let model = self.model(further);
            let place = passed.iter().position(|it| ptr::eq(*it, model));
            let place = place.unwrap_or_else(|| {
                passed.push(model);
                outputs.push(InferenceStep::step(model, item.clone()));
                passed.len() - 1
            });
            (further.name.clone(), place)
        });
        let names = names.collect();
        ModelOutputs::new(outputs, names)
    }
}

impl<M: LearnerModel> Module for SwaMetrics<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.swa.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.map_swa(|swa| swa.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_swa(|swa| swa.to_device(device))
    }

    fn train(self) -> Self {
        self.map_swa(Module::train)
    }

    fn valid(&self) -> Self {
        Self {
            swa: self.swa.valid(),
            further: self.further.clone(),
        }
    }

    fn materialize(self) -> Self {
        self.map_swa(Module::materialize)
    }

    fn num_params(&self) -> usize {
        self.swa.num_params()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.swa.visit(visitor);
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        self.map_swa(|swa| swa.map(mapper))
    }

    fn try_load_record(self, record: ModuleRecord) -> Result<Self, RecordError> {
        let swa = self.swa.try_load_record(record)?;
        let further = self.further.clone();
        Ok(Self { swa, further })
    }
}

impl<M: LearnerModel> Clone for SwaMetrics<M> {
    fn clone(&self) -> Self {
        Self {
            swa: self.swa.clone(),
            further: self.further.clone(),
        }
    }
}

impl<M: LearnerModel> fmt::Debug for SwaMetrics<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.further.iter().map(|further| &further.name);
        f.debug_struct("SwaMetrics")
            .field("swa", &self.swa)
            .field("further", &names.collect::<Vec<_>>())
            .finish()
    }
}

/// Shows the model as if it were alone.
impl<M: LearnerModel> fmt::Display for SwaMetrics<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.swa, f)
    }
}
