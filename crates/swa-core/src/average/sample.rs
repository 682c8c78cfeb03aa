//! Samples from the Gaussian of SWAG.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::spread::{Spread, as_mean};
use crate::kernels::{self, Floats};
use crate::{Average, AverageError};

/// The covariance of a [sample](Average::sample).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covariance {
    /// The variance of each weight, and the directions of the kept deviations: SWAG.
    Full,
    /// The variance of each weight alone: SWAG-Diagonal.
    Diagonal,
}

impl<M: Module> Average<M> {
    /// A model drawn from the Gaussian around the average, if deviations are [kept](Self::with_deviations):
    ///
    /// ```text
    /// mean + sqrt(scale) * (sqrt(variance) * z1 + sum_k deviation[k] * z2[k] / sqrt(rank - 1))
    /// ```
    ///
    /// with standard normal `z1`, one a weight that is averaged, and `z2`, one a deviation. Without the sum for [`Covariance::Diagonal`]. The paper's
    /// scale is 0.5 for the full covariance, with which this is its Gaussian, and 1 for the diagonal one; its code divides by
    /// `sqrt(rank - 1)` also while there are fewer deviations. A weight that never moved stays at its mean.
    ///
    /// The model is in validation mode, on the average's device. Its BatchNorm still has the statistics of the training: [re-estimate
    /// them](crate::reestimate_batch_norm) for each sample. An ensemble of 30 samples is the paper's: see
    /// [`evaluate_ensemble`](crate::evaluate_ensemble).
    ///
    /// Equal generators draw equal samples on all devices, since the numbers are drawn in the host's memory, in the order of the
    /// average's layout.
    ///
    /// # Example
    ///
    /// ```
    /// use burn::nn::{Linear, LinearConfig};
    /// use burn::tensor::Device;
    /// use rand::{SeedableRng, rngs::StdRng};
    /// use swa_core::{Average, Covariance, EqualWeights};
    ///
    /// let device = Device::default();
    /// let model = || LinearConfig::new(4, 2).init(&device);
    /// let mut average = Average::new(&model(), EqualWeights)?.with_deviations(20)?;
    /// for _step in 0..3 {
    ///     // Here, a step or an epoch of training.
    ///     average.update(&model())?;
    /// }
    /// let mut rng = StdRng::seed_from_u64(7);
    /// let sampled: Linear = average.sample(0.5, Covariance::Full, &mut rng)?;
    /// # let again = average.sample(0.5, Covariance::Full, &mut rng)?;
    /// # assert_ne!(sampled.weight.val().into_data(), again.weight.val().into_data());
    /// # Ok::<(), swa_core::AverageError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AverageError::NoDeviations`], [`AverageError::NoSpread`] before the second update, and [`AverageError::InvalidScale`].
    pub fn sample(
        &self,
        scale: f64,
        covariance: Covariance,
        rng: &mut impl Rng,
    ) -> Result<M, AverageError> {
        self.sample_from(scale, covariance, || StandardNormal.sample(rng))
    }

    /// The same with noise of your own, of mean 0 and variance 1: first `z1`, weight by weight, then `z2`, from the oldest deviation
    /// on.
    ///
    /// # Errors
    ///
    /// Those of [`sample`](Self::sample).
    pub fn sample_from(
        &self,
        scale: f64,
        covariance: Covariance,
        mut noise: impl FnMut() -> f32,
    ) -> Result<M, AverageError> {
        let spread = self.spread.as_ref().ok_or(AverageError::NoDeviations)?;
        let is_scale = scale >= 0.0 && scale.is_finite();
        if !is_scale {
            return Err(AverageError::InvalidScale { scale });
        }
        let collected = spread.collected.value;
        if collected < 2 {
            return Err(AverageError::NoSpread { collected });
        }
        let mean: Vec<Floats> = spread.of_averaged(self.weights()).cloned().collect();
        let on_the_diagonal = noise_of(spread, &mean, &mut noise);
        let mut terms = vec![(scale.sqrt(), on_the_diagonal)];
        if covariance == Covariance::Full {
            let share = (scale / (spread.rank() - 1) as f64).sqrt();
            let deviations = spread.in_order().map(|deviation| {
                let deviation = deviation.iter().zip(&mean);
                let deviation = deviation.map(|(values, mean)| as_mean(values.clone(), mean));
                (share * f64::from(noise()), deviation.collect())
            });
            terms.extend(deviations);
        }
        terms.insert(0, (1.0, mean));
        let sampled = spread.with_rest(kernels::combine(&terms), &self.weights, Floats::clone);
        let weights = self.weights.with_weights(sampled);
        Ok(self.skeleton.filled(&weights.in_dtypes_of_the_module()))
    }
}

