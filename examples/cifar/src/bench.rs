//! `cifar bench`: the speed of a device, beside PyTorch's.

use swa_lab::Failure;
use swa_lab::measure::bench::{BenchArgs, Measurement};
use swa_lab::measure::beside;
use swa_lab::output::say;

/// Runs `cifar bench`.
///
/// # Errors
///
/// If there is no such device or network, or a file that is named holds no measurements.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    // A file that cannot be used is found before the minutes of timing.
    let others = args.beside.as_deref().map(beside::read).transpose()?;
    let measured = args.from.as_deref().map(beside::read).transpose()?;
    if let (Some(file), Some(others)) = (&args.beside, &others) {
        match &measured {
            Some(ours) => beside::check(ours, others, file)?,
            None => beside::check(&args.planned()?, others, file)?,
        }
    }
    let ours = match measured {
        Some(measured) => measured,
        None => time(args)?,
    };
    if let Some(others) = &others {
        if args.from.is_none() {
            say("");
        }
        for line in beside::table(&ours, others) {
            say(line);
        }
    }
    Ok(())
}

/// Times the device, and prints each measurement.
fn time(args: &BenchArgs) -> Result<Vec<Measurement>, Failure> {
    let mut measurements = Vec::new();
    args.measure(|measurement| {
        say(measurement.line()?);
        measurements.push(measurement);
        Ok(())
    })?;
    Ok(measurements)
}
