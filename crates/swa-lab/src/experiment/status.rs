//! `cifar experiment status`: what is done, what runs, what is left, and for how long.

use std::collections::HashMap;
use std::path::Path;

use super::data_set::DataSet;
use super::directory::ExperimentDirectory;
use super::plan::{Plan, PlannedRun, epoch_after};
use super::record::{Method, PredictingModels};
use super::results_file::Records;
use crate::Failure;
use crate::output::say;
use crate::run::config::EvaluateOn;
use crate::run::time_limit::TimeLimit;

/// Shows the state of the experiment in `folder`.
///
/// # Errors
///
/// If there is no experiment, or its files cannot be read.
pub fn show(folder: &Path) -> Result<(), Failure> {
    let (directory, plan) = ExperimentDirectory::open(folder)?;
    let runs = plan.runs()?;
    let records = directory.results().read()?;
    let running = directory.runs_in_use_for();

    let width = runs.iter().map(|run| run.name.len()).max().unwrap_or(0);
    say(format!("{:width$}  {:>10}  state", "run", "epochs"));
    for run in &runs {
        let done = epochs_done(run, &records);
        let state = match (records.run(&run.name), &running) {
            (Some(_), _) => format!("done: {}", result(&plan, run, &records)),
            (None, Some(name)) if *name == run.name => "running".to_owned(),
            _ if done > 0 => "unfinished".to_owned(),
            _ => "left".to_owned(),
        };
        let epochs = format!("{done} of {}", run.config.epochs);
        say(format!("{:width$}  {epochs:>10}  {state}", run.name));
    }
    let finished = runs.iter().filter(|run| records.run(&run.name).is_some());
    say(format!(
        "\n{} of {} runs done, {}",
        finished.count(),
        runs.len(),
        time_left(&runs, &records)
    ));
    Ok(())
}

/// The time that is left, in words.
pub(super) fn time_left(runs: &[PlannedRun], records: &Records) -> String {
    Estimate::of(runs, records).text()
}

/// Tells whether the next epoch of a run fits into the time that is left, if that is limited. One of a network that was not
/// measured does if there is any.
pub(super) fn has_time_for(
    limit: Option<TimeLimit>,
    run: &PlannedRun,
    runs: &[PlannedRun],
    records: &Records,
) -> bool {
    let Some(limit) = limit else {
        return true;
    };
    let next = Measured::of(runs, records).seconds(run, epochs_done(run, records) + 1);
    let left = 60.0 * limit.minutes_left();
    left > 0.0 && next.unwrap_or(0.0) <= left
}

/// The number of a run's epochs that are over.
fn epochs_done(run: &PlannedRun, records: &Records) -> usize {
    let epochs = records.of(&run.name).map(|evaluation| evaluation.epoch);
    epochs.max().unwrap_or(0)
}

/// The result of a run, in words.
pub(super) fn result(plan: &Plan, run: &PlannedRun, records: &Records) -> String {
    let images = match plan.images.evaluate_on {
        EvaluateOn::Test => "test",
        EvaluateOn::Validation => "validation",
    };
    let at = |epoch: usize| records.of(&run.name).find(|row| row.epoch == epoch);
    let percent = |accuracy: Option<f64>| {
        accuracy.map_or("?".to_owned(), |accuracy| format!("{accuracy:.2} %"))
    };
    let together = |models: PredictingModels| {
        let predictions = records.predictions(&run.name, models);
        predictions.and_then(|it| it.members.last()).map_or_else(
            || format!("{images} accuracy ?"),
            |last| {
                let count = predictions.map_or(0, |it| it.members.len());
                let accuracy = percent(Some(last.ensemble.accuracy));
                format!("{images} accuracy {accuracy} by {count} networks")
            },
        )
    };
    let last = at(run.config.epochs);
    match run.method {
        Method::Sgd => {
            let live = last.map(|row| row.live_test_accuracy);
            format!("{images} accuracy {}", percent(live))
        }
        Method::Ema => {
            let average = last.and_then(|row| row.swa_test_accuracy);
            format!("{images} accuracy {}", percent(average))
        }
        Method::Snapshot | Method::Fge => together(PredictingModels::Members),
        Method::Swa | Method::Swag => {
            let accuracies = plan.swa_budgets.iter().map(|budgets| {
                let row = at(epoch_after(*budgets, run.budget));
                let accuracy = percent(row.and_then(|row| row.swa_test_accuracy));
                let plural = if *budgets == 1.0 { "" } else { "s" };
                format!("{accuracy} after {budgets} budget{plural}")
            });
            let accuracies: Vec<String> = accuracies.collect();
            let averaged = format!("{images} accuracy {}", accuracies.join(", "));
            if run.method == Method::Swag {
                format!(
                    "{averaged}; samples: {}",
                    together(PredictingModels::Samples)
                )
            } else {
                averaged
            }
        }
    }
}

