//! Models in files.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swa_models::{DenseNet, Network, NetworkConfig};
use swa_store::{Checkpoints, StateDict, StateDictError};

use crate::Failure;
use crate::data::{ImageSet, SIDE, View};
use crate::run::config::{self, ConfigError, RunConfig};

/// The description of the network in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The network, by its name: see [`NetworkConfig`].
    pub model: String,
    /// The divisor of its widths.
    pub width_divisor: usize,
    /// The classes it tells apart, in the order of its logits.
    pub class_names: Vec<String>,
    /// The number of weights that it is the average of, if it is one.
    pub averaged: Option<usize>,
    /// The way in which it sees images, if they are of any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,
}

impl Description {
    /// The description of the network of a run with these classes, which is the average of so many weights, if it is one.
    pub(crate) fn new(config: &RunConfig, class_names: &[String], averaged: Option<usize>) -> Self {
        Self {
            model: config.model.clone(),
            width_divisor: config.width_divisor,
            class_names: class_names.to_vec(),
            averaged,
            // What a training left out is nothing of the network's.
            view: config.view.map(|view| View {
                skip_unreadable: false,
                ..view
            }),
        }
    }
}

impl Description {
    /// The first difference between this network and another, in words for each.
    fn difference(&self, other: &Self) -> Option<[String; 2]> {
        let both = [self, other];
        if (&self.model, self.width_divisor) != (&other.model, other.width_divisor) {
            let network =
                |it: &Self| format!("a {}, its widths divided by {}", it.model, it.width_divisor);
            Some(both.map(network))
        } else if self.class_names != other.class_names {
            Some(both.map(|it| format!("a network for {}", listed(&it.class_names))))
        } else if !View::score_alike(self.view, other.view) {
            Some(both.map(|it| format!("a network for {}", given_of(it.view))))
        } else {
            None
        }
    }
}

/// The part of an image that a network with this view is given, in words.
pub(super) fn given_of(view: Option<View>) -> String {
    match view {
        None => format!("images of {SIDE}x{SIDE} pixels as they are"),
        Some(view) => format!(
            "{0}x{0} pixels of images resized to {1} ({2:?})",
            view.side, view.resize, view.interpolation
        ),
    }
}

/// The key of the description in a file's metadata.
const DESCRIPTION: &str = "cifar";

/// The arguments that describe a file from elsewhere.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FileArgs {
    /// The network in a file that does not say so, as one from PyTorch does not: a name, such as preresnet-110 or resnet50
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// The divisor of that network's widths [default: 1]
    #[arg(long, value_name = "N", requires = "model")]
    width_divisor: Option<usize>,

    /// The key of the network in the file, if it is there several times: state_dict, swa_state_dict
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

impl FileArgs {
    /// True if one of them is given.
    pub fn is_given(&self) -> bool {
        self.model.is_some() || self.width_divisor.is_some() || self.key.is_some()
    }

    /// None of them, for the files of `cifar train`.
    pub const NONE: &Self = &Self {
        model: None,
        width_divisor: None,
        key: None,
    };

    /// The same for a file whose names are without the key.
    pub(super) fn without_key(&self) -> Self {
        Self {
            key: None,
            ..self.clone()
        }
    }
}

/// Writes a network to a SafeTensors file, under PyTorch's names and in PyTorch's layout.
///
/// # Errors
///
/// If the file cannot be written; what was there stays.
pub fn save(network: &Network, description: &Description, path: &Path) -> Result<(), Failure> {
    let (key, text) = described_by(description);
    Ok(StateDict::of(network)
        .with_metadata(key, &text)
        .write(path)?)
}

/// The key and the text of a description in a file's metadata.
pub(super) fn described_by(description: &Description) -> (&'static str, String) {
    let text = serde_json::to_string(description);
    (DESCRIPTION, text.expect("a description is text"))
}

/// A model file that was read, from `cifar train` or from PyTorch.
pub struct ModelFile {
    state_dict: StateDict,
    network: NetworkConfig,
    /// The classes that the network tells apart, if the file says so.
    pub class_names: Option<Vec<String>>,
    /// The number of weights that the network is the average of, if the file says so.
    pub averaged: Option<usize>,
    /// The divisor of the network's widths.
    pub width_divisor: usize,
    /// The way in which the network sees images of any size, if the file says so.
    pub view: Option<View>,
}

