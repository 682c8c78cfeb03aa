//! The collections of a training: averages of the live weights, snapshots of them, and the members of an ensemble.

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;
use burn::train::LearnerModel;
use swa_core::{Average, AverageError, MemberError, Members, SinkError};

use super::record::Contents;
use crate::evaluation::Evaluation;
use crate::{Collect, RunLength, SwaError};

/// The name of the average that is validated.
pub(crate) const MAIN: &str = "averaged";

/// An average, with the optimizer steps after which it collects the live weights.
#[derive(Clone)]
pub(super) struct Collector<M: Module> {
    pub(super) name: Arc<str>,
    pub(super) collect: Collect,
    pub(super) average: Average<M>,
    /// The snapshots of the average, if any are taken.
    pub(super) snapshots: Option<MemberCollector<M>>,
}

/// The training's error for an error of the average called `name`.
pub(super) fn error_of(name: &str, error: AverageError) -> SwaError {
    if name == MAIN {
        error.into()
    } else {
        SwaError::FurtherAverage {
            name: name.to_owned(),
            error: error.into(),
        }
    }
}

/// The members of an ensemble or the snapshots of an average, with the optimizer steps after which they are taken.
#[derive(Clone)]
pub(super) struct MemberCollector<M: Module> {
    pub(super) collect: Collect,
    pub(super) members: Members<M>,
}

impl<M: LearnerModel> MemberCollector<M> {
    /// Tells whether one is taken after optimizer step `step`.
    fn is_due(&self, step: usize) -> bool {
        self.collect.is_due(step)
    }

    /// Checks that there is none of this step. One that has this number from before an epoch had another number of steps is not
    /// overwritten.
    ///
    /// # Errors
    ///
    /// [`MemberError::NotKept`].
    fn check_free(&self, step: usize) -> Result<(), MemberError> {
        if self.members.kept().iter().any(|kept| kept.step == step) {
            let reason: SinkError = "a member of that step is there from before an epoch had another number of steps, and stays".into();
            return Err(MemberError::NotKept {
                step,
                reason: reason.into(),
            });
        }
        Ok(())
    }
}

/// All that a training collects: averages, of which the first one is validated, and the members of an ensemble.
#[derive(Clone)]
pub(super) struct Collectors<M: Module> {
    averages: Vec<Collector<M>>,
    pub(super) members: Option<MemberCollector<M>>,
    /// The optimizer steps after which the first average is written into the live model.
    pub(super) write_back: Option<Collect>,
}

impl<M: LearnerModel> Collectors<M> {
    pub(super) fn new() -> Self {
        Self {
            averages: Vec::new(),
            members: None,
            write_back: None,
        }
    }

    pub(super) fn push(&mut self, collector: Collector<M>) {
        self.averages.push(collector);
    }

    /// The average that is validated, if there is one.
    pub(super) fn main(&self) -> Option<&Average<M>> {
        self.averages.first().map(|collector| &collector.average)
    }

    /// The same, to be changed.
    pub(super) fn main_mut(&mut self) -> Option<&mut Average<M>> {
        let main = self.averages.first_mut();
        main.map(|collector| &mut collector.average)
    }

    /// # Errors
    ///
    /// [`SwaError::UnknownAverage`], or [`SwaError::NoAverage`] if there is none.
    pub(super) fn named(&self, name: &str) -> Result<&Collector<M>, SwaError> {
        if self.averages.is_empty() {
            return Err(SwaError::NoAverage);
        }
        let named = self
            .averages
            .iter()
            .find(|collector| *collector.name == *name);
        named.ok_or_else(|| SwaError::UnknownAverage {
            name: name.to_owned(),
            known: self.names().iter().map(|name| name.to_string()).collect(),
        })
    }

    /// The same, to be changed.
    ///
    /// # Errors
    ///
    /// Those of [`named`](Self::named).
    pub(super) fn named_mut(&mut self, name: &str) -> Result<&mut Collector<M>, SwaError> {
        self.named(name)?;
        let mut all = self.averages.iter_mut();
        let named = all.find(|collector| *collector.name == *name);
        Ok(named.expect("it was found"))
    }

    /// The number of optimizer steps in an epoch, or 0 if no collector knows it.
    pub(super) fn steps_per_epoch(&self) -> usize {
        self.run().map_or(0, |run| run.steps_per_epoch())
    }

    /// The length of the run, if a collector knows it.
    pub(super) fn run(&self) -> Option<RunLength> {
        let averages = self.averages.iter().map(|it| &it.collect);
        let members = self.sinks().map(|it| &it.collect);
        averages
            .chain(members)
            .chain(&self.write_back)
            .find_map(|collect| collect.run().copied())
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.averages.iter().map(|it| it.name.clone()).collect()
    }

