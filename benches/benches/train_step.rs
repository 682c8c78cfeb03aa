//! The cost of averaging in a training.
//!
//! Steps of PreResNet-20 on flex with batches of 64 images, half the paper's, through Burn's `Learner` (forward,
//! backward, learning rate, optimizer), of three models in turn: the bare one, one in `Swa` that
//! collects once an epoch, and one in `Swa` that averages at every step (EMA).
//!
//! - **Limit for SWA: 1% longer than the bare model's.** An epoch of CIFAR-10 has 391 steps, of which
//!   one collects. Its cost is measured separately, and a 391st of it is added to a step.
//! - **Limit for EMA: 3% longer.**
//!
//! There are two ratios for each. Whole steps always differ by some per cent from one to the next. The
//! hook can change only the optimizer's part (for the rest it calls the model's own `step`). So the second
//! ratio takes the extra time of that part, relative to the bare model's whole step.

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn_swa_benches::rounds;
use std::sync::Arc;
use swa_core::{Average, EqualWeights, RuleConfig};
use swa_lab::data::EpochLoader;
use swa_lab::measure::{
    LEARNING_RATE, Spread, Step, by_turns, images, learner, seconds, step, swa,
};
use swa_lab::run::classifier::Classifier;
use swa_models::{PreResNet, PreResNetConfig};
use swa_train::{Collect, RunLength, SwaConfig};

const ROUNDS: usize = 101;
const BATCH_SIZE: usize = 64;
/// 50,000 images in batches of 128.
const STEPS_PER_EPOCH: usize = 391;

fn main() {
    let images = images(BATCH_SIZE);
    let autodiff = Device::flex().autodiff();
    let loader = EpochLoader::evaluation(images.clone(), BATCH_SIZE, &autodiff).expect("images");
    let batch = loader.iter().next().expect("a batch").expect("images");

    let run = RunLength::new(1, STEPS_PER_EPOCH).expect("an epoch");
    let once = SwaConfig::new(Collect::from_epoch(1, &run).expect("within the run"));
    let every_step = SwaConfig::new(Collect::from_step(1, &run).expect("within the run"))
        .with_rule(RuleConfig::exponential(0.999));

    let mut bare = learner(Classifier::new(network(), Arc::default()), LEARNING_RATE);
    let hooked = |config| {
        let swa = swa(network(), config, &images, BATCH_SIZE, &Device::flex());
        learner(swa.expect("a network that can be averaged"), LEARNING_RATE)
    };
    let (mut swa_run, mut ema_run) = (hooked(once), hooked(every_step));

    // An average after its first two updates: the first shares the model's memory, and the second takes
    // its own.
    let collected = swa_run.model().into_live();
    let mut average = Average::new(&collected, EqualWeights).expect("a network");
    for _ in 0..2 {
        average.update_non_blocking(&collected).expect("finite");
    }

    let rounds = rounds(ROUNDS);
    let [bare, swa, ema, collection] = by_turns(
        rounds,
        [
            &mut || step(&mut bare, &batch),
            &mut || step(&mut swa_run, &batch),
            &mut || step(&mut ema_run, &batch),
            &mut || Step {
                backward: 0.0,
                optimizer: seconds(|| average.update_non_blocking(&collected).expect("finite")),
            },
        ],
    );
    let ema_model = ema_run.model();
    assert_eq!(ema_model.updates(), rounds + 1, "an update a step");
    assert!(ema_model.failure().is_none());

    let collection: Vec<f64> = collection.iter().map(|it| it.optimizer).collect();
    let milliseconds = |seconds: Vec<f64>| Spread::of(seconds.into_iter().map(|it| 1e3 * it));
    println!(
        "PreResNet-20, batch of {BATCH_SIZE}: a step {:.0} ms, of which the optimizer {:.2} ms; \
         a collection {:.2} ms\n",
        milliseconds(bare.iter().map(Step::total).collect()),
        milliseconds(bare.iter().map(|it| it.optimizer).collect()),
        milliseconds(collection.clone()),
    );
    let share = 1.0 / STEPS_PER_EPOCH as f64;
    let collection = Spread::of(collection).median;
    report("SWA once an epoch", &bare, &swa, share * collection, 1.01);
    report("EMA at every step", &bare, &ema, 0.0, 1.03);
}

fn network() -> PreResNet {
    let network = PreResNetConfig::new(20).init(&Device::flex().autodiff());
    network.expect("a network of the paper")
}

/// Prints both ratios of `hooked` steps, with `more` seconds added to each, to `bare` ones.
fn report(name: &str, bare: &[Step], hooked: &[Step], more: f64, limit: f64) {
    let rounds = || bare.iter().zip(hooked);
    let whole = rounds().map(|(bare, hooked)| (hooked.total() + more) / bare.total());
    let optimizer = rounds()
        .map(|(bare, hooked)| 1.0 + (hooked.optimizer + more - bare.optimizer) / bare.total());
    println!(
        "{name}: {:.3} times the bare step, {:.4} by the optimizer's part; limit {limit}",
        Spread::of(whole),
        Spread::of(optimizer),
    );
}
