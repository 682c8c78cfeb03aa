//! Checkpoints that a run goes on from, at the end of an epoch or within one.

mod read;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy,
    KeepLastNCheckpoints,
};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};

use crate::data::Position;
use crate::run::directory::{DirectoryError, RunDirectory, io_error};
pub(super) use read::in_brief;

/// The parts of a checkpoint. Each has its own file, as in Burn's own checkpointers.
const PARTS: [&str; 3] = [MODEL, OPTIMIZER, SCHEDULER];
const MODEL: &str = "model";
const OPTIMIZER: &str = "optim";
const SCHEDULER: &str = "scheduler";

/// The number of checkpoints that are kept.
const KEPT: usize = 2;

/// The prefixes of the averages' parameters in a model's file.
const AVERAGES: [&str; 2] = ["swa_train.average.", "swa_train.averages."];
/// The entry that says its format.
const FORMAT: &str = "swa_train.format";

/// The checkpoints of a run in a folder: `model-12.bpk`, `optim-12.bpk` and `scheduler-12.bpk` after 12
/// epochs, and `model-12+34.bpk` and so on after 34 batches of the next.
///
/// Burn writes each file beside its place and then moves it there, so a file in its place is
/// complete. A checkpoint is complete if its three files are there.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn new(folder: PathBuf) -> Result<Self, DirectoryError> {
        fs::create_dir_all(&folder).map_err(io_error("make the folder", &folder))?;
        Ok(Self { folder })
    }

    /// The position of the last complete checkpoint.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub fn last(&self) -> Result<Option<Position>, DirectoryError> {
        Ok(self.positions()?.into_iter().max())
    }

    /// Deletes what a process that was killed left behind: an incomplete checkpoint, and those that
    /// it had not yet deleted, which are all but the last two.
    ///
    /// An incomplete checkpoint could do harm. Parameters get new ids whenever a run begins, and
    /// the optimizer's state refers to them. The model of the process that was killed, beside the
    /// optimizer of the next one, would look like a complete checkpoint, and the run would resume
    /// without momentum.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read, or a file cannot be deleted.
    pub fn delete_unfinished(&self) -> Result<(), DirectoryError> {
        let mut whole = self.positions()?;
        whole.sort();
        let kept: HashSet<PathBuf> = whole
            .into_iter()
            .rev()
            .take(KEPT)
            .flat_map(|position| PARTS.map(|part| self.file(part, position)))
            .collect();
        for file in self.files()? {
            let name = file.file_name().and_then(|name| name.to_str());
            // Burn writes `model-12.bpk` as `model-12.bpk.PID-N.tmp`.
            let is_of_a_checkpoint = |name: &str| {
                let name = name.strip_suffix(".tmp").map_or(name, |name| {
                    name.rsplit_once('.').map_or(name, |(name, _)| name)
                });
                PARTS.iter().any(|part| position_of(part, name).is_some())
            };
            if !kept.contains(&file) && name.is_some_and(is_of_a_checkpoint) {
                fs::remove_file(&file).map_err(io_error("delete", &file))?;
            }
        }
        Ok(())
    }

    /// Deletes the checkpoints that were saved within the epochs up to `epoch`, if there is a
    /// complete checkpoint of its end.
    fn delete_within(&self, epoch: usize) -> Result<(), DirectoryError> {
        if !self.is_whole(Position { epoch, batches: 0 }) {
            return Ok(());
        }
        for file in self.files()? {
            let name = file.file_name().and_then(|name| name.to_str());
            let position =
                name.and_then(|name| PARTS.iter().find_map(|part| position_of(part, name)));
            if position.is_some_and(|position| position.batches > 0 && position.epoch < epoch) {
                delete(&file)?;
            }
        }
        Ok(())
    }

    /// The positions of the complete checkpoints.
    fn positions(&self) -> Result<Vec<Position>, DirectoryError> {
        let files = self.files()?;
        let models = files.iter().filter_map(|file| {
            let name = file.file_name()?.to_str()?;
            position_of(MODEL, name)
        });
        Ok(models.filter(|position| self.is_whole(*position)).collect())
    }

    fn is_whole(&self, position: Position) -> bool {
        PARTS.iter().all(|part| self.file(part, position).is_file())
    }

    fn files(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        fs::read_dir(&self.folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(io_error("read the folder", &self.folder))
    }

    fn file(&self, part: &str, position: Position) -> PathBuf {
        let Position { epoch, batches } = position;
        self.folder.join(match batches {
            0 => format!("{part}-{epoch}.bpk"),
            _ => format!("{part}-{epoch}+{batches}.bpk"),
        })
    }

    /// Burn's three checkpointers: of the model, the optimizer and the schedule. They go on from
    /// `saved`, if the run does not begin. They write and delete as long as the run's `directory` is
    /// the one that was opened.
    pub fn checkpointers(
        &self,
        directory: &RunDirectory,
        saved: Option<Saved>,
    ) -> (
        PartCheckpointer<ModuleRecord>,
        PartCheckpointer<OptimizerRecord>,
        PartCheckpointer<LrSchedulerRecord>,
    ) {
        let saved = saved.map(|it| (Some(it.model), Some(it.optimizer), Some(it.schedule)));
        let (model, optimizer, schedule) = saved.unwrap_or_default();
        (
            PartCheckpointer::new(self, directory, MODEL, model),
            PartCheckpointer::new(self, directory, OPTIMIZER, optimizer),
            PartCheckpointer::new(self, directory, SCHEDULER, schedule),
        )
    }

    /// Writes a checkpoint.
    ///
    /// # Errors
    ///
    /// If a file cannot be written; earlier checkpoints stay.
    pub fn save(&self, position: Position, saved: Saved) -> Result<(), CheckpointerError> {
        Checkpoint::save(saved.model, self.file(MODEL, position))?;
        Checkpoint::save(saved.optimizer, self.file(OPTIMIZER, position))?;
        Checkpoint::save(saved.schedule, self.file(SCHEDULER, position))
    }
}

