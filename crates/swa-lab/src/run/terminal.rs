//! Burn's terminal UI, in which Ctrl-C still stops the training.

#[cfg(unix)]
use std::fs::OpenOptions;
use std::io::{IsTerminal, stdout};
#[cfg(unix)]
use std::io::{Write, stderr};

use burn::train::Interrupter;
use burn::train::renderer::{MetricsRenderer, tui::TuiMetricsRendererWrapper};
use crossterm::cursor::Show;
use crossterm::event::DisableMouseCapture;
use crossterm::execute;
use crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode};

/// Burn's terminal UI, whose own command to stop the training goes to `interrupter`.
///
/// The UI of Burn 0.22.1 puts the terminal into raw mode, in which Ctrl-C is a key like any other,
/// and the UI ignores it. Here it is a signal, as in any other program.
pub fn ui(interrupter: Interrupter, checkpoint: Option<usize>) -> Box<dyn MetricsRenderer> {
    let ui = TuiMetricsRendererWrapper::new(interrupter, checkpoint);
    #[cfg(unix)]
    keep_signals();
    Box::new(ui)
}

/// Makes Ctrl-C a signal again as soon as the terminal is in raw mode, which a thread of the UI
/// does.
#[cfg(unix)]
fn keep_signals() {
    use std::fs::File;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let Ok(terminal) = File::open("/dev/tty") else {
        return;
    };
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let Ok(mut modes) = tcgetattr(&terminal) else {
            return;
        };
        if !modes.local_modes.contains(LocalModes::ICANON) {
            modes.local_modes.insert(LocalModes::ISIG);
            let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
            return;
        }
        sleep(Duration::from_millis(2));
    }
}

/// Leaves the terminal as the UI found it, in a process that ends without the UI's own end.
pub fn leave_ui() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
}

/// Lets the process live on where the terminal is gone.
///
/// The thread of Burn's UI (0.22.1) then panics, since it cannot draw, and prints while it does. Where
/// that cannot be printed either, it would abort the process.
pub(crate) fn outlive_ui() {
    if stdout().is_terminal() {
        return;
    }
    #[cfg(unix)]
    if writeln!(stderr(), "\nThe terminal is closed.").is_err()
        && let Ok(nowhere) = OpenOptions::new().write(true).open("/dev/null")
    {
        let _ = rustix::stdio::dup2_stderr(nowhere);
    }
}

/// Ends the UI, which gives the terminal back, or leaves it behind where the terminal is gone: its
/// thread then reads keys for ever (crossterm 0.29), and would be waited for.
pub(crate) fn end_ui(ui: Box<dyn MetricsRenderer>) {
    if stdout().is_terminal() {
        drop(ui);
    } else {
        std::mem::forget(ui);
    }
}
