//! The spread of the weights around their average: their variance, and the last deviations.

use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, FloatDType, Tensor};

use super::CONTAINER;
use crate::burn_0_22::reads_when_looked_at;
use crate::kernels::{self, Floats, Spreading, accumulator_dtype};
use crate::weights::{Role, Weights};
use crate::{Average, AverageError, Counter};

impl<M: burn::module::Module> Average<M> {
    /// Keeps the variance of the weights, and the last `rank` deviations of the collected weights from the average: the Gaussian of
    /// SWAG, from which [`sample`](Self::sample) draws models. The paper's rank is 20.
    ///
    /// After the update with weights `w` and the rule's weight `a`, which leaves the average at `mean`,
    ///
    /// ```text
    /// deviation = w - mean
    /// variance = (1 - a) * variance + a / (1 - a) * deviation^2
    /// ```
    ///
    /// (Welford 1962). Under equal weights, this is the variance of all collected weights, `mean(w^2) - mean(w)^2`, and always that of
    /// the weights as the rule weights them. If there were updates before, they count as if all their weights had been at the mean.
    ///
    /// The authors' code keeps the mean of the squares instead, and subtracts. That cancels: in f32, a weight that never moved
    /// gets a spread of 5e-5 there, and 0 here.
    ///
    /// Each update then waits for the device to say whether the weights are finite, and takes a second pass, which replaces one
    /// deviation.
    ///
    /// # Memory
    ///
    /// `rank + 2` copies of the parameters, in memory and in records: the mean, the variance, and the deviations, of which there are as
    /// many as updates until there are `rank`. To keep them in the host's memory, see [`with_device`](Self::with_device). On a
    /// device that [reads tensors later](crate::read_tensors_when_asked), the variance and a deviation are there twice. Weights that
    /// are [not averaged](Self::with_weights_averaged) have no spread: they take no memory, and are zeros in records.
    ///
    /// Source: Maddox et al. 2019, *A Simple Baseline for Bayesian Uncertainty in Deep Learning*, sec. 3.2 and algorithm 1.
    ///
    /// # Errors
    ///
    /// [`AverageError::TooFewDeviations`] for a rank below 2.
    pub fn with_deviations(mut self, rank: usize) -> Result<Self, AverageError> {
        if rank < 2 {
            return Err(AverageError::TooFewDeviations { rank });
        }
        self.spread = Some(Spread::new(rank, &self.weights, self.averaged_weights()));
        Ok(self)
    }

    /// The largest number of deviations that are [kept](Self::with_deviations), if they are.
    pub fn rank(&self) -> Option<usize> {
        self.spread.as_ref().map(Spread::rank)
    }

    /// The variance of each weight, if deviations are [kept](Self::with_deviations): 0 for those that are not averaged. The running
    /// statistics, ints and bools that come along are the average's.
    pub fn variance(&self) -> Option<Weights> {
        let (spread, mean) = (self.spread.as_ref()?, self.weights());
        let variance = spread.variance.clone();
        Some(mean.with_weights(spread.with_rest(variance, mean, zeros)))
    }

    /// The last deviations from the average, the oldest first: none if they are not [kept](Self::with_deviations).
    pub fn deviations(&self) -> Vec<Weights> {
        let Some(spread) = &self.spread else {
            return Vec::new();
        };
        let mean = self.weights();
        let deviations = spread.in_order().cloned();
        let deviations = deviations.map(|it| mean.with_weights(spread.with_rest(it, mean, zeros)));
        deviations.collect()
    }

    /// Tells of each weight whether it is averaged.
    pub(super) fn averaged_weights(&self) -> Vec<bool> {
        let parameters = self.weights.layout().parameters().iter();
        let weights = parameters.zip(&self.averaged);
        let weights = weights.filter(|(parameter, _)| parameter.role == Role::Weight);
        weights.map(|(_, averaged)| *averaged).collect()
    }
}

