//! The binary files of CIFAR-10 and CIFAR-100.
//!
//! Each holds records of a label byte (CIFAR-10) or two, the coarse and the fine label (CIFAR-100; the
//! fine one is used), and 3,072 pixel bytes: the planes red, green and blue, row by row
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version").

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use super::error::DataError;
use super::images::{IMAGE_BYTES, ImageSet, Images};
use super::source::LoadProgress;

/// A data set in binary files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BinaryFiles {
    /// The name of the official archive.
    pub(super) archive: &'static str,
    /// The folder that the archive unpacks to.
    pub(super) folder: &'static str,
    /// The files to train on, and the number of records in each.
    train: (&'static [&'static str], usize),
    /// The file to test on, and the number of records in it.
    test: (&'static str, usize),
    /// The number of label bytes at the beginning of a record; the last one is used.
    label_bytes: usize,
    classes: Classes,
}

/// The names of the classes, in the order of their labels.
#[derive(Debug, PartialEq, Eq)]
enum Classes {
    Named(&'static [&'static str]),
    /// The number of classes, and the file that names them, a line each.
    InFile(usize, &'static str),
}

/// CIFAR-10: 50,000 images to train and 10,000 to test on, of ten classes.
pub(super) const CIFAR10: BinaryFiles = BinaryFiles {
    archive: "cifar-10-binary.tar.gz",
    folder: "cifar-10-batches-bin",
    train: (
        &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        10_000,
    ),
    test: ("test_batch.bin", 10_000),
    label_bytes: 1,
    classes: Classes::Named(&[
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
    ]),
};

/// CIFAR-100: 50,000 images to train and 10,000 to test on, of a hundred classes.
pub(super) const CIFAR100: BinaryFiles = BinaryFiles {
    archive: "cifar-100-binary.tar.gz",
    folder: "cifar-100-binary",
    train: (&["train.bin"], 50_000),
    test: ("test.bin", 10_000),
    label_bytes: 2,
    classes: Classes::InFile(100, "fine_label_names.txt"),
};

impl BinaryFiles {
    /// Tells whether any of the files is in `folder`. One is enough to decide on this format: the
    /// error then names a missing one.
    pub(super) fn any_in(&self, folder: &Path) -> bool {
        let mut files = self.train.0.iter().chain([&self.test.0]);
        files.any(|file| folder.join(file).is_file())
    }

    /// Loads the files of `folder`.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file if it is missing, is not exactly as long as its
    /// records, cannot be read, or holds a label of no class.
    pub(super) fn load(
        &self,
        folder: &Path,
        progress: LoadProgress<'_>,
    ) -> Result<ImageSet, DataError> {
        let (train_files, train_records) = self.train;
        let (test_file, test_records) = self.test;
        let total = train_files.len() * train_records + test_records;
        let class_names = self.class_names(folder)?;
        let mut train = (Vec::new(), Vec::new());
        for (done, file) in train_files.iter().enumerate() {
            self.read_file(&folder.join(file), train_records, &mut train)?;
            progress((done + 1) * train_records, total);
        }
        let mut test = (Vec::new(), Vec::new());
        self.read_file(&folder.join(test_file), test_records, &mut test)?;
        progress(total, total);

        Ok(ImageSet {
            train: Arc::new(Images::new(train.0, train.1)),
            test: Arc::new(Images::new(test.0, test.1)),
            class_names,
            notes: Vec::new(),
        })
    }

    /// The number of classes.
    fn classes(&self) -> usize {
        match self.classes {
            Classes::Named(names) => names.len(),
            Classes::InFile(classes, _) => classes,
        }
    }

    fn class_names(&self, folder: &Path) -> Result<Vec<String>, DataError> {
        let (classes, path) = match self.classes {
            Classes::Named(names) => return Ok(names.iter().map(ToString::to_string).collect()),
            Classes::InFile(classes, file) => (classes, folder.join(file)),
        };
        let text = std::fs::read_to_string(&path).map_err(|error| self.unreadable(&path, error))?;
        let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(String::from).collect();
        if names.len() == classes {
            Ok(names)
        } else {
            Err(DataError::ClassNames {
                path,
                archive: self.archive,
                expected: classes,
                found: names.len(),
            })
        }
    }

    fn unreadable(&self, path: &Path, source: std::io::Error) -> DataError {
        match source.kind() {
            ErrorKind::NotFound => DataError::MissingFile {
                path: path.into(),
                archive: self.archive,
            },
            _ => DataError::Unreadable {
                path: path.into(),
                source,
            },
        }
    }

