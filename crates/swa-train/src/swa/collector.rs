//! The averages of a training, which collect the live weights.

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::train::LearnerModel;
use swa_core::{Average, AverageError};

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

/// All averages of a training. The first one is validated.
#[derive(Clone)]
pub(super) struct Collectors<M: Module> {
    pub(super) main: Collector<M>,
    further: Vec<Collector<M>>,
}

impl<M: LearnerModel> Collectors<M> {
    pub(super) fn new(main: Collector<M>) -> Self {
        Self {
            main,
            further: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, collector: Collector<M>) {
        self.further.push(collector);
    }

    /// # Errors
    ///
    /// [`SwaError::UnknownAverage`].
    pub(super) fn named(&self, name: &str) -> Result<&Collector<M>, SwaError> {
        let named = self.iter().find(|collector| *collector.name == *name);
        named.ok_or_else(|| SwaError::UnknownAverage {
            name: name.to_owned(),
            known: self.iter().map(|it| it.name.to_string()).collect(),
        })
    }

    /// The length of the run, if an average knows it.
    pub(super) fn run(&self) -> Option<RunLength> {
        self.iter().find_map(|it| it.collect.run().copied())
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.iter().map(|it| it.name.clone()).collect()
    }

    fn iter(&self) -> impl Iterator<Item = &Collector<M>> {
        std::iter::once(&self.main).chain(&self.further)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Collector<M>> {
        std::iter::once(&mut self.main).chain(&mut self.further)
    }

    /// Reads the weights of `model` once, for all averages that are due after optimizer step `step`. Before each update, it calls
    /// `before_update` with the average's name.
    ///
    /// # Errors
    ///
    /// The first error of an average. All others are updated nevertheless.
    pub(super) fn collect(
        &mut self,
        step: usize,
        model: &M,
        mut before_update: impl FnMut(&str),
    ) -> Result<(), SwaError> {
        let mut weights = None;
        let mut outcome = Ok(());
        for collector in self.iter_mut().filter(|it| it.collect.is_due(step)) {
            let weights = match &weights {
                Some(weights) => weights,
                None => weights.insert(collector.average.read(model)?),
            };
            before_update(&collector.name);
            let updated = collector.average.update_from(weights.clone());
            if updated.is_ok() {
                collector.average.freeze_as(model);
            }
            outcome = outcome.and(updated.map_err(|error| error_of(&collector.name, error)));
        }
        outcome
    }

    /// Reads from the device whether all collected weights were finite.
    ///
    /// # Errors
    ///
    /// The first error of an average. All others are checked nevertheless.
    pub(super) fn check(&mut self) -> Result<(), SwaError> {
        let mut outcome = Ok(());
        for collector in self.iter_mut() {
            let checked = collector.average.check();
            outcome = outcome.and(checked.map_err(|error| error_of(&collector.name, error)));
        }
        outcome
    }

    /// The same, with each average changed.
    pub(super) fn with_each(mut self, mut change: impl FnMut(Average<M>) -> Average<M>) -> Self {
        self.main.average = change(self.main.average);
        let further = self.further.into_iter().map(|collector| Collector {
            average: change(collector.average),
            ..collector
        });
        self.further = further.collect();
        self
    }

    /// The same, with those that are not `kept` before their first update.
    pub(super) fn restarted_unless(mut self, kept: impl Fn(&str) -> bool) -> Self {
        for collector in self.iter_mut().filter(|it| !kept(&it.name)) {
            collector.average = collector.average.clone().restarted();
        }
        self
    }

    /// Visits the averages that have averaged something, for a record: the first as `average`, the others by their names in
    /// `averages`. Running statistics are those that validation showed, if the last one re-estimated them.
    pub(super) fn visit<V: ModuleVisitor>(&self, visitor: &mut V, evaluation: &Evaluation<M>) {
        let visit = |collector: &Collector<M>, visitor: &mut V| {
            let (average, name) = (&collector.average, &collector.name);
            if average.updates() == 0 {
                return;
            }
            let recorded = evaluation.recorded(name, average);
            recorded.unwrap_or(average).visit(visitor);
        };
        visitor.enter_module("average", CONTAINER);
        visit(&self.main, visitor);
        visitor.exit_module("average", CONTAINER);

        visitor.enter_module("averages", CONTAINER);
        for collector in &self.further {
            visitor.enter_module(&collector.name, AVERAGES);
            visit(collector, visitor);
            visitor.exit_module(&collector.name, AVERAGES);
        }
        visitor.exit_module("averages", CONTAINER);
    }

    /// Maps those with `is_mapped`, with the paths of [`visit`](Self::visit).
    pub(super) fn map<Mapper: ModuleMapper>(
        mut self,
        mapper: &mut Mapper,
        is_mapped: impl Fn(&str) -> bool,
    ) -> Self {
        let map = |collector: Collector<M>, mapper: &mut Mapper| {
            let average = if is_mapped(&collector.name) {
                collector.average.map(mapper)
            } else {
                collector.average
            };
            Collector {
                average,
                ..collector
            }
        };
        mapper.enter_module("average", CONTAINER);
        self.main = map(self.main, mapper);
        mapper.exit_module("average", CONTAINER);

        mapper.enter_module("averages", CONTAINER);
        let further = self.further.into_iter().map(|collector| {
            let name = collector.name.clone();
            mapper.enter_module(&name, AVERAGES);
            let collector = map(collector, mapper);
            mapper.exit_module(&name, AVERAGES);
            collector
        });
        self.further = further.collect();
        mapper.exit_module("averages", CONTAINER);
        self
    }
}

/// The container of the averages.
const CONTAINER: &str = "Struct:Swa";

/// The container of the further averages.
const AVERAGES: &str = "Map";
