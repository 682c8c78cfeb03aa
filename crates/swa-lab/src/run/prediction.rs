//! The predictions of networks on images, one by one and together.

use std::cell::RefCell;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::{Device, Int, Tensor};
use swa_core::{
    EnsembleConfig, EnsembleError, EnsembleReport, Logits, PredictionError, Scores,
    evaluate_ensemble,
};
use swa_models::Network;

use super::classifier::ImageNetwork;
use super::evaluate::evaluated_at_once;
use super::predictors::Predictors;
use super::progress::Progress;
use crate::Failure;
use crate::data::{EpochLoader, ImageBatch, Images};

/// Evaluates networks and the ensembles that they make on images, and shows how far it is.
///
/// # Errors
///
/// That of the first network that cannot be made or evaluated, with its name.
pub(crate) fn evaluate_together(
    config: &EnsembleConfig,
    predictors: Predictors<'_>,
    images: &Arc<Images>,
    device: &Device,
    progress: &Progress,
) -> Result<EnsembleReport, Failure> {
    let Predictors {
        names, networks, ..
    } = predictors;
    let loader = EpochLoader::evaluation(images.clone(), evaluated_at_once(images), device)?;
    let progress = RefCell::new(progress.clone());
    let mut member = 0;
    let begun = || {
        member += 1;
        let label = format!("testing {member} of {}", names.len());
        progress.borrow_mut().begin(&label, images.len());
        loader.iter()
    };
    let report = evaluate_ensemble(config, networks, begun, |network: &Network, batch| {
        let predicted = predict(network, batch);
        progress.borrow_mut().advance(predicted.1.dims()[0]);
        predicted
    });
    progress.borrow_mut().end();
    report.map_err(|error| named(error, &names))
}

/// The error with the name of the network that it is about, in the place of its number.
fn named(error: EnsembleError, names: &[String]) -> Failure {
    let name = |member: usize| names.get(member - 1).map_or("", String::as_str);
    match error {
        // Which says its file itself.
        EnsembleError::Load { source, .. } => source,
        EnsembleError::Member {
            member,
            source: PredictionError::NotFinite { item, class, value },
        } => format!(
            "{}: its logit of image {item} (counted from 0) for class {class} is {value}, since its weights have \
             diverged or were sampled at too large a scale: leave it out with --leave-out-not-finite",
            name(member)
        )
        .into(),
        EnsembleError::Member { member, source } => format!("{}: {source}", name(member)).into(),
        error => error.into(),
    }
}

/// Scores of a network whose logits are divided by a temperature.
pub(crate) struct Tempered {
    /// The temperature.
    pub temperature: f64,
    /// The scores on other images than those that it is fitted on.
    pub scores: Scores,
}

impl Tempered {
    /// Fits the temperature of `network` on images that are `held_out` of its training, and scores it on `images`.
    ///
    /// # Errors
    ///
    /// If a logit is not finite, or images cannot be loaded.
    pub(crate) fn of(
        network: &Network,
        held_out: &Arc<Images>,
        images: &Arc<Images>,
        bins: usize,
        device: &Device,
    ) -> Result<Self, Failure> {
        let logits = |images: &Arc<Images>| -> Result<Logits, Failure> {
            let at_once = evaluated_at_once(images);
            let loader = EpochLoader::evaluation(images.clone(), at_once, device)?;
            Ok(Logits::of(network, loader.iter(), predict)?)
        };
        let temperature = logits(held_out)?.temperature();
        let tempered = logits(images)?.with_temperature(temperature)?;
        Ok(Self {
            temperature,
            scores: tempered.softmax().scores(bins)?,
        })
    }
}

fn predict(network: &Network, batch: ImageBatch) -> (Tensor<2>, Tensor<1, Int>) {
    (network.logits(batch.images), batch.labels)
}
