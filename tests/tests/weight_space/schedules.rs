//! Learning rates in cycles are what the papers' formulas and codes compute, and are collected where they are.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use burn::lr_scheduler::LrScheduler;
use burn_swa_tests::vectors;
use serde::Deserialize;
use swa_train::{CyclicalLrSchedulerConfig, PaperLrSchedulerConfig, RunLength};

#[derive(Debug, Deserialize)]
struct Schedules {
    schedules: Vec<Schedule>,
}

#[derive(Debug, Deserialize)]
struct Schedule {
    #[serde(flatten)]
    kind: Kind,
    /// Some of the steps, counted from 1, and their rates.
    step: Vec<usize>,
    lr: Vec<f64>,
    #[serde(default)]
    collected_after_step: Vec<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", content = "config", rename_all = "snake_case")]
enum Kind {
    SnapshotPaper {
        initial: f64,
        total: usize,
        cycles: usize,
    },
    SnapshotCode {
        initial: f64,
        epochs: usize,
        cycles: usize,
        steps_per_epoch: usize,
    },
    FgePaper {
        alpha1: f64,
        alpha2: f64,
        cycle: usize,
    },
    FgeCode {
        alpha1: f64,
        alpha2: f64,
        cycle_epochs: usize,
        steps_per_epoch: usize,
    },
    SwaCyclical {
        alpha1: f64,
        alpha2: f64,
        cycle: usize,
    },
    CurveTraining {
        base: f64,
        epochs: usize,
    },
}

impl Schedule {
    /// The settings here, and the run that they are for.
    fn config(&self) -> Result<(CyclicalLrSchedulerConfig, RunLength), Box<dyn Error>> {
        let last = self.step.last().copied().unwrap_or(1);
        // A run of whole epochs that is as long as the vectors are.
        let epochs = |steps: usize| RunLength::new(last.div_ceil(steps), steps);
        Ok(match self.kind {
            Kind::SnapshotPaper {
                initial,
                total,
                cycles,
            } => {
                let run = RunLength::new(1, total)?;
                (
                    CyclicalLrSchedulerConfig::snapshot(initial, cycles, &run)?,
                    run,
                )
            }
            Kind::SnapshotCode {
                initial,
                epochs,
                cycles,
                steps_per_epoch,
            } => {
                let run = RunLength::new(epochs, steps_per_epoch)?;
                let config = CyclicalLrSchedulerConfig::snapshot(initial, cycles, &run)?;
                (config.with_begins_at_zero(false), run)
            }
            Kind::FgePaper {
                alpha1,
                alpha2,
                cycle,
            } => {
                let run = epochs(cycle)?;
                (
                    CyclicalLrSchedulerConfig::fge(alpha1, alpha2, 1, &run)?,
                    run,
                )
            }
            Kind::FgeCode {
                alpha1,
                alpha2,
                cycle_epochs,
                steps_per_epoch,
            } => {
                let run = RunLength::new(
                    cycle_epochs.max(last.div_ceil(steps_per_epoch)),
                    steps_per_epoch,
                )?;
                let config = CyclicalLrSchedulerConfig::fge(alpha1, alpha2, cycle_epochs, &run)?;
                (config.with_begins_at_zero(true), run)
            }
            Kind::SwaCyclical {
                alpha1,
                alpha2,
                cycle,
            } => {
                let run = epochs(cycle)?;
                (
                    CyclicalLrSchedulerConfig::swa(alpha1, alpha2, 1, &run)?,
                    run,
                )
            }
            Kind::CurveTraining { .. } => return Err("no cycles".into()),
        })
    }
}

fn near(got: f64, expected: f64, schedule: &Schedule, step: usize) {
    let difference = (got - expected).abs();
    assert!(
        difference <= 1e-12,
        "{:?}, step {step}: {got} instead of {expected}",
        schedule.kind
    );
}

#[test]
fn weight_space_schedules_agree_with_the_papers_and_codes() -> Result<(), Box<dyn Error>> {
    let file = vectors::folder().join("weight_space/lr_schedules.json");
    let Schedules { schedules } = serde_json::from_reader(BufReader::new(File::open(file)?))?;
    let mut cyclical = 0;
    for schedule in &schedules {
        if let Kind::CurveTraining { base, epochs } = schedule.kind {
            // It counts epochs from 1, and the SWA paper's code from 0.
            let run = RunLength::new(epochs, 1)?;
            let rates = PaperLrSchedulerConfig::sgd(base, run).init()?;
            for (epoch, expected) in schedule.step.iter().zip(&schedule.lr) {
                near(rates.lr(*epoch), *expected, schedule, *epoch);
            }
            continue;
        }
        cyclical += 1;
        let (config, run) = schedule.config()?;
        let mut scheduler = config.init()?;
        let mut steps = 0;
        for (step, expected) in schedule.step.iter().zip(&schedule.lr) {
            let mut got = f64::NAN;
            while steps < *step {
                got = scheduler.step();
                steps += 1;
            }
            near(got, *expected, schedule, *step);
        }
        let collect = config.collect(&run)?;
        let listed = &schedule.collected_after_step;
        let last = listed.last().copied().unwrap_or(0);
        let due: Vec<usize> = (1..=last).filter(|step| collect.is_due(*step)).collect();
        assert_eq!(due, *listed, "{:?}", schedule.kind);
    }
    assert!(cyclical > 10 && cyclical < schedules.len());
    Ok(())
}
