//! Numbers that are drawn, the same in every run of a test.

/// A stream of numbers: the multiplier is that of Knuth's MMIX.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Uniform over `0..=most`.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % (most + 1)
    }
}
