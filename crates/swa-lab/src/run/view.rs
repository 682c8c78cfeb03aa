//! The way in which images of any size are seen: what a network is given of one.

use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::{Deserialize, Serialize};

use super::config::{ConfigError, at_least_one, number};
use crate::Failure;
use crate::data::{ImageSet, Interpolation, Unreadable, View};
use crate::output::say;

/// The way in which images of any size are seen (see [`View`]).
// An argument's id is its path in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct ViewSettings {
    /// The height and width, in pixels, of what the network is given of an image [default: 224]
    #[arg(id = "view.side", long = "image-size", value_name = "N")]
    pub side: usize,

    /// Resize an image's shorter side to this before its centre is cut out to be scored [default: 256, or 8/7 of
    /// --image-size]
    #[arg(id = "view.resize", long = "resize", value_name = "N")]
    pub resize: usize,

    /// The least part of an image's area that is cut out to train on [default: 0.08]
    #[arg(
        id = "view.least_scale",
        long = "crop-scale",
        value_name = "X",
        allow_negative_numbers = true
    )]
    pub least_scale: f64,

    /// The filter by which images are resized [default: bilinear]
    #[arg(
        id = "view.interpolation",
        long = "interpolation",
        value_name = "FILTER",
        value_enum
    )]
    pub interpolation: Interpolation,

    /// Leave out images that cannot be read, instead of stopping at the first
    #[arg(id = "view.skip_unreadable", long = "skip-unreadable")]
    #[serde(default)]
    pub skip_unreadable: bool,
}

impl ViewSettings {
    /// Those of [`View::TORCHVISION`], where every image has to be readable.
    pub const TORCHVISION: Self = Self {
        side: View::TORCHVISION.side,
        resize: View::TORCHVISION.resize,
        least_scale: View::TORCHVISION.least_scale,
        interpolation: View::TORCHVISION.interpolation,
        skip_unreadable: false,
    };

    /// The `resize` of torchvision for this `side`: 256 for 224.
    pub(super) fn usual_resize(&self) -> usize {
        (self.side.saturating_mul(8) + 3) / 7
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let Self {
            side,
            resize,
            least_scale,
            ..
        } = *self;
        at_least_one("--image-size", side)?;
        for (flag, got) in [("--image-size", side), ("--resize", resize)] {
            if got > View::LARGEST_SIDE {
                return Err(ConfigError::AtMost {
                    flag,
                    most: View::LARGEST_SIDE,
                    reason: "in pixels",
                    got,
                });
            }
        }
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

    /// The images in the folder `data`, seen in this way.
    ///
    /// # Errors
    ///
    /// [`DataError`](crate::data::DataError), of one line.
    pub fn list_images(&self, data: &str) -> Result<ImageSet, Failure> {
        let view = View {
            side: self.side,
            resize: self.resize,
            interpolation: self.interpolation,
            least_scale: self.least_scale,
        };
        let unreadable = if self.skip_unreadable {
            Unreadable::LeftOut
        } else {
            Unreadable::Fails
        };
        let images = ImageSet::of_files(Path::new(data), view, unreadable)?;
        images.notes.iter().for_each(say);
        Ok(images)
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
        let command = ViewSettings::augment_args_for_update(command);
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
    pub fn on_top_of(&self, mut view: ViewSettings) -> Result<ViewSettings, ConfigError> {
        let given = |id| self.0.value_source(id) == Some(ValueSource::CommandLine);
        view.update_from_arg_matches(&self.0)?;
        if given("view.side") && !given("view.resize") {
            view.resize = view.usual_resize();
        }
        view.validate()?;
        Ok(view)
    }
}
