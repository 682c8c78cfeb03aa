use std::cell::Cell;

use burn::tensor::{Distribution, FloatDType, Tensor};

use super::*;

thread_local! {
    pub(super) static IS_ELSEWHERE: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` as if no tensor were in the host's memory, so that it takes Burn's ordinary operations.
pub(crate) fn as_elsewhere<T>(work: impl FnOnce() -> T) -> T {
    IS_ELSEWHERE.set(true);
    let result = work();
    IS_ELSEWHERE.set(false);
    result
}

/// Enough elements to wake a second thread, and no multiple of what a thread takes at a time.
const LONG: usize = (1 << 18) + 5;

fn tensor(values: &[f32]) -> Tensor<1> {
    Tensor::from_floats(values, &Device::flex())
}

fn full(length: usize, value: f32) -> Tensor<1> {
    Tensor::full([length], value, &Device::flex())
}

fn wide(value: f64) -> Tensor<1> {
    Tensor::from_data([value], (&Device::flex(), DType::F64))
}

fn step(current: Tensor<1>, averages: impl IntoIterator<Item = (Tensor<1>, f64)>) -> Step {
    let averages = averages.into_iter();
    let averages = averages.map(|(it, weight)| (Floats::of(it), weight));
    let averages: Vec<_> = averages.collect();
    Step {
        parameter: 0,
        current: Floats::of(current),
        checked: true,
        is_large: averages.iter().any(|(average, _)| is_large(average)),
        averages,
    }
}

/// Takes steps of as many parameters.
fn take(steps: &mut [Step], verdict: Option<&mut Verdict>) -> Result<(), Refusal> {
    for (parameter, step) in steps.iter_mut().enumerate() {
        step.parameter = parameter;
    }
    super::take(steps, verdict)
}

fn values(floats: Floats) -> Vec<f64> {
    floats.flat().into_data().iter::<f64>().collect()
}

fn taken(mut steps: Vec<Step>) -> Vec<Vec<f64>> {
    assert!(take(&mut steps, None).is_ok());
    let averages = steps.into_iter().flat_map(|step| step.averages);
    averages.map(|(average, _)| values(average)).collect()
}

#[test]
fn an_average_takes_a_step_towards_the_current_value() {
    let steps = || vec![step(tensor(&[3.0, 0.0]), [(tensor(&[1.0, 4.0]), 0.25)])];
    assert_eq!(taken(steps()), [[1.5, 3.0]]);
    assert_eq!(as_elsewhere(|| taken(steps())), [[1.5, 3.0]]);
}

#[test]
fn each_of_several_averages_takes_its_own_step() {
    let steps = || {
        vec![
            step(
                full(LONG, 4.0),
                [(full(LONG, 0.0), 0.5), (full(LONG, 8.0), 0.75)],
            ),
            step(full(3, 0.0), [(full(3, 8.0), 0.5), (full(3, 2.0), 1.0)]),
            step(wide(1.0 + 4e-16), [(wide(1.0), 0.5)]),
        ]
    };
    for averages in [taken(steps()), as_elsewhere(|| taken(steps()))] {
        let [half, quarter, short, copied, wide] = averages.try_into().unwrap();
        assert!(half.len() == LONG && half.iter().all(|value| *value == 2.0));
        assert!(quarter.len() == LONG && quarter.iter().all(|value| *value == 5.0));
        assert_eq!((short, copied), (vec![4.0; 3], vec![0.0; 3]));
        assert_eq!(wide, [1.0 + 2e-16]);
    }
}

#[test]
fn an_owned_average_changes_in_place_and_a_shared_one_does_not() {
    let shared = full(LONG, 1.0);
    let averaged = taken(vec![step(full(LONG, 3.0), [(shared.clone(), 0.5)])]);
    assert!(values(Floats::of(shared)).iter().all(|value| *value == 1.0));
    assert!(averaged[0].iter().all(|value| *value == 2.0));

    let address = |step: &Step| {
        let average = step.averages[0].0.clone().flat();
        let average = average.try_into_primitive::<burn::backend::Flex>().unwrap();
        average.bytes().as_ptr()
    };
    let mut owned = vec![step(full(LONG, 3.0), [(full(LONG, 1.0), 0.5)])];
    let before = address(&owned[0]);
    assert!(take(&mut owned, None).is_ok());
    assert_eq!(address(&owned[0]), before);
}

#[test]
fn parts_of_tensors_are_averaged_as_such() {
    let whole = tensor(&[1.0, 2.0, 3.0, 4.0]);
    let towards = || tensor(&[4.0, 7.0]);
    let averaged = taken(vec![step(
        towards(),
        [(whole.clone().narrow(0, 1, 2), 0.5)],
    )]);
    assert_eq!(averaged, [[3.0, 5.0]]);
    // There is no other handle on the whole tensor.
    let part = tensor(&[1.0, 2.0, 3.0, 4.0]).narrow(0, 1, 2);
    assert_eq!(taken(vec![step(towards(), [(part, 0.5)])]), [[3.0, 5.0]]);

    let columns = Step {
        parameter: 0,
        current: Floats::of(whole.reshape([2, 2]).transpose()),
        checked: true,
        is_large: false,
        averages: vec![(Floats::of(full(4, 0.0)), 0.5)],
    };
    assert_eq!(taken(vec![columns]), [[0.5, 1.5, 1.0, 2.0]]);
}

#[test]
fn the_formula_is_that_of_burns_operations_to_the_bit() {
    let device = Device::flex();
    device.seed(1);
    let random = || Tensor::<1>::random([1000], Distribution::Default, &device);
    let (a, c) = (random(), random());
    let expected = a.clone() + (c.clone() - a.clone()).mul_scalar(1.0 / 7.0);
    let averaged = taken(vec![step(c, [(a, 1.0 / 7.0)])]);
    assert_eq!(averaged, [values(Floats::of(expected))]);
}

#[test]
fn no_step_is_taken_if_any_checked_value_is_not_finite() {
    let first = |mut steps: Vec<Step>| {
        let refusal = take(&mut steps, None).err();
        let averages = steps.into_iter().flat_map(|step| step.averages);
        assert!(averages.into_iter().all(|(it, _)| values(it)[0] == 1.0));
        match refusal {
            Some(Refusal::NotFinite(index)) => Some(index),
            _ => None,
        }
    };
    // With a weight of 0, an average is the same if the step is taken.
    let of = |values: Tensor<1>| {
        let ones = values.ones_like();
        step(values, [(ones, 0.0)])
    };
    for (length, place) in [(3, 0), (LONG, 1 << 17), (LONG, LONG - 1)] {
        let mut values = vec![1.0; length];
        let steps = |values: &[f32]| {
            let values = || tensor(values);
            vec![of(wide(2.0)), of(values()), of(values()), of(wide(2.0))]
        };
        assert_eq!(first(steps(&values)), None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[place] = bad;
            assert_eq!(first(steps(&values)), Some(1));
            assert_eq!(as_elsewhere(|| first(steps(&values))), Some(1));
        }
    }
    let steps = [tensor(&[1.0]), wide(f64::NAN), tensor(&[f32::NAN])].map(of);
    assert_eq!(first(steps.into()), Some(1));

    // Values in 16 bits are checked in a copy.
    let half = tensor(&[f32::INFINITY]).cast(FloatDType::BF16);
    let steps = [tensor(&[1.0]), half, tensor(&[f32::NAN])].map(of);
    assert_eq!(first(steps.into()), Some(1));

    let mut unchecked = of(tensor(&[f32::NAN]));
    unchecked.checked = false;
    assert!(take(&mut [unchecked], None).is_ok());
}

/// Takes one step of one average on each way, and returns what both give, or whether both refused it.
fn on_both_ways(steps: impl Fn() -> Vec<Step>) -> Result<Vec<Vec<f64>>, Vec<usize>> {
    let take_all = || {
        let mut steps = steps();
        match take(&mut steps, None) {
            Ok(()) => {
                let averages = steps.into_iter().flat_map(|step| step.averages);
                Ok(averages.map(|(average, _)| values(average)).collect())
            }
            Err(Refusal::NotFinite(index)) => Err(vec![index]),
            Err(_) => Err(Vec::new()),
        }
    };
    let (here, elsewhere) = (take_all(), as_elsewhere(take_all));
    assert_eq!(here, elsewhere);
    here
}

const INFINITY: f64 = f64::INFINITY;

#[test]
fn infinities_that_are_equal_in_both_stay() {
    let mask = [f32::NEG_INFINITY, 3.0, f32::INFINITY];
    let average = || tensor(&[f32::NEG_INFINITY, 1.0, f32::INFINITY]);
    for (weight, expected) in [(0.25, 1.5), (0.0, 1.0), (1.0, 3.0)] {
        let steps = || vec![step(tensor(&mask), [(average(), weight)])];
        let expected = vec![vec![-INFINITY, expected, INFINITY]];
        assert_eq!(on_both_ways(steps), Ok(expected));
    }
    // In f64, in 16 bits, and stored out of order.
    let steps = || vec![step(wide(-INFINITY), [(wide(-INFINITY), 0.5)])];
    assert_eq!(on_both_ways(steps), Ok(vec![vec![-INFINITY]]));
    let steps = || {
        let half = tensor(&mask).cast(FloatDType::F16);
        vec![step(half, [(average(), 0.25)])]
    };
    assert_eq!(
        on_both_ways(steps),
        Ok(vec![vec![-INFINITY, 1.5, INFINITY]])
    );
    let steps = || {
        let rows = tensor(&[f32::NEG_INFINITY, 5.0, 3.0, f32::INFINITY]).reshape([2, 2]);
        let current = Floats::of(rows.transpose());
        let before = tensor(&[f32::NEG_INFINITY, 1.0, 1.0, f32::INFINITY]);
        vec![Step {
            parameter: 0,
            current,
            checked: true,
            is_large: false,
            averages: vec![(Floats::of(before), 0.5)],
        }]
    };
    let expected = vec![vec![-INFINITY, 2.0, 3.0, INFINITY]];
    assert_eq!(on_both_ways(steps), Ok(expected));

    // Beside many elements that do take a step, and beside other parameters.
    let mut long = vec![1.0; LONG];
    long[1 << 17] = f32::NEG_INFINITY;
    let steps = || {
        let current = tensor(&long);
        let average = tensor(&long).mul_scalar(3.0);
        vec![
            step(full(2, 4.0), [(full(2, 2.0), 0.5)]),
            step(current, [(average, 0.5)]),
        ]
    };
    let averages = on_both_ways(steps).unwrap();
    assert_eq!(averages[0], [3.0, 3.0]);
    let finite = averages[1].iter().filter(|value| **value == 2.0);
    assert_eq!(
        (finite.count(), averages[1][1 << 17]),
        (LONG - 1, -INFINITY)
    );
}

#[test]
fn an_infinity_that_the_current_values_have_left_is_left_at_once() {
    let current = || tensor(&[3.0, 0.0, 5.0]);
    let average = || tensor(&[f32::NEG_INFINITY, f32::INFINITY, 1.0]);
    for weight in [0.25, 0.5] {
        let steps = || vec![step(current(), [(average(), weight)])];
        let expected = vec![vec![3.0, 0.0, 1.0 + 4.0 * weight]];
        assert_eq!(on_both_ways(steps), Ok(expected));
    }
    let steps = || vec![step(wide(3.0), [(wide(-INFINITY), 0.5)])];
    assert_eq!(on_both_ways(steps), Ok(vec![vec![3.0]]));
}

#[test]
fn infinities_that_an_average_lacks_are_refused() {
    let lowest = f32::NEG_INFINITY;
    let mask = || tensor(&[lowest, 0.0]);
    for average in [[0.0, lowest], [f32::INFINITY, 0.0], [f32::NAN, 0.0]] {
        let steps = || vec![step(mask(), [(tensor(&average), 0.5)])];
        assert_eq!(on_both_ways(steps), Err(vec![0]));
    }
    // One of two averages lacks it.
    let steps = || {
        let averages = [(mask(), 0.5), (tensor(&[0.0, 0.0]), 0.5)];
        vec![
            step(full(2, 1.0), [(full(2, 1.0), 0.5)]),
            step(mask(), averages),
        ]
    };
    assert_eq!(on_both_ways(steps), Err(vec![1]));
    // A NaN is equal to nothing.
    let steps = || vec![step(tensor(&[f32::NAN]), [(tensor(&[f32::NAN]), 0.5)])];
    assert_eq!(on_both_ways(steps), Err(vec![0]));
}

#[test]
fn steps_whose_difference_overflows_are_between_both_values() {
    let towards = |weight| {
        let current = [1.8e38, -1.8e38, f32::MAX, 2.0];
        let before = [-1.8e38, 1.8e38, f32::MIN, 1.0];
        let steps = || vec![step(tensor(&current), [(tensor(&before), weight)])];
        on_both_ways(steps).unwrap().remove(0)
    };
    let max = f64::from(f32::MAX);
    for (weight, share) in [
        (0.5, 0.0),
        (0.75, 0.5),
        (0.25, -0.5),
        (0.0, -1.0),
        (1.0, 1.0),
    ] {
        let expected = [share * 1.8e38, -share * 1.8e38, share * max, 1.0 + weight];
        for (got, expected) in towards(weight).iter().zip(expected) {
            assert!(
                (got - expected).abs() <= 1e-6 * expected.abs(),
                "{got} {expected}"
            );
        }
    }
    // A weight that f32 rounds to 1.
    assert_eq!(towards(1.0 - 1e-12)[2], max);

    let steps = || vec![step(wide(f64::MAX), [(wide(f64::MIN), 0.5)])];
    assert_eq!(on_both_ways(steps), Ok(vec![vec![0.0]]));

    // Beside many elements, which take their steps by the formula.
    let mut far = vec![0.7; LONG];
    far[1 << 17] = 3e38;
    let averaged = |current: &[f32]| {
        let mut before = vec![0.3; LONG];
        before[1 << 17] = -3e38;
        let steps = vec![step(tensor(current), [(tensor(&before), 1.0 / 3.0)])];
        taken(steps).remove(0)
    };
    let with = averaged(&far);
    far[1 << 17] = -3e38;
    let without = averaged(&far);
    assert!((with[1 << 17] + 1e38).abs() < 1e32 && without[1 << 17] == f64::from(-3e38_f32));
    let mut others = with.iter().zip(&without).enumerate();
    assert!(others.all(|(place, (with, without))| place == 1 << 17 || with == without));
}

#[test]
fn a_verdict_counts_the_updates_before_the_first_left_out() {
    let mut verdict = Verdict::new(&Device::flex(), 2);
    let mut average = Floats::of(full(2, 1.0));
    let mut update = |value: f32, verdict: &mut Verdict| {
        let mut steps = [
            step(tensor(&[0.0]), []),
            Step {
                parameter: 1,
                current: Floats::of(tensor(&[value, 3.0])),
                checked: true,
                is_large: false,
                averages: vec![(average.clone(), 0.5)],
            },
        ];
        as_elsewhere(|| assert!(take(&mut steps, Some(&mut *verdict)).is_ok()));
        let [_, step] = steps;
        average = step.averages[0].0.clone();
        let found = verdict.read().unwrap();
        (values(average.clone()), found.taken, found.not_finite)
    };
    // 1 + (3 - 1) / 2, then 2 + (4 - 2) / 2
    assert_eq!(update(3.0, &mut verdict), (vec![2.0, 2.0], 1, vec![]));
    assert_eq!(update(4.0, &mut verdict), (vec![3.0, 2.5], 2, vec![]));
    assert_eq!(update(f32::NAN, &mut verdict), (vec![3.0, 2.5], 2, vec![1]));
    assert_eq!(update(5.0, &mut verdict), (vec![3.0, 2.5], 2, vec![1]));
}

#[test]
fn a_verdict_takes_constants_for_finite() {
    let mut verdict = Verdict::new(&Device::flex(), 1);
    let mask = |value| tensor(&[f32::NEG_INFINITY, value]);
    let mut average = Floats::of(mask(1.0));
    for (value, expected) in [(3.0, 2.0), (4.0, 3.0)] {
        let mut steps = [Step {
            parameter: 0,
            current: Floats::of(mask(value)),
            checked: true,
            is_large: false,
            averages: vec![(average, 0.5)],
        }];
        as_elsewhere(|| assert!(take(&mut steps, Some(&mut verdict)).is_ok()));
        let [step] = steps;
        average = step.averages[0].0.clone();
        assert_eq!(values(average.clone()), [-INFINITY, expected]);
    }
    let found = verdict.read().unwrap();
    assert_eq!((found.taken, found.not_finite), (2, vec![]));
}

#[test]
fn sums_and_products_of_vectors_are_those_worked_out_by_hand() {
    let vector = |parts: [&[f32]; 2]| parts.map(|part| Floats::of(tensor(part))).to_vec();
    let a = vector([&[1.0, 2.0], &[3.0]]);
    let b = vector([&[-4.0, 0.5], &[2.0]]);
    let check = || {
        let sum = combine(&[(2.0, a.clone()), (-1.0, b.clone()), (0.5, a.clone())]);
        let sum: Vec<Vec<f64>> = sum.into_iter().map(values).collect();
        assert_eq!(sum, [vec![6.5, 4.5], vec![5.5]]);
        // -4 + 1 + 6
        assert_eq!(dot(&a, &b), Ok(3.0));
    };
    check();
    as_elsewhere(check);
}

#[test]
fn products_are_summed_in_f64() {
    // In f32, 1e8 and more swallow a 1.
    let values = vec![Floats::of(tensor(&[1e4, 1.0, 1.0]))];
    assert_eq!(dot(&values, &values), Ok(1e8 + 2.0));
}

/// Takes steps of three averages of many parameters, from empty ones to ones with more elements than a cube has units. One of
/// the averages is shared. Returns the results, and the shared values.
#[cfg(feature = "wgpu")]
fn many_steps(device: &Device, verdict: Option<&mut Verdict>) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let tensor = |length: usize, factor: usize| {
        let values: Vec<f32> = (0..length)
            .map(|i| (i * factor % 101) as f32 / 50.0 - 1.0)
            .collect();
        Tensor::<1>::from_floats(values.as_slice(), device)
    };
    let lengths = [0, 1, 7, 64, 1000, 3000].repeat(8);
    let averages = |length| {
        [
            (tensor(length, 41), 0.5),
            (tensor(length, 43), 0.25),
            (tensor(length, 47), 1.0),
        ]
    };
    let mut steps: Vec<Step> = lengths
        .iter()
        .map(|length| step(tensor(*length, 37), averages(*length)))
        .collect();
    // Values whose elements are out of order, too.
    steps[5].current = Floats::of(tensor(3000, 37).reshape([30, 100]).transpose());
    let shared: Vec<Floats> = steps
        .iter()
        .step_by(5)
        .map(|step| step.averages[0].0.clone())
        .collect();
    assert!(take(&mut steps, verdict).is_ok());
    let averages = steps.into_iter().flat_map(|step| step.averages);
    (
        averages.map(|(average, _)| values(average)).collect(),
        shared.into_iter().map(values).collect(),
    )
}

#[cfg(feature = "wgpu")]
#[test]
fn on_wgpu_averages_of_many_parameters_take_the_steps_of_flex() {
    let wgpu = Device::wgpu(burn::tensor::DeviceKind::default());
    let expected = many_steps(&Device::flex(), None);
    assert_eq!(expected.0.len(), 3 * 48);
    let mut unread = Verdict::new(&wgpu, 48);
    for verdict in [None, Some(&mut unread)] {
        let got = many_steps(&wgpu, verdict);
        assert_eq!(got.1, expected.1);
        for (got, expected) in got.0.iter().zip(&expected.0) {
            let close = |(got, expected): (&f64, &f64)| (got - expected).abs() < 1e-6;
            assert!(got.len() == expected.len() && got.iter().zip(expected).all(close));
        }
    }
    assert_eq!(unread.read().unwrap().taken, 1);
}

#[cfg(feature = "wgpu")]
#[test]
fn on_wgpu_constants_stay_and_far_steps_are_between() {
    let wgpu = Device::wgpu(burn::tensor::DeviceKind::default());
    let on_wgpu = |values: [f32; 4]| Tensor::<1>::from_floats(values, &wgpu);
    let (lowest, highest) = (f32::NEG_INFINITY, f32::INFINITY);
    let steps = |current| {
        [step(
            on_wgpu(current),
            [(on_wgpu([lowest, highest, -3e38, 1.0]), 0.5)],
        )]
    };
    let mut unread = Verdict::new(&wgpu, 1);
    for verdict in [None, Some(&mut unread)] {
        let mut steps = steps([lowest, highest, 3e38, 2.0]);
        assert!(take(&mut steps, verdict).is_ok());
        let [step] = steps;
        let average = values(step.averages[0].0.clone());
        assert_eq!(average, [-INFINITY, INFINITY, 0.0, 1.5]);
    }
    let found = unread.read().unwrap();
    assert_eq!((found.taken, found.not_finite), (1, vec![]));
    for current in [[lowest, lowest, 0.0, 0.0], [f32::NAN, highest, 0.0, 0.0]] {
        let refusal = take(&mut steps(current), None);
        assert!(matches!(refusal, Err(Refusal::NotFinite(0))));
    }
}
