//! The log of a run.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::{set_hook, take_hook};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::train::ApplicationLoggerInstaller;
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::directory::RunDirectory;
use super::terminal::outlive_ui;

/// The log of a run, in its folder, to which Burn and what it depends on write from when it is installed, until another
/// run's is.
///
/// Burn's own (0.22.1) cannot be replaced: all runs of a process would be logged to the folder of the first.
pub(crate) struct RunLog(PathBuf);

impl RunLog {
    /// The log of the run in a folder.
    pub(crate) fn of(directory: &RunDirectory) -> Box<Self> {
        Box::new(Self(directory.log()))
    }
}

impl ApplicationLoggerInstaller for RunLog {
    fn install(&self) -> Result<(), String> {
        let file = OpenOptions::new().create(true).append(true).open(&self.0);
        let file = file.map_err(|error| format!("cannot write {}: {error}", self.0.display()))?;
        *LOG.file() = Some(file);
        if log::set_logger(&LOG).is_ok() {
            log::set_max_level(LevelFilter::Info);
            log_panics();
        }
        Ok(())
    }
}

/// Logs every panic before what else is done about it.
///
/// The hook of Burn's terminal UI prints (0.22.1), which aborts the process where that fails. A thread of the UI that
/// cannot draw comes there before the signal of the terminal's loss is handled, or after it.
fn log_panics() {
    let hook = take_hook();
    set_hook(Box::new(move |panic| {
        outlive_ui();
        log::error!("PANIC => {panic}");
        hook(panic);
    }));
}

/// The log of the run under way.
static LOG: CurrentLog = CurrentLog(Mutex::new(None));

struct CurrentLog(Mutex<Option<File>>);

impl CurrentLog {
    fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for CurrentLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // wgpu logs too much, as Burn's own logger has it.
        let is_wgpu = metadata.target().starts_with("wgpu");
        metadata.level() <= if is_wgpu { Level::Warn } else { Level::Info }
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(file) = self.file().as_mut()
        {
            // The line is written at once. A log that cannot be written stops nothing.
            let line = format!(
                "{:.6} {:>5} {}: {}\n",
                Timestamp::now(),
                record.level(),
                record.target(),
                record.args()
            );
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_of_a_process_has_a_log_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["first", "second"].map(|name| folder.path().join(name));
        for (file, message) in files.iter().zip(["one", "two"]) {
            RunLog(file.clone()).install().unwrap();
            log::info!("{message}");
            log::debug!("{message}, in detail");
            log::info!(target: "wgpu_core", "{message}, which wgpu says");
        }
        for (file, message) in files.iter().zip(["one", "two"]) {
            let text = std::fs::read_to_string(file).unwrap();
            let line = format!(" INFO {}: {message}", module_path!());
            // Other tests of this process may log too.
            let own: Vec<&str> = text.lines().filter(|it| it.contains(message)).collect();
            let [only] = own[..] else {
                panic!("{text}");
            };
            let (time, rest) = only.split_once(' ').unwrap();
            assert_eq!(rest, line);
            assert_eq!((&time[10..11], time.len()), ("T", 27), "{time}");
        }
    }
}
