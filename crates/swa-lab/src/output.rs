//! The program's lines on standard output and standard error.
//!
//! `println!` and `eprintln!` panic if nobody reads any more, for example after `| head`. That must
//! not end a training.

use std::fmt;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use crate::Failure;

/// Prints a line to standard output, if anybody reads it.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Prints a line to standard error, if anybody reads it.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// A number of things, such as `1 run` and `2 runs`.
pub(crate) fn plural(count: usize, name: &str) -> String {
    match count {
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    }
}

/// The exit code of a program that ended with this status, or with an error, which it prints.
pub fn exit_code(ended: Result<i32, Failure>) -> ExitCode {
    match ended {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            note(format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