/// Values of all weights that are averaged, in the order of a layout.
type Vector = Vec<Floats>;

/// The variance of the weights that an average was updated with, and the last of their deviations from it.
#[derive(Clone)]
pub(super) struct Spread {
    rank: Counter,
    /// The number of updates since deviations are kept.
    pub(super) collected: Counter,
    /// Tells of each weight whether it is averaged. The others have no spread.
    averaged: Vec<bool>,
    pub(super) variance: Vector,
    /// At most `rank`. Update `i`, counted from 0, has its deviation at `i % rank`.
    deviations: Vec<Vector>,
    /// The ids of all weights in records.
    ids: Vec<ParamId>,
    /// The variance and the deviation before the last update, on a device where a record may not have been read yet: while there is
    /// another handle on them, their memory is not written to, even where Burn defers operations.
    replaced: Option<(Vector, Vector)>,
}

impl Spread {
    fn new(rank: usize, mean: &Weights, averaged: Vec<bool>) -> Self {
        let mut spread = Self {
            rank: Counter::new(rank),
            collected: Counter::new(0),
            ids: averaged.iter().map(|_| ParamId::new()).collect(),
            averaged,
            variance: Vec::new(),
            deviations: Vec::new(),
            replaced: None,
        };
        spread.variance = spread.of_averaged(mean).map(zeros).collect();
        spread
    }

    /// The same for an average of other weights: those that were not averaged before begin with zeros.
    pub(super) fn averaging(self, averaged: Vec<bool>, mean: &Weights) -> Self {
        let chosen = |vector: &Vector| -> Vector {
            let all = self.with_rest(vector.clone(), mean, zeros).into_iter();
            let chosen = all.zip(&averaged).filter(|(_, averaged)| **averaged);
            chosen.map(|(values, _)| values).collect()
        };
        let variance = chosen(&self.variance);
        let deviations = self.deviations.iter().map(chosen).collect();
        Self {
            averaged,
            variance,
            deviations,
            ..self
        }
    }

