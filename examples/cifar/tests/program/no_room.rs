//! Disks that fill up, and folders that may no longer be written.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::end_state::{Checkpoint, EndState};
use crate::process::{CIFAR, Process};
use crate::small_run::{SmallRun, checkpoint_files, resume, train};

const RUN: SmallRun = SmallRun::PreResNet;

/// The last epoch whose checkpoint is complete, if there is one.
fn last_checkpoint(out: &Path) -> Option<usize> {
    let files = checkpoint_files(out);
    (1..=6).rev().find(|epoch| {
        let whole = ["model", "optim", "scheduler"];
        let mut whole = whole.iter().map(|part| format!("{part}-{epoch}.bpk"));
        whole.all(|file| files.contains(&file))
    })
}

/// Checks the message of a run that could not write something, and the files that it left. Returns
/// the last epoch whose checkpoint is complete.
fn check_refusal(refusal: &str, reason: &str, out: &Path) -> Option<usize> {
    println!("{refusal}");
    assert!(refusal.contains(out.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains(reason), "{refusal}");
    let remedy = "What was saved before is whole: see that there is room and that it may be written, and \
                  resume the run";
    assert!(refusal.ends_with(remedy), "{refusal}");
    let unfinished = |name: &String| name.ends_with(".tmp");
    assert!(!checkpoint_files(out).iter().any(unfinished));
    last_checkpoint(out).inspect(|epoch| {
        Checkpoint::read(out, &epoch.to_string());
    })
}

fn goes_on_to_the_same_end(out: &Path) {
    resume(out).end().success();
    EndState::of(out).assert_same_bits(&RUN.uninterrupted().end, &[]);
}

/// Runs a command of the operating system.
fn system(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn an_unwritable_checkpoint_ends_the_run_and_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // A process that ignores this signal is told when a file grows too large, as on a full disk.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", CIFAR, "train"]);
    command.args(RUN.settings()).arg("--out").arg(&out);
    let mut process = Process::start(&mut command);
    assert!(process.runs_until(|| last_checkpoint(&out) >= Some(2)));
    // Too few bytes for the weights.
    let process_id = process.id().to_string();
    system("prlimit", &["--fsize=8192", "--pid", &process_id]);
    let refusal = process.end().refusal();
    assert!(check_refusal(&refusal, "File too large", &out) >= Some(1));
    goes_on_to_the_same_end(&out);
}

/// A file system that is unmounted at the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts file systems, as root"]
fn on_a_full_disk_a_run_says_so_and_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let (mut filled, mut held) = (0, 0);
    // What the run leaves takes 136 kB, and less while it begins.
    for kilobytes in (24..=160).step_by(8) {
        let size = format!("size={kilobytes}k");
        system("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", disk]);
        let _mounted = Mounted(folder.path().to_owned());
        let out = folder.path().join("run");
        let ended = train(&RUN.settings(), &out).end();
        if ended.status == Some(0) {
            held += 1;
            continue;
        }
        filled += 1;
        print!("{kilobytes} kB: ");
        let left = check_refusal(&ended.refusal(), "No space left on device", &out);
        println!("{kilobytes} kB: the last whole checkpoint is {left:?}");
        system("mount", &["-o", "remount,size=10m", disk]);
        goes_on_to_the_same_end(&out);
    }
    println!("{filled} disks were too small, {held} were not");
    assert!(filled >= 5 && held >= 1, "{filled}, {held}");
}

#[test]
#[ignore = "mounts file systems, as root"]
fn in_a_read_only_folder_a_run_says_so_and_goes_on_later() {
    // The checkpoints' folder, and the whole of the run's, where the metrics come first.
    for inner in ["checkpoint", ""] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let mut process = RUN.start(&out);
        assert!(process.runs_until(|| last_checkpoint(&out) >= Some(2)));
        let path = out.join(inner);
        let read_only = path.to_str().unwrap();
        system("mount", &["--bind", read_only, read_only]);
        let mounted = Mounted(path.clone());
        system("mount", &["-o", "remount,ro,bind", read_only]);
        let refusal = process.end().refusal();
        let left = check_refusal(&refusal, "Read-only file system", &out);
        println!("the last whole checkpoint is {left:?}");
        assert!(left >= Some(2));
        // Nor does it go on while it cannot write.
        resume(&out).end().refusal();
        drop(mounted);
        goes_on_to_the_same_end(&out);
    }
}
