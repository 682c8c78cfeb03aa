//! The members of an ensemble, and the snapshots of averages, which a run keeps in its folder.

use std::path::PathBuf;

use swa_core::{AveragingRule, Member, MemberSink, SinkError};
use swa_models::Network;
use swa_store::MemberFiles;

use super::classifier::Classifier;
use super::directory::RunDirectory;
use super::model_file::{Description, described_by};

/// Model files as `cifar train` leaves them, in the folder of a run as long as that is the one that was opened.
pub(super) struct RunMembers {
    files: MemberFiles,
    directory: RunDirectory,
}

impl RunMembers {
    /// Files in `folder`, a part of `directory`, which all have this description.
    pub(super) fn new(directory: RunDirectory, folder: PathBuf, description: &Description) -> Self {
        let (key, text) = described_by(description);
        Self {
            files: MemberFiles::new(folder).with_metadata(key, &text),
            directory,
        }
    }
}

impl MemberSink<Classifier<Network>> for RunMembers {
    fn put(&mut self, member: &Member, model: &Classifier<Network>) -> Result<(), SinkError> {
        self.directory.check()?;
        self.files.put(member, model.network())
    }

    fn check(&mut self, member: &Member) -> Result<(), SinkError> {
        MemberSink::<Network>::check(&mut self.files, member)
    }

    fn describe(&mut self, name: &str, rule: &dyn AveragingRule) {
        MemberSink::<Network>::describe(&mut self.files, name, rule);
    }
}
