//! Images made up from a seed.
//!
//! Ten classes of patterns. Each image has a blob of random place, size and colour, with the
//! pattern of its class. The background has the pattern of another class, and over the blob lies a
//! veil with the pattern of yet another, which sometimes shows more clearly than the blob's own. A
//! linear classifier, which sees pixels at fixed places, can learn little more than the colours. A
//! small convolutional network learns the patterns. It fails only on images whose veil is as clear
//! as their blob: no label is wrong, but some cannot be recognised.
//!
//! All arithmetic is of the kind that IEEE 754 rounds exactly (no sine, no logarithm), so that a
//! seed gives the same bytes on every machine.

use std::sync::Arc;

use super::images::{CHANNELS, IMAGE_BYTES, ImageSet, Images, SIDE};
use super::random::{Purpose, Stream};
use super::source::LoadProgress;

/// The contrast of a blob's pattern, and of the veil over it, from the darkest to the brightest
/// colour: its least and its largest value, where white is 1.
const BLOB_CONTRAST: [f32; 2] = [0.2, 0.8];

/// The contrast of a background's pattern.
const BACKGROUND_CONTRAST: [f32; 2] = [0.0, 0.5];

/// The largest opacity of a veil. At 0.45, the veil shows more clearly than the blob under it in 7
/// of 100 images, by the two contrasts alone.
const MAX_VEIL: f32 = 0.45;

/// Half the largest slope of a pattern's first axis. At the extremes, patterns that differ only in
/// their direction look similar.
const MAX_SLOPE: f32 = 0.22;

/// Mean colours; each is shared by two classes.
const PALETTE: [[f32; CHANNELS]; 5] = [
    [1.0, 0.2, 0.2],
    [0.2, 0.8, 0.2],
    [0.2, 0.4, 1.0],
    [0.9, 0.8, 0.1],
    [0.7, 0.2, 0.8],
];

/// The share of the palette's colour in a texture.
const TINT: f32 = 0.4;

/// The settings of the synthetic images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synthetic {
    /// The seed of everything random in the images.
    pub seed: u64,
    /// The number of images to train on.
    pub train: usize,
    /// The number of images to test on.
    pub test: usize,
}

impl Default for Synthetic {
    /// 4,000 images to train and 2,000 to test on, from the seed 0.
    fn default() -> Self {
        Self {
            seed: 0,
            train: 4_000,
            test: 2_000,
        }
    }
}

impl Synthetic {
    /// Makes the images. Classes take turns, so that the numbers of their images differ by one at
    /// most.
    pub(super) fn generate(&self, progress: LoadProgress<'_>) -> ImageSet {
        let total = self.train + self.test;
        let make = |purpose, items: usize, before: usize| {
            let mut pixels = vec![0; items * IMAGE_BYTES];
            let mut labels = Vec::with_capacity(items);
            for (index, pixels) in pixels.chunks_exact_mut(IMAGE_BYTES).enumerate() {
                let class = index % Pattern::ALL.len();
                let mut stream = Stream::new(purpose, self.seed, &[index]);
                Scene::draw(class, &mut stream).paint(&mut stream, pixels);
                labels.push(class as u8);
                progress(before + index + 1, total);
            }
            Arc::new(Images::new(pixels, labels))
        };
        ImageSet {
            train: make(Purpose::SyntheticTrain, self.train, 0),
            test: make(Purpose::SyntheticTest, self.test, self.train),
            class_names: Pattern::ALL
                .map(|pattern| pattern.name().to_owned())
                .to_vec(),
            notes: Vec::new(),
        }
    }
}

/// The content of an image.
#[derive(Debug)]
struct Scene {
    blob: Texture,
    /// The texture over the blob.
    veil: Texture,
    /// The opacity of the veil, in `[0, 1]`.
    veil_opacity: f32,
    background: Texture,
    /// Centre of the blob: column and row, in pixels.
    centre: [f32; 2],
    /// Half its width and half its height, in pixels.
    radii: [f32; 2],
    /// Standard deviation of the noise, where white is 1.
    noise: f32,
}

