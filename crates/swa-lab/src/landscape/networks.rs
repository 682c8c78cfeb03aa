//! The networks that a picture is made of: those of runs, and model files.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swa_models::{Network, NetworkConfig};

use super::points_file::Geometry;
use crate::Failure;
use crate::data::{ImageSet, View};
use crate::output::say;
use crate::run::config::RunConfig;
use crate::run::directory::io_error;
use crate::run::images::{Origin, load_common_images};
use crate::run::model_file::{FileArgs, ModelFile, check_classes};
use crate::run::predictors::{FinishedRun, PredictingModels, no_source};
use crate::run::progress::Progress;

/// The arguments that say which networks, and where their images are.
#[derive(Debug, Clone, clap::Args)]
pub struct NetworksArgs {
    /// Folders of runs, and model files. A run stands for its averaged model (swa, ema, swag) or its live model (sgd). A file in the
    /// folder of a run, such as live.safetensors, is that run's
    #[arg(value_name = "RUN|FILE", required = true)]
    pub networks: Vec<PathBuf>,

    #[command(flatten)]
    file: FileArgs,

    /// The images: `synthetic`, `download`, `download100`, or a folder, as in `cifar train` [default: the runs' own, without runs
    /// synthetic]
    #[arg(long, value_name = "WHERE")]
    data: Option<String>,
}

/// A network in a file of points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its name in the picture: that of its run's method, or of its file.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// The CRC-32 of the file's bytes.
    pub checksum: u32,
    /// The name of the network, such as `preresnet-14`.
    pub model: String,
}

/// Networks and their images.
pub struct GivenNetworks {
    sources: Vec<Source>,
    /// The images of the first run, or all that there are.
    pub images: ImageSet,
}

/// A file, and what is known about it.
struct Source {
    record: NetworkRecord,
    run: Option<FinishedRun>,
    /// The arguments that describe the file.
    args: FileArgs,
    class_names: Option<Vec<String>>,
    width_divisor: usize,
    view: Option<View>,
}

impl NetworksArgs {
    /// Reads the networks and loads their images.
    ///
    /// # Errors
    ///
    /// If a file or the images cannot be read, or they do not fit each other.
    pub fn read(&self) -> Result<GivenNetworks, Failure> {
        let sources = self
            .networks
            .iter()
            .map(|path| Source::read(path, &self.file));
        let mut sources: Vec<Source> = sources.collect::<Result<_, _>>()?;
        tell_apart(&mut sources);
        let origins: Vec<Origin> = sources.iter().map(Source::origin).collect();
        let progress = Progress::of_images();
        let (data, all) = load_common_images(self.data.as_deref(), &origins, &progress)?;
        for source in &sources {
            let class_names = source.class_names.as_deref();
            check_classes(&source.record.file, class_names, &all, &data)?;
        }
        let runs = || sources.iter().filter_map(|source| source.run.as_ref());
        let images = match runs().next() {
            None => all,
            Some(first) => {
                let images = first.images(&all)?.used;
                for run in runs() {
                    if run.directory.check_images(&images).is_err() {
                        say(format!(
                            "Note: {} was trained on another part of the images than {}, whose images are taken.",
                            run.directory.path().display(),
                            first.directory.path().display(),
                        ));
                    }
                }
                images
            }
        };
        Ok(GivenNetworks { sources, images })
    }
}

impl GivenNetworks {
    /// The records of them in a file of points.
    pub fn records(&self) -> Vec<NetworkRecord> {
        let records = self.sources.iter().map(|source| source.record.clone());
        records.collect()
    }

    /// The settings of the first run, or those of the first network's paper.
    ///
    /// # Errors
    ///
    /// If there is no such network.
    pub(super) fn run_or_paper(&self) -> Result<RunConfig, Failure> {
        let mut runs = self.sources.iter().filter_map(|source| source.run.as_ref());
        if let Some(run) = runs.next() {
            return Ok(run.config.clone());
        }
        let first = self.sources.first().ok_or("there is no network")?;
        let network: NetworkConfig = first.record.model.parse()?;
        let classes = self.images.class_names.len();
        Ok(RunConfig::of_no_run(
            &network,
            first.width_divisor,
            classes,
            first.view,
        ))
    }

