//! Members of ensembles, and snapshots of averages: the models that a training passes through, handed on as they come.

use core::fmt;
use std::error::Error;
use std::sync::{Arc, Mutex};

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use thiserror::Error;

use crate::lock::lock;
use crate::{Average, AveragingRule, Counter};

/// A member of an ensemble, the weights of a training after one of its steps, or a snapshot of an average.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Member {
    /// The optimizer step after which it was collected, counted from 1.
    pub step: usize,
    /// The learning rate of that step.
    pub learning_rate: f64,
    /// The number of updates of the average that it is a snapshot of. `None` for the model that trains.
    pub updates: Option<usize>,
}

/// The error of a [`MemberSink`], which names the file or the place.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// A place for members, such as a folder: they are never all in memory.
///
/// `swa-store` has one that writes files. This one counts parameters:
///
/// ```
/// use burn::module::Module;
/// use swa_core::{Member, MemberSink, SinkError};
///
/// struct Count;
///
/// impl<M: Module> MemberSink<M> for Count {
///     fn put(&mut self, member: &Member, model: &M) -> Result<(), SinkError> {
///         println!("{} parameters after step {}", model.num_params(), member.step);
///         Ok(())
///     }
/// }
/// ```
pub trait MemberSink<M>: Send {
    /// Takes a member: a model in validation mode that shares nothing with the one that trains. A member of the same step takes the
    /// place of an earlier one.
    ///
    /// # Errors
    ///
    /// With a text that names the place and the reason.
    fn put(&mut self, member: &Member, model: &M) -> Result<(), SinkError>;

    /// Checks that a member which was taken is still there. By default, it is.
    ///
    /// # Errors
    ///
    /// With a text that names the place.
    fn check(&mut self, member: &Member) -> Result<(), SinkError> {
        let _ = member;
        Ok(())
    }

    /// Takes note, before the first member, that all are snapshots of the average called `name`, by this rule. By default, it does not.
    fn describe(&mut self, name: &str, rule: &dyn AveragingRule) {
        let _ = (name, rule);
    }
}

/// The reason why members are lacking. The others are as they were, and more can be collected.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The sink did not take a member.
    #[error("the member after step {step} was not kept: {reason}")]
    NotKept {
        /// The optimizer step.
        step: usize,
        /// The sink's reason.
        reason: Arc<dyn Error + Send + Sync>,
    },

    /// A member that was taken is not there any more. It is a member no longer.
    #[error("the member after step {step} is gone{}: {reason}", more(*.further))]
    Gone {
        /// The optimizer step.
        step: usize,
        /// The number of further members that are gone.
        further: usize,
        /// The sink's reason.
        reason: Arc<dyn Error + Send + Sync>,
    },
}

fn more(further: usize) -> String {
    match further {
        0 => String::new(),
        further => format!(", and {further} more"),
    }
}

