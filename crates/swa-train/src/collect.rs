//! The steps after which weights are collected for the average.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::serde::{Deserialize, Serialize};

use crate::SwaError;

/// The length of a run. Everything here counts in optimizer steps; only this type turns epochs into
/// steps.
///
/// It is checked: if the first validation does not come after as many steps as an epoch is said to have, the averaging ends with
/// [`SwaError::OtherRunLength`], which says the number to write. A training that is never validated is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", try_from = "SavedRunLength")]
pub struct RunLength {
    epochs: usize,
    steps_per_epoch: usize,
    plain_epochs: usize,
    is_checked: bool,
}

/// A length as it is saved, which may be invalid, or of an earlier version.
#[derive(Deserialize)]
#[serde(crate = "burn::serde")]
struct SavedRunLength {
    epochs: usize,
    steps_per_epoch: usize,
    #[serde(default)]
    plain_epochs: usize,
    #[serde(default = "yes")]
    is_checked: bool,
}

fn yes() -> bool {
    true
}

impl TryFrom<SavedRunLength> for RunLength {
    type Error = SwaError;

    fn try_from(saved: SavedRunLength) -> Result<Self, SwaError> {
        let run = Self::new(saved.epochs, saved.steps_per_epoch)?;
        Ok(Self {
            plain_epochs: saved.plain_epochs,
            is_checked: saved.is_checked,
            ..run
        })
    }
}

impl RunLength {
    /// A run of `epochs` epochs of `steps_per_epoch` optimizer steps.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if either is 0.
    pub fn new(epochs: usize, steps_per_epoch: usize) -> Result<Self, SwaError> {
        positive("the number of epochs", epochs)?;
        positive("the number of steps per epoch", steps_per_epoch)?;
        Ok(Self {
            epochs,
            steps_per_epoch,
            plain_epochs: 0,
            is_checked: true,
        })
    }

    /// A run of `epochs` epochs over the items of the training's loader in batches of `batch_size`, on one device. (Burn's
    /// loaders do not tell the size of their batches.) An epoch has `items / batch_size` steps, rounded up, as Burn's loaders
    /// keep the last, smaller batch.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if any of them is 0.
    pub fn of_loader<O>(
        epochs: usize,
        train_loader: &Arc<dyn DataLoader<O>>,
        batch_size: usize,
    ) -> Result<Self, SwaError> {
        Self::of_items(epochs, train_loader.num_items(), batch_size)
    }

    /// The same for a number of `items`. On `n` devices, Burn gives each device `items / n` items, rounded down, and the last one
    /// the rest: pass `items - items / n * (n - 1)`.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if any of them is 0.
    pub fn of_items(epochs: usize, items: usize, batch_size: usize) -> Result<Self, SwaError> {
        positive("the number of training items", items)?;
        positive("the batch size", batch_size)?;
        Self::new(epochs, items.div_ceil(batch_size))
    }

    /// The same run with the gradients of `batches` batches accumulated for every optimizer step, as
    /// with `SupervisedTraining::grads_accumulation`.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if `batches` is 0.
    pub fn with_gradient_accumulation(self, batches: usize) -> Result<Self, SwaError> {
        positive("the number of batches to accumulate", batches)?;
        Ok(Self {
            steps_per_epoch: self.steps_per_epoch.div_ceil(batches),
            ..self
        })
    }

    /// The same run, of which the first `epochs` epochs were trained without SWA. SWA then goes on from a checkpoint of that
    /// training: give Burn's `SupervisedTraining::checkpoint` the same number. Such a checkpoint does not say how many steps it is
    /// of, so that a run without this refuses it ([`SwaError::PlainRecord`]).
    pub fn with_plain_epochs(self, epochs: usize) -> Self {
        Self {
            plain_epochs: epochs,
            ..self
        }
    }

    /// The same run, which is not compared with the training: for a loop of your own that validates at other times than after every
    /// epoch.
    pub fn unchecked(self) -> Self {
        Self {
            is_checked: false,
            ..self
        }
    }

    /// The number of epochs.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// The number of optimizer steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }

