//! The networks by the names that the vectors call them.

use std::error::Error;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use cifar::architecture::{Network, WithNetwork};
use safetensors::serialize_to_file;
use safetensors::tensor::{Dtype, TensorView};
use swa_models::{PreResNetConfig, StateDict, VggConfig, WideResNetConfig};

use crate::vectors::Description;

/// Makes the network that a file of vectors is of, with its weights, on `device`, and does something with it.
///
/// The weights go through a file and the import of PyTorch's state dicts. An unknown network is an error that names it.
pub fn with_network<T>(
    description: &Description,
    device: &Device,
    with: impl WithNetwork<Output = Result<T, Box<dyn Error>>>,
) -> Result<T, Box<dyn Error>> {
    let name = description.model.as_str();
    let unknown = || format!("no network is called {name}");
    let number = |text: &str| text.parse::<usize>().map_err(|_| unknown());
    let classes = description.classes()?;
    if let Some(vgg) = name.strip_prefix("vgg") {
        let depth = vgg.strip_suffix("_bn").unwrap_or(vgg);
        let config = VggConfig::new(number(depth)?)
            .with_batch_norm(vgg.ends_with("_bn"))
            // As in the vectors, whose training steps are to be the same every time.
            .with_dropout(0.0)
            .with_classes(classes);
        with.with(filled(config.init(device)?, description)?)
    } else if let Some(depth) = name.strip_prefix("preresnet") {
        let config = PreResNetConfig::new(number(depth)?).with_classes(classes);
        with.with(filled(config.init(device)?, description)?)
    } else if let Some((depth, widen_factor)) = name
        .strip_prefix("wrn")
        .and_then(|sizes| sizes.split_once('_'))
    {
        let config = WideResNetConfig::new(number(depth)?, number(widen_factor)?);
        with.with(filled(
            config.with_classes(classes).init(device)?,
            description,
        )?)
    } else {
        Err(unknown().into())
    }
}

fn filled<N: Network>(network: N, description: &Description) -> Result<N, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("weights.safetensors");
    write_weights(description, &file)?;
    Ok(StateDict::read(&file)?.load(network)?)
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
