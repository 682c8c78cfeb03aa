//! Workarounds for Burn 0.22.1.
//!
//! - A forward pass in training mode leaves its update of the running statistics pending. Only [`Module::valid`] sees it, and it
//!   is applied later, over statistics that were loaded in between: [`settled`].

use burn::module::Module;

/// A copy of `model` in validation mode, with its running statistics up to date. Afterwards, nothing is pending in `model`.
pub(crate) fn settled<M: Module>(model: &M) -> M {
    model.valid()
}
