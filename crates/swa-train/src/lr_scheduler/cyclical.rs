//! Learning rates in cycles.

use core::f64::consts::PI;

use burn::config::Config;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::LearningRate;

use super::joined::{Join, Joined, Step};
use super::paper::rate;
use crate::collect::positive;
use crate::{Collect, RunLength, SwaError};

/// The part of the way from the lowest to the highest rate at which a [`CyclicalLrScheduler`] is, with `t` from 0 to 1 within a
/// cycle.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum CycleShape {
    /// `(1 + cos(pi t)) / 2`, and at the next cycle's beginning up again: Snapshot Ensembles (Huang et al. 2017, eq. 2), and the warm
    /// restarts of Loshchilov and Hutter 2017.
    Cosine,
    /// `|1 - 2 t|`, down to the middle of the cycle and up again: Fast Geometric Ensembling (Garipov et al. 2018, sec. 4).
    Triangle,
    /// `1 - t`, and at the next cycle's beginning up again: SWA with a cyclical rate (Izmailov et al. 2018, sec. 3.1).
    Line,
}

impl CycleShape {
    fn share(self, t: f64) -> f64 {
        match self {
            Self::Cosine => f64::midpoint(1.0, (PI * t).cos()),
            Self::Triangle => (1.0 - 2.0 * t).abs(),
            Self::Line => 1.0 - t,
        }
    }
}

/// The settings of a [`CyclicalLrScheduler`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct CyclicalLrSchedulerConfig {
    /// The highest learning rate.
    highest_lr: LearningRate,
    /// The lowest learning rate.
    lowest_lr: LearningRate,
    /// The number of optimizer steps in a cycle.
    cycle_steps: usize,
    /// The way within a cycle.
    shape: CycleShape,
    /// True if `t` is 0 at the first step of a cycle, as in the formula of Snapshot Ensembles and in the code of Fast Geometric
    /// Ensembling; false by default, if it is 1 at the last step, as in all other formulas.
    #[config(default = false)]
    begins_at_zero: bool,
    /// The number of optimizer steps of another schedule before the first cycle: none by default.
    #[config(default = 0)]
    start_step: usize,
    /// The number of optimizer steps in an epoch, if it is known: a run can then be resumed with another batch size, gradient
    /// accumulation or number of devices.
    steps_per_epoch: Option<usize>,
    /// The number of optimizer steps that were trained without SWA before, where a run goes on from such a checkpoint.
    plain_steps: Option<usize>,
}

impl CyclicalLrSchedulerConfig {
    /// Snapshot Ensembles: `cycles` cycles of a cosine from `lr` to zero, of `ceil(total / cycles)` steps. The last one is shorter if
    /// they do not divide the run. The paper's: 0.2, and 5 cycles in 200 epochs, or 0.1, and 6 cycles in 300.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] for 0 cycles, and for more than the run has steps.
    pub fn snapshot(lr: LearningRate, cycles: usize, run: &RunLength) -> Result<Self, SwaError> {
        let total = run.total_steps();
        if !(1..=total).contains(&cycles) {
            return Err(SwaError::Invalid {
                name: "the number of cycles",
                expected: "at least 1, and at most the number of steps of the run",
                got: format!("{cycles} in {total} steps"),
            });
        }
        let config = Self::new(lr, 0.0, total.div_ceil(cycles), CycleShape::Cosine);
        Ok(config.with_begins_at_zero(true).of_run(run))
    }

    /// Fast Geometric Ensembling: down from `highest_lr` to `lowest_lr` in the middle of a cycle, and up again. The paper's, from a
    /// network that has trained for 80% of the budget: 0.05 to 5e-4 in 4 epochs for VGG16, 0.05 to 5e-4 in 2 for residual networks.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] for a cycle of 0 epochs, and for one longer than the run.
    pub fn fge(
        highest_lr: LearningRate,
        lowest_lr: LearningRate,
        cycle_epochs: usize,
        run: &RunLength,
    ) -> Result<Self, SwaError> {
        Self::of_epochs(
            highest_lr,
            lowest_lr,
            cycle_epochs,
            CycleShape::Triangle,
            run,
        )
    }

