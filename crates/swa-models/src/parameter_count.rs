//! The number of parameters of a network, for tests.

use burn::module::Module;
use burn_swa_test_support::parameters::{elements, is_running_statistic, shapes};

/// Asserts the number of trainable parameters, and that the README's table has it.
pub(crate) fn assert_parameter_count(
    model: &impl Module,
    name: &str,
    configuration: &str,
    expected: usize,
) {
    let shapes = shapes(model);
    let trainable = shapes
        .iter()
        .filter(|(path, _)| !is_running_statistic(path));
    let count = elements(trainable);
    assert_eq!(count, expected, "{name}");

    let row = format!("| {name} | `{configuration}` | {} |", with_commas(count));
    let readme = include_str!("../README.md");
    assert!(readme.contains(&row), "the README has no row {row}");
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap())
        .collect();
    groups.join(",")
}
