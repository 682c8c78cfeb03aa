#![doc = include_str!("../README.md")]

/// `rounds`, or a single one where Cargo tests that benchmarks still run (`cargo test --benches`).
pub fn rounds(rounds: usize) -> usize {
    if std::env::args().any(|argument| argument == "--bench") {
        rounds
    } else {
        1
    }
}
