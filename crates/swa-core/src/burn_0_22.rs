//! Workarounds for Burn 0.22.1.
//!
//! - CubeCL's devices read a tensor's data when somebody looks at it, and not when it is asked for:
//!   [`read_tensors_when_asked`].
//! - Running statistics are visited as float parameters like any other, and a parameter does not tell which dimension runs over
//!   a layer's outputs. Only the name of the [`Container`] of the field tells.
//! - Clones of a module share their running statistics, and `map` and `to_device` write through them. Only `Module::valid`
//!   makes a copy, and applies what the last forward pass has left. So averages and re-estimations begin with it.
//! - A record holds only tensor parameters: a [`Counter`](crate::Counter) is a number as a tensor parameter.

use burn::tensor::Device;
use burn_std::RuntimeKind;

use crate::kernels::is_host;

/// Makes the whole process read a tensor's data at the time it is asked for, on every device:
/// `burn_std::set_runtime_kind(RuntimeKind::Async)`.
///
/// On CubeCL's devices, Burn 0.22.1 would otherwise read only when somebody looks at the data, and show what the tensor holds
/// at that time, after later changes in place. A checkpoint that a `Learner` writes in a thread of its own would then hold the
/// optimizer's momentum of a later step than its weights, and resume another run, with or without weight averaging.
/// `swa_train::SwaConfig::init` calls this. A program that writes checkpoints without it should call this at its start.
///
/// The price: the host's memory has to hold the whole checkpoint at once, not one tensor at a time.
pub fn read_tensors_when_asked() {
    burn_std::set_runtime_kind(RuntimeKind::Async);
}

/// Tells whether a device reads a tensor's data only when somebody looks at it.
pub(crate) fn reads_when_looked_at(device: &Device) -> bool {
    !is_host(device) && burn_std::runtime_kind() != RuntimeKind::Async
}

/// The kind of module that has the traversed field, as far as it matters here, by its name in `burn_nn`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Container {
    BatchNorm,
    /// A layer whose weight has its outputs in the second dimension.
    OutputsSecond,
    Other,
}

impl Container {
    pub(crate) fn named(container: &str) -> Self {
        match container {
            "Struct:BatchNorm" => Self::BatchNorm,
            "Struct:Linear"
            | "Struct:ConvTranspose1d"
            | "Struct:ConvTranspose2d"
            | "Struct:ConvTranspose3d" => Self::OutputsSecond,
            _ => Self::Other,
        }
    }
}