/// The members that a training has collected, and their [sink](MemberSink): for Snapshot Ensembles (Huang et al. 2017), Fast Geometric
/// Ensembling (Garipov et al. 2018), and any other ensemble of the networks on the way.
///
/// It knows which members there are, by step and learning rate. Its record holds that, so that a training which is resumed neither
/// loses nor repeats one: members of later steps than the record's are collected again, to the same places. The weights are
/// the sink's alone.
///
/// Clones share the sink. If several collect the same step, as replicas of a model do, the first one's goes to the sink.
///
/// # Example
///
/// The ends of two cycles of a learning rate, without a `Learner`:
///
/// ```
/// use std::sync::mpsc;
///
/// use burn::module::Module;
/// use burn::nn::{Linear, LinearConfig, loss::{MseLoss, Reduction}};
/// use burn::optim::{GradientsParams, SgdConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
/// use swa_core::{Member, MemberSink, Members, SinkError};
///
/// struct Channel(mpsc::Sender<Linear>);
///
/// impl MemberSink<Linear> for Channel {
///     fn put(&mut self, _: &Member, model: &Linear) -> Result<(), SinkError> {
///         Ok(self.0.send(model.clone())?)
///     }
/// }
///
/// let device = Device::default().autodiff();
/// let mut model = LinearConfig::new(4, 1).init(&device);
/// let input = Tensor::<2>::random([32, 4], Distribution::Default, &device);
/// let mut optimizer = SgdConfig::new().init();
/// let (sender, kept) = mpsc::channel();
/// let mut members = Members::new(Channel(sender));
///
/// let (steps, cycle) = (20, 10);
/// for step in 1..=steps {
///     let way = ((step - 1) % cycle) as f64 / cycle as f64;
///     let learning_rate = 0.1 * (1.0 + (std::f64::consts::PI * way).cos()) / 2.0;
///     let loss = MseLoss::new().forward(model.forward(input.clone()), input.clone().sum_dim(1), Reduction::Mean);
///     let gradients = GradientsParams::from_grads(loss.backward(), &model);
///     model = optimizer.step(learning_rate, model, gradients);
///     if step % cycle == 0 {
///         members.collect(&model, step, learning_rate)?;
///     }
/// }
/// assert_eq!(members.kept().iter().map(|member| member.step).collect::<Vec<_>>(), [10, 20]);
/// assert_eq!(kept.try_iter().count(), 2);
/// # Ok::<(), swa_core::MemberError>(())
/// ```
pub struct Members<M> {
    sink: Arc<Mutex<Shared<M>>>,
    kept: Vec<Member>,
    count: Counter,
    /// They are snapshots of an average.
    are_snapshots: bool,
    /// The ids of the other entries of a record.
    ids: [ParamId; 3],
    /// The device of the record.
    device: Device,
}

struct Shared<M> {
    sink: Box<dyn MemberSink<M>>,
    /// The step of the last member that a clone has put.
    last: Option<usize>,
}

impl<M: Module> Members<M> {
    /// No members yet, which go to `sink`.
    pub fn new(sink: impl MemberSink<M> + 'static) -> Self {
        let sink = Box::new(sink);
        Self {
            sink: Arc::new(Mutex::new(Shared { sink, last: None })),
            kept: Vec::new(),
            count: Counter::new(0),
            are_snapshots: false,
            ids: [(); 3].map(|()| ParamId::new()),
            device: Device::default(),
        }
    }

    /// No snapshots yet of the average called `name`, by `rule`, which go to `sink`.
    ///
    /// Averages of other widths or windows are put together from them after the training: see
    /// [`post_hoc_coefficients`](crate::post_hoc_coefficients) and [`window_coefficients`](crate::window_coefficients).
    pub fn of_average(
        mut sink: impl MemberSink<M> + 'static,
        name: &str,
        rule: &dyn AveragingRule,
    ) -> Self {
        sink.describe(name, rule);
        Self {
            are_snapshots: true,
            ..Self::new(sink)
        }
    }

    /// Hands the model's current weights to the sink, as the member after optimizer step `step`. The model does not change.
    ///
    /// # Errors
    ///
    /// [`MemberError::NotKept`]. The members before stay.
    pub fn collect(
        &mut self,
        model: &M,
        step: usize,
        learning_rate: f64,
    ) -> Result<(), MemberError> {
        let member = Member {
            step,
            learning_rate,
            updates: None,
        };
        self.put(member, || Ok(model.valid()))
    }

    /// Hands the averaged model to the sink, as the snapshot after optimizer step `step`. Its running statistics are those that the
    /// average has: see [`Average::model`].
    ///
    /// # Errors
    ///
    /// [`MemberError::NotKept`], also before the average's first update.
    pub fn collect_snapshot(
        &mut self,
        average: &Average<M>,
        step: usize,
        learning_rate: f64,
    ) -> Result<(), MemberError> {
        let snapshot = Member {
            step,
            learning_rate,
            updates: Some(average.updates()),
        };
        self.put(snapshot, || Ok(average.model()?))
    }

    fn put(
        &mut self,
        member: Member,
        model: impl FnOnce() -> Result<M, SinkError>,
    ) -> Result<(), MemberError> {
        let step = member.step;
        let mut shared = lock(&self.sink);
        if shared.last != Some(step) {
            let put = model().and_then(|model| shared.sink.put(&member, &model));
            put.map_err(|reason| MemberError::NotKept {
                step,
                reason: reason.into(),
            })?;
            shared.last = Some(step);
        }
        drop(shared);
        self.kept.retain(|kept| kept.step != step);
        self.kept.push(member);
        Ok(())
    }

