//! The speed of the data pipeline without a network.
//!
//! An epoch of the training loader, as the CIFAR program uses it: images from memory in a shuffled
//! order, cropped at random out of a padded image, flipped, normalised, in batches of 128 on flex.
//! **Limit: at least 20,000 images a second on 2 cores.**
//!
//! The baseline is the least that a pipeline must do: a plain loop, on one core, that normalises the
//! same images in their order into a batch and allocates every batch.
//!
//! Then Divan's table: other ways of padding, and batches of other sizes.

use std::hint::black_box;

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn_swa_benches::rounds;
use divan::Bencher;
use divan::counter::ItemsCount;
use std::sync::Arc;
use swa_lab::data::{Augmentation, CHANNELS, EpochLoader, Images, Normalization, Padding, SIDE};
use swa_lab::measure::{Spread, by_turns, images, seconds};

const ROUNDS: usize = 15;
const IMAGES: usize = 20_000;
const BATCH_SIZE: usize = 128;
const CROP_AND_FLIP: Augmentation = Augmentation::CropAndFlip(Padding::Zero);

fn main() {
    rate();
    divan::main();
}

fn rate() {
    let images = images(IMAGES);
    let loader = loader(&images, CROP_AND_FLIP, BATCH_SIZE);
    let [pipeline, plain] = by_turns(
        rounds(ROUNDS),
        [&mut || seconds(|| epoch(&loader)), &mut || {
            seconds(|| normalise(&images))
        }],
    );
    let rate = |seconds: &[f64]| Spread::of(seconds.iter().map(|it| IMAGES as f64 / it));
    println!(
        "data pipeline {:.0} images/s, plain loop {:.0} images/s: {:.2} times as fast; \
         limit 20000 images/s\n",
        rate(&pipeline),
        rate(&plain).median,
        Spread::of_ratios(&plain, &pipeline),
    );
}

fn loader(images: &Arc<Images>, augmentation: Augmentation, batch_size: usize) -> EpochLoader {
    // The device of the training.
    let device = Device::flex().autodiff();
    EpochLoader::training(images.clone(), batch_size, augmentation, 0, &device).expect("images")
}

fn epoch(loader: &EpochLoader) {
    for batch in loader.iter() {
        black_box(batch.expect("images in memory"));
    }
}

fn normalise(images: &Images) {
    let Normalization { mean, std } = Normalization::CIFAR10;
    let table: [[f32; 256]; CHANNELS] = std::array::from_fn(|channel| {
        std::array::from_fn(|byte| (byte as f32 / 255.0 - mean[channel]) / std[channel])
    });
    let indices: Vec<usize> = (0..images.len()).collect();
    for indices in indices.chunks(BATCH_SIZE) {
        let mut batch = Vec::with_capacity(indices.len() * CHANNELS * SIDE * SIDE);
        for &index in indices {
            let planes = images.image(index).chunks_exact(SIDE * SIDE);
            for (plane, table) in planes.zip(&table) {
                batch.extend(plane.iter().map(|&byte| table[usize::from(byte)]));
            }
        }
        black_box(batch);
    }
}

fn bench(bencher: Bencher, augmentation: Augmentation, batch_size: usize) {
    let loader = loader(&images(IMAGES), augmentation, batch_size);
    bencher
        .counter(ItemsCount::new(IMAGES))
        .bench_local(|| epoch(&loader));
}

#[divan::bench(sample_count = 10, sample_size = 1, args = [CROP_AND_FLIP, Augmentation::CropAndFlip(Padding::Reflect), Augmentation::None])]
fn augmentation(bencher: Bencher, augmentation: Augmentation) {
    bench(bencher, augmentation, BATCH_SIZE);
}

#[divan::bench(sample_count = 10, sample_size = 1, args = [16, 128, 1024])]
fn batch_size(bencher: Bencher, batch_size: usize) {
    bench(bencher, CROP_AND_FLIP, batch_size);
}
