//! The BatchNorm layers of a network in a file.

/// The names of the layers that have running statistics: an empty one for a network that is such a layer itself.
pub(crate) fn batch_norm_layers<'a>(
    names: impl Iterator<Item = &'a String>,
) -> impl Iterator<Item = &'a str> {
    names.filter_map(|name| match name.strip_suffix("running_mean") {
        Some("") => Some(""),
        Some(layer) => layer.strip_suffix('.'),
        None => None,
    })
}
