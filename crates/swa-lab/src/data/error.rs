//! What can go wrong with the data.

use std::path::PathBuf;

use super::images::SIDE;

/// Why a data set could not be loaded or served. Each is one line: what, where, expected, got,
/// remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// `--data` names nothing that exists.
    #[error(
        "{path}: no such folder; --data takes `synthetic`, `download`, `download100`, or a folder with \
         CIFAR's binary files or with train/CLASS/ and test/CLASS/"
    )]
    NoSuchFolder {
        /// What `--data` says.
        path: PathBuf,
    },

    /// `--data` names a file.
    #[error("{path}: is a file, not a folder; if it is an archive, unpack it and give the folder")]
    NotAFolder {
        /// What `--data` says.
        path: PathBuf,
    },

    /// The folder holds no data set that is known here.
    #[error(
        "{path}: expected data_batch_1.bin to data_batch_5.bin and test_batch.bin, train.bin and \
         test.bin, or train/CLASS/ and test/CLASS/, found {found}{hint}"
    )]
    UnknownLayout {
        /// The folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
        /// What it looks like, if it looks like something.
        hint: &'static str,
    },

    /// The operating system refused to read something.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// One of the binary files is not there.
    #[error("{path}: no such file; unpack all of {archive}")]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// The archive that it is of.
        archive: &'static str,
    },

    /// A binary file is too short or too long.
    #[error(
        "{path}: expected {expected} bytes ({records} records of {} bytes), found {found}: the file \
         is {}; unpack {archive} again",
        expected / *records as u64,
        if found < expected { "truncated" } else { "too long" }
    )]
    FileSize {
        /// The file.
        path: PathBuf,
        /// The archive that it is of.
        archive: &'static str,
        /// How many records it should hold.
        records: usize,
        /// How many bytes it should hold.
        expected: u64,
        /// How many bytes it holds.
        found: u64,
    },

    /// A label that is no class.
    #[error(
        "{path}: record {record} (counted from 0) has label {label}, expected 0 to {}: the file is \
         damaged or another data set's; unpack {archive} again",
        classes - 1
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// The archive that it is of.
        archive: &'static str,
        /// The record, counted from 0.
        record: usize,
        /// Its label.
        label: u8,
        /// How many classes there are.
        classes: usize,
    },

    /// A file of class names that holds more or fewer.
    #[error(
        "{path}: expected the names of {expected} classes, a line each, found {found}; unpack {archive} \
         again"
    )]
    ClassNames {
        /// The file.
        path: PathBuf,
        /// The archive that it is of.
        archive: &'static str,
        /// How many classes there are.
        expected: usize,
        /// How many names there are.
        found: usize,
    },

    /// A folder of classes holds none.
    #[error("{path}: no classes: expected a folder of images for each class")]
    NoClasses {
        /// The folder.
        path: PathBuf,
    },

    /// A folder of classes holds more than a label can name.
    #[error("{path}: {found} classes, at most 256 are supported")]
    TooManyClasses {
        /// The folder.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },

    /// `train/` and `test/` do not have the same classes.
    #[error(
        "{path}: class {class} is in {present}/ and not in {absent}/; both must have the same \
         classes"
    )]
    ClassesDiffer {
        /// The folder of both.
        path: PathBuf,
        /// The first class that is missing.
        class: String,
        /// Where it is.
        present: &'static str,
        /// Where it is missing.
        absent: &'static str,
    },

    /// A class without an image.
    #[error("{path}: no images: expected at least one .png, .jpg or .jpeg file for the class")]
    EmptyClass {
        /// The folder of the class.
        path: PathBuf,
    },

    /// A file that should be an image is not.
    #[error("{path}: not a readable image: {reason}; replace or delete it")]
    UnreadableImage {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },

    /// An image of another size.
    #[error("{path}: expected {SIDE}x{SIDE} pixels, found {width}x{height}; resize or delete it")]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// Its width, in pixels.
        width: u32,
        /// Its height, in pixels.
        height: u32,
    },

    /// The download failed.
    #[error(
        "downloading {name} failed: {reason}; check the network, or get \
         https://www.cs.toronto.edu/~kriz/{archive} elsewhere, unpack it, and point --data at the folder"
    )]
    Download {
        /// The data set.
        name: &'static str,
        /// The archive that holds the same.
        archive: &'static str,
        /// What went wrong.
        reason: String,
    },

    /// What an earlier download left is not the whole data set.
    #[error(
        "{path}: the downloaded data set is incomplete or damaged ({reason}); delete this folder and \
         run again"
    )]
    DamagedDownload {
        /// The folder to delete.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// More images were asked for than there are.
    #[error(
        "{requested} images were asked for, but there are {available}: ask for at most \
         {available}"
    )]
    TooFewImages {
        /// How many were asked for.
        requested: usize,
        /// How many there are.
        available: usize,
    },

    /// There is nothing to serve.
    #[error("the set to load batches from holds no images: give it at least one")]
    EmptySet,

    /// Batches of nothing.
    #[error("the batch size is 0: give at least 1")]
    ZeroBatchSize,

    /// A position that lies in no epoch of this data.
    #[error(
        "cannot start after {batches} batches of an epoch that has {epoch_batches}: the position \
         was saved with other data or another batch size; resume with what the run was started \
         with"
    )]
    StartBeyondEpoch {
        /// How many batches of the epoch are said to be done.
        batches: usize,
        /// How many batches the epoch has.
        epoch_batches: usize,
    },
}
