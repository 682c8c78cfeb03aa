//! The parameters of a module by their paths.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Int, Tensor};

use crate::path::Path;

/// The values of parameters, flat, by path.
pub type Values = BTreeMap<String, Vec<f64>>;

/// A tensor's values, flat.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// All floats of a module, running statistics included.
pub fn floats(module: &impl Module) -> Values {
    #[derive(Default)]
    struct Floats {
        path: Path,
        values: Values,
    }
    impl ModuleVisitor for Floats {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.values.insert(self.path.dotted(), values(param.val()));
        }
    }
    let mut floats = Floats::default();
    module.visit(&mut floats);
    floats.values
}

/// All floats of a module except running statistics.
pub fn weights(module: &impl Module) -> Values {
    let mut weights = floats(module);
    weights.retain(|path, _| !is_running_statistic(path));
    weights
}

/// Tells whether the path is of BatchNorm's running mean or variance.
pub fn is_running_statistic(path: &str) -> bool {
    path.ends_with("running_mean") || path.ends_with("running_var")
}

/// Asserts that `averaged` has the mean of weights that were [`collected`](weights), to 1e-6.
pub fn assert_is_mean_of(averaged: &impl Module, collected: &[&Values]) {
    let averaged = weights(averaged);
    for collected in collected {
        assert!(averaged.keys().eq(collected.keys()));
    }
    for (path, values) in &averaged {
        for (index, value) in values.iter().enumerate() {
            let sum: f64 = collected.iter().map(|weights| weights[path][index]).sum();
            let mean = sum / collected.len() as f64;
            let off = (value - mean).abs();
            assert!(off < 1e-6, "{path}[{index}]: {value}, expected {mean}");
        }
    }
}

/// Path and shape of all floats and integers of a module, in the order of its fields. No initial value is drawn.
pub fn shapes(module: &impl Module) -> Vec<(String, Vec<usize>)> {
    #[derive(Default)]
    struct Shapes {
        path: Path,
        shapes: Vec<(String, Vec<usize>)>,
    }
    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.lazy_shape().to_vec();
            self.shapes.push((self.path.dotted(), shape));
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            let shape = param.lazy_shape().to_vec();
            self.shapes.push((self.path.dotted(), shape));
        }
    }
    let mut shapes = Shapes::default();
    module.visit(&mut shapes);
    shapes.shapes
}

/// The number of elements of parameters of these [`shapes`].
pub fn elements<'a>(shapes: impl IntoIterator<Item = &'a (String, Vec<usize>)>) -> usize {
    let elements = shapes
        .into_iter()
        .map(|(_, shape)| shape.iter().product::<usize>());
    elements.sum()
}

/// The module with all floats changed by `change`, which takes the path and the values, flat.
pub fn mapped<M: Module>(module: M, change: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Mapped<F> {
        path: Path,
        change: F,
    }
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Mapped<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| {
                let shape = tensor.shape();
                let flat = tensor.reshape([shape.num_elements()]);
                (self.change)(&self.path.dotted(), flat).reshape(shape)
            })
        }
    }
    module.map(&mut Mapped {
        path: Path::default(),
        change,
    })
}

/// The module with all floats multiplied by `factor`.
pub fn scaled<M: Module>(module: M, factor: f64) -> M {
    mapped(module, |_, values| values.mul_scalar(factor))
}

/// The module with all floats in `dtype`.
pub fn cast<M: Module>(module: M, dtype: FloatDType) -> M {
    mapped(module, |_, values| values.cast(dtype))
}
