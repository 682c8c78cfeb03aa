//! The reading of a checkpoint, and the check that a run can go on from it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::burn_pack::{Reader, Scalar, Tensor as Entry};
use burn::store::{ModuleRecord, ModuleSnapshot, RecordError, bridge};
use burn::tensor::{Bytes, DType};
use burn::train::checkpoint::Checkpoint;

use super::{AVERAGES, Checkpoints, FORMAT, PARTS, Saved};
use crate::Failure;
use crate::data::Position;

impl Checkpoints {
    /// Reads the checkpoint at `at`, after so many `steps` of the run, each file once, and checks it
    /// before Burn (0.22.1) would panic over it, or silently ignore a part of it.
    ///
    /// It cannot detect a changed number: the files hold no checksums of their tensors.
    ///
    /// # Errors
    ///
    /// Names the file that is damaged or that of another run, the reason, and what to do.
    pub fn read<M: Module>(
        &self,
        at: Position,
        steps: usize,
        model: &M,
        optimizer: &ModuleOptimizer,
    ) -> Result<Saved, Failure> {
        let [model_file, optimizer_file, schedule_file] = PARTS.map(|part| self.file(part, at));
        let (parameters, model) =
            read_model(&model_file, model).map_err(|it| it.of(&model_file))?;
        let optimizer = read_optimizer(&optimizer_file, &parameters, optimizer)
            .map_err(|it| it.of(&optimizer_file))?;
        let schedule = read_schedule(&schedule_file, steps).map_err(|it| it.of(&schedule_file))?;
        Ok(Saved {
            model,
            optimizer,
            schedule,
        })
    }
}

/// A problem with a file.
enum Problem {
    Damaged(String),
    OfAnotherModel(String),
    OfAnotherRun,
    Unreadable(io::Error),
    AfterOtherSteps { found: usize, expected: usize },
    OfALaterVersion,
}

impl Problem {
    fn of(self, file: &Path) -> Failure {
        const ELSEWHERE: &str = "Resume with the images and classes that the run was begun with; a file \
                                 that came here by mistake is to be moved elsewhere, to go on from the \
                                 checkpoint before";

        let file = file.display();
        let cannot = format!("{file} cannot be resumed from");
        let message = match self {
            Self::Damaged(reason) => {
                let problem = in_brief(&format!("it is damaged ({reason})"));
                format!("{cannot}: {problem}. Delete it to go on from the checkpoint before")
            }
            Self::OfAnotherModel(reason) => {
                let problem = in_brief(&format!("it is that of another model ({reason})"));
                format!("{cannot}: {problem}. {ELSEWHERE}")
            }
            Self::OfAnotherRun => format!("{cannot}: it is that of another run. {ELSEWHERE}"),
            Self::Unreadable(error) => format!("cannot read {file}: {error}"),
            Self::AfterOtherSteps { found, expected } => format!(
                "{cannot}: it was written after {found} steps, and with the run's images and batch size \
                 it would have been {expected}. Resume with the images that the run was begun with: say \
                 with --data where they are"
            ),
            Self::OfALaterVersion => {
                format!("{file} is of a later version of this program: resume the run with that")
            }
        };
        message.into()
    }
}

/// The beginning of a message that may be long, because it lists a network's parameters.
pub(in crate::run) fn in_brief(message: &str) -> String {
    const LENGTH: usize = 160;

    match message.char_indices().nth(LENGTH) {
        None => message.to_owned(),
        Some((end, _)) => format!("{} …", &message[..end]),
    }
}

/// The live parameters of a model's file, by their ids.
type Parameters = HashMap<u64, Entry>;

