//! A Burn module's tensors by PyTorch's names.
//!
//! A network's paths are PyTorch's already, but for `BatchNorm`'s `gamma` and `beta`, which PyTorch calls `weight` and
//! `bias`. (Not through `swa_models::StateDict`, which is what is tested.)

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

/// The L2 norm of every parameter's gradient, by name.
pub fn gradient_norms(model: &impl Module, gradients: &Gradients) -> BTreeMap<String, f64> {
    struct Norms<'a> {
        place: Place,
        gradients: &'a Gradients,
        norms: BTreeMap<String, f64>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.place.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                let squares = values(gradient).into_iter().map(|value| value.powi(2));
                self.norms
                    .insert(self.place.name(), squares.sum::<f64>().sqrt());
            }
        }
    }
    let mut visitor = Norms {
        place: Place::default(),
        gradients,
        norms: BTreeMap::new(),
    };
    model.visit(&mut visitor);
    visitor.norms
}

/// Every parameter and running statistic, by name, each in Burn's layout. The running variance is Burn's: the biased one.
pub fn tensors(model: &impl Module) -> BTreeMap<String, Vec<f64>> {
    #[derive(Default)]
    struct Tensors {
        place: Place,
        tensors: BTreeMap<String, Vec<f64>>,
    }
    impl ModuleVisitor for Tensors {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.place.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.tensors.insert(self.place.name(), values(param.val()));
        }
    }
    // A forward pass leaves its update of the statistics pending; `valid()` is what applies it (Burn 0.22.1).
    let mut visitor = Tensors::default();
    model.valid().visit(&mut visitor);
    visitor.tensors
}

/// The same module with every running variance multiplied by what `factor` says for its BatchNorm layer.
pub fn with_scaled_variances<M: Module>(model: M, factor: impl Fn(&str) -> f64) -> M {
    struct Scale<F> {
        place: Place,
        factor: F,
    }
    impl<F: Fn(&str) -> f64> ModuleMapper for Scale<F> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.place.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.place.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.place.name();
            match name.strip_suffix(".running_var") {
                None => param,
                Some(layer) => {
                    let factor = (self.factor)(layer);
                    param.map(|variance| variance.mul_scalar(factor))
                }
            }
        }
    }
    model.map(&mut Scale {
        place: Place::default(),
        factor,
    })
}

/// A tensor's values, flat, in f64.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Where a traversal is in the module tree.
#[derive(Default)]
struct Place {
    /// Field name or index, and the type that has it.
    path: Vec<(String, String)>,
}

impl Place {
    fn enter(&mut self, name: &str, container_type: &str) {
        self.path
            .push((name.to_string(), container_type.to_string()));
    }

    fn exit(&mut self) {
        self.path.pop();
    }

    fn is(&self, container_type: &str, field: &str) -> bool {
        let last = self.path.last();
        last.is_some_and(|(name, container)| name == field && container == container_type)
    }

    /// PyTorch's name of the tensor here.
    fn name(&self) -> String {
        let mut names: Vec<&str> = self.path.iter().map(|(name, _)| name.as_str()).collect();
        let translated = if self.is("Struct:BatchNorm", "gamma") {
            Some("weight")
        } else if self.is("Struct:BatchNorm", "beta") {
            Some("bias")
        } else {
            None
        };
        if let (Some(last), Some(translated)) = (names.last_mut(), translated) {
            *last = translated;
        }
        names.join(".")
    }
}
