//! Models out of checkpoints, and checkpoints for trainings without SWA.

use core::fmt::Display;
use std::fs;
use std::path::Path;

use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::Module;
use burn::store::ModuleRecord;
use swa_core::{Average, AverageError, EqualWeights, ReestimationConfig};

use crate::SwaError;
use crate::lr_scheduler::without_later_schedules;
use crate::swa::{Below, Contents, MAIN, PREFIX, needs_data};

/// The averaged model in a checkpoint, ready for inference: `model` with the averaged weights, and with the running statistics
/// that the last validation before the checkpoint showed. It takes no data. (After a failure of averaging, it is the last good
/// average, while validation showed the live model.)
///
/// `file` is a checkpoint's `model-EPOCH.bpk`, or whatever else a [`Swa`](crate::Swa) was saved to. `model` is a plain model of the
/// same network, on the device where it is wanted. For a training with adapters such as LoRA's, that is the network without them.
///
/// ```no_run
/// use burn::module::Module;
/// use swa_train::{SwaError, load_averaged};
///
/// fn best<M: Module + 'static>(model: M) -> Result<M, SwaError> {
///     load_averaged("artifacts/checkpoint/model-12.bpk", model)
/// }
/// ```
///
/// # Errors
///
/// [`SwaError::Checkpoint`] for a file that cannot be read, that of a training without SWA, that of another network, and that of a
/// training that had averaged nothing yet. [`SwaError::NotReestimated`] if the model has BatchNorm layers that train, and their
/// statistics were not re-estimated after the last update: in a file from within an epoch, or of an earlier version.
/// [`SwaError::Average`] for a model that cannot be averaged, and [`SwaError::BatchNorm`] for one whose BatchNorm layers could not be
/// re-estimated, such as in 16 bits.
pub fn load_averaged<M: Module + 'static>(file: impl AsRef<Path>, model: M) -> Result<M, SwaError> {
    let file = file.as_ref();
    let (record, contents) = read(file, &model)?;
    if !contents.holds(MAIN) {
        let reason = if contents.has_members {
            NO_AVERAGE
        } else {
            NOTHING_AVERAGED
        };
        return Err(refused(file, reason));
    }
    let average = Average::new(&model, EqualWeights)?;
    let path = if contents.is_below_prefix() {
        format!("{PREFIX}.average")
    } else {
        "average".to_owned()
    };
    let network = format!("{path}.model.");
    let averaged = match load(file, &path, &network, average, record)?.model() {
        Err(AverageError::NothingAveraged) => return Err(refused(file, NOTHING_AVERAGED)),
        averaged => averaged?,
    };
    if contents.is_ready || !needs_data(&averaged, &ReestimationConfig::new())? {
        Ok(averaged)
    } else {
        Err(SwaError::NotReestimated {
            file: file.to_owned(),
        })
    }
}

/// The live model in a checkpoint of a training with SWA, as the optimizer left it: `model` with its weights and running statistics.
///
/// # Errors
///
/// [`SwaError::Checkpoint`] for a file that cannot be read, that of a training without SWA (which the model itself loads), and that
/// of another network.
pub fn load_live<M: Module>(file: impl AsRef<Path>, model: M) -> Result<M, SwaError> {
    let file = file.as_ref();
    let (record, contents) = read(file, &model)?;
    let path = if contents.is_below_prefix() {
        ""
    } else {
        "model"
    };
    let network = if path.is_empty() { "" } else { "model." };
    load(file, path, network, model, record)
}

