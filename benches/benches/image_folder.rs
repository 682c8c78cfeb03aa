//! The speed and the memory of the loader of images in files, without a network.
//!
//! An epoch of training on photographs of about 500x375 pixels: JPEG decoded, a random part resized to 224x224, flipped, normalised,
//! in batches of 64 on flex, with a decoding thread for each core. If `SWA_PYTHON` names a Python with torchvision, its `DataLoader`
//! takes turns with that on the same files, with a worker for each core and the reference's transform
//! (`benches/image_folder.py`, which also makes the photographs; else `image` makes them, with chroma at the full resolution).
//! **Limit: at least as many images a second.**
//!
//! Then the peak of resident memory (`VmHWM`) of an epoch over 200 photographs of 12 megapixels, in batches of 8, in a process of its
//! own, beside what is in memory at a time: a photograph and its file for each thread, and six batches (two that wait, two that are
//! made, and the one before them, in the program's memory and on the device). **Limit: 1.5 times that.**

use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::available_parallelism;

use burn::data::dataloader::DataLoader;
use burn::tensor::Device;
use burn_swa_benches::{peak_megabytes, print_peak, rounds};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use swa_lab::data::{Augmentation, EpochLoader, ImageSet, View};
use swa_lab::measure::{Spread, by_turns, seconds};

const ROUNDS: usize = 9;
const PHOTOGRAPHS: usize = 1_000;
const BATCH_SIZE: usize = 64;
const LARGE: [u32; 2] = [4_000, 3_000];
const LARGE_BATCH_SIZE: usize = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [folder, "peak"] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        epoch(&loader(Path::new(folder), LARGE_BATCH_SIZE));
        print_peak();
        return;
    }
    let python = std::env::var("SWA_PYTHON").ok();
    rate(python.as_deref());
    memory();
}

fn loader(folder: &Path, batch_size: usize) -> EpochLoader {
    let images = ImageSet::of_files(folder, View::TORCHVISION, &|_, _| {}).expect("images");
    let (augmentation, device) = (Augmentation::ResizedCropAndFlip, Device::flex());
    EpochLoader::training(images.train, batch_size, augmentation, 0, &device).expect("images")
}

fn epoch(loader: &EpochLoader) {
    for batch in loader.iter() {
        black_box(batch.expect("images"));
    }
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

fn rate(python: Option<&str>) {
    let rounds = rounds(ROUNDS);
    let photographs = if rounds == 1 { BATCH_SIZE } else { PHOTOGRAPHS };
    let folder = tempfile::tempdir().expect("a folder");
    let Some(python) = python else {
        for index in 0..photographs {
            write_photograph(folder.path(), "train", index, [500, 375]);
        }
        write_photograph(folder.path(), "val", 0, [500, 375]);
        let loader = loader(folder.path(), BATCH_SIZE);
        let [ours] = by_turns(rounds, [&mut || seconds(|| epoch(&loader))]);
        let rate = Spread::of(ours.iter().map(|it| photographs as f64 / it));
        println!(
            "{photographs} photographs, {} threads: {rate:.0} images/s",
            threads()
        );
        return;
    };

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("image_folder.py");
    let mut make = Command::new(python);
    make.arg(&script)
        .arg("make")
        .arg(folder.path())
        .arg(photographs.to_string());
    assert!(make.status().expect("SWA_PYTHON").success());
    let loader = loader(folder.path(), BATCH_SIZE);
    let mut peer = Peer::start(python, &script, folder.path());
    // The first epoch starts its workers.
    peer.epoch();
    let [ours, theirs] = by_turns(
        rounds,
        [&mut || seconds(|| epoch(&loader)), &mut || peer.epoch()],
    );
    let rate = |seconds: &[f64]| Spread::of(seconds.iter().map(|it| photographs as f64 / it));
    println!(
        "{photographs} photographs, {} threads: {:.0} images/s; torchvision {}, as many workers, {:.0} images/s: {:.2} times \
         as fast, limit 1",
        threads(),
        rate(&ours),
        peer.version,
        rate(&theirs).median,
        Spread::of_ratios(&theirs, &ours),
    );
}

/// torchvision's loader, in a process of its own.
struct Peer {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    version: String,
}

impl Peer {
    fn start(python: &str, script: &Path, folder: &Path) -> Self {
        let mut command = Command::new(python);
        command.arg(script).arg("load").arg(folder);
        command.args([threads(), BATCH_SIZE].map(|number| number.to_string()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("SWA_PYTHON");
        let output = process.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines();
        let version = lines.next().expect("a version").expect("a line");
        Self {
            process,
            lines,
            version,
        }
    }

    /// The seconds of an epoch.
    fn epoch(&mut self) -> f64 {
        let mut input = self.process.stdin.as_ref().expect("its input");
        writeln!(input).expect("a running process");
        let line = self.lines.next().expect("an epoch").expect("a line");
        line.parse().expect("seconds")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn memory() {
    let count = if rounds(2) == 1 { 20 } else { 200 };
    let folder = tempfile::tempdir().expect("a folder");
    write_photograph(folder.path(), "val", 0, LARGE);
    let one = folder.path().join("val/class/0.jpg");
    let train = folder.path().join("train/class");
    fs::create_dir_all(&train).expect("a folder");
    for index in 0..count {
        fs::hard_link(&one, train.join(format!("{index}.jpg"))).expect("a link");
    }
    let peak = peak_megabytes(&[folder.path().to_str().expect("a path"), "peak"]);

    let file = fs::metadata(&one).expect("a file").len() as usize;
    let photograph = 3 * LARGE[0] as usize * LARGE[1] as usize;
    let batch = size_of::<f32>() * LARGE_BATCH_SIZE * 3 * 224 * 224;
    let at_a_time = (threads() * (photograph + file) + 6 * batch) as f64 / 1e6;
    println!(
        "{count} photographs of 12 megapixels, {:.0} MB in all, {} threads: peak {peak:.0} MB, {:.2} times the {at_a_time:.0} MB \
         that are in memory at a time, limit 1.5",
        (count * photograph) as f64 / 1e6,
        threads(),
        peak / at_a_time,
    );
}

/// Writes waves and noise.
fn write_photograph(folder: &Path, split: &str, index: usize, [width, height]: [u32; 2]) {
    let mut state = index as u64;
    let image = RgbImage::from_fn(width, height, |x, y| {
        Rgb([0_u8, 1, 2].map(|channel| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let wave = f64::from(x) / (20.0 + 9.0 * f64::from(channel)) + f64::from(y) / 31.0;
            (128.0 + 100.0 * wave.sin()) as u8 + (state >> 60) as u8
        }))
    });
    let folder = folder.join(split).join("class");
    fs::create_dir_all(&folder).expect("a folder");
    let file = fs::File::create(folder.join(format!("{index}.jpg"))).expect("a file");
    let encoder = JpegEncoder::new_with_quality(file, 90);
    image.write_with_encoder(encoder).expect("a photograph");
}
