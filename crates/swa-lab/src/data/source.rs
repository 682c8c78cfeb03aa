//! The source of the images.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::cifar_binary::BinaryFiles;
use super::error::DataError;
use super::images::ImageSet;
use super::synthetic::Synthetic;
use super::{cifar_binary, class_folders, download, image_folder};

/// A function that is called, from any thread, with the number of images loaded so far and the
/// number of all.
pub type LoadProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// The source of the images, as `--data` names it.
///
/// It is parsed from `synthetic`, `download`, `download100`, or the path of a folder (write
/// `./download` for a folder of that name), and displayed as the same text. A folder's layout is looked up when it
/// is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// Images made up from a seed; needs no network and no files.
    Synthetic(Synthetic),
    /// CIFAR-10, downloaded once by `burn-dataset` into the user's cache.
    Download,
    /// CIFAR-100, downloaded in the same way.
    Download100,
    /// A folder with the binary files of CIFAR-10 or CIFAR-100, in itself or in the
    /// `cifar-10-batches-bin` or `cifar-100-binary` that the official archives unpack to, or with images in
    /// `train/CLASS/` and `test/CLASS/`.
    Folder(PathBuf),
}

impl DataSource {
    /// Loads all images into memory.
    ///
    /// # Errors
    ///
    /// Returns an error of one line that says what is wrong, where, and what to do about it.
    pub fn load(&self, progress: LoadProgress<'_>) -> Result<ImageSet, DataError> {
        match self {
            Self::Synthetic(synthetic) => Ok(synthetic.generate(progress)),
            Self::Download => download::load(&download::CIFAR10, progress),
            Self::Download100 => download::load(&download::CIFAR100, progress),
            Self::Folder(path) => match Layout::of(path)? {
                Layout::CifarBinary(files, folder) => files.load(&folder, progress),
                Layout::ImageFolder => image_folder::load(path, progress),
            },
        }
    }
}

impl DataSource {
    /// Checks, without loading anything, that a folder is there and holds a data set.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), which may find further errors.
    pub fn check(&self) -> Result<(), DataError> {
        match self {
            Self::Folder(path) => Layout::of(path).map(drop),
            Self::Synthetic(_) | Self::Download | Self::Download100 => Ok(()),
        }
    }
}

impl FromStr for DataSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "synthetic" => Self::Synthetic(Synthetic::default()),
            "download" => Self::Download,
            "download100" => Self::Download100,
            path => Self::Folder(path.into()),
        })
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synthetic(_) => f.write_str("synthetic"),
            Self::Download => f.write_str("download"),
            Self::Download100 => f.write_str("download100"),
            Self::Folder(path) => path.display().fmt(f),
        }
    }
}

/// The layout of a folder with a data set.
#[derive(Debug, PartialEq, Eq)]
enum Layout {
    /// Binary files of CIFAR, in this folder.
    CifarBinary(&'static BinaryFiles, PathBuf),
    /// `train/` and `test/`.
    ImageFolder,
}

impl Layout {
    /// Looks at what is in `folder`.
    fn of(folder: &Path) -> Result<Self, DataError> {
        if !folder.exists() {
            return Err(DataError::NoSuchFolder {
                path: folder.into(),
            });
        }
        if !folder.is_dir() {
            return Err(DataError::NotAFolder {
                path: folder.into(),
            });
        }
        for files in [&cifar_binary::CIFAR10, &cifar_binary::CIFAR100] {
            for folder in [folder.to_path_buf(), folder.join(files.folder)] {
                if files.any_in(&folder) {
                    return Ok(Self::CifarBinary(files, folder));
                }
            }
        }
        let splits = [class_folders::TRAIN, image_folder::TEST];
        if splits.iter().all(|split| folder.join(split).is_dir()) {
            return Ok(Self::ImageFolder);
        }
        Err(Self::unknown(folder)?)
    }

