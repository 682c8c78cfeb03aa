//! The BatchNorm layers of a model: their training mode, and their running statistics, read and set.

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor};

use super::BatchNormError;
use crate::kernels::cast;
use crate::path::Path;

/// The BatchNorm layers of a model, in order.
pub(super) struct Layers(Vec<Layer>);

struct Layer {
    path: String,
    channels: usize,
    /// The dtype of the running statistics.
    dtype: DType,
}

impl Layers {
    pub(super) fn of<M: Module>(model: &M) -> Self {
        #[derive(Default)]
        struct Finder {
            path: Path,
            layers: Vec<Layer>,
        }
        impl ModuleVisitor for Finder {
            fn enter_module(&mut self, name: &str, container: &str) {
                self.path.enter(name, container);
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.path.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if self.path.batch_norm_field() == Some("running_mean") {
                    self.layers.push(Layer {
                        path: self.path.dotted_parent().to_owned(),
                        channels: param.lazy_shape().num_elements(),
                        dtype: param.val().dtype(),
                    });
                }
            }
        }
        let mut finder = Finder::default();
        model.visit(&mut finder);
        Self(finder.layers)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check_dtypes(&self) -> Result<(), BatchNormError> {
        let wide = |dtype| matches!(dtype, DType::F32 | DType::F64 | DType::Flex32);
        match self.0.iter().find(|layer| !wide(layer.dtype)) {
            None => Ok(()),
            Some(Layer { path, dtype, .. }) => Err(BatchNormError::TooNarrow {
                layer: path.clone(),
                dtype: *dtype,
            }),
        }
    }

    /// The layer of channel `index`, counted over all layers.
    pub(super) fn at_channel(&self, index: usize) -> &str {
        let mut end = 0;
        let layer = self.0.iter().find(|layer| {
            end += layer.channels;
            index < end
        });
        layer.map_or("", |layer| &layer.path)
    }
}

/// Means and variances of all channels of all layers, in order: two tensors of shape `[channels]`.
///
/// They are together so that pooling takes a few operations per batch, and not a few per layer.
#[derive(Clone)]
pub(super) struct Statistics {
    pub(super) mean: Tensor<1>,
    pub(super) variance: Tensor<1>,
}

impl Statistics {
    /// 1 for the channels of the layers that a batch passed, else 0. All started from [`NOT_PASSED`].
    pub(super) fn passed(&self) -> Tensor<1> {
        let passed = self.variance.clone().not_equal_elem(NOT_PASSED);
        cast(passed.float(), FloatDType::F32)
    }
}

/// A copy of `model` in which only the BatchNorm layers are in training mode: on the autodiff device,
/// without gradients.
pub(super) fn training_mode<M: Module>(model: &M) -> M {
    #[derive(Default)]
    struct OnlyBatchNorm {
        path: Path,
    }
    impl ModuleMapper for OnlyBatchNorm {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
            flag.with_value(self.path.batch_norm_field().is_some())
        }
    }
    // Only `valid` makes a deep copy: a clone shares the model's running statistics.
    model
        .valid()
        .train()
        .no_grad()
        .map(&mut OnlyBatchNorm::default())
}

/// The start of running statistics before a batch. It is so small that it does not change a batch's statistics, and negative,
/// so that no layer that is passed still has it as its variance.
pub(super) const NOT_PASSED: f64 = -1.0 / (1u128 << 100) as f64;

/// Sets all running means and variances to `value`.
pub(super) fn start_from<M: Module>(model: M, value: f64) -> M {
    struct Fill {
        path: Path,
        value: f64,
    }
    impl ModuleMapper for Fill {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.path.is_running_statistic() {
                param.map(|tensor| tensor.full_like(self.value))
            } else {
                param
            }
        }
    }
    model.map(&mut Fill {
        path: Path::default(),
        value,
    })
}

/// The running statistics of a model in validation mode (a forward pass leaves its update where only
/// [`Module::valid`] sees it), in f32 and on the device of the first layer.
pub(super) fn statistics<M: Module>(model: &M) -> Statistics {
    #[derive(Default)]
    struct Reader {
        path: Path,
        means: Vec<Tensor<1>>,
        variances: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Reader {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let into = match self.path.batch_norm_field() {
                Some("running_mean") => &mut self.means,
                Some("running_var") => &mut self.variances,
                _ => return,
            };
            let value = param.val();
            let channels = value.shape().num_elements();
            let value = cast(value.reshape([channels]), FloatDType::F32);
            let device = into.first().map_or_else(|| value.device(), Tensor::device);
            into.push(value.to_device(&device));
        }
    }
    let mut reader = Reader::default();
    model.visit(&mut reader);
    Statistics {
        mean: Tensor::cat(reader.means, 0),
        variance: Tensor::cat(reader.variances, 0),
    }
}

/// Gives every BatchNorm layer its part of the statistics.
pub(super) struct SetStatistics {
    path: Path,
    statistics: Statistics,
    /// The first channel of the current layer.
    channel: usize,
}

impl SetStatistics {
    pub(super) fn new(statistics: Statistics) -> Self {
        Self {
            path: Path::default(),
            statistics,
            channel: 0,
        }
    }
}

impl ModuleMapper for SetStatistics {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // The mean is visited before the variance.
        let (all, last) = match self.path.batch_norm_field() {
            Some("running_mean") => (&self.statistics.mean, false),
            Some("running_var") => (&self.statistics.variance, true),
            _ => return param,
        };
        let channels = param.lazy_shape().num_elements();
        let value = all.clone().narrow(0, self.channel, channels);
        if last {
            self.channel += channels;
        }
        param.map(|old| {
            let value = value.to_device(&old.device()).reshape(old.shape());
            cast(value, old.dtype().into())
        })
    }
}

/// Reads one value a channel from its device.
pub(super) fn read(tensor: Tensor<1>) -> Result<Vec<f64>, BatchNormError> {
    match tensor.try_into_data() {
        Ok(data) => Ok(data.iter::<f64>().collect()),
        Err(error) => Err(BatchNormError::Device {
            reason: error.to_string(),
        }),
    }
}
