//! The folder that a run writes to.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::images::ImagesRecord;
use super::lock::Lock;
use crate::data::ImageSet;
use crate::run::config::RunConfig;
use crate::run::kept::KeptAverage;

/// The folder of a run: its settings, checkpoints, metrics and models.
///
/// One that is made or opened is this process's alone, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
    lock: Option<Arc<Lock>>,
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

    /// There is no run in it.
    #[error("{path} holds no run: expected config.json in it, as a training leaves it")]
    NotARun {
        /// The folder.
        path: PathBuf,
    },

    /// A file cannot be read, or is not what it should be.
    #[error(
        "{path} does not hold {content} ({reason}): mend it, or resume with the version of this program \
         that wrote it, or start a run in another folder with --out. The rest of the run is unaffected"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// The expected content.
        content: &'static str,
        /// The reason.
        reason: String,
    },

    /// The run was begun with other images.
    #[error(
        "{path} was begun with other images: {difference}. Say with --data where those that it was \
         begun with are"
    )]
    OtherImages {
        /// The folder.
        path: PathBuf,
        /// The difference.
        difference: String,
    },

    /// It is that of a curve's training.
    #[error(
        "{path} holds the training of a curve, and no run: go on with it by the same `cifar landscape curve`, or name \
         the file of a bend in it"
    )]
    OfCurve {
        /// The folder.
        path: PathBuf,
    },

    /// Another process writes to it.
    #[error("{path}: another process is writing there: wait for it, or stop it")]
    InUse {
        /// The folder.
        path: PathBuf,
    },

    /// It is another folder than the one that this process has written to, or none.
    #[error(
        "{path} was deleted, moved or replaced while this process wrote there, so it has stopped and writes \
         nothing more: go on where the folder is now, or begin again in another one"
    )]
    Gone {
        /// The folder.
        path: PathBuf,
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
    /// [`InUse`](DirectoryError::InUse) if another process writes to it,
    /// [`Io`](DirectoryError::Io) if it cannot be written.
    pub fn create(
        path: &Path,
        config: &RunConfig,
        overwrite: bool,
    ) -> Result<Self, DirectoryError> {
        Self::check_free(path, overwrite)?;
        fs::create_dir_all(path).map_err(io_error("make the folder", path))?;
        let directory = Self::at(path).locked()?;
        // Another process may have begun a run meanwhile.
        Self::check_free(path, overwrite)?;
        directory.delete_unfinished()?;
        directory.clear()?;
        write_json(&directory.config_file(), config)?;
        Ok(directory)
    }

    /// Checks that a new run can be made in the folder `path`, which is not made.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Taken`] or [`Foreign`](DirectoryError::Foreign) if the folder is not empty.
    pub(crate) fn check_free(path: &Path, overwrite: bool) -> Result<(), DirectoryError> {
        let directory = Self::at(path);
        if directory.config_file().exists() {
            return if overwrite {
                Ok(())
            } else {
                Err(DirectoryError::Taken {
                    path: path.to_owned(),
                })
            };
        }
        if !path.exists() {
            return Ok(());
        }
        let mut entries = fs::read_dir(path).map_err(io_error("read the folder", path))?;
        let is_foreign = entries.any(|entry| match entry {
            // A process that was killed while it wrote the settings leaves these, and no run.
            Ok(entry) => entry.path() != directory.lock_file() && !is_unfinished(&entry.path()),
            Err(_) => true,
        });
        if is_foreign {
            return Err(DirectoryError::Foreign {
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    /// The folder of a run that was started, and its settings.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NoRun`] or [`Content`](DirectoryError::Content) if there is none,
    /// [`InUse`](DirectoryError::InUse) if another process writes to it.
    pub fn open(path: &Path) -> Result<(Self, RunConfig), DirectoryError> {
        let directory = Self::at(path);
        let file = directory.config_file();
        if !file.exists() {
            return Err(DirectoryError::NoRun {
                path: path.to_owned(),
            });
        }
        // Another process may change them as long as the folder is its own.
        let directory = directory.locked()?;
        let config = directory.settings()?;
        Ok((directory, config))
    }

    /// The settings of the run in the folder `path`, which another process may go on with, and the folder for
    /// reading alone.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NotARun`] or [`Content`](DirectoryError::Content) if there is none.
    pub fn read(path: &Path) -> Result<(Self, RunConfig), DirectoryError> {
        let directory = Self::at(path);
        if !directory.config_file().exists() {
            return Err(DirectoryError::NotARun {
                path: path.to_owned(),
            });
        }
        let config = directory.settings()?;
        Ok((directory, config))
    }

    fn settings(&self) -> Result<RunConfig, DirectoryError> {
        let path = self.config_file();
        let content = "a run's settings";
        let config: RunConfig = read_json(&path, content)?;
        match config.validate_begun() {
            Ok(()) => Ok(config),
            Err(error) => Err(DirectoryError::Content {
                path,
                content,
                reason: error.to_string(),
            }),
        }
    }

    /// The folder `path`, without a look at its contents.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
        }
    }

    fn locked(mut self) -> Result<Self, DirectoryError> {
        self.lock = Some(Arc::new(Lock::take(&self.lock_file(), "")?));
        Ok(self)
    }

    /// Checks that the folder is still the one that was made or opened.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Gone`] if it was deleted, moved, or replaced: what is in its place now may
    /// be another process's.
    pub(crate) fn check(&self) -> Result<(), DirectoryError> {
        match &self.lock {
            None => Ok(()),
            Some(lock) => lock.check(),
        }
    }

    /// Writes down the settings and the images of a run that begins, or goes on from a checkpoint
    /// that fits them. (A run of an earlier version has not written down its images.)
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Io`]; what was there stays.
    pub(crate) fn record(
        &self,
        config: &RunConfig,
        images: &ImageSet,
    ) -> Result<(), DirectoryError> {
        let written: RunConfig = read_json(&self.config_file(), "a run's settings")?;
        if written != *config {
            write_json(&self.config_file(), config)?;
        }
        let file = self.images();
        if file.exists() {
            Ok(())
        } else {
            write_json(&file, &ImagesRecord::of(images))
        }
    }

    /// Checks that the run has the `images` that it began with, if it has written down what they
    /// are.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::OtherImages`] if they are others.
    pub fn check_images(&self, images: &ImageSet) -> Result<(), DirectoryError> {
        let Some(began) = self.began_with()? else {
            return Ok(());
        };
        match ImagesRecord::of(images).difference(&began) {
            None => Ok(()),
            Some(difference) => Err(self.other_images(difference)),
        }
    }

    /// The record of the images that the run began with, if it has written that down.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Content`] or [`Io`](DirectoryError::Io) if it cannot be read.
    pub(super) fn began_with(&self) -> Result<Option<ImagesRecord>, DirectoryError> {
        let file = self.images();
        if !file.exists() {
            return Ok(None);
        }
        read_json(&file, "the record of a run's images").map(Some)
    }

    /// Checks that the folder is not that of a curve's training, which is the business of `cifar landscape curve`.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::OfCurve`].
    pub(super) fn check_no_curve(&self) -> Result<(), DirectoryError> {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let is_curve = path.file_name().is_some_and(|name| name == "curve");
        let points = path.parent().map(|folder| folder.join("curve.json"));
        if is_curve && points.is_some_and(|points| points.exists()) {
            return Err(DirectoryError::OfCurve {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// The error for images that are not those that the run began with.
    pub fn other_images(&self, difference: String) -> DirectoryError {
        DirectoryError::OtherImages {
            path: self.path.clone(),
            difference,
        }
    }

    /// Deletes what runs write, and nothing else.
    fn clear(&self) -> Result<(), DirectoryError> {
        for folder in [
            self.checkpoints(),
            self.members(),
            self.averages(),
            self.path.join("train"),
            self.path.join("valid"),
        ] {
            if folder.is_dir() {
                fs::remove_dir_all(&folder).map_err(io_error("delete", &folder))?;
            }
        }
        let files = [
            self.images(),
            self.metrics(),
            self.averaged_model(),
            self.live_model(),
            self.swag(),
            self.log(),
        ];
        for file in files {
            if file.is_file() {
                fs::remove_file(&file).map_err(io_error("delete", &file))?;
            }
        }
        Ok(())
    }

    /// Deletes the unfinished files that a process left in the folder when it was killed.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Io`].
    pub fn delete_unfinished(&self) -> Result<(), DirectoryError> {
        let averages = KeptAverage::ALL.map(|average| self.kept(average));
        for folder in [self.path.clone(), self.members()]
            .into_iter()
            .chain(averages)
        {
            if folder.is_dir() {
                delete_unfinished_files(&folder)?;
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

    /// The record of its images.
    fn images(&self) -> PathBuf {
        self.path.join("images.json")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
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

    /// The folder of the members of an ensemble, each in a model file.
    pub fn members(&self) -> PathBuf {
        self.path.join("members")
    }

    /// The folder of the averages that were kept on the way.
    fn averages(&self) -> PathBuf {
        self.path.join("averages")
    }

    /// The folder of the snapshots of one of them, each in a model file.
    pub fn kept(&self, average: KeptAverage) -> PathBuf {
        self.averages().join(average.name())
    }

    /// The Gaussian of SWAG, as a record of Burn's.
    pub fn swag(&self) -> PathBuf {
        self.path.join("swag.bpk")
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
    let is_burns = [".safetensors.", "swag.bpk."]
        .iter()
        .any(|part| name.contains(part));
    name.starts_with(UNFINISHED)
        || is_burns && name.ends_with(".tmp")
        || name.starts_with(".tmp") && name.len() == 10 && begins_as_safetensors(file)
}

/// Tells whether a file begins as one of SafeTensors does: with the length of a header in JSON, and its brace. Other programs name
/// files `.tmpXXXXXX`, too.
fn begins_as_safetensors(file: &Path) -> bool {
    let mut first = [0; 9];
    // To open a pipe would wait for its other end.
    if !file.is_file() {
        return false;
    }
    let read = fs::File::open(file).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first[8] == b'{'
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

/// Reads a JSON file, with or without a byte-order mark.
///
/// # Errors
///
/// [`DirectoryError::Content`] if it is not one of such a value, [`Io`](DirectoryError::Io) if it
/// cannot be read.
pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    content: &'static str,
) -> Result<T, DirectoryError> {
    let text = fs::read(path).map_err(io_error("read", path))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    serde_json::from_slice(text).map_err(|error| DirectoryError::Content {
        path: path.to_owned(),
        content,
        reason: error.to_string(),
    })
}

/// Writes a JSON file.
///
/// # Errors
///
/// [`DirectoryError::Io`]; what was there stays.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DirectoryError> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::from);
    write_whole(path, &text.map_err(io_error("write", path))?)
}

/// The mark that some editors put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

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

        let error = RunDirectory::open(&path).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse { .. }), "{error}");
        drop(directory);
        let (_, opened) = RunDirectory::open(&path).unwrap();
        assert_eq!(opened, config());

        let directory = RunDirectory::create(&path, &config(), true).unwrap();
        assert!(!directory.averaged_model().exists());
    }

    #[test]
    fn the_settings_are_read_when_the_folder_is_this_processs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(folder.path(), &config(), false).unwrap();
        let longer = RunConfig {
            epochs: 300,
            ..config()
        };
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| RunDirectory::open(folder.path()).unwrap().1);
            // The other process waits for the folder.
            std::thread::sleep(std::time::Duration::from_millis(200));
            write_json(&directory.config_file(), &longer).unwrap();
            drop(directory);
            assert_eq!(opening.join().unwrap(), longer);
        });
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
        assert!(matches!(error, DirectoryError::Content { .. }), "{error}");
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

        config.sgd.batch_size = 128;
        config.epochs = 20;
        let text = serde_json::to_string(&config).unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        let error = RunDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("--epochs must be at least 126"), "{error}");
        assert!(!error.contains("--no-swa"), "{error}");
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
        drop(directory);
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
    fn files_with_a_byte_order_mark_are_read_as_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(folder.path(), &config(), false).unwrap();
        let headings = "epoch,learning_rate,train_loss,train_accuracy,live_test_loss,live_test_accuracy,\
                        swa_test_loss,swa_test_accuracy,seconds,reestimation_seconds\n";
        fs::write(
            directory.metrics(),
            [headings, "1,0.1,,,2.3,8.4,,,0.2,\n"].concat(),
        )
        .unwrap();
        for file in [directory.config_file(), directory.metrics()] {
            let marked = [BYTE_ORDER_MARK, &fs::read(&file).unwrap()].concat();
            fs::write(file, marked).unwrap();
        }
        drop(directory);
        let (directory, opened) = RunDirectory::open(folder.path()).unwrap();
        assert_eq!(opened, config());
        assert_eq!(read_rows(&directory.metrics()).unwrap()[0].epoch, 1);
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
            fs::write(folder.path().join(name), b"\x08\0\0\0\0\0\0\0{\"a").unwrap();
        }
        // Other programs name their files so, too.
        for name in [".notes", ".tmpAAAAAA"] {
            fs::write(folder.path().join(name), "a letter that is not sent yet").unwrap();
        }
        fs::create_dir(folder.path().join(".tmpBBBBBB")).unwrap();
        delete_unfinished_files(folder.path()).unwrap();
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".notes", ".tmpAAAAAA", ".tmpBBBBBB", "metrics.csv"]);
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
