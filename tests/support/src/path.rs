//! The current place of a traversal in a module.

/// The names of the fields that enclose the parameter being visited or mapped.
#[derive(Debug, Default)]
pub struct Path(Vec<String>);

impl Path {
    /// Goes down into a field. For `enter_module`.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    /// Goes back up. For `exit_module`.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The path as Burn's records spell it: `layer1.0.conv1.weight`.
    pub fn dotted(&self) -> String {
        self.0.join(".")
    }
}