    /// Averages the weights of `model` in all averages that are due after optimizer step `step`, from one reading. Before, it calls
    /// `before_update` with the name of each.
    ///
    /// # Errors
    ///
    /// The first error of an average. None of them is updated on the device where it occurs.
    pub(super) fn collect(
        &mut self,
        step: usize,
        model: &M,
        mut before_update: impl FnMut(&str),
    ) -> Result<(), SwaError> {
        let due = self.averages.iter_mut();
        let due = due.filter(|collector| collector.collect.is_due(step));
        let (names, mut averages): (Vec<&Arc<str>>, Vec<&mut Average<M>>) = due
            .map(|collector| (&collector.name, &mut collector.average))
            .unzip();
        let Some(first) = averages.first() else {
            return Ok(());
        };
        let weights = first.read(model)?;
        names.iter().for_each(|name| before_update(name));
        let updated = Average::update_all_from(&mut averages, weights);
        updated.map_err(|(failed, error)| error_of(names[failed], error))?;
        for average in averages {
            average.freeze_as(model);
        }
        Ok(())
    }

    /// Tells whether the model is to be a member, or a snapshot is taken, after optimizer step `step`.
    pub(super) fn hands_on(&self, step: usize) -> bool {
        let mut all = self.sinks();
        all.any(|members| members.is_due(step))
    }

    /// Hands on what is due after optimizer step `step`: the model as a member, and averages that have averaged something as snapshots.
    ///
    /// # Errors
    ///
    /// The first error of an average. What lacks is in the list.
    pub(super) fn hand_on(
        &mut self,
        step: usize,
        model: &M,
        learning_rate: f64,
    ) -> Result<Vec<MemberError>, SwaError> {
        let mut lacking = Vec::new();
        if let Some(collector) = self.members.as_mut().filter(|it| it.is_due(step)) {
            let free = collector.check_free(step);
            let put = free.and_then(|()| collector.members.collect(model, step, learning_rate));
            lacking.extend(put.err());
        }
        for Collector {
            name,
            average,
            snapshots,
            ..
        } in &mut self.averages
        {
            let due = snapshots.as_mut().filter(|it| it.is_due(step));
            if let Some(collector) = due
                && average.updates() > 0
            {
                // Until then, an accelerator may have left updates out that are counted.
                average.check().map_err(|error| error_of(name, error))?;
                let snapshots = &mut collector.members;
                let put = snapshots.collect_snapshot(average, step, learning_rate);
                lacking.extend(put.err());
            }
        }
        Ok(lacking)
    }

    /// `model` with the first average in place of its weights, if that is due after optimizer step `step` and it has averaged something.
    ///
    /// # Errors
    ///
    /// That of the average.
    pub(super) fn written_back(&mut self, step: usize, model: &M) -> Result<Option<M>, SwaError> {
        let is_due = self.write_back.is_some_and(|it| it.is_due(step));
        match self.averages.first_mut() {
            Some(main) if is_due && main.average.updates() > 0 => {
                // Until then, an accelerator may have left updates out that are counted.
                main.average.check()?;
                Ok(Some(main.average.overwrite(model)?))
            }
            _ => Ok(None),
        }
    }

    /// The members and the snapshots of all averages.
    fn sinks(&self) -> impl Iterator<Item = &MemberCollector<M>> {
        let snapshots = self.averages.iter();
        let snapshots = snapshots.flat_map(|it| &it.snapshots);
        self.members.iter().chain(snapshots)
    }

    /// Checks that all members and snapshots are still there.
    ///
    /// # Errors
    ///
    /// The members that are lacking are in the list.
    pub(super) fn check_members(&mut self) -> Vec<MemberError> {
        let snapshots = self.averages.iter_mut();
        let snapshots = snapshots.flat_map(|it| &mut it.snapshots);
        let all = self.members.iter_mut().chain(snapshots);
        all.filter_map(|it| it.members.check().err()).collect()
    }

    /// Reads from the device whether all collected weights were finite.
    ///
    /// # Errors
    ///
    /// The first error of an average. All others are checked nevertheless.
    pub(super) fn check(&mut self) -> Result<(), SwaError> {
        let mut outcome = Ok(());
        for collector in &mut self.averages {
            let checked = collector.average.check();
            outcome = outcome.and(checked.map_err(|error| error_of(&collector.name, error)));
        }
        outcome
    }

    /// The same, with each average changed.
    pub(super) fn with_each(mut self, mut change: impl FnMut(Average<M>) -> Average<M>) -> Self {
        let averages = self.averages.into_iter().map(|collector| Collector {
            average: change(collector.average),
            ..collector
        });
        self.averages = averages.collect();
        self
    }

    /// The same on `device`.
    pub(super) fn on(self, device: &Device) -> Self {
        let mut moved = self.with_each(|average| average.to_device(device));
        let on_device = |collector: MemberCollector<M>| MemberCollector {
            members: collector.members.to_device(device),
            ..collector
        };
        for collector in &mut moved.averages {
            collector.snapshots = collector.snapshots.take().map(on_device);
        }
        moved.members = moved.members.map(on_device);
        moved
    }