    /// The number of optimizer steps of its epochs without SWA, of which there are none by default.
    pub(crate) fn plain_steps(&self) -> usize {
        self.plain_epochs.saturating_mul(self.steps_per_epoch)
    }

    /// Compares this with a training that had taken `before` steps when it began, or was resumed, and `steps` at its first
    /// validation.
    ///
    /// # Errors
    ///
    /// [`SwaError::OtherRunLength`] unless that was at the end of its first epoch.
    pub(crate) fn check(&self, before: usize, steps: usize) -> Result<(), SwaError> {
        let said = self.steps_per_epoch;
        let taken = steps.saturating_sub(before / said * said);
        // A record from within an epoch may go on with the rest of it, or, as in a `Learner`, with a whole one.
        if taken == said
            || steps.saturating_sub(before) == said
            || steps == before
            || !self.is_checked
        {
            Ok(())
        } else {
            Err(SwaError::OtherRunLength {
                epochs: self.epochs,
                said,
                taken,
            })
        }
    }

    /// The number of optimizer steps of the run, or `usize::MAX` if there are more.
    pub fn total_steps(&self) -> usize {
        self.epochs.saturating_mul(self.steps_per_epoch)
    }
}

/// The number of steps that are as many epochs as `steps` are, of `before` steps each, in epochs of `now` steps. The last one is
/// rounded down.
pub(crate) fn converted_steps(steps: usize, before: usize, now: usize) -> usize {
    match before {
        0 => steps,
        before => {
            let converted = steps as u128 * now as u128 / before as u128;
            usize::try_from(converted).unwrap_or(usize::MAX)
        }
    }
}

/// The optimizer steps after which weights are collected: a first step, and then at a fixed interval.
///
/// A learning-rate schedule that is made for it takes its start from it: see
/// [`PaperLrSchedulerConfig::swa`](crate::PaperLrSchedulerConfig::swa) and
/// [`SwaLrSchedulerConfig::from_collect`](crate::SwaLrSchedulerConfig::from_collect).
///
/// Steps and epochs are counted from 1: the weights collected "from epoch 126 on" are those at the end
/// of epochs 126, 127, …, as in the paper's code.
///
/// ```
/// use swa_train::{Collect, RunLength};
///
/// // 225 epochs of 391 steps; the paper's PreResNet-110 with 1.5 budgets.
/// let run = RunLength::of_items(225, 50_000, 128)?;
/// let collect = Collect::from_epoch(126, &run)?;
///
/// assert!(!collect.is_due(125 * 391));
/// assert!(collect.is_due(126 * 391));
/// assert!(!collect.is_due(126 * 391 + 1));
/// assert!(collect.is_due(127 * 391));
/// # Ok::<(), swa_train::SwaError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", try_from = "SavedCollect")]
pub struct Collect {
    first_step: usize,
    every_steps: usize,
    run: Option<RunLength>,
    /// Collects after the run's last step too.
    at_the_end: bool,
}

/// Steps as they are saved, which may be invalid.
#[derive(Deserialize)]
#[serde(crate = "burn::serde")]
struct SavedCollect {
    first_step: usize,
    every_steps: usize,
    run: Option<RunLength>,
    #[serde(default)]
    at_the_end: bool,
}

impl TryFrom<SavedCollect> for Collect {
    type Error = SwaError;

    fn try_from(saved: SavedCollect) -> Result<Self, SwaError> {
        positive("the step to start collecting at", saved.first_step)?;
        let collect = Self::from(saved.first_step, saved.every_steps, saved.run)?;
        Ok(Self {
            at_the_end: saved.at_the_end,
            ..collect.every_steps(saved.every_steps)?
        })
    }
}

impl Collect {
    /// Collects after every optimizer step, from the first on, in a run of any length: for an EMA.
    pub fn every_step() -> Self {
        Self {
            first_step: 1,
            every_steps: 1,
            run: None,
            at_the_end: false,
        }
    }

