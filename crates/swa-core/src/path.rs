//! The current place of a traversal in a module.

use crate::burn_0_22::Container;

/// The names of the modules that enclose the parameter being visited or mapped, and their kinds.
///
/// Burn calls `enter_module(field, container)` on the way down, `exit_module` on the way up; the
/// container is `"Struct:Name"` for a field of a struct, `"Vec"` for an element and so on.
#[derive(Debug, Default)]
pub(crate) struct Path {
    dotted: String,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// The index in the dotted path at which its name begins.
    name: usize,
    container: Container,
}

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        if !self.levels.is_empty() {
            self.dotted.push('.');
        }
        self.levels.push(Level {
            name: self.dotted.len(),
            container: Container::named(container),
        });
        self.dotted.push_str(name);
    }

    pub(crate) fn exit(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.dotted.truncate(level.name.saturating_sub(1));
        }
    }

    /// The dotted path, as Burn's records spell it: `layer1.0.conv1.weight`.
    pub(crate) fn dotted(&self) -> &str {
        &self.dotted
    }

    /// The dotted path of the module that holds the parameter.
    pub(crate) fn dotted_parent(&self) -> &str {
        let name = self.levels.last().map_or(0, |level| level.name);
        &self.dotted[..name.saturating_sub(1)]
    }

    /// The name of the field that is being traversed, if it is a BatchNorm layer's.
    pub(crate) fn batch_norm_field(&self) -> Option<&str> {
        let level = self.levels.last()?;
        (level.container == Container::BatchNorm).then(|| &self.dotted[level.name..])
    }

    /// Tells whether the parameter is a BatchNorm layer's running mean or variance.
    pub(crate) fn is_running_statistic(&self) -> bool {
        matches!(
            self.batch_norm_field(),
            Some("running_mean" | "running_var")
        )
    }

    /// The dimension of the parameter that runs over the outputs of its layer.
    pub(crate) fn filter_dimension(&self) -> usize {
        match self.levels.last() {
            Some(level) if level.container == Container::OutputsSecond => 1,
            _ => 0,
        }
    }
}

/// The methods with which a visitor or a mapper that has a `path: Path` follows a traversal.
macro_rules! follow_path {
    () => {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
    };
}

pub(crate) use follow_path;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_was_entered_and_not_left() {
        let mut path = Path::default();
        assert_eq!((path.dotted(), path.dotted_parent()), ("", ""));
        for (name, container) in [
            ("layers", "Struct:Net"),
            ("0", "Vec"),
            ("gamma", "Struct:BatchNorm"),
        ] {
            path.enter(name, container);
        }
        assert_eq!(
            (path.dotted(), path.dotted_parent()),
            ("layers.0.gamma", "layers.0")
        );
        assert_eq!(path.batch_norm_field(), Some("gamma"));
        path.exit();
        path.enter("running_var", "Struct:BatchNorm");
        assert!(path.is_running_statistic());
        path.exit();
        path.exit();
        path.enter("12", "Vec");
        assert_eq!(
            (path.dotted(), path.batch_norm_field()),
            ("layers.12", None)
        );
        path.exit();
        path.exit();
        assert_eq!(path.dotted(), "");
        path.enter("weight", "Struct:Linear");
        assert_eq!((path.dotted(), path.filter_dimension()), ("weight", 1));
    }
}
