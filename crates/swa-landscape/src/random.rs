//! Random numbers that depend on a seed and on their place alone.

use core::convert::Infallible;

use rand::TryRng;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): the same numbers on every
/// device and in every version.
pub(crate) struct Random(u64);

const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// The numbers at a place, such as those of a direction or of a batch.
    pub(crate) fn at(seed: u64, place: &[u64]) -> Self {
        let state = place.iter().fold(mix(seed), |state, part| {
            mix(state.wrapping_add(INCREMENT) ^ mix(*part))
        });
        Self(state)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(INCREMENT);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub(crate) fn uniform(mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A permutation of all numbers that depends on every bit.
pub(crate) fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            part.copy_from_slice(&number[..part.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first outputs for the state 1234567, as listed by Rosetta Code ("Pseudo-random numbers/Splitmix64").
        let mut random = Random(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn places_have_numbers_of_their_own_that_are_uniform() {
        let place = |seed, step, batch| Random::at(seed, &[0, step, batch]).uniform();
        let mut numbers: Vec<f64> = (0..100)
            .flat_map(|step| (0..10).map(move |batch| place(1, step, batch)))
            .collect();
        assert_eq!(place(1, 3, 4), numbers[34]);
        assert_ne!(place(2, 3, 4), numbers[34]);
        numbers.sort_by(f64::total_cmp);
        // Kolmogorov's distance of a thousand uniform numbers is above 1.95 / sqrt(1000) once in a thousand times.
        let ideal = |place: usize| (place as f64 + 0.5) / 1000.0;
        let off = numbers.iter().enumerate();
        let off = off.map(|(place, number)| (number - ideal(place)).abs());
        assert!(off.fold(0.0, f64::max) < 0.06);
    }
}
