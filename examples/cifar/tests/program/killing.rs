//! A run that is killed again and again.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use burn_swa_test_support::random::Random;

use crate::end_state::EndState;
use crate::small_run::{SmallRun, checkpoint_files, resume};
use crate::snapshot::Snapshot;

const KILLS: usize = 50;

/// The number of kills that a run has to survive, one after the other, before it may end by itself.
const KILLS_OF_A_RUN: usize = 5;

/// The checkpoints of which some files are there, or parts of files, and not all.
fn half_written(files: &[String]) -> BTreeSet<&str> {
    let position = |file: &'_ String| -> Option<(usize, usize)> {
        Some((file.find('-')? + 1, file.find(".bpk")?))
    };
    let whole = |position: &&str| {
        let mut parts = ["model", "optim", "scheduler"].iter();
        parts.all(|part| files.contains(&format!("{part}-{position}.bpk")))
    };
    let positions = files.iter().filter_map(|file| {
        let (start, end) = position(file)?;
        file.get(start..end)
    });
    positions.filter(|position| !whole(position)).collect()
}

/// The approximate time of a run that nobody kills, on a machine that does nothing else. On a
/// slower machine, more kills fall on its beginning.
const RUN_MILLISECONDS: usize = 2_000;

/// The approximate time of writing a small checkpoint.
const CHECKPOINT_MICROSECONDS: usize = 600;

#[test]
#[ignore = "takes minutes"]
fn killed_fifty_times_runs_end_with_the_same_bits() {
    let mut random = Random::new(1);
    let (mut kills, mut while_writing, mut runs) = (0, 0, 0);
    while kills < KILLS {
        let run = [SmallRun::Vgg, SmallRun::PreResNet][runs % 2];
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        for _ in 0..KILLS_OF_A_RUN.min(KILLS - kills) {
            let before = checkpoint_files(&out);
            let mut process = if out.join("config.json").exists() {
                resume(&out)
            } else {
                run.start(&out)
            };
            // Every other kill is aimed at the writing of a checkpoint: of the first, the second or the
            // third from now on, some steps of a file after its first byte.
            let aimed = random.below(2) == 1;
            let moment = if aimed {
                let (skipped, wait) = (random.below(3), random.below(CHECKPOINT_MICROSECONDS));
                let mut seen = BTreeSet::new();
                process.runs_until_seen(|| {
                    let files = checkpoint_files(&out);
                    let written = files.into_iter().filter(|file| file.ends_with(".tmp"));
                    seen.extend(written);
                    seen.len() > 3 * skipped
                });
                sleep(Duration::from_micros(wait as u64));
                format!("{wait} us after checkpoint {} began", skipped + 1)
            } else {
                let wait = random.below(RUN_MILLISECONDS);
                sleep(Duration::from_millis(wait as u64));
                format!("after {wait} ms")
            };
            process.kill();
            if process.end().status.is_some() {
                println!("{run:?}: over before {moment}");
                break;
            }
            kills += 1;
            let files = checkpoint_files(&out);
            // Files that an earlier kill has left do not count: they may not have been deleted yet.
            let half = &half_written(&files) - &half_written(&before);
            while_writing += usize::from(!half.is_empty());
            println!("kill {kills}, {run:?}: {moment}; half written: {half:?}");
        }
        let config = out.join("config.json");
        if config.exists() {
            resume(&out).end().success()
        } else {
            run.start(&out).end().success()
        };
        let uninterrupted = run.uninterrupted();
        EndState::of(&out).assert_same_bits(&uninterrupted.end, &[]);
        assert_eq!(Snapshot::of(&out).names(), uninterrupted.folder.names());
        runs += 1;
        println!("run {runs}, {run:?}: the bits of the run that nobody killed");
    }
    println!("{runs} runs survived {kills} kills, {while_writing} of them amid a checkpoint");
    assert!(while_writing >= KILLS / 5, "{while_writing}");
}
