//! A module without its weights.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param, ParameterValue};
use burn::tensor::{Bool, Device, Int, Tensor};

use super::value::Kind;
use super::{Layout, Parameter, Value, Weights, WeightsError};
use crate::burn_0_22::is_on_in_training;
use crate::path::{Path, follow_path};

/// A module whose parameters are placeholders. Each keeps its id, its rank, whether it requires a gradient, and how it is saved
/// and loaded, but its tensor has a single element. Whenever the module is visited or mapped, weights take their place.
#[derive(Debug)]
pub(crate) struct Skeleton<M>(M);

impl<M: Module> Skeleton<M> {
    /// The skeleton of a module on a plain device (see [`Module::valid`]), which shares nothing with another, and has this
    /// layout.
    ///
    /// # Errors
    ///
    /// [`WeightsError::PathsDiffer`].
    pub(crate) fn of(module: M, layout: &Layout) -> Result<Self, WeightsError> {
        let mut hollow = Hollow {
            path: Path::default(),
            layout,
            is_mapped: vec![false; layout.parameters().len()],
            unknown: None,
        };
        let skeleton = Self(module.map(&mut hollow));
        let mut parameters = layout.parameters().iter().zip(hollow.is_mapped);
        let unmapped = parameters.find(|(_, is_mapped)| !is_mapped);
        let unmapped = unmapped.map(|(parameter, _)| parameter.path.clone());
        match hollow.unknown.or(unmapped) {
            None => Ok(skeleton),
            Some(path) => Err(WeightsError::PathsDiffer { path }),
        }
    }

    /// The module with these weights, in the dtypes in which they are held, on their device.
    pub(crate) fn filled(&self, weights: &Weights) -> M {
        let mut module = self.0.valid();
        // This moves tensors that are no parameters. A model that is spread over several devices keeps them where they are.
        if let [device] = weights.devices().as_slice()
            && module.devices() != [device.clone()]
        {
            module = module.to_device(device);
        }
        let path = Path::default();
        module.map(&mut Fill { path, weights })
    }

    /// Tells whether the parameter at `path` requires no gradient, in a module in which another parameter requires one.
    pub(crate) fn is_frozen(&self, path: &str) -> bool {
        let mut trained = Trained::default();
        self.0.valid().train().visit(&mut trained);
        !trained.paths.is_empty() && !trained.paths.contains(path)
    }

    /// Freezes the layers that are frozen in `model`, by their training flags, and no others.
    pub(crate) fn freeze_as(&mut self, model: &M) {
        let mut of_model = TrainingFlags::default();
        model.visit(&mut of_model);
        let mut own = TrainingFlags::default();
        self.0.visit(&mut own);
        if own.flags != of_model.flags {
            self.0 = self.0.valid().map(&mut SetTrainingFlags {
                path: Path::default(),
                flags: of_model.flags,
            });
        }
    }

    /// The same on `device`. The weights are not part of it.
    pub(crate) fn moved_to(self, device: &Device) -> Self {
        Self(self.0.to_device(device))
    }

    /// Visits the module as if it held these weights.
    pub(crate) fn visit<V: ModuleVisitor>(&self, weights: &Weights, visitor: &mut V) {
        let path = Path::default();
        self.0.visit(&mut Filled {
            path,
            weights,
            visitor,
        });
    }

    /// Maps the module as if it held these weights. Returns the skeleton and the weights of the result.
    pub(crate) fn map<Mapper: ModuleMapper>(
        self,
        weights: Weights,
        mapper: &mut Mapper,
    ) -> (Self, Weights) {
        let (layout, values) = weights.into_parts();
        let mut mapper = Refilled {
            path: Path::default(),
            layout,
            values,
            mapper,
        };
        let skeleton = Self(self.0.map(&mut mapper));
        (skeleton, Weights::from_parts(mapper.layout, mapper.values))
    }
}

impl<M: Module> Clone for Skeleton<M> {
    /// A copy that shares nothing that changes. Clones of other Burn modules share their running statistics.
    fn clone(&self) -> Self {
        Self(self.0.valid())
    }
}

/// Collects the paths of the parameters that require a gradient.
#[derive(Default)]
struct Trained {
    path: Path,
    paths: HashSet<String>,
}

impl ModuleVisitor for Trained {
    follow_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.paths.insert(self.path.dotted().to_owned());
        }
    }
}

/// The methods of a mapper that does the same with floats, ints and bools.
macro_rules! map_each_kind {
    ($self:ident, $param:ident => $mapped:expr) => {
        fn map_float<const D: usize>(&mut $self, $param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            $mapped
        }

        fn map_int<const D: usize>(
            &mut $self,
            $param: Param<Tensor<D, Int>>,
        ) -> Param<Tensor<D, Int>> {
            $mapped
        }

        fn map_bool<const D: usize>(
            &mut $self,
            $param: Param<Tensor<D, Bool>>,
        ) -> Param<Tensor<D, Bool>> {
            $mapped
        }
    };
}

