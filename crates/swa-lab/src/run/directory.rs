//! The folder that a run writes to.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::run::config::RunConfig;

/// The folder of a run: its settings, checkpoints, metrics and models.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

/// The reason why a folder cannot be a run's.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// There is a run in it already.
    #[error(
        "{path} holds a run already: go on with it with --resume, delete it with --overwrite, or \
         choose another folder with --out"
    )]
    Taken {
        /// The folder.
        path: PathBuf,
    },

    /// There is something else in it.
    #[error("{path} is not empty and holds no run: choose another folder with --out")]
    Foreign {
        /// The folder.
        path: PathBuf,
    },

    /// There is no run in it.
    #[error("{path} holds no run to resume: leave --resume out to start one")]
    NoRun {
        /// The folder.
        path: PathBuf,
    },

    /// The settings cannot be read.
    #[error("{path} does not hold a run's settings ({reason}): start anew with --overwrite")]
    Settings {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// It cannot be read or written.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |error| DirectoryError::Io {
        action,
        path,
        error,
    }
}

impl RunDirectory {
    /// Makes a folder for a new run. With `overwrite`, a run that is in it is deleted.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Taken`] or [`Foreign`](DirectoryError::Foreign) if the folder is not empty,
    /// [`Io`](DirectoryError::Io) if it cannot be written.
    pub fn create(
        path: &Path,
        config: &RunConfig,
        overwrite: bool,
    ) -> Result<Self, DirectoryError> {
        let directory = Self {
            path: path.to_owned(),
        };
        fs::create_dir_all(path).map_err(io_error("make the folder", path))?;
        // If a process was killed while it wrote the settings, there is no run.
        delete_unfinished_files(path)?;
        let mut entries = fs::read_dir(path).map_err(io_error("read the folder", path))?;
        if entries.next().is_some() {
            let path = path.to_owned();
            if !directory.config_file().exists() {
                return Err(DirectoryError::Foreign { path });
            }
            if !overwrite {
                return Err(DirectoryError::Taken { path });
            }
            directory.clear()?;
        }
        let config =
            serde_json::to_vec_pretty(config).map_err(|error| DirectoryError::Settings {
                path: directory.config_file(),
                reason: error.to_string(),
            })?;
        write_whole(&directory.config_file(), &config)?;
        Ok(directory)
    }

