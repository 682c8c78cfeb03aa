//! A schedule up to a step, at which another one takes over.

use burn::lr_scheduler::LrSchedulerRecord;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::LearningRate;

use crate::SwaError;
use crate::burn_0_22::groups_of;
use crate::collect::{converted_steps, positive};

/// The steps at which one schedule takes over from another, and how they are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    /// The number of optimizer steps of the earlier schedule.
    pub(super) start_step: usize,
    /// The number of optimizer steps in an epoch, if it is known.
    pub(super) steps_per_epoch: Option<usize>,
    /// The number of optimizer steps that were trained without SWA before, where a run goes on from such a checkpoint.
    pub(super) plain_steps: usize,
}

/// The earlier schedule, and the steps of both.
#[derive(Clone)]
pub(super) struct Joined {
    join: Join,
    /// The earlier schedule before its first step.
    initial: ModuleLrScheduler,
    earlier: ModuleLrScheduler,
    /// Its last rate.
    last: LearningRate,
    /// Optimizer steps taken.
    steps: usize,
}

/// A step of one of the two schedules.
pub(super) enum Step {
    /// The rate of the earlier one.
    Earlier(LearningRate),
    /// The number of steps that the later one has taken before, and the last rate of the earlier one.
    Later(usize, LearningRate),
}

impl Joined {
    /// # Errors
    ///
    /// [`SwaError::Invalid`] for an earlier schedule with parameter groups, and for epochs of 0 steps.
    pub(super) fn new(earlier: impl Into<ModuleLrScheduler>, join: Join) -> Result<Self, SwaError> {
        if let Some(steps) = join.steps_per_epoch {
            positive("the number of steps per epoch", steps)?;
        }
        let earlier = earlier.into();
        match groups_of(&earlier) {
            1 => Ok(Self {
                join,
                initial: earlier.clone(),
                earlier,
                last: 0.0,
                steps: 0,
            }),
            groups => Err(SwaError::Invalid {
                name: "the schedule that another one follows",
                expected: "without parameter groups (make one for each, and join them by \
                           `ModuleLrScheduler::new(schedule).with_group(group, schedule_of_the_group)`)",
                got: format!("one with {} of them", groups - 1),
            }),
        }
    }

    pub(super) fn step(&mut self) -> Step {
        let (step, start) = (self.steps, self.join.start_step);
        self.steps = step.saturating_add(1);
        // With a `start_step` of 0, the first rate of the earlier schedule is its last.
        if step < start || step == 0 {
            self.follow(1);
        }
        match step.checked_sub(start) {
            None => Step::Earlier(self.last),
            Some(later) => Step::Later(later, self.last),
        }
    }

    pub(super) fn to_record(&self) -> LrSchedulerRecord {
        let record = LrSchedulerRecord::new()
            .with_scalar(STEPS, self.steps)
            .with_scalar(LAST, self.last)
            .with_record(EARLIER, self.earlier.to_record().record(ONLY_GROUP));
        match self.join.steps_per_epoch {
            None => record,
            Some(steps) => record.with_scalar(STEPS_PER_EPOCH, steps),
        }
    }

    pub(super) fn load_record(&mut self, record: LrSchedulerRecord) {
        let (Some(steps), Some(last)) = (record.scalar(STEPS), record.scalar(LAST)) else {
            return self.load_plain_record(record);
        };
        self.last = last;
        let now = self.join.steps_per_epoch;
        let before = record.scalar(STEPS_PER_EPOCH).or(now);
        match (before, now) {
            (Some(before), Some(now)) if before != now => {
                self.steps = converted_steps(steps, before, now);
                self.earlier = self.initial.clone();
                if self.steps < self.join.start_step {
                    self.follow(self.steps);
                }
            }
            _ => {
                self.steps = steps;
                self.load_earlier(record.record(EARLIER));
            }
        }
    }

    /// Goes on from a record of the earlier schedule alone.
    fn load_plain_record(&mut self, record: LrSchedulerRecord) {
        self.steps = self.join.plain_steps;
        self.earlier = self.initial.clone();
        // With a `start_step` of 0, the first rate of the earlier schedule is its last.
        self.follow(self.steps.min(self.join.start_step.max(1)));
        self.load_earlier(record);
    }

    fn load_earlier(&mut self, record: LrSchedulerRecord) {
        let record = LrSchedulerRecord::new().with_record(ONLY_GROUP, record);
        self.earlier = self.initial.clone().load_record(record);
    }

    /// Takes so many steps of the earlier schedule.
    fn follow(&mut self, steps: usize) {
        for _ in 0..steps {
            self.last = self.earlier.step().base();
        }
    }
}

/// The record of a `ModuleLrScheduler`, with the record of the earlier schedule in place of each that is joined to one: that of the
/// same training without SWA.
pub(crate) fn without_later_schedules(record: &LrSchedulerRecord) -> LrSchedulerRecord {
    // A record does not tell the number of its groups. Those of constant rates are empty.
    const MOST_GROUPS: usize = 1000;

    let groups = (0..MOST_GROUPS).map(|group| group.to_string());
    groups.fold(LrSchedulerRecord::new(), |plain, group| {
        let mut schedule = record.record(&group);
        while schedule.scalar::<usize>(STEPS).is_some() && schedule.scalar::<f64>(LAST).is_some() {
            schedule = schedule.record(EARLIER);
        }
        plain.with_record(&group, schedule)
    })
}

/// The entries of a record.
const STEPS: &str = "steps";
const LAST: &str = "from";
const EARLIER: &str = "before";
const STEPS_PER_EPOCH: &str = "steps_per_epoch";

/// The name of the first group in a record of a [`ModuleLrScheduler`].
const ONLY_GROUP: &str = "0";
