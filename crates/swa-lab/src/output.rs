//! The program's lines on standard output and standard error.
//!
//! `println!` and `eprintln!` panic if nobody reads any more, for example after `| head`. That must
//! not end a training.

use std::fmt;
use std::io::{Write, stderr, stdout};

/// Prints a line to standard output, if anybody reads it.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Prints a line to standard error, if anybody reads it.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(stderr(), "{line}");
}