    /// Checks that all members are still there, and leaves out those that are not.
    ///
    /// # Errors
    ///
    /// [`MemberError::Gone`], which names the first.
    pub fn check(&mut self) -> Result<(), MemberError> {
        let mut shared = lock(&self.sink);
        let mut gone = Vec::new();
        self.kept.retain(|member| match shared.sink.check(member) {
            Ok(()) => true,
            Err(reason) => {
                gone.push((member.step, reason));
                false
            }
        });
        if gone.iter().any(|(step, _)| shared.last == Some(*step)) {
            shared.last = None;
        }
        let further = gone.len().saturating_sub(1);
        match gone.into_iter().next() {
            None => Ok(()),
            Some((step, reason)) => Err(MemberError::Gone {
                step,
                further,
                reason: reason.into(),
            }),
        }
    }

    /// The members, in the order in which they were collected.
    pub fn kept(&self) -> &[Member] {
        &self.kept
    }

    /// The same without members. What the sink has taken stays there.
    pub fn restarted(mut self) -> Self {
        self.kept.clear();
        self.forget_last();
        self
    }

    /// Members of the same step are put again.
    fn forget_last(&self) {
        lock(&self.sink).last = None;
    }

    fn steps(&self) -> Vec<i64> {
        let steps = self.kept.iter();
        let steps = steps.map(|member| i64::try_from(member.step).unwrap_or(i64::MAX));
        steps.collect()
    }

    fn updates(&self) -> Vec<i64> {
        let updates = self.kept.iter().map(|member| member.updates.unwrap_or(0));
        let updates = updates.map(|updates| i64::try_from(updates).unwrap_or(i64::MAX));
        updates.collect()
    }

    /// The bits of the rates, byte by byte: not every device has 64 of them.
    fn learning_rates(&self) -> Vec<i64> {
        let bytes = self.kept.iter();
        let bytes = bytes.flat_map(|member| member.learning_rate.to_le_bytes());
        bytes.map(i64::from).collect()
    }

    /// Numbers to be visited. As of a [`Counter`], their tensor is made only if a visitor looks at it: one that accumulates gradients
    /// comes at every batch, and does not.
    fn param<const D: usize>(
        &self,
        id: ParamId,
        values: Vec<i64>,
        shape: [usize; D],
    ) -> Param<Tensor<D, Int>> {
        let tensor = move |device: &Device, _| ints(values, shape, device);
        Param::uninitialized(id, tensor, self.device.clone(), false, shape.into())
    }

    /// Maps numbers of a member each, or as many as a record is to bring.
    fn mapped<const D: usize, Mapper: ModuleMapper>(
        &self,
        id: ParamId,
        values: Vec<i64>,
        shape: [usize; D],
        mapper: &mut Mapper,
    ) -> Vec<i64> {
        let param = if self.kept.len() == self.count.value {
            Param::initialized(id, ints(values, shape, &self.device))
        } else {
            let zeros = move |device: &Device, _| Tensor::zeros(shape, device);
            let device = self.device.clone();
            Param::uninitialized(id, zeros, device, false, shape.into())
        };
        let param = mapper.map_int(param);
        if param.is_initialized() {
            param.val().into_data().iter::<i64>().collect()
        } else {
            Vec::new()
        }
    }
}

fn ints<const D: usize>(values: Vec<i64>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    let dtype = if device.supports_dtype(DType::I64) {
        DType::I64
    } else {
        device.settings().int_dtype.into()
    };
    Tensor::from_data(TensorData::new(values, shape), (device, dtype))
}

/// The number of bytes of a learning rate.
const BYTES: usize = size_of::<f64>();

const CONTAINER: &str = "Struct:Members";

