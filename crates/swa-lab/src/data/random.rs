//! Random numbers that depend only on what they are used for.
//!
//! A generator that is carried along must be saved and restored to resume a run. Here nothing is
//! carried: a [`Stream`] is opened from the seed and the place where it is used (an epoch, an
//! image, a batch), which is all that a resumed run has to know.

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The purpose of a stream. Streams of different purposes are unrelated, even under the same seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The order of a training epoch.
    Order = 1,
    /// The augmentation of one image in a training epoch.
    Augmentation = 2,
    /// The order of a re-estimation pass.
    ReestimationOrder = 3,
    /// The augmentation of one image in a re-estimation pass.
    ReestimationAugmentation = 4,
    /// The seed of the device's own generator at one batch.
    Device = 5,
    /// The choice of images for a subset.
    Subset = 6,
    /// One synthetic training image.
    SyntheticTrain = 7,
    /// One synthetic test image.
    SyntheticTest = 8,
}

/// A sequence of random numbers: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014), started from a hash of its purpose, seed and place.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    state: u64,
}

impl Stream {
    /// The stream for `purpose` under `seed` at `place`, for example `[epoch, index]`.
    pub(super) fn new(purpose: Purpose, seed: u64, place: &[usize]) -> Self {
        let state = place
            .iter()
            .fold(absorb(absorb(0, purpose as u64), seed), |state, &word| {
                absorb(state, word as u64)
            });
        Self { state }
    }

    /// Uniform over all of `u64`.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform over `0..bound`, by multiplication (Lemire 2019); its bias, below `bound / 2^64`, is
    /// not corrected.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A fair coin.
    pub(super) fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// Uniform over `[0, 1)`, in steps of 2^-24.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform over `[low, high)`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Brings `items` into a uniformly random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// SplitMix64's finaliser: a bijection in which every input bit moves every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Takes one more word into a hash, so that `[1, 2]` and `[2, 1]` differ.
fn absorb(hash: u64, word: u64) -> u64 {
    mix((hash ^ word).wrapping_add(GAMMA))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for the state 1234567, as listed by Rosetta Code ("Pseudo-random
        // numbers/Splitmix64").
        let mut stream = Stream { state: 1_234_567 };
        let outputs: [u64; 5] = std::array::from_fn(|_| stream.next_u64());
        assert_eq!(
            outputs,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ]
        );
    }

    #[test]
    fn streams_differ_by_purpose_seed_and_every_word_of_the_place() {
        let streams = [
            Stream::new(Purpose::Order, 0, &[1, 2]),
            Stream::new(Purpose::Augmentation, 0, &[1, 2]),
            Stream::new(Purpose::Order, 1, &[1, 2]),
            Stream::new(Purpose::Order, 0, &[2, 1]),
            Stream::new(Purpose::Order, 0, &[1, 3]),
            Stream::new(Purpose::Order, 0, &[1]),
            Stream::new(Purpose::Order, 0, &[]),
        ];
        let mut firsts: Vec<u64> = streams.map(|mut stream| stream.next_u64()).to_vec();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 7);
    }

    #[test]
    fn every_order_of_three_is_as_likely_as_every_other() {
        let mut counts = std::collections::BTreeMap::new();
        for place in 0..6_000 {
            let mut items = [0, 1, 2];
            Stream::new(Purpose::Order, 0, &[place]).shuffle(&mut items);
            *counts.entry(items).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1000 expected of each; the standard deviation is 29.
        assert!(counts.values().all(|count| (count - 1000).abs() < 130));
    }

    #[test]
    fn uniform_numbers_have_their_distributions_mean_and_variance() {
        let mut stream = Stream::new(Purpose::Order, 0, &[]);
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(stream.unit())).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((variance - 1.0 / 12.0).abs() < 0.002, "{variance}");
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
    }
}
