//! The data sets of a plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::data::{DataSource, ImageSet};
use crate::run::config::located;

/// A data set of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataSet {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100.
    Cifar100,
    /// Ten classes of images made up from a seed.
    Synthetic,
}

impl DataSet {
    /// The number of its classes.
    pub fn classes(self) -> usize {
        match self {
            Self::Cifar10 | Self::Synthetic => 10,
            Self::Cifar100 => 100,
        }
    }

    /// The location of the data set, as `cifar train --data` takes it, if an experiment's `--data`
    /// is `data`.
    ///
    /// `download` is the download of this data set. A folder holds the only data set of the plan.
    /// If it is `one_of_several`, the folder holds a folder for each: `cifar10` and `cifar100`, or
    /// those that the official archives unpack to.
    pub fn location(self, data: &str, one_of_several: bool) -> String {
        let Ok(source) = data.parse();
        match (self, source) {
            (Self::Cifar100, DataSource::Download) => "download100".to_owned(),
            (_, DataSource::Folder(folder)) if one_of_several => {
                let archive = match self {
                    Self::Cifar10 => "cifar-10-batches-bin",
                    Self::Cifar100 => "cifar-100-binary",
                    Self::Synthetic => "synthetic",
                };
                let own = match folder.join(archive) {
                    unpacked if unpacked.is_dir() => unpacked,
                    _ => folder.join(self.to_string()),
                };
                located(&own.to_string_lossy())
            }
            _ => located(data),
        }
    }

    /// Checks that `images`, which were loaded from `data`, have as many classes as this data set.
    ///
    /// # Errors
    ///
    /// If it has another number of classes.
    pub fn check(self, images: &ImageSet, data: &str) -> Result<(), Failure> {
        match (images.class_names.len(), self.classes()) {
            (found, expected) if found == expected => Ok(()),
            (found, expected) => Err(format!(
                "{data}: expected the {expected} classes of {self}, found {found}: point --data at \
                 {self}, or name another data set in the plan"
            )
            .into()),
        }
    }
}

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its name in a plan.
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_data_set_is_downloaded_by_its_own_name() {
        let location = |set: DataSet| set.location("download", true);
        assert_eq!(location(DataSet::Cifar10), "download");
        assert_eq!(location(DataSet::Cifar100), "download100");
    }

    #[test]
    fn several_data_sets_lie_in_folders_of_their_own_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let archive = folder.path().join("cifar-100-binary");
        std::fs::create_dir(&archive).unwrap();
        let inner = |set: DataSet| set.location(data, true);
        assert_eq!(inner(DataSet::Cifar10), format!("{data}/cifar10"));
        assert_eq!(inner(DataSet::Cifar100), archive.to_str().unwrap());
        assert_eq!(DataSet::Cifar10.location(data, false), data);
    }
}
