//! PyTorch's learning-rate schedule for SWA.

use core::f64::consts::PI;

use burn::config::Config;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::LearningRate;

use super::joined::{Join, Joined, Step};
use super::paper::rate;
use crate::{Collect, SwaError};

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
    /// The number of optimizer steps in an epoch, if it is known: a run can then be resumed with another batch size, gradient
    /// accumulation or number of devices.
    steps_per_epoch: Option<usize>,
    /// The number of optimizer steps that were trained without SWA before, where a run goes on from such a checkpoint.
    plain_steps: Option<usize>,
}

impl SwaLrSchedulerConfig {
    /// The earlier schedule up to the epoch in which `collect` starts, and from its first step on `annealing_epochs` epochs to
    /// `swa_lr`.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] for [`Collect::every_step`], which knows of no epochs.
    pub fn from_collect(
        collect: &Collect,
        swa_lr: LearningRate,
        annealing_epochs: usize,
    ) -> Result<Self, SwaError> {
        let run = collect.run_in_epochs()?;
        let steps = run.steps_per_epoch();
        let start_step = (collect.start_epoch()? - 1).saturating_mul(steps);
        let annealing_steps = annealing_epochs.saturating_mul(steps);
        let config = Self::new(start_step, swa_lr, annealing_steps);
        Ok(config
            .with_steps_per_epoch(Some(steps))
            .with_plain_steps(Some(run.plain_steps())))
    }

