//! Locks that let one process at a time write to a folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use same_file::Handle;

use super::directory::{DirectoryError, io_error};

/// The time that a process waits for another one that is about to end, for example because its
/// parent was killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The right to write to a folder. It ends when this value is dropped, or with the process: a file
/// that a killed process leaves is no lock.
///
/// It is the right to the folder as it is now. If the folder is deleted or moved, another process can
/// get the right to a new folder in its place: see [`check`](Self::check).
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    held: Handle,
}

impl Lock {
    /// Takes the lock of `file`, and writes the purpose into the file.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::InUse`] if another process has it, [`Gone`](DirectoryError::Gone) if the
    /// folder is deleted or moved meanwhile.
    pub(crate) fn take(file: &Path, purpose: &str) -> Result<Self, DirectoryError> {
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).open(file);
        let mut opened = opened.map_err(io_error("open", file))?;
        let began = Instant::now();
        loop {
            match opened.try_lock() {
                Ok(()) => {
                    write(&mut opened, purpose).map_err(io_error("write", file))?;
                    let held = Handle::from_file(opened).map_err(io_error("read", file))?;
                    let lock = Self {
                        path: file.to_owned(),
                        held,
                    };
                    return lock.check().map(|()| lock);
                }
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(DirectoryError::InUse {
                        path: folder_of(file),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(io_error("lock", file)(error)),
            }
        }
    }

    /// Checks that the folder is still the one that this process may write to: that the file in it
    /// is the one that is held.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Gone`] if the folder was deleted, moved, or replaced by another one.
    pub(crate) fn check(&self) -> Result<(), DirectoryError> {
        match Handle::from_path(&self.path) {
            Ok(there) if there == self.held => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(io_error("open", &self.path)(error))
            }
            _ => Err(DirectoryError::Gone {
                path: folder_of(&self.path),
            }),
        }
    }

    /// Writes another purpose into the file.
    ///
    /// # Errors
    ///
    /// If the folder is no longer the one that this process may write to, or the file cannot be written.
    pub(crate) fn set_purpose(&mut self, purpose: &str) -> Result<(), DirectoryError> {
        self.check()?;
        write(self.held.as_file_mut(), purpose).map_err(io_error("write", &self.path))
    }

    /// The purpose for which a process has the lock, if one has it.
    pub(crate) fn holder(file: &Path) -> Option<String> {
        match File::open(file).ok()?.try_lock() {
            Err(TryLockError::WouldBlock) => fs::read_to_string(file).ok(),
            _ => None,
        }
    }
}

fn write(file: &mut File, purpose: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(purpose.as_bytes())
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(file).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_waits_and_then_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lock");
        assert_eq!(Lock::holder(&file), None);
        let mut lock = Lock::take(&file, "first").unwrap();
        assert_eq!(Lock::holder(&file).as_deref(), Some("first"));
        lock.set_purpose("next").unwrap();
        assert_eq!(Lock::holder(&file).as_deref(), Some("next"));
        // A second handle in this process acts like one in another process.
        let error = Lock::take(&file, "second").unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(lock);
        assert_eq!(Lock::holder(&file), None);
        Lock::take(&file, "third").unwrap();
    }

    #[test]
    fn a_folder_in_the_place_of_another_is_not_the_one_held() {
        let parent = tempfile::tempdir().unwrap();
        let [folder, moved] = ["run", "moved"].map(|name| parent.path().join(name));
        let begin = || {
            fs::create_dir(&folder).unwrap();
            Lock::take(&folder.join("lock"), "").unwrap()
        };
        let gone = |lock: &Lock| matches!(lock.check(), Err(DirectoryError::Gone { .. }));
        let first = begin();
        first.check().unwrap();

        fs::rename(&folder, &moved).unwrap();
        assert!(gone(&first));
        let second = begin();
        assert!(gone(&first));
        second.check().unwrap();

        fs::remove_dir_all(&folder).unwrap();
        assert!(gone(&second));
        fs::rename(&moved, &folder).unwrap();
        first.check().unwrap();
        assert!(gone(&second));
    }
}
