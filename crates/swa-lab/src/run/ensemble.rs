//! The command that evaluates several networks together.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use swa_core::{EnsembleConfig, EnsembleReport, Scores};

use super::images::{Origin, load_common_images};
use super::model_file::{FileArgs, ModelFile, check_classes, listed};
use super::prediction::{Tempered, evaluate_together};
use super::predictors::{FinishedRun, Predictors, Sampling, no_source};
use super::progress::Progress;
use crate::Failure;
use crate::data::{ImageSet, View};
use crate::device::{self, DEFAULT_DEVICE};
use crate::output::say;

/// Evaluates the mean of the probabilities that several networks give, on the test images.
///
/// A run stands for its members (snapshot, fge), samples of its Gaussian (swag), its averaged model (swa, ema), or its
/// live model (sgd).
#[derive(Debug, Clone, clap::Args)]
pub struct EnsembleArgs {
    /// Folders of runs, and model files, of runs or of PyTorch
    #[arg(value_name = "RUN|FILE", required = true)]
    sources: Vec<PathBuf>,

    #[command(flatten)]
    sampling: Sampling,

    /// Draw samples with the variance of each weight alone, for which the paper's --scale is 1
    #[arg(long)]
    diagonal: bool,

    #[command(flatten)]
    file: FileArgs,

    /// The images, as the training's --data says where they are [default: the runs' own]
    #[arg(long, value_name = "WHERE")]
    data: Option<String>,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = DEFAULT_DEVICE)]
    device: String,

    /// Leave out networks whose logits are not finite, and name them
    #[arg(long)]
    leave_out_not_finite: bool,

    /// The number of bins of the calibration error
    #[arg(long, value_name = "N", default_value_t = 15)]
    bins: usize,
}

/// Evaluates networks together, and prints how good they are alone and with those before them. The network of a file that does not
/// describe it has this `view`.
///
/// # Errors
///
/// If a network or the images cannot be loaded, or they do not fit each other.
pub fn ensemble(args: &EnsembleArgs, view: Option<View>) -> Result<(), Failure> {
    args.sampling.validate()?;
    if args.bins == 0 {
        return Err("--bins must be at least 1, not 0".into());
    }
    let device = device::parse(&args.device)?;
    let sources = args.sources.iter().map(|path| args.source(path, view));
    let sources: Vec<Source> = sources.collect::<Result<_, _>>()?;
    let class_names = args.class_names(&sources)?;
    let progress = Progress::of_images();
    let origins: Vec<Origin> = sources.iter().map(Source::origin).collect();
    let (data, images) = load_common_images(args.data.as_deref(), &origins, &progress)?;
    if let Some((file, class_names)) = &class_names {
        check_classes(file, Some(class_names), &images, &data)?;
    }

    let predictors = args.predictors(&sources, &images, &device, &progress)?;
    let names = predictors.names.clone();
    say(format!(
        "{} network{} on {} test images of {data}\n",
        names.len(),
        if names.len() == 1 { "" } else { "s" },
        images.test.len(),
    ));
    let config = EnsembleConfig::new()
        .with_bins(args.bins)
        .with_leave_out_not_finite(args.leave_out_not_finite);
    let report = evaluate_together(&config, predictors, &images.test, &device, &progress)?;
    print(&report, &names);
    args.print_baseline(&sources, &images, &device, &progress)
}

/// A run or a file that networks come from.
enum Source {
    Run(Box<FinishedRun>),
    File {
        path: PathBuf,
        class_names: Option<Vec<String>>,
        view: Option<View>,
    },
}

impl Source {
    fn origin(&self) -> Origin<'_> {
        match self {
            Self::Run(run) => run.origin(),
            Self::File { path, view, .. } => Origin {
                path,
                data: None,
                view: *view,
            },
        }
    }
}

impl EnsembleArgs {
    fn source(&self, path: &Path, view: Option<View>) -> Result<Source, Failure> {
        if path.is_dir() {
            Ok(Source::Run(Box::new(FinishedRun::read(path)?)))
        } else if path.exists() {
            let file = ModelFile::read(path, &self.file)?;
            let view = match (FinishedRun::around(path), &file.class_names) {
                (Some(run), _) => run.config.view,
                (None, Some(_)) => file.view,
                (None, None) => view,
            };
            Ok(Source::File {
                path: path.to_owned(),
                class_names: file.class_names,
                view,
            })
        } else {
            Err(no_source(path))
        }
    }