/// The records of a checkpoint.
pub struct Saved {
    /// The model, with its average if it has one.
    pub model: ModuleRecord,
    /// The optimizer's state.
    pub optimizer: OptimizerRecord,
    /// The schedule's state.
    pub schedule: LrSchedulerRecord,
}

/// Keeps the last two checkpoints, and makes none of an epoch before the epoch is in the log.
///
/// Burn 0.22.1 logs in a thread of its own, and does not wait for it: a process that is killed just
/// after a checkpoint could leave it without the epoch's metrics, which nothing could restore.
#[derive(Debug, Clone)]
pub struct AfterLog {
    unlogged: Arc<AtomicBool>,
}

impl AfterLog {
    /// A strategy that makes no checkpoint while `unlogged` is set. It is set if the last epoch
    /// could not be logged, for example on a full disk. That epoch is then repeated when the run
    /// goes on.
    pub fn new(unlogged: Arc<AtomicBool>) -> Self {
        Self { unlogged }
    }
}

impl CheckpointingStrategy for AfterLog {
    fn checkpointing(
        &mut self,
        epoch: usize,
        store: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        // The thread answers when its earlier work is done. The answer itself is not needed.
        let _ = store.find_metric("Loss", epoch, Aggregate::Mean, &Split::Valid);
        if self.unlogged.load(Ordering::SeqCst) {
            Vec::new()
        } else {
            KeepLastNCheckpoints::new(KEPT).checkpointing(epoch, store)
        }
    }
}

/// The position in the name of a file, such as `model-12+34.bpk`.
fn position_of(part: &str, name: &str) -> Option<Position> {
    let position = name.strip_prefix(part)?.strip_prefix('-')?;
    let position = position.strip_suffix(".bpk")?;
    let (epoch, batches) = position.split_once('+').unwrap_or((position, "0"));
    Some(Position {
        epoch: epoch.parse().ok()?,
        batches: batches.parse().ok()?,
    })
}

/// Saves one part of every checkpoint, and restores that part of the one that the run goes on from,
/// which was read before.
pub struct PartCheckpointer<R> {
    checkpoints: Checkpoints,
    directory: RunDirectory,
    part: &'static str,
    saved: Mutex<Option<R>>,
}

impl<R> PartCheckpointer<R> {
    fn new(
        checkpoints: &Checkpoints,
        directory: &RunDirectory,
        part: &'static str,
        saved: Option<R>,
    ) -> Self {
        Self {
            checkpoints: checkpoints.clone(),
            directory: directory.clone(),
            part,
            saved: Mutex::new(saved),
        }
    }

    fn at_end_of(&self, epoch: usize) -> PathBuf {
        self.checkpoints
            .file(self.part, Position { epoch, batches: 0 })
    }
}

