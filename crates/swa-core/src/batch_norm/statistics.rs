//! The running statistics that passes leave, read from the device.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Tensor, Transaction};

use super::BatchNormError;
use super::layers::{Field, Layer, Layers};
use crate::kernels::cast;
use crate::path::Path;

/// The mean and the variance of each channel of a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f64>,
    pub(super) variance: Vec<f64>,
}

/// What a batch has left in a layer.
pub(super) struct Left {
    pub(super) last: Statistics,
    /// What there was before the batch passed the layer for the last time.
    pub(super) earlier: Statistics,
}

/// What a batch has left in all layers of a model, still on the device of the first layer: one tensor for layers in f32, one
/// for those in f64. In each are a layer's earlier means and variances, its last ones, then the next layer's.
pub(super) struct OnDevice {
    narrow: Option<Tensor<1>>,
    wide: Option<Tensor<1>>,
}

impl OnDevice {
    /// What there is in `model` after a forward pass.
    ///
    /// A [`RunningState`](burn::module::RunningState) of Burn 0.22.1 keeps its last update apart. Only [`Module::valid`] applies it,
    /// and a traversal shows the state before it.
    pub(super) fn left_in<M: Module>(model: &M, layers: &Layers) -> Self {
        let earlier = Collector::visit(model, layers);
        let last = Collector::visit(&model.valid(), layers);
        let joined = |wide: bool| {
            let mut tensors = Vec::new();
            for (place, layer) in layers.iter().enumerate() {
                if layer.is_wide() == wide {
                    let both = earlier[place].iter().chain(&last[place]);
                    tensors.extend(both.flatten().cloned());
                }
            }
            let device = tensors.first().map(Tensor::device)?;
            let dtype = if wide {
                FloatDType::F64
            } else {
                FloatDType::F32
            };
            let tensors = tensors.into_iter();
            let tensors = tensors.map(|tensor| cast(tensor, dtype).to_device(&device));
            Some(Tensor::cat(tensors.collect(), 0))
        };
        Self {
            narrow: joined(false),
            wide: joined(true),
        }
    }

    /// Reads it from the device.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::Device`].
    pub(super) fn read(self, layers: &Layers) -> Result<Vec<Left>, BatchNormError> {
        let mut read = Self::read_all(&[self], layers)?;
        Ok(read.swap_remove(0))
    }

    /// Reads that of several batches from the device, in one transfer.
    ///
    /// # Errors
    ///
    /// [`BatchNormError::Device`].
    pub(super) fn read_all(
        all: &[Self],
        layers: &Layers,
    ) -> Result<Vec<Vec<Left>>, BatchNormError> {
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
            let of_layer = |layer: &Layer| {
                let values = if layer.is_wide() {
                    &mut wide
                } else {
                    &mut narrow
                };
                let mut statistics = || Statistics {
                    mean: values.take(layer.channels).collect(),
                    variance: values.take(layer.channels).collect(),
                };
                Left {
                    earlier: statistics(),
                    last: statistics(),
                }
            };
            layers.iter().map(of_layer).collect()
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
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

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