/// Reads the file of such a model, and the parameters in it.
fn read_model<M: Module>(file: &Path, model: &M) -> Result<(Parameters, ModuleRecord), Problem> {
    let contents = Contents::read(file)?;
    let record = contents.record::<ModuleRecord>()?;
    let entries = contents.entries()?;
    let expected = model.collect(None, None, false).into_iter();
    let expected: HashMap<String, (DType, Option<u64>)> = expected
        .map(|entry| (entry.name, (entry.dtype, entry.param_id)))
        .collect();
    let is_earlier = entries.iter().any(|entry| entry.name == "average.updates");
    let mut parameters = Parameters::new();
    for entry in entries {
        let (name, dtype) = (&entry.name, entry.dtype);
        let name_now = name_now(name, is_earlier);
        if name_now == FORMAT && first_integer(&entry)? > swa_train::RECORD_FORMAT as i64 {
            return Err(Problem::OfALaterVersion);
        }
        // Burn takes over a file's dtype, and panics if it does not match the others. The width of
        // an integer is that on the run's earlier device.
        let own = expected.get(&*name_now);
        if let Some((expected, _)) = own
            && dtype != *expected
            && !(dtype.is_int() && expected.is_int())
        {
            let reason = format!("{name} is of {dtype:?}, expected {expected:?}");
            return Err(Problem::OfAnotherModel(reason));
        }
        // The averages' parameters have the ids of the live ones.
        if AVERAGES.iter().any(|prefix| name_now.starts_with(prefix)) {
            continue;
        }
        let Some(id) = entry.param_id else {
            return Err(Problem::Damaged(format!("{name} has no id")));
        };
        // The bends of a curve have their running statistics' ids in common.
        let own_id = own.and_then(|(_, id)| *id);
        if let Some(other) = parameters.insert(id, entry)
            && (own_id.is_none() || own_id != expected.get(&other.name).and_then(|(_, id)| *id))
        {
            let reason = format!("{} has the id of another parameter", other.name);
            return Err(Problem::Damaged(reason));
        }
    }
    match model.valid().try_load_record(record.clone()) {
        Ok(_) => Ok((parameters, record)),
        Err(error) => Err(Problem::OfAnotherModel(error.to_string())),
    }
}

/// The name of an entry of a model's file as this version writes it.
fn name_now(name: &str, is_earlier: bool) -> Cow<'_, str> {
    if !is_earlier {
        return name.into();
    }
    match name.strip_prefix("model.") {
        Some(live) => live.into(),
        None => format!("swa_train.{name}").into(),
    }
}

fn first_integer(entry: &Entry) -> Result<i64, Problem> {
    let data = bridge::to_data(entry).map_err(|error| Problem::Damaged(error.to_string()))?;
    Ok(data.iter::<i64>().next().unwrap_or_default())
}

/// Reads the file of this `optimizer`'s state for some of these parameters.
fn read_optimizer(
    file: &Path,
    parameters: &Parameters,
    optimizer: &ModuleOptimizer,
) -> Result<OptimizerRecord, Problem> {
    let contents = Contents::read(file)?;
    let record = contents.record::<OptimizerRecord>()?;
    let scalars = contents.scalars()?;
    let entries = contents.entries()?;
    for entry in &entries {
        let name = &entry.name;
        let Some(id) = entry.param_id else {
            return Err(Problem::Damaged(format!("{name} is of no parameter")));
        };
        let parameter = parameters.get(&id).ok_or(Problem::OfAnotherRun)?;
        // Burn finds the parameter by this name.
        if name.split('.').next() != Some(&id.to_string()) {
            let reason = format!("{name} is of the parameter {id}");
            return Err(Problem::Damaged(reason));
        }
        if entry.shape != parameter.shape || entry.dtype != parameter.dtype {
            let described = |it: &Entry| format!("{:?} of {:?}", it.shape.to_vec(), it.dtype);
            return Err(Problem::Damaged(format!(
                "{name} is {}, expected {} as {}",
                described(entry),
                described(parameter),
                parameter.name
            )));
        }
    }
    for (name, rank) in &scalars {
        let Some(id) = name.strip_suffix(".__rank") else {
            continue;
        };
        let id = id.parse::<u64>().ok();
        let parameter = id.and_then(|id| parameters.get(&id));
        let parameter = parameter.ok_or(Problem::OfAnotherRun)?;
        if usize::try_from(*rank) != Ok(parameter.shape.num_dims()) {
            return Err(Problem::Damaged(format!("{name} is {rank:?}")));
        }
    }
    // Burn leaves out what it cannot read, and begins anew with those parameters.
    let taken = optimizer.clone().load_record(contents.record()?);
    let taken = taken.to_record().len();
    if taken == entries.len() {
        Ok(record)
    } else {
        Err(Problem::Damaged(format!(
            "{taken} of its {} tensors are an optimizer's",
            entries.len()
        )))
    }
}

