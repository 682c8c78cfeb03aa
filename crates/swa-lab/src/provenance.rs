//! The origin of a number: the program, the machine and the time.

use std::fs;
use std::path::Path;

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

/// The version of this program, with its commit if it was built in a repository.
pub const VERSION: &str = env!("CIFAR_VERSION");

/// The version of Burn, which a test holds against `Cargo.lock`.
pub const BURN_VERSION: &str = "0.22.1";

/// The origin of what is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The command that began it.
    pub command: String,
    /// The version of the program.
    pub version: String,
    /// The version of Burn.
    pub burn_version: String,
    /// The device.
    pub device: String,
    /// The processor and its number of threads.
    pub machine: String,
    /// The time at which it was begun.
    pub started: String,
}

impl Origin {
    /// This command, which begins now, on the device with this name.
    pub fn of_this_command(device: &str) -> Self {
        Self {
            command: command_line(std::env::args().skip(1)),
            version: VERSION.to_owned(),
            burn_version: BURN_VERSION.to_owned(),
            device: device.to_owned(),
            machine: machine(),
            started: now(),
        }
    }
}

/// Now, in UTC, to the second, as in RFC 3339.
pub fn now() -> String {
    let now = Timestamp::now();
    // Rounding fails at the end of time only.
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// The processor and its number of threads.
pub fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {threads} threads", processor())
}

/// The processor's name where Linux tells it, else its architecture.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = field(&info, "model name").map(str::to_owned);
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The most memory that this process has had, in bytes, where the system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    peak_memory_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The same from the text that Linux tells it in: units of 1,024 bytes, which it calls kB.
fn peak_memory_in(status: &str) -> Option<u64> {
    let peak = field(status, "VmHWM")?.strip_suffix(" kB")?;
    Some(peak.trim().parse::<u64>().ok()? * 1024)
}

/// The numbers of the signals that this process ignores, where Linux tells them.
pub(crate) fn ignored_signals() -> Option<Vec<i32>> {
    ignored_signals_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The same from the text that Linux tells it in: signal 1 is the lowest bit of a hexadecimal number.
fn ignored_signals_in(status: &str) -> Option<Vec<i32>> {
    let bits = u64::from_str_radix(field(status, "SigIgn")?, 16).ok()?;
    Some(
        (1..=64)
            .filter(|signal| bits >> (signal - 1) & 1 == 1)
            .collect(),
    )
}

/// The first value of a key in lines of `key: value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim())
}

/// A command of this program, as one would type it again.
pub fn command_line(arguments: impl IntoIterator<Item = String>) -> String {
    command_of(&program(), arguments)
}

/// The name of this program.
pub(crate) fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// An argument, in quotation marks if a shell needs them.
pub(crate) fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

fn command_of(program: &str, arguments: impl IntoIterator<Item = String>) -> String {
    let arguments = arguments.into_iter().map(|argument| quoted(&argument));
    [program.to_owned()]
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_burn_is_the_one_in_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"burn\"\nversion = \"{BURN_VERSION}\"\n");
        assert!(lock.contains(&entry), "not {BURN_VERSION}");
    }

    #[test]
    fn the_version_begins_with_the_packages() {
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")), "{VERSION}");
    }

    #[test]
    fn the_time_is_in_utc_and_to_the_second() {
        let now = now();
        assert_eq!(
            (now.len(), &now[10..11], &now[19..]),
            (20, "T", "Z"),
            "{now}"
        );
    }

    #[test]
    fn peak_memory_is_read_in_bytes() {
        let status = "Name:\tcifar\nVmPeak:\t  900 kB\nVmHWM:\t   123456 kB\nVmRSS:\t   100 kB\n";
        assert_eq!(peak_memory_in(status), Some(126_418_944));
        assert_eq!(peak_memory_in("Name:\tcifar\n"), None);
    }

    #[test]
    fn ignored_signals_are_read_by_their_numbers() {
        // SIGHUP is 1, SIGPIPE is 13.
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_signals_in(status), Some(vec![1, 13]));
        assert_eq!(ignored_signals_in("Name:\tcifar\n"), None);
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let arguments = ["experiment", "small", "--set", "seeds=[1, 2]", "it's"];
        assert_eq!(
            command_of("cifar", arguments.map(String::from)),
            r"cifar experiment small --set 'seeds=[1, 2]' 'it'\''s'"
        );
    }
}
