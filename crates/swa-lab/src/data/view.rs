//! The view of an image of any size that a network gets.

use serde::{Deserialize, Serialize};

/// The way in which an image of any size becomes one of a network's size, as in torchvision's reference for classification.
///
/// To train, a random part of the image is resized to `side` × `side` pixels (`RandomResizedCrop`): see
/// [`Augmentation::ResizedCropAndFlip`](super::Augmentation::ResizedCropAndFlip). To evaluate, the image is resized so that its
/// shorter side has `resize` pixels, and its centre of `side` × `side` pixels is taken (`Resize` and `CenterCrop`).
// An argument's id is its path in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct View {
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

    // Widened where images become smaller (antialiasing).
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

/// The filter that images are resized with, as Pillow has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The mean of neighbours, weighted by how near they are.
    #[default]
    Bilinear,
    /// Cubic convolution (Keys 1981), with a = -1/2.
    Bicubic,
}

impl View {
    /// That of ImageNet's networks in torchvision's reference: 224 of 256 pixels, and crops of 8% of an image and more.
    pub const TORCHVISION: Self = Self {
        side: 224,
        resize: 256,
        interpolation: Interpolation::Bilinear,
        least_scale: 0.08,
        skip_unreadable: false,
    };

    /// The greatest side, in pixels: eight times as large as networks are given in practice.
    pub(crate) const LARGEST_SIDE: usize = 4096;
}
