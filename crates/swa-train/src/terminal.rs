//! Messages on the terminal.
//!
//! A `Learner` of Burn 0.22.1 writes the log to a file, and has no channel for what does not stop the training. Its terminal UI
//! covers the terminal until the training's result is dropped, and what is printed under it is lost. So messages wait until the
//! terminal is no longer in raw mode, and are printed at the latest when the thread ends that made the wrapper.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The messages that are not printed yet.
static WAITING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Shows a message on the terminal, as soon as no terminal UI covers it.
pub(crate) fn show(message: String) {
    let mut waiting = waiting();
    waiting.push(message);
    if !is_covered() {
        print(&mut waiting);
    } else if waiting.len() == 1 {
        thread::spawn(print_when_uncovered);
    }
}

/// Prints what is left when this thread ends: a program may end as soon as the terminal UI does.
pub(crate) fn print_at_the_end_of_this_thread() {
    struct AtTheEnd;

    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            print(&mut waiting());
        }
    }

    thread_local!(static AT_THE_END: AtTheEnd = const { AtTheEnd });
    // A thread that is ending already prints at once.
    let _ = AT_THE_END.try_with(|_| ());
}

fn print_when_uncovered() {
    loop {
        thread::sleep(Duration::from_millis(50));
        let mut waiting = waiting();
        if !is_covered() {
            print(&mut waiting);
        }
        if waiting.is_empty() {
            return;
        }
    }
}

fn waiting() -> std::sync::MutexGuard<'static, Vec<String>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn print(messages: &mut Vec<String>) {
    let mut stderr = io::stderr();
    for message in messages.drain(..) {
        // Unlike `eprintln`, this does not panic if nobody reads the terminal.
        let _ = writeln!(stderr, "{message}");
    }
}

/// Tells whether the terminal that the program writes to is in raw mode, as under a terminal UI.
#[cfg(unix)]
pub(crate) fn is_covered() -> bool {
    use rustix::termios::{LocalModes, tcgetattr};
    tcgetattr(io::stderr()).is_ok_and(|modes| !modes.local_modes.contains(LocalModes::ICANON))
}

#[cfg(not(unix))]
pub(crate) fn is_covered() -> bool {
    false
}
