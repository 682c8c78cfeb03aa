//! Messages on a terminal that a UI covers.

use std::process::Command;

use burn_swa_test_support::network::Net;
use swa_train::Swa;

use super::{SupervisedTraining, in_temporary_folder, learner, training, wrap};

/// Runs an ignored test of this module on a terminal in raw mode, as under Burn's terminal UI, and returns what it shows.
fn terminal_of(test: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = format!("on_a_terminal::{test} --exact --ignored --nocapture");
    let command = format!("stty raw && {} {test}", program.display());
    // From bsdutils, which every Debian has.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let output = script.output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains("test result: ok"), "{output}");
    output
}

fn diverge() {
    let result = in_temporary_folder(|directory| {
        let training: SupervisedTraining<Swa<Net>> = training(directory);
        let swa = wrap(Net::new().diverging_at(15));
        let swa = swa.with_interrupter(training.interrupter());
        training.launch(learner(swa))
    });
    assert!(result.model.failure().is_some());
}

/// The place of the only message, and that of the program's own line.
fn places(terminal: &str) -> (usize, usize) {
    let message = "SWA: after optimizer step 15: parameter `input.weight` holds a NaN";
    assert_eq!(terminal.matches(message).count(), 1, "{terminal}");
    let place = |text: &str| terminal.find(text).expect(text);
    (place(message), place("the training is over"))
}

#[test]
fn a_message_waits_for_the_end_of_a_terminal_ui() {
    let (message, line) = places(&terminal_of("ends_under_a_ui"));
    assert!(message > line);
    let (message, line) = places(&terminal_of("goes_on_after_a_ui"));
    assert!(message < line);
}

#[test]
#[ignore = "writes to the terminal, for another test"]
fn ends_under_a_ui() {
    diverge();
    println!("the training is over");
}

#[test]
#[ignore = "writes to the terminal, for another test"]
fn goes_on_after_a_ui() {
    diverge();
    // As the UI does when it closes.
    let sane = Command::new("stty").arg("sane").status().unwrap();
    assert!(sane.success());
    std::thread::sleep(std::time::Duration::from_millis(1000));
    println!("the training is over");
}
