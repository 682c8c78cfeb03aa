//! For tests: the tensors of a network by their paths.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Path and shape of every tensor, running statistics included, in the order of the network's fields.
pub(crate) fn named_shapes(model: &impl Module) -> Vec<(String, Vec<usize>)> {
    #[derive(Default)]
    struct Shapes {
        path: Vec<String>,
        shapes: Vec<(String, Vec<usize>)>,
    }
    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            // Not `val()`, which would draw the weights.
            let shape = param.lazy_shape().to_vec();
            self.shapes.push((self.path.join("."), shape));
        }
    }
    let mut visitor = Shapes::default();
    model.visit(&mut visitor);
    visitor.shapes
}

/// Asserts the number of trainable parameters, and that the README's table says so.
pub(crate) fn assert_parameter_count(
    model: &impl Module,
    name: &str,
    configuration: &str,
    expected: usize,
) {
    let count: usize = named_shapes(model)
        .iter()
        .filter(|(path, _)| !path.ends_with("running_mean") && !path.ends_with("running_var"))
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(count, expected, "{name}");

    let row = format!("| {name} | `{configuration}` | {} |", with_commas(count));
    let readme = include_str!("../README.md");
    assert!(readme.contains(&row), "the README has no row {row}");
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap())
        .collect();
    groups.join(",")
}
