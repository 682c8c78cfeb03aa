//! `cifar landscape`: the geometry of trained networks, in pictures.

use std::sync::Arc;

use swa_lab::landscape::{
    CurveArgs, End, Landscape, LandscapeArgs, LineGeometry, PlaneGeometry, RaysArgs, curve, line,
    plane, rays,
};
use swa_lab::report::Kind;
use swa_lab::run::interruption::{INTERRUPTED, Interruption};
use swa_lab::{Failure, device, report};

/// Draws the loss and the error around trained networks, and between them.
///
/// Points are kept in the folder as soon as they are scored: a command that was stopped goes on where it was.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LandscapeCommand {
    #[command(subcommand)]
    picture: Picture,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Picture {
    /// The plane through three networks, or through two and a random direction; further networks are marked on it
    Plane(Of<PlaneGeometry>),
    /// The error along random directions from each network, which shows how wide its optimum is
    Rays(Of<RaysArgs>),
    /// The straight line between two networks, and the barrier on it
    Line(Of<LineGeometry>),
    /// A curve of low loss between two networks, which is trained, beside the straight line
    Curve(Of<CurveArgs>),
}

/// The arguments of a picture.
#[derive(Debug, Clone, clap::Args)]
struct Of<A: clap::Args> {
    #[command(flatten)]
    picture: A,

    #[command(flatten)]
    all: LandscapeArgs,
}

/// Runs `cifar landscape`, and returns the program's exit status.
///
/// # Errors
///
/// With one line that says what is wrong and what to do.
pub(crate) fn run(command: &LandscapeCommand) -> Result<i32, Failure> {
    match &command.picture {
        Picture::Plane(args) => draw(args, plane, Kind::Plane),
        Picture::Rays(args) => draw(args, rays, Kind::Rays),
        Picture::Line(args) => draw(args, line, Kind::Line),
        Picture::Curve(args) => draw(args, curve, Kind::Curve),
    }
}

fn draw<A: clap::Args>(
    args: &Of<A>,
    score: fn(&A, &mut Landscape<'_>) -> Result<End, Failure>,
    kind: Kind,
) -> Result<i32, Failure> {
    let device = device::parse(&args.all.device)?;
    let interruption = Arc::new(Interruption::default());
    interruption.on_signals()?;
    let mut landscape = Landscape::open(&args.all, &device, &interruption)?;
    match score(&args.picture, &mut landscape)? {
        End::Stopped => Ok(INTERRUPTED),
        End::Finished => {
            report::write_landscape(&args.all.out, kind)?;
            Ok(0)
        }
    }
}
