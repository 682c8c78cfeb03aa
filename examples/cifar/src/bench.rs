//! `cifar bench`: the speed of a device, beside PyTorch's.

use swa_lab::Failure;
use swa_lab::measure::bench::BenchArgs;
use swa_lab::measure::beside;
use swa_lab::output::say;

/// Runs `cifar bench`.
///
/// # Errors
///
/// If there is no such device or network, or a file that is named holds no measurements.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    // A file that cannot be used is found before the minutes of timing.
    let others = match args.beside.as_deref() {
        Some(file) => Some((file, beside::read(file)?)),
        None => None,
    };
    let mut ours = Vec::new();
    if let Some(file) = &args.from {
        ours = beside::read(file)?;
    } else {
        args.measure(|measurement| {
            say(measurement.line()?);
            ours.push(measurement);
            Ok(())
        })?;
        if others.is_some() {
            say("");
        }
    }
    if let Some((file, others)) = &others {
        for line in beside::table(&ours, others, file)? {
            say(line);
        }
    }
    Ok(())
}