impl ModelFile {
    /// Reads a SafeTensors file, or what `torch.save` wrote.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or neither it nor `args` says which network it holds.
    pub fn read(path: &Path, args: &FileArgs) -> Result<Self, Failure> {
        let state_dict = read_state_dict(path, args.key.as_deref())?;
        Self::of(state_dict, path, args)
    }

    /// The model in a state dict, of which `path` is the file.
    ///
    /// # Errors
    ///
    /// If neither it nor `args` says which network it holds.
    pub(crate) fn of(state_dict: StateDict, path: &Path, args: &FileArgs) -> Result<Self, Failure> {
        let description = state_dict.metadata(DESCRIPTION);
        let description: Option<Description> =
            description.and_then(|text| serde_json::from_str(text).ok());
        match (description, &args.model) {
            (Some(there), Some(model))
                if *model != there.model
                    || args
                        .width_divisor
                        .is_some_and(|it| it != there.width_divisor) =>
            {
                Err(format!(
                    "{} says that it holds a {}, its widths divided by {}: leave --model and --width-divisor out",
                    path.display(),
                    there.model,
                    there.width_divisor
                )
                .into())
            }
            (Some(description), _) => Ok(Self {
                state_dict,
                network: described(&description.model, description.width_divisor)?,
                class_names: Some(description.class_names),
                averaged: description.averaged,
                width_divisor: description.width_divisor,
                view: description.view,
            }),
            (None, Some(model)) => Ok(Self {
                averaged: state_dict.updates()?,
                state_dict,
                network: described(model, args.width_divisor.unwrap_or(1))?,
                class_names: None,
                width_divisor: args.width_divisor.unwrap_or(1),
                view: None,
            }),
            (None, None) => Err(format!(
                "{} does not say which network it holds, as files of a run do: name it with --model",
                path.display()
            )
            .into()),
        }
    }

    /// The network, but for the number of classes it tells apart.
    pub(super) fn config(&self) -> &NetworkConfig {
        &self.network
    }

    /// `state_dict` with this file's description of its network, if it has one.
    pub fn describe(&self, state_dict: StateDict) -> StateDict {
        match self.state_dict.metadata(DESCRIPTION) {
            None => state_dict,
            Some(description) => state_dict.with_metadata(DESCRIPTION, description),
        }
    }

    /// The name of the network in the file.
    pub fn name(&self) -> String {
        self.network.name()
    }

    /// The number of classes that the network tells apart, if the file does not say so: 10 of CIFAR-10, or 1000 of ImageNet.
    pub(super) fn usual_classes(&self) -> usize {
        match self.network {
            NetworkConfig::ResNet(_) | NetworkConfig::DenseNet(_) => 1000,
            NetworkConfig::Vgg(_) | NetworkConfig::PreResNet(_) | NetworkConfig::WideResNet(_) => {
                10
            }
        }
    }

    /// Checks that the network takes images of this height and width.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn check_side(&self, side: usize) -> Result<(), ConfigError> {
        config::check_side(&self.network, side)
    }

    /// The network in the file, which tells `classes` apart, on `device`.
    ///
    /// # Errors
    ///
    /// If there is no such network, or the file's tensors are not its parameters.
    pub fn network(&self, classes: usize, device: &Device) -> Result<Network, Failure> {
        let network = self.network.clone().with_classes(classes).init(device);
        let network = network.map_err(ConfigError::from)?;
        self.state_dict.load(network).map_err(|error| {
            let remedy = match &error {
                StateDictError::Ambiguous { .. } | StateDictError::NoSuchKey { .. } => {
                    " with --key"
                }
                _ => "",
            };
            format!("{error}{remedy}").into()
        })
    }
}