/// Reads the file of a schedule of one group after so many steps. Without the number of steps, Burn
/// would begin the schedule anew.
fn read_schedule(file: &Path, steps: usize) -> Result<LrSchedulerRecord, Problem> {
    let record = Contents::read(file)?.record::<LrSchedulerRecord>()?;
    let found: Option<usize> = record.record("0").scalar("steps");
    match found {
        None => Err(Problem::Damaged("it holds no number of steps".to_owned())),
        Some(found) if found != steps => Err(Problem::AfterOtherSteps {
            found,
            expected: steps,
        }),
        Some(_) => Ok(record),
    }
}

/// A file's contents, which its entries and its record share.
struct Contents(Bytes);

impl Contents {
    fn read(file: &Path) -> Result<Self, Problem> {
        let bytes = fs::read(file).map_err(Problem::Unreadable)?;
        Ok(Self(Bytes::from_bytes_vec(bytes).shared()))
    }

    fn record<R: Checkpoint>(&self) -> Result<R, Problem> {
        R::checkpoint_from_bytes(self.0.clone()).map_err(damaged)
    }

    fn entries(&self) -> Result<Vec<Entry>, Problem> {
        let reader = Reader::from_bytes(self.0.clone()).map_err(damaged)?;
        reader.into_tensors().map_err(damaged)
    }

    fn scalars(&self) -> Result<BTreeMap<String, Scalar>, Problem> {
        let reader = Reader::from_bytes(self.0.clone()).map_err(damaged)?;
        Ok(reader.scalars().clone())
    }
}

