//! A Burn module seen as a PyTorch state dict: its tensors by PyTorch's names and in PyTorch's layout.
//!
//! A network's paths are PyTorch's already. What Burn itself calls otherwise is translated here: `BatchNorm`'s `gamma`
//! and `beta` are PyTorch's `weight` and `bias`, and a `Linear` weight is `[in, out]` where PyTorch's is `[out, in]`.

use std::collections::BTreeMap;
use std::error::Error;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};

use crate::vectors::Entry;

/// The module with every parameter and running statistic set to the entry of its name.
///
/// An error names the tensors that have no entry, the entries that no tensor took, and the shapes that do not match.
pub fn load<M: Module>(model: M, entries: &[Entry]) -> Result<M, Box<dyn Error>> {
    let entries = entries.iter().map(|entry| (entry.name.as_str(), entry));
    let mut loader = Loader {
        place: Place::default(),
        entries: entries.collect(),
        problems: Vec::new(),
    };
    let model = model.map(&mut loader);
    let unused = loader.entries.keys();
    let mut problems = loader.problems;
    problems.extend(unused.map(|name| format!("no tensor is called {name}")));
    match problems.len() {
        0 => Ok(model),
        _ => Err(problems.join("; ").into()),
    }
}

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

/// Every BatchNorm's running mean and variance, by name, as Burn keeps them: the variance is the biased one.
pub fn running_statistics(model: &impl Module) -> BTreeMap<String, Vec<f64>> {
    #[derive(Default)]
    struct Statistics {
        place: Place,
        statistics: BTreeMap<String, Vec<f64>>,
    }
    impl ModuleVisitor for Statistics {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.place.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.place.name();
            if name.ends_with(".running_mean") || name.ends_with(".running_var") {
                self.statistics.insert(name, values(param.val()));
            }
        }
    }
    // A forward pass leaves its update pending; `valid()` is what applies it (Burn 0.22.1).
    let mut visitor = Statistics::default();
    model.valid().visit(&mut visitor);
    visitor.statistics
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

struct Loader<'a> {
    place: Place,
    /// Those that no tensor has taken yet.
    entries: BTreeMap<&'a str, &'a Entry>,
    problems: Vec<String>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.place.name();
        let Some(entry) = self.entries.remove(name.as_str()) else {
            self.problems.push(format!("no entry is called {name}"));
            return param;
        };
        let mut shape = entry.shape.clone();
        let mut values = entry.values();
        if let ([rows, columns], true) = (&shape[..], self.place.is("Struct:Linear", "weight")) {
            values = transpose(&values, *rows, *columns);
            shape.reverse();
        }
        if param.lazy_shape().to_vec() != shape {
            self.problems.push(format!(
                "{name} has shape {:?}, its entry, in Burn's layout, {shape:?}",
                param.lazy_shape().to_vec()
            ));
            return param;
        }
        param.map(|old| {
            let require_grad = old.is_require_grad();
            let new = Tensor::from_data(TensorData::new(values, shape), &old.device());
            new.set_require_grad(require_grad)
        })
    }
}

fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let indices = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
    indices
        .map(|(row, column)| values[row * columns + column])
        .collect()
}
