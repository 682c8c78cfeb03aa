//! The number of kernels that an update of an average launches on a CubeCL backend, and the memory that it takes.
//!
//! This calls [`Average::update_all_from`], as the hook does in a training, on the networks of the paper. A launch takes
//! as many parameters as the device can bind buffers for, `G`. A first group of launches checks all parameters. A second group
//! takes the step `average += w * (current - average)` if all are finite. The latest running statistics of BatchNorm are copied
//! in the same launches. **Limit: `2 ceil(N / G) + 6` launches for `N` tensors**, for one average and for several in one pass, whose
//! `G` is smaller, since a launch binds all averages of a tensor. **As long as one launch takes all tensors, several averages take no
//! more launches than one.**
//!
//! The update is in place: **the device reserves no memory for it**, except for the arguments of the launches, which take less
//! than a tenth of a copy of the parameters.
//!
//! Bytes are computed from the code of the two kernels, in passes over each parameter: the first kernel reads it; the second
//! reads it and its `K` averages, and writes these. `1 + 2 K` passes are the least that an update can do. (CubeCL reports only
//! the names of kernels, so the device does not count bytes.)
//!
//! This test is a program of its own, since CubeCL reports all launches of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use burn_swa_test_support::parameters::{elements, is_running_statistic, shapes};
use cubecl_runtime::config::{TypeNameFormatLevel, type_name_format};
use cubecl_runtime::logging::{LaunchObservation, LaunchObserver};
use swa_models::{PreResNetConfig, VggConfig, WideResNetConfig};
use swa_train::swa_core::{Average, EqualWeights, parameters_a_launch};

#[derive(Default)]
struct Launches(Mutex<BTreeMap<String, usize>>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        let name = type_name_format(kernel, TypeNameFormatLevel::Balanced);
        let mut kernels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kernels.entry(name).or_default() += 1;
    }
}

/// The kernels that `work` launches, by name.
fn launches(device: &Device, work: impl FnOnce()) -> BTreeMap<String, usize> {
    device.sync().unwrap();
    let launches = Arc::new(Launches::default());
    let observation = LaunchObservation::new(launches.clone());
    work();
    device.sync().unwrap();
    drop(observation);
    let kernels = launches.0.lock().unwrap();
    kernels.clone()
}

/// The number of launches of an update of so many averages in one pass.
fn update<M: Module>(name: &str, model: &M, averages: usize, device: &Device) -> usize {
    let new = |_| Average::new(model, EqualWeights).unwrap();
    let mut all: Vec<Average<M>> = (0..averages).map(new).collect();
    let mut update = || {
        let mut all: Vec<&mut Average<M>> = all.iter_mut().collect();
        let weights = all[0].read(model).unwrap();
        Average::update_all_from(&mut all, weights).unwrap();
    };
    // In the first update, the average copies the model's memory or shares it. The second compiles kernels.
    for _ in 0..2 {
        update();
    }
    device.sync().unwrap();
    let reserved = || device.memory_pool_usage().unwrap().bytes_reserved;
    let before = reserved();
    let kernels = launches(device, update);
    let more = reserved() - before;
    for average in &mut all {
        average.check().unwrap();
    }

    // Running statistics keep the latest values, and all other parameters are averaged.
    let (latest, averaged): (Vec<_>, Vec<_>) = shapes(model)
        .into_iter()
        .partition(|(path, _)| is_running_statistic(path));
    let elements = elements(&averaged);
    let (latest, averaged) = (latest.len(), averaged.len());
    let of_a_launch = parameters_a_launch(device, averages).unwrap();
    let launches: usize = kernels.values().sum();
    let least_passes = 1 + 2 * averages;
    let moved = |passes: usize| (passes * size_of::<f32>() * elements) as f64 / 1e6;
    println!(
        "{name}, {averages} averages of {averaged} parameters, the latest of {latest} kept, {of_a_launch} in a launch: \
         {launches} launches; {:.0} MB moved, where {least_passes} passes are {:.0} MB; {more} bytes more reserved",
        moved(1 + least_passes),
        moved(least_passes),
    );
    for (kernel, count) in &kernels {
        println!("  {count:5} {kernel}");
    }
    let least = (averaged + latest).div_ceil(of_a_launch);
    let limit = 2 * least + 6;
    assert!(
        launches <= limit,
        "{name}: {launches} launches, at most {limit}"
    );
    // Our kernels run, and not Burn's fused operations.
    assert!(least <= kernels["StepTowards"], "{name}: {kernels:?}");
    let copy = (size_of::<f32>() * elements) as u64;
    assert!(more < copy / 10, "{name}: {more} bytes more");
    launches
}

#[test]
fn an_update_takes_a_few_launches_and_no_memory() {
    let device = swa_lab::device::parse("wgpu").unwrap();
    for averages in [1, 3] {
        let vgg = VggConfig::new(16).init(&device);
        update("VGG16", &vgg.unwrap(), averages, &device);
        let preresnet = PreResNetConfig::new(110).init(&device);
        update("PreResNet-110", &preresnet.unwrap(), averages, &device);
    }
    let wide_resnet = WideResNetConfig::new(28, 10).init(&device);
    update("WideResNet-28-10", &wide_resnet.unwrap(), 1, &device);

    // As many tensors as a launch takes with three averages of each.
    let tensors = parameters_a_launch(&device, 3).unwrap();
    let layer = |_| LinearConfig::new(128, 128).with_bias(false).init(&device);
    let layers: Vec<Linear> = (0..tensors).map(layer).collect();
    let [one, two, three] = [1, 2, 3].map(|averages| update("layers", &layers, averages, &device));
    assert_eq!((two, three), (one, one));
}