    /// Collects at the end of epoch `epoch` and of every epoch after it.
    ///
    /// The paper starts at 75% of the budget, its code's commands at epoch 161 of 200 (VGG16) and 126 of
    /// 150 (PreResNet-110).
    ///
    /// # Errors
    ///
    /// [`SwaError::NeverCollects`] if the run is shorter, [`SwaError::Invalid`] if `epoch` is 0.
    pub fn from_epoch(epoch: usize, run: &RunLength) -> Result<Self, SwaError> {
        positive("the epoch to start collecting at", epoch)?;
        let every_steps = run.steps_per_epoch;
        Self::from(epoch.saturating_mul(every_steps), every_steps, Some(*run))
    }

    /// Collects at the end of the first epoch at which `fraction` of the run is over, and of every epoch
    /// after it: 0.75 of 200 epochs is from epoch 150 on.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] unless `fraction` is in `[0, 1]`.
    pub fn from_fraction(fraction: f64, run: &RunLength) -> Result<Self, SwaError> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(SwaError::Invalid {
                name: "the fraction of the run at which to start collecting",
                expected: "in [0, 1]",
                got: fraction.to_string(),
            });
        }
        // Rounding must not turn 0.7 of 10 epochs (7.000000000000001) into the eighth.
        let epoch = (fraction * run.epochs as f64 - 1e-9).ceil() as usize;
        Self::from_epoch(epoch.clamp(1, run.epochs), run)
    }

    /// Collects after optimizer step `step` and every step after it.
    ///
    /// # Errors
    ///
    /// [`SwaError::NeverCollects`] if the run is shorter, [`SwaError::Invalid`] if `step` is 0.
    pub fn from_step(step: usize, run: &RunLength) -> Result<Self, SwaError> {
        positive("the step to start collecting at", step)?;
        Self::from(step, 1, Some(*run))
    }

    /// Keeps the start, and then collects every `epochs` epochs: the paper's `swa_c_epochs`, whose default is 1.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if `epochs` is 0, and for [`every_step`](Self::every_step), which knows of no epochs.
    pub fn every_epochs(self, epochs: usize) -> Result<Self, SwaError> {
        positive(
            "the number of epochs from one collection to the next",
            epochs,
        )?;
        self.every_steps(epochs.saturating_mul(self.run_in_epochs()?.steps_per_epoch))
    }

    /// Keeps the start, and then collects every `steps` optimizer steps.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if `steps` is 0.
    pub fn every_steps(self, steps: usize) -> Result<Self, SwaError> {
        positive("the number of steps from one collection to the next", steps)?;
        let at_the_end = self.at_the_end;
        let collect = Self::from(self.first_step, steps, self.run)?;
        Ok(Self {
            at_the_end,
            ..collect
        })
    }

    fn from(
        first_step: usize,
        every_steps: usize,
        run: Option<RunLength>,
    ) -> Result<Self, SwaError> {
        match run {
            Some(run) if first_step > run.total_steps() => Err(SwaError::NeverCollects {
                first_step,
                total_steps: run.total_steps(),
            }),
            run => Ok(Self {
                first_step,
                every_steps,
                run,
                at_the_end: false,
            }),
        }
    }

    /// The same, and after the run's last step, if that is not the end of an interval. A run of any length has none.
    pub fn and_at_the_end(self) -> Self {
        Self {
            at_the_end: true,
            ..self
        }
    }

    /// Tells whether weights are collected after optimizer step `step`.
    pub fn is_due(&self, step: usize) -> bool {
        let is_last = || self.run.is_some_and(|run| step == run.total_steps());
        step >= self.first_step
            && ((step - self.first_step).is_multiple_of(self.every_steps)
                || self.at_the_end && is_last())
    }

    /// The length of the run, unless it may have [any](Self::every_step).
    pub fn run(&self) -> Option<&RunLength> {
        self.run.as_ref()
    }

    /// The length of the run.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] if it may have any.
    pub(crate) fn run_in_epochs(&self) -> Result<&RunLength, SwaError> {
        self.run().ok_or_else(|| SwaError::Invalid {
            name: "what is counted in epochs",
            expected: "of a `Collect` that knows the length of the run, such as `Collect::from_epoch(epoch, &run)`",
            got: "of `Collect::every_step()`".to_owned(),
        })
    }

    /// The optimizer step after which weights are first collected.
    pub fn first_step(&self) -> usize {
        self.first_step
    }

    /// The epoch, counted from 1, in which weights are first collected.
    ///
    /// # Errors
    ///
    /// [`SwaError::Invalid`] for [`every_step`](Self::every_step), which knows of no epochs.
    pub fn start_epoch(&self) -> Result<usize, SwaError> {
        let run = self.run_in_epochs()?;
        Ok(self.first_step.div_ceil(run.steps_per_epoch))
    }

    /// The number of times that weights are collected in the run, if its length is known.
    pub fn collections(&self) -> Option<usize> {
        let steps = self.run?.total_steps() - self.first_step;
        let rest = usize::from(self.at_the_end && !steps.is_multiple_of(self.every_steps));
        Some((steps / self.every_steps).saturating_add(1 + rest))
    }
}