    /// The values of the weights that are averaged.
    pub(super) fn of_averaged<'a>(
        &'a self,
        weights: &'a Weights,
    ) -> impl Iterator<Item = &'a Floats> {
        let weights = weights.weights().zip(&self.averaged);
        let weights = weights.filter(|(_, averaged)| **averaged);
        weights.map(|(values, _)| values)
    }

    /// Values of all weights: those of `vector` for weights that are averaged, and for the others what `rest` makes of the mean's.
    pub(super) fn with_rest(
        &self,
        vector: Vector,
        mean: &Weights,
        rest: impl Fn(&Floats) -> Floats,
    ) -> Vec<Floats> {
        let mut vector = vector.into_iter();
        let all = mean.weights().zip(&self.averaged);
        let all = all.map(|(mean, averaged)| {
            let values = if *averaged { vector.next() } else { None };
            values.unwrap_or_else(|| rest(mean))
        });
        all.collect()
    }

    /// The same before the first update.
    pub(super) fn restarted(mut self) -> Self {
        self.collected.value = 0;
        self.variance = self.variance.iter().map(zeros).collect();
        self.deviations.clear();
        self
    }

    pub(super) fn rank(&self) -> usize {
        self.rank.value
    }

    /// The deviations, the oldest first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Vector> {
        let oldest = if self.deviations.len() < self.rank() {
            0
        } else {
            self.collected.value % self.rank()
        };
        let (last, first) = self.deviations.split_at(oldest);
        first.iter().chain(last)
    }

    /// Adds the deviation of weights from the mean that an update towards them by `weight` has left. The mean is on their device.
    pub(super) fn add(&mut self, mean: &Weights, current: &Weights, weight: f64) {
        let place = self.collected.value % self.rank();
        if place == self.deviations.len() {
            self.deviations
                .push(self.variance.iter().map(zeros).collect());
        }
        let variance = std::mem::take(&mut self.variance);
        let deviation = std::mem::take(&mut self.deviations[place]);
        // The operations of the last update are done by now, since this one has read whether the weights are finite.
        let is_read_later = mean.devices().iter().any(reads_when_looked_at);
        self.replaced = is_read_later.then(|| (variance.clone(), deviation.clone()));
        let written = variance.into_iter().zip(deviation);
        let read = self.of_averaged(current).zip(self.of_averaged(mean));
        let parameters = read.zip(written);
        let parameters = parameters.map(|((current, mean), (variance, deviation))| Spreading {
            current: as_mean(current.clone(), mean),
            mean: mean.clone(),
            variance: as_mean(variance, mean),
            deviation: as_mean(deviation, mean),
        });
        let mut parameters: Vec<Spreading> = parameters.collect();
        // A weight of 1 forgets all that was before.
        let (kept, added) = if weight < 1.0 {
            (1.0 - weight, weight / (1.0 - weight))
        } else {
            (0.0, 0.0)
        };
        kernels::spread(&mut parameters, kept, added);
        let spread = parameters.into_iter().map(|it| (it.variance, it.deviation));
        (self.variance, self.deviations[place]) = spread.unzip();
        self.collected.value = self.collected.value.saturating_add(1);
    }

    pub(super) fn moved_to(self, device: &Device) -> Self {
        let moved = |vector: Vector| -> Vector {
            let values = vector.into_iter();
            values.map(|values| values.moved_to(device)).collect()
        };
        Self {
            variance: moved(self.variance),
            deviations: self.deviations.into_iter().map(moved).collect(),
            ..self
        }
    }

    /// Visits the `rank`, the number of updates as `collected`, the variance, and the deviations by their places. Each parameter is
    /// flat.
    pub(super) fn visit<V: ModuleVisitor>(&self, mean: &Weights, visitor: &mut V) {
        let device = mean.first_device();
        self.rank.visit_as(RANK, CONTAINER, visitor, &device);
        self.collected
            .visit_as(COLLECTED, CONTAINER, visitor, &device);

        visitor.enter_module(VARIANCE, CONTAINER);
        self.visit_vector(&self.variance, mean, visitor);
        visitor.exit_module(VARIANCE, CONTAINER);

        visitor.enter_module(DEVIATIONS, CONTAINER);
        for (place, deviation) in self.deviations.iter().enumerate() {
            let place = place.to_string();
            visitor.enter_module(&place, LIST);
            self.visit_vector(deviation, mean, visitor);
            visitor.exit_module(&place, LIST);
        }
        visitor.exit_module(DEVIATIONS, CONTAINER);
    }

    fn visit_vector<V: ModuleVisitor>(&self, vector: &Vector, mean: &Weights, visitor: &mut V) {
        let mut values = vector.iter().cloned();
        for weight in self.recorded(mean) {
            let param = weight.param(&mut values);
            visitor.enter_module(weight.path, "");
            visitor.visit_float(&param);
            visitor.exit_module(weight.path, "");
        }
    }

    /// Maps what [`visit`](Self::visit) visits. A record brings as many deviations as it has, by its number of updates.
    pub(super) fn map<Mapper: ModuleMapper>(mut self, mean: &Weights, mapper: &mut Mapper) -> Self {
        let device = mean.first_device();
        // One of another rank has other deviations, and does not fit.
        let rank = self.rank();
        self.rank = self.rank.map_as(RANK, CONTAINER, mapper, &device);
        self.rank.value = rank;
        self.collected = self.collected.map_as(COLLECTED, CONTAINER, mapper, &device);

        mapper.enter_module(VARIANCE, CONTAINER);
        let variance = std::mem::take(&mut self.variance);
        self.variance = self.map_vector(variance, mean, mapper);
        mapper.exit_module(VARIANCE, CONTAINER);

        mapper.enter_module(DEVIATIONS, CONTAINER);
        let held = self.collected.value.min(self.rank());
        let mut deviations = std::mem::take(&mut self.deviations).into_iter();
        for place in 0..held {
            let deviation = deviations.next();
            let deviation =
                deviation.unwrap_or_else(|| self.of_averaged(mean).map(zeros).collect());
            let place = place.to_string();
            mapper.enter_module(&place, LIST);
            let deviation = self.map_vector(deviation, mean, mapper);
            mapper.exit_module(&place, LIST);
            self.deviations.push(deviation);
        }
        mapper.exit_module(DEVIATIONS, CONTAINER);
        self
    }

    fn map_vector<Mapper: ModuleMapper>(
        &self,
        vector: Vector,
        mean: &Weights,
        mapper: &mut Mapper,
    ) -> Vector {
        let mut values = vector.into_iter();
        let mut mapped = Vec::new();
        for weight in self.recorded(mean) {
            let param = weight.param(&mut values);
            mapper.enter_module(weight.path, "");
            let param = mapper.map_float(param);
            mapper.exit_module(weight.path, "");
            if weight.averaged {
                mapped.push(Floats::of(param.val()));
            }
        }
        mapped
    }

    /// All weights, as they are in records.
    fn recorded<'a>(&'a self, mean: &'a Weights) -> impl Iterator<Item = Recorded<'a>> {
        let parameters = mean.layout().parameters().iter();
        let parameters = parameters.filter(|parameter| parameter.role == Role::Weight);
        let weights = parameters.zip(mean.weights());
        let weights = weights.zip(self.averaged.iter().zip(&self.ids));
        weights.map(|((parameter, mean), (averaged, id))| Recorded {
            path: &parameter.path,
            mean,
            averaged: *averaged,
            id: *id,
        })
    }
}

