//! The small runs that the tests use, and their end states if nothing interrupts them.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::end_state::EndState;
use crate::process::{Process, program};
use crate::snapshot::Snapshot;

/// A training of seconds: six epochs of seven batches, averaged from the third on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SmallRun {
    /// With dropout, which draws from the device's random generator.
    Vgg,
    PreResNet,
}

/// The steps in an epoch of a small run: 200 images in batches of 32.
pub(crate) const STEPS_PER_EPOCH: usize = 7;

impl SmallRun {
    pub(crate) fn settings(self) -> Vec<&'static str> {
        let model = match self {
            Self::Vgg => "--model vgg16-bn --width-divisor 64",
            Self::PreResNet => "--model preresnet-8 --width-divisor 16",
        };
        let training = "--train-items 200 --batch-size 32 --epochs 6 --swa-start 3";
        model.split(' ').chain(training.split(' ')).collect()
    }

    pub(crate) fn start(self, out: &Path) -> Process {
        train(&self.settings(), out)
    }

    /// A folder with what the uninterrupted run left.
    pub(crate) fn finished(self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        self.uninterrupted().folder.write_to(folder.path());
        folder
    }

    /// The run that nothing interrupts. It is made once.
    pub(crate) fn uninterrupted(self) -> &'static Uninterrupted {
        static VGG: OnceLock<Uninterrupted> = OnceLock::new();
        static PRERESNET: OnceLock<Uninterrupted> = OnceLock::new();
        let run = match self {
            Self::Vgg => &VGG,
            Self::PreResNet => &PRERESNET,
        };
        run.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("run");
            let output = self.start(&out).end().success();
            Uninterrupted {
                output: output.replace(out.to_str().unwrap(), "OUT"),
                folder: Snapshot::of(&out),
                end: EndState::of(&out),
            }
        })
    }
}

/// Starts a training of `settings` in `out`.
pub(crate) fn train(settings: &[&str], out: &Path) -> Process {
    let mut command = program();
    Process::start(command.arg("train").args(settings).arg("--out").arg(out))
}

/// Goes on with the run in `out`.
pub(crate) fn resume(out: &Path) -> Process {
    train(&["--resume"], out)
}

/// The output and files of an uninterrupted run.
pub(crate) struct Uninterrupted {
    /// Its output, with `OUT` for its folder.
    pub(crate) output: String,
    pub(crate) folder: Snapshot,
    pub(crate) end: EndState,
}

/// Tells whether `metrics.csv` has the row of an epoch.
pub(crate) fn has_logged(out: &Path, epoch: usize) -> bool {
    let rows = fs::read_to_string(out.join("metrics.csv")).unwrap_or_default();
    rows.lines()
        .any(|row| row.starts_with(&format!("{epoch},")))
}

/// Tells whether a file of the checkpoint after an epoch is there, or is being written.
pub(crate) fn writes_checkpoint(out: &Path, epoch: usize) -> bool {
    let parts = ["model", "optim", "scheduler"].map(|part| format!("{part}-{epoch}.bpk"));
    checkpoint_files(out)
        .iter()
        .any(|name| parts.iter().any(|part| name.starts_with(part)))
}

/// Tells whether the checkpoint after an epoch is complete.
pub(crate) fn has_checkpoint(out: &Path, epoch: usize) -> bool {
    let parts = ["model", "optim", "scheduler"].map(|part| format!("{part}-{epoch}.bpk"));
    let files = checkpoint_files(out);
    parts.iter().all(|part| files.contains(part))
}

/// The names of the files in the folder of checkpoints, sorted.
pub(crate) fn checkpoint_files(out: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(out.join("checkpoint")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