/// `files` with a description of the network that they all hold, if all of them describe theirs.
///
/// # Errors
///
/// If they hold different networks, or networks that tell other classes apart or see images differently.
pub fn described_alike(files: &Checkpoints) -> Result<Checkpoints, Failure> {
    let mut common: Option<(PathBuf, Description)> = None;
    for (path, alone) in files.each() {
        let state_dict = alone.state_dict();
        let description = state_dict.metadata(DESCRIPTION);
        let description = description.and_then(|text| serde_json::from_str(text).ok());
        let Some(description): Option<Description> = description else {
            return Ok(files.clone());
        };
        let Some((first_path, first)) = &mut common else {
            common = Some((path.to_owned(), description));
            continue;
        };
        if let Some([one, other]) = first.difference(&description) {
            return Err(format!(
                "{} holds {one}, and {} {other}: name files of the same network",
                first_path.display(),
                path.display()
            )
            .into());
        }
        // The average of averages is none of so many weights.
        first.averaged = None;
    }
    let Some((_, description)) = common else {
        return Ok(files.clone());
    };
    let (key, text) = described_by(&description);
    Ok(files.clone().with_metadata(key, &text))
}

/// Checks that the network in a file, at `path`, tells the classes of the images in `data` apart, if it is known which ones it does.
///
/// # Errors
///
/// If they are others.
pub fn check_classes(
    path: &Path,
    class_names: Option<&[String]>,
    images: &ImageSet,
    data: &str,
) -> Result<(), Failure> {
    match class_names {
        Some(class_names) if !images.has_classes(class_names) => Err(format!(
            "the model in {} tells {} apart, and the classes of {data} are {}: evaluate it on the data it \
             was trained on with --data",
            path.display(),
            listed(class_names),
            listed(&images.class_names),
        )
        .into()),
        _ => Ok(()),
    }
}

/// The state dict in a file, under a key if that is given, by the names that networks have today: torchvision's own files of
/// DenseNets have older ones.
pub(super) fn read_state_dict(path: &Path, key: Option<&str>) -> Result<StateDict, StateDictError> {
    let state_dict = StateDict::read(path)?.renamed(DenseNet::current_name)?;
    Ok(match key {
        None => state_dict,
        Some(key) => state_dict.under(key),
    })
}

/// The names of classes, or of the first few of them.
pub fn listed(class_names: &[String]) -> String {
    const SHOWN: usize = 3;

    match class_names {
        [] => "no classes".to_owned(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!(
            "{} and {} more classes",
            names[..SHOWN].join(", "),
            names.len() - SHOWN
        ),
    }
}

fn described(model: &str, width_divisor: usize) -> Result<NetworkConfig, Failure> {
    let network: NetworkConfig = model.parse()?;
    Ok(network.with_width_divisor(width_divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostile_files::survive;

    #[test]
    fn damaged_model_files_are_refused_or_read_in_bounded_memory() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let of_pytorch = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/checkpoints"
        ));
        let mut paths = vec![folder.path().join("ours.safetensors")];
        let description = Description {
            model: "preresnet-8".to_owned(),
            width_divisor: 16,
            class_names: ["a"; 10].map(str::to_owned).to_vec(),
            averaged: Some(3),
            view: None,
        };
        let network = described(&description.model, description.width_divisor).unwrap();
        save(&network.init(&device).unwrap(), &description, &paths[0]).unwrap();
        for name in [
            "averaged_model.pt",
            "averaged_model.safetensors",
            "bare.pt",
            "data_parallel_half.pt",
            "hostile.pt",
            "paper.pt",
        ] {
            paths.push(folder.path().join(name));
            std::fs::copy(of_pytorch.join(name), paths.last().unwrap()).unwrap();
        }

        let args = FileArgs {
            model: Some("preresnet-8".to_owned()),
            width_divisor: Some(16),
            key: None,
        };
        // A zip archive says at its end how many entries it has. About 105 bytes are reserved for
        // each, unless there are more entries than bytes (zip 9.8).
        survive("model files", &paths, 128, |path| {
            // The description in the file is read, but no network of the size that it claims is
            // made.
            let _ = ModelFile::read(path, &FileArgs::default());
            let file = ModelFile::read(path, &args).map_err(|error| error.to_string())?;
            let loaded = file.network(10, &device).map(drop);
            loaded.map_err(|error| error.to_string())
        });
    }
}
