//! The learning-rate schedule of the SWA paper.

use burn::config::Config;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::LearningRate;

use crate::collect::converted_steps;
use crate::{Collect, RunLength, SwaError};

/// The settings of a [`PaperLrScheduler`].
#[derive(Config, Debug, Copy, PartialEq)]
pub enum PaperLrSchedulerConfig {
    /// For SWA: see [`swa`](Self::swa).
    Swa {
        /// The learning rate to begin with.
        lr: LearningRate,
        /// The learning rate from just before the first collection on.
        swa_lr: LearningRate,
        /// The steps after which weights are collected.
        collect: Collect,
    },
    /// For plain SGD: see [`sgd`](Self::sgd).
    Sgd {
        /// The learning rate to begin with.
        lr: LearningRate,
        /// The length of the run.
        run: RunLength,
    },
}

impl PaperLrSchedulerConfig {
    /// The schedule for SWA: from `lr` down to `swa_lr` just before `collect` starts, and constant from there on.
    pub fn swa(lr: LearningRate, swa_lr: LearningRate, collect: &Collect) -> Self {
        Self::Swa {
            lr,
            swa_lr,
            collect: *collect,
        }
    }

    /// The schedule for plain SGD: from `lr` down to a hundredth of it over the run.
    pub fn sgd(lr: LearningRate, run: RunLength) -> Self {
        Self::Sgd { lr, run }
    }

    /// The scheduler.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless all rates are positive, and for [`Collect::every_step`], which knows of no epochs.
    pub fn init(&self) -> Result<PaperLrScheduler, SwaError> {
        let (lr, ratio, span_epochs, run) = match *self {
            Self::Sgd { lr, run } => (lr, SGD_RATIO, run.epochs(), run),
            Self::Swa {
                lr,
                swa_lr,
                collect,
            } => {
                rate("the SWA learning rate", swa_lr)?;
                let run = *collect.run_in_epochs()?;
                (lr, swa_lr / lr, collect.start_epoch()?, run)
            }
        };
        rate("the learning rate", lr)?;
        Ok(PaperLrScheduler {
            lr,
            ratio,
            span_epochs,
            run,
            steps: 0,
        })
    }
}

/// The part of the learning rate that is left at the end of plain SGD.
const SGD_RATIO: f64 = 0.01;

/// The schedule of the SWA paper and its code: constant, then linear, then constant.
///
/// All steps of epoch `e`, counted from 0, have the same learning rate. With `t = e / span`, it is
///
/// ```text
/// lr                                            t <= 0.5
/// lr * (1 - (1 - ratio) * (t - 0.5) / 0.4)      0.5 < t <= 0.9
/// lr * ratio                                    t > 0.9
/// ```
///
/// For SWA the span is the epoch in which collecting starts, counted from 1, and `ratio = swa_lr / lr`. For plain SGD
/// the span is the whole run, and the ratio 0.01.
///
/// Source: Izmailov et al. 2018, section 4.1; `schedule` in the paper's `train.py`.
///
/// # Resuming
///
/// A record holds the number of steps and the number of steps in an epoch. If that has changed since (by another batch size,
/// gradient accumulation or number of devices), the steps are converted: the schedule goes on in the epoch in which it was, at
/// the same part of it. A record of an earlier version, without the number of steps in an epoch, is taken to have had as many.
/// The record of another schedule is taken to be of the end of the run's [plain epochs](RunLength::with_plain_epochs).
///
/// Made by [`PaperLrSchedulerConfig::init`].
#[derive(Debug, Clone)]
pub struct PaperLrScheduler {
    lr: LearningRate,
    ratio: f64,
    span_epochs: usize,
    run: RunLength,
    /// Optimizer steps taken.
    steps: usize,
}

impl PaperLrScheduler {
    /// The learning rate of epoch `epoch`, counted from 0.
    pub fn lr(&self, epoch: usize) -> LearningRate {
        let t = epoch as f64 / self.span_epochs as f64;
        let factor = if t <= 0.5 {
            1.0
        } else if t <= 0.9 {
            1.0 - (1.0 - self.ratio) * (t - 0.5) / 0.4
        } else {
            self.ratio
        };
        self.lr * factor
    }
}

impl LrScheduler for PaperLrScheduler {
    fn step(&mut self) -> LearningRate {
        let epoch = self.steps / self.run.steps_per_epoch();
        self.steps = self.steps.saturating_add(1);
        self.lr(epoch)
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new()
            .with_scalar("steps", self.steps)
            .with_scalar("steps_per_epoch", self.run.steps_per_epoch())
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        let now = self.run.steps_per_epoch();
        self.steps = match record.scalar("steps") {
            Some(steps) => {
                let before = record.scalar("steps_per_epoch").unwrap_or(now);
                converted_steps(steps, before, now)
            }
            // The record of another schedule, of a training without SWA.
            None => self.run.plain_steps(),
        };
    }
}

