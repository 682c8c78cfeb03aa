//! The settings of how images of any size are seen.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::config::{ConfigError, at_least_one, at_most, number};
use crate::data::View;

impl View {
    /// The `resize` of torchvision for this `side`: 256 for 224.
    pub(super) fn usual_resize(&self) -> usize {
        let resize = self.side.saturating_mul(8).saturating_add(3) / 7;
        resize.min(Self::LARGEST_SIDE).max(self.side)
    }

    /// Checks the numbers.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let Self {
            side,
            resize,
            least_scale,
            ..
        } = *self;
        at_least_one("--image-size", side)?;
        at_most("--image-size", side, Self::LARGEST_SIDE, "in pixels")?;
        at_most("--resize", resize, Self::LARGEST_SIDE, "in pixels")?;
        number(
            "--resize",
            resize as f64,
            resize >= side,
            "at least --image-size",
        )?;
        let is_part = least_scale > 0.0 && least_scale <= 1.0;
        number(
            "--crop-scale",
            least_scale,
            is_part,
            "above 0 and at most 1",
        )
    }

    /// Tells whether networks with these views are given the same of an image that they are scored on.
    pub(crate) fn score_alike(one: Option<Self>, other: Option<Self>) -> bool {
        let of = |view: Self| (view.side, view.resize, view.interpolation);
        one.map(of) == other.map(of)
    }
}

/// The settings of a view that are given on the command line, of those by which images are scored.
#[derive(Debug, Clone)]
pub struct GivenView(ArgMatches);

impl Args for GivenView {
    fn augment_args(command: Command) -> Command {
        Self::augment_args_for_update(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        let command = View::augment_args_for_update(command);
        command
            .mut_arg("view.least_scale", |argument| argument.hide(true))
            .mut_arg("view.side", |argument| {
                argument.help(
                    "The height and width, in pixels, of what the network is given of an image [default: that of its \
                     training, else 224]",
                )
            })
    }
}

impl FromArgMatches for GivenView {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

impl GivenView {
    /// `view` with what is given in place of its own.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a number that cannot be used.
    pub fn on_top_of(&self, mut view: View) -> Result<View, ConfigError> {
        let given = |id| self.0.value_source(id) == Some(ValueSource::CommandLine);
        view.update_from_arg_matches(&self.0)?;
        if given("view.side") && !given("view.resize") {
            view.resize = view.usual_resize();
        }
        view.validate()?;
        Ok(view)
    }
}
