//! The BatchNorm layers of a model: their training mode, and their running statistics, set before and after a pass.

use core::ops::Index;
use std::collections::{HashMap, HashSet};

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::statistics::Statistics;
use super::{BatchNormError, KeptReason, KeptStatistics};
use crate::burn_0_22::{is_on_in_training, running_states};
use crate::path::{Path, follow_path};

/// The layers of a model whose statistics are re-estimated, and the names of those that are not.
///
/// Layers are told apart by their paths, so that a hand-written `visit` and `map` may pass them in any order.
pub(super) struct Layers {
    layers: Vec<Layer>,
    places: HashMap<String, usize>,
    /// The running statistics that no pass re-estimates.
    pub(super) kept: Vec<KeptStatistics>,
}

/// A BatchNorm layer that trains.
pub(super) struct Layer {
    pub(super) path: String,
    pub(super) channels: usize,
    /// The dtype of the running statistics.
    pub(super) dtype: DType,
}

impl Layer {
    /// Tells whether the statistics are in f64.
    pub(super) fn is_wide(&self) -> bool {
        self.dtype == DType::F64
    }

    /// `value` in the precision of the statistics.
    pub(super) fn round(&self, value: f64) -> f64 {
        if self.is_wide() {
            value
        } else {
            f64::from(value as f32)
        }
    }

    pub(super) fn not_finite(&self) -> BatchNormError {
        BatchNormError::NotFinite {
            layer: self.path.clone(),
            dtype: self.dtype,
        }
    }
}

impl Index<usize> for Layers {
    type Output = Layer;

    fn index(&self, place: usize) -> &Layer {
        &self.layers[place]
    }
}

impl Layers {
    /// # Errors
    ///
    /// [`BatchNormError::SharedPath`].
    pub(super) fn of<M: Module>(model: &M) -> Result<Self, BatchNormError> {
        let mut finder = Finder {
            path: Path::default(),
            states: running_states(model),
            found: Vec::new(),
            places: HashMap::new(),
            kept: Vec::new(),
            shared: None,
        };
        model.visit(&mut finder);
        if let Some(layer) = finder.shared {
            return Err(BatchNormError::SharedPath { layer });
        }
        let mut layers = Self {
            layers: Vec::new(),
            places: HashMap::new(),
            kept: Vec::new(),
        };
        let mut keep = |path: String, reason| layers.kept.push(KeptStatistics { path, reason });
        for Found {
            path,
            is_frozen,
            mean,
            variance,
        } in finder.found
        {
            match (mean, variance) {
                (None, None) => {}
                (Some(_), Some(_)) if is_frozen => keep(path, KeptReason::Frozen),
                (Some((channels, dtype)), Some((also, other))) if channels == also => {
                    layers.places.insert(path.clone(), layers.layers.len());
                    layers.layers.push(Layer {
                        path,
                        channels,
                        dtype: if is_wide_enough(dtype) { other } else { dtype },
                    });
                }
                // Only a layer of the user's own that has the same name.
                _ => keep(path, KeptReason::AnotherMake),
            }
        }
        finder
            .kept
            .into_iter()
            .for_each(|path| keep(path, KeptReason::AnotherMake));
        Ok(layers)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn check_dtypes(&self) -> Result<(), BatchNormError> {
        match self.iter().find(|layer| !is_wide_enough(layer.dtype)) {
            None => Ok(()),
            Some(Layer { path, dtype, .. }) => Err(BatchNormError::TooNarrow {
                layer: path.clone(),
                dtype: *dtype,
            }),
        }
    }

    /// The place of the layer at this path.
    pub(super) fn place(&self, path: &str) -> Option<usize> {
        self.places.get(path).copied()
    }

    /// The statistic that is being traversed: its layer's place, and whether it is the mean.
    pub(super) fn at(&self, path: &Path) -> Option<(usize, Field)> {
        let field = Field::named(path.batch_norm_field()?)?;
        Some((self.place(path.dotted_parent())?, field))
    }
}

fn is_wide_enough(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::Flex32)
}

/// A field of a BatchNorm layer that holds running statistics.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Field {
    Mean,
    Variance,
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        match name {
            "running_mean" => Some(Self::Mean),
            "running_var" => Some(Self::Variance),
            _ => None,
        }
    }
}

/// Finds the modules called `BatchNorm`, and running states elsewhere.
struct Finder {
    path: Path,
    /// The paths of all running states.
    states: HashSet<String>,
    found: Vec<Found>,
    places: HashMap<String, usize>,
    /// The paths of running statistics that are no running state of a BatchNorm layer.
    kept: Vec<String>,
    shared: Option<String>,
}

/// A module called `BatchNorm`, with the number of channels and the dtype of its running states.
#[derive(Default)]
struct Found {
    path: String,
    is_frozen: bool,
    mean: Option<(usize, DType)>,
    variance: Option<(usize, DType)>,
}