impl Scene {
    /// A scene of this class.
    fn draw(class: usize, stream: &mut Stream) -> Self {
        let classes = Pattern::ALL.len();
        let other = |stream: &mut Stream| (class + 1 + stream.below(classes - 1)) % classes;
        Self {
            blob: Texture::draw(class, BLOB_CONTRAST, stream),
            veil: Texture::draw(other(stream), BLOB_CONTRAST, stream),
            veil_opacity: stream.between(0.0, MAX_VEIL),
            background: Texture::draw(other(stream), BACKGROUND_CONTRAST, stream),
            centre: [(); 2].map(|()| stream.between(11.0, 21.0)),
            radii: [(); 2].map(|()| stream.between(9.0, 15.0)),
            noise: stream.between(0.02, 0.12),
        }
    }

    /// Paints the scene into `[3, 32, 32]` bytes.
    fn paint(&self, stream: &mut Stream, pixels: &mut [u8]) {
        let plane = SIDE * SIDE;
        for place in 0..plane {
            let (x, y) = ((place % SIDE) as f32, (place / SIDE) as f32);
            let (dx, dy) = (
                (x - self.centre[0]) / self.radii[0],
                (y - self.centre[1]) / self.radii[1],
            );
            let inside = smooth((1.0 - (dx * dx + dy * dy).sqrt()) / 0.2 + 0.5);
            let blob = self.blob.colour(x, y);
            let veil = self.veil.colour(x, y);
            let background = self.background.colour(x, y);
            for channel in 0..CHANNELS {
                let veiled = mix(blob[channel], veil[channel], self.veil_opacity);
                let clean = mix(background[channel], veiled, inside);
                let value = clean + self.noise * deviate(stream);
                // The cast rounds down, and limits the value to 0 and 255.
                pixels[channel * plane + place] = (value * 255.0 + 0.5) as u8;
            }
        }
    }
}

/// A pattern, in its place and in its colours.
#[derive(Debug)]
struct Texture {
    pattern: Pattern,
    /// The direction of its first axis, of length 1.
    direction: [f32; 2],
    /// Its period, in pixels.
    period: f32,
    /// The place of the image's first pixel within the period.
    phase: [f32; 2],
    /// Random numbers in `[0, 1)` for the one pattern that is irregular; they repeat after 8
    /// periods.
    lattice: [[f32; 8]; 8],
    /// Its colour in the mean.
    mean: [f32; CHANNELS],
    /// From its darkest colour to its brightest.
    span: [f32; CHANNELS],
}

impl Texture {
    fn draw(class: usize, contrast: [f32; 2], stream: &mut Stream) -> Self {
        let slope = stream.between(-MAX_SLOPE, MAX_SLOPE) + stream.between(-MAX_SLOPE, MAX_SLOPE);
        let length = (1.0 + slope * slope).sqrt();
        let flip = if stream.coin() { -1.0 } else { 1.0 };
        let contrast = stream.between(contrast[0], contrast[1]);
        Self {
            pattern: Pattern::ALL[class],
            direction: [flip / length, slope / length],
            period: stream.between(5.0, 8.0),
            phase: [(); 2].map(|()| stream.between(0.0, 8.0)),
            lattice: [[(); 8]; 8].map(|row| row.map(|()| stream.unit())),
            mean: PALETTE[class % PALETTE.len()]
                .map(|mean| 0.5 + TINT * (mean - 0.5) + stream.between(-0.25, 0.25)),
            span: [(); CHANNELS].map(|()| contrast * stream.between(0.5, 1.0)),
        }
    }

    /// The colour at column `x` and row `y`.
    fn colour(&self, x: f32, y: f32) -> [f32; CHANNELS] {
        let (x, y) = (x / self.period, y / self.period);
        let [cos, sin] = self.direction;
        let flip = cos.signum();
        let u = cos * x - sin * y + self.phase[0];
        let v = flip * (sin * x + cos * y) + self.phase[1];
        let brightness = self.pattern.brightness(u, v, &self.lattice);
        std::array::from_fn(|channel| self.mean[channel] + (brightness - 0.5) * self.span[channel])
    }
}

