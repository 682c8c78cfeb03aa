//! `cifar average`: one network of the weights of several files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use swa_lab::landscape::End;
use swa_lab::output::say;
use swa_lab::post_hoc::{Choice, PostHocArgs};
use swa_lab::run::average::{AverageImages, KnownNetwork};
use swa_lab::run::how_to_average::HowToAverage;
use swa_lab::run::interruption::{INTERRUPTED, Interruption};
use swa_lab::run::model_file::{FileArgs, described_alike};
use swa_lab::run::progress::Progress;
use swa_lab::{Failure, device, report};
use swa_store::{CheckpointAverage, Checkpoints, GreedySoup};

/// Averages the weights of files of one network, or chooses an average of finished runs.
///
/// Files may be of any network: a tensor is averaged at a time, whatever their size. Floats are averaged, in the dtypes of the first file;
/// ints are those of the last.
///
/// Of runs that were trained with --keep-averages, averages of many widths and windows are put together, their BatchNorm is re-estimated,
/// and they are scored on the training images that the run held out. The best is chosen by that, scored once on the test images, and
/// written.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AverageArgs {
    /// Files of one network (of `cifar train`, SafeTensors, Burn's .bpk, .pt and .pth of torch.save), or folders of runs
    #[arg(value_name = "FILE|RUN", required = true)]
    sources: Vec<PathBuf>,

    /// Of files: uniform; last:K by step; best:K by score; weighted:W,W,… with a weight for each file; window:A:B from step A to B;
    /// greedy, each that improves the score; merge-linear and merge-sqrt, which imitate a rate that decays.
    /// A file's step is in its metadata, or the last number in its name [default: uniform]
    #[arg(long, value_name = "HOW")]
    how: Option<HowToAverage>,

    /// The file to write, which ends in .safetensors or .bpk; of runs, the folder for the scores, the picture and the best models, which
    /// is that of an experiment if `cifar report` is to show them [default: runs/average, of runs]
    #[arg(long, value_name = "OUT")]
    out: Option<PathBuf>,

    /// Of files: the score of one for best:K, higher for a better one, such as a.pt=0.93
    #[arg(long = "score", value_name = "FILE=X", value_parser = file_and_score)]
    scores: Vec<(PathBuf, f64)>,

    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    images: AverageImages,

    #[command(flatten)]
    post_hoc: PostHocArgs,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = device::DEFAULT_DEVICE)]
    device: String,

    /// Of runs: replace scores of other runs that are there, instead of going on with them
    #[arg(long)]
    overwrite: bool,
}

fn file_and_score(text: &str) -> Result<(PathBuf, f64), String> {
    let parts = text.rsplit_once('=');
    let parsed = parts.and_then(|(file, score)| Some((file.into(), score.parse().ok()?)));
    parsed.ok_or_else(|| "expected a file and a number, as in a.pt=0.93".to_owned())
}

/// Runs `cifar average`, and returns the program's exit status.
///
/// # Errors
///
/// With one line that says what is wrong and what to do.
pub(crate) fn run(args: &AverageArgs) -> Result<i32, Failure> {
    let folders = args.sources.iter().filter(|source| source.is_dir());
    match folders.count() {
        0 => average_files(args).map(|()| 0),
        folders if folders == args.sources.len() => choose_of_runs(args),
        _ => Err(
            "files and folders of runs are averaged in other ways: name the ones or the others"
                .into(),
        ),
    }
}

fn choose_of_runs(args: &AverageArgs) -> Result<i32, Failure> {
    let of_files = [
        ("--how", args.how.is_some()),
        ("--score", !args.scores.is_empty()),
        ("--model, --width-divisor or --key", args.file.is_given()),
        ("--validation-items", args.images.validation_items.is_some()),
    ];
    if let Some((flag, _)) = of_files.iter().find(|(_, is_given)| *is_given) {
        return Err(format!(
            "{flag} is for files, and {} is the folder of a run: leave it out",
            args.sources[0].display()
        )
        .into());
    }
    let device = device::parse(&args.device)?;
    let interruption = Arc::new(Interruption::default());
    interruption.on_signals()?;
    let out = args.out.as_deref().unwrap_or(Path::new("runs/average"));
    let choice = Choice {
        runs: &args.sources,
        args: &args.post_hoc,
        data: args.images.data.as_deref(),
        device: &device,
        device_name: &args.device,
        out,
        overwrite: args.overwrite,
    };
    match choice.make(&interruption)? {
        End::Stopped => Ok(INTERRUPTED),
        End::Finished => {
            report::write_post_hoc(out)?;
            Ok(0)
        }
    }
}

