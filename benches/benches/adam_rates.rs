//! The SWA learning rate to take with AdamW.
//!
//! PreResNet-8 at half its width is trained on the built-in images for twelve epochs of 63 batches of 64, by AdamW with Burn's
//! defaults and a cosine from 5e-3 to zero. With SWA, the cosine is left after epoch 8 for a rate that stays, within one epoch, and the
//! weights after epochs 9 to 12 are averaged. Test accuracies in %, the mean and the sample standard deviation over three seeds.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::{Learner, LearnerModel, TrainStep};
use burn_swa_benches::rounds;
use swa_lab::data::{
    Augmentation, DataSource, EpochLoader, ImageBatch, ImageSet, Padding, Synthetic,
};
use swa_lab::run::classifier::Classifier;
use swa_lab::run::evaluate::evaluate;
use swa_models::{PreResNet, PreResNetConfig};
use swa_train::{Collect, RunLength, SwaConfig, SwaLrSchedulerConfig};

const RATE: f64 = 5e-3;
const BATCH_SIZE: usize = 64;
const EPOCHS: usize = 12;
const SWA_START: usize = 9;
const SEEDS: usize = 3;
const AUGMENTATION: Augmentation = Augmentation::CropAndFlip(Padding::Zero);

fn main() {
    let data = DataSource::Synthetic(Synthetic::default());
    let data = data.load(&|_, _| {}).expect("built-in images");
    let run = RunLength::of_items(EPOCHS, data.train.len(), BATCH_SIZE).expect("a length");
    let collect = Collect::from_epoch(SWA_START, &run).expect("a start");
    let cosine = || -> ModuleLrScheduler {
        let config = CosineAnnealingLrSchedulerConfig::new(RATE, run.total_steps());
        config.init().expect("a schedule")
    };
    let seeds = 1..=rounds(SEEDS) as u64;

    let alone = seeds.clone().map(|seed| {
        let live = train(classifier(seed), cosine(), &data, seed);
        accuracy(live.into_network(), &data)
    });
    println!("rate from epoch {SWA_START} on      live           SWA");
    println!(
        "the cosine, to zero  {}             -",
        over_seeds(alone.collect())
    );
    for part in [1.0, 0.5, 0.2, 0.1, 0.05] {
        let accuracies = seeds.clone().map(|seed| {
            let swa = SwaConfig::new(collect).init(classifier(seed), Arc::new(loader(&data, seed)));
            let config = SwaLrSchedulerConfig::from_collect(&collect, part * RATE, 1);
            let schedule = config.and_then(|config| config.init(cosine()));
            let schedule = schedule.expect("a schedule");
            let trained = train(swa.expect("a network"), schedule.into(), &data, seed);
            let averaged = trained.averaged_model().expect("an average");
            let live = accuracy(trained.into_live().into_network(), &data);
            (live, accuracy(averaged.into_network(), &data))
        });
        let (live, averaged) = accuracies.unzip();
        println!(
            "{part:4} of {RATE:e}         {}  {}",
            over_seeds(live),
            over_seeds(averaged)
        );
    }
}

fn classifier(seed: u64) -> Classifier<PreResNet> {
    let device = Device::flex().autodiff();
    device.seed(seed);
    let config = PreResNetConfig::new(8).with_width_divisor(2);
    let network = config.init(&device).expect("a network of the paper");
    Classifier::new(network, Arc::default())
}

fn loader(data: &ImageSet, seed: u64) -> EpochLoader {
    let device = Device::flex().autodiff();
    let images = data.train.clone();
    EpochLoader::training(images, BATCH_SIZE, AUGMENTATION, seed, &device).expect("images")
}

fn train<M: LearnerModel + TrainStep<Input = ImageBatch>>(
    model: M,
    schedule: ModuleLrScheduler,
    data: &ImageSet,
    seed: u64,
) -> M {
    let mut learner = Learner::new(model, AdamWConfig::new().init(), schedule);
    let loader = loader(data, seed);
    for _ in 0..rounds(EPOCHS) {
        for batch in loader.iter() {
            let output = learner.train_step(batch.expect("images in memory"));
            learner.lr_step();
            learner.optimizer_step(output.grads);
        }
    }
    learner.model()
}

fn accuracy(network: PreResNet, data: &ImageSet) -> f64 {
    let classes = data.class_names.len();
    let evaluation = evaluate(&network, &data.test, classes, &Device::flex(), |_| {});
    evaluation.expect("images").total.accuracy
}

fn over_seeds(values: Vec<f64>) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (n - 1.0)).sqrt();
    format!("{mean:.2} ± {deviation:.2}")
}