pub(super) fn rate(name: &'static str, value: LearningRate) -> Result<(), SwaError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(SwaError::Invalid {
            name,
            expected: "a positive number",
            got: value.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For averages from epoch 10 on.
    fn swa(lr: f64, swa_lr: f64, run: RunLength) -> PaperLrSchedulerConfig {
        let collect = Collect::from_epoch(10, &run).unwrap();
        PaperLrSchedulerConfig::swa(lr, swa_lr, &collect)
    }

    #[test]
    fn the_record_of_another_schedule_is_of_the_plain_epochs() {
        let run = RunLength::new(20, 3).unwrap().with_plain_epochs(7);
        let mut whole = swa(0.1, 0.02, run).init().unwrap();
        let mut resumed = whole.clone();
        for _ in 0..21 {
            whole.step();
        }
        resumed.load_record(LrSchedulerRecord::new().with_scalar("current_iter", 21_usize));
        for _ in 0..39 {
            assert_eq!(resumed.step(), whole.step());
        }
    }

    fn assert_rates(mut scheduler: impl LrScheduler, expected: &[(usize, f64)]) {
        for (steps, expected) in expected {
            for _ in 0..*steps {
                let got = scheduler.step();
                assert!(
                    (got - expected).abs() < 1e-12,
                    "{got} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn swa_is_constant_then_linear_to_its_rate_and_stays_there() {
        // Collecting from epoch 10 on: t = 0, 0.1, …; lr 0.1 down to 0.02, so a ratio of 0.2.
        // t = 0.6: 1 - 0.8 * 0.1 / 0.4 = 0.8; 0.7: 0.6; 0.8: 0.4; 0.9: 0.2; then 0.2.
        let run = RunLength::new(15, 2).unwrap();
        let scheduler = swa(0.1, 0.02, run).init().unwrap();
        assert_rates(
            scheduler,
            &[
                (12, 0.1),
                (2, 0.08),
                (2, 0.06),
                (2, 0.04),
                (2, 0.02),
                (12, 0.02),
            ],
        );
    }

    #[test]
    fn plain_sgd_ends_at_a_hundredth() {
        // t = 0.75: 1 - 0.99 * 0.25 / 0.4 = 0.38125.
        let run = RunLength::new(200, 1).unwrap();
        let scheduler = PaperLrSchedulerConfig::sgd(0.05, run).init().unwrap();
        assert_eq!(scheduler.lr(100), 0.05);
        assert!((scheduler.lr(150) - 0.05 * 0.38125).abs() < 1e-12);
        assert!((scheduler.lr(199) - 0.0005).abs() < 1e-12);
    }

    #[test]
    fn a_record_goes_on_where_it_was_taken() {
        let run = RunLength::new(20, 3).unwrap();
        let mut scheduler = swa(0.1, 0.02, run).init().unwrap();
        let mut resumed = scheduler.clone();
        for _ in 0..22 {
            scheduler.step();
        }
        resumed.load_record(scheduler.to_record());
        for _ in 0..30 {
            assert_eq!(scheduler.step(), resumed.step());
        }
    }

    #[test]
    fn a_record_of_other_steps_goes_on_in_the_same_epoch() {
        let schedule = |steps_per_epoch| {
            let run = RunLength::new(20, steps_per_epoch).unwrap();
            swa(0.1, 0.02, run).init().unwrap()
        };
        for (before, now) in [(3, 6), (6, 3), (5, 9), (9, 5), (7, 1), (1, 7)] {
            for epochs in [0, 1, 6, 9, 15] {
                let mut first = schedule(before);
                for _ in 0..epochs * before {
                    first.step();
                }
                let mut resumed = schedule(now);
                resumed.load_record(first.to_record());
                for epoch in epochs..20 {
                    for _ in 0..now {
                        assert_eq!(resumed.step(), first.lr(epoch));
                    }
                }
            }
        }
        // Within an epoch, it is still that one.
        let mut first = schedule(4);
        for _ in 0..6 * 4 + 3 {
            first.step();
        }
        let mut resumed = schedule(8);
        resumed.load_record(first.to_record());
        assert_eq!([resumed.step(), resumed.step()], [first.lr(6); 2]);
        assert_eq!(resumed.step(), first.lr(7));

        // A record of an earlier version.
        resumed.load_record(LrSchedulerRecord::new().with_scalar("steps", 6 * 8_usize));
        assert_eq!(resumed.step(), first.lr(6));
    }

    #[test]
    fn any_number_of_steps_has_a_rate() {
        let most = usize::MAX;
        for (epochs, steps_per_epoch) in [(most, 1), (most, most), (1, most), (10, 1)] {
            let run = RunLength::new(epochs, steps_per_epoch).unwrap();
            let mut schedule = PaperLrSchedulerConfig::sgd(0.1, run).init().unwrap();
            for steps in [most - 1, most] {
                for before in [1, steps_per_epoch, most] {
                    let record = LrSchedulerRecord::new().with_scalar("steps", steps);
                    schedule.load_record(record.with_scalar("steps_per_epoch", before));
                    let rates = [schedule.step(), schedule.step(), schedule.step()];
                    assert!(
                        rates.iter().all(|rate| (0.001..=0.1).contains(rate)),
                        "{rates:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rates_that_are_none_are_refused() {
        let run = RunLength::new(20, 3).unwrap();
        for bad in [0.0, -0.1, f64::NAN, f64::INFINITY] {
            assert!(PaperLrSchedulerConfig::sgd(bad, run).init().is_err());
            assert!(swa(0.1, bad, run).init().is_err());
        }
        let of_no_epochs = PaperLrSchedulerConfig::swa(0.1, 0.02, &Collect::every_step());
        let error = of_no_epochs.init().unwrap_err().to_string();
        assert!(
            error.contains("`Collect::from_epoch(epoch, &run)`"),
            "{error}"
        );
    }

    #[test]
    fn settings_are_saved_and_loaded() {
        let run = RunLength::new(20, 3).unwrap();
        for config in [PaperLrSchedulerConfig::sgd(0.1, run), swa(0.1, 0.02, run)] {
            let saved = config.to_string();
            let loaded = PaperLrSchedulerConfig::load_binary(saved.as_bytes()).unwrap();
            assert_eq!(loaded, config);
        }
        let no_step = r#"{"Sgd": {"lr": 0.1, "run": {"epochs": 20, "steps_per_epoch": 0}}}"#;
        let error = PaperLrSchedulerConfig::load_binary(no_step.as_bytes()).unwrap_err();
        let expected = "the number of steps per epoch must be at least 1, not 0";
        assert!(error.to_string().contains(expected), "{error}");
    }
}