/// The pattern of a class. Each is its own mirror image, since training flips images.
#[derive(Debug, Clone, Copy)]
enum Pattern {
    Horizontal,
    Vertical,
    Diagonal,
    Checks,
    Grid,
    Dots,
    Rings,
    Chevrons,
    Bricks,
    Blotches,
}

impl Pattern {
    /// All patterns; the place of each is its class.
    const ALL: [Self; 10] = [
        Self::Horizontal,
        Self::Vertical,
        Self::Diagonal,
        Self::Checks,
        Self::Grid,
        Self::Dots,
        Self::Rings,
        Self::Chevrons,
        Self::Bricks,
        Self::Blotches,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Horizontal => "horizontal",
            Self::Vertical => "vertical",
            Self::Diagonal => "diagonal",
            Self::Checks => "checks",
            Self::Grid => "grid",
            Self::Dots => "dots",
            Self::Rings => "rings",
            Self::Chevrons => "chevrons",
            Self::Bricks => "bricks",
            Self::Blotches => "blotches",
        }
    }

    /// The brightness of the pattern, in `[0, 1]`, at a place counted in its periods. `lattice`
    /// holds random numbers for the one pattern that is irregular.
    fn brightness(self, u: f32, v: f32, lattice: &[[f32; 8]; 8]) -> f32 {
        match self {
            Self::Horizontal => wave(v),
            Self::Vertical => wave(u),
            Self::Diagonal => wave((u + v) * std::f32::consts::FRAC_1_SQRT_2),
            Self::Checks => 0.5 + 2.0 * (wave(u) - 0.5) * (wave(v) - 0.5),
            Self::Grid => {
                let line = wave(u).max(wave(v));
                line * line * line
            }
            Self::Dots => {
                let (x, y) = (fraction(u) - 0.5, fraction(v) - 0.5);
                smooth((0.45 - (x * x + y * y).sqrt()) / 0.25)
            }
            Self::Rings => {
                let (x, y) = (4.0 * fraction(u / 4.0) - 2.0, 4.0 * fraction(v / 4.0) - 2.0);
                wave((x * x + y * y).sqrt())
            }
            Self::Chevrons => wave(v + 0.8 * triangle(0.6 * u)),
            Self::Bricks => {
                let row = 1.4 * v;
                let shift = if fraction(0.5 * row) < 0.5 { 0.0 } else { 0.5 };
                let (x, y) = (triangle(0.7 * u + shift), triangle(row));
                smooth((1.0 - x.max(y)) / 0.35)
            }
            Self::Blotches => smooth(2.0 * value_noise(u, v, lattice) - 0.5),
        }
    }
}

/// The part of `x` after the point.
fn fraction(x: f32) -> f32 {
    x - x.floor()
}

/// Falls from 1 to 0 and rises to 1 again over each period of 1.
fn triangle(x: f32) -> f32 {
    (2.0 * fraction(x) - 1.0).abs()
}

/// 0 up to 0, 1 from 1 on, and a smooth step between.
fn smooth(x: f32) -> f32 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

/// A mixture of `a` and `b`, in which `share` is that of `b`.
fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + share * (b - a)
}

/// A wave of period 1, close to a cosine's.
fn wave(x: f32) -> f32 {
    smooth(triangle(x))
}

/// Random numbers at the points of a lattice, interpolated.
fn value_noise(u: f32, v: f32, lattice: &[[f32; 8]; 8]) -> f32 {
    let (column, row) = (u.floor(), v.floor());
    let at = |right: i32, down: i32| {
        let wrap = |place: f32, step: i32| (place as i32 + step).rem_euclid(8) as usize;
        lattice[wrap(row, down)][wrap(column, right)]
    };
    let (right, down) = (smooth(u - column), smooth(v - row));
    let top = mix(at(0, 0), at(1, 0), right);
    let bottom = mix(at(0, 1), at(1, 1), right);
    mix(top, bottom, down)
}

