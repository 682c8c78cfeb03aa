//! The program, and small runs of it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use burn_swa_test_support::process::{self, Ended, Process};

/// Images of circles, squares and triangles, 40 of each to train on and 10 to score on.
pub(crate) const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/shapes");

const IMAGENET: &str = env!("CARGO_BIN_EXE_imagenet");

/// A ResNet-18 of a few channels, on small views.
pub(crate) const SMALL: [&str; 8] = [
    "--model",
    "resnet18",
    "--width-divisor",
    "16",
    "--image-size",
    "32",
    "--batch-size",
    "8",
];

/// Runs the program to its end.
pub(crate) fn imagenet<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ended {
    process::run(IMAGENET, arguments)
}

/// Begins a small run on the images in `data`.
pub(crate) fn begin(data: &Path, out: &Path, settings: &[&str]) -> Process {
    let mut command = process::program(IMAGENET);
    command.arg("finetune").args(SMALL).args(settings);
    command.arg("--data").arg(data).arg("--out").arg(out);
    Process::start(&mut command)
}

/// Goes on with the run in `out`.
pub(crate) fn resume(out: &Path, settings: &[&str]) -> Process {
    let mut command = process::program(IMAGENET);
    command.args(["finetune", "--resume", "--out"]).arg(out);
    Process::start(command.args(settings))
}

/// Evaluates the model in `file` on the images in `data`.
pub(crate) fn evaluate(file: &Path, data: &Path, settings: &[&str]) -> Ended {
    let mut command = Command::new(IMAGENET);
    command.args(["evaluate", "--model-file"]).arg(file);
    Process::start(command.arg("--data").arg(data).args(settings)).end()
}
