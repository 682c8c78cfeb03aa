//! Averages that are chosen after the training, from those that a run [kept](KeptAverage) on the way: of any width, and of any window.
//!
//! `cifar average` makes them. Each candidate is put together from model files, one at a time, its BatchNorm is re-estimated, and it is
//! scored on training images that the run held out. The best is chosen by these scores, and then scored once on the test images. A
//! [`PostHocFile`] (`post_hoc.json`) is written whenever a candidate is scored, so that a process that was stopped goes on where it was.
//! The report draws it.

mod candidate;
mod file;
mod kept_run;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use crate::Failure;
use crate::landscape::End;
use crate::output::{plural, say};
use crate::run::directory::{delete_unfinished_files, io_error};
use crate::run::images::{Origin, load_common_images};
use crate::run::interruption::Interruption;
use crate::run::kept::KeptAverage;
use crate::run::lock::Lock;
use crate::run::model_file;
use crate::run::progress::Progress;

pub use candidate::{Candidate, Window};
pub use file::{Chosen, PostHocFile, PostHocRun, ScoredCandidate, Scores};
use kept_run::{KeptRun, PreparedRun};

/// The averages to try. Without any, those of widths from 0.05 to 0.25, and of windows that end with the training.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PostHocArgs {
    /// Of runs: averages of these relative widths, such as 0.05,0.10,0.15, at the end of the training
    #[arg(long = "width", value_name = "W,…", value_delimiter = ',')]
    pub widths: Vec<f64>,

    /// Of runs: means of the weights at the ends of these epochs, such as 18:36 for epochs 19 to 36
    #[arg(long = "window", value_name = "A:B,…", value_delimiter = ',')]
    pub windows: Vec<Window>,

    /// Of runs: re-estimate BatchNorm from this many batches [default: as the run does]
    #[arg(long, value_name = "N")]
    pub batch_norm_batches: Option<usize>,
}

impl PostHocArgs {
    /// True if something of it is given.
    pub fn is_given(&self) -> bool {
        !self.widths.is_empty() || !self.windows.is_empty() || self.batch_norm_batches.is_some()
    }
}

/// The runs to choose averages of, and where.
pub struct Choice<'a> {
    /// The folders of the runs.
    pub runs: &'a [PathBuf],
    /// The candidates.
    pub args: &'a PostHocArgs,
    /// The images' location, if it is not that of the first run.
    pub data: Option<&'a str>,
    /// The device.
    pub device: &'a Device,
    /// Its name.
    pub device_name: &'a str,
    /// The folder for the scores, the pictures, and the best model of each run.
    pub out: &'a Path,
    /// Replaces what is there of other runs.
    pub overwrite: bool,
}

impl Choice<'_> {
    /// Scores the candidates, and chooses the best of each run.
    ///
    /// # Errors
    ///
    /// With one line that says what is wrong and what to do.
    pub fn make(&self, interruption: &Interruption) -> Result<End, Failure> {
        if self.args.batch_norm_batches == Some(0) {
            return Err("--batch-norm-batches must be at least 1, not 0".into());
        }
        let runs = self.runs.iter().map(|folder| KeptRun::read(folder));
        let runs: Vec<KeptRun> = runs.collect::<Result<_, _>>()?;
        let origins: Vec<Origin> = runs.iter().map(KeptRun::origin).collect();
        let mut progress = Progress::of_points();
        let (_, images) = load_common_images(self.data, &origins, &Progress::of_images())?;
        let mut prepared = Vec::new();
        for run in &runs {
            prepared.push(run.prepare(&images, self.args, self.device)?);
        }

        fs::create_dir_all(self.out).map_err(io_error("make the folder", self.out))?;
        let _lock = Lock::take(&self.out.join("post_hoc.lock"), "")?;
        delete_unfinished_files(self.out)?;
        let records = prepared.iter().map(|run| run.record());
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let mut file = PostHocFile::open(self.out, records, self.device_name, self.overwrite)?;
        let (scored, left) = (file.scored(), file.left());
        say(format!(
            "{} of {}{} on training images that were held out",
            plural(scored + left, "average"),
            plural(prepared.len(), "run"),
            match scored {
                0 => String::new(),
                scored => format!(" ({scored} scored before)"),
            },
        ));
        interruption.begin_points();
        progress.begin("averages", left);
        let names = names(self.runs);
        for (index, run) in prepared.iter().enumerate() {
            let end = score(run, index, &mut file, &mut progress, interruption)?;
            if end == End::Stopped {
                progress.end();
                let goes_on = if self.overwrite {
                    "The same command without --overwrite"
                } else {
                    "The same command"
                };
                let (scored, all) = (file.scored(), file.scored() + file.left());
                say(format!(
                    "Stopped after {scored} of {all} averages. {goes_on} goes on with them."
                ));
                return Ok(End::Stopped);
            }
            let path = self.out.join(format!("best-{}.safetensors", names[index]));
            choose(run, index, &mut file, path)?;
        }
        progress.end();
        Ok(End::Finished)
    }
}