impl<M: Module> Module for Members<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    /// The same with its record on `device`.
    fn to_device(self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        Self { device, ..self }
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    /// Visits the number of members as `count`, and if there are any, their `steps`, of shape `[count]`, the bytes of their
    /// `learning_rates`, of shape `[count, 8]`, and of snapshots the `updates`, of shape `[count]`.
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let (device, members) = (&self.device, self.kept.len());
        let mut count = self.count.clone();
        count.value = members;
        count.visit_as("count", CONTAINER, visitor, device);
        if members == 0 {
            return;
        }
        visitor.enter_module("steps", CONTAINER);
        visitor.visit_int(&self.param(self.ids[0], self.steps(), [members]));
        visitor.exit_module("steps", CONTAINER);

        visitor.enter_module("learning_rates", CONTAINER);
        visitor.visit_int(&self.param(self.ids[1], self.learning_rates(), [members, BYTES]));
        visitor.exit_module("learning_rates", CONTAINER);

        if self.are_snapshots {
            visitor.enter_module("updates", CONTAINER);
            visitor.visit_int(&self.param(self.ids[2], self.updates(), [members]));
            visitor.exit_module("updates", CONTAINER);
        }
    }

    fn map<Mapper: ModuleMapper>(mut self, mapper: &mut Mapper) -> Self {
        self.count.value = self.kept.len();
        self.count = self.count.map_as("count", CONTAINER, mapper, &self.device);
        self.forget_last();
        let members = self.count.value;
        if members == 0 {
            self.kept.clear();
            return self;
        }
        mapper.enter_module("steps", CONTAINER);
        let steps = self.mapped(self.ids[0], self.steps(), [members], mapper);
        mapper.exit_module("steps", CONTAINER);

        mapper.enter_module("learning_rates", CONTAINER);
        let shape = [members, BYTES];
        let rates = self.mapped(self.ids[1], self.learning_rates(), shape, mapper);
        mapper.exit_module("learning_rates", CONTAINER);

        let updates = if self.are_snapshots {
            mapper.enter_module("updates", CONTAINER);
            let updates = self.mapped(self.ids[2], self.updates(), [members], mapper);
            mapper.exit_module("updates", CONTAINER);
            updates.into_iter().map(Some).collect()
        } else {
            // As many as there are steps: of a damaged record, the count may be beyond all memory.
            vec![None; steps.len()]
        };

        let rates: Vec<u8> = rates.into_iter().map(|byte| byte as u8).collect();
        let (rates, _) = rates.as_chunks::<BYTES>();
        let members = steps.into_iter().zip(rates).zip(updates);
        let members = members.map(|((step, rate), updates)| Member {
            step: usize::try_from(step).unwrap_or(0),
            learning_rate: f64::from_le_bytes(*rate),
            updates: updates.map(|updates| usize::try_from(updates).unwrap_or(0)),
        });
        self.kept = members.collect();
        self
    }
}

impl<M> Clone for Members<M> {
    fn clone(&self) -> Self {
        Self {
            sink: self.sink.clone(),
            kept: self.kept.clone(),
            count: self.count.clone(),
            are_snapshots: self.are_snapshots,
            ids: self.ids,
            device: self.device.clone(),
        }
    }
}