fn damaged(error: impl Into<RecordError>) -> Problem {
    Problem::Damaged(match error.into() {
        RecordError::Io(reason) => reason,
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::optim::momentum::MomentumConfig;
    use burn::store::burn_pack::Writer;
    use burn::tensor::{Device, Int, Tensor};
    use burn::train::TrainStep;
    use swa_train::{Collect, PaperLrSchedulerConfig, RunLength, Swa, SwaConfig};

    use super::*;
    use crate::data::{Augmentation, EpochLoader, IMAGE_BYTES, ImageBatch, Images};
    use crate::hostile_files::survive;
    use crate::run::classifier::{Classifier, ImageNetwork};

    /// The smallest network with BatchNorm.
    #[derive(Module, Debug)]
    struct Net {
        norm: BatchNorm,
        fc: Linear,
    }

    impl ImageNetwork for Net {
        fn logits(&self, images: Tensor<4>) -> Tensor<2> {
            self.fc.forward(self.norm.forward(images).flatten(1, 3))
        }
    }

    /// The run of the checkpoints here: one step an epoch, averaged from the first one on.
    struct Run {
        model: Swa<Classifier<Net>>,
        optimizer: ModuleOptimizer,
        schedule: ModuleLrScheduler,
    }

    impl Run {
        fn new() -> Self {
            let device = Device::flex().autodiff();
            let net = Net {
                norm: BatchNormConfig::new(3).init(&device),
                fc: LinearConfig::new(3, 2).init(&device),
            };
            let length = RunLength::new(4, 1).unwrap();
            let images = Images::new(vec![0; IMAGE_BYTES], vec![0]);
            let images = Arc::new(images);
            let loader =
                EpochLoader::reestimation(images, 1, Augmentation::None, 1, &device).unwrap();
            let collect = Collect::from_epoch(1, &length).unwrap();
            Self {
                model: SwaConfig::new(collect)
                    .init(Classifier::new(net, Arc::default()), Arc::new(loader))
                    .unwrap(),
                optimizer: SgdConfig::new()
                    .with_momentum(Some(MomentumConfig::new()))
                    .init(),
                schedule: ModuleLrScheduler::new(
                    PaperLrSchedulerConfig::sgd(0.1, length).init().unwrap(),
                ),
            }
        }

        fn step(mut self) -> Self {
            let device = Device::flex().autodiff();
            let images = Tensor::<2>::from_floats([[0.0, 1.0, 2.0], [3.0, 5.0, 4.0]], &device);
            let batch = ImageBatch {
                images: images.reshape([2, 3, 1, 1]),
                labels: Tensor::<1, Int>::from_ints([0, 1], &device),
            };
            let gradients = TrainStep::step(&self.model, batch).grads;
            let rate = self.schedule.step();
            self.model = self.model.optimize(&mut self.optimizer, rate, gradients);
            self
        }
    }

    const AT: Position = Position {
        epoch: 2,
        batches: 0,
    };

    /// The checkpoint after two steps, and its three files.
    fn saved(folder: &Path) -> (Checkpoints, [std::path::PathBuf; 3]) {
        let checkpoints = Checkpoints::new(folder.to_owned()).unwrap();
        let run = Run::new().step().step();
        let saved = Saved {
            optimizer: run.optimizer.to_record(),
            schedule: run.schedule.to_record(),
            model: run.model.into_record(),
        };
        checkpoints.save(AT, saved).unwrap();
        let files = PARTS.map(|part| checkpoints.file(part, AT));
        (checkpoints, files)
    }

    /// Reads the checkpoint for a new run.
    fn read(checkpoints: &Checkpoints) -> Result<(Run, Saved), String> {
        let run = Run::new();
        match checkpoints.read(AT, 2, &run.model, &run.optimizer) {
            Ok(saved) => Ok((run, saved)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Goes on from a checkpoint as Burn's `Learner` does.
    fn go_on(mut run: Run, saved: Saved) {
        run.model = run.model.load_record(saved.model);
        run.optimizer = run.optimizer.load_record(saved.optimizer);
        run.schedule = run.schedule.load_record(saved.schedule);
        run.step();
    }

    const MODEL: usize = 0;
    const OPTIMIZER: usize = 1;
    const SCHEDULE: usize = 2;

    /// Changes one of a checkpoint's files, and returns what is said of it when the checkpoint is refused.
    fn message(
        part: usize,
        change: impl FnOnce(&mut Vec<Entry>, &mut BTreeMap<String, Scalar>),
    ) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoints, files) = saved(folder.path());
        let file = &files[part];
        let reader = Reader::from_file(file).unwrap();
        let mut scalars = reader.scalars().clone();
        let mut entries = reader.into_tensors().unwrap();
        // Burn reads tensors when they are asked for, and the file is about to change.
        for entry in &mut entries {
            let bytes = entry.to_bytes().unwrap().to_vec();
            let bytes = burn::tensor::Bytes::from_bytes_vec(bytes);
            let (name, shape) = (entry.name.clone(), entry.shape.clone());
            *entry = Entry::new(name, entry.dtype, shape, entry.param_id, bytes);
        }
        change(&mut entries, &mut scalars);
        let mut writer = Writer::new(entries);
        for (name, scalar) in scalars {
            writer = writer.with_scalar(&name, scalar);
        }
        writer.write_to_file(file).unwrap();
        let error = read(&checkpoints).err().unwrap();
        error
            .strip_prefix(file.to_str().unwrap())
            .unwrap()
            .to_owned()
    }

    /// The same, and returns the reason for which it is refused.
    fn refusal(
        part: usize,
        change: impl FnOnce(&mut Vec<Entry>, &mut BTreeMap<String, Scalar>),
    ) -> String {
        let message = message(part, change);
        let reason = message
            .strip_prefix(" cannot be resumed from: it is ")
            .unwrap();
        let (reason, remedy) = reason.split_once(". ").unwrap();
        // Only what is damaged is to be deleted.
        let is_damaged = reason.starts_with("damaged (");
        assert_eq!(remedy.starts_with("Delete it"), is_damaged, "{remedy}");
        reason.to_owned()
    }

    /// The weight of the layer `fc` in a model's file, or its state in an optimizer's: the one of
    /// two dimensions.
    fn weight(entries: &mut [Entry]) -> &mut Entry {
        let live = |entry: &&mut Entry| !entry.name.starts_with("swa_train.");
        let mut entries = entries.iter_mut().filter(live);
        entries.find(|entry| entry.shape.num_dims() == 2).unwrap()
    }

    #[test]
    fn what_is_right_is_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoints, _) = saved(folder.path());
        let (run, saved) = read(&checkpoints).unwrap();
        go_on(run, saved);
    }

    #[test]
    fn a_checkpoint_of_a_later_version_is_not_to_be_deleted() {
        let message = message(MODEL, |entries, _| {
            let format = entries
                .iter_mut()
                .find(|entry| entry.name == "swa_train.format");
            let format = format.expect("a record says its format");
            let later = swa_train::RECORD_FORMAT as i32 + 1;
            let bytes = burn::tensor::Bytes::from_bytes_vec(later.to_le_bytes().to_vec());
            let (name, shape) = (format.name.clone(), format.shape.clone());
            *format = Entry::new(name, DType::I32, shape, format.param_id, bytes);
        });
        let expected = " is of a later version of this program: resume the run with that";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_weight_that_is_no_float_is_another_models() {
        let reason = refusal(MODEL, |entries, _| weight(entries).dtype = DType::U32);
        let expected = "(network.fc.weight is of U32, expected F32)";
        assert!(reason.ends_with(expected), "{reason}");
    }

    #[test]
    fn parameters_without_an_id_or_with_anothers_are_damage() {
        let reason = refusal(MODEL, |entries, _| weight(entries).param_id = None);
        assert_eq!(reason, "damaged (network.fc.weight has no id)");

        let reason = refusal(MODEL, |entries, _| {
            let live = entries
                .iter_mut()
                .filter(|it| !it.name.starts_with("swa_train."));
            live.for_each(|entry| entry.param_id = Some(1));
        });
        let expected = "has the id of another parameter)";
        assert!(reason.ends_with(expected), "{reason}");
    }

    #[test]
    fn an_optimizers_state_has_its_parameters_shape_and_rank() {
        let reason = refusal(OPTIMIZER, |entries, _| weight(entries).param_id = None);
        assert!(reason.ends_with("is of no parameter)"), "{reason}");

        let reason = refusal(OPTIMIZER, |entries, _| weight(entries).param_id = Some(1));
        assert_eq!(reason, "that of another run");

        let reason = refusal(OPTIMIZER, |entries, _| {
            weight(entries).shape = [2, 3].into()
        });
        assert!(reason.contains("expected [3, 2] of F32"), "{reason}");

        let reason = refusal(OPTIMIZER, |entries, scalars| {
            let id = weight(entries).param_id.unwrap();
            scalars.insert(format!("{id}.__rank"), Scalar::UInt(3));
        });
        assert!(reason.ends_with(".__rank is UInt(3))"), "{reason}");
    }

    #[test]
    fn an_optimizers_state_that_burn_would_leave_out_is_damage() {
        let reason = refusal(OPTIMIZER, |entries, _| weight(entries).name.push('x'));
        let expected = "damaged (3 of its 4 tensors are an optimizer's)";
        assert_eq!(reason, expected);
    }

    #[test]
    fn a_schedule_has_made_the_steps_of_the_run() {
        let others = BTreeMap::from([("0.steps".to_owned(), Scalar::UInt(3))]);
        let message = message(SCHEDULE, |_, scalars| *scalars = others);
        assert!(message.contains("written after 3 steps"), "{message}");
        assert!(
            message.contains("--data") && !message.contains("elete"),
            "{message}"
        );
        let reason = refusal(SCHEDULE, |_, scalars| scalars.clear());
        assert_eq!(reason, "damaged (it holds no number of steps)");
    }

    #[test]
    fn no_memory_is_reserved_for_what_a_header_says() {
        for part in [MODEL, OPTIMIZER, SCHEDULE] {
            let folder = tempfile::tempdir().unwrap();
            let (checkpoints, files) = saved(folder.path());
            let mut bytes = std::fs::read(&files[part]).unwrap();
            // The length of the table of contents, which Burn takes up to 100 MiB.
            bytes[6..10].copy_from_slice(&(100_u32 << 20).to_le_bytes());
            std::fs::write(&files[part], bytes).unwrap();
            let new = Run::new();
            let memory = allocation_counter::measure(|| {
                let error = checkpoints.read(AT, 2, &new.model, &new.optimizer);
                let error = error.err().unwrap().to_string();
                assert!(error.contains("it is damaged ("), "{error}");
            });
            assert!(memory.bytes_max < 1 << 20, "{memory:?}");
        }
    }

    #[test]
    fn damaged_checkpoints_are_refused_or_trained_on() {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoints, files) = saved(folder.path());
        survive("checkpoints", &files, 8, |_| {
            let (run, saved) = read(&checkpoints)?;
            go_on(run, saved);
            Ok(())
        });
    }
}
