//! The cost of a checkpoint with the average in it.
//!
//! VGG16 with BatchNorm on flex, after a step of SGD with momentum: Burn's own checkpointers write the model's file and
//! the optimizer's, of the bare model and of the model in `Swa`, whose file holds the average beside the live weights.
//! **Limit: twice the bare one, in bytes and in time.**
//!
//! There are two times: until all is written to the disk's cache, and until the training goes on. Burn writes in a thread of its
//! own, and first copies everything that it will write. The second time should be the same as for the bare model. It cannot be,
//! since Burn 0.22.1 copies the average too.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::data::dataloader::DataLoader;
use burn::optim::{GradientsParams, ModuleOptimizer, OptimizerRecord, SgdConfig};
use burn::optim::{decay::WeightDecayConfig, momentum::MomentumConfig};
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn::train::checkpoint::{AsyncCheckpointer, Checkpointer, FileCheckpointer};
use burn::train::{LearnerModel, TrainStep};
use burn_swa_benches::rounds;
use swa_lab::data::{EpochLoader, ImageBatch};
use swa_lab::measure::{LEARNING_RATE, Spread, by_turns, images, swa};
use swa_lab::run::classifier::Classifier;
use swa_models::{Vgg, VggConfig};
use swa_train::{Collect, RunLength, SwaConfig};

const ROUNDS: usize = 11;

fn main() {
    let images = images(8);
    let device = Device::flex();
    let loader = EpochLoader::evaluation(images.clone(), 8, &device.clone().autodiff());
    let batch = loader.expect("images").iter().next();
    let batch = batch.expect("a batch").expect("images");

    let bare = Trained::new(Classifier::new(network(), Arc::default()), &batch, 1);
    let run = RunLength::new(1, 3).expect("a run");
    let config = SwaConfig::new(Collect::from_step(1, &run).expect("within the run"));
    let swa = swa(network(), config, &images, 8, &device).expect("a network that can be averaged");
    // After its first two updates: the first shares the model's memory, and the second takes its own.
    let swa = Trained::new(swa, &batch, 2);

    let folder = tempfile::tempdir().expect("a folder");
    let [bare_cost, swa_cost] = by_turns(
        rounds(ROUNDS),
        [&mut || bare.write_checkpoint(folder.path()), &mut || {
            swa.write_checkpoint(folder.path())
        }],
    );
    let megabytes = |costs: &[Cost]| costs[0].bytes as f64 / 1e6;
    println!(
        "VGG16-BN, a checkpoint with SWA {:.0} MB, bare {:.0} MB: {:.2} times the bytes, limit 2",
        megabytes(&swa_cost),
        megabytes(&bare_cost),
        megabytes(&swa_cost) / megabytes(&bare_cost),
    );
    let report = |name: &str, of: fn(&Cost) -> f64| {
        let seconds = |costs: &[Cost]| costs.iter().map(of).collect::<Vec<f64>>();
        let (swa, bare) = (seconds(&swa_cost), seconds(&bare_cost));
        let median = |seconds: &[f64]| 1e3 * Spread::of(seconds.iter().copied()).median;
        println!(
            "{name}: with SWA {:.0} ms, bare {:.0} ms: {:.2} times, limit 2",
            median(&swa),
            median(&bare),
            Spread::of_ratios(&swa, &bare)
        );
    };
    report("written", |cost| cost.written);
    report("the training waits", |cost| cost.waited);
}

fn network() -> Vgg {
    let config = VggConfig::new(16).with_batch_norm(true);
    let network = config.init(&Device::flex().autodiff());
    network.expect("a network of the paper")
}

/// A model and its optimizer, as they are in a training.
struct Trained<M> {
    model: M,
    optimizer: ModuleOptimizer,
}

struct Cost {
    waited: f64,
    written: f64,
    bytes: u64,
}

impl<M: LearnerModel + TrainStep<Input = ImageBatch>> Trained<M> {
    fn new(mut model: M, batch: &ImageBatch, steps: usize) -> Self {
        let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
        let mut optimizer = SgdConfig::new()
            .with_momentum(Some(momentum))
            .with_weight_decay(Some(WeightDecayConfig::new(3e-4)))
            .init();
        for _ in 0..steps {
            let gradients: GradientsParams = TrainStep::step(&model, batch.clone()).grads;
            model = model.optimize(&mut optimizer, LEARNING_RATE.into(), gradients);
        }
        Self { model, optimizer }
    }

    /// Writes a checkpoint as Burn 0.22.1 does (`LearningCheckpointer::checkpoint`).
    fn write_checkpoint(&self, folder: &Path) -> Cost {
        let file = |name| FileCheckpointer::new(folder, name);
        let model: AsyncCheckpointer<ModuleRecord> = AsyncCheckpointer::new(file("model"));
        let optimizer: AsyncCheckpointer<OptimizerRecord> = AsyncCheckpointer::new(file("optim"));
        let began = Instant::now();
        let saved = model.save(1, self.model.clone().into_record());
        saved.expect("a checkpoint of the model");
        let saved = optimizer.save(1, self.optimizer.to_record());
        saved.expect("a checkpoint of the optimizer");
        let waited = began.elapsed().as_secs_f64();
        // Dropping a checkpointer waits for its thread.
        drop((model, optimizer));
        let written = began.elapsed().as_secs_f64();
        let bytes = ["model", "optim"].map(|name| {
            let path = folder.join(format!("{name}-1.bpk"));
            let bytes = fs::metadata(&path).expect("a file").len();
            // Otherwise the next file would replace this one, which is faster than writing a new one.
            fs::remove_file(&path).expect("a file to remove");
            bytes
        });
        Cost {
            waited,
            written,
            bytes: bytes.iter().sum(),
        }
    }
}
