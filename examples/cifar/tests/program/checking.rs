//! `cifar check`.

use crate::process::cifar;

/// Checks a device with a small network, and returns what that printed.
fn check(device: &str) -> String {
    let settings = "--model preresnet-8 --width-divisor 16 --batch-size 4 --rounds 1 --device";
    let arguments = ["check"].into_iter().chain(settings.split(' '));
    let ended = cifar(arguments.chain([device]));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    ended.output
}

/// The text of a line after `name`.
fn value<'a>(output: &'a str, name: &str) -> &'a str {
    let line = output
        .lines()
        .find_map(|line| line.trim().strip_prefix(name));
    line.unwrap_or_else(|| panic!("no line of {name}: {output}"))
        .trim()
}

fn assert_complete(device: &str, output: &str) {
    assert!(output.starts_with(device), "{output}");
    for line in [
        "\nthe same averages as on flex, of the same weights: ",
        "\nthe same training as on flex, after 4 steps in f32: ",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    for name in [
        "with SWA, once an epoch",
        "with EMA, at every step",
        "re-estimating BatchNorm",
    ] {
        let times: f64 = value(output, name)
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(times > 0.0, "{output}");
    }
    let last = output.lines().last().unwrap();
    assert!(
        last.starts_with("cifar 0.") && last.contains(device),
        "{last}"
    );
    assert!(last.contains("images/s") && last.contains("MiB"), "{last}");
}

#[test]
fn a_device_is_checked_against_flex_and_summed_up_in_a_line() {
    let output = check("flex");
    assert_complete("flex", &output);
    // The same device computes the same.
    let same = "weights deviate by 0.0e0, BatchNorm's statistics by 0.0e0; at most ";
    assert_eq!(output.matches(same).count(), 2, "{output}");
}

#[test]
#[cfg(feature = "wgpu")]
fn wgpu_is_checked_against_flex() {
    assert_complete("wgpu (", &check("wgpu"));
}

#[test]
fn an_impossible_network_or_number_is_refused_before_timing() {
    let ended = cifar(["check", "--rounds", "0"]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.errors.contains("--rounds"), "{}", ended.errors);
    let refusal = cifar(["check", "--device", "gpu"]).refusal();
    assert!(refusal.contains("there is no device `gpu`"), "{refusal}");
}
