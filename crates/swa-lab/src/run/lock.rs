//! Locks that let one process at a time write to a folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::directory::{DirectoryError, io_error};

/// The time that a process waits for another one that is about to end, for example because its
/// parent was killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The right to write to a folder. It ends when this value is dropped, or with the process: a file
/// that a killed process leaves is no lock.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `file`, and writes the purpose into the file.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::InUse`] if another process has it.
    pub(crate) fn take(file: &Path, purpose: &str) -> Result<Self, DirectoryError> {
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).open(file);
        let mut opened = opened.map_err(io_error("open", file))?;
        let began = Instant::now();
        loop {
            match opened.try_lock() {
                Ok(()) => {
                    let written = opened
                        .set_len(0)
                        .and_then(|()| opened.write_all(purpose.as_bytes()));
                    written.map_err(io_error("write", file))?;
                    return Ok(Self { _file: opened });
                }
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let folder = file.parent().unwrap_or(file);
                    return Err(DirectoryError::InUse {
                        path: folder.to_owned(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(io_error("lock", file)(error)),
            }
        }
    }

    /// The purpose for which a process has the lock, if one has it.
    pub(crate) fn holder(file: &Path) -> Option<String> {
        match File::open(file).ok()?.try_lock() {
            Err(TryLockError::WouldBlock) => fs::read_to_string(file).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_waits_and_then_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lock");
        assert_eq!(Lock::holder(&file), None);
        let lock = Lock::take(&file, "first").unwrap();
        assert_eq!(Lock::holder(&file).as_deref(), Some("first"));
        // A second handle in this process acts like one in another process.
        let error = Lock::take(&file, "second").unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(lock);
        assert_eq!(Lock::holder(&file), None);
        Lock::take(&file, "third").unwrap();
    }
}
