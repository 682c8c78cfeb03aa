//! The predictions of a finished run's models, as its records have them.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use swa_core::{EnsembleConfig, Scores};

use super::record::{
    MemberRecord, Method, PredictingModels, PredictionsRecord, ReliabilityRecord, ScoresRecord,
};
use crate::Failure;
use crate::data::{ImageSet, Images};
use crate::output::note;
use crate::run::interruption::Interruption;
use crate::run::prediction::{Tempered, evaluate_together};
use crate::run::predictors::{FinishedRun, Predictors, Sampling};
use crate::run::progress::Progress;

/// The number of bins of the calibration error.
const BINS: usize = 15;

/// The predictions that a run's method is judged by, on the images that the run is scored on.
pub(super) struct Predictions<'a> {
    pub(super) run: FinishedRun,
    pub(super) name: &'a str,
    /// The run's images.
    pub(super) images: &'a ImageSet,
    /// Training images to fit a temperature on, if there are any.
    pub(super) held_out: Option<&'a Arc<Images>>,
    pub(super) device: &'a Device,
    /// The interruption that ends them, between two networks.
    pub(super) interruption: &'a Interruption,
}

impl Predictions<'_> {
    /// The records, each of which is made when it is asked for.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<PredictionsRecord, Failure>> {
        use PredictingModels::{Averaged, DiagonalSamples, Live, Members, Samples};

        let models: &[PredictingModels] = match self.run.config.method.method() {
            Method::Sgd => &[Live],
            Method::Swa | Method::Ema => &[Averaged],
            Method::Snapshot | Method::Fge => &[Members],
            Method::Swag => &[Averaged, Samples, DiagonalSamples],
        };
        let records = models.iter().map(|models| self.record(*models));
        let tempered = match (models, self.held_out) {
            ([Live], Some(held_out)) => Some(held_out),
            _ => None,
        };
        records.chain(tempered.into_iter().map(|held_out| self.tempered(held_out)))
    }

    fn predictors(
        &self,
        models: PredictingModels,
        progress: &Progress,
    ) -> Result<Predictors<'_>, Failure> {
        let sampling = Sampling {
            seed: self.run.config.seed,
            ..Sampling::PAPER
        };
        let predictors =
            self.run
                .predictors(models, &sampling, self.images, self.device, progress)?;
        Ok(predictors.unless(|| self.interruption.is_asked()))
    }

    fn record(&self, models: PredictingModels) -> Result<PredictionsRecord, Failure> {
        let began = Instant::now();
        let progress = Progress::of_images();
        let predictors = self.predictors(models, &progress)?;
        let (names, steps) = (predictors.names.clone(), predictors.steps.clone());
        let config = EnsembleConfig::new()
            .with_bins(BINS)
            .with_leave_out_not_finite(models.are_samples());
        let images = &self.images.test;
        let report = evaluate_together(&config, predictors, images, self.device, &progress)?;
        for left_out in &report.left_out {
            note(format!(
                "{}: left out of the ensemble, since a logit is not finite",
                names[left_out - 1]
            ));
        }
        let members = report.members.iter().map(|member| MemberRecord {
            step: steps[member.member - 1],
            alone: scores(&member.alone),
            ensemble: scores(&member.ensemble),
        });
        let last = report.members.last().map(|member| &member.ensemble);
        Ok(PredictionsRecord {
            run: self.name.to_owned(),
            models,
            temperature: None,
            images: images.len(),
            members: members.collect(),
            reliability: last.map(reliability).unwrap_or_default(),
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// The predictions of the live model with a temperature.
    fn tempered(&self, held_out: &Arc<Images>) -> Result<PredictionsRecord, Failure> {
        let began = Instant::now();
        let models = PredictingModels::Live;
        let mut predictors = self.predictors(models, &Progress::of_images())?;
        let network = predictors.networks.next().ok_or("there is no live model")?;
        let images = &self.images.test;
        let tempered = Tempered::of(&network?, held_out, images, BINS, self.device)?;
        Ok(PredictionsRecord {
            run: self.name.to_owned(),
            models,
            temperature: Some(tempered.temperature),
            images: images.len(),
            members: vec![MemberRecord {
                step: None,
                alone: scores(&tempered.scores),
                ensemble: scores(&tempered.scores),
            }],
            reliability: reliability(&tempered.scores),
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

fn scores(scores: &Scores) -> ScoresRecord {
    ScoresRecord {
        accuracy: 100.0 * scores.accuracy,
        nll: scores.nll,
        brier: scores.brier,
        ece: scores.ece,
    }
}

fn reliability(scores: &Scores) -> Vec<ReliabilityRecord> {
    let bins = scores.reliability.iter().map(|bin| ReliabilityRecord {
        lower: bin.lower,
        upper: bin.upper,
        count: bin.count,
        confidence: bin.confidence,
        accuracy: bin.accuracy,
    });
    bins.collect()
}
