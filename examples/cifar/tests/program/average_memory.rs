//! Files that are far larger than the memory that `cifar average` may have, and its end in the middle of writing.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use burn_swa_test_support::random::uniform;
use serde_json::{Map, json};

use crate::process::{CIFAR, Process};

/// The number of bytes of the largest tensors.
const TENSOR: usize = 32 << 20;

/// The numbers that a file repeats: a megabyte of them.
fn block(number: u64) -> Vec<f32> {
    uniform(number, 1 << 18, 1.0, 2.0)
}

/// A SafeTensors file of so many tensors of 32 MB.
fn write_file(path: &Path, number: u64, tensors: usize) {
    let infos = (0..tensors).map(|index| {
        let offsets = [index * TENSOR, (index + 1) * TENSOR];
        let info = json!({"dtype": "F32", "shape": [TENSOR / 4], "data_offsets": offsets});
        (format!("{index:02}.weight"), info)
    });
    let header = serde_json::to_vec(&infos.collect::<Map<_, _>>()).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    let block: Vec<u8> = block(number)
        .iter()
        .flat_map(|it| it.to_le_bytes())
        .collect();
    for _ in 0..tensors * TENSOR / block.len() {
        file.write_all(&block).unwrap();
    }
}

fn files(folder: &Path, count: u64, tensors: usize) -> Vec<PathBuf> {
    let files = (0..count).map(|number| {
        let path = folder.join(format!("checkpoint_{number}.safetensors"));
        write_file(&path, number, tensors);
        path
    });
    files.collect()
}

/// The program, in so much memory: all that it maps, the program itself and the stacks of its threads included.
fn within(kibibytes: usize, files: &[PathBuf], out: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("ulimit -v {kibibytes} && exec \"$0\" \"$@\""),
        CIFAR,
    ]);
    command.arg("average").args(files).arg("--out").arg(out);
    // A stack and a heap for each of many cores would take more than the files.
    command.env("RAYON_NUM_THREADS", "2");
    command
}

/// The most memory that a process has had, in kibibytes.
fn peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Prints the peak with `cargo test --release --test program large_files -- --nocapture`.
#[test]
fn large_files_are_averaged_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 4, 16);
    assert!(fs::metadata(&files[0]).unwrap().len() > 512 << 20);
    let blocks: Vec<Vec<f32>> = (0..4).map(block).collect();
    let expected = (0..blocks[0].len()).map(|place| {
        blocks
            .iter()
            .map(|block| f64::from(block[place]))
            .sum::<f64>()
            / 4.0
    });
    let expected: Vec<f64> = expected.collect();
    for end in ["safetensors", "bpk"] {
        let out = folder.path().join(format!("out.{end}"));
        let mut process = Process::start(&mut within(256 << 10, &files, &out));
        let (id, highest) = (process.id(), Cell::new(0));
        process.runs_until(|| {
            highest.set(highest.get().max(peak(id).unwrap_or(0)));
            false
        });
        process.end().success();
        println!(
            "4 files of 512 MiB to .{end} within 256 MiB: at most {} MiB resident",
            highest.get() >> 10
        );
        assert!(highest.get() < 256 << 10);

        // The tensors are at the end of both, and in .bpk without gaps between them.
        let mut file = File::open(&out).unwrap();
        let begin = file.metadata().unwrap().len() - (16 * TENSOR) as u64;
        std::io::copy(&mut (&mut file).take(begin), &mut std::io::sink()).unwrap();
        let mut bytes = vec![0; 1 << 20];
        for megabyte in 0..512 {
            file.read_exact(&mut bytes).unwrap();
            let (numbers, _) = bytes.as_chunks::<4>();
            let mut pairs = numbers.iter().zip(&expected);
            let is_close = pairs.all(|(bytes, expected)| {
                (f64::from(f32::from_le_bytes(*bytes)) - expected).abs() < 1e-6
            });
            assert!(is_close, "MiB {megabyte} of .{end}");
        }
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn an_average_that_is_killed_leaves_the_output_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), 2, 8);
    for end in ["safetensors", "bpk"] {
        let out = folder.path().join(format!("out.{end}"));
        fs::write(&out, "mine").unwrap();
        let mut process = Process::start(&mut within(256 << 10, &files, &out));
        // The file beside it has begun to grow.
        let scratch = || {
            let mut entries = fs::read_dir(folder.path()).unwrap().flatten();
            entries.any(|entry| {
                let is_scratch = entry.file_name().to_string_lossy().ends_with(".tmp");
                is_scratch && entry.metadata().is_ok_and(|it| it.len() > 1 << 20)
            })
        };
        let mut seen = false;
        process.runs_until_seen(|| {
            seen = scratch();
            seen
        });
        process.kill();
        assert!(seen, "it was never seen writing");
        drop(process);
        assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
        for entry in fs::read_dir(folder.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".tmp") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}
