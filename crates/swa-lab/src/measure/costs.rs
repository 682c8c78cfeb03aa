//! The costs of averaging with a network on a device, beside those of training and inference.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::tensor::Device;
use swa_core::{
    Average, EqualWeights, Exponential, ReestimationConfig, Role, RuleConfig, Weights,
    reestimate_batch_norm,
};
use swa_models::Network;
use swa_train::{Collect, RunLength, SwaConfig};

use super::launches::launches;
use super::{LEARNING_RATE, Spread, by_turns_once_settled, images, learner, seconds_on, step, swa};
use crate::Failure;
use crate::data::{EpochLoader, ImageBatch, Images};
use crate::run::classifier::Classifier;

/// Enough batches that the first, which is passed twice, hardly counts.
const REESTIMATION_BATCHES: usize = 16;

/// The decay of the exponential average that is timed.
const DECAY: f64 = 0.999;

/// The costs of averaging. Spreads are over rounds, in which everything takes turns.
#[derive(Debug)]
pub struct Costs {
    /// The images a second of steps without the hook: the median.
    pub images_per_second: f64,
    /// Such a step, in milliseconds.
    pub step: Spread,
    /// The time of a step with SWA, which collects once an epoch of CIFAR-10, divided by that of a bare step.
    pub swa: Spread,
    /// The same of EMA, which averages at every step.
    pub ema: Spread,
    /// An update of SWA's average, in milliseconds.
    pub update: Spread,
    /// An update of an exponential average, in milliseconds.
    pub ema_update: Spread,
    /// The number of kernels that an update of SWA's average launches, where the device tells.
    pub update_launches: Option<usize>,
    /// Inference, in milliseconds a batch.
    pub inference: Spread,
    /// Re-estimating BatchNorm, in milliseconds a batch, if the network has any.
    pub reestimation: Option<Spread>,
    /// The time of re-estimating BatchNorm, divided by that of inference.
    pub reestimation_ratio: Option<Spread>,
    /// The bytes that the device holds for training without the hook, where it tells.
    pub training_bytes: Option<u64>,
}

impl Costs {
    /// Times `network`, which is on `device` with autodiff, in so many rounds of steps of `batch_size` images.
    ///
    /// # Errors
    ///
    /// If it cannot be averaged there.
    pub fn of(
        network: Network,
        device: &Device,
        batch_size: usize,
        rounds: usize,
    ) -> Result<Self, Failure> {
        let images = images(batch_size);
        let batches = batches(&images, batch_size, device)?;
        let batch = batches.first().ok_or("no images")?;
        // An earlier network's memory is not this one's.
        device.memory_cleanup();

        // Of CIFAR-10.
        let batches_per_epoch = 50_000_usize.div_ceil(batch_size);
        let run = RunLength::new(1, batches_per_epoch)?;
        let every_step =
            SwaConfig::new(Collect::from_step(1, &run)?).with_rule(RuleConfig::exponential(DECAY));
        let inference = network.valid();
        let has_batch_norm = {
            let weights = Weights::of(&inference)?;
            let mut parameters = weights.layout().parameters().iter();
            parameters.any(|parameter| parameter.role == Role::RunningStatistic)
        };
        let collected = network.clone();
        // This model has its own parameters: a graph can be used for one backward pass only.
        let hooked = network.valid().train();
        let mut bare = learner(Classifier::new(network, Arc::default()), LEARNING_RATE);
        for _ in 0..2 {
            step(&mut bare, batch);
        }
        let usage = device.memory_pool_usage();
        let training_bytes = usage.map(|usage| usage.bytes_reserved);

        let hooked = swa(hooked, every_step, &images, batch_size, device)?;
        let mut hooked = learner(hooked, LEARNING_RATE);
        let mut average = Average::new(&collected, EqualWeights)?;
        let mut ema = Average::new(&collected, Exponential::new(DECAY)?)?;
        for _ in 0..2 {
            average.update_non_blocking(&collected)?;
            ema.update_non_blocking(&collected)?;
        }
        let mut failure = None;
        let update_launches = launches(device, || {
            failure = average.update_non_blocking(&collected).err();
        });
        failure.map_or(Ok(()), Err)?;

        let plain = batch.images.clone().inner();
        let (mut failure, mut ema_failure) = (None, None);
        let mut update = || {
            let updated = average.update_non_blocking(&collected);
            failure = updated.err().or(failure.take());
        };
        let mut ema_update = || {
            let updated = ema.update_non_blocking(&collected);
            ema_failure = updated.err().or(ema_failure.take());
        };
        let infer = || {
            for _ in 0..REESTIMATION_BATCHES {
                inference.forward(plain.clone());
            }
        };
        let reestimate = || {
            let batches = std::iter::repeat_n(batch.images.clone(), REESTIMATION_BATCHES);
            let config = ReestimationConfig::new();
            let count = |model: &Network, images| {
                model.forward(images);
                batch_size
            };
            drop(reestimate_batch_norm(&inference, &config, batches, count));
        };
        let [
            bare,
            ema_steps,
            updates,
            ema_updates,
            inference,
            reestimation,
        ] = by_turns_once_settled(
            rounds,
            [
                &mut || step(&mut bare, batch).total(),
                &mut || step(&mut hooked, batch).total(),
                &mut || seconds_on(device, &mut update),
                &mut || seconds_on(device, &mut ema_update),
                &mut || seconds_on(device, infer),
                &mut || seconds_on(device, reestimate),
            ],
        );
        average.check()?;
        ema.check()?;
        failure.or(ema_failure).map_or(Ok(()), Err)?;
        hooked.model().failure().map_or(Ok(()), Err)?;

        let milliseconds = |times: &[f64]| Spread::of(times.iter().map(|it| 1e3 * it));
        let a_batch = |times: &[f64]| {
            Spread::of(
                times
                    .iter()
                    .map(|it| 1e3 * it / REESTIMATION_BATCHES as f64),
            )
        };
        let share = 1.0 / batches_per_epoch as f64;
        let swa = bare.iter().zip(&updates);
        let swa = Spread::of(swa.map(|(bare, update)| 1.0 + share * update / bare));
        let (reestimation, reestimation_ratio) = if has_batch_norm {
            let ratio = Spread::of_ratios(&reestimation, &inference);
            (Some(a_batch(&reestimation)), Some(ratio))
        } else {
            (None, None)
        };
        Ok(Self {
            images_per_second: Spread::of(bare.iter().map(|it| batch_size as f64 / it)).median,
            step: milliseconds(&bare),
            swa,
            ema: Spread::of_ratios(&ema_steps, &bare),
            update: milliseconds(&updates),
            ema_update: milliseconds(&ema_updates),
            update_launches,
            inference: a_batch(&inference),
            reestimation,
            reestimation_ratio,
            training_bytes,
        })
    }
}

/// All batches, on the device with autodiff, as training takes them.
pub(super) fn batches(
    images: &Arc<Images>,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<ImageBatch>, Failure> {
    let loader = EpochLoader::evaluation(images.clone(), batch_size, &device.clone().autodiff())?;
    Ok(loader.iter().collect::<Result<_, _>>()?)
}
