//! `cifar evaluate`: how good a model in a file is, class by class.

use std::path::PathBuf;

use swa_lab::Failure;
use swa_lab::device;
use swa_lab::output::say;
use swa_lab::run::evaluate::evaluate;
use swa_lab::run::images::load_images;
use swa_lab::run::model_file::{FileArgs, ModelFile};
use swa_lab::run::progress::Progress;

/// Evaluates a model on the test images.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EvaluateArgs {
    /// The model, such as averaged.safetensors in the folder of a run, or a file of PyTorch's
    /// (.safetensors, or .pt and .pth of torch.save)
    #[arg(long, value_name = "FILE")]
    pub(crate) model_file: PathBuf,

    #[command(flatten)]
    file: FileArgs,

    /// The images: `synthetic`, `download`, `download100`, or a folder, as in `cifar train`
    #[arg(long, value_name = "WHERE", default_value = "synthetic")]
    pub(crate) data: String,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = "flex")]
    pub(crate) device: String,
}

/// Runs `cifar evaluate`.
///
/// # Errors
///
/// If the model or the images cannot be loaded, or do not fit each other.
pub(crate) fn run(args: &EvaluateArgs) -> Result<(), Failure> {
    let device = device::parse(&args.device)?;
    let file = ModelFile::read(&args.model_file, &args.file)?;
    let mut progress = Progress::of_images();
    let images = load_images(&args.data, &mut progress)?;
    if let Some(class_names) = &file.class_names
        && !images.has_classes(class_names)
    {
        return Err(format!(
            "the model in {} tells {} apart, and the classes of {} are {}: evaluate it on the data it \
             was trained on with --data",
            args.model_file.display(),
            listed(class_names),
            args.data,
            listed(&images.class_names),
        )
        .into());
    }

    let model = file.name();
    let classes = images.class_names.len();
    let network = file.network(classes, &device)?;
    progress.begin("testing", images.test.len());
    let evaluation = evaluate(&network, &images.test, classes, &device, |done| {
        progress.set(done);
    })?;
    progress.end();

    say(format!(
        "{model} in {} on {} test images of {}\n",
        args.model_file.display(),
        images.test.len(),
        args.data
    ));
    let width = images.class_names.iter().map(String::len).max();
    let width = width.unwrap_or_default().max("class".len());
    say(format!(
        "{:width$} {:>7} {:>8} {:>10}",
        "class", "images", "loss", "accuracy"
    ));
    for (name, (count, score)) in images.class_names.iter().zip(&evaluation.classes) {
        say(format!(
            "{name:width$} {count:>7} {:>8.4} {:>8.2} %",
            score.loss, score.accuracy
        ));
    }
    say(format!(
        "{:width$} {:>7} {:>8.4} {:>8.2} %",
        "all",
        images.test.len(),
        evaluation.total.loss,
        evaluation.total.accuracy
    ));
    Ok(())
}

/// The names of classes, or of the first few of them.
pub(crate) fn listed(class_names: &[String]) -> String {
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
