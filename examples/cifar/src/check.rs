//! `cifar check`: whether averaging works on a device, and what it costs there.

use swa_lab::measure::Costs;
use swa_lab::measure::device_check::{
    Arithmetic, CheckArgs, Deviation, STEPS, averaging_from_flex, device_name, memory,
    training_from_flex,
};
use swa_lab::output::{note, say};
use swa_lab::provenance::{BURN_VERSION, VERSION};
use swa_lab::run::config::ConfigError;
use swa_lab::{Failure, device};

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

    let arithmetic = Arithmetic::of(&args.device);
    let averaging = averaging_from_flex(&device)?;
    let averages = compare(
        "averages as on flex, of the same weights",
        averaging,
        Deviation::OF_AVERAGING,
    );
    let training = training_from_flex(&device)?;
    let what = format!(
        "training as on flex, after {STEPS} steps in {}",
        arithmetic.name
    );
    let trains = compare(&what, training, arithmetic.allowed);

    note("timing ...");
    let costs = Costs::of(network, &device, args.batch_size, args.rounds)?;
    costs.print(args);
    let memory = memory(&device);
    say(format!("memory: {memory}\n"));

    say("To paste into an issue:");
    say(format!(
        "cifar {VERSION}, Burn {BURN_VERSION}, {name}: averages deviate by {:.1e}, training in {} by {:.1e}, {} ({} \
         images) {}, {memory}",
        averaging.largest(),
        arithmetic.name,
        training.largest(),
        args.model.name(),
        args.batch_size,
        costs.in_short(),
    ));
    averages.and(trains).map_err(|what| {
        format!(
            "{} computes other {what}. Report it with the line above",
            args.device
        )
        .into()
    })
}

/// Says whether something is the same as on flex. If it is not, returns that in words.
fn compare(what: &str, deviation: Deviation, allowed: f64) -> Result<(), String> {
    let same = deviation.largest() <= allowed;
    say(format!(
        "{} {what}: weights deviate by {:.1e}, BatchNorm's statistics by {:.1e}; at most {allowed:.0e}",
        if same { "the same" } else { "NOT the same" },
        deviation.weights,
        deviation.statistics,
    ));
    if same {
        Ok(())
    } else {
        let largest = deviation.largest();
        Err(format!(
            "{what}: expected a deviation of at most {allowed:.0e}, got {largest:.1e}"
        ))
    }
}
