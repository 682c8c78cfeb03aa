//! `imagenet evaluate`: how good a model in a file is, class by class.

use std::path::PathBuf;

use swa_lab::Failure;
use swa_lab::data::View;
use swa_lab::device;
use swa_lab::output::say;
use swa_lab::run::evaluate::evaluate;
use swa_lab::run::images::load_images;
use swa_lab::run::model_file::{FileArgs, ModelFile, check_classes};
use swa_lab::run::progress::Progress;
use swa_lab::run::view::GivenView;

/// Evaluates a model on the images in val/: top-1 and top-5 accuracy, and each class.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EvaluateArgs {
    /// The model, such as averaged.safetensors in the folder of a run, or a file of PyTorch's
    /// (.safetensors, or .pt and .pth of torch.save)
    #[arg(long, value_name = "FILE")]
    model_file: PathBuf,

    #[command(flatten)]
    file: FileArgs,

    /// The folder of the images: train/CLASS/* and val/CLASS/*
    #[arg(long, value_name = "DIR")]
    data: String,

    #[command(flatten)]
    view: GivenView,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = "flex")]
    device: String,
}

/// Runs `imagenet evaluate`.
///
/// # Errors
///
/// If the model or the images cannot be loaded, or do not fit each other.
pub(crate) fn run(args: &EvaluateArgs) -> Result<(), Failure> {
    let device = device::parse(&args.device)?;
    let file = ModelFile::read(&args.model_file, &args.file)?;
    let view = file.view.unwrap_or(View::TORCHVISION);
    let view = args.view.on_top_of(view)?;
    file.check_side(view.side)?;
    let mut progress = Progress::of_images();
    let images = load_images(&args.data, Some(view), &progress)?;
    let class_names = file.class_names.as_deref();
    check_classes(&args.model_file, class_names, &images, &args.data)?;

    let classes = images.class_names.len();
    let network = file.network(classes, &device)?;
    progress.begin("testing", images.test.len());
    let evaluation = evaluate(&network, &images.test, classes, &device, |done| {
        progress.set(done);
    })?;
    progress.end();

    say(format!(
        "{} in {} on {} images of {}, {side}x{side} pixels of {}\n\n{}",
        file.name(),
        args.model_file.display(),
        images.test.len(),
        args.data,
        view.resize,
        evaluation.table(&images.class_names),
        side = view.side,
    ));
    let left_out = images.test.left_out();
    if left_out > 0 {
        say(format!(
            "\nImages left out, as they could not be read: {left_out}"
        ));
    }
    // Among five classes or fewer, every image's is one of the five likeliest.
    if classes > 5 {
        say(format!(
            "\n{:.2} % have their class among the five likeliest (top-5 accuracy)",
            evaluation.top_5_accuracy
        ));
    }
    Ok(())
}