    /// The error for a `folder` of neither layout.
    fn unknown(folder: &Path) -> Result<DataError, DataError> {
        let names = class_folders::entries(folder)?;
        let is_there = |name: &str| names.iter().any(|found| found == name);
        let hint = if [
            "cifar-10-batches-py",
            "cifar-100-python",
            "batches.meta",
            "meta",
        ]
        .into_iter()
        .any(is_there)
        {
            "; this is the version for Python, get the binary version"
        } else if names
            .iter()
            .any(|name| name.ends_with(".tar.gz") || name.ends_with(".tgz"))
        {
            "; unpack the archive"
        } else {
            ""
        };
        Ok(DataError::UnknownLayout {
            path: folder.into(),
            found: class_folders::in_words(&names),
            hint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DataSource {
        let Ok(source) = text.parse();
        source
    }

    /// A folder that holds these files, which are empty, and folders, which end in `/`.
    fn folder(entries: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in entries {
            let path = folder.path().join(entry);
            if entry.ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
        }
        folder
    }

    fn error(path: &Path) -> String {
        let error = DataSource::Folder(path.into())
            .load(&|_, _| {})
            .unwrap_err();
        error.to_string().replace(path.to_str().unwrap(), "DIR")
    }

    #[test]
    fn the_text_of_the_option_is_read_and_written_alike() {
        for text in [
            "synthetic",
            "download",
            "download100",
            "some/folder",
            "./download",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(
            parse("synthetic"),
            DataSource::Synthetic(Synthetic::default())
        );
        assert_eq!(parse("download"), DataSource::Download);
        assert_eq!(parse("./download"), DataSource::Folder("./download".into()));
    }

    #[test]
    fn a_folder_is_told_by_what_it_holds() {
        let binary = folder(&["data_batch_2.bin"]);
        assert_eq!(
            Layout::of(binary.path()).unwrap(),
            Layout::CifarBinary(&cifar_binary::CIFAR10, binary.path().into())
        );
        let archive = folder(&["cifar-10-batches-bin/test_batch.bin"]);
        assert_eq!(
            Layout::of(archive.path()).unwrap(),
            Layout::CifarBinary(
                &cifar_binary::CIFAR10,
                archive.path().join("cifar-10-batches-bin")
            )
        );
        let cifar100 = folder(&["cifar-100-binary/train.bin"]);
        assert_eq!(
            Layout::of(cifar100.path()).unwrap(),
            Layout::CifarBinary(
                &cifar_binary::CIFAR100,
                cifar100.path().join("cifar-100-binary")
            )
        );
        let images = folder(&["train/", "test/", "labels.txt"]);
        assert_eq!(Layout::of(images.path()).unwrap(), Layout::ImageFolder);
    }

    #[test]
    fn a_missing_path_is_named_with_what_the_option_takes() {
        assert_eq!(
            error(Path::new("/no/such/folder")),
            "DIR: no such folder; --data takes `synthetic`, `download`, `download100`, or a folder with \
             CIFAR's binary files or with train/CLASS/ and test/CLASS/"
        );
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = folder(&["cifar-10-binary.tar.gz"]);
        assert_eq!(
            error(&folder.path().join("cifar-10-binary.tar.gz")),
            "DIR: is a file, not a folder; if it is an archive, unpack it and give the folder"
        );
    }

    #[test]
    fn a_folder_of_neither_layout_is_described() {
        let expected = "DIR: expected data_batch_1.bin to data_batch_5.bin and test_batch.bin, \
                        train.bin and test.bin, or train/CLASS/ and test/CLASS/, found ";
        let cases: [(&[&str], &str); 5] = [
            (&[], "nothing"),
            (&["train/", "valid/"], "train, valid"),
            (
                &["a", "b", "c", "d", "e", "f", "g"],
                "a, b, c, d, e and 2 more",
            ),
            (
                &["cifar-10-batches-py/"],
                "cifar-10-batches-py; this is the version for Python, get the binary version",
            ),
            (
                &["cifar-10-binary.tar.gz"],
                "cifar-10-binary.tar.gz; unpack the archive",
            ),
        ];
        for (entries, found) in cases {
            assert_eq!(error(folder(entries).path()), format!("{expected}{found}"));
        }
    }
}
