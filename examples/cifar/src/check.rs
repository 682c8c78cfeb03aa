//! `cifar check`: whether averaging works on a device, and what it costs there.

use swa_lab::measure::device_check::{
    CheckArgs, Costs, STEPS, deviation_from_flex, device_name, memory,
};
use swa_lab::output::{note, say};
use swa_lab::provenance::{BURN_VERSION, VERSION};
use swa_lab::run::config::ConfigError;
use swa_lab::{Failure, device};

/// The largest deviation of averaged weights from those of flex that is allowed, relative to their
/// L2 norm. Devices add in different orders, and some round a product's factors.
const ALLOWED: f64 = 1e-4;

/// Runs `cifar check`.
///
/// # Errors
///
/// If there is no such device or network, or the device computes something else than the CPU.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let device = device::parse(&args.device)?;
    let network = args.model.clone().with_width_divisor(args.width_divisor);
    let network = network.init(&device.clone().autodiff());
    let network = network.map_err(ConfigError::from)?;
    let name = device_name(&args.device, &device);
    say(format!("{name}; cifar {VERSION}, Burn {BURN_VERSION}\n"));

    let deviation = deviation_from_flex(&device)?;
    let verdict = if deviation.largest() <= ALLOWED {
        "the same"
    } else {
        "NOT the same"
    };
    say(format!(
        "{verdict} as on flex, after {STEPS} steps: averaged weights deviate by {:.1e}, re-estimated \
         statistics by {:.1e}; at most {ALLOWED:.0e}",
        deviation.weights, deviation.statistics,
    ));

    note("timing ...");
    let costs = Costs::of(args, &device, network)?;
    costs.print(args);
    let memory = memory(&device);
    say(format!("memory: {memory}\n"));

    say("To paste into an issue:");
    say(format!(
        "cifar {VERSION}, Burn {BURN_VERSION}, {name}: deviation {:.1e}, {} ({} images) {}, {memory}",
        deviation.largest(),
        args.model.name(),
        args.batch_size,
        costs.in_short(),
    ));
    if deviation.largest() <= ALLOWED {
        Ok(())
    } else {
        Err(format!(
            "{} computes other averages than flex: they deviate by {:.1e}, expected at most \
             {ALLOWED:.0e}. Report it with the line above",
            args.device,
            deviation.largest()
        )
        .into())
    }
}
