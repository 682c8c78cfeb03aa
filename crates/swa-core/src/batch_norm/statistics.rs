//! The running statistics that passes leave, read from the device.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Tensor, Transaction};

use super::BatchNormError;
use super::layers::{Field, Layers};
use crate::kernels::cast;
use crate::path::{Path, follow_path};

/// The mean and the variance of each channel of a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f64>,
    pub(super) variance: Vec<f64>,
}

/// The passes of a batch through a layer.
pub(super) struct Passes {
    /// There was one, in training mode or not.
    pub(super) is_passed: bool,
    /// The statistics that they have left.
    pub(super) left: Vec<Left>,
}

/// The statistics that a pass has left in a layer.
pub(super) struct Left {
    pub(super) last: Statistics,
    /// Those before the last update: the start, unless the layer was passed more often.
    pub(super) earlier: Statistics,
}

/// The same, on the device: the earlier mean and variance, and the last ones.
pub(super) type LeftOnDevice = [Tensor<1>; 4];

/// The statistics that passes have left in each layer of `model`, as far as it was not taken out.
///
/// A [`RunningState`](burn::module::RunningState) of Burn 0.22.1 keeps its last update apart. Only [`Module::valid`] applies it,
/// and a traversal shows the state before it.
pub(super) fn left_in<M: Module>(model: &M, layers: &Layers) -> Vec<Option<LeftOnDevice>> {
    let earlier = Collector::visit(model, layers);
    let last = Collector::visit(&model.valid(), layers);
    let both = earlier.into_iter().zip(last);
    let all = both.map(|(earlier, last)| {
        let ([mean, variance], [last_mean, last_variance]) = (earlier, last);
        Some([mean?, variance?, last_mean?, last_variance?])
    });
    all.collect()
}

/// The statistics that a batch has left in all layers of a model, still on the device of the first layer: one tensor for layers in f32, one
/// for those in f64. In each, what one pass has left is followed by what the next one has.
pub(super) struct OnDevice {
    /// Tells of each layer whether the batch has passed it, in training mode or not.
    passed: Vec<bool>,
    /// The places of the layers in which passes have left something.
    places: Vec<usize>,
    narrow: Option<Tensor<1>>,
    wide: Option<Tensor<1>>,
}

impl OnDevice {
    /// Joins what passes have left, each with its layer's place.
    pub(super) fn join(
        left: Vec<(usize, LeftOnDevice)>,
        passed: Vec<bool>,
        layers: &Layers,
    ) -> Self {
        let joined = |wide: bool| {
            let left = left.iter();
            let left = left.filter(|(place, _)| layers[*place].is_wide() == wide);
            let tensors: Vec<_> = left.flat_map(|(_, left)| left).collect();
            let device = tensors.first()?.device();
            let dtype = if wide {
                FloatDType::F64
            } else {
                FloatDType::F32
            };
            let tensors = tensors.into_iter();
            let tensors = tensors.map(|tensor| cast(tensor.clone(), dtype).to_device(&device));
            Some(Tensor::cat(tensors.collect(), 0))
        };
        Self {
            narrow: joined(false),
            wide: joined(true),
            passed,
            places: left.into_iter().map(|(place, _)| place).collect(),
        }
    }

    /// Reads it from the device.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::Device`].
    pub(super) fn read(self, layers: &Layers) -> Result<Vec<Passes>, BatchNormError> {
        let mut read = Self::read_all(&[self], layers)?;
        Ok(read.swap_remove(0))
    }

    /// Reads that of several batches from the device, in one transfer: for each batch, the passes through each layer.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::Device`].
    pub(super) fn read_all(
        all: &[Self],
        layers: &Layers,
    ) -> Result<Vec<Vec<Passes>>, BatchNormError> {
        let tensors = all.iter().flat_map(|it| [&it.narrow, &it.wide]).flatten();
        let transaction = tensors.fold(Transaction::default(), |transaction, tensor| {
            transaction.register(tensor.clone())
        });
        let data = transaction
            .try_execute()
            .map_err(|error| BatchNormError::Device {
                reason: error.to_string(),
            })?;
        let mut data = data.into_iter();
        let mut next = |tensor: &Option<Tensor<1>>| {
            let data = tensor.as_ref().and_then(|_| data.next());
            let values: Vec<f64> = data.map_or_else(Vec::new, |it| it.iter().collect());
            values.into_iter()
        };
        let read = all.iter().map(|it| {
            let (mut narrow, mut wide) = (next(&it.narrow), next(&it.wide));
            let passed = it.passed.iter().map(|is_passed| Passes {
                is_passed: *is_passed,
                left: Vec::new(),
            });
            let mut passes: Vec<Passes> = passed.collect();
            for place in &it.places {
                let layer = &layers[*place];
                let values = if layer.is_wide() {
                    &mut wide
                } else {
                    &mut narrow
                };
                let mut statistics = || Statistics {
                    mean: values.take(layer.channels).collect(),
                    variance: values.take(layer.channels).collect(),
                };
                passes[*place].left.push(Left {
                    earlier: statistics(),
                    last: statistics(),
                });
            }
            passes
        });
        Ok(read.collect())
    }
}

struct Collector<'a> {
    path: Path,
    layers: &'a Layers,
    /// The mean and the variance of each layer.
    statistics: Vec<[Option<Tensor<1>>; 2]>,
}

impl<'a> Collector<'a> {
    fn visit<M: Module>(model: &M, layers: &'a Layers) -> Vec<[Option<Tensor<1>>; 2]> {
        let mut collector = Self {
            path: Path::default(),
            layers,
            statistics: layers.iter().map(|_| [None, None]).collect(),
        };
        model.visit(&mut collector);
        collector.statistics
    }
}

impl ModuleVisitor for Collector<'_> {
    follow_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some((place, field)) = self.layers.at(&self.path) {
            let value = param.val().without_autodiff();
            let channels = value.shape().num_elements();
            let [mean, variance] = &mut self.statistics[place];
            let statistic = match field {
                Field::Mean => mean,
                Field::Variance => variance,
            };
            *statistic = Some(value.reshape([channels]));
        }
    }
}