    /// The number of networks.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// The network with a number, counted from 0, on `device`.
    ///
    /// # Errors
    ///
    /// If there is none, or its file's tensors are not the network's parameters.
    pub fn load(&self, number: usize, device: &Device) -> Result<Network, Failure> {
        let source = self.sources.get(number).ok_or("there is no such network")?;
        let classes = self.images.class_names.len();
        // Read anew, so that no file's tensors stay in memory beside the networks.
        ModelFile::read(&source.record.file, &source.args)?.network(classes, device)
    }

    /// Checks that a picture of them has no more points than can be kept.
    ///
    /// # Errors
    ///
    /// If it has.
    pub(super) fn check_points(&self, geometry: &impl Geometry) -> Result<(), Failure> {
        /// A thousand by a thousand of a plane: weeks of scoring.
        const MOST: usize = 1_000_000;

        let points = geometry.count(self.count());
        if points > MOST {
            return Err(format!(
                "a picture has at most {MOST} points, not {points}: ask for fewer with --points (or --directions)"
            )
            .into());
        }
        Ok(())
    }

    /// Checks the number of networks: `least`, or any from there on.
    ///
    /// # Errors
    ///
    /// If there are fewer than `least` or more than `most`.
    pub(super) fn check_count(&self, least: usize, most: usize) -> Result<(), Failure> {
        let at_least = if least == most { "" } else { "at least " };
        let got = self.count();
        if (least..=most).contains(&got) {
            Ok(())
        } else {
            Err(
                format!("expected {at_least}{least} networks, got {got}: name folders of runs, or model files")
                    .into(),
            )
        }
    }
}

impl Source {
    fn read(path: &Path, args: &FileArgs) -> Result<Self, Failure> {
        let (file, run, args) = if path.is_dir() {
            let run = FinishedRun::read(path)?;
            (file_of(&run)?, Some(run), FileArgs::NONE)
        } else if path.exists() {
            match FinishedRun::around(path) {
                Some(run) => (path.to_owned(), Some(run), FileArgs::NONE),
                None => (path.to_owned(), None, args),
            }
        } else {
            return Err(no_source(path));
        };
        let model_file = ModelFile::read(&file, args)?;
        let bytes = fs::read(&file).map_err(io_error("read", &file))?;
        Ok(Self {
            record: NetworkRecord {
                name: name(&file, run.as_ref()),
                checksum: crc32fast::hash(&bytes),
                model: model_file.name(),
                file,
            },
            run,
            args: args.clone(),
            class_names: model_file.class_names,
            width_divisor: model_file.width_divisor,
            view: model_file.view,
        })
    }

    fn origin(&self) -> Origin<'_> {
        match &self.run {
            Some(run) => run.origin(),
            None => Origin {
                path: &self.record.file,
                data: None,
                view: self.view,
            },
        }
    }
}

/// The one network that a run stands for.
fn file_of(run: &FinishedRun) -> Result<PathBuf, Failure> {
    match run.own_models(false) {
        PredictingModels::Members => Err(format!(
            "{} holds an ensemble: name one of its members in {}",
            run.directory.path().display(),
            run.directory.members().display()
        )
        .into()),
        models => Ok(run.files(models)?.remove(0)),
    }
}

/// The name of a network in pictures: `SGD` for example, `live network of SWA` for the one that SWA averages, else that of its file.
fn name(file: &Path, run: Option<&FinishedRun>) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let method = run.map(|run| run.config.method.method().name());
    match (method, run) {
        (Some(method), Some(run)) if file_of(run).is_ok_and(|own| own == file) => method.to_owned(),
        (Some(method), _) => format!("{stem} network of {method}"),
        (None, _) => stem.into_owned(),
    }
}

/// Gives each network a name of its own: with its run's seed, and with its run's folder, as far as that is needed; else its path.
fn tell_apart(sources: &mut [Source]) {
    let more: [fn(&Source) -> Option<String>; 3] = [
        |source| {
            let seed = source.run.as_ref()?.config.seed;
            Some(format!("{} (seed {seed})", source.record.name))
        },
        |source| {
            let folder = source.run.as_ref()?.directory.path().file_name()?;
            Some(format!("{} in {}", source.record.name, folder.display()))
        },
        |source| Some(source.record.file.display().to_string()),
    ];
    for more in more {
        let names: Vec<String> = sources.iter().map(|it| it.record.name.clone()).collect();
        for source in &mut *sources {
            let same = names.iter().filter(|name| **name == source.record.name);
            if same.count() > 1
                && let Some(name) = more(source)
            {
                source.record.name = name;
            }
        }
    }
}
