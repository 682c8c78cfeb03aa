//! A network that counts what is done to it, and adds its gradients up with those of its peers.

use std::any::type_name;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{ClassificationOutput, InferenceStep, ModuleSharder, TrainOutput, TrainStep};
use burn_swa_test_support::network::Net;
use burn_swa_test_support::points::Batch;

/// A [`Net`] that trains side by side with others under Burn's `ddp`, on a backend without collectives.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) net: Net,
    pub(crate) counts: Arc<Counts>,
    collective: Option<Arc<Collective>>,
}

/// The number of times that all clones together were:
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Sent to a device to train there.
    pub(crate) forks: AtomicUsize,
    /// Sent to a device for use.
    pub(crate) moves: AtomicUsize,
    /// Marked as one whose gradients are to be reduced.
    pub(crate) shardings: AtomicUsize,
    /// Given a batch, in validation or to re-estimate BatchNorm.
    pub(crate) inferences: AtomicUsize,
    /// Copied for validation, or to have its weights read.
    pub(crate) copies: AtomicUsize,
}

impl Counts {
    pub(crate) fn forks_moves_and_shardings(&self) -> (usize, usize, usize) {
        let [forks, moves, shardings] =
            [&self.forks, &self.moves, &self.shardings].map(|count| count.load(Ordering::SeqCst));
        (forks, moves, shardings)
    }
}

impl Replica {
    /// A replica that trains by itself, or is sent to the device where it trains.
    pub(crate) fn alone(net: Net) -> Self {
        Self {
            net,
            counts: Arc::default(),
            collective: None,
        }
    }

    /// A replica whose clones on `workers` threads share their gradients.
    pub(crate) fn of(workers: usize, net: Net) -> Self {
        Self {
            collective: Some(Arc::new(Collective::new(workers))),
            ..Self::alone(net)
        }
    }
}

impl TrainStep for Replica {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let mut output = TrainStep::step(&self.net, batch);
        if let Some(collective) = &self.collective {
            output.grads = all_reduce(collective, &self.net, output.grads);
        }
        output
    }

    fn optimize(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        self.net = self.net.optimize(optimizer, learning_rate, gradients);
        self
    }

    fn optimize_multi(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        self.net = self.net.optimize_multi(optimizer, learning_rate, gradients);
        self
    }
}

impl InferenceStep for Replica {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.counts.inferences.fetch_add(1, Ordering::SeqCst);
        InferenceStep::step(&self.net, batch)
    }
}

impl Module for Replica {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.net.collect_devices(devices)
    }

    fn fork(mut self, device: &Device) -> Self {
        self.counts.forks.fetch_add(1, Ordering::SeqCst);
        self.net = self.net.fork(device);
        self
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.counts.moves.fetch_add(1, Ordering::SeqCst);
        self.net = self.net.to_device(device);
        self
    }

    fn train(mut self) -> Self {
        self.net = self.net.train();
        self
    }

    fn valid(&self) -> Self {
        self.counts.copies.fetch_add(1, Ordering::SeqCst);
        Self {
            net: self.net.valid(),
            ..self.clone()
        }
    }

    fn materialize(mut self) -> Self {
        self.net = self.net.materialize();
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.net.visit(visitor);
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        // Flex cannot mark parameters, and does not need to: `step` reduces their gradients.
        if type_name::<M>() == type_name::<ModuleSharder>() {
            self.counts.shardings.fetch_add(1, Ordering::SeqCst);
            return self;
        }
        self.net = self.net.map(mapper);
        self
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.net, f)
    }
}

/// A sum over threads, in the host's memory.
#[derive(Debug)]
struct Collective {
    workers: usize,
    round: Mutex<Round>,
    complete: Condvar,
}

#[derive(Debug, Default)]
struct Round {
    number: usize,
    arrived: usize,
    sum: Vec<f32>,
    last_sum: Vec<f32>,
}

/// Much longer than a step on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Collective {
    fn new(workers: usize) -> Self {
        Self {
            workers,
            round: Mutex::default(),
            complete: Condvar::new(),
        }
    }

    /// The sum of what all workers pass.
    ///
    /// # Panics
    ///
    /// If a worker does not come, which is a deadlock.
    fn sum(&self, mine: Vec<f32>) -> Vec<f32> {
        let mut round = self.round.lock().unwrap();
        round.arrived += 1;
        match round.arrived {
            1 => round.sum = mine,
            _ => round.sum.iter_mut().zip(mine).for_each(|(a, b)| *a += b),
        }
        if round.arrived == self.workers {
            round.last_sum = std::mem::take(&mut round.sum);
            round.arrived = 0;
            round.number += 1;
            self.complete.notify_all();
            return round.last_sum.clone();
        }
        let number = round.number;
        let (round, timeout) = self
            .complete
            .wait_timeout_while(round, PATIENCE, |round| round.number == number)
            .unwrap();
        assert!(!timeout.timed_out(), "a worker waits for the others");
        round.last_sum.clone()
    }
}

fn all_reduce(collective: &Collective, net: &Net, gradients: GradientsParams) -> GradientsParams {
    struct Read {
        gradients: GradientsParams,
        values: Vec<f32>,
    }
    impl ModuleVisitor for Read {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                self.values.extend(gradient.into_data().iter::<f32>());
            }
        }
    }
    struct Write {
        gradients: GradientsParams,
        values: std::vec::IntoIter<f32>,
    }
    impl ModuleVisitor for Write {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                let shape = gradient.shape();
                let values: Vec<f32> = self.values.by_ref().take(shape.num_elements()).collect();
                let values = TensorData::new(values, shape);
                let sum = Tensor::<D>::from_data(values, &gradient.device());
                self.gradients.register(param.id, sum);
            }
        }
    }
    let mut read = Read {
        gradients,
        values: Vec::new(),
    };
    net.visit(&mut read);
    let mut write = Write {
        gradients: read.gradients,
        values: collective.sum(read.values).into_iter(),
    };
    net.visit(&mut write);
    write.gradients
}
