//! PyTorch's learning-rate schedule for SWA.

use core::f64::consts::PI;

use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::LearningRate;

use super::paper::rate;
use crate::SwaError;

/// How [`SwaLrScheduler`] gets from one rate to the other, with `t` from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Annealing {
    /// `(1 - cos(pi t)) / 2` of the way: PyTorch's default.
    #[default]
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

/// Another schedule up to a step, and from there, wherever that one stands, to the SWA rate.
///
/// After `start_step` steps of the other schedule, whose last rate was `from`, step `j = 1, 2, …` has
///
/// ```text
/// lr = swa_lr * a + from * (1 - a),    a = annealing(min(1, j / annealing_steps))
/// ```
///
/// Source: `torch.optim.swa_utils.SWALR`. There, `anneal_epochs` (10 by default) counts calls of
/// `step`, which are epochs in most programs; here, as everywhere, it is optimizer steps.
#[derive(Clone)]
pub struct SwaLrScheduler<S> {
    before: S,
    start_step: usize,
    swa_lr: LearningRate,
    annealing_steps: usize,
    annealing: Annealing,
    /// Optimizer steps taken.
    steps: usize,
    /// The last rate of `before`.
    from: LearningRate,
}

impl<S: LrScheduler> SwaLrScheduler<S> {
    /// `before` for `start_step` optimizer steps, then within `annealing_steps` to `swa_lr`, along a
    /// cosine. With `annealing_steps` 0 the rate is `swa_lr` at once.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless `swa_lr` is positive.
    pub fn new(
        before: S,
        start_step: usize,
        swa_lr: LearningRate,
        annealing_steps: usize,
    ) -> Result<Self, SwaError> {
        rate("the SWA learning rate", swa_lr)?;
        Ok(Self {
            before,
            start_step,
            swa_lr,
            annealing_steps,
            annealing: Annealing::default(),
            steps: 0,
            from: 0.0,
        })
    }

    /// The same with another way from rate to rate.
    pub fn with_annealing(mut self, annealing: Annealing) -> Self {
        self.annealing = annealing;
        self
    }
}

impl<S: LrScheduler + Clone + 'static> LrScheduler for SwaLrScheduler<S> {
    fn step(&mut self) -> LearningRate {
        let step = self.steps;
        self.steps += 1;
        // A schedule that is followed from the first step on starts from the other's first rate.
        if step < self.start_step || step == 0 {
            self.from = self.before.step();
        }
        if step < self.start_step {
            return self.from;
        }
        let annealed = (step - self.start_step + 1) as f64;
        let t = annealed / self.annealing_steps.max(1) as f64;
        let share = self.annealing.share(t.min(1.0));
        self.swa_lr * share + self.from * (1.0 - share)
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
    use crate::{PaperLrScheduler, RunLength};

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
        let scheduler = SwaLrScheduler::new(0.1, 2, 0.02, 4).unwrap();
        let mut scheduler = scheduler.with_annealing(Annealing::Linear);
        assert_rates(&mut scheduler, &[0.1, 0.1, 0.08, 0.06, 0.04, 0.02, 0.02]);
    }

    #[test]
    fn a_cosine_does_too_by_default() {
        // Shares (1 - cos(pi t)) / 2 at t = 1/3, 2/3, 1: 0.25, 0.75, 1. Upwards works as well.
        let mut scheduler = SwaLrScheduler::new(0.02, 1, 0.1, 3).unwrap();
        assert_rates(&mut scheduler, &[0.02, 0.04, 0.08, 0.1, 0.1]);
    }

    #[test]
    fn without_annealing_the_rate_jumps() {
        let mut scheduler = SwaLrScheduler::new(0.1, 1, 0.05, 0).unwrap();
        assert_rates(&mut scheduler, &[0.1, 0.05, 0.05]);
        let mut from_the_start = SwaLrScheduler::new(0.1, 0, 0.05, 2).unwrap();
        assert_rates(&mut from_the_start, &[0.075, 0.05]);
    }

    #[test]
    fn a_record_goes_on_where_it_was_taken() {
        let run = RunLength::new(10, 2).unwrap();
        for taken in [0, 1, 5, 9, 15] {
            let before = PaperLrScheduler::sgd(0.1, &run).unwrap();
            let mut scheduler = SwaLrScheduler::new(before, 9, 0.03, 5).unwrap();
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
}