    /// Appends a file of `records` records to `pixels` and `labels`. A file of another size is not
    /// read.
    fn read_file(
        &self,
        path: &Path,
        records: usize,
        (pixels, labels): &mut (Vec<u8>, Vec<u8>),
    ) -> Result<(), DataError> {
        let record_bytes = self.label_bytes + IMAGE_BYTES;
        let mut file = File::open(path).map_err(|error| self.unreadable(path, error))?;
        let metadata = file.metadata();
        let found = metadata
            .map_err(|error| self.unreadable(path, error))?
            .len();
        let expected = (records * record_bytes) as u64;
        if found != expected {
            return Err(DataError::FileSize {
                path: path.into(),
                archive: self.archive,
                records,
                expected,
                found,
            });
        }

        let mut bytes = vec![0; records * record_bytes];
        file.read_exact(&mut bytes)
            .map_err(|error| self.unreadable(path, error))?;
        pixels.reserve(records * IMAGE_BYTES);
        for (record, bytes) in bytes.chunks_exact(record_bytes).enumerate() {
            let (label, image) = (bytes[self.label_bytes - 1], &bytes[self.label_bytes..]);
            if usize::from(label) >= self.classes() {
                return Err(DataError::LabelOutOfRange {
                    path: path.into(),
                    archive: self.archive,
                    record,
                    label,
                    classes: self.classes(),
                });
            }
            labels.push(label);
            pixels.extend_from_slice(image);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostile_files::survive;

    /// CIFAR-10 with files of two records.
    const SMALL: BinaryFiles = BinaryFiles {
        train: (CIFAR10.train.0, 2),
        test: (CIFAR10.test.0, 2),
        ..CIFAR10
    };

    /// CIFAR-100 with three records to train and two to test on.
    const SMALL100: BinaryFiles = BinaryFiles {
        train: (CIFAR100.train.0, 3),
        test: (CIFAR100.test.0, 2),
        ..CIFAR100
    };

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
        for (n, file) in CIFAR10.train.0.iter().chain([&CIFAR10.test.0]).enumerate() {
            let n = n as u8;
            let bytes = [record(n, [n, 20, 30]), record(9, [1, 2, 3])].concat();
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        folder
    }

    fn error(folder: &tempfile::TempDir) -> String {
        error_of(&SMALL, folder)
    }

    fn error_of(files: &BinaryFiles, folder: &tempfile::TempDir) -> String {
        let error = files.load(folder.path(), &|_, _| {}).unwrap_err();
        error
            .to_string()
            .replace(folder.path().to_str().unwrap(), "DIR")
    }

    #[test]
    fn records_come_in_the_order_of_the_files_with_their_labels() {
        let images = SMALL.load(folder().path(), &|_, _| {}).unwrap();
        let labels: Vec<u16> = (0..10).map(|index| images.train.label(index)).collect();
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
        let progress = |done, total| calls.lock().unwrap().push((done, total));
        SMALL.load(folder().path(), &progress).unwrap();
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
        let error = error_of(&CIFAR10, &folder);
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
             the file is damaged or another data set's; unpack cifar-10-binary.tar.gz again"
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

    /// A coarse and a fine label, and black.
    fn record100(coarse: u8, fine: u8) -> Vec<u8> {
        [vec![coarse, fine], vec![0; IMAGE_BYTES]].concat()
    }

    /// A folder of CIFAR-100 whose fine labels are 99, 7 and 0 to train, and 3 and 4 to test on.
    fn folder100() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let train = [record100(1, 99), record100(19, 7), record100(0, 0)].concat();
        let test = [record100(2, 3), record100(2, 4)].concat();
        let names: String = (0..100).map(|label| format!("fine {label}\n")).collect();
        for (file, bytes) in [
            ("train.bin", train),
            ("test.bin", test),
            ("fine_label_names.txt", names.into_bytes()),
        ] {
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn damaged_files_are_refused_or_read_in_bounded_memory() {
        let read = |files: BinaryFiles, folder: tempfile::TempDir| {
            let names = files.train.0.iter().chain([&files.test.0]);
            let mut paths: Vec<_> = names.map(|name| folder.path().join(name)).collect();
            if let Classes::InFile(_, names) = files.classes {
                paths.push(folder.path().join(names));
            }
            survive(files.archive, &paths, 4, |_| {
                let images = files.load(folder.path(), &|_, _| {});
                images.map(drop).map_err(|error| error.to_string())
            });
        };
        read(SMALL, folder());
        read(SMALL100, folder100());
    }

    #[test]
    fn of_two_labels_the_fine_one_is_used_and_named() {
        let images = SMALL100.load(folder100().path(), &|_, _| {}).unwrap();
        let labels = [0, 1, 2].map(|index| images.train.label(index));
        assert_eq!(labels, [99, 7, 0]);
        assert_eq!((images.test.len(), images.test.label(1)), (2, 4));
        assert_eq!(images.class_names.len(), 100);
        assert_eq!(images.class_names[99], "fine 99");
    }

    #[test]
    fn cifar_100_is_as_strict_and_names_its_own_archive() {
        let folder = folder100();
        let write = |file: &str, bytes: Vec<u8>| {
            std::fs::write(folder.path().join(file), bytes).unwrap();
        };
        // 50,000 records of 3,074 bytes.
        let error = error_of(&CIFAR100, &folder);
        assert_eq!(
            error,
            "DIR/train.bin: expected 153700000 bytes (50000 records of 3074 bytes), found 9222: the \
             file is truncated; unpack cifar-100-binary.tar.gz again"
        );
        write("test.bin", [record100(2, 3), record100(2, 100)].concat());
        assert_eq!(
            error_of(&SMALL100, &folder),
            "DIR/test.bin: record 1 (counted from 0) has label 100, expected 0 to 99: the file is \
             damaged or another data set's; unpack cifar-100-binary.tar.gz again"
        );
        write("fine_label_names.txt", b"apple\nbaby\n".to_vec());
        assert_eq!(
            error_of(&SMALL100, &folder),
            "DIR/fine_label_names.txt: expected the names of 100 classes, a line each, found 2; unpack \
             cifar-100-binary.tar.gz again"
        );
        std::fs::remove_file(folder.path().join("fine_label_names.txt")).unwrap();
        assert_eq!(
            error_of(&SMALL100, &folder),
            "DIR/fine_label_names.txt: no such file; unpack all of cifar-100-binary.tar.gz"
        );
    }
}
