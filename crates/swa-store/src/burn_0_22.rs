//! Workarounds for Burn 0.22.1.
//!
//! - A forward pass in training mode leaves its update of the running statistics where only [`Module::valid`] sees it, and
//!   applies it later over whatever was loaded in between: [`settled`].

use burn::module::Module;

/// A copy of `model` with its running statistics up to date, in validation mode. Nothing is pending in `model` afterwards.
pub(crate) fn settled<M: Module>(model: &M) -> M {
    model.valid()
}