fn average_files(args: &AverageArgs) -> Result<(), Failure> {
    if args.post_hoc.is_given() || args.overwrite {
        return Err(format!(
            "--width, --window, --batch-norm-batches and --overwrite are for folders of runs, and {} is none: leave them out, or see --how",
            args.sources[0].display()
        )
        .into());
    }
    let Some(out) = &args.out else {
        return Err(
            "--out is missing: name the file to write, which ends in .safetensors or .bpk".into(),
        );
    };
    let device = device::parse(&args.device)?;
    let files = match &args.file.key {
        None => Checkpoints::open(&args.sources)?,
        Some(key) => Checkpoints::open_under(key, &args.sources)?,
    };
    files.uniform().check_output(out)?;
    let files = described_alike(&files)?;
    let network = match &args.images.data {
        None => None,
        Some(_) if out.extension().is_none_or(|end| end != "safetensors") => {
            return Err(format!(
                "{} cannot hold a network whose BatchNorm is re-estimated: name a file that ends in .safetensors, or leave --data out",
                out.display()
            )
            .into());
        }
        Some(data) => Some(KnownNetwork::open(
            &files,
            &args.file,
            data,
            &args.images,
            &device,
        )?),
    };
    let average = args.average(&files, network.as_ref())?;
    say(format!("{:>11}  file", "coefficient"));
    for (file, coefficient) in average.terms() {
        say(format!("{coefficient:>11.6}  {}", file.display()));
    }
    match network {
        None => {
            write(average, out)?;
            say(format!("written to {}", out.display()));
            say_what_is_left(&files);
        }
        Some(network) => {
            let averaged = network.averaged(&average)?;
            let (score, images) = network.score(&averaged)?;
            averaged.state_dict().write(out)?;
            let reestimated = match averaged.reestimated_layers {
                0 => String::new(),
                layers => format!(", with {layers} BatchNorm layers re-estimated"),
            };
            say(format!(
                "written to {}{reestimated}: {:.2} % and a loss of {:.4} on {images}",
                out.display(),
                score.accuracy,
                score.loss
            ));
        }
    }
    Ok(())
}

impl AverageArgs {
    /// The average that is asked for.
    fn average(
        &self,
        files: &Checkpoints,
        network: Option<&KnownNetwork<'_>>,
    ) -> Result<CheckpointAverage, Failure> {
        Ok(match self.how.as_ref().unwrap_or(&HowToAverage::Uniform) {
            HowToAverage::Uniform => files.uniform(),
            HowToAverage::Last(count) => files.last(*count)?.uniform(),
            HowToAverage::Best(count) => {
                files.best(*count, &self.scores(files, network)?)?.uniform()
            }
            HowToAverage::Weighted(weights) => files.weighted(weights)?,
            HowToAverage::Window(first, last) => files.window(*first..=*last)?.uniform(),
            HowToAverage::Merged(decay) => files.merged(*decay)?,
            HowToAverage::Greedy => {
                let Some(network) = network else {
                    return Err(
                        "--how greedy scores averages: say with --data on which images".into(),
                    );
                };
                let soup = files.greedy_soup(|average| -> Result<f64, Failure> {
                    Ok(network
                        .held_out_score(&network.averaged(average)?)?
                        .accuracy)
                })?;
                print(&soup);
                soup.average
            }
        })
    }

    /// The score of each file: that which was given, or its accuracy on images that are held out.
    fn scores(
        &self,
        files: &Checkpoints,
        network: Option<&KnownNetwork<'_>>,
    ) -> Result<Vec<f64>, Failure> {
        let of_no_file = |(file, _): &&(PathBuf, f64)| !self.sources.contains(file);
        if let Some((file, _)) = self.scores.iter().find(of_no_file) {
            return Err(format!(
                "--score names {}, which is none of the files",
                file.display()
            )
            .into());
        }
        let given = |path: &Path| self.scores.iter().find(|(file, _)| file == path);
        let scores = files.each().map(|(path, alone)| match (given(path), network) {
            (Some((_, score)), _) => Ok(*score),
            (None, Some(network)) if self.scores.is_empty() => {
                let score = network.held_out_score(&network.averaged(&alone)?)?.accuracy;
                say(format!("{score:>9.2} %  {}", path.display()));
                Ok(score)
            }
            (None, _) => Err(format!(
                "{} has no score, by which the best are chosen: give one for each file with --score FILE=X, or say with --data on which \
                 images to score them all",
                path.display()
            )
            .into()),
        });
        scores.collect()
    }
}

fn print(soup: &GreedySoup) {
    say(format!("{:>11}  with", "accuracy"));
    for tried in &soup.tried {
        let taken = if tried.taken { "" } else { ", left out" };
        say(format!(
            "{:>9.2} %  {}{taken}",
            tried.score,
            tried.path.display()
        ));
    }
}

/// Writes an average, and shows how far it is.
fn write(average: CheckpointAverage, out: &Path) -> Result<(), Failure> {
    const MEGABYTE: u64 = 1_000_000;

    let mut progress = Progress::of_megabytes();
    progress.begin("averaging", 0);
    let shown = Mutex::new(progress.clone());
    let average = average.with_progress(move |done, total| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.set_total(total.div_ceil(MEGABYTE) as usize);
        shown.set((done / MEGABYTE) as usize);
    });
    let written = average.write(out);
    progress.end();
    Ok(written?)
}

fn say_what_is_left(files: &Checkpoints) {
    match files.batch_norm_layers().len() {
        0 => {}
        layers => say(format!(
            "Note: the running statistics of {layers} BatchNorm layers are averages too, and not those of the averaged network: re-estimate \
             them from training images, here with --data, with swa_core::reestimate_batch_norm, or in PyTorch with update_bn"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_behind_the_last_equals_sign() {
        assert_eq!(
            file_and_score("lr=0.1/a.pt=-2.5"),
            Ok(("lr=0.1/a.pt".into(), -2.5))
        );
        assert!(file_and_score("a.pt").is_err());
    }
}
