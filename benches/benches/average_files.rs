//! The cost of averaging files.
//!
//! Four SafeTensors files of 256 MB, in tensors of up to 32 MB, are averaged into one. The baseline reads the same files and writes one of
//! them through a buffer of 1 MiB, and waits until the disk has it, as the average does. The files are in the system's cache: a disk
//! would make both slower. **Limit: 1.3 times the baseline.**

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::store::bridge;
use burn::store::burn_pack::Writer;
use burn::tensor::TensorData;
use burn_swa_benches::rounds;
use burn_swa_test_support::random::uniform;
use swa_lab::measure::{Spread, by_turns};
use swa_store::Checkpoints;

const ROUNDS: usize = 11;
const FILES: u64 = 4;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let files: Vec<PathBuf> = (0..FILES)
        .map(|number| file(folder.path(), number))
        .collect();
    let bytes = fs::metadata(&files[0]).expect("a file").len();
    let out = folder.path().join("out.safetensors");
    let timed = |write: &dyn Fn()| {
        // Otherwise the next file would replace this one, which takes longer than writing a new one.
        let _ = fs::remove_file(&out);
        let began = Instant::now();
        write();
        began.elapsed().as_secs_f64()
    };
    let copy = || copy(&files, &out);
    let average = || {
        let checkpoints = Checkpoints::open(&files).expect("files of one network");
        checkpoints.uniform().write(&out).expect("an average");
    };
    let [copied, averaged] = by_turns(
        rounds(ROUNDS),
        [&mut || timed(&copy), &mut || timed(&average)],
    );
    let median = |seconds: &[f64]| Spread::of(seconds.iter().copied()).median;
    println!(
        "{FILES} files of {:.0} MB: averaged in {:.2} s, read and one written in {:.2} s: {:.2} times, limit 1.3",
        bytes as f64 / 1e6,
        median(&averaged),
        median(&copied),
        Spread::of_ratios(&averaged, &copied),
    );
}

/// A file of random numbers, seven tensors of 32 MB and 32 of 1 MB.
fn file(folder: &Path, number: u64) -> PathBuf {
    let sizes = [[8 << 20; 7].as_slice(), &[1 << 18; 32]].concat();
    let first = uniform(number, 1 << 18, 1.0, 0.0);
    let tensors = sizes.iter().enumerate().map(|(index, &size)| {
        let values: Vec<f32> = first.iter().copied().cycle().take(size).collect();
        let data = TensorData::new(values, [size]);
        bridge::from_data(data, format!("{index:02}.weight"), None)
    });
    let path = folder.join(format!("checkpoint_{number}.bpk"));
    Writer::new(tensors.collect())
        .write_to_file(&path)
        .expect("a file");
    // As SafeTensors, by way of an average of one file.
    let out = path.with_extension("safetensors");
    Checkpoints::open([&path])
        .expect("a file")
        .uniform()
        .write(&out)
        .expect("a copy");
    fs::remove_file(&path).expect("a file to remove");
    out
}

/// Reads all files and writes the first one, through a buffer.
fn copy(files: &[PathBuf], out: &Path) {
    let mut buffer = vec![0; 1 << 20];
    let mut out = File::create(out).expect("a file");
    for (number, path) in files.iter().enumerate() {
        let mut file = File::open(path).expect("a file");
        loop {
            let read = file.read(&mut buffer).expect("bytes");
            if read == 0 {
                break;
            }
            if number == 0 {
                out.write_all(&buffer[..read]).expect("room");
            }
        }
    }
    out.sync_all().expect("a disk");
}