/// Turns a checkpoint of a training with SWA into one that the same training without SWA goes on from: the live model, the
/// optimizer, and the schedule that [`SwaLrScheduler`](crate::SwaLrScheduler) followed. `from` and `to` are the directories of the two
/// trainings, as `SupervisedTraining::new` takes them, and `model` is a model of the same network as theirs.
///
/// ```no_run
/// use burn::module::Module;
/// use swa_train::{SwaError, write_plain_checkpoint};
///
/// fn back<M: Module>(model: M) -> Result<(), SwaError> {
///     // Now a training without SWA in "artifacts-plain" goes on by `.checkpoint(12)`.
///     write_plain_checkpoint(model, 12, "artifacts", "artifacts-plain")
/// }
/// ```
///
/// # Errors
///
/// [`SwaError::Checkpoint`] for a file that cannot be read, that is not of a training with SWA, or of another network, and for one
/// that would be overwritten.
pub fn write_plain_checkpoint<M: Module>(
    model: M,
    epoch: usize,
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
) -> Result<(), SwaError> {
    // The names that Burn's `with_default_checkpointers` gives.
    let file = |directory: &Path, part: &str| {
        let name = format!("{part}-{epoch}.bpk");
        directory.join("checkpoint").join(name)
    };
    let files = |part: &str| (file(from.as_ref(), part), file(to.as_ref(), part));
    let (from_model, to_model) = files("model");
    let (from_optimizer, to_optimizer) = files("optim");
    let (from_schedule, to_schedule) = files("scheduler");

    let model = load_live(&from_model, model)?;
    let schedule = LrSchedulerRecord::load(&from_schedule).map_err(of(&from_schedule))?;
    let optimizer = fs::read(&from_optimizer).map_err(of(&from_optimizer))?;
    let written = [&to_model, &to_optimizer, &to_schedule];
    for file in written {
        if file.exists() {
            return Err(refused(
                file,
                "it is there already, and would be overwritten: choose another directory",
            ));
        }
    }
    if let Some(directory) = to_model.parent() {
        fs::create_dir_all(directory).map_err(of(directory))?;
    }
    // Written beside their places, so that what is in its place is whole.
    let parts = written.map(|file| file.with_extension("part"));
    let [model_part, optimizer_part, schedule_part] = &parts;
    let saved = model.into_record().save(model_part);
    saved.map_err(of(model_part))?;
    fs::write(optimizer_part, optimizer).map_err(of(optimizer_part))?;
    let saved = without_later_schedules(&schedule).save(schedule_part);
    saved.map_err(of(schedule_part))?;
    for (part, file) in parts.iter().zip(written) {
        fs::rename(part, file).map_err(of(file))?;
    }
    Ok(())
}

const NOTHING_AVERAGED: &str = "nothing had been averaged when it was written: take a later checkpoint, or the live model, by \
                                `load_live`";

const NO_AVERAGE: &str = "it is of an ensemble, or nothing had been averaged yet: its members are where they were put, and its last \
                          network is the live model, by `load_live`";

/// Reads a record, and what it holds.
fn read<M: Module>(file: &Path, model: &M) -> Result<(ModuleRecord, Contents), SwaError> {
    let record = ModuleRecord::load(file).map_err(of(file))?;
    let device = model.devices().into_iter().next().unwrap_or_default();
    let contents = Contents::of(&record, &[MAIN.into()], &device).map_err(of(file))?;
    match contents.format {
        Some(_) => Ok((record, contents)),
        None => Err(refused(
            file,
            "it is not of a training with SWA: the model itself loads it (`Module::load_file`), if it is of the same network",
        )),
    }
}

/// Loads into `module` the entries below a path of a record, and all of those that begin with `network`. Others, such as an
/// average's deviations for SWAG, are left out.
fn load<M: Module>(
    file: &Path,
    path: &str,
    network: &str,
    module: M,
    record: ModuleRecord,
) -> Result<M, SwaError> {
    let module = Below(vec![(path.to_owned(), module)]);
    let left = unused(module.clone(), record.clone());
    let loaded = module.try_load_record(record.allow_unused(true));
    let mut loaded = loaded.map_err(|error| of_another_network(file, &error.to_string()))?;
    let mut left = left.iter().filter(|name| {
        let is_of_swa = name.starts_with(&format!("{PREFIX}."));
        name.starts_with(network) && !(path.is_empty() && is_of_swa)
    });
    match (left.next(), loaded.0.pop()) {
        (None, Some((_, module))) => Ok(module),
        (Some(name), _) => {
            let more = left.count();
            let reason = format!("the model has no `{name}`, and lacks {more} more of its entries");
            Err(of_another_network(file, &reason))
        }
        (None, None) => unreachable!("a record is loaded into as many modules"),
    }
}

/// The names of the entries of a record that `module` does not take, which Burn (0.22.1) tells in a message alone.
fn unused<M: Module>(module: M, record: ModuleRecord) -> Vec<String> {
    match module.try_load_record(record.allow_partial(true).validate(false)) {
        Ok(_) => Vec::new(),
        Err(error) => {
            let names = error.to_string();
            names
                .split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        }
    }
}

fn of_another_network(file: &Path, reason: &str) -> SwaError {
    refused(file, &format!("it is of another network ({reason})"))
}

fn refused(file: &Path, reason: &str) -> SwaError {
    SwaError::Checkpoint {
        file: file.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The error for what went wrong with `file`.
fn of<E: Display>(file: &Path) -> impl Fn(E) -> SwaError {
    move |error| refused(file, &error.to_string())
}
