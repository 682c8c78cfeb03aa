//! Shared code of the tests that use several crates: PyTorch's reference vectors, and comparisons with them.

pub mod batch_norm;
pub mod batches;
pub mod comparison;
pub mod named_tensors;
pub mod network;
pub mod vectors;

/// The page for people who come from PyTorch, whose code is run.
#[doc = include_str!("../../docs/coming-from-pytorch.md")]
#[cfg(doctest)]
pub struct ComingFromPytorch;

/// The page for people with several devices or machines, whose code is run.
#[doc = include_str!("../../docs/several-machines.md")]
#[cfg(doctest)]
pub struct SeveralMachines;

/// The page for Burn's maintainers, whose programs for flex are run.
#[doc = include_str!("../../docs/upstream.md")]
#[cfg(doctest)]
pub struct Upstream;
