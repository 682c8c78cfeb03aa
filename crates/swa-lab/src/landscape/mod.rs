//! The geometry of trained networks, on images: planes, rays, lines and curves, each in a file of points and their scores.
//!
//! `cifar landscape` makes them: [`Landscape`] has the networks and their images, and [`plane`], [`rays`], [`line`](line()) and
//! [`curve`](curve()) score their points. A [`PointsFile`] (`plane.json` and so on) is written whenever a point is scored, so that a
//! process that was stopped goes on where it was. The report draws them.

mod curve;
mod curve_training;
mod line;
mod networks;
mod plane;
mod points_file;
mod rays;
mod scoring;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use swa_core::WeightsError;
use swa_landscape::{LandscapeError, Points};
use swa_models::Network;

use crate::Failure;
use crate::device;
use crate::output::say;
use crate::run::config::RunConfig;
use crate::run::directory::{delete_unfinished_files, io_error};
use crate::run::interruption::Interruption;
use crate::run::lock::Lock;
use crate::run::progress::Progress;
use points_file::Asked;
use scoring::Scoring;

pub use curve::{CurveArgs, CurveGeometry, CurveKnown, OnPath, Way, curve};
pub use line::{LineGeometry, OnLine, line};
pub use networks::{GivenNetworks, NetworkRecord, NetworksArgs};
pub use plane::{OnPlane, PlacedNetwork, PlaneGeometry, plane};
#[cfg(test)]
pub(crate) use points_file::tests::plane_json;
pub use points_file::{Geometry, PointRecord, PointsFile};
pub use rays::{OnRayOf, RaysArgs, RaysGeometry, rays};
pub use scoring::{BatchNormStatistics, PointScores, ScoringArgs, ScoringRecord};

/// The arguments of all pictures.
#[derive(Debug, Clone, clap::Args)]
pub struct LandscapeArgs {
    #[command(flatten)]
    networks: NetworksArgs,

    #[command(flatten)]
    scoring: ScoringArgs,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    #[arg(long, value_name = "D", default_value = device::DEFAULT_DEVICE)]
    pub device: String,

    /// The folder for the points and the pictures. In that of an experiment, `cifar report` shows them too
    #[arg(long, value_name = "DIR", default_value = "runs/landscape")]
    pub out: PathBuf,

    /// Replace what is there of other networks or settings, instead of going on with it
    #[arg(long)]
    overwrite: bool,
}

/// The end of a command that scores networks one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Each has its scores.
    Finished,
    /// It was asked to stop, and goes on from there with the same command.
    Stopped,
}

/// Networks, their images, and a folder for points.
pub struct Landscape<'a> {
    args: &'a LandscapeArgs,
    given: GivenNetworks,
    /// The settings of the first network's run, or those of its paper.
    run: RunConfig,
    scoring: Scoring<'a>,
    progress: Progress,
    /// The right to write to the folder.
    _lock: Lock,
}

impl<'a> Landscape<'a> {
    /// Reads the networks, loads their images, and makes the folder. Points are scored until `interruption` is asked to stop.
    ///
    /// # Errors
    ///
    /// With one line that says what is wrong and what to do.
    pub fn open(
        args: &'a LandscapeArgs,
        device: &'a Device,
        interruption: &'a Arc<Interruption>,
    ) -> Result<Self, Failure> {
        let given = args.networks.read()?;
        let run = given.run_or_paper()?;
        let scoring = Scoring::new(&args.scoring, &given, &run, device, interruption)?;
        fs::create_dir_all(&args.out).map_err(io_error("make the folder", &args.out))?;
        let lock = Lock::take(&args.out.join("landscape.lock"), "")?;
        delete_unfinished_files(&args.out)?;
        Ok(Self {
            args,
            given,
            run,
            scoring,
            progress: Progress::of_points(),
            _lock: lock,
        })
    }

    fn load(&self, number: usize) -> Result<Network, Failure> {
        self.given.load(number, self.scoring.device)
    }

