//! `cifar evaluate`: how good a model in a file is, class by class.

use std::path::PathBuf;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::tensor::{Device, Int, Tensor};

use crate::Failure;
use crate::classifier::{ImageNetwork, cross_entropy};
use crate::data::{EpochLoader, Images};
use crate::device;
use crate::epoch_log::Score;
use crate::model_file::{FileArgs, ModelFile};
use crate::output::say;
use crate::progress::Progress;

/// Evaluates a model on the test images.
#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateArgs {
    /// The model, such as averaged.safetensors in the folder of a run, or a file of PyTorch's
    /// (.safetensors, or .pt and .pth of torch.save)
    #[arg(long, value_name = "FILE")]
    pub model_file: PathBuf,

    #[command(flatten)]
    file: FileArgs,

    /// The images: `synthetic`, `download`, `download100`, or a folder, as in `cifar train`
    #[arg(long, value_name = "WHERE", default_value = "synthetic")]
    pub data: String,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = "flex")]
    pub device: String,
}

/// Images are evaluated in batches of this many, here and during training.
pub const BATCH_SIZE: usize = 250;

/// A network's score on images, all together and by class.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// On all images.
    pub total: Score,
    /// Class by class: how many images, and the score on them.
    pub classes: Vec<(usize, Score)>,
}

/// Evaluates a network in inference mode.
///
/// # Errors
///
/// If there are no images, or they cannot be loaded.
pub fn evaluate<N: ImageNetwork>(
    network: &N,
    images: &Arc<Images>,
    classes: usize,
    device: &Device,
    mut done: impl FnMut(usize),
) -> Result<Evaluation, Failure> {
    let network = network.valid();
    let loader = EpochLoader::evaluation(images.clone(), BATCH_SIZE, device)?;
    let mut count = vec![0usize; classes];
    let mut loss = vec![0f64; classes];
    let mut correct = vec![0usize; classes];
    let mut batches = loader.iter();
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let logits = network.logits(batch.images);
        let losses = cross_entropy(logits.clone(), batch.labels.clone());
        let predicted: Tensor<1, Int> = logits.argmax(1).squeeze_dim(1);
        let labels: Vec<i64> = batch.labels.into_data().iter::<i64>().collect();
        let losses: Vec<f64> = losses.into_data().iter::<f64>().collect();
        let predicted: Vec<i64> = predicted.into_data().iter::<i64>().collect();
        for ((label, image_loss), predicted) in labels.into_iter().zip(losses).zip(predicted) {
            let class = label as usize;
            count[class] += 1;
            loss[class] += image_loss;
            correct[class] += usize::from(predicted == label);
        }
        done(batches.progress().items_processed);
    }
    let score = |count: usize, loss: f64, correct: usize| Score {
        loss: loss / count as f64,
        accuracy: 100.0 * correct as f64 / count as f64,
    };
    Ok(Evaluation {
        total: score(count.iter().sum(), loss.iter().sum(), correct.iter().sum()),
        classes: (0..classes)
            .map(|class| {
                (
                    count[class],
                    score(count[class], loss[class], correct[class]),
                )
            })
            .collect(),
    })
}

/// Runs `cifar evaluate`.
///
/// # Errors
///
/// If the model or the images cannot be loaded, or do not fit each other.
pub fn run(args: &EvaluateArgs) -> Result<(), Failure> {
    let device = device::parse(&args.device)?;
    let file = ModelFile::read(&args.model_file, &args.file)?;
    let mut progress = Progress::of_images();
    let images = crate::train::load_images(&args.data, &mut progress)?;
    if let Some(class_names) = &file.class_names
        && *class_names != images.class_names
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
fn listed(class_names: &[String]) -> String {
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
