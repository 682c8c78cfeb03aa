//! Where in a module a traversal is.

/// The names of the modules that enclose the parameter being visited or mapped, and their kinds.
///
/// Burn calls `enter_module(field, container)` on the way down, `exit_module` on the way up; the
/// container is `"Struct:Name"` for a field of a struct, `"Vec"` for an element and so on.
#[derive(Debug, Default)]
pub(crate) struct Path {
    names: Vec<String>,
    containers: Vec<String>,
}

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// The dotted path, as Burn's records spell it: `layer1.0.conv1.weight`.
    pub(crate) fn dotted(&self) -> String {
        self.names.join(".")
    }

    /// The dotted path of the module that holds the parameter.
    pub(crate) fn dotted_parent(&self) -> String {
        self.names[..self.names.len().saturating_sub(1)].join(".")
    }

    /// The field of a BatchNorm layer that is being traversed, if it is one's.
    ///
    /// Burn visits running statistics as ordinary float parameters, so where they are is all that
    /// tells them apart (`burn_nn::BatchNorm`, Burn 0.22.1).
    pub(crate) fn batch_norm_field(&self) -> Option<&str> {
        match self.containers.last()?.as_str() {
            "Struct:BatchNorm" => self.names.last().map(String::as_str),
            _ => None,
        }
    }

    /// Whether the parameter is a BatchNorm layer's running mean or variance.
    pub(crate) fn is_running_statistic(&self) -> bool {
        matches!(
            self.batch_norm_field(),
            Some("running_mean" | "running_var")
        )
    }
}
