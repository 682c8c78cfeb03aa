//! Random crops of images of any size: torchvision's `RandomResizedCrop`.

use super::random::Stream;

/// The least and the greatest ratio of a crop's width to its height, before it is resized (Szegedy et al. 2015).
const RATIOS: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

/// The number of crops that are tried before the image's centre is taken.
const TRIES: usize = 10;

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Region {
    /// A random region of an image of `width` × `height` pixels.
    ///
    /// Its area is uniform between `least_scale` and all of the image's, and the logarithm of its ratio between those of 3/4 and
    /// 4/3. If it is not within the image, others are drawn, ten in all; then it is the largest centred one of such a ratio.
    pub(super) fn random([width, height]: [u32; 2], least_scale: f64, stream: &mut Stream) -> Self {
        let area = f64::from(width) * f64::from(height);
        let [narrowest, widest] = RATIOS.map(f64::ln);
        let mut uniform = |low: f64, high: f64| low + (high - low) * f64::from(stream.unit());
        for _ in 0..TRIES {
            let area = area * uniform(least_scale, 1.0);
            let ratio = uniform(narrowest, widest).exp();
            let [w, h] = [area * ratio, area / ratio].map(|it| it.sqrt().round_ties_even());
            if 0.0 < w && w <= f64::from(width) && 0.0 < h && h <= f64::from(height) {
                let (w, h) = (w as u32, h as u32);
                let mut below = |bound: u32| stream.below(bound as usize + 1) as u32;
                let top = below(height - h);
                let left = below(width - w);
                return Self {
                    left,
                    top,
                    width: w,
                    height: h,
                };
            }
        }
        Self::centre([width, height])
    }

    /// The largest centred region whose ratio is between 3/4 and 4/3.
    fn centre([width, height]: [u32; 2]) -> Self {
        let [narrowest, widest] = RATIOS;
        let ratio = f64::from(width) / f64::from(height);
        let (w, h) = if ratio < narrowest {
            let h = (f64::from(width) / narrowest).round_ties_even();
            (width, h as u32)
        } else if ratio > widest {
            let w = (f64::from(height) * widest).round_ties_even();
            (w as u32, height)
        } else {
            (width, height)
        };
        Self {
            left: (width - w) / 2,
            top: (height - h) / 2,
            width: w,
            height: h,
        }
    }
}