/// `sqrt(variance) * z1` for each parameter.
fn noise_of(spread: &Spread, mean: &[Floats], mut noise: impl FnMut() -> f32) -> Vec<Floats> {
    let parameters = spread.variance.iter().zip(mean);
    let noises = parameters.map(|(variance, mean)| {
        let variance = as_mean(variance.clone(), mean).flat();
        let drawn: Vec<f32> = (0..mean.len()).map(|_| noise()).collect();
        let drawn = TensorData::new(drawn, [mean.len()]);
        let drawn = Tensor::<1>::from_data(drawn, (&mean.device(), mean.dtype()));
        Floats::of(variance.sqrt().mul(drawn))
    });
    noises.collect()
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;
    use burn_swa_test_support::parameters::values;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::EqualWeights;

    #[derive(Module, Debug)]
    struct Net {
        weight: Param<Tensor<1>>,
    }

    fn net(value: f32) -> Net {
        Net {
            weight: Param::from_data([value, 5.0, -value], &Device::flex()),
        }
    }

    fn average(weights: &[f32]) -> Average<Net> {
        let average = Average::new(&net(9.0), EqualWeights).unwrap();
        let mut average = average.with_deviations(3).unwrap();
        for value in weights {
            average.update(&net(*value)).unwrap();
        }
        average
    }

    #[track_caller]
    fn near(model: &Net, expected: [f64; 3]) {
        let got = values(model.weight.val());
        let close = |(got, expected): (&f64, &f64)| (got - expected).abs() < 1e-6;
        assert!(got.iter().zip(&expected).all(close), "{got:?}");
    }

    #[test]
    fn a_sample_is_the_mean_and_its_noise_by_the_formula() {
        // Mean 3, variance (4 + 0 + 4) / 3. Deviations 0, 1, 2 (means 1, 2, 3).
        let average = average(&[1.0, 3.0, 5.0]);
        // z1 of the three weights, then z2 of the deviations, from the oldest on.
        let noise = || {
            let mut noise = [1.0, 1.0, 0.0, 7.0, 1.0, -1.0].into_iter();
            move || noise.next().unwrap()
        };
        let deviation = (8.0_f64 / 3.0).sqrt();
        let sampled = average.sample_from(1.0, Covariance::Diagonal, noise());
        near(&sampled.unwrap(), [3.0 + deviation, 5.0, -3.0]);
        // 7 * 0 + 1 * 1 - 1 * 2, over the root of 3 - 1.
        let shared = -1.0 / 2.0_f64.sqrt();
        let sampled = average.sample_from(1.0, Covariance::Full, noise());
        near(
            &sampled.unwrap(),
            [3.0 + deviation + shared, 5.0, -3.0 - shared],
        );
        let root = 0.25_f64.sqrt();
        let sampled = average.sample_from(0.25, Covariance::Full, noise());
        near(
            &sampled.unwrap(),
            [3.0 + root * (deviation + shared), 5.0, -3.0 - root * shared],
        );
        let sampled = average.sample_from(0.0, Covariance::Full, noise());
        assert_eq!(values(sampled.unwrap().weight.val()), [3.0, 5.0, -3.0]);
    }

    #[test]
    fn samples_have_the_covariance_that_was_collected() {
        let average = average(&[1.0, 3.0, 5.0]);
        let mut rng = StdRng::seed_from_u64(3);
        let count = 20_000;
        let draw = |covariance, rng: &mut StdRng| -> [f64; 2] {
            let samples = (0..count).map(|_| {
                let sampled = average.sample(0.5, covariance, rng).unwrap();
                let sampled = values(sampled.weight.val());
                [sampled[0] - 3.0, sampled[2] + 3.0]
            });
            samples.fold([0.0, 0.0], |[square, product], [first, last]| {
                let count = f64::from(count);
                [
                    square + first * first / count,
                    product + first * last / count,
                ]
            })
        };
        // Half of 8/3 and of (0 + 1 + 4) / 2. The shared part of the first and last weight has opposite signs.
        let [square, product] = draw(Covariance::Full, &mut rng);
        assert!((square - (4.0 / 3.0 + 1.25)).abs() < 0.1, "{square}");
        assert!((product + 1.25).abs() < 0.1, "{product}");
        let [square, product] = draw(Covariance::Diagonal, &mut rng);
        assert!((square - 4.0 / 3.0).abs() < 0.1, "{square}");
        assert!(product.abs() < 0.1, "{product}");
    }

    #[test]
    fn equal_generators_draw_equal_samples() {
        let average = average(&[1.0, 3.0, 5.0]);
        let sample = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let sampled = average.sample(0.5, Covariance::Full, &mut rng).unwrap();
            values(sampled.weight.val())
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }

    #[test]
    fn a_sample_needs_a_spread_and_a_scale() {
        let error = |average: Average<Net>, scale| {
            let noise = || 0.0;
            let sampled = average.sample_from(scale, Covariance::Diagonal, noise);
            sampled.unwrap_err().to_string()
        };
        let plain = Average::new(&net(1.0), EqualWeights).unwrap();
        assert!(error(plain, 0.5).contains("`with_deviations(20)`"));
        let none = error(average(&[]), 0.5);
        assert!(
            none.contains("at least two updates, and there was none"),
            "{none}"
        );
        let one = error(average(&[1.0]), 0.5);
        assert!(
            one.contains("at least two updates, and there was 1"),
            "{one}"
        );
        for scale in [-0.5, f64::NAN, f64::INFINITY] {
            let error = error(average(&[1.0, 2.0]), scale);
            assert!(error.contains(&format!("not {scale}")), "{error}");
        }
    }
}
