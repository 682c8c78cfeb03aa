//! The learning rates of a run, and a run that is made longer.

use swa_train::{Collect, PaperLrScheduler, PaperLrSchedulerConfig, RunLength};

use super::config::RunConfig;
use crate::Failure;
use crate::data::Position;

impl RunConfig {
    /// The paper's schedule for a run of this length.
    ///
    /// # Errors
    ///
    /// If a rate is not positive, or SWA would start after the end.
    pub fn schedule(&self, length: RunLength) -> Result<PaperLrScheduler, Failure> {
        let schedule = match self.swa {
            Some(swa) => {
                let collect = Collect::from_epoch(swa.start, &length)?;
                PaperLrSchedulerConfig::swa(self.sgd.lr, swa.lr, &collect)
            }
            None => PaperLrSchedulerConfig::sgd(self.sgd.lr, length),
        };
        Ok(schedule.init()?)
    }

    /// The number of epochs, of the first `epochs`, until the learning rate is another than in the run `other`.
    ///
    /// # Errors
    ///
    /// Those of [`schedule`](Self::schedule).
    pub(crate) fn epochs_alike(&self, other: &Self, epochs: usize) -> Result<usize, Failure> {
        let (here, there) = (self.by_epoch()?, other.by_epoch()?);
        let alike = (0..epochs).take_while(|&epoch| here.lr(epoch) == there.lr(epoch));
        Ok(alike.count())
    }

    /// The schedule as if an epoch had one step.
    fn by_epoch(&self) -> Result<PaperLrScheduler, Failure> {
        self.schedule(RunLength::new(self.epochs, 1)?)
    }

    /// The learning rates from `done` on, in words, if the run that `began` goes on from there to
    /// another number of epochs.
    ///
    /// # Errors
    ///
    /// If more epochs are done, or they would have had other learning rates: it would not be the run
    /// of that length.
    pub fn lengthened(&self, began: &Self, done: Position) -> Result<String, Failure> {
        let (before, now) = (began.epochs, self.epochs);
        let begun = done.epoch + usize::from(done.batches > 0);
        if now < begun {
            return Err(format!(
                "--epochs must be at least {begun}, the number of epochs that the run has begun, not {now}"
            )
            .into());
        }
        if self.epochs_alike(began, begun)? < begun {
            return Err(format!(
                "--epochs cannot be {now} for a run that was begun with {before}: the learning rate of \
                 plain SGD falls with the length of the run, and in the {begun} epochs so far it was \
                 another than in a run of {now}. Leave --epochs out, or start a run in another folder \
                 with --out"
            )
            .into());
        }
        let schedule = self.by_epoch()?;
        let (next, last) = (schedule.lr(done.epoch), schedule.lr(now.saturating_sub(1)));
        let rate = if next == last {
            format!("stays at {next}")
        } else {
            format!("goes from {next} to {last}")
        };
        Ok(format!(
            "The run now has {now} epochs, not {before}. Its learning rate {rate}."
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::data::Position;
    use crate::run::config::RunConfig;
    use crate::run::given::tests::given;

    fn after(epoch: usize) -> Position {
        Position { epoch, batches: 0 }
    }

    fn lengthened(settings: &str, epochs: usize, done: Position) -> Result<String, String> {
        let began = given(settings).new_run(10).unwrap();
        let longer = RunConfig {
            epochs,
            ..began.clone()
        };
        longer
            .lengthened(&began, done)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn averaging_goes_on_at_its_rate_for_as_long_as_one_likes() {
        let words = lengthened("--epochs 24 --swa-start 18", 36, after(24)).unwrap();
        assert!(
            words.ends_with("36 epochs, not 24. Its learning rate stays at 0.01."),
            "{words}"
        );
        // Before the start the rate still falls, as it would have.
        let words = lengthened("--epochs 24 --swa-start 18", 36, after(4)).unwrap();
        assert!(words.ends_with("goes from 0.1 to 0.01."), "{words}");
    }

    #[test]
    fn plain_sgd_goes_on_while_its_rate_has_not_fallen() {
        let sgd = "--no-swa --epochs 10";
        // Of 10 epochs the first six (t = 0 to 0.5) are at the full rate.
        let words = lengthened(sgd, 20, after(6)).unwrap();
        assert!(words.ends_with("goes from 0.1 to 0.001."), "{words}");
        let error = lengthened(sgd, 20, after(7)).unwrap_err();
        assert!(
            error.contains("the 7 epochs so far it was another"),
            "{error}"
        );
        let within = Position {
            epoch: 6,
            batches: 1,
        };
        lengthened(sgd, 20, within).unwrap_err();
    }

    #[test]
    fn a_run_is_not_made_shorter_than_it_is() {
        let error = lengthened("--epochs 24", 20, after(21)).unwrap_err();
        assert!(error.starts_with("--epochs must be at least 21"), "{error}");
        lengthened("--epochs 24", 20, after(20)).unwrap();
    }
}
