//! Damaged files, to test the code that reads files.
//!
//! A test tries a thousand inputs, or as many as `SWA_FUZZ_INPUTS` says. An input depends on its
//! number alone, so that every failure can be repeated.

use std::cell::RefCell;
use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Instant;

use burn_swa_test_support::random::Random;

/// The number of bytes that a reader may hold in memory besides a multiple of the file's size: the
/// mebibyte at most that serde (1.0) reserves for a list that a file calls long, buffers, other
/// files that are read too, and values computed from the file.
const BYTES_MORE: u64 = 2 << 20;

/// The number of failures after which a test gives up.
const FAILURES: usize = 20;

/// Damages the files at `paths`, one at a time, and calls `read` with the path of the damaged file.
///
/// # Panics
///
/// If `read` panics, even where that is caught, or takes much more memory than `times` the file's
/// size; or if it never accepts or never refuses a file, since it then tests nothing.
pub(crate) fn survive(
    name: &str,
    paths: &[PathBuf],
    times: u64,
    mut read: impl FnMut(&Path) -> Result<(), String>,
) {
    count_panics();
    let inputs = std::env::var("SWA_FUZZ_INPUTS").map_or(1_000, |it| it.parse().unwrap());
    let whole: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let (mut accepted, mut refused, mut failures) = (0, 0, Vec::new());
    let (mut most, began) = ((0, 0), Instant::now());
    for number in 0..inputs {
        let mut random = Random::new(number);
        let which = random.below(paths.len());
        let other = &whole[random.below(whole.len())];
        let bytes = input(&whole[which], other, &mut random);
        fs::write(&paths[which], &bytes).unwrap();

        PANICS.take();
        let mut outcome = None;
        let memory = allocation_counter::measure(|| {
            let read = AssertUnwindSafe(|| read(&paths[which]));
            outcome = catch_unwind(read).ok();
        });
        match outcome {
            Some(Ok(())) => accepted += 1,
            Some(Err(_)) => refused += 1,
            None => {}
        }
        let panics = PANICS.take();
        let size = bytes.len() as u64;
        most = most.max((memory.bytes_max, size));
        let mut failure = panics;
        if memory.bytes_max > times * size + BYTES_MORE {
            let taken = memory.bytes_max;
            writeln!(failure, "{taken} bytes for a file of {size}").unwrap();
        }
        if !failure.is_empty() {
            let file = paths[which].file_name().unwrap().display();
            failures.push(format!("input {number}, {file}: {failure}"));
        }
        fs::write(&paths[which], &whole[which]).unwrap();
        if failures.len() == FAILURES {
            break;
        }
    }
    println!(
        "{name}: {inputs} inputs in {:.0} s, {accepted} read, {refused} refused, {} failures; at most {} \
         bytes of memory, for a file of {} bytes",
        began.elapsed().as_secs_f64(),
        failures.len(),
        most.0,
        most.1,
    );
    assert!(failures.is_empty(), "{name}:\n{}", failures.join("\n"));
    assert!(accepted > 0 && refused > 0, "{accepted}, {refused}");
}

thread_local! {
    /// The messages of this thread's panics.
    static PANICS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Records the messages of all panics, even of those that are caught: a user would see them.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| writeln!(panics, "{panic}").unwrap());
            before(panic);
        }));
    });
}

/// Random bytes, sometimes after the beginning of a whole file, or a whole file that was damaged
/// one to four times.
fn input(whole: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    if random.below(16) == 0 {
        let kept = random.below(2) * random.below(32).min(whole.len());
        let count = random.below(512);
        return [&whole[..kept], &random.bytes(count)].concat();
    }
    let mut bytes = whole.to_vec();
    for _ in 0..=random.below(4) {
        damage(&mut bytes, other, random);
    }
    bytes
}

/// Words that mean something to a reader of these files.
const WORDS: [&[u8]; 20] = [
    b"F32",
    b"F64",
    b"F16",
    b"BF16",
    b"I32",
    b"I64",
    b"U32",
    b"U8",
    b"Bool",
    b"QFloat",
    b"param_id",
    b"shape",
    b"dtype",
    b"null",
    b"true",
    b"0",
    b"-1",
    b"4294967296",
    b"1e999",
    b"\xff\xfe",
];

fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = place(bytes.len(), random);
    let longest = 1 << random.below(11);
    let end = bytes.len().min(at + 1 + random.below(longest));
    match random.below(10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next_u64() as u8,
        2 => {
            let number = length(bytes.len(), random);
            let width = 1 << random.below(4);
            let number = match random.below(2) {
                0 => number.to_le_bytes()[..width].to_vec(),
                _ => number.to_be_bytes()[8 - width..].to_vec(),
            };
            let end = bytes.len().min(at + width);
            bytes.splice(at..end, number);
        }
        3 => bytes.truncate(at),
        4 => {
            let inserted = random.bytes(end - at);
            bytes.splice(at..at, inserted);
        }
        5 => drop(bytes.drain(at..end)),
        6 => {
            let times = 1 << random.below(8);
            let repeated = bytes[at..end].repeat(times);
            bytes.splice(at..at, repeated);
        }
        7 => {
            let copied = bytes[at..end].to_vec();
            let to = place(bytes.len() - copied.len(), random);
            bytes.splice(to..to + copied.len(), copied);
        }
        8 => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[place(other.len(), random)..]);
        }
        _ => {
            let [from, to] = [0; 2].map(|_| WORDS[random.below(WORDS.len())]);
            let rest = &bytes[at..];
            let found = rest.windows(from.len()).position(|it| it == from);
            if let Some(found) = found {
                let start = at + found;
                bytes.splice(start..start + from.len(), to.iter().copied());
            }
        }
    }
}

/// A place in a file, more often at its ends, where headers and tables of contents are.
fn place(length: usize, random: &mut Random) -> usize {
    match random.below(3) {
        0 => random.below(length.min(64)),
        1 => length - random.below(length.min(256)),
        _ => random.below(length),
    }
}

/// A number that is probably wrong as a length.
fn length(length: usize, random: &mut Random) -> u64 {
    let length = length as u64;
    let lengths = [
        0,
        1,
        length,
        length + 1,
        2 * length,
        1 << 26,
        u64::MAX,
        random.next_u64(),
    ];
    let power = 1_u64 << random.below(64);
    let lengths = lengths
        .into_iter()
        .chain([power, power - 1, power.wrapping_neg()]);
    let lengths: Vec<u64> = lengths.collect();
    lengths[random.below(lengths.len())]
}