impl<R: Checkpoint> Checkpointer<R> for PartCheckpointer<R> {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        self.directory.check().map_err(of_burn)?;
        record.save(self.at_end_of(epoch))?;
        self.checkpoints.delete_within(epoch).map_err(of_burn)
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        let deleted = self
            .directory
            .check()
            .and_then(|()| delete(&self.at_end_of(epoch)));
        deleted.map_err(of_burn)
    }

    /// The part that was read, which may be one within the epoch after `epoch`.
    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        match saved.take() {
            Some(record) => Ok(record),
            None => R::load(self.at_end_of(epoch)),
        }
    }
}

/// An error of this crate as one of Burn's.
fn of_burn(error: DirectoryError) -> CheckpointerError {
    CheckpointerError::IOError(std::io::Error::other(error))
}

/// Deletes a file, unless the checkpointer of another part has already done so.
fn delete(file: &Path) -> Result<(), DirectoryError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("delete", file)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::config::RunConfig;

    fn at(epoch: usize, batches: usize) -> Position {
        Position { epoch, batches }
    }

    #[test]
    fn the_last_checkpoint_is_the_last_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().to_owned()).unwrap();
        let touch = |part, position| fs::write(checkpoints.file(part, position), "").unwrap();
        assert_eq!(checkpoints.last().unwrap(), None);

        for position in [at(9, 0), at(10, 0), at(10, 7)] {
            PARTS.iter().for_each(|part| touch(part, position));
        }
        touch(MODEL, at(11, 0));
        touch(OPTIMIZER, at(11, 0));
        fs::write(folder.path().join("model-x.bpk"), "").unwrap();
        assert_eq!(checkpoints.last().unwrap(), Some(at(10, 7)));

        touch(SCHEDULER, at(11, 0));
        assert_eq!(checkpoints.last().unwrap(), Some(at(11, 0)));
    }

    #[test]
    fn the_rest_of_an_unfinished_checkpoint_alone_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().to_owned()).unwrap();
        let whole = [at(10, 0), at(10, 7)]
            .map(|position| PARTS.map(|part| checkpoints.file(part, position)))
            .concat();
        let foreign =
            ["notes.txt", "model-best.bpk", "other.tmp"].map(|name| folder.path().join(name));
        let unfinished = [
            // Whole, and older than the last two.
            "model-9.bpk",
            "optim-9.bpk",
            "scheduler-9.bpk",
            "model-11.bpk",
            "optim-11.bpk",
            "scheduler-10+8.bpk",
            "scheduler-11.bpk.4711-0.tmp",
        ]
        .map(|name| folder.path().join(name));
        for file in whole.iter().chain(&foreign).chain(&unfinished) {
            fs::write(file, "").unwrap();
        }
        checkpoints.delete_unfinished().unwrap();
        assert!(whole.iter().chain(&foreign).all(|file| file.exists()));
        assert!(unfinished.iter().all(|file| !file.exists()));
    }

    #[test]
    fn the_end_of_an_epoch_replaces_what_was_saved_within_it() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().to_owned()).unwrap();
        for position in [at(10, 7), at(11, 3)] {
            fs::write(checkpoints.file(MODEL, position), "").unwrap();
        }
        let exist = |position| checkpoints.file(MODEL, position).exists();
        let save = |part| {
            let directory = RunDirectory::at(folder.path());
            let part = PartCheckpointer::new(&checkpoints, &directory, part, None);
            part.save(11, LrSchedulerRecord::new()).unwrap();
        };
        save(MODEL);
        save(SCHEDULER);
        assert!(exist(at(10, 7)), "the end of the epoch is not whole yet");
        save(OPTIMIZER);
        assert!(!exist(at(10, 7)));
        assert!(exist(at(11, 3)) && exist(at(11, 0)));
    }
    #[test]
    fn a_checkpoint_in_the_place_of_a_folder_that_moved_is_let_be() {
        let parent = tempfile::tempdir().unwrap();
        let [run, moved] = ["run", "moved"].map(|name| parent.path().join(name));
        let config = RunConfig::paper(&"preresnet-20".parse().unwrap(), 10);
        let directory = RunDirectory::create(&run, &config, false).unwrap();
        let checkpoints = Checkpoints::new(directory.checkpoints()).unwrap();
        let part = PartCheckpointer::new(&checkpoints, &directory, SCHEDULER, None);
        part.save(1, LrSchedulerRecord::new()).unwrap();

        fs::rename(&run, moved).unwrap();
        let file = checkpoints.file(SCHEDULER, at(1, 0));
        fs::create_dir_all(directory.checkpoints()).unwrap();
        fs::write(&file, "another's").unwrap();
        part.save(1, LrSchedulerRecord::new()).unwrap_err();
        part.delete(1).unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), b"another's");
    }
}