    /// SWA with a cyclical rate: in each cycle on a line from `highest_lr` down to `lowest_lr`.
    ///
    /// # Errors
    ///
    /// Those of [`fge`](Self::fge).
    pub fn swa(
        highest_lr: LearningRate,
        lowest_lr: LearningRate,
        cycle_epochs: usize,
        run: &RunLength,
    ) -> Result<Self, SwaError> {
        Self::of_epochs(highest_lr, lowest_lr, cycle_epochs, CycleShape::Line, run)
    }

    fn of_epochs(
        highest_lr: LearningRate,
        lowest_lr: LearningRate,
        cycle_epochs: usize,
        shape: CycleShape,
        run: &RunLength,
    ) -> Result<Self, SwaError> {
        if !(1..=run.epochs()).contains(&cycle_epochs) {
            return Err(SwaError::Invalid {
                name: "the number of epochs in a cycle",
                expected: "at least 1, and at most that of the run",
                got: format!("{cycle_epochs} of {}", run.epochs()),
            });
        }
        let cycle_steps = cycle_epochs.saturating_mul(run.steps_per_epoch());
        Ok(Self::new(highest_lr, lowest_lr, cycle_steps, shape).of_run(run))
    }

    fn of_run(self, run: &RunLength) -> Self {
        self.with_steps_per_epoch(Some(run.steps_per_epoch()))
            .with_plain_steps(Some(run.plain_steps()))
    }

    /// The same with its first cycle from the beginning of epoch `epoch` on, counted from 1.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless `epoch` is one of the run's.
    pub fn from_epoch(self, epoch: usize, run: &RunLength) -> Result<Self, SwaError> {
        if !(1..=run.epochs()).contains(&epoch) {
            return Err(SwaError::Invalid {
                name: "the epoch to start cycles at",
                expected: "one of the run's, counted from 1",
                got: format!("{epoch} of {}", run.epochs()),
            });
        }
        Ok(self.with_start_step((epoch - 1).saturating_mul(run.steps_per_epoch())))
    }

    /// The steps after which the papers collect weights: at the ends of cycles, also of a shorter one at the end of the run, and of a
    /// [`Triangle`](CycleShape::Triangle) in the middles, where the rate is lowest.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] for a cycle of 0 steps, [`SwaError::NeverCollects`] if the run ends before the first one does.
    pub fn collect(&self, run: &RunLength) -> Result<Collect, SwaError> {
        positive("the number of steps in a cycle", self.cycle_steps)?;
        let is_triangle = self.shape == CycleShape::Triangle;
        let first = if is_triangle {
            (self.cycle_steps / 2).max(1)
        } else {
            self.cycle_steps
        };
        let collect = Collect::from_step(self.start_step.saturating_add(first), run)?;
        let collect = collect.every_steps(self.cycle_steps)?;
        Ok(if is_triangle {
            collect
        } else {
            collect.and_at_the_end()
        })
    }

    /// The scheduler, if its cycles begin with the run.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless the highest rate is positive, the lowest from 0 to the highest, a cycle at least a step long,
    /// and `start_step` 0.
    pub fn init(&self) -> Result<CyclicalLrScheduler, SwaError> {
        if self.start_step > 0 {
            return Err(SwaError::Invalid {
                name: "the step to start cycles at",
                expected: "0, or after another schedule: `init_after(schedule)`",
                got: self.start_step.to_string(),
            });
        }
        self.init_after(self.highest_lr)
    }

    /// The scheduler, which follows `before` for `start_step` steps: any of Burn's schedules, a constant rate, or one of ours.
    ///
    /// # Errors
    ///
    /// Those of [`init`](Self::init) that are about rates and steps, and [`SwaError::Invalid`] for a schedule with parameter groups.
    pub fn init_after(
        &self,
        before: impl Into<ModuleLrScheduler>,
    ) -> Result<CyclicalLrScheduler, SwaError> {
        rate("the highest learning rate", self.highest_lr)?;
        if !(0.0..=self.highest_lr).contains(&self.lowest_lr) {
            return Err(SwaError::Invalid {
                name: "the lowest learning rate",
                expected: "a number from 0 to the highest",
                got: format!("{} of {}", self.lowest_lr, self.highest_lr),
            });
        }
        positive("the number of steps in a cycle", self.cycle_steps)?;
        let join = Join {
            start_step: self.start_step,
            steps_per_epoch: self.steps_per_epoch,
            plain_steps: self.plain_steps.unwrap_or(0),
        };
        Ok(CyclicalLrScheduler {
            schedules: Joined::new(before, join)?,
            config: *self,
        })
    }
}

