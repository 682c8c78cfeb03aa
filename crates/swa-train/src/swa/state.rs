//! The state that all clones of a wrapper share, behind one lock.

use burn::tensor::Device;
use burn::train::LearnerModel;
use swa_core::MemberError;

use super::collector::Collectors;
use crate::SwaError;
use crate::evaluation::{Evaluation, Pending};

pub(super) struct State<M: LearnerModel> {
    pub(super) collectors: Collectors<M>,
    /// The last step after which something was due. A strategy of the user's own may train clones side by side. These reach
    /// each step together and with the same weights, and the first one collects them.
    last_step: usize,
    pub(super) evaluation: Evaluation<M>,
}

impl<M: LearnerModel> State<M> {
    pub(super) fn new(collectors: Collectors<M>, evaluation: Evaluation<M>) -> Self {
        Self {
            collectors,
            last_step: 0,
            evaluation,
        }
    }

    /// A state for these collectors, without evaluated models.
    pub(super) fn fresh(&self, collectors: Collectors<M>) -> Self {
        Self::new(collectors, self.evaluation.fresh())
    }

    /// Collects the weights of `model`, if an average, a member or a snapshot is due after step `step` and no clone has done so. Members
    /// and snapshots that are lacking are in the list.
    ///
    /// # Errors
    ///
    /// - [`SwaError::Shared`] if this is the state of another training, which has taken more steps.
    /// - [`SwaError::Average`] or [`SwaError::FurtherAverage`] if an average could not be updated.
    pub(super) fn collect(
        &mut self,
        step: usize,
        model: &M,
        learning_rate: f64,
    ) -> Result<Vec<MemberError>, SwaError> {
        // Clones that train together are at most a step apart.
        if self.last_step > step.saturating_add(1) {
            return Err(SwaError::Shared {
                averaged_step: self.last_step,
                step,
            });
        }
        if self.last_step >= step {
            return Ok(Vec::new());
        }
        if self.collectors.hands_on(step) {
            self.last_step = step;
        }
        let evaluation = &mut self.evaluation;
        let last_step = &mut self.last_step;
        self.collectors.collect(step, model, |name| {
            *last_step = step;
            // An evaluated model shares the average's memory, and would make the update copy it.
            evaluation.forget(name);
        })?;
        self.collectors.hand_on(step, model, learning_rate)
    }

    /// The model of the average called `name`, ready for inference on `device` or still to be made so. It is taken from the
    /// `snapshot` if there is one, else from these collectors. `None` while nothing has been averaged.
    ///
    /// # Errors
    ///
    /// [`SwaError::NoAverage`], [`SwaError::UnknownAverage`], [`SwaError::Average`].
    pub(super) fn averaged(
        &mut self,
        snapshot: Option<&Collectors<M>>,
        name: &str,
        device: &Device,
    ) -> Result<Option<Averaged<M>>, SwaError> {
        let collectors = snapshot.unwrap_or(&self.collectors);
        let average = &collectors.named(name)?.average;
        if average.updates() == 0 {
            return Ok(None);
        }
        if let Some(model) = self.evaluation.ready(name, average.updates(), device) {
            return Ok(Some(Averaged::Ready(model)));
        }
        // Frees its memory before the next one takes some.
        self.evaluation.forget(name);
        let (model, updates) = (average.model()?, average.updates());
        let pending = self.evaluation.pending(model, updates, device);
        Ok(Some(Averaged::Pending(pending)))
    }
}

/// The model of an average.
pub(super) enum Averaged<M: LearnerModel> {
    Ready(M),
    Pending(Pending<M>),
}
