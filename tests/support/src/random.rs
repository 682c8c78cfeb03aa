//! Random numbers that are the same in every run of a test, in sequence and by position.

/// A sequence of random numbers: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence that `seed` starts.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform over all of `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end.max(1) as u64) as usize
    }

    /// Returns `count` random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next_u64() as u8).collect()
    }
}

/// The first `count` numbers of `stream`, of 24 bits. Weights, images and labels of the reference vectors are made from such
/// streams (`tests/vectors/README.md` gives the formulas).
pub fn bits(stream: u64, count: usize) -> impl Iterator<Item = u64> {
    let start = stream << 32;
    (0..count as u64).map(move |index| Random(start.wrapping_add(index)).next_u64() >> 40)
}

/// The first `count` values of `stream`, uniform in `centre ± width / 2`.
pub fn uniform(stream: u64, count: usize, width: f64, centre: f64) -> Vec<f32> {
    bits(stream, count)
        .map(|bits| ((bits as f64 / 16_777_216.0 - 0.5) * width + centre) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first outputs for the state 1234567, as listed by Rosetta Code ("Pseudo-random numbers/Splitmix64").
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_first_values_are_those_the_readme_gives() {
        assert_eq!(
            uniform(4096, 3, 1.0, 0.0),
            [-0.282_090_72, -0.033_883_214, 0.037_714_72]
        );
    }
}