    /// The folder of a run that was started, and its settings.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NoRun`] or [`Settings`](DirectoryError::Settings) if there is none.
    pub fn open(path: &Path) -> Result<(Self, RunConfig), DirectoryError> {
        let directory = Self {
            path: path.to_owned(),
        };
        let file = directory.config_file();
        if !file.exists() {
            return Err(DirectoryError::NoRun {
                path: path.to_owned(),
            });
        }
        let text = fs::read(&file).map_err(io_error("read", &file))?;
        let damaged = |reason: String| DirectoryError::Settings { path: file, reason };
        let config: RunConfig = match serde_json::from_slice(&text) {
            Ok(config) => config,
            Err(error) => return Err(damaged(error.to_string())),
        };
        match config.validate() {
            Ok(()) => Ok((directory, config)),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    /// The folder `path`, without a look at its contents.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Deletes what runs write, and nothing else.
    fn clear(&self) -> Result<(), DirectoryError> {
        for folder in [
            self.checkpoints(),
            self.path.join("train"),
            self.path.join("valid"),
        ] {
            if folder.is_dir() {
                fs::remove_dir_all(&folder).map_err(io_error("delete", &folder))?;
            }
        }
        let files = [
            self.metrics(),
            self.averaged_model(),
            self.live_model(),
            self.log(),
        ];
        for file in files {
            if file.is_file() {
                fs::remove_file(&file).map_err(io_error("delete", &file))?;
            }
        }
        Ok(())
    }

    /// Makes sure that the log can be written: Burn's logger (0.22.1) panics if it cannot.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Io`].
    pub fn check_log(&self) -> Result<(), DirectoryError> {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log());
        file.map(drop).map_err(io_error("write", &self.log()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's settings.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// The folder of its checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// Its metrics, a row an epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.csv")
    }

    /// The file that Burn logs to.
    pub fn log(&self) -> PathBuf {
        self.path.join("experiment.log")
    }

    /// The averaged model.
    pub fn averaged_model(&self) -> PathBuf {
        self.path.join("averaged.safetensors")
    }

    /// The live model.
    pub fn live_model(&self) -> PathBuf {
        self.path.join("live.safetensors")
    }
}

/// The prefix of files that are being written.
const UNFINISHED: &str = ".unfinished-";

/// Tells whether a file is being written, or was left unfinished by a process that was killed.
pub(crate) fn is_unfinished(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // A model's file is first written as `.tmpXXXXXX` and then as `live.safetensors.PID-N.tmp`: by SafeTensors (0.8.0)
    // and by Burn (0.22.1).
    let of_a_model = name.starts_with(".tmp") && name.len() == 10
        || name.contains(".safetensors.") && name.ends_with(".tmp");
    name.starts_with(UNFINISHED) || of_a_model
}

/// Deletes the unfinished files that a process left in `folder` when it was killed. No other
/// process may write there meanwhile.
///
/// # Errors
///
/// [`DirectoryError::Io`].
pub fn delete_unfinished_files(folder: &Path) -> Result<(), DirectoryError> {
    let entries = fs::read_dir(folder).map_err(io_error("read the folder", folder))?;
    for entry in entries {
        let file = entry.map_err(io_error("read the folder", folder))?.path();
        if is_unfinished(&file) {
            fs::remove_file(&file).map_err(io_error("delete", &file))?;
        }
    }
    Ok(())
}

/// Writes a file beside its place and then moves it there, so that its place never holds half of
/// it.
///
/// # Errors
///
/// [`DirectoryError::Io`]; what was there stays.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), DirectoryError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // Readable like any new file, and not only by its owner.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.prefix(UNFINISHED).tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(io_error("write", path))
}

#[cfg(test)]
mod tests {
    use swa_models::NetworkConfig;

    use super::*;
    use crate::hostile_files::survive;
    use crate::run::epoch_log::read_rows;

    fn config() -> RunConfig {
        RunConfig::paper(&"preresnet-20".parse().unwrap(), 10)
    }

    #[test]
    fn a_run_is_never_written_over_another_without_being_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/first");
        let directory = RunDirectory::create(&path, &config(), false).unwrap();
        fs::write(directory.averaged_model(), "precious").unwrap();

        let error = RunDirectory::create(&path, &config(), false).unwrap_err();
        assert!(error.to_string().contains("--overwrite"), "{error}");
        assert!(directory.averaged_model().exists());

        let (_, opened) = RunDirectory::open(&path).unwrap();
        assert_eq!(opened, config());

        RunDirectory::create(&path, &config(), true).unwrap();
        assert!(!directory.averaged_model().exists());
    }

    #[test]
    fn a_folder_with_half_of_the_settings_is_as_good_as_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let half = folder.path().join(".unfinished-x7");
        fs::write(&half, "{").unwrap();
        RunDirectory::create(folder.path(), &config(), false).unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone_even_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("thesis.tex");
        fs::write(&file, "precious").unwrap();
        let error = RunDirectory::create(folder.path(), &config(), true).unwrap_err();
        assert!(matches!(error, DirectoryError::Foreign { .. }), "{error}");
        assert!(file.exists());
    }

    #[test]
    fn there_is_nothing_to_resume_where_nothing_was_started() {
        let folder = tempfile::tempdir().unwrap();
        let error = RunDirectory::open(folder.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::NoRun { .. }), "{error}");

        fs::write(folder.path().join("config.json"), "{\"epochs\": 3").unwrap();
        let error = RunDirectory::open(folder.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::Settings { .. }), "{error}");
    }

    #[test]
    fn invalid_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        config.sgd.batch_size = 0;
        let text = serde_json::to_string(&config).unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        let error = RunDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("--batch-size must be at least 1"), "{error}");
    }

    #[test]
    fn damaged_settings_and_metrics_are_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(folder.path(), &config(), false).unwrap();
        let row = "1,0.1,2.4,8.5,2.3,8.4,,,0.2,\n";
        let headings = "epoch,learning_rate,train_loss,train_accuracy,live_test_loss,live_test_accuracy,\
                        swa_test_loss,swa_test_accuracy,seconds,reestimation_seconds\n";
        fs::write(directory.metrics(), [headings, row, row].concat()).unwrap();
        let paths = [directory.config_file(), directory.metrics()];
        survive("settings and metrics", &paths, 8, |_| {
            let (directory, config) =
                RunDirectory::open(folder.path()).map_err(|error| error.to_string())?;
            let model = config.model.parse::<NetworkConfig>();
            model.map_err(|error| error.to_string())?;
            read_rows(&directory.metrics())
                .map(drop)
                .map_err(|error| error.to_string())
        });
    }

    #[test]
    fn what_a_kill_left_of_a_file_is_deleted_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("metrics.csv");
        write_whole(&kept, b"whole").unwrap();
        for name in [
            ".unfinished-x7",
            ".tmpa1B2c3",
            "live.safetensors.4711-0.tmp",
        ] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        fs::write(folder.path().join(".notes"), "mine").unwrap();
        delete_unfinished_files(folder.path()).unwrap();
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".notes", "metrics.csv"]);
        assert_eq!(fs::read(kept).unwrap(), b"whole");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RunDirectory::create(&file.join("run"), &config(), false).unwrap_err();
        assert!(error.to_string().contains("file/run"), "{error}");
    }
}
