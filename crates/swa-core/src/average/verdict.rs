//! What an accelerator finds of the weights of updates, which the host does not wait for.

use burn::tensor::{Bool, Tensor};

use crate::AverageError;

/// What updates have found, and nobody has read yet.
#[derive(Clone)]
pub(super) struct Unread {
    /// How many updates were made before the first of these.
    updates_before: usize,
    /// One element: 1 as long as all weights were finite, 0 from then on.
    ok: Tensor<1>,
    /// One element: how many of these updates were made while they were.
    applied: Tensor<1>,
    /// One element a weight, 1 if it was finite: those of the first update where one was not, else
    /// those of the last.
    finite: Tensor<1>,
}

/// That an update was left out, for weights that were not finite.
pub(super) struct LeftOut {
    /// How many updates were made before it.
    pub(super) updates: usize,
    /// For each weight, 0 if it was not finite.
    pub(super) finite: Vec<f64>,
}

impl Unread {
    /// What the update after `updates_before` others has found: for each weight, 1 if it is finite, else 0.
    pub(super) fn first(finite: Tensor<1>, updates_before: usize) -> Self {
        let all_finite = finite.clone().min();
        Self {
            updates_before,
            ok: all_finite.clone(),
            applied: all_finite,
            finite,
        }
    }

    /// This, and what the next update has found.
    pub(super) fn and(self, finite: Tensor<1>) -> Self {
        // The model may have moved since.
        let device = finite.device();
        let before_ok = self.ok.to_device(&device);
        let ok = before_ok.clone().mul(finite.clone().min());
        let stopped = before_ok.lower_elem(0.5).expand(finite.shape());
        Self {
            updates_before: self.updates_before,
            applied: self.applied.to_device(&device).add(ok.clone()),
            finite: finite.mask_where(stopped, self.finite.to_device(&device)),
            ok,
        }
    }

    /// Whether the last update is to be made.
    pub(super) fn accept(&self) -> Accept {
        Accept {
            mask: self.ok.clone().greater_elem(0.5),
            #[cfg(feature = "cubecl")]
            ok: self.ok.clone(),
        }
    }

    /// The first update that was left out, if one was: one round trip to the device.
    pub(super) fn read(&self) -> Result<Option<LeftOut>, AverageError> {
        let flags = [&self.ok, &self.applied, &self.finite].map(Tensor::clone);
        let mut flags = read(Tensor::cat(flags.to_vec(), 0))?.into_iter();
        let mut next = || flags.next().unwrap_or_default();
        let (ok, applied) = (next(), next());
        Ok((ok == 0.0).then(|| LeftOut {
            updates: self.updates_before + applied as usize,
            finite: flags.collect(),
        }))
    }
}

/// What a device decides by, whose verdict the host does not wait for.
pub(super) struct Accept {
    /// One element in f32: 1 to accept the weights, 0 to leave them out.
    #[cfg(feature = "cubecl")]
    pub(super) ok: Tensor<1>,
    /// The same as a mask.
    pub(super) mask: Tensor<1, Bool>,
}

/// When the host reads an accelerator's verdict on the weights.
#[derive(Clone, Copy)]
pub(super) enum Flags {
    ReadNow,
    LeaveOnDevice,
}

/// Reads flags from their device.
pub(super) fn read(flags: Tensor<1>) -> Result<Vec<f64>, AverageError> {
    match flags.try_into_data() {
        Ok(data) => Ok(data.iter::<f64>().collect()),
        Err(error) => Err(AverageError::Device {
            reason: error.to_string(),
        }),
    }
}