/// The time that is left, estimated from the epochs that were measured.
#[derive(Debug, PartialEq)]
struct Estimate {
    /// The number of runs that are not finished.
    runs: usize,
    /// The seconds left for the networks that were measured.
    seconds: f64,
    /// The networks of which no epoch was measured.
    unknown: Vec<String>,
}

/// The kind of an epoch: its data set, its network, and if it has an average, whether that is of every step, which is
/// another work than one that is re-estimated after an epoch.
type Kind = (DataSet, String, Option<bool>);

/// The epochs that were measured.
struct Measured(HashMap<Kind, (f64, usize)>);

impl Measured {
    fn of(runs: &[PlannedRun], records: &Records) -> Self {
        let mut measured: HashMap<_, (f64, usize)> = HashMap::new();
        for run in runs {
            for row in records.of(&run.name) {
                let sum = measured
                    .entry(Self::kind(run, row.averaged > 0))
                    .or_default();
                sum.0 += row.seconds;
                sum.1 += 1;
            }
        }
        Self(measured)
    }

    fn kind(run: &PlannedRun, averaged: bool) -> Kind {
        let average = averaged.then_some(run.method == Method::Ema);
        (run.data_set, run.config.model.clone(), average)
    }

    /// The mean seconds of an epoch of a run, if there is one like it.
    fn seconds(&self, run: &PlannedRun, epoch: usize) -> Option<f64> {
        let from = run.config.method.averages_from();
        let averaged = from.is_some_and(|from| epoch >= from);
        let sum = self.0.get(&Self::kind(run, averaged));
        // Without a better number, an epoch with an average counts as long as one without.
        let sum = sum.or_else(|| self.0.get(&Self::kind(run, false)))?;
        Some(sum.0 / sum.1 as f64)
    }
}

impl Estimate {
    fn of(runs: &[PlannedRun], records: &Records) -> Self {
        let measured = Measured::of(runs, records);
        // The predictions of a run take as long as those of another seed's.
        let predictions = |run: &PlannedRun| {
            let alike = runs.iter().filter(|other| {
                let of = |run: &PlannedRun| (run.data_set, run.config.model.clone(), run.method);
                of(other) == of(run) && records.run(&other.name).is_some()
            });
            let mut seconds = alike.map(|other| {
                let of_run = records.predictions_of(&other.name).into_iter();
                of_run.map(|predictions| predictions.seconds).sum::<f64>()
            });
            seconds.next_back().unwrap_or(0.0)
        };
        let mut estimate = Self {
            runs: 0,
            seconds: 0.0,
            unknown: Vec::new(),
        };
        for run in runs.iter().filter(|run| records.run(&run.name).is_none()) {
            estimate.runs += 1;
            estimate.seconds += predictions(run);
            let taken_over = match (&run.shares, run.method) {
                (Some((_, epochs)), Method::Sgd) => *epochs,
                _ => 0,
            };
            for epoch in epochs_done(run, records).max(taken_over) + 1..=run.config.epochs {
                match measured.seconds(run, epoch) {
                    Some(seconds) => estimate.seconds += seconds,
                    None => {
                        let name = format!("{} on {}", run.config.model, run.data_set);
                        if !estimate.unknown.contains(&name) {
                            estimate.unknown.push(name);
                        }
                    }
                }
            }
        }
        estimate
    }

    fn text(&self) -> String {
        let known = format!("about {} left", duration(self.seconds));
        match self.unknown.as_slice() {
            [] if self.runs == 0 => "nothing left".to_owned(),
            [] => known,
            unknown => format!("{known} without {}, not yet measured", unknown.join(", ")),
        }
    }
}