/// Puts weights into the parameters of a module.
struct Fill<'a> {
    path: Path,
    weights: &'a Weights,
}

impl Weights {
    fn at(&self, path: &Path) -> Option<(&Value, &Parameter)> {
        let place = self.layout.place(path.dotted())?;
        Some((&self.values[place], &self.layout.parameters()[place]))
    }
}

fn filled<const D: usize, K: Kind>(
    param: Param<Tensor<D, K>>,
    with: Option<(&Value, &Parameter)>,
) -> Param<Tensor<D, K>>
where
    Tensor<D, K>: ParameterValue,
{
    param.map(|tensor| {
        let value = with.and_then(|(value, parameter)| K::tensor(value, &parameter.shape));
        value.unwrap_or(tensor)
    })
}

impl ModuleMapper for Fill<'_> {
    follow_path!();

    map_each_kind!(self, param => filled(param, self.weights.at(&self.path)));
}

/// Shows a visitor weights in place of a skeleton's.
struct Filled<'a, V> {
    path: Path,
    weights: &'a Weights,
    visitor: &'a mut V,
}

impl<V: ModuleVisitor> ModuleVisitor for Filled<'_, V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
        self.visitor.enter_module(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.path.exit();
        self.visitor.exit_module(name, container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let param = filled(param.clone(), self.weights.at(&self.path));
        self.visitor.visit_float(&param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let param = filled(param.clone(), self.weights.at(&self.path));
        self.visitor.visit_int(&param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let param = filled(param.clone(), self.weights.at(&self.path));
        self.visitor.visit_bool(&param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.visitor.visit_flag(flag);
    }
}

/// Puts weights into a skeleton, has them mapped, and takes them out again, parameter by parameter.
struct Refilled<'a, Mapper> {
    path: Path,
    layout: Arc<Layout>,
    values: Vec<Value>,
    mapper: &'a mut Mapper,
}

impl<Mapper> Refilled<'_, Mapper> {
    fn through<const D: usize, K: Kind>(
        &mut self,
        param: Param<Tensor<D, K>>,
        map: impl FnOnce(&mut Mapper, Param<Tensor<D, K>>) -> Param<Tensor<D, K>>,
    ) -> Param<Tensor<D, K>>
    where
        Tensor<D, K>: ParameterValue,
    {
        let Some(place) = self.layout.place(self.path.dotted()) else {
            return map(self.mapper, param);
        };
        let with = (&self.values[place], &self.layout.parameters()[place]);
        let param = map(self.mapper, filled(param, Some(with)));
        param.map(|tensor| {
            let (hollow, shape) = (hollow(&tensor), tensor.dims());
            self.values[place] = K::value(tensor);
            if self.layout.parameters()[place].shape != shape {
                Arc::make_mut(&mut self.layout).reshape(place, &shape);
            }
            hollow
        })
    }
}

impl<Mapper: ModuleMapper> ModuleMapper for Refilled<'_, Mapper> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
        self.mapper.enter_module(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.path.exit();
        self.mapper.exit_module(name, container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.through(param, Mapper::map_float)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.through(param, Mapper::map_int)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.through(param, Mapper::map_bool)
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.mapper.map_flag(flag)
    }
}

/// The flags of a module by their paths, with their values while it trains.
#[derive(Default)]
struct TrainingFlags {
    path: Path,
    flags: HashMap<String, bool>,
}

impl ModuleVisitor for TrainingFlags {
    follow_path!();

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        let flag = is_on_in_training(flag);
        self.flags.insert(self.path.dotted().to_owned(), flag);
    }
}

struct SetTrainingFlags {
    path: Path,
    flags: HashMap<String, bool>,
}

impl ModuleMapper for SetTrainingFlags {
    follow_path!();

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        match self.flags.get(self.path.dotted()) {
            Some(is_on) => flag.with_value(*is_on),
            None => flag,
        }
    }
}

/// Takes the values out of parameters.
struct Hollow<'a> {
    path: Path,
    layout: &'a Layout,
    is_mapped: Vec<bool>,
    /// The first path that is not in the layout.
    unknown: Option<String>,
}

impl Hollow<'_> {
    fn hollow<const D: usize, K: Kind>(&mut self, param: Param<Tensor<D, K>>) -> Param<Tensor<D, K>>
    where
        Tensor<D, K>: ParameterValue,
    {
        let path = self.path.dotted();
        match self.layout.place(path) {
            Some(place) => self.is_mapped[place] = true,
            None => _ = self.unknown.get_or_insert_with(|| path.to_owned()),
        }
        param.map(|tensor| hollow(&tensor))
    }
}

impl ModuleMapper for Hollow<'_> {
    follow_path!();

    map_each_kind!(self, param => self.hollow(param));
}

fn hollow<const D: usize, K: Kind>(tensor: &Tensor<D, K>) -> Tensor<D, K> {
    Tensor::zeros([1; D], &tensor.device())
}
