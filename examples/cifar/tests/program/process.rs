//! Processes of the program.

use std::ffi::OsStr;
use std::process::Command;

use burn_swa_test_support::process;
#[cfg(target_os = "linux")]
pub(crate) use burn_swa_test_support::process::Terminal;
pub(crate) use burn_swa_test_support::process::{Ended, Process};

/// The program under test.
pub(crate) const CIFAR: &str = env!("CARGO_BIN_EXE_cifar");

/// The program, which gets every signal.
pub(crate) fn program() -> Command {
    process::program(CIFAR)
}

/// Runs the program to its end.
pub(crate) fn cifar<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ended {
    process::run(CIFAR, arguments)
}