/// A duration in the units that one would say it in.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..60 => format!("{minutes} min"),
        60..2880 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} days {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::tests::evaluation_record;
    use crate::experiment::record::{EvaluationRecord, Record};

    fn measured(run: &str, epoch: usize, averaged: usize, seconds: f64) -> Record {
        Record::Evaluation(EvaluationRecord {
            averaged,
            seconds,
            ..evaluation_record(run, epoch)
        })
    }

    #[test]
    fn the_time_left_is_the_epochs_left_at_their_measured_seconds() {
        let plan = Plan::parse(
            &Plan::text("small").unwrap(),
            "small",
            &["seeds=[1]".to_owned()],
        );
        let runs = plan.unwrap().on_synthetic_images().runs().unwrap();
        let mut records = Records::default();
        let none = Estimate::of(&runs, &records);
        assert_eq!((none.seconds, none.unknown.len()), (0.0, 2));

        // VGG16-BN: 36 epochs of SWA, averaged from 18 on, and 24 of SGD, of which 10 are taken over.
        let vgg = &runs[0].name;
        records.0 = vec![measured(vgg, 1, 0, 4.0), measured(vgg, 2, 0, 6.0)];
        let estimate = Estimate::of(&runs, &records);
        assert_eq!(estimate.unknown, ["preresnet-14 on synthetic"]);
        // 34 + 14 epochs of 5 seconds.
        assert_eq!(estimate.seconds, 240.0);
        assert_eq!(
            estimate.text(),
            "about 4 min left without preresnet-14 on synthetic, not yet measured"
        );
        // 16 epochs left to the one that is measured, with an average 8 seconds: 18 of 5 and 14 of 5,
        // less the averaged one, then 18 of 8.
        records
            .0
            .extend((3..=17).map(|epoch| measured(vgg, epoch, 0, 5.0)));
        records.0.push(measured(vgg, 18, 1, 8.0));
        let estimate = Estimate::of(&runs, &records);
        assert_eq!(estimate.seconds, 18.0 * 8.0 + 14.0 * 5.0);
    }

    #[test]
    fn durations_are_said_in_units_of_their_size() {
        let said = [12.4, 90.0, 3_600.0, 9_000.0, 400_000.0].map(duration);
        assert_eq!(
            said,
            ["12 s", "2 min", "1 h 0 min", "2 h 30 min", "4 days 15 h"]
        );
    }

    #[test]
    fn the_predictions_of_another_seed_are_a_part_of_the_time_left() {
        let settings = ["seeds=[1, 2]", "methods=[\"fge\"]"].map(str::to_owned);
        let plan = Plan::parse(&Plan::text("small").unwrap(), "small", &settings).unwrap();
        let mut plan = plan.on_synthetic_images();
        plan.models.truncate(1);
        let runs = plan.runs().unwrap();
        let [first, second] = [&runs[0].name, &runs[1].name];
        let mut records = Records::default();
        let epochs = |run: &'static str| (1..=24).map(move |epoch| measured(run, epoch, 0, 2.0));
        assert_eq!(first, "synthetic-vgg16-bn-fge-seed1");
        records.0.extend(epochs("synthetic-vgg16-bn-fge-seed1"));
        // All epochs of the first are over, and not its predictions: it is not done.
        let estimate = Estimate::of(&runs, &records);
        assert_eq!((estimate.runs, estimate.seconds), (2, 48.0));
        let predictions = r#"{"record":"predictions","run":"RUN","models":"members","temperature":null,
            "images":1,"members":[],"reliability":[],"seconds":30.0}"#;
        let run = r#"{"record":"run","run":"RUN","data_set":"synthetic","model":"vgg16-bn","width_divisor":8,
            "method":"fge","budget":24,"epochs":24,"swa_start":null,"swa_lr":null,"batch_size":64,"lr":0.02,
            "momentum":0.9,"weight_decay":5e-4,"seed":1,"train_images":1,"test_images":1,"evaluate_on":"test",
            "shared_epochs":0,"device":"flex","machine":"","command":"","version":"","burn_version":"",
            "started":"","finished":"","peak_memory_bytes":null}"#;
        for record in [predictions, run] {
            let record = serde_json::from_str(&record.replace("RUN", first));
            records.0.push(record.unwrap());
        }
        // 24 epochs of the second of 2 seconds, and predictions as long as the first's.
        let left = |records: &Records| {
            let estimate = Estimate::of(&runs, records);
            (estimate.runs, estimate.seconds)
        };
        assert_eq!(left(&records), (1, 48.0 + 30.0));
        // Predictions that were stopped, and made again.
        let stopped = predictions.replace("RUN", first).replace("30.0", "20.0");
        records.0.insert(0, serde_json::from_str(&stopped).unwrap());
        assert_eq!(left(&records), (1, 48.0 + 30.0));
        assert_eq!(epochs_done(&runs[1], &records), 0, "{second}");
    }
}
