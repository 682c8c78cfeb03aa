//! The view of an image of any size that a network gets.

use serde::{Deserialize, Serialize};

use super::error::DataError;

/// The way in which an image of any size becomes one of a network's size, as in torchvision's reference for classification.
///
/// To train, a random part of the image is resized to `side` × `side` pixels (`RandomResizedCrop`): see
/// [`Augmentation::ResizedCropAndFlip`](super::Augmentation::ResizedCropAndFlip). To evaluate, the image is resized so that its
/// shorter side has `resize` pixels, and its centre of `side` × `side` pixels is taken (`Resize` and `CenterCrop`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Height and width of the images that the network gets, in pixels.
    pub side: usize,
    /// The shorter side of an image of which the centre is taken, in pixels.
    pub resize: usize,
    /// The filter that images are resized with, widened where they become smaller (antialiasing).
    pub interpolation: Interpolation,
    /// The least part of an image's area that a random crop covers.
    pub least_scale: f64,
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
    };

    /// The greatest side, in pixels: eight times as large as networks are given in practice.
    pub(crate) const LARGEST_SIDE: usize = 4096;

    pub(super) fn check(&self) -> Result<(), DataError> {
        let &Self {
            side,
            resize,
            least_scale,
            ..
        } = self;
        if !(1..=Self::LARGEST_SIDE).contains(&side) {
            Err(DataError::ViewSide {
                side,
                most: Self::LARGEST_SIDE,
            })
        } else if !(side..=Self::LARGEST_SIDE).contains(&resize) {
            Err(DataError::ViewResize {
                resize,
                side,
                most: Self::LARGEST_SIDE,
            })
        } else if least_scale > 0.0 && least_scale <= 1.0 {
            Ok(())
        } else {
            Err(DataError::ViewScale { least_scale })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_no_image_has_is_refused() {
        let error = |view: View| view.check().unwrap_err().to_string();
        let view = View::TORCHVISION;
        assert_eq!(
            error(View { side: 0, ..view }),
            "images of 0 pixels a side: expected 1 to 4096"
        );
        assert_eq!(
            error(View {
                resize: 200,
                ..view
            }),
            "images resized to 200 pixels for a centre of 224: expected 224 to 4096"
        );
        for least_scale in [0.0, -0.1, 1.1, f64::NAN] {
            assert_eq!(
                error(View {
                    least_scale,
                    ..view
                }),
                format!(
                    "crops of {least_scale} of an image's area at least: expected more than 0, and 1 at most"
                )
            );
        }
        View {
            resize: 224,
            least_scale: 1.0,
            ..view
        }
        .check()
        .unwrap();
    }
}
