//! PyTorch's learning-rate schedule for SWA.

use core::f64::consts::PI;

use burn::config::Config;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::LearningRate;

use super::paper::rate;
use crate::SwaError;

/// The way of [`SwaLrScheduler`] from one rate to the other, with `t` from 0 to 1.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Annealing {
    /// `(1 - cos(pi t)) / 2` of the way: PyTorch's default.
    Cosine,
    /// `t` of the way.
    Linear,
}

impl Annealing {
    fn share(self, t: f64) -> f64 {
        match self {
            Self::Cosine => (1.0 - (PI * t).cos()) / 2.0,
            Self::Linear => t,
        }
    }
}

/// The settings of a [`SwaLrScheduler`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct SwaLrSchedulerConfig {
    /// The number of optimizer steps of the earlier schedule.
    start_step: usize,
    /// The learning rate that it leads to.
    swa_lr: LearningRate,
    /// The number of optimizer steps on the way to `swa_lr`. With 0, the rate is `swa_lr` at once.
    annealing_steps: usize,
    /// The way from rate to rate: along a cosine by default.
    #[config(default = "Annealing::Cosine")]
    annealing: Annealing,
}

impl SwaLrSchedulerConfig {
    /// The scheduler, which follows `before` for `start_step` steps.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless `swa_lr` is positive.
    pub fn init<S: LrScheduler>(&self, before: S) -> Result<SwaLrScheduler<S>, SwaError> {
        rate("the SWA learning rate", self.swa_lr)?;
        Ok(SwaLrScheduler {
            before,
            config: *self,
            steps: 0,
            from: 0.0,
        })
    }
}

/// Another schedule up to a step, and from its last rate to the SWA rate.
///
/// After `start_step` steps of the other schedule, whose last rate was `from`, step `j = 1, 2, …` has
///
/// ```text
/// lr = swa_lr * a + from * (1 - a),    a = annealing(min(1, j / annealing_steps))
/// ```
///
/// Source: `torch.optim.swa_utils.SWALR`. There, `anneal_epochs` (10 by default) counts calls of
/// `step`, which are epochs in most programs; here, as everywhere, it is optimizer steps.
///
/// Made by [`SwaLrSchedulerConfig::init`].
#[derive(Clone)]
pub struct SwaLrScheduler<S> {
    before: S,
    config: SwaLrSchedulerConfig,
    /// Optimizer steps taken.
    steps: usize,
    /// The last rate of `before`.
    from: LearningRate,
}

impl<S: LrScheduler + Clone + 'static> LrScheduler for SwaLrScheduler<S> {
    fn step(&mut self) -> LearningRate {
        let SwaLrSchedulerConfig {
            start_step,
            swa_lr,
            annealing_steps,
            annealing,
        } = self.config;
        let step = self.steps;
        self.steps += 1;
        // With a `start_step` of 0, the way starts from the first rate of `before`.
        if step < start_step || step == 0 {
            self.from = self.before.step();
        }
        if step < start_step {
            return self.from;
        }
        let annealed = (step - start_step + 1) as f64;
        let t = annealed / annealing_steps.max(1) as f64;
        let share = annealing.share(t.min(1.0));
        swa_lr * share + self.from * (1.0 - share)
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new()
            .with_scalar("steps", self.steps)
            .with_scalar("from", self.from)
            .with_record("before", self.before.to_record())
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        if let (Some(steps), Some(from)) = (record.scalar("steps"), record.scalar("from")) {
            self.steps = steps;
            self.from = from;
        }
        self.before.load_record(record.record("before"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PaperLrSchedulerConfig, RunLength};

    fn assert_rates(scheduler: &mut impl LrScheduler, expected: &[f64]) {
        for expected in expected {
            let got = scheduler.step();
            assert!(
                (got - expected).abs() < 1e-12,
                "{got} instead of {expected}"
            );
        }
    }

    #[test]
    fn a_line_leads_from_where_the_other_schedule_stands() {
        let config = SwaLrSchedulerConfig::new(2, 0.02, 4).with_annealing(Annealing::Linear);
        let mut scheduler = config.init(0.1).unwrap();
        assert_rates(&mut scheduler, &[0.1, 0.1, 0.08, 0.06, 0.04, 0.02, 0.02]);
    }

    #[test]
    fn a_cosine_does_too_by_default() {
        // Shares (1 - cos(pi t)) / 2 at t = 1/3, 2/3, 1: 0.25, 0.75, 1. Upwards works as well.
        let mut scheduler = SwaLrSchedulerConfig::new(1, 0.1, 3).init(0.02).unwrap();
        assert_rates(&mut scheduler, &[0.02, 0.04, 0.08, 0.1, 0.1]);
    }

    #[test]
    fn without_annealing_the_rate_jumps() {
        let mut scheduler = SwaLrSchedulerConfig::new(1, 0.05, 0).init(0.1).unwrap();
        assert_rates(&mut scheduler, &[0.1, 0.05, 0.05]);
        let mut from_the_start = SwaLrSchedulerConfig::new(0, 0.05, 2).init(0.1).unwrap();
        assert_rates(&mut from_the_start, &[0.075, 0.05]);
    }

    #[test]
    fn a_record_goes_on_where_it_was_taken() {
        let run = RunLength::new(10, 2).unwrap();
        for taken in [0, 1, 5, 9, 15] {
            let before = PaperLrSchedulerConfig::sgd(0.1, run).init().unwrap();
            let config = SwaLrSchedulerConfig::new(9, 0.03, 5);
            let mut scheduler = config.init(before).unwrap();
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
    fn schedulers_nest() {
        // To 0.04 within a step from step 1 on, and from there to 0.02 within two from step 3 on.
        let first = SwaLrSchedulerConfig::new(1, 0.04, 1).init(0.1).unwrap();
        let config = SwaLrSchedulerConfig::new(3, 0.02, 2).with_annealing(Annealing::Linear);
        let mut scheduler = config.init(first).unwrap();
        assert_rates(&mut scheduler, &[0.1, 0.04, 0.04, 0.03, 0.02, 0.02]);
    }

    #[test]
    fn settings_are_saved_and_loaded() {
        let config = SwaLrSchedulerConfig::new(9, 0.03, 5).with_annealing(Annealing::Linear);
        let saved = config.to_string();
        let loaded = SwaLrSchedulerConfig::load_binary(saved.as_bytes()).unwrap();
        assert_eq!(loaded, config);
        assert!(SwaLrSchedulerConfig::new(9, 0.0, 5).init(0.1).is_err());
    }
}
