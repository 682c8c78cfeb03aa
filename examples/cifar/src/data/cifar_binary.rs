//! CIFAR-10's own binary files.
//!
//! Each holds 10,000 records of one label byte and 3,072 pixel bytes: the planes red, green and
//! blue, row by row (<https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version").

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use super::error::DataError;
use super::images::{IMAGE_BYTES, ImageSet, Images};
use super::source::LoadProgress;

/// CIFAR-10's classes, in the order of its labels.
const CLASS_NAMES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// The files to train on.
pub(super) const TRAIN_FILES: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];

/// The file to test on.
pub(super) const TEST_FILE: &str = "test_batch.bin";

/// Where the official archive unpacks to.
pub(super) const ARCHIVE_FOLDER: &str = "cifar-10-batches-bin";

/// Records of one file.
const FILE_RECORDS: usize = 10_000;

/// Bytes of one record.
const RECORD_BYTES: usize = 1 + IMAGE_BYTES;

/// Loads the six files of `folder`.
///
/// # Errors
///
/// Returns an error, naming the file, if one is missing, is not exactly 30,730,000 bytes long,
/// cannot be read, or holds a label above 9.
pub(super) fn load(folder: &Path, progress: LoadProgress<'_>) -> Result<ImageSet, DataError> {
    load_files(folder, FILE_RECORDS, progress)
}

/// [`load`], for files of any number of records.
fn load_files(
    folder: &Path,
    file_records: usize,
    progress: LoadProgress<'_>,
) -> Result<ImageSet, DataError> {
    let total = (TRAIN_FILES.len() + 1) * file_records;
    let mut train = (Vec::new(), Vec::new());
    for (done, file) in TRAIN_FILES.iter().enumerate() {
        read_file(&folder.join(file), file_records, &mut train)?;
        progress((done + 1) * file_records, total);
    }
    let mut test = (Vec::new(), Vec::new());
    read_file(&folder.join(TEST_FILE), file_records, &mut test)?;
    progress(total, total);

    Ok(ImageSet {
        train: Arc::new(Images::new(train.0, train.1)),
        test: Arc::new(Images::new(test.0, test.1)),
        class_names: CLASS_NAMES.map(String::from).to_vec(),
    })
}

/// Appends a file of `records` records to `pixels` and `labels`. Nothing is read from a file of
/// another size.
fn read_file(
    path: &Path,
    records: usize,
    (pixels, labels): &mut (Vec<u8>, Vec<u8>),
) -> Result<(), DataError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => DataError::MissingFile { path: path.into() },
        _ => DataError::Unreadable {
            path: path.into(),
            source,
        },
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    let expected = (records * RECORD_BYTES) as u64;
    if found != expected {
        return Err(DataError::FileSize {
            path: path.into(),
            records,
            expected,
            found,
        });
    }

    let mut bytes = vec![0; records * RECORD_BYTES];
    file.read_exact(&mut bytes).map_err(unreadable)?;
    pixels.reserve(records * IMAGE_BYTES);
    for (record, bytes) in bytes.chunks_exact(RECORD_BYTES).enumerate() {
        let (label, image) = (bytes[0], &bytes[1..]);
        if usize::from(label) >= CLASS_NAMES.len() {
            return Err(DataError::LabelOutOfRange {
                path: path.into(),
                record,
                label,
                classes: CLASS_NAMES.len(),
            });
        }
        labels.push(label);
        pixels.extend_from_slice(image);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose planes hold one value each.
    fn record(label: u8, [red, green, blue]: [u8; 3]) -> Vec<u8> {
        [
            vec![label],
            vec![red; 1024],
            vec![green; 1024],
            vec![blue; 1024],
        ]
        .concat()
    }

    /// A folder with files of two records each; the records of file `n` are labelled `n` and 9.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (n, file) in TRAIN_FILES.iter().chain([&TEST_FILE]).enumerate() {
            let n = n as u8;
            let bytes = [record(n, [n, 20, 30]), record(9, [1, 2, 3])].concat();
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        folder
    }

    fn error(folder: &tempfile::TempDir) -> String {
        let error = load_files(folder.path(), 2, &|_, _| {})
            .unwrap_err()
            .to_string();
        error.replace(folder.path().to_str().unwrap(), "DIR")
    }

    #[test]
    fn records_come_in_the_order_of_the_files_with_their_labels() {
        let images = load_files(folder().path(), 2, &|_, _| {}).unwrap();
        let labels: Vec<u8> = (0..10).map(|index| images.train.label(index)).collect();
        assert_eq!(labels, [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]);
        assert_eq!((images.test.len(), images.test.label(0)), (2, 5));
        let image = images.train.image(2);
        assert_eq!(
            (image[0], image[1023], image[1024], image[3071]),
            (1, 1, 20, 30)
        );
        assert_eq!(images.class_names[9], "truck");
    }

    #[test]
    fn progress_ends_at_the_total() {
        let calls = std::sync::Mutex::new(Vec::new());
        load_files(folder().path(), 2, &|done, total| {
            calls.lock().unwrap().push((done, total))
        })
        .unwrap();
        assert_eq!(
            calls.into_inner().unwrap(),
            [2, 4, 6, 8, 10, 12].map(|done| (done, 12))
        );
    }

    #[test]
    fn a_truncated_file_is_named_with_the_bytes_expected_and_found() {
        let folder = folder();
        std::fs::write(folder.path().join("data_batch_3.bin"), [0; 6145]).unwrap();
        assert_eq!(
            error(&folder),
            "DIR/data_batch_3.bin: expected 6146 bytes (2 records of 3073 bytes), found 6145: \
             the file is truncated; unpack cifar-10-binary.tar.gz again"
        );
    }

    #[test]
    fn an_oversized_file_is_named_with_the_bytes_expected_and_found() {
        let folder = folder();
        std::fs::write(folder.path().join("test_batch.bin"), [0; 6147]).unwrap();
        assert_eq!(
            error(&folder),
            "DIR/test_batch.bin: expected 6146 bytes (2 records of 3073 bytes), found 6147: \
             the file is too long; unpack cifar-10-binary.tar.gz again"
        );
    }

    #[test]
    fn an_official_file_is_30_730_000_bytes() {
        let folder = folder();
        let error = load(folder.path(), &|_, _| {}).unwrap_err().to_string();
        assert!(
            error.contains("expected 30730000 bytes (10000 records of 3073 bytes), found 6146"),
            "{error}"
        );
    }

    #[test]
    fn a_label_out_of_range_is_named_with_its_record() {
        let folder = folder();
        let bytes = [record(0, [0; 3]), record(10, [0; 3])].concat();
        std::fs::write(folder.path().join("data_batch_2.bin"), bytes).unwrap();
        assert_eq!(
            error(&folder),
            "DIR/data_batch_2.bin: record 1 (counted from 0) has label 10, expected 0 to 9: \
             the file is damaged or not CIFAR-10's; unpack cifar-10-binary.tar.gz again"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = folder();
        std::fs::remove_file(folder.path().join("data_batch_5.bin")).unwrap();
        assert_eq!(
            error(&folder),
            "DIR/data_batch_5.bin: no such file; unpack all of cifar-10-binary.tar.gz"
        );
    }
}
