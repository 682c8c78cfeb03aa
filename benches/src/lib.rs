#![doc = include_str!("../README.md")]

use std::process::Command;

use swa_lab::provenance::peak_memory_bytes;

/// `rounds`, or a single one where Cargo tests that benchmarks still run (`cargo test --benches`).
pub fn rounds(rounds: usize) -> usize {
    if std::env::args().any(|argument| argument == "--bench") {
        rounds
    } else {
        1
    }
}

/// The peak in MB of the memory of this program, which is run again with `arguments` in a process of its own, and ends with
/// [`print_peak`].
///
/// # Panics
///
/// Panics if that process fails.
pub fn peak_megabytes(arguments: &[&str]) -> f64 {
    let output = output(arguments);
    let bytes = output.lines().last().and_then(|line| line.parse().ok());
    let bytes: f64 = bytes.expect("a peak");
    bytes / 1e6
}

/// The output of this program when it is run again with `arguments` in a process of its own.
///
/// # Panics
///
/// Panics if that process fails.
pub fn output(arguments: &[&str]) -> String {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("a run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Prints the most memory that this process has ever had, in bytes, for [`peak_megabytes`].
///
/// # Panics
///
/// Panics where the system does not tell it.
pub fn print_peak() {
    println!("{}", peak_memory_bytes().expect("Linux"));
}
