//! A Burn module's tensors by PyTorch's names.
//!
//! A network's paths are PyTorch's, except for `BatchNorm`'s `gamma` and `beta`, which PyTorch calls `weight` and `bias`.
//! (This does not use `swa_store::StateDict`, which is under test.)

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use burn_swa_test_support::parameters::{Values, floats, mapped, values};
use burn_swa_test_support::path::Path;

/// The L2 norm of every parameter's gradient, by name.
pub fn gradient_norms(model: &impl Module, gradients: &Gradients) -> BTreeMap<String, f64> {
    struct Norms<'a> {
        path: Path,
        gradients: &'a Gradients,
        norms: BTreeMap<String, f64>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                let squares = values(gradient).into_iter().map(|value| value.powi(2));
                let norm = squares.sum::<f64>().sqrt();
                self.norms.insert(pytorch_name(&self.path.dotted()), norm);
            }
        }
    }
    let mut visitor = Norms {
        path: Path::default(),
        gradients,
        norms: BTreeMap::new(),
    };
    model.visit(&mut visitor);
    visitor.norms
}

/// Every parameter and running statistic, by name, in Burn's layout. The running variance is Burn's, which is the biased one.
pub fn tensors(model: &impl Module) -> Values {
    // A forward pass leaves its update of the statistics pending, and `valid()` applies it (Burn 0.22.1).
    let floats = floats(&model.valid());
    let named = floats.into_iter();
    let named = named.map(|(path, values)| (pytorch_name(&path), values));
    named.collect()
}

/// The same module with every running variance multiplied by the `factor` of its BatchNorm layer.
pub fn with_scaled_variances<M: Module>(model: M, factor: impl Fn(&str) -> f64) -> M {
    mapped(model, |path, values| {
        match path.strip_suffix(".running_var") {
            None => values,
            Some(layer) => values.mul_scalar(factor(layer)),
        }
    })
}

/// PyTorch's name of the tensor at `path`.
fn pytorch_name(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((layer, "gamma")) => format!("{layer}.weight"),
        Some((layer, "beta")) => format!("{layer}.bias"),
        _ => path.to_owned(),
    }
}
