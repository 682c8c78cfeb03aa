//! Workarounds for Burn 0.22.1.
//!
//! - CubeCL's devices read a tensor's data when somebody looks at it, and not when it is asked for:
//!   [`read_tensors_when_asked`].
//! - Running statistics are visited as float parameters like any other, and a parameter does not tell which dimension runs over
//!   a layer's outputs. Only the name of the [`Container`] of the field tells.
//!   A [`RunningState`](burn::module::RunningState) itself is told apart by not taking part in gradients: [`running_states`].
//! - A BatchNorm layer tells a visitor neither its momentum nor how many values it has normalised. `batch_norm` measures the first,
//!   whose digits [`shown_momenta`] completes, and asks for the second. Nor does it tell of a pass: `batch_norm` watches its
//!   parameters, which it reads at each.
//! - Clones of a module share their running statistics, and `map` and `to_device` write through them. Only `Module::valid`
//!   makes a copy, and applies what the last forward pass has left. So averages and re-estimations begin with it.
//! - Burn keeps an entry of some hundred bytes for each operation on a device with autodiff, with gradients or without, until the next
//!   backward pass: [`forget_operations`].
//! - A record holds only tensor parameters: a [`Counter`](crate::Counter) is a number as a tensor parameter.

use core::fmt;
use std::collections::HashSet;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use burn_std::RuntimeKind;

use crate::kernels::is_host;
use crate::path::{Path, follow_path};

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

/// Frees what Burn keeps of operations on a device with autodiff whose tensors are gone. A backward pass of any tensor does that.
pub(crate) fn forget_operations(device: &Device) {
    let any = Tensor::<1>::zeros([1], &device.clone().autodiff());
    drop(any.require_grad().backward());
}

/// Tells whether a device reads a tensor's data only when somebody looks at it.
pub(crate) fn reads_when_looked_at(device: &Device) -> bool {
    !is_host(device) && burn_std::runtime_kind() != RuntimeKind::Async
}

/// The paths of the [`RunningState`](burn::module::RunningState)s of a module.
///
/// Burn 0.22.1 visits them as float parameters. But on the autodiff device, they alone require no gradient after they were told
/// to.
pub(crate) fn running_states<M: Module>(module: &M) -> HashSet<String> {
    struct RequireGrad;
    impl ModuleMapper for RequireGrad {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if param.dtype().is_float() {
                param.set_require_grad(true)
            } else {
                param
            }
        }
    }
    #[derive(Default)]
    struct Finder {
        path: Path,
        states: HashSet<String>,
    }
    impl ModuleVisitor for Finder {
        follow_path!();

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            // A hand-written `train` may have left a parameter on a plain device, where none requires a gradient.
            if value.dtype().is_float() && value.is_autodiff() && !value.is_require_grad() {
                self.states.insert(self.path.dotted().to_owned());
            }
        }
    }
    let mut finder = Finder::default();
    // Only `valid` makes a copy that shares no running state with the module.
    let copy = module.valid().train().map(&mut RequireGrad);
    copy.visit(&mut finder);
    finder.states
}

/// Tells whether a flag is on while its module trains. In Burn 0.22.1, [`Module::valid`] turns it off, and remembers its value.
pub(crate) fn is_on_in_training(flag: &Param<Flag>) -> bool {
    flag.clone().train().is_enabled()
}

/// The numbers that a module's `Debug` shows as `momentum`, each once.
///
/// No traversal of Burn 0.22.1 reaches a BatchNorm layer's momentum, a constant. But every module has a `Debug`, and a derived one
/// shows all constants. (Of tensors, it shows shapes.) A hand-written one may show none.
pub(crate) fn shown_momenta<M: Module>(module: &M) -> Vec<f64> {
    #[derive(Default)]
    struct Reader {
        written: usize,
        word: String,
        is_momentum: bool,
        momenta: Vec<f64>,
    }
    impl fmt::Write for Reader {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            // A module may show much besides, such as a vocabulary.
            self.written += text.len();
            if self.written > 1 << 24 {
                return Err(fmt::Error);
            }
            for character in text.chars() {
                if !(character.is_whitespace() || ",{}()".contains(character)) {
                    self.word.push(character);
                } else if !self.word.is_empty() {
                    let momentum = self.word.parse().ok().filter(|_| self.is_momentum);
                    let momentum = momentum.filter(|it| !self.momenta.contains(it));
                    self.momenta.extend(momentum);
                    self.is_momentum = self.word == "momentum:";
                    self.word.clear();
                }
            }
            Ok(())
        }
    }
    let mut reader = Reader::default();
    // If it shows too much, the momenta before that are enough, or are measured.
    let _ = fmt::write(&mut reader, format_args!("{module:?}"));
    reader.momenta
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
