//! `cifar evaluate`: how good a model in a file is, class by class.

use std::path::PathBuf;

use swa_lab::Failure;
use swa_lab::device;
use swa_lab::output::say;
use swa_lab::run::evaluate::evaluate;
use swa_lab::run::images::load_images;
use swa_lab::run::model_file::{FileArgs, ModelFile, check_classes};
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
    let images = load_images(&args.data, file.view, &progress)?;
    let class_names = file.class_names.as_deref();
    check_classes(&args.model_file, class_names, &images, &args.data)?;

    let model = file.name();
    let classes = images.class_names.len();
    let network = file.network(classes, &device)?;
    progress.begin("testing", images.test.len());
    let evaluation = evaluate(&network, &images.test, classes, &device, |done| {
        progress.set(done);
    })?;
    progress.end();

    say(format!(
        "{model} in {} on {} test images of {}\n\n{}",
        args.model_file.display(),
        images.test.len(),
        args.data,
        evaluation.table(&images.class_names)
    ));
    Ok(())
}