    /// The scheduler, which follows `before` for `start_step` steps: any of Burn's schedules, as its configuration's `init` gives
    /// it, a constant rate, [`PaperLrScheduler`](crate::PaperLrScheduler), or a schedule of your own.
    ///
    /// For parameter groups, give each its own: `ModuleLrScheduler::new(swalr).with_group(group, swalr_of_the_group)`.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless `swa_lr` is positive, and `before` is without parameter groups.
    pub fn init(&self, before: impl Into<ModuleLrScheduler>) -> Result<SwaLrScheduler, SwaError> {
        rate("the SWA learning rate", self.swa_lr)?;
        let join = Join {
            start_step: self.start_step,
            steps_per_epoch: self.steps_per_epoch,
            plain_steps: self.plain_steps.unwrap_or(0),
        };
        Ok(SwaLrScheduler {
            schedules: Joined::new(before, join)?,
            config: *self,
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
/// PyTorch's own recipe, a cosine before it:
///
/// ```
/// use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
/// use swa_train::{Collect, RunLength, SwaLrSchedulerConfig};
///
/// let run = RunLength::of_items(300, 50_000, 128)?;
/// let cosine = CosineAnnealingLrSchedulerConfig::new(0.1, run.total_steps()).init()?;
/// // For 160 epochs, then within ten epochs to 0.05.
/// let collect = Collect::from_epoch(161, &run)?;
/// let learning_rate = SwaLrSchedulerConfig::from_collect(&collect, 0.05, 10)?.init(cosine)?;
/// # let _ = learning_rate;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Resuming
///
/// If the settings have `steps_per_epoch`, a record holds it too. If it has changed since (by another batch size, gradient
/// accumulation or number of devices), the number of steps is converted, and the other schedule is brought to that step from its
/// beginning. Otherwise steps are taken as they are.
///
/// The record of the other schedule alone, of a training without SWA, is taken to be of the end of the run's
/// [plain epochs](crate::RunLength::with_plain_epochs).
///
/// Made by [`SwaLrSchedulerConfig::init`].
#[derive(Clone)]
pub struct SwaLrScheduler {
    schedules: Joined,
    config: SwaLrSchedulerConfig,
}

impl LrScheduler for SwaLrScheduler {
    fn step(&mut self) -> LearningRate {
        let SwaLrSchedulerConfig {
            swa_lr,
            annealing_steps,
            annealing,
            ..
        } = self.config;
        match self.schedules.step() {
            Step::Earlier(rate) => rate,
            Step::Later(steps, from) => {
                let t = (steps as f64 + 1.0) / annealing_steps.max(1) as f64;
                let share = annealing.share(t.min(1.0));
                swa_lr * share + from * (1.0 - share)
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
    use burn::lr_scheduler::LrSchedulerConfig;
    use burn::lr_scheduler::composed::{ComposedLrSchedulerConfig, SchedulerReduction};
    use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
    use burn::lr_scheduler::exponential::ExponentialLrSchedulerConfig;
    use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
    use burn::lr_scheduler::noam::NoamLrSchedulerConfig;
    use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;
    use burn::lr_scheduler::step::StepLrSchedulerConfig;
    use burn::module::{ParamGroup, ParamId};

    use super::super::joined::without_later_schedules;
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

    /// Each of Burn's schedules, by its name.
    fn burns_schedules() -> Vec<(&'static str, ModuleLrScheduler)> {
        let linear = LinearLrSchedulerConfig::new(0.1, 0.02, 8);
        let cosine = CosineAnnealingLrSchedulerConfig::new(0.1, 12);
        let schedulers = vec![
            LrSchedulerConfig::Linear(linear.clone()),
            LrSchedulerConfig::Cosine(cosine.clone()),
        ];
        let sequential = SequentialLrSchedulerConfig::new(schedulers, vec![4]);
        let composed = ComposedLrSchedulerConfig::new()
            .with_reduction(SchedulerReduction::Avg)
            .linear(linear.clone())
            .cosine(cosine.clone());
        let noam = NoamLrSchedulerConfig::new(0.5).with_warmup_steps(4);
        let schedules = [
            ("constant", Ok(ModuleLrScheduler::new(0.1))),
            ("linear", linear.init()),
            ("cosine", cosine.init()),
            (
                "exponential",
                ExponentialLrSchedulerConfig::new(0.1, 0.8).init(),
            ),
            ("step", StepLrSchedulerConfig::new(0.1, 3).init()),
            ("noam", noam.init()),
            ("composed", composed.init()),
            ("sequential", sequential.init()),
        ];
        schedules
            .map(|(name, schedule)| (name, schedule.unwrap()))
            .into()
    }

    #[test]
    fn each_of_burns_schedules_leads_to_the_swa_rate() {
        let config = SwaLrSchedulerConfig::new(7, 0.05, 2).with_annealing(Annealing::Linear);
        for (name, mut alone) in burns_schedules() {
            let mut scheduler = config.init(alone.clone()).unwrap();
            let followed: Vec<f64> = (0..7).map(|_| alone.step().base()).collect();
            let last = followed[6];
            let annealed = [f64::midpoint(last, 0.05), 0.05, 0.05];
            let expected: Vec<f64> = followed.into_iter().chain(annealed).collect();
            let mut resumed = Vec::new();
            for expected in &expected {
                // A record goes on where it was taken.
                let mut from_record = config.init(alone.clone()).unwrap();
                from_record.load_record(scheduler.to_record());
                resumed.push(from_record.step());
                assert!((scheduler.step() - expected).abs() < 1e-12, "{name}");
            }
            assert!(
                resumed
                    .iter()
                    .zip(&expected)
                    .all(|(got, it)| (got - it).abs() < 1e-12)
            );
        }
    }

    #[test]
    fn pytorchs_recipe_has_the_rates_worked_out_by_hand() {
        // CosineAnnealingLR(T_max=4) from 0.1: 0.05 (1 + cos(pi t / 4)); then SWALR within two steps to 0.05.
        let cosine = CosineAnnealingLrSchedulerConfig::new(0.1, 4)
            .init()
            .unwrap();
        let run = RunLength::new(4, 2).unwrap();
        let collect = Collect::from_epoch(3, &run).unwrap();
        let config = SwaLrSchedulerConfig::from_collect(&collect, 0.05, 1).unwrap();
        let mut scheduler = config
            .with_annealing(Annealing::Linear)
            .init(cosine)
            .unwrap();
        let half = 0.05 * 0.5_f64.sqrt();
        let last = 0.05 - half;
        let expected = [
            0.1,
            0.05 + half,
            0.05,
            last,
            f64::midpoint(last, 0.05),
            0.05,
            0.05,
        ];
        assert_rates(&mut scheduler, &expected);
        let of_no_epochs = SwaLrSchedulerConfig::from_collect(&Collect::every_step(), 0.05, 1);
        assert!(of_no_epochs.is_err());
    }

    #[test]
    fn groups_have_a_schedule_each() {
        let config = SwaLrSchedulerConfig::new(2, 0.05, 0);
        let cosine = || {
            CosineAnnealingLrSchedulerConfig::new(0.1, 4)
                .init()
                .unwrap()
        };
        let id = ParamId::new();
        let group = || ParamGroup::from_ids(vec![id]);
        let swalr = config.init(cosine()).unwrap();
        let of_group = SwaLrSchedulerConfig::new(1, 0.01, 0).init(0.02).unwrap();
        let mut all = ModuleLrScheduler::new(swalr).with_group(group(), of_group);
        let rates: Vec<_> = (0..3)
            .map(|_| all.step())
            .map(|rate| (rate.base(), rate.lr_from_param(id, None)))
            .collect();
        let second = 0.05 * (1.0 + 0.5_f64.sqrt());
        for (got, expected) in rates
            .iter()
            .zip([(0.1, 0.02), (second, 0.01), (0.05, 0.01)])
        {
            assert!(
                (got.0 - expected.0).abs() < 1e-12 && got.1 == expected.1,
                "{got:?}"
            );
        }

        for groups in 1..=12 {
            let with_groups = (0..groups).fold(cosine(), |all, _| all.with_group(group(), 0.1));
            let error = config.init(with_groups).err().unwrap().to_string();
            let expected = format!("not one with {groups} of them");
            assert!(
                error.contains("with_group") && error.contains(&expected),
                "{error}"
            );
        }
    }

    #[test]
    fn a_record_of_other_steps_goes_on_at_the_same_place() {
        // Four epochs of a cosine of ten, then one to the SWA rate.
        let schedule = |steps_per_epoch: usize| {
            let run = RunLength::new(10, steps_per_epoch).unwrap();
            let cosine = CosineAnnealingLrSchedulerConfig::new(0.1, run.total_steps());
            let collect = Collect::from_epoch(5, &run).unwrap();
            let config = SwaLrSchedulerConfig::from_collect(&collect, 0.05, 1).unwrap();
            config.init(cosine.init().unwrap()).unwrap()
        };
        let rates = |mut schedule: SwaLrScheduler| -> Vec<f64> {
            (0..60).map(|_| schedule.step()).collect()
        };
        for (before, now) in [(3, 6), (6, 3), (5, 7)] {
            for epochs in [0, 1, 3, 4, 5, 8] {
                let mut first = schedule(before);
                for _ in 0..epochs * before {
                    first.step();
                }
                let mut resumed = schedule(now);
                resumed.load_record(first.to_record());
                let expected = rates(schedule(now));
                let got = rates(resumed);
                let rest = &expected[epochs * now..];
                if epochs < 4 {
                    assert_eq!(got[..rest.len()], *rest);
                } else {
                    // From the last rate of the cosine, which was the one of other steps.
                    assert!(
                        got.iter()
                            .zip(rest)
                            .all(|(got, it)| (got - it).abs() < 2e-2)
                    );
                    assert!((got[now] - 0.05).abs() < 1e-12);
                }
            }
        }

        // Steps of an epoch that are not known, then or now, are taken as they are.
        let config = SwaLrSchedulerConfig::new(4, 0.05, 0);
        let known = config.with_steps_per_epoch(Some(2));
        for (first, second) in [(config, known), (known, config)] {
            let mut scheduler = first.init(0.1).unwrap();
            for _ in 0..3 {
                scheduler.step();
            }
            let mut resumed = second.init(0.1).unwrap();
            resumed.load_record(scheduler.to_record());
            assert_rates(&mut resumed, &[0.1, 0.05]);
        }
        assert!(config.with_steps_per_epoch(Some(0)).init(0.1).is_err());
    }

    #[test]
    fn a_training_without_swa_goes_on_with_it_and_back() {
        // Four steps an epoch, SWA from epoch 4 on.
        let collect = |plain_epochs| {
            let run = RunLength::new(6, 4).unwrap();
            Collect::from_epoch(4, &run.with_plain_epochs(plain_epochs)).unwrap()
        };
        for (name, schedule) in burns_schedules() {
            for plain_epochs in 1..=5 {
                let config = config_of(&collect(plain_epochs));
                let mut whole = config.init(schedule.clone()).unwrap();
                let mut with_swa: ModuleLrScheduler = whole.clone().into();
                let mut plain = schedule.clone();
                for _ in 0..4 * plain_epochs {
                    plain.step();
                    whole.step();
                }
                let record = plain.to_record();
                with_swa = with_swa.load_record(record.clone());
                let expected: Vec<f64> = (0..10).map(|_| whole.step()).collect();
                let got: Vec<f64> = (0..10).map(|_| with_swa.step().base()).collect();
                assert_eq!(got, expected, "{name} after {plain_epochs}");

                if plain_epochs < 4 {
                    let mut with_swa: ModuleLrScheduler = config_of(&collect(0))
                        .init(schedule.clone())
                        .unwrap()
                        .into();
                    for _ in 0..4 * plain_epochs {
                        with_swa.step();
                    }
                    let back = without_later_schedules(&with_swa.to_record());
                    assert_eq!(format!("{back:?}"), format!("{record:?}"), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_plain_record_goes_on_where_annealing_began_at_once() {
        let config = SwaLrSchedulerConfig::new(0, 0.05, 10).with_plain_steps(Some(3));
        let mut whole = config.init(0.1).unwrap();
        let mut resumed = config.init(0.1).unwrap();
        for _ in 0..3 {
            whole.step();
        }
        resumed.load_record(LrSchedulerRecord::new());
        for _ in 0..9 {
            assert_eq!(resumed.step(), whole.step());
        }
    }

    fn config_of(collect: &Collect) -> SwaLrSchedulerConfig {
        SwaLrSchedulerConfig::from_collect(collect, 0.05, 1).unwrap()
    }

    #[test]
    fn a_record_of_an_earlier_version_is_loaded() {
        let cosine = || {
            CosineAnnealingLrSchedulerConfig::new(0.1, 4)
                .init()
                .unwrap()
        };
        let config = SwaLrSchedulerConfig::new(4, 0.05, 0);
        let mut resumed = config.init(cosine()).unwrap();
        let mut before = cosine();
        before.step();
        before.step();
        resumed.load_record(
            LrSchedulerRecord::new()
                .with_scalar("steps", 2_usize)
                .with_scalar("from", 0.085_355)
                .with_record("before", before.to_record().record("0")),
        );
        assert_rates(&mut resumed, &[0.05, 0.05 * (1.0 - 0.5_f64.sqrt()), 0.05]);

        let saved =
            r#"{"start_step": 9, "swa_lr": 0.03, "annealing_steps": 5, "annealing": "Linear"}"#;
        let loaded = SwaLrSchedulerConfig::load_binary(saved.as_bytes()).unwrap();
        let expected = SwaLrSchedulerConfig::new(9, 0.03, 5).with_annealing(Annealing::Linear);
        assert_eq!(loaded, expected);
    }

    #[test]
    fn any_number_of_steps_has_a_rate() {
        let most = usize::MAX;
        for (start_step, annealing_steps) in [(0, most), (most, 0), (most, most), (0, 1)] {
            let config = SwaLrSchedulerConfig::new(start_step, 0.05, annealing_steps);
            for per_epoch in [None, Some(1), Some(most)] {
                let config = config.with_steps_per_epoch(per_epoch);
                let mut scheduler = config.init(0.1).unwrap();
                let record = LrSchedulerRecord::new()
                    .with_scalar("steps", most)
                    .with_scalar("from", 0.1);
                scheduler.load_record(record);
                let rates = [scheduler.step(), scheduler.step()];
                assert!(
                    rates.iter().all(|rate| (0.05..=0.1).contains(rate)),
                    "{rates:?}"
                );
            }
        }
        let run = RunLength::new(most, most).unwrap();
        let collect = Collect::from_epoch(most, &run).unwrap();
        let config = SwaLrSchedulerConfig::from_collect(&collect, 0.05, most).unwrap();
        assert_eq!(config.init(0.1).unwrap().step(), 0.1);
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