impl Finder {
    /// The module that holds the current field.
    fn current(&mut self) -> &mut Found {
        let path = self.path.dotted_parent();
        let place = match self.places.get(path) {
            Some(place) => *place,
            None => {
                let place = self.found.len();
                self.places.insert(path.to_owned(), place);
                self.found.push(Found {
                    path: path.to_owned(),
                    ..Found::default()
                });
                place
            }
        };
        &mut self.found[place]
    }
}

impl ModuleVisitor for Finder {
    follow_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.states.contains(self.path.dotted()) {
            // By their names, plain parameters of the user's own layer can be statistics, which no average takes for weights.
            if self.path.is_running_statistic() {
                self.kept.push(self.path.dotted().to_owned());
            }
            return;
        }
        let Some(field) = self.path.batch_norm_field().and_then(Field::named) else {
            self.kept.push(self.path.dotted().to_owned());
            return;
        };
        let value = param.val();
        let shape = (value.shape().num_elements(), value.dtype());
        let layer = self.current();
        let statistic = match field {
            Field::Mean => &mut layer.mean,
            Field::Variance => &mut layer.variance,
        };
        if statistic.replace(shape).is_some() {
            let path = layer.path.clone();
            self.shared.get_or_insert(path);
        }
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        if self.path.batch_norm_field().is_some() {
            self.current().is_frozen |= !is_on_in_training(flag);
        }
    }
}

/// A copy of `model` in which only the BatchNorm layers are in training mode, but for frozen ones: on the autodiff device,
/// without gradients.
pub(super) fn training_mode<M: Module>(model: &M) -> M {
    #[derive(Default)]
    struct OnlyBatchNorm {
        path: Path,
    }
    impl ModuleMapper for OnlyBatchNorm {
        follow_path!();

        fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
            let is_on = flag.is_enabled() && self.path.batch_norm_field().is_some();
            flag.with_value(is_on)
        }
    }
    // Only `valid` makes a deep copy: a clone shares the model's running statistics. `train` turns on the flags that `valid`
    // has turned off, and no others.
    model
        .valid()
        .train()
        .no_grad()
        .map(&mut OnlyBatchNorm::default())
}

/// The running statistics before a pass.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// To read a batch's statistics: the mean starts from 0. The variance starts from a negative number, so that no layer that
    /// is passed still has it, unless its momentum is 0. The number is too small to change a batch's statistics, but no subnormal
    /// one, which a GPU may take for 0.
    ToRead,
    /// To measure the momentum: the mean starts from a number so large that rounding removes what a forward pass adds. It is a
    /// power of two, so that the division by it is exact.
    ToMeasure,
}

impl Start {
    pub(super) fn value(self, field: Field, layer: &Layer) -> f64 {
        match (self, field) {
            (_, Field::Variance) if layer.is_wide() => -f64::MIN_POSITIVE,
            (_, Field::Variance) => -f64::from(f32::MIN_POSITIVE),
            (Self::ToRead, Field::Mean) => 0.0,
            (Self::ToMeasure, Field::Mean) if layer.is_wide() => 2f64.powi(1000),
            (Self::ToMeasure, Field::Mean) => 2f64.powi(126),
        }
    }
}

/// Sets the running statistics of some layers of `model`, told by their places, to a start.
pub(super) fn start_from<M: Module>(model: M, layers: &Layers, some: &[bool], start: Start) -> M {
    struct Fill<'a> {
        path: Path,
        layers: &'a Layers,
        some: &'a [bool],
        start: Start,
    }
    impl ModuleMapper for Fill<'_> {
        follow_path!();

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some((place, field)) = self.layers.at(&self.path) else {
                return param;
            };
            if !self.some[place] {
                return param;
            }
            let value = self.start.value(field, &self.layers[place]);
            param.map(|tensor| tensor.full_like(value))
        }
    }
    model.map(&mut Fill {
        path: Path::default(),
        layers,
        some,
        start,
    })
}

/// Gives each layer its statistics, if there are some.
pub(super) struct SetStatistics<'a> {
    path: Path,
    layers: &'a Layers,
    statistics: &'a [Option<Statistics>],
}

impl<'a> SetStatistics<'a> {
    pub(super) fn new(layers: &'a Layers, statistics: &'a [Option<Statistics>]) -> Self {
        Self {
            path: Path::default(),
            layers,
            statistics,
        }
    }
}

impl ModuleMapper for SetStatistics<'_> {
    follow_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((place, field)) = self.layers.at(&self.path) else {
            return param;
        };
        let Some(statistics) = &self.statistics[place] else {
            return param;
        };
        let values = match field {
            Field::Mean => &statistics.mean,
            Field::Variance => &statistics.variance,
        };
        param.map(|old| tensor(values, old.dtype(), &old.device()).reshape(old.shape()))
    }
}

/// A tensor of the values in `dtype`. The host converts them, since not all devices know f64.
fn tensor(values: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
}