    /// The classes that all networks tell apart, and a file that says so, if any does.
    fn class_names(&self, sources: &[Source]) -> Result<Option<(PathBuf, Vec<String>)>, Failure> {
        let mut all = Vec::new();
        for source in sources {
            match source {
                Source::File {
                    path, class_names, ..
                } => all.push((path.clone(), class_names.clone())),
                Source::Run(run) => {
                    for path in run.files(run.own_models(self.diagonal))? {
                        let class_names = ModelFile::read(&path, FileArgs::NONE)?.class_names;
                        all.push((path, class_names));
                    }
                }
            }
        }
        let mut known = all
            .into_iter()
            .filter_map(|(path, names)| Some((path, names?)));
        let Some((first_path, first)) = known.next() else {
            return Ok(None);
        };
        if let Some((path, names)) = known.find(|(_, names)| *names != first) {
            return Err(format!(
                "{} tells {} apart, and {} {}: an ensemble's networks tell the same classes apart, in the same \
                 order",
                first_path.display(),
                listed(&first),
                path.display(),
                listed(&names),
            )
            .into());
        }
        Ok(Some((first_path, first)))
    }

    fn predictors<'a>(
        &'a self,
        sources: &[Source],
        images: &ImageSet,
        device: &'a Device,
        progress: &Progress,
    ) -> Result<Predictors<'a>, Failure> {
        let classes = images.class_names.len();
        let mut all: Option<Predictors<'a>> = None;
        for source in sources {
            let predictors = match source {
                Source::File { path, .. } => {
                    Predictors::of_files(vec![path.clone()], &self.file, classes, device)
                }
                Source::Run(run) => {
                    let models = run.own_models(self.diagonal);
                    // Samples are re-estimated from the images that the run was trained on.
                    let own = if models.are_samples() {
                        run.images(images)?.used
                    } else {
                        images.clone()
                    };
                    run.predictors(models, &self.sampling, &own, device, progress)?
                }
            };
            all = Some(match all {
                None => predictors,
                Some(all) => all.chain(predictors),
            });
        }
        all.ok_or_else(|| "there is no network".into())
    }

    /// Prints the scores of the first network with its temperature, as far as that can be known.
    fn print_baseline(
        &self,
        sources: &[Source],
        images: &ImageSet,
        device: &Device,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let Some(Source::Run(run)) = sources.first() else {
            return Ok(());
        };
        let path = run.directory.path().display();
        let held_out = match run.images(images) {
            Ok(images) => images.held_out,
            Err(_) => None,
        };
        let Some(held_out) = held_out else {
            say(format!(
                "\nNo temperature for comparison: it is fitted on training images that are held out and not scored on, of which \
                 {path} has none here (--validation-items)."
            ));
            return Ok(());
        };
        let mut first = self.predictors(&sources[..1], images, device, progress)?;
        let (Some(name), Some(network)) = (first.names.first(), first.networks.next()) else {
            return Ok(());
        };
        let tempered = Tempered::of(&network?, &held_out, &images.test, self.bins, device)?;
        say(format!(
            "\nFor comparison, {name} alone at the temperature {:.4}, which {} images give that {path} holds out:",
            tempered.temperature,
            held_out.len()
        ));
        say(format!("{:21} {}", "", row(&tempered.scores)));
        Ok(())
    }
}

/// Prints a line for each network.
fn print(report: &EnsembleReport, names: &[String]) {
    say(format!("{:>21} {:>18}", "alone", "together"));
    say(format!(
        "{:>3} {:>9} {:>7} {:>9} {:>7} {:>7} {:>7}   network",
        "n", "accuracy", "NLL", "accuracy", "NLL", "Brier", "ECE"
    ));
    for (count, member) in (1..).zip(&report.members) {
        say(format!(
            "{count:>3} {:>7.2} % {:>7.4} {}   {}",
            100.0 * member.alone.accuracy,
            member.alone.nll,
            row(&member.ensemble),
            names[member.member - 1],
        ));
    }
    for left_out in &report.left_out {
        say(format!(
            "left out, since a logit is not finite: {}",
            names[left_out - 1]
        ));
    }
}

/// The scores of an ensemble.
fn row(scores: &Scores) -> String {
    format!(
        "{:>7.2} % {:>7.4} {:>7.4} {:>7.4}",
        100.0 * scores.accuracy,
        scores.nll,
        scores.brier,
        scores.ece
    )
}