/// A random number of mean 0 and variance 1: the sum of the four quarters of a random word, which
/// is close to a normal deviate and needs no logarithm.
fn deviate(stream: &mut Stream) -> f32 {
    let word = stream.next_u64();
    let sum: u64 = (0..4)
        .map(|quarter| (word >> (16 * quarter)) & 0xffff)
        .sum();
    // Each quarter is uniform over 0..65536: mean 32767.5, variance 65536^2 / 12.
    (sum as f32 - 4.0 * 32_767.5) / 37_837.2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate(seed: u64, train: usize, test: usize) -> ImageSet {
        Synthetic { seed, train, test }.generate(&|_, _| {})
    }

    /// The 64-bit FNV-1a hash.
    fn fnv(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn a_seed_gives_the_same_bytes_on_every_machine() {
        let images = generate(0, 20, 10);
        let bytes = |images: &Images| -> Vec<u8> {
            (0..images.len())
                .flat_map(|index| images.image(index).to_vec())
                .collect()
        };
        assert_eq!(
            images.train.image(0)[..8],
            [146, 131, 208, 170, 116, 114, 156, 199]
        );
        assert_eq!(fnv(&bytes(&images.train)), 0x6db3_e1cc_5a66_cfa5);
        assert_eq!(fnv(&bytes(&images.test)), 0x199d_d5e9_03af_d84a);
    }

    #[test]
    fn images_differ_by_seed_by_index_and_between_train_and_test() {
        let (zero, one) = (generate(0, 20, 20), generate(1, 20, 20));
        assert_ne!(zero.train.image(0), one.train.image(0));
        assert_ne!(zero.train.image(0), zero.train.image(10));
        assert_ne!(zero.train.image(0), zero.test.image(0));
    }

    #[test]
    fn an_image_does_not_depend_on_how_many_there_are() {
        let (few, many) = (generate(0, 15, 5), generate(0, 40, 10));
        assert_eq!(few.train.image(14), many.train.image(14));
        assert_eq!(few.test.image(4), many.test.image(4));
    }

    #[test]
    fn classes_have_equally_many_images_and_a_name_each() {
        let images = generate(0, 50, 30);
        for (images, share) in [(&images.train, 5), (&images.test, 3)] {
            for class in 0..10 {
                let labels = (0..images.len()).map(|index| images.label(index));
                assert_eq!(labels.filter(|&label| label == class).count(), share);
            }
        }
        let mut names = images.class_names;
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 10);
    }

    #[test]
    fn the_default_is_of_the_documented_size() {
        let images = Synthetic::default().generate(&|_, _| {});
        assert_eq!((images.train.len(), images.test.len()), (4_000, 2_000));
    }

    #[test]
    fn the_mean_images_of_the_classes_tell_little_about_an_image() {
        let images = generate(0, 1_000, 1_000);
        let mut means = vec![vec![0.0_f64; IMAGE_BYTES]; 10];
        for index in 0..images.train.len() {
            let mean = &mut means[usize::from(images.train.label(index))];
            for (mean, &byte) in mean.iter_mut().zip(images.train.image(index)) {
                *mean += f64::from(byte) / 100.0;
            }
        }
        let nearest = |image: &[u8]| {
            let distance = |mean: &[f64]| -> f64 {
                mean.iter()
                    .zip(image)
                    .map(|(m, &byte)| (m - f64::from(byte)).powi(2))
                    .sum()
            };
            (0..10_u16).min_by(|&a, &b| {
                distance(&means[usize::from(a)]).total_cmp(&distance(&means[usize::from(b)]))
            })
        };
        let correct = (0..images.test.len())
            .filter(|&index| nearest(images.test.image(index)) == Some(images.test.label(index)))
            .count();
        // More than chance, which is 100, since two classes share each colour; far from solved.
        assert!((150..400).contains(&correct), "{correct} of 1000");
    }

    #[test]
    fn deviates_have_mean_0_and_variance_1() {
        let mut stream = Stream::new(Purpose::SyntheticTrain, 0, &[]);
        let draws: Vec<f64> = (0..100_000)
            .map(|_| f64::from(deviate(&mut stream)))
            .collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.015, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
    }
}
