//! Members of ensembles, and snapshots of averages, in files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use swa_core::{AveragingRule, Member, MemberSink, SinkError};

use crate::{StateDict, StateDictError};

/// A folder of members: a SafeTensors file each, `step-00000391.safetensors` for that after optimizer step 391, as
/// [`StateDict::write`] writes it. Its metadata say the `step` and the `learning_rate`; those of a snapshot of an average also the
/// number of its `updates`, its name as `average`, and its `rule`, as JSON if it is one of `swa-core`'s.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use swa_core::Members;
/// use swa_store::MemberFiles;
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path().join("members");
/// let files = MemberFiles::new(&folder);
/// let model: Linear = LinearConfig::new(4, 2).init(&Device::flex());
/// let mut members = Members::new(files.clone());
/// members.collect(&model, 391, 5e-4)?;
///
/// // One at a time, for `swa_core::evaluate_ensemble`.
/// for member in members.kept() {
///     let loaded: Linear = files.load(member, model.clone())?;
/// #   assert_eq!(loaded.weight.val().into_data(), model.weight.val().into_data());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemberFiles {
    folder: PathBuf,
    metadata: BTreeMap<String, String>,
}

impl MemberFiles {
    /// Files in `folder`, which is made when it gets its first member.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self {
            folder: folder.as_ref().to_owned(),
            metadata: BTreeMap::new(),
        }
    }

    /// Adds an entry to the metadata of all files that are written from here on, beside those of the member, which stay.
    pub fn with_metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a member.
    pub fn path(&self, member: &Member) -> PathBuf {
        self.path_of_step(member.step)
    }

    /// The file of the member after optimizer step `step`.
    pub fn path_of_step(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}.safetensors"))
    }

    /// `model` with the weights of a member.
    ///
    /// # Errors
    ///
    /// Those of [`StateDict::read`] and [`StateDict::load`].
    pub fn load<M: Module>(&self, member: &Member, model: M) -> Result<M, StateDictError> {
        StateDict::read(self.path(member))?.load(model)
    }
}

impl<M: Module> MemberSink<M> for MemberFiles {
    fn put(&mut self, member: &Member, model: &M) -> Result<(), SinkError> {
        let path = self.path(member);
        let made = fs::create_dir_all(&self.folder);
        made.map_err(|error| StateDictError::Write {
            path: self.folder.clone(),
            reason: error.to_string(),
        })?;
        let step = member.step.to_string();
        let learning_rate = member.learning_rate.to_string();
        let updates = member.updates.map(|updates| updates.to_string());
        let own = [("step", &step), ("learning_rate", &learning_rate)].into_iter();
        let own = own.chain(updates.iter().map(|updates| ("updates", updates)));
        let given = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value));
        let state_dict = given
            .chain(own)
            .fold(StateDict::of(model), |state_dict, (key, value)| {
                state_dict.with_metadata(key, value)
            });
        Ok(state_dict.write(path)?)
    }

    fn check(&mut self, member: &Member) -> Result<(), SinkError> {
        let path = self.path(member);
        match fs::metadata(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(StateDictError::Read { path, error }.into()),
        }
    }

    fn describe(&mut self, name: &str, rule: &dyn AveragingRule) {
        let config = rule.config();
        let config = config.and_then(|config| serde_json::to_string(&config).ok());
        let rule = config.unwrap_or_else(|| format!("{rule:?}"));
        self.metadata.insert("average".to_owned(), name.to_owned());
        self.metadata.insert("rule".to_owned(), rule);
    }
}

#[cfg(test)]
mod tests {
    use burn::config::Config;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;
    use swa_core::{Average, MemberError, Members, PowerFunction, RuleConfig};

    use super::*;

    fn model() -> Linear {
        LinearConfig::new(2, 1).init(&Device::flex())
    }

    fn members(folder: &Path) -> Members<Linear> {
        let files = MemberFiles::new(folder)
            .with_metadata("of", "a test")
            .with_metadata("step", "0");
        let mut members = Members::new(files);
        for step in [5, 10] {
            members.collect(&model(), step, 0.1).unwrap();
        }
        members
    }

    #[test]
    fn a_member_is_a_file_that_says_its_step_and_rate() {
        let folder = tempfile::tempdir().unwrap();
        members(folder.path());
        let read = StateDict::read(folder.path().join("step-00000010.safetensors")).unwrap();
        let said = ["step", "learning_rate", "of"].map(|key| read.metadata(key).unwrap());
        assert_eq!(said, ["10", "0.1", "a test"]);
    }

    #[test]
    fn a_snapshot_is_a_file_that_says_its_rule_and_updates() {
        let folder = tempfile::tempdir().unwrap();
        let rule = PowerFunction::of_width(0.05).unwrap();
        let mut average = Average::new(&model(), rule).unwrap();
        let files = MemberFiles::new(folder.path());
        let mut snapshots = Members::of_average(files, "narrow", average.rule());
        let error = snapshots.collect_snapshot(&average, 5, 0.1).unwrap_err();
        assert!(matches!(error, MemberError::NotKept { step: 5, .. }));
        for step in [5, 10] {
            average.update(&model()).unwrap();
            snapshots.collect_snapshot(&average, step, 0.1).unwrap();
        }
        let read = StateDict::read(folder.path().join("step-00000010.safetensors")).unwrap();
        let said = ["step", "updates", "average"].map(|key| read.metadata(key).unwrap());
        assert_eq!(said, ["10", "2", "narrow"]);
        let rule = RuleConfig::load_binary(read.metadata("rule").unwrap().as_bytes());
        assert_eq!(rule.unwrap(), RuleConfig::PowerFunction { width: 0.05 });
    }

    #[test]
    fn a_file_that_was_removed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut members = members(folder.path());
        let file = folder.path().join("step-00000005.safetensors");
        fs::remove_file(&file).unwrap();
        let error = members.check().unwrap_err();
        assert!(matches!(error, MemberError::Gone { step: 5, .. }));
        assert!(
            error.to_string().contains(&file.display().to_string()),
            "{error}"
        );
        assert_eq!(members.kept().len(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        fs::write(&file, "mine").unwrap();
        let mut members = Members::new(MemberFiles::new(file.join("members")));
        let error = members.collect(&model(), 5, 0.1).unwrap_err().to_string();
        assert!(error.contains("a file/members"), "{error}");
        assert!(members.kept().is_empty());
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    }
}
