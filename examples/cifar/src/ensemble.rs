//! `cifar ensemble`: how good several networks are together.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use swa_core::{EnsembleConfig, EnsembleReport, Scores};
use swa_lab::Failure;
use swa_lab::data::ImageSet;
use swa_lab::device;
use swa_lab::output::say;
use swa_lab::run::ensemble::{Tempered, evaluate_together};
use swa_lab::run::images::load_images;
use swa_lab::run::model_file::{FileArgs, ModelFile, listed};
use swa_lab::run::predictors::{FinishedRun, Predictors, Sampling};
use swa_lab::run::progress::Progress;

/// Evaluates the mean of the probabilities that several networks give, on the test images.
///
/// A run stands for its members (snapshot, fge), samples of its Gaussian (swag), its averaged model (swa, ema), or its
/// live model (sgd).
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EnsembleArgs {
    /// Folders of runs, and model files, of `cifar train` or of PyTorch
    #[arg(value_name = "RUN|FILE", required = true)]
    sources: Vec<PathBuf>,

    #[command(flatten)]
    sampling: Sampling,

    /// Draw samples with the variance of each weight alone, for which the paper's --scale is 1
    #[arg(long)]
    diagonal: bool,

    #[command(flatten)]
    file: FileArgs,

    /// The images: `synthetic`, `download`, `download100`, or a folder, as in `cifar train`
    /// [default: the runs' own, without runs synthetic]
    #[arg(long, value_name = "WHERE")]
    data: Option<String>,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = "flex")]
    device: String,

    /// Leave out networks whose logits are not finite, and name them
    #[arg(long)]
    leave_out_not_finite: bool,

    /// The number of bins of the calibration error
    #[arg(long, value_name = "N", default_value_t = 15)]
    bins: usize,
}

/// Runs `cifar ensemble`.
///
/// # Errors
///
/// If a network or the images cannot be loaded, or they do not fit each other.
pub(crate) fn run(args: &EnsembleArgs) -> Result<(), Failure> {
    args.sampling.validate()?;
    if args.bins == 0 {
        return Err("--bins must be at least 1, not 0".into());
    }
    let device = device::parse(&args.device)?;
    let sources = args.sources.iter().map(|path| Source::read(path));
    let sources: Vec<Source> = sources.collect::<Result<_, _>>()?;
    let class_names = args.class_names(&sources)?;
    let data = args.data(&sources)?;
    let mut progress = Progress::of_images();
    let images = load_images(&data, &mut progress)?;
    if let Some((file, class_names)) = &class_names
        && !images.has_classes(class_names)
    {
        return Err(format!(
            "the model in {} tells {} apart, and the classes of {data} are {}: evaluate it on the data it \
             was trained on with --data",
            file.display(),
            listed(class_names),
            listed(&images.class_names),
        )
        .into());
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
    File(PathBuf),
}

impl Source {
    fn read(path: &Path) -> Result<Self, Failure> {
        if path.is_dir() {
            Ok(Self::Run(Box::new(FinishedRun::read(path)?)))
        } else if path.exists() {
            Ok(Self::File(path.to_owned()))
        } else {
            Err(format!(
                "{}: no such run or file: name the folder of a run, or a model file",
                path.display()
            )
            .into())
        }
    }

    fn run(&self) -> Option<&FinishedRun> {
        match self {
            Self::Run(run) => Some(run),
            Self::File(_) => None,
        }
    }
}

impl EnsembleArgs {
    /// The classes that all networks tell apart, and a file that says so, if any does.
    fn class_names(&self, sources: &[Source]) -> Result<Option<(PathBuf, Vec<String>)>, Failure> {
        let mut found: Option<(PathBuf, Vec<String>)> = None;
        for source in sources {
            let files = match source {
                Source::Run(run) => run.files(run.own_models(self.diagonal))?,
                Source::File(file) => vec![file.clone()],
            };
            for file in files {
                let args = match source {
                    Source::Run(_) => FileArgs::NONE,
                    Source::File(_) => &self.file,
                };
                match (&found, ModelFile::read(&file, args)?.class_names) {
                    (_, None) => {}
                    (None, Some(names)) => found = Some((file, names)),
                    (Some((_, first)), Some(names)) if *first == names => {}
                    (Some((first_file, first)), Some(names)) => {
                        return Err(format!(
                            "{} tells {} apart, and {} {}: an ensemble's networks tell the same classes apart, in the same \
                             order",
                            first_file.display(),
                            listed(first),
                            file.display(),
                            listed(&names),
                        )
                        .into());
                    }
                }
            }
        }
        Ok(found)
    }

    /// The location of the images.
    fn data(&self, sources: &[Source]) -> Result<String, Failure> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let mut runs = sources.iter().filter_map(Source::run);
        let Some(first) = runs.next() else {
            return Ok("synthetic".to_owned());
        };
        match runs.find(|run| run.config.data != first.config.data) {
            None => Ok(first.config.data.clone()),
            Some(other) => Err(format!(
                "{} is of {} and {} of {}: say with --data on which images to evaluate them",
                first.directory.path().display(),
                first.config.data,
                other.directory.path().display(),
                other.config.data,
            )
            .into()),
        }
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
                Source::File(file) => {
                    Predictors::of_files(vec![file.clone()], &self.file, classes, device)
                }
                Source::Run(run) => {
                    let models = run.own_models(self.diagonal);
                    if models.are_samples() {
                        let images = run.images(images)?.used;
                        run.samples(models, &self.sampling, &images, device, progress)?
                    } else {
                        run.networks(models, classes, device)?
                    }
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
                "\nNo temperature for comparison: it is fitted on training images that are held out, of which {path} has \
                 none here (--validation-items)."
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