/// The deviation of a profile from which on the user is told of it: that of 0.275, the widest but equal weights, is half as large.
const MOST_DEVIATION: f64 = 0.2;

/// Scores the candidates of run number `index` that have no scores yet, on the images that were held out.
fn score(
    run: &PreparedRun<'_>,
    index: usize,
    file: &mut PostHocFile,
    progress: &mut Progress,
    interruption: &Interruption,
) -> Result<End, Failure> {
    if file.runs[index].own.is_none() {
        file.runs[index].own = Some(run.scores(&run.own()?, &run.validation)?);
        file.write()?;
    }
    for place in 0..file.runs[index].candidates.len() {
        let scored = &file.runs[index].candidates[place];
        if scored.validation.is_some() {
            continue;
        }
        let candidate = scored.candidate;
        let made = run.make(candidate)?;
        if let Some(deviation) = made.deviation.filter(|it| *it > MOST_DEVIATION) {
            progress.print(&format!(
                "Note: the profile of {candidate} is met to {:.0} % only by those that were kept",
                100.0 * (1.0 - deviation).max(0.0)
            ));
        }
        let scored = &mut file.runs[index].candidates[place];
        scored.deviation = made.deviation;
        scored.validation = Some(run.scores(&made.network, &run.validation)?);
        file.write()?;
        progress.advance(1);
        if interruption.is_asked() && file.left() > 0 {
            return Ok(End::Stopped);
        }
    }
    Ok(End::Finished)
}

/// Writes the best candidate of run number `index` to `path`, and scores it on the test images, unless that was done before.
fn choose(
    run: &PreparedRun<'_>,
    index: usize,
    file: &mut PostHocFile,
    path: PathBuf,
) -> Result<(), Failure> {
    let Some(best) = file.runs[index].best() else {
        return Ok(());
    };
    let before = file.runs[index].chosen.as_ref();
    if before.is_some_and(|chosen| chosen.candidate == best && chosen.file.is_file()) {
        return Ok(());
    }
    let own_test = match before {
        Some(chosen) => chosen.own_test,
        None => run.scores(&run.own()?, &run.test)?,
    };
    let made = run.make(best)?;
    model_file::save(&made.network, &run.description(), &path)?;
    file.runs[index].chosen = Some(Chosen {
        candidate: best,
        file: path,
        test: run.scores(&made.network, &run.test)?,
        own_test,
    });
    file.write()
}

/// A name for each of the folders that no other has.
fn names(folders: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for folder in folders {
        let name = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let name = name.file_name().map(|it| it.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| "run".to_owned());
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut candidates = std::iter::once(name.clone()).chain(numbered);
        names.extend(candidates.find(|name| !names.contains(name)));
    }
    names
}