pub(crate) fn positive(name: &'static str, value: usize) -> Result<(), SwaError> {
    match value {
        0 => Err(SwaError::Invalid {
            name,
            expected: "at least 1",
            got: value.to_string(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(collect: Collect, steps: usize) -> Vec<usize> {
        (0..=steps).filter(|step| collect.is_due(*step)).collect()
    }

    #[test]
    fn epochs_collect_at_their_end() {
        let run = RunLength::new(6, 10).unwrap();
        let collect = Collect::from_epoch(3, &run).unwrap();
        assert_eq!(due(collect, 60), [30, 40, 50, 60]);
        assert_eq!(collect.collections(), Some(4));
        let collect = collect.every_epochs(2).unwrap();
        assert_eq!(due(collect, 60), [30, 50]);
        assert_eq!(collect.collections(), Some(2));
    }

    #[test]
    fn steps_collect_at_every_step_or_every_few() {
        let run = RunLength::new(1, 10).unwrap();
        let collect = Collect::from_step(7, &run).unwrap();
        assert_eq!(due(collect, 10), [7, 8, 9, 10]);
        assert_eq!(due(collect.every_steps(3).unwrap(), 10), [7, 10]);
    }

    #[test]
    fn a_fraction_is_of_the_run_in_whole_epochs() {
        let first_epoch = |fraction, epochs| {
            let run = RunLength::new(epochs, 10).unwrap();
            Collect::from_fraction(fraction, &run).unwrap().first_step() / 10
        };
        assert_eq!(first_epoch(0.75, 200), 150);
        assert_eq!(first_epoch(0.7, 10), 7);
        assert_eq!(first_epoch(0.75, 10), 8);
        assert_eq!(first_epoch(0.0, 10), 1);
        assert_eq!(first_epoch(1.0, 10), 10);
    }

    #[test]
    fn a_run_that_would_never_collect_is_refused() {
        let run = RunLength::new(100, 10).unwrap();
        let error = Collect::from_epoch(101, &run).unwrap_err();
        assert_eq!(
            error.to_string(),
            "SWA would collect for the first time after step 1010, but the run ends after 1000: \
             start earlier (the paper starts at three quarters of the run) or train longer"
        );
        assert!(Collect::from_step(1001, &run).is_err());
        assert!(Collect::from_step(0, &run).is_err());
        assert!(Collect::from_epoch(0, &run).is_err());
        assert!(Collect::from_fraction(1.5, &run).is_err());
        assert!(Collect::from_fraction(f64::NAN, &run).is_err());
    }

    #[test]
    fn runs_of_any_length_collect_or_are_refused() {
        let most = usize::MAX;
        for (epochs, steps_per_epoch) in [(most, 1), (most, 391), (1, most), (most, most)] {
            let run = RunLength::new(epochs, steps_per_epoch).unwrap();
            assert_eq!(run.total_steps(), most);
            let first = Collect::from_step(1, &run).unwrap();
            assert!(first.is_due(1) && first.is_due(most));
            assert_eq!(first.collections(), Some(most));
            let rarely = first.every_epochs(most).unwrap().every_steps(most).unwrap();
            assert!(rarely.is_due(1) && !rarely.is_due(most));
            for fraction in [0.0, 0.75, 1.0] {
                let collect = Collect::from_fraction(fraction, &run).unwrap();
                assert!(collect.first_step() >= 1 && collect.collections() >= Some(1));
            }
            let last = Collect::from_epoch(epochs, &run).unwrap();
            assert_eq!((last.first_step(), last.collections()), (most, Some(1)));
        }
        let run = RunLength::new(most - 1, 1).unwrap();
        assert!(Collect::from_epoch(most, &run).is_err());
        let run = RunLength::of_items(1, most, 1).unwrap();
        assert_eq!(
            run.with_gradient_accumulation(most).unwrap().total_steps(),
            1
        );
    }

    #[test]
    fn every_step_is_of_a_run_of_any_length() {
        let collect = Collect::every_step();
        assert_eq!(due(collect, 3), [1, 2, 3]);
        assert_eq!((collect.run(), collect.collections()), (None, None));
        assert_eq!(due(collect.every_steps(2).unwrap(), 5), [1, 3, 5]);
        let error = collect.every_epochs(2).unwrap_err().to_string();
        assert!(error.contains("of `Collect::every_step()`"), "{error}");
        assert!(collect.start_epoch().is_err());
    }

    #[test]
    fn the_epoch_to_start_in_is_counted_from_1() {
        let run = RunLength::new(6, 10).unwrap();
        let start = |step| {
            Collect::from_step(step, &run)
                .unwrap()
                .start_epoch()
                .unwrap()
        };
        assert_eq!([1, 10, 11, 20, 60].map(start), [1, 1, 2, 2, 6]);
        let collect = Collect::from_epoch(4, &run).unwrap();
        assert_eq!(collect.start_epoch().unwrap(), 4);
    }

    #[test]
    fn a_length_is_that_of_the_first_epoch_or_says_which() {
        let run = RunLength::new(6, 10).unwrap();
        // From the beginning, from the end of an epoch, and from within one, with its rest or with a whole one.
        for (before, steps) in [(0, 10), (20, 30), (24, 30), (24, 34), (7, 7)] {
            run.check(before, steps).unwrap();
        }
        for (before, steps, expected) in [(0, 4, 4), (0, 20, 20), (20, 25, 5), (24, 31, 11)] {
            match run.check(before, steps) {
                Err(SwaError::OtherRunLength {
                    said: 10, taken, ..
                }) => assert_eq!(taken, expected),
                other => panic!("{other:?}"),
            }
            let unchecked = run.unchecked();
            unchecked.check(before, steps).unwrap();
        }
        let error = run.check(0, 4).unwrap_err().to_string();
        assert!(error.contains("`RunLength::new(6, 4)`"), "{error}");
    }

    #[test]
    fn a_length_of_an_earlier_version_is_loaded() {
        let saved =
            r#"{"first_step": 20, "every_steps": 10, "run": {"epochs": 6, "steps_per_epoch": 10}}"#;
        let loaded: Collect = serde_json::from_str(saved).unwrap();
        let run = RunLength::new(6, 10).unwrap();
        assert_eq!(loaded, Collect::from_epoch(2, &run).unwrap());
        let run = run.with_plain_epochs(1).unchecked();
        for collect in [Collect::every_step(), Collect::from_epoch(2, &run).unwrap()] {
            let saved = serde_json::to_string(&collect).unwrap();
            assert_eq!(serde_json::from_str::<Collect>(&saved).unwrap(), collect);
        }
    }

    #[test]
    fn steps_are_converted_by_epochs() {
        // Three epochs of 5 steps, and three and a half.
        assert_eq!(converted_steps(15, 5, 9), 27);
        assert_eq!(converted_steps(35, 10, 5), 17);
        let most = usize::MAX;
        assert_eq!(converted_steps(most, 7, 7), most);
        assert_eq!(converted_steps(most, 1, most), most);
        assert_eq!(converted_steps(most, most, 1), 1);
        assert_eq!(converted_steps(3, 0, 5), 3);
    }

    #[test]
    fn the_last_batch_counts_however_small() {
        let run = RunLength::of_items(3, 1000, 128).unwrap();
        assert_eq!(run.steps_per_epoch(), 8);
        assert_eq!(run.total_steps(), 24);
        let run = run.with_gradient_accumulation(3).unwrap();
        assert_eq!(run.steps_per_epoch(), 3);
    }
}