    /// The same, with those that a record does not hold before their first update.
    pub(super) fn restarted_unless(mut self, held: Option<&Contents>) -> Self {
        for collector in self
            .averages
            .iter_mut()
            .filter(|it| held.is_some_and(|held| !held.holds(&it.name)))
        {
            collector.average = collector.average.clone().restarted();
        }
        for collector in &mut self.averages {
            if let Some(snapshots) = &mut collector.snapshots
                && held.is_some_and(|held| !held.holds_snapshots(&collector.name))
            {
                snapshots.members = snapshots.members.clone().restarted();
            }
        }
        if let Some(collector) = &mut self.members
            && held.is_some_and(|held| !held.has_members)
        {
            collector.members = collector.members.clone().restarted();
        }
        self
    }

    /// Visits the averages that have averaged something, for a record: the first as `average`, the others by their names in
    /// `averages`. Running statistics are those that validation showed, if the last one re-estimated them. Then the `members`, and the
    /// `snapshots` by the names of their averages.
    pub(super) fn visit<V: ModuleVisitor>(&self, visitor: &mut V, evaluation: &Evaluation<M>) {
        let visit = |collector: &Collector<M>, visitor: &mut V| {
            let (average, name) = (&collector.average, &collector.name);
            if average.updates() == 0 {
                return;
            }
            let recorded = evaluation.recorded(name, average);
            recorded.unwrap_or(average).visit(visitor);
        };
        let mut averages = self.averages.iter();
        visitor.enter_module("average", CONTAINER);
        if let Some(main) = averages.next() {
            visit(main, visitor);
        }
        visitor.exit_module("average", CONTAINER);

        visitor.enter_module("averages", CONTAINER);
        for collector in averages {
            visitor.enter_module(&collector.name, AVERAGES);
            visit(collector, visitor);
            visitor.exit_module(&collector.name, AVERAGES);
        }
        visitor.exit_module("averages", CONTAINER);

        if let Some(collector) = &self.members
            && !collector.members.kept().is_empty()
        {
            visitor.enter_module(MEMBERS, CONTAINER);
            collector.members.visit(visitor);
            visitor.exit_module(MEMBERS, CONTAINER);
        }

        visitor.enter_module(SNAPSHOTS, CONTAINER);
        for Collector {
            name, snapshots, ..
        } in &self.averages
        {
            if let Some(snapshots) = snapshots
                && !snapshots.members.kept().is_empty()
            {
                visitor.enter_module(name, AVERAGES);
                snapshots.members.visit(visitor);
                visitor.exit_module(name, AVERAGES);
            }
        }
        visitor.exit_module(SNAPSHOTS, CONTAINER);
    }

    /// Maps those that a record holds, with the paths of [`visit`](Self::visit).
    pub(super) fn map<Mapper: ModuleMapper>(
        mut self,
        mapper: &mut Mapper,
        held: Option<&Contents>,
    ) -> Self {
        let map = |collector: Collector<M>, mapper: &mut Mapper| {
            let average = if held.is_none_or(|held| held.holds(&collector.name)) {
                collector.average.map(mapper)
            } else {
                collector.average
            };
            Collector {
                average,
                ..collector
            }
        };
        let mut before = std::mem::take(&mut self.averages).into_iter();
        let mut averages = Vec::new();
        mapper.enter_module("average", CONTAINER);
        if let Some(main) = before.next() {
            averages.push(map(main, mapper));
        }
        mapper.exit_module("average", CONTAINER);

        mapper.enter_module("averages", CONTAINER);
        for collector in before {
            let name = collector.name.clone();
            mapper.enter_module(&name, AVERAGES);
            averages.push(map(collector, mapper));
            mapper.exit_module(&name, AVERAGES);
        }
        mapper.exit_module("averages", CONTAINER);

        mapper.enter_module(MEMBERS, CONTAINER);
        let members = self.members.take().map(|collector| MemberCollector {
            members: if held.is_none_or(|held| held.has_members) {
                collector.members.map(mapper)
            } else {
                collector.members
            },
            ..collector
        });
        mapper.exit_module(MEMBERS, CONTAINER);

        mapper.enter_module(SNAPSHOTS, CONTAINER);
        for Collector {
            name, snapshots, ..
        } in &mut averages
        {
            if let Some(snapshots) = snapshots
                && held.is_none_or(|held| held.holds_snapshots(name))
            {
                mapper.enter_module(name, AVERAGES);
                snapshots.members = snapshots.members.clone().map(mapper);
                mapper.exit_module(name, AVERAGES);
            }
        }
        mapper.exit_module(SNAPSHOTS, CONTAINER);
        Self {
            averages,
            members,
            ..self
        }
    }
}

/// The container of the collectors.
const CONTAINER: &str = "Struct:Swa";

/// The name of the members in a record.
pub(super) const MEMBERS: &str = "members";

/// The name of the snapshots in a record.
pub(super) const SNAPSHOTS: &str = "snapshots";

/// The container of the further averages, and of the snapshots.
const AVERAGES: &str = "Map";
