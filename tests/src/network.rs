//! The networks by their names in the vectors.

use std::error::Error;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use safetensors::serialize_to_file;
use safetensors::tensor::{Dtype, TensorView};
use swa_models::{Network, NetworkConfig};
use swa_store::StateDict;

use crate::vectors::Description;

/// The network of a file of vectors, with its weights, on `device`.
///
/// The weights go through a file and the import of PyTorch's state dicts. An unknown network is an error that names it.
pub fn network(description: &Description, device: &Device) -> Result<Network, Box<dyn Error>> {
    let network = config(&description.model)?.with_classes(description.classes()?);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("weights.safetensors");
    write_weights(description, &file)?;
    Ok(StateDict::read(&file)?.load(network.init(device)?)?)
}

/// The vectors have `preresnet110`, `vgg16_bn` and `wrn16_2` for `preresnet-110`, `vgg16-bn` and `wrn-16-2`.
fn config(name: &str) -> Result<NetworkConfig, Box<dyn Error>> {
    let ours = with_hyphen(&name.replace('_', "-"), &["preresnet", "wrn"]);
    match ours.parse() {
        // Without dropout, as in the vectors, so that training steps are the same every time.
        Ok(NetworkConfig::Vgg(config)) => Ok(NetworkConfig::Vgg(config.with_dropout(0.0))),
        Ok(config) => Ok(config),
        Err(_) => Err(format!("no network is called {name}").into()),
    }
}

/// `name` with a hyphen after the family that it starts with.
fn with_hyphen(name: &str, families: &[&str]) -> String {
    for family in families {
        if let Some(sizes) = name.strip_prefix(family) {
            return format!("{family}-{sizes}");
        }
    }
    name.to_owned()
}

/// Writes the network's weights and running statistics, by PyTorch's names and in its layout, as `safetensors.torch` does.
pub fn write_weights(description: &Description, file: &Path) -> Result<(), Box<dyn Error>> {
    let entries = description.entries.iter().map(|entry| {
        let data = TensorData::new(entry.values(), entry.shape.clone());
        (entry, data)
    });
    let entries: Vec<_> = entries.collect();
    let views = entries.iter().map(|(entry, data)| {
        let view = TensorView::new(Dtype::F32, entry.shape.clone(), data.as_bytes())?;
        Ok((entry.name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(serialize_to_file(views, None, file)?)
}
