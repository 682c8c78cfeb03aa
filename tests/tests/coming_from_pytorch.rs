//! The lines in the table of `docs/coming-from-pytorch.md` are lines of this file, which compiles.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::LrScheduler;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::{Module, ParamGroup};
use burn::tensor::Device;
use burn::train::{InferenceStep, LearnerModel};
use swa_store::StateDict;
use swa_train::swa_core::{
    Average, AveragingRule, EqualWeights, Exponential, Profile, Weights, post_hoc_coefficients,
    reestimate_batch_norm,
};
use swa_train::{
    Annealing, Collect, ExponentialConfig, Pooling, ReestimationConfig, RuleConfig, RunLength,
    RunningStatistics, Swa, SwaConfig, SwaLrSchedulerConfig, WarmUp,
};

#[derive(Debug)]
struct Recent;

impl AveragingRule for Recent {
    fn weight(&self, updates: usize) -> f64 {
        1.0 / updates.clamp(1, 10) as f64
    }
}

#[test]
fn a_warmed_up_decay_is_as_large_as_timm_says() {
    // "power=2/3 [...] reaches decay factor 0.999 at 31.6K steps, 0.9999 at 1M steps" (timm, `ModelEmaV3`).
    let rule = ExponentialConfig::new(0.9999)
        .with_warm_up(Some(WarmUp::timm()))
        .init()
        .unwrap();
    let decay = |updates| 1.0 - rule.weight(updates);
    assert!((decay(31_600) - 0.999).abs() < 1e-6);
    assert!((decay(1_000_000) - 0.9999).abs() < 1e-9);
    assert!((decay(10_000_000) - 0.9999).abs() < 1e-9);
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn of_a_loop<M: Module + 'static>(
    model: M,
    file: &Path,
    updates: usize,
    batches: Vec<M>,
    forward: impl FnMut(&M, M) -> usize,
) -> Result<M, Box<dyn Error>> {
    let (model, _left) = StateDict::read(file)?.load_partly(model)?;
    let model = StateDict::read(file)?.without(&["fc"]).load(model)?;
    let weights = Weights::of(&model)?;
    let (start, end, t) = (
        weights.clone(),
        Weights::of(&weights.put_into(&model)?)?,
        0.5,
    );
    let _ = start.lerp(&end, t)?;
    let _ = Average::new(&model, Recent)?.with_running_statistics_averaged();
    let _ = Average::new(&model, Exponential::new(0.999)?)?.with_device(&Device::flex());
    let mut average = Average::new(&model, EqualWeights)?;
    average.update(&model)?;
    average = average.with_initial_average(&StateDict::read(file)?.load(model)?, updates)?;
    assert!(average.updates() > 0);
    for config in [
        ExponentialConfig::new(0.9999)
            .with_warm_up(Some(WarmUp::Power {
                gamma: 10.0,
                power: 1.0,
            }))
            .with_min_decay(Some(0.5)),
        ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::Power {
            gamma: 0.1,
            power: 2.0 / 3.0,
        })),
        ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::Power {
            gamma: 1.0,
            power: 1.0,
        })),
        ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::NumUpdates)),
        ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::Debiased)),
        ExponentialConfig::new(0.9999).with_warm_up(Some(WarmUp::Saturating { tau: 2000.0 })),
        ExponentialConfig::of_half_life(100.0)?,
        ExponentialConfig::of_run_fraction(0.05),
    ] {
        average = average.with_rule(config.init()?);
        let _ = RuleConfig::Exponential(config);
    }
    let halved = |updates: f64| -> Result<ExponentialConfig, Box<dyn Error>> {
        Ok(ExponentialConfig::of_half_life(updates)?
            .with_warm_up(Some(WarmUp::HalfLife { fraction: 0.09 })))
    };
    let _ = halved(1000.0)?.init()?;
    let _ = RuleConfig::PowerFunction { width: 0.10 };
    let _ = RuleConfig::PowerFunction { width: 0.05 };
    let snapshots = [
        Profile::of_width(0.05, updates)?,
        Profile::of_width(0.1, updates)?,
    ];
    let target = Profile::of_width(0.07, updates)?;
    let _ = post_hoc_coefficients(&snapshots, target)?;
    let model = average.model()?;
    StateDict::of(&average.model()?)
        .averaged(average.updates())
        .write(file)?;
    let config = ReestimationConfig::new();
    let (model, _report) = reestimate_batch_norm(&model, &config, batches, forward)?;
    Ok(model)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn of_a_learner<M>(
    model: M,
    train_loader: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
    run: RunLength,
    (averaged, updates): (M, usize),
) -> Result<M, Box<dyn Error>>
where
    M: LearnerModel,
    <M as InferenceStep>::Input: Clone,
{
    let (epoch, n) = (161, 2);
    let collect = Collect::from_epoch(epoch, &run)?.every_epochs(n)?;
    let _ = Collect::from_step(epoch, &run)?.every_steps(n)?;
    let k = 100;
    let _ = Collect::from_step(k + 1, &run)?;
    let _ = Collect::from_step(101, &run)?.every_steps(10)?;
    let _ = SwaConfig::new(Collect::from_fraction(0.8, &run)?);
    let _ = SwaConfig::new(Collect::from_epoch(epoch, &run)?);
    let _ = SwaConfig::new(Collect::from_epoch(5, &run)?);
    let _ = SwaConfig::ema(0.999).with_rule(RuleConfig::exponential(0.999));
    let _ = SwaConfig::ema(0.9999).with_running_statistics(RunningStatistics::Latest);
    let _ =
        SwaConfig::new(Collect::every_step()).with_running_statistics(RunningStatistics::Averaged);
    let reestimation = ReestimationConfig::new().with_pooling(Pooling::Equal);
    let _ = SwaConfig::new(collect)
        .with_running_statistics(RunningStatistics::Reestimated(reestimation));
    let swa: Swa<M> = SwaConfig::new(collect).init(model, train_loader)?;
    let swa = swa.with_rule(Recent).with_device(&Device::flex());
    let swa = swa.with_initial_average(&averaged, updates)?;
    Ok(swa.averaged_model()?)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn of_a_schedule(
    before: impl LrScheduler + Clone + 'static,
    collect: Collect,
) -> Result<impl LrScheduler, Box<dyn Error>> {
    let config = SwaLrSchedulerConfig::from_collect(&collect, 0.05, 10)?;
    let config = config.with_annealing(Annealing::Linear);
    Ok(config.init(before)?)
}

#[allow(dead_code, reason = "that it compiles is the test")]
fn of_a_cosine(
    collect: Collect,
    run: RunLength,
    group: ParamGroup,
) -> Result<ModuleLrScheduler, Box<dyn Error>> {
    let config = SwaLrSchedulerConfig::from_collect(&collect, 0.05, 10)?;
    let steps = run.total_steps();
    let cosine = CosineAnnealingLrSchedulerConfig::new(0.1, steps);
    let swalr = config.init(cosine.init()?)?;
    let swalr_of_group = config.init(0.01)?;
    Ok(ModuleLrScheduler::new(swalr).with_group(group, swalr_of_group))
}

#[test]
fn every_line_of_the_table_is_a_line_of_this_file() {
    let page = include_str!("../../docs/coming-from-pytorch.md");
    let table = page
        .split("\n## ")
        .find(|part| part.starts_with("Line by line"));
    let rows = table.unwrap().lines().filter(|line| line.starts_with("| "));
    // Line breaks are rustfmt's choice.
    let joined = |text: &str| -> String {
        let text: String = text.chars().filter(|char| !char.is_whitespace()).collect();
        text.replace(",)", ")").replace(",}", "}")
    };
    let here = joined(include_str!("coming_from_pytorch.rs"));
    let mut checked = 0;
    for row in rows {
        let ours = row.split(" | ").nth(1).unwrap();
        // Every second part is between backticks.
        for code in ours.split('`').skip(1).step_by(2) {
            assert!(here.contains(&joined(code)), "`{code}` is not in this file");
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} lines found in the table");
}