/// Learning rates in cycles, from the beginning of a run or after another schedule.
///
/// With cycles of `c` steps, step `j = 1, 2, …` of the cycles has
///
/// ```text
/// t = ((j - 1) mod c + 1) / c,  or ((j - 1) mod c) / c if a cycle begins at zero
/// lr = lowest_lr + (highest_lr - lowest_lr) * shape(t)
/// ```
///
/// Sources: Huang et al. 2017, eq. 2; Garipov et al. 2018, sec. 4; Izmailov et al. 2018, sec. 3.1. The codes of the first two count
/// the other way than their papers do; [`with_begins_at_zero`](CyclicalLrSchedulerConfig::with_begins_at_zero) sets it.
///
/// ```
/// use swa_train::{CyclicalLrSchedulerConfig, PaperLrSchedulerConfig, RunLength, SwaConfig};
///
/// // Fast Geometric Ensembling for VGG16: 160 of 200 epochs of SGD, then cycles of 4 epochs.
/// let run = RunLength::of_items(200, 50_000, 128)?;
/// let cycles = CyclicalLrSchedulerConfig::fge(0.05, 5e-4, 4, &run)?.from_epoch(161, &run)?;
/// let learning_rate = cycles.init_after(PaperLrSchedulerConfig::sgd(0.05, run).init()?)?;
/// // In the middle of each.
/// let config = SwaConfig::new(cycles.collect(&run)?);
/// # let _ = (learning_rate, config);
/// # Ok::<(), swa_train::SwaError>(())
/// ```
///
/// A record goes on as that of a [`SwaLrScheduler`](crate::SwaLrScheduler) does.
#[derive(Clone)]
pub struct CyclicalLrScheduler {
    schedules: Joined,
    config: CyclicalLrSchedulerConfig,
}

impl LrScheduler for CyclicalLrScheduler {
    fn step(&mut self) -> LearningRate {
        let CyclicalLrSchedulerConfig {
            highest_lr,
            lowest_lr,
            cycle_steps,
            shape,
            begins_at_zero,
            ..
        } = self.config;
        match self.schedules.step() {
            Step::Earlier(rate) => rate,
            Step::Later(steps, _) => {
                let place = steps % cycle_steps;
                let place = if begins_at_zero { place } else { place + 1 };
                let t = place as f64 / cycle_steps as f64;
                lowest_lr + (highest_lr - lowest_lr) * shape.share(t)
            }
        }
    }

