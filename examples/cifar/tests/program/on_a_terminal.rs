//! The program on a terminal, where it shows Burn's terminal UI.

use std::io::Write;
use std::path::Path;

use crate::end_state::{EndState, Metrics};
use crate::process::{CIFAR, Ended, Terminal};
use crate::small_run::{SmallRun, has_logged, resume};
use crate::stopping::check_stop;

/// The sequence that tells a terminal to leave the screen of a UI.
const LEAVE: &str = "\u{1b}[?1049l";

fn start(run: SmallRun, out: &Path) -> Terminal {
    let out = out.to_str().unwrap();
    let arguments = [vec![CIFAR, "train"], run.settings(), vec!["--out", out]].concat();
    Terminal::start(&arguments.join(" "))
}

/// The text on the screen when the UI is gone, without that which the UI itself leaves there.
fn after_the_ui(ended: &Ended) -> String {
    let (_, after) = ended.output.rsplit_once(LEAVE).expect("there was a UI");
    after.replace("\r\n", "\n")
}

#[test]
fn the_table_is_there_when_the_ui_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let ended = start(SmallRun::PreResNet, &out).process.end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let after = after_the_ui(&ended);
    assert!(after.contains("\nSWA, 4 averaged"), "{after}");
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &[]);
}

#[test]
fn ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut terminal = start(SmallRun::PreResNet, &out);
    assert!(terminal.process.runs_until(|| has_logged(&out, 1)));
    terminal.keyboard.write_all(b"\x03").unwrap();
    let mut ended = terminal.process.end();
    ended.output = after_the_ui(&ended);
    let stopped_in = check_stop(&ended, &out);

    resume(&out).end().success();
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &[stopped_in]);
}

#[test]
fn a_run_whose_terminal_is_closed_leaves_a_checkpoint_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut terminal = start(SmallRun::PreResNet, &out);
    assert!(terminal.process.runs_until(|| has_logged(&out, 1)));
    terminal.process.kill();
    drop(terminal);

    // It has ended when another process can have its folder.
    let output = resume(&out).end().success();
    assert!(output.contains("\nGoing on in epoch "), "{output}");
    assert_eq!(Metrics::read(&out).rows.len(), 6);
}

#[test]
fn a_run_that_fails_says_why_when_the_ui_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings = [SmallRun::PreResNet.settings(), vec!["--lr", "1e30"]].concat();
    let command = [
        vec![CIFAR, "train"],
        settings,
        vec!["--out", out.to_str().unwrap()],
    ]
    .concat();
    let ended = Terminal::start(&command.join(" ")).process.end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let after = after_the_ui(&ended);
    let reason = "after optimizer step 7: parameter `network.conv1.weight` holds a NaN";
    for line in [format!("SWA: {reason}"), format!("error: {reason}")] {
        assert!(after.contains(&line), "{after}");
    }
}
