//! Errors of a network's configuration and name.

/// The largest depth of a network that exists at any: the deepest PreResNet of its paper has 1001 layers.
pub(crate) const DEEPEST: usize = 10_000;

/// The largest factor by which a network is widened: that of the paper is at most 12.
pub(crate) const WIDEST: usize = 1000;

/// The largest number of classes.
const MOST_CLASSES: usize = 1_000_000_000;

/// The reason why a configuration is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The network does not exist at this depth.
    #[error("{network} has no depth {got}: expected {expected}. Use depth {}.", listed(.nearest))]
    Depth {
        /// The network's name.
        network: &'static str,
        /// The depth that was asked for.
        got: usize,
        /// The depths that exist.
        expected: &'static str,
        /// The closest depths that exist, in ascending order.
        nearest: Vec<usize>,
    },
    /// The divisor does not divide every width of the network.
    #[error(
        "{network} cannot be made {got} times narrower: expected a divisor of its narrowest width, {narrowest}. \
         Use width_divisor {}.",
        listed(&divisors(*.narrowest))
    )]
    WidthDivisor {
        /// The network's name.
        network: &'static str,
        /// The divisor that was asked for.
        got: usize,
        /// The channels of the narrowest layer, of which every other width is a multiple.
        narrowest: usize,
    },
    /// The network would have no channels, or more than any machine holds.
    #[error(
        "{network} cannot be {got} times wider: expected a widen_factor from 1 to {WIDEST}. Use 10 as in the paper."
    )]
    WidenFactor {
        /// The network's name.
        network: &'static str,
        /// The factor that was asked for.
        got: usize,
    },
    /// The classifier would have no classes, or more than any machine holds.
    #[error(
        "{network} needs classes to tell apart: got classes = {got}, expected 1 to {MOST_CLASSES}. \
         Use the number of labels in the data set, 10 for CIFAR-10."
    )]
    Classes {
        /// The network's name.
        network: &'static str,
        /// The number that was asked for.
        got: usize,
    },
    /// The dropout probability is not in `[0, 1)`.
    #[error(
        "{network} cannot drop activations with probability {got}: expected at least 0 and below 1. \
         Use 0.5 as in the paper's code, or 0 for no dropout."
    )]
    Dropout {
        /// The network's name.
        network: &'static str,
        /// The probability that was asked for.
        got: f64,
    },
}

/// The error for a name that is no network's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no model `{name}`: take {names}")]
pub struct UnknownNetwork {
    name: String,
    /// The names that there are.
    names: &'static str,
}

impl UnknownNetwork {
    pub(crate) fn new(name: &str, names: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            names,
        }
    }
}

/// The closest depths below and above `depth` of which a network `exists`, in ascending order.
pub(crate) fn nearest_depths(depth: usize, exists: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut below = (0..depth.min(DEEPEST + 1)).rev();
    let below = below.find(|depth| exists(*depth));
    let above = (depth..=DEEPEST).find(|depth| exists(*depth));
    below.into_iter().chain(above).collect()
}

/// The entry of a table of networks that exist at a few depths only.
///
/// # Errors
///
/// [`ModelError::Depth`] with all depths of the table.
pub(crate) fn by_depth<T: Copy>(
    network: &'static str,
    expected: &'static str,
    table: &[(usize, T)],
    depth: usize,
) -> Result<T, ModelError> {
    match table.iter().find(|(known, _)| *known == depth) {
        Some((_, found)) => Ok(*found),
        None => Err(ModelError::Depth {
            network,
            got: depth,
            expected,
            nearest: table.iter().map(|(known, _)| *known).collect(),
        }),
    }
}

pub(crate) fn check_classes(network: &'static str, classes: usize) -> Result<(), ModelError> {
    if (1..=MOST_CLASSES).contains(&classes) {
        Ok(())
    } else {
        Err(ModelError::Classes {
            network,
            got: classes,
        })
    }
}

pub(crate) fn check_width_divisor(
    network: &'static str,
    width_divisor: usize,
    narrowest: usize,
) -> Result<(), ModelError> {
    if divisors(narrowest).contains(&width_divisor) {
        Ok(())
    } else {
        Err(ModelError::WidthDivisor {
            network,
            got: width_divisor,
            narrowest,
        })
    }
}

fn divisors(number: usize) -> Vec<usize> {
    (1..=number)
        .filter(|divisor| number.is_multiple_of(*divisor))
        .collect()
}

/// `[1, 2, 3]` as "1, 2 or 3".
fn listed(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    match numbers.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => numbers.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_divisor_of_zero_is_an_error_with_the_valid_ones() {
        let error = check_width_divisor("PreResNet", 0, 16).unwrap_err();

        assert_eq!(
            error.to_string(),
            "PreResNet cannot be made 0 times narrower: expected a divisor of its narrowest width, 16. \
             Use width_divisor 1, 2, 4, 8 or 16."
        );
    }

    #[test]
    fn a_width_divisor_that_leaves_no_whole_channel_is_an_error() {
        for width_divisor in [3, 32, usize::MAX] {
            assert!(check_width_divisor("PreResNet", width_divisor, 16).is_err());
        }
        assert_eq!(check_width_divisor("PreResNet", 16, 16), Ok(()));
    }

    #[test]
    fn no_classes_is_an_error_that_says_what_to_use() {
        assert_eq!(
            check_classes("VGG", 0).unwrap_err().to_string(),
            "VGG needs classes to tell apart: got classes = 0, expected 1 to 1000000000. \
             Use the number of labels in the data set, 10 for CIFAR-10."
        );
        assert_eq!(check_classes("VGG", 1), Ok(()));
    }
}
