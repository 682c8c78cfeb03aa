//! The errors of loading and serving data.

use std::path::PathBuf;

use super::images::SIDE;

/// The reason why a data set could not be loaded or served. Each message is one line: the place,
/// what was expected, what was found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// `--data` names nothing that exists.
    #[error(
        "{path}: no such folder; --data takes `synthetic`, `download`, `download100`, or a folder with \
         CIFAR's binary files or with train/CLASS/ and test/CLASS/"
    )]
    NoSuchFolder {
        /// The value of `--data`.
        path: PathBuf,
    },

    /// `--data` names a file.
    #[error("{path}: is a file, not a folder; if it is an archive, unpack it and give the folder")]
    NotAFolder {
        /// The value of `--data`.
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
        /// The entries of the folder.
        found: String,
        /// A guess at what the folder is, if there is one.
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
        /// The archive that it belongs to.
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
        /// The archive that it belongs to.
        archive: &'static str,
        /// The number of records that it should hold.
        records: usize,
        /// The number of bytes that it should hold.
        expected: u64,
        /// The number of bytes that it holds.
        found: u64,
    },

    /// A label of no class.
    #[error(
        "{path}: record {record} (counted from 0) has label {label}, expected 0 to {}: the file is \
         damaged or another data set's; unpack {archive} again",
        classes - 1
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// The archive that it belongs to.
        archive: &'static str,
        /// The record, counted from 0.
        record: usize,
        /// Its label.
        label: u8,
        /// The number of classes.
        classes: usize,
    },

    /// A file of class names that holds too many or too few.
    #[error(
        "{path}: expected the names of {expected} classes, a line each, found {found}; unpack {archive} \
         again"
    )]
    ClassNames {
        /// The file.
        path: PathBuf,
        /// The archive that it belongs to.
        archive: &'static str,
        /// The number of classes.
        expected: usize,
        /// The number of names in the file.
        found: usize,
    },

    /// A folder of classes holds none.
    #[error("{path}: no classes: expected a folder of images for each class")]
    NoClasses {
        /// The folder.
        path: PathBuf,
    },

    /// A folder of classes holds more than a label can name.
    #[error("{path}: {found} classes, at most {most} are supported")]
    TooManyClasses {
        /// The folder.
        path: PathBuf,
        /// The number of classes.
        found: usize,
        /// The number of classes that are supported.
        most: usize,
    },

    /// The folders to train and to test on do not have the same classes.
    #[error("{path}: {differences}; both must have the same classes")]
    ClassesDiffer {
        /// The folder of both.
        path: PathBuf,
        /// The classes that only one of them has.
        differences: String,
    },

    /// A file where another folder has a class.
    #[error(
        "{path}: is a file, not a folder with the images of that class; put the folder there, or remove the class \
         everywhere"
    )]
    ClassIsAFile {
        /// The file.
        path: PathBuf,
    },

    /// Two classes with one name.
    #[error(
        "{first} and {second} are two classes of the same name{hint}; rename one, or put the images of \
         both into one folder"
    )]
    SameClass {
        /// The folder of one.
        first: PathBuf,
        /// The folder of the other.
        second: PathBuf,
        /// The reason why they look different, if they do.
        hint: &'static str,
    },

    /// A class without an image.
    #[error(
        "{path}: no images: expected at least one .png, .jpg, .bmp, .webp, .tif or .ppm file for the class"
    )]
    EmptyClass {
        /// The folder of the class.
        path: PathBuf,
    },

    /// An image beside the folders of the classes.
    #[error(
        "{path}: is an image in no class's folder; move it into that of its class, or elsewhere"
    )]
    ImageWithoutClass {
        /// The file.
        path: PathBuf,
    },

    /// A link to something that is not there.
    #[error(
        "{path}: is a link that leads nowhere, to {target}; put the file or folder there, or remove the \
         link"
    )]
    BrokenLink {
        /// The link.
        path: PathBuf,
        /// The path that it leads to.
        target: PathBuf,
    },

    /// A link to a folder that it is in.
    #[error("{path}: is a link to a folder that it is in; remove the link")]
    LinkToItself {
        /// The link.
        path: PathBuf,
    },

    /// An image of a format that is not read.
    #[error(
        "{path}: an image that cannot be read: {reason}; convert it to PNG, or move it elsewhere"
    )]
    UnsupportedImage {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// A file that should be an image is not, or is a part of one.
    #[error("{path}: not a readable image: {reason}; replace it, or move it elsewhere")]
    UnreadableImage {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },

    /// An image of another size.
    #[error(
        "{path}: expected {SIDE}x{SIDE} pixels, found {width}x{height}; resize it, or move it elsewhere"
    )]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// Its width, in pixels.
        width: u32,
        /// Its height, in pixels.
        height: u32,
    },

    /// The folder holds no images of the layout that is expected.
    #[error("{path}: expected a folder with train/CLASS/ and val/CLASS/ (or test/CLASS/), {found}")]
    NoImageFolder {
        /// The folder.
        path: PathBuf,
        /// The things that are there instead.
        found: String,
    },

    /// An image that is too large.
    #[error(
        "{path}: {width}x{height} pixels, at most {most} in all are read; make it smaller, or move it elsewhere"
    )]
    TooManyPixels {
        /// The file.
        path: PathBuf,
        /// Its width, in pixels.
        width: u32,
        /// Its height, in pixels.
        height: u32,
        /// The number of pixels that an image has at most.
        most: u64,
    },

    /// A grey image of 16 bits.
    #[error(
        "{path}: a grey image of 16 bits, most of whose shades torchvision makes white; convert it to 8 bits, or move \
         it elsewhere"
    )]
    GreyOf16Bits {
        /// The file.
        path: PathBuf,
    },

    /// No image of a pass could be read.
    #[error("none of {images} images can be read; check the folder of images")]
    NoneReadable {
        /// The number of images.
        images: usize,
    },

    /// An augmentation for other images.
    #[error("{augmentation} is for {kind}; use another augmentation for these images")]
    OtherAugmentation {
        /// The augmentation.
        augmentation: &'static str,
        /// The images that it is for.
        kind: &'static str,
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
        /// The reason.
        reason: String,
    },

    /// An earlier download left only a part of the data set.
    #[error(
        "{path}: the downloaded data set is incomplete or damaged ({reason}); delete this folder and \
         run again"
    )]
    DamagedDownload {
        /// The folder to delete.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// More images were asked for than there are.
    #[error(
        "{requested} images were asked for, but there are {available}: ask for at most \
         {available}"
    )]
    TooFewImages {
        /// The number of images that were asked for.
        requested: usize,
        /// The number of images that there are.
        available: usize,
    },

    /// There is nothing to serve.
    #[error("the set to load batches from holds no images: give it at least one")]
    EmptySet,

    /// The batch size is 0.
    #[error("the batch size is 0: give at least 1")]
    ZeroBatchSize,

    /// A position beyond the end of an epoch of this data.
    #[error(
        "cannot start after {batches} batches of an epoch that has {epoch_batches}: the position \
         was saved with other data or another batch size; resume with what the run was started \
         with"
    )]
    StartBeyondEpoch {
        /// The number of batches of the epoch that the position says are done.
        batches: usize,
        /// The number of batches in the epoch.
        epoch_batches: usize,
    },
}
