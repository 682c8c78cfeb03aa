//! Processes of a program, as a user runs it: judged by what they print, and how they end.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// The option of GNU's `env` by which a program gets SIGHUP though the tests ignore it, as under `nohup`.
#[cfg(target_os = "linux")]
const WITH_HANGUP: &str = "--default-signal=HUP";

/// A program, which gets every signal.
pub fn program(path: &str) -> Command {
    #[cfg(target_os = "linux")]
    {
        let mut command = Command::new("env");
        command.args([WITH_HANGUP, path]);
        command
    }
    #[cfg(not(target_os = "linux"))]
    Command::new(path)
}

/// Runs the program at `path` to its end.
pub fn run<A: AsRef<OsStr>>(path: &str, arguments: impl IntoIterator<Item = A>) -> Ended {
    Process::start(Command::new(path).args(arguments)).end()
}

/// A process that may still run. It is killed if the test ends before it.
pub struct Process {
    child: Child,
    /// The folder of the files that it prints to. They can be read while it runs, and never fill up
    /// as a pipe does.
    printed: TempDir,
}

/// A process on a terminal of its own.
#[cfg(target_os = "linux")]
pub struct Terminal {
    /// The process.
    pub process: Process,
    /// The keys that are typed there.
    pub keyboard: std::process::ChildStdin,
}

#[cfg(target_os = "linux")]
impl Terminal {
    /// Runs a command of the shell on a terminal of an ordinary size.
    pub fn start(command: &str) -> Self {
        let command = format!("stty rows 40 cols 120 && exec env {WITH_HANGUP} {command}");
        // From bsdutils, which every Debian has.
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--flush", "--command", &command]);
        script.arg("/dev/null").env("TERM", "xterm-256color");
        let mut process = Process::start_with(&mut script, Stdio::piped());
        let keyboard = process.child.stdin.take().unwrap();
        Self { process, keyboard }
    }
}

impl Process {
    /// Starts it without an input.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::null())
    }

    /// Starts it with an input that stays open until it is waited for.
    pub fn start_with_open_input(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    fn start_with(command: &mut Command, input: Stdio) -> Self {
        let printed = tempfile::tempdir().unwrap();
        let file = |name| File::create(printed.path().join(name)).unwrap();
        let child = command
            .stdin(input)
            .stdout(file("output"))
            .stderr(file("errors"))
            .spawn()
            .unwrap();
        Self { child, printed }
    }

    /// Waits until `moment` has come, and returns whether the process runs on.
    pub fn runs_until(&mut self, moment: impl Fn() -> bool) -> bool {
        while !moment() {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits until it has printed `text`, and returns whether it runs on.
    pub fn runs_until_it_prints(&mut self, text: &str) -> bool {
        let files = ["output", "errors"].map(|name| self.printed.path().join(name));
        self.runs_until(|| files.iter().any(|file| read(file).contains(text)))
    }

    /// Waits until `moment` has come or the process has ended, and looks as often as it can.
    pub fn runs_until_seen(&mut self, mut moment: impl FnMut() -> bool) {
        while !moment() && self.child.try_wait().unwrap().is_none() {}
    }

    /// Kills it at once, if it runs.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Its number.
    #[cfg(target_os = "linux")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it the signal of this name.
    pub fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    /// Signals the processes that it has started, and then itself.
    #[cfg(target_os = "linux")]
    pub fn signal_all(&self, name: &str) {
        self.signal_children(name);
        self.signal(name);
    }

    /// Signals the processes that it has started.
    #[cfg(target_os = "linux")]
    pub fn signal_children(&self, name: &str) {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        for child in children.split_whitespace() {
            signal(name, child);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it printed a panic.
    pub fn end(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        let errors = read(&self.printed.path().join("errors"));
        // On a busy machine, the program takes so long that it prints its progress.
        let is_progress = |line: &&str| {
            [" images/s\n", " MB\n"]
                .iter()
                .any(|end| line.ends_with(end))
        };
        let ended = Ended {
            status: status.code(),
            output: read(&self.printed.path().join("output")),
            errors: errors
                .split_inclusive('\n')
                .filter(|line| !is_progress(line))
                .collect(),
        };
        for text in [&ended.output, &ended.errors] {
            assert!(
                !text.contains("panicked") && !text.contains("PANIC"),
                "{text}"
            );
        }
        ended
    }
}

fn signal(name: &str, process: &str) {
    // The shell's own `kill` is on every machine.
    let status = Command::new("sh")
        .args(["-c", "kill -s $0 $1", name, process])
        .status()
        .unwrap();
    assert!(status.success());
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(file: &PathBuf) -> String {
    String::from_utf8(std::fs::read(file).unwrap()).unwrap()
}

/// The outcome of a process.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status, unless a signal ended it.
    pub status: Option<i32>,
    /// The lines that it printed.
    pub output: String,
    /// The lines that it complained in, without progress.
    pub errors: String,
}

impl Ended {
    /// The output of a process that succeeded, without a complaint.
    pub fn success(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        assert_eq!(self.errors, "");
        self.output
    }

    /// The one short line in which a process says why it failed.
    pub fn refusal(self) -> String {
        let line = self.refusal_with_a_list();
        assert!(line.chars().count() < 400, "a long line: {line}");
        line
    }

    /// The line in which it says so, which may be long because it lists every tensor that does not
    /// fit.
    pub fn refusal_with_a_list(self) -> String {
        assert!(self.status.is_some_and(|status| status != 0), "{self:?}");
        let line = self.errors.strip_prefix("error: ");
        let line = line.and_then(|line| line.strip_suffix('\n'));
        let Some(line) = line else {
            panic!("no line of an error: {self:?}");
        };
        assert!(!line.contains('\n'), "more than a line: {line}");
        line.to_owned()
    }
}