/// A weight in a record of a vector.
struct Recorded<'a> {
    path: &'a str,
    mean: &'a Floats,
    averaged: bool,
    id: ParamId,
}

impl Recorded<'_> {
    /// The next of the `values`, or zeros that are made when they are read, for a weight that is not averaged.
    fn param(&self, values: &mut impl Iterator<Item = Floats>) -> Param<Tensor<1>> {
        let values = if self.averaged { values.next() } else { None };
        if let Some(values) = values {
            return Param::initialized(self.id, values.flat());
        }
        let (shape, dtype) = ([self.mean.len()], accumulator_dtype(self.mean.dtype()));
        let zeros = move |device: &Device, _| Tensor::zeros(shape, (device, dtype.into()));
        Param::uninitialized(self.id, zeros, self.mean.device(), false, shape.into())
    }
}

const RANK: &str = "rank";
const COLLECTED: &str = "collected";
const VARIANCE: &str = "variance";
const DEVIATIONS: &str = "deviations";

/// The container of the deviations.
const LIST: &str = "Vec";

/// The values on the device of the mean, and in its dtype.
pub(super) fn as_mean(values: Floats, mean: &Floats) -> Floats {
    let (device, dtype) = (mean.device(), mean.dtype().into());
    values.moved_to(&device).cast(dtype)
}