    fn to_record(&self) -> LrSchedulerRecord {
        self.schedules.to_record()
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.schedules.load_record(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_rates(mut scheduler: CyclicalLrScheduler, expected: &[f64]) {
        for (step, expected) in expected.iter().enumerate() {
            let got = scheduler.step();
            assert!((got - expected).abs() < 1e-12, "{step}: {got} {expected}");
        }
    }

    fn run() -> RunLength {
        RunLength::new(10, 2).unwrap()
    }

    #[test]
    fn a_cosine_restarts_after_each_cycle() {
        // Cycles of ceil(20 / 3) = 7 steps: 0.1 (1 + cos(pi k / 7)).
        let config = CyclicalLrSchedulerConfig::snapshot(0.2, 3, &run()).unwrap();
        let cycle: Vec<f64> = (0..7)
            .map(|k| 0.1 * (1.0 + (PI * f64::from(k) / 7.0).cos()))
            .collect();
        assert_rates(
            config.init().unwrap(),
            &[&cycle[..], &cycle, &cycle[..6]].concat(),
        );
        let due = config.collect(&run()).unwrap();
        let due: Vec<usize> = (1..=20).filter(|step| due.is_due(*step)).collect();
        // The last cycle is a step shorter.
        assert_eq!(due, [7, 14, 20]);
        assert_eq!(config.collect(&run()).unwrap().collections(), Some(3));
    }

    #[test]
    fn a_triangle_is_lowest_in_the_middle_after_another_schedule() {
        // From step 5 on, cycles of 4 steps, t = 1/4, 1/2, 3/4, 1.
        let config = CyclicalLrSchedulerConfig::fge(0.05, 0.01, 2, &run()).unwrap();
        let config = config.from_epoch(3, &run()).unwrap();
        assert!(config.init().is_err());
        let cycle = [0.03, 0.01, 0.03, 0.05];
        let expected = [&[0.5; 4][..], &cycle, &cycle].concat();
        assert_rates(config.init_after(0.5).unwrap(), &expected);
        let due = config.collect(&run()).unwrap();
        let due: Vec<usize> = (1..=20).filter(|step| due.is_due(*step)).collect();
        assert_eq!(due, [6, 10, 14, 18]);
    }

    #[test]
    fn a_line_falls_within_each_cycle() {
        let config = CyclicalLrSchedulerConfig::swa(0.05, 0.01, 1, &run()).unwrap();
        assert_rates(config.init().unwrap(), &[0.03, 0.01, 0.03, 0.01]);
        let due = config.collect(&run()).unwrap();
        assert!((1..=20).all(|step| due.is_due(step) == (step % 2 == 0)));
        assert_eq!(due.collections(), Some(10));
        let begins_at_zero = config.with_begins_at_zero(true);
        assert_rates(begins_at_zero.init().unwrap(), &[0.05, 0.03, 0.05, 0.03]);
    }

    #[test]
    fn a_record_goes_on_where_it_was_taken() {
        let config = CyclicalLrSchedulerConfig::fge(0.05, 0.01, 3, &run()).unwrap();
        let config = config.from_epoch(4, &run()).unwrap();
        for taken in [0, 3, 6, 8, 17] {
            let mut scheduler = config.init_after(0.5).unwrap();
            let mut resumed = scheduler.clone();
            for _ in 0..taken {
                scheduler.step();
            }
            resumed.load_record(scheduler.to_record());
            for _ in 0..20 {
                assert_eq!(scheduler.step(), resumed.step());
            }
        }
    }

    #[test]
    fn cycles_that_cannot_be_are_refused() {
        let run = run();
        let error = CyclicalLrSchedulerConfig::fge(0.05, 0.01, 11, &run).unwrap_err();
        let expected = "the number of epochs in a cycle must be at least 1, and at most that of the run, not 11 of 10";
        assert_eq!(error.to_string(), expected);
        assert!(CyclicalLrSchedulerConfig::swa(0.05, 0.01, 0, &run).is_err());
        assert!(CyclicalLrSchedulerConfig::snapshot(0.1, 0, &run).is_err());
        assert!(CyclicalLrSchedulerConfig::snapshot(0.1, 21, &run).is_err());
        let config = CyclicalLrSchedulerConfig::fge(0.05, 0.01, 4, &run).unwrap();
        assert!(config.from_epoch(11, &run).is_err());
        assert!(config.from_epoch(0, &run).is_err());
        // The first cycle's middle is after the end.
        let late = config.from_epoch(10, &run).unwrap();
        assert!(matches!(
            late.collect(&run),
            Err(SwaError::NeverCollects { .. })
        ));
        for (highest, lowest) in [
            (0.0, 0.0),
            (0.1, 0.2),
            (0.1, -0.1),
            (0.1, f64::NAN),
            (f64::NAN, 0.0),
        ] {
            let config = CyclicalLrSchedulerConfig::new(highest, lowest, 4, CycleShape::Line);
            assert!(config.init().is_err(), "{highest} {lowest}");
        }
        let none = CyclicalLrSchedulerConfig::new(0.1, 0.0, 0, CycleShape::Line);
        assert!(none.init().is_err() && none.collect(&run).is_err());
    }

    #[test]
    fn settings_are_saved_and_loaded() {
        let config = CyclicalLrSchedulerConfig::snapshot(0.2, 3, &run()).unwrap();
        let saved = config.to_string();
        let loaded = CyclicalLrSchedulerConfig::load_binary(saved.as_bytes()).unwrap();
        assert_eq!(loaded, config);
    }
}