impl<M> fmt::Debug for Members<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::store::ModuleRecord;

    use super::*;
    use crate::EqualWeights;

    /// Notes the steps that it takes, has room for some, and loses some.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        put: Vec<usize>,
        full: bool,
        lost: Vec<usize>,
    }

    impl MemberSink<Linear> for Notes {
        fn put(&mut self, member: &Member, _: &Linear) -> Result<(), SinkError> {
            let mut state = self.0.lock().unwrap();
            if state.full {
                return Err("a.bin: no space left".into());
            }
            state.put.push(member.step);
            Ok(())
        }

        fn check(&mut self, member: &Member) -> Result<(), SinkError> {
            if self.0.lock().unwrap().lost.contains(&member.step) {
                Err(format!("{}.bin: no such file", member.step).into())
            } else {
                Ok(())
            }
        }
    }

    fn model() -> Linear {
        LinearConfig::new(2, 1).init(&Device::flex())
    }

    fn collected(steps: &[usize]) -> (Members<Linear>, Notes) {
        let notes = Notes::default();
        let mut members = Members::new(notes.clone());
        for &step in steps {
            members.collect(&model(), step, 0.1 / step as f64).unwrap();
        }
        (members, notes)
    }

    #[test]
    fn a_record_says_to_the_bit_which_members_there_are() {
        for steps in [&[][..], &[7], &[10, 20, 30]] {
            let (members, _) = collected(steps);
            let bytes = members.clone().into_record().into_bytes().unwrap();
            for before in [&[][..], &[1, 2]] {
                let record = ModuleRecord::from_bytes(bytes.clone()).unwrap();
                let loaded = collected(before).0.try_load_record(record).unwrap();
                assert_eq!(loaded.kept(), members.kept());
            }
        }
    }

    #[test]
    fn a_member_that_finds_no_room_is_named_and_the_rest_stay() {
        let (mut members, notes) = collected(&[10]);
        notes.0.lock().unwrap().full = true;
        let error = members.collect(&model(), 20, 0.1).unwrap_err().to_string();
        assert_eq!(
            error,
            "the member after step 20 was not kept: a.bin: no space left"
        );
        notes.0.lock().unwrap().full = false;
        members.collect(&model(), 30, 0.1).unwrap();
        let steps: Vec<usize> = members.kept().iter().map(|it| it.step).collect();
        assert_eq!(steps, [10, 30]);
    }

    #[test]
    fn members_that_are_gone_are_named_and_left_out() {
        let (mut members, notes) = collected(&[10, 20, 30]);
        members.check().unwrap();
        notes.0.lock().unwrap().lost = vec![10, 30];
        let error = members.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "the member after step 10 is gone, and 1 more: 10.bin: no such file"
        );
        assert_eq!(members.kept().len(), 1);
        members.check().unwrap();
    }

    #[test]
    fn a_member_that_is_gone_can_be_collected_again() {
        let (mut members, notes) = collected(&[10, 20]);
        notes.0.lock().unwrap().lost = vec![20];
        members.check().unwrap_err();
        notes.0.lock().unwrap().lost.clear();
        members.collect(&model(), 20, 0.1).unwrap();
        assert_eq!(notes.0.lock().unwrap().put, [10, 20, 20]);
        assert_eq!(members.kept().len(), 2);
    }

    #[test]
    fn a_record_that_says_too_many_members_is_refused() {
        #[derive(Module, Debug)]
        struct Record {
            count: Param<Tensor<1, Int>>,
            steps: Param<Tensor<1, Int>>,
            learning_rates: Param<Tensor<2, Int>>,
        }
        let (members, _) = collected(&[10]);
        for count in [2, i64::MAX] {
            let number = |values: Vec<i64>| {
                let data = TensorData::new(values.clone(), [values.len()]);
                Tensor::<1, Int>::from_data(data, (&Device::flex(), DType::I64))
            };
            let record = Record {
                count: Param::initialized(ParamId::new(), number(vec![count])),
                steps: Param::initialized(ParamId::new(), number(vec![10])),
                learning_rates: Param::initialized(
                    ParamId::new(),
                    number(vec![0; BYTES]).reshape([1, BYTES]),
                ),
            };
            let record = record.into_record();
            members.clone().try_load_record(record.clone()).unwrap_err();
            let snapshots = Members::of_average(Notes::default(), "averaged", &EqualWeights);
            snapshots.try_load_record(record).unwrap_err();
        }
    }

    #[test]
    fn replicas_put_a_member_once_and_a_resumed_training_again() {
        let (mut members, notes) = collected(&[10]);
        let record = members.clone().into_record();
        let mut replica = members.clone();
        for members in [&mut members, &mut replica] {
            members.collect(&model(), 20, 0.1).unwrap();
        }
        assert_eq!(notes.0.lock().unwrap().put, [10, 20]);
        assert_eq!(members.kept(), replica.kept());

        let mut resumed = members.load_record(record);
        assert_eq!(resumed.kept().len(), 1);
        resumed.collect(&model(), 20, 0.1).unwrap();
        assert_eq!(notes.0.lock().unwrap().put, [10, 20, 20]);
        assert_eq!(resumed.kept().len(), 2);
    }
}
