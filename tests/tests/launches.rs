//! How many kernels an update of an average launches on a CubeCL backend.
//!
//! [`Average::update_non_blocking`], as the hook calls it in a training, on the networks of the paper, takes two for each
//! parameter: one that marks whether all of it is finite, and, since an update is of all parameters or of none, another that
//! takes the step `average += w * (current - average)` if all are. **The number of launches for each parameter is a
//! constant.** One launch for each could not know of the parameters that come after it.
//!
//! Bytes are those that the two kernels are written to move, in passes over each parameter: the first reads it; the second
//! reads it and its average, and writes the average. Three passes are the least that an update can do. (CubeCL tells the
//! kernels' names alone, so that these are not counted by the device.)
//!
//! A program of its own: CubeCL tells of all launches in a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use cubecl_runtime::config::{TypeNameFormatLevel, type_name_format};
use cubecl_runtime::logging::{LaunchObservation, LaunchObserver};
use swa_models::{PreResNetConfig, VggConfig, WideResNetConfig};
use swa_train::swa_core::{Average, EqualWeights};

/// Launches for each averaged parameter, for each other (running statistics: the latest are kept), and in all besides.
const LIMIT: [usize; 3] = [2, 1, 16];

/// Over an averaged parameter: see above.
const PASSES: usize = 4;

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

/// How many parameters are averaged, and of how many the latest value is kept.
#[derive(Default)]
struct Parameters {
    averaged: usize,
    /// Their elements.
    elements: usize,
    latest: usize,
    is_statistic: bool,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.is_statistic = matches!(name, "running_mean" | "running_var");
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        match self.is_statistic {
            true => self.latest += 1,
            false => {
                self.averaged += 1;
                self.elements += param.val().shape().num_elements();
            }
        }
    }
}

fn update<M: Module>(name: &str, model: &M, device: &Device) {
    let mut average = Average::new(model, EqualWeights).unwrap();
    // The first shares the model's memory, and the second has a kernel or two compiled.
    for _ in 0..2 {
        average.update_non_blocking(model).unwrap();
    }
    let kernels = launches(device, || average.update_non_blocking(model).unwrap());
    average.check().unwrap();

    let mut parameters = Parameters::default();
    model.visit(&mut parameters);
    let Parameters {
        averaged,
        elements,
        latest,
        ..
    } = parameters;
    let all: usize = kernels.values().sum();
    println!(
        "{name}, {averaged} parameters averaged, the latest of {latest} kept: {all} launches, {:.1} for each averaged and \
         {} for each kept; {:.0} MB moved, where three passes are {:.0} MB",
        (all - LIMIT[1] * latest) as f64 / averaged as f64,
        LIMIT[1],
        (PASSES * size_of::<f32>() * elements) as f64 / 1e6,
        (3 * size_of::<f32>() * elements) as f64 / 1e6,
    );
    for (kernel, count) in &kernels {
        println!("  {count:5} {kernel}");
    }
    let limit = LIMIT[0] * averaged + LIMIT[1] * latest + LIMIT[2];
    assert!(
        averaged <= all && all <= limit,
        "{name}: {all} launches, at most {limit}"
    );
}

#[test]
fn the_number_of_launches_for_each_parameter_is_a_constant() {
    let device = cifar::device::parse("wgpu").unwrap();
    let vgg = VggConfig::new(16).init(&device);
    update("VGG16", &vgg.unwrap(), &device);
    let preresnet = PreResNetConfig::new(110).init(&device);
    update("PreResNet-110", &preresnet.unwrap(), &device);
    let wide_resnet = WideResNetConfig::new(28, 10).init(&device);
    update("WideResNet-28-10", &wide_resnet.unwrap(), &device);
}
