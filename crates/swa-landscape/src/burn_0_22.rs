//! Workarounds for Burn 0.22.1.
//!
//! - Clones of a module share their running statistics, and moving one of them to a device moves those of all: [`unshared`].
//! - A bend is not in the graph of the loss, which is computed from the weights at a point, in parameters of their own. So its gradient is
//!   registered by hand, and what Burn does with graphs of its parameters (`ExecutionStrategy::ddp`) does not reach it.
//! - `TrainStep::step` has no room for an error: a curve keeps it as a failure, and stops the training through an `Interrupter`.
//! - A record holds only tensor parameters: the numbers in a curve's are [`Counter`](swa_core::Counter)s.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// A copy of a module, in its mode, that shares no running statistics with its clones.
pub(crate) fn unshared<M: Module>(module: M) -> M {
    if requires_gradient(&module) {
        module.valid().train()
    } else {
        module.valid()
    }
}

/// Tells whether a module has a parameter that requires a gradient.
pub(crate) fn requires_gradient<M: Module>(module: &M) -> bool {
    struct Finder(bool);
    impl ModuleVisitor for Finder {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut finder = Finder(false);
    module.visit(&mut finder);
    finder.0
}