/// Zeros in the dtype of an accumulator, in memory of their own.
fn zeros(values: &Floats) -> Floats {
    let dtype: FloatDType = accumulator_dtype(values.dtype());
    Floats::of(Tensor::<1>::zeros(
        [values.len()],
        (&values.device(), dtype.into()),
    ))
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::store::ModuleRecord;
    use burn_swa_test_support::parameters::values;

    use super::*;
    use crate::kernels::as_elsewhere;
    use crate::{Covariance, EqualWeights, Exponential};

    #[derive(Module, Debug)]
    struct Net {
        weight: Param<Tensor<2>>,
        shift: Param<Tensor<1>>,
        wide: Param<Tensor<1>>,
    }

    fn net(value: f32) -> Net {
        let device = Device::flex();
        let weight = Tensor::<2>::from_floats([[value, 0.1]], &device);
        let wide = Tensor::<1>::from_floats([value], &device).cast(FloatDType::F64);
        Net {
            weight: Param::from_tensor(weight),
            shift: Param::from_data([f32::NEG_INFINITY], &device),
            wide: Param::from_tensor(wide),
        }
    }

    fn average(rank: usize, weights: &[f32]) -> Average<Net> {
        let average = Average::new(&net(9.0), EqualWeights).unwrap();
        let mut average = average.with_deviations(rank).unwrap();
        for value in weights {
            average.update(&net(*value)).unwrap();
        }
        average
    }

    /// The values of a vector at all parameters.
    fn all(weights: &Weights) -> [Vec<f64>; 3] {
        ["weight", "shift", "wide"].map(|path| values(weights.parameter(path).unwrap()))
    }

    fn spread(average: &Average<Net>) -> (Vec<f64>, Vec<f64>) {
        let first = |weights: &Weights| all(weights)[0][0];
        let variance = all(&average.variance().unwrap());
        let deviations = average.deviations();
        (
            [variance[0][0], variance[2][0]].to_vec(),
            deviations.iter().map(first).collect(),
        )
    }

    #[track_caller]
    fn near(got: &[f64], expected: &[f64]) {
        let close = |(got, expected): (&f64, &f64)| (got - expected).abs() < 1e-6;
        let is_near = got.len() == expected.len() && got.iter().zip(expected).all(close);
        assert!(is_near, "{got:?} {expected:?}");
    }

    #[test]
    fn the_variance_is_of_all_weights_and_the_deviations_of_the_last() {
        let check = || {
            // Means 1, 1.5, 3 and 3. The squares of 1, 2, 6 and 3 less 3: 4 + 1 + 9 + 0.
            let (variance, deviations) = spread(&average(2, &[1.0, 2.0, 6.0]));
            near(&variance, &[14.0 / 3.0; 2]);
            near(&deviations, &[0.5, 3.0]);
            let (variance, deviations) = spread(&average(2, &[1.0, 2.0, 6.0, 3.0]));
            near(&variance, &[3.5; 2]);
            near(&deviations, &[3.0, 0.0]);
            let (_, deviations) = spread(&average(20, &[1.0, 2.0, 6.0]));
            near(&deviations, &[0.0, 0.5, 3.0]);
        };
        check();
        as_elsewhere(check);
    }

    #[test]
    fn the_variance_is_that_under_the_rules_weights() {
        let rule = Exponential::new(0.75).unwrap();
        let average = Average::new(&net(9.0), rule).unwrap();
        let mut average = average.with_deviations(2).unwrap();
        for value in [8.0, 4.0] {
            average.update(&net(value)).unwrap();
        }
        // 8 with weight 0.75 and 4 with weight 0.25: mean 7, variance 0.75 * 1 + 0.25 * 9.
        let (variance, deviations) = spread(&average);
        near(&variance, &[3.0; 2]);
        near(&deviations, &[0.0, -3.0]);
    }

    #[test]
    fn what_never_moved_has_no_spread_at_all() {
        let steps: Vec<f32> = (0..25).map(|step| step as f32).collect();
        let check = || {
            let average = average(20, &steps);
            let [weight, shift, _] = all(&average.variance().unwrap());
            // 0.1 in f32, and a constant infinity.
            assert_eq!((weight[1], shift[0]), (0.0, 0.0));
            for deviation in average.deviations() {
                let [weight, shift, _] = all(&deviation);
                assert_eq!((weight[1], shift[0]), (0.0, 0.0));
            }
        };
        check();
        as_elsewhere(check);
    }

    #[test]
    fn weights_that_are_not_finite_leave_the_spread_as_it_was() {
        let mut average = average(2, &[1.0, 2.0, 6.0]);
        let before = spread(&average);
        average.update(&net(f32::NAN)).unwrap_err();
        average.update_non_blocking(&net(f32::NAN)).unwrap_err();
        let weights = average.read(&net(f32::INFINITY)).unwrap();
        as_elsewhere(|| average.update_from(weights).unwrap_err());
        assert_eq!(spread(&average), before);
        average.update(&net(3.0)).unwrap();
        near(&spread(&average).1, &[3.0, 0.0]);
    }

    #[test]
    fn a_record_brings_back_the_spread_to_the_bit() {
        for updates in 0..5 {
            let steps: Vec<f32> = (0..updates).map(|step| 0.3 * step as f32).collect();
            let mut went_on = average(3, &steps);
            let bytes = went_on.clone().into_record().into_bytes().unwrap();
            for held in [0, 2, 4] {
                let record = ModuleRecord::from_bytes(bytes.clone()).unwrap();
                let resumed = average(3, &vec![7.0; held]).try_load_record(record);
                let mut resumed = resumed.unwrap();
                assert_eq!(spread(&resumed), spread(&went_on));
                let mut went_on = went_on.clone();
                for value in [5.0, 6.0] {
                    went_on.update(&net(value)).unwrap();
                    resumed.update(&net(value)).unwrap();
                }
                assert_eq!(spread(&resumed), spread(&went_on));
            }
            went_on.update(&net(1.0)).unwrap();
        }
    }

    #[test]
    fn a_weight_that_is_not_averaged_has_no_spread() {
        let net = |value: f32, shift: f32| Net {
            shift: Param::from_data([shift], &Device::flex()),
            ..net(value)
        };
        let is_averaged = |path: &str| path != "shift";
        let before = Average::new(&net(9.0, 0.0), EqualWeights).unwrap();
        let before = before.with_weights_averaged(is_averaged).unwrap();
        let after = average(2, &[]);
        for mut average in [
            before.with_deviations(2).unwrap(),
            after.with_weights_averaged(is_averaged).unwrap(),
        ] {
            for (value, shift) in [(1.0, f32::NAN), (2.0, 3.0), (6.0, 5.0)] {
                average.update(&net(value, shift)).unwrap();
            }
            assert_eq!(average.spread.as_ref().unwrap().variance.len(), 2);
            let [_, shift, wide] = all(&average.variance().unwrap());
            near(&wide, &[14.0 / 3.0]);
            assert_eq!(shift, [0.0]);
            let deviations = average.deviations();
            let shifts = deviations.iter().map(|it| all(it)[1][0]);
            assert_eq!(shifts.collect::<Vec<_>>(), [0.0, 0.0]);
            let drawn = average.sample_from(1.0, Covariance::Full, || 1.0).unwrap();
            assert_eq!(values(drawn.shift.val()), [5.0]);

            // Records hold all weights, as they always did.
            let record = average.clone().into_record();
            let of_all = self::average(2, &[]).try_load_record(record).unwrap();
            assert_eq!(spread(&of_all), spread(&average));
            let loaded = average.clone().try_load_record(of_all.into_record());
            assert_eq!(spread(&loaded.unwrap()), spread(&average));
        }
    }

    #[test]
    fn weights_that_are_averaged_no_more_lose_their_spread_alone() {
        let average = average(2, &[1.0, 2.0, 6.0]);
        let (variance, _) = spread(&average);
        let average = average.with_weights_averaged(|path| path == "wide");
        let average = average.unwrap();
        assert_eq!(spread(&average).0, [0.0, variance[1]]);
        let average = average.with_weights_averaged(|path| path == "weight");
        let average = average.unwrap();
        assert_eq!(spread(&average), (vec![0.0, 0.0], vec![0.0, 0.0]));
    }

    #[test]
    fn a_record_of_another_rank_or_of_none_is_refused() {
        let record = |average: Average<Net>| average.into_record();
        let full = || average(3, &[1.0, 2.0, 3.0, 4.0]);
        let plain = || {
            let mut average = Average::new(&net(9.0), EqualWeights).unwrap();
            average.update(&net(1.0)).unwrap();
            average
        };
        for (to, from) in [
            (average(2, &[]), record(full())),
            (average(4, &[]), record(full())),
            (plain(), record(full())),
            (average(3, &[]), record(plain())),
        ] {
            to.try_load_record(from).unwrap_err();
        }
    }

    #[test]
    fn a_copy_is_left_alone_and_a_restart_forgets() {
        let mut average = average(2, &[1.0, 2.0]);
        let copy = average.clone();
        let before = spread(&copy);
        for value in [4.0, 5.0] {
            average.update(&net(value)).unwrap();
        }
        assert_eq!(spread(&copy), before);
        let mut again = average.restarted();
        for value in [1.0, 2.0] {
            again.update(&net(value)).unwrap();
        }
        assert_eq!(spread(&again), before);

        // Another average's updates count as if all had been at its mean.
        let again = again.with_initial_average(&net(2.0), 3).unwrap();
        let mut again = again;
        again.update(&net(6.0)).unwrap();
        near(&spread(&again).0, &[3.0; 2]);
        near(&spread(&again).1, &[3.0]);
    }

    #[test]
    fn a_spread_is_where_the_average_is_and_in_its_dtype() {
        let device = Device::flex();
        let average = average(2, &[1.0, 2.0]).with_device(&device);
        let mut moved = average.to_device(&device);
        moved.update(&net(6.0)).unwrap();
        near(&spread(&moved).0, &[14.0 / 3.0; 2]);
        let dtypes = |weights: Weights| {
            ["weight", "wide"].map(|path| weights.parameter(path).unwrap().dtype())
        };
        use burn::tensor::DType::{F32, F64};
        assert_eq!(dtypes(moved.variance().unwrap()), [F32, F64]);
        assert_eq!(dtypes(moved.deviations()[0].clone()), [F32, F64]);
    }

    #[test]
    fn a_single_deviation_is_refused() {
        for rank in [0, 1] {
            let average = Average::new(&net(9.0), EqualWeights).unwrap();
            let error = average.with_deviations(rank).unwrap_err();
            assert_eq!(error, AverageError::TooFewDeviations { rank });
        }
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn on_wgpu_spread_and_samples_are_those_of_flex() {
        use burn::nn::{Linear, LinearConfig};
        use rand::{SeedableRng, rngs::StdRng};

        let wgpu = Device::wgpu(burn::tensor::DeviceKind::default());
        let flex = Device::flex();
        let models = [(); 5].map(|()| LinearConfig::new(7, 3).init(&flex));
        let collected = |device: &Device, kept: Option<&Device>| {
            let on_device = |model: &Linear| model.clone().to_device(device);
            let average = Average::new(&on_device(&models[0]), EqualWeights).unwrap();
            let mut average = average.with_deviations(3).unwrap();
            if let Some(kept) = kept {
                average = average.with_device(kept);
            }
            let mut records = Vec::new();
            for model in &models {
                average.update(&on_device(model)).unwrap();
                // A record in memory must not change with later updates.
                records.push(average.clone().into_record());
            }
            let vectors = [average.variance().unwrap()].into_iter();
            let vectors = vectors.chain(average.deviations());
            let vectors = vectors.flat_map(|it| values(it.parameter("weight").unwrap()));
            let mut all: Vec<f64> = vectors.collect();
            let mut rng = StdRng::seed_from_u64(1);
            let sampled = average.sample(0.5, Covariance::Full, &mut rng).unwrap();
            all.extend(values(sampled.weight.val()));
            for record in records {
                let loaded = Average::new(&on_device(&models[0]), EqualWeights).unwrap();
                let loaded = loaded.with_deviations(3).unwrap().load_record(record);
                all.extend(values(
                    loaded.variance().unwrap().parameter("weight").unwrap(),
                ));
            }
            all
        };
        let expected = collected(&flex, None);
        near(&collected(&wgpu, None), &expected);
        near(&collected(&wgpu, Some(&flex)), &expected);
    }
}
