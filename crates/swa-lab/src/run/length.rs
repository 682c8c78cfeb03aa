//! A run that is made longer.

use swa_train::RunLength;

use super::config::RunConfig;
use super::method::MethodSettings;
use crate::Failure;
use crate::data::Position;

impl RunConfig {
    /// The learning rates from `done` on, in words, if the run that `began`, with so many steps in an epoch, goes on from there to
    /// another number of epochs.
    ///
    /// # Errors
    ///
    /// If more epochs are done, or they would have had other learning rates: it would not be the run
    /// of that length.
    pub fn lengthened(
        &self,
        began: &Self,
        done: Position,
        steps_per_epoch: usize,
    ) -> Result<String, Failure> {
        let (before, now) = (began.epochs, self.epochs);
        let begun = done.epoch + usize::from(done.batches > 0);
        if now < begun {
            return Err(format!(
                "--epochs must be at least {begun}, the number of epochs that the run has begun, not {now}"
            )
            .into());
        }
        let rates = |run: &Self| run.rates(RunLength::new(run.epochs, steps_per_epoch)?);
        let mut begun_steps = rates(self)?
            .zip(rates(began)?)
            .take(begun * steps_per_epoch);
        if begun_steps.any(|(now, before)| now != before) {
            return Err(format!(
                "--epochs cannot be {now} for a run that was begun with {before}: the learning rate of \
                 {} depends on the length of the run, and in the {begun} epochs so far it was \
                 another than in a run of {now}. Leave --epochs out, or start a run in another folder \
                 with --out",
                match self.method {
                    MethodSettings::Sgd => "plain SGD".to_owned(),
                    method => format!("the method {}", method.method()),
                }
            )
            .into());
        }
        let last_step = now * steps_per_epoch - 1;
        let mut rates = rates(self)?.skip(last_step.min(done.epoch * steps_per_epoch));
        let next = rates.next();
        let rate = match (&self.method, next, rates.last().or(next)) {
            (MethodSettings::Snapshot(_) | MethodSettings::Fge(_), _, _) => {
                "goes in cycles".to_owned()
            }
            (_, Some(next), Some(last)) if next != last => format!("goes from {next} to {last}"),
            (_, _, last) => format!("stays at {}", last.unwrap_or_default()),
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
            .lengthened(&began, done, 3)
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

    #[test]
    fn a_run_in_cycles_is_as_long_as_it_began() {
        // Of 36 steps, cycles have 8, and of 27 they have 6.
        let snapshot = "--method snapshot --epochs 9";
        let error = lengthened(snapshot, 12, after(1)).unwrap_err();
        assert!(error.contains("the method snapshot depends"), "{error}");
        let words = lengthened(snapshot, 12, after(0)).unwrap();
        assert!(words.ends_with("goes in cycles."), "{words}");
        // The first half of plain SGD is the same.
        lengthened("--method fge --epochs 10", 20, after(6)).unwrap();
        lengthened("--method fge --epochs 10", 20, after(7)).unwrap_err();
    }
}