    /// The file of points that is asked for: that which is there, or a new one.
    fn points_file<G: Geometry>(
        &self,
        settings: G,
        points: Vec<G::At>,
    ) -> Result<PointsFile<G>, Failure> {
        let asked = Asked {
            networks: self.given.records(),
            scoring: &self.scoring.record,
            settings,
            points,
            device: &self.args.device,
            overwrite: self.args.overwrite,
        };
        PointsFile::open(&self.args.out, asked)
    }

    /// Says what is about to be done, and begins to show it.
    fn begin<G: Geometry>(&mut self, label: &str, file: &PointsFile<G>) {
        let names = file.networks().iter().map(|it| it.name.as_str());
        let names: Vec<&str> = names.collect();
        let (total, left) = (file.points.len(), file.left());
        let images = &self.scoring.images;
        say(format!(
            "{label}: {total} points{} of {} on {} training and {} test images",
            match total - left {
                0 => String::new(),
                scored => format!(" ({scored} scored before)"),
            },
            names.join(", "),
            images.train.len(),
            images.test.len(),
        ));
        self.scoring.interruption.begin_points();
        self.progress.begin(label, left);
    }

    /// Scores the points of `file` from number `first` on that have no scores yet.
    fn fill<G: Geometry, P: Points>(
        &mut self,
        network: &Network,
        points: &P,
        file: &mut PointsFile<G>,
        first: usize,
        is_same: impl Fn(P::At, P::At) -> bool,
    ) -> Result<End, Failure> {
        let progress = &mut self.progress;
        let end = self
            .scoring
            .fill(network, points, file, first, progress, is_same)?;
        if end == End::Stopped || file.left() == 0 {
            self.progress.end();
        }
        if end == End::Stopped {
            let (total, left) = (file.points.len(), file.left());
            say(format!(
                "Stopped after {} of {total} points. {} goes on with them.",
                total - left,
                self.same_command()
            ));
        }
        Ok(end)
    }

    /// The command that goes on with what was stopped, in words.
    fn same_command(&self) -> &'static str {
        if self.args.overwrite {
            "The same command without --overwrite"
        } else {
            "The same command"
        }
    }

    /// An error with the networks' names in the place of their numbers.
    fn named(&self, error: LandscapeError) -> Failure {
        self.named_in(&[0, 1, 2], error)
    }

    /// The same where the first network, the second and the third have these numbers.
    fn named_in(&self, order: &[usize], error: LandscapeError) -> Failure {
        let number = |place: usize| order.get(place).copied().unwrap_or(place);
        let name = |place| self.name(number(place));
        match error {
            LandscapeError::Unlike { network, error } => self.unlike(number(network), &error),
            LandscapeError::NotFinite { network } => self.not_finite(number(network)),
            LandscapeError::SameNetwork { .. } => format!(
                "{} and {} have the same weights, and there is nothing between them: name networks of different trainings, or of \
                 different epochs of one",
                name(0),
                name(1)
            )
            .into(),
            LandscapeError::OnALine { distance } => format!(
                "{} is {distance:.1e} from the line through {} and {}, no more than weights are rounded, and many planes pass through \
                 the three: name another third network, or none for a plane along a random direction",
                name(2),
                name(0),
                name(1)
            )
            .into(),
            error => error.into(),
        }
    }

    /// The error for a network whose weights are not finite.
    fn not_finite(&self, number: usize) -> Failure {
        format!(
            "{} holds a NaN or an infinity, since its training has diverged: name another network",
            self.name(number)
        )
        .into()
    }

    /// The name and the file of a network.
    fn name(&self, number: usize) -> String {
        let records = self.given.records();
        records.get(number).map_or_else(String::new, |record| {
            format!("{} ({})", record.name, record.file.display())
        })
    }

    /// The error for a network that is unlike the first.
    fn unlike(&self, number: usize, error: &WeightsError) -> Failure {
        let records = self.given.records();
        let name = |number: usize| match records.get(number) {
            None => String::new(),
            Some(record) => format!(
                "{} ({}, a {})",
                record.name,
                record.file.display(),
                record.model
            ),
        };
        format!(
            "{} is another network than {}: {error}",
            name(number),
            name(0)
        )
        .into()
    }
}
