//! Images of any size against what torchvision makes of them: `tests/vectors/images_any_size`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::image_file::{Decoded, decode};
use super::images::CHANNELS;
use super::normalization::{Normalization, write_planes};
use super::random::{Purpose, Stream};
use super::resize;
use super::resized_crop::Region;
use super::view::{Interpolation, View};

#[derive(Deserialize)]
struct Description {
    /// The tensor of each file's pixels.
    decoded: BTreeMap<String, String>,
    crops: Vec<Crop>,
    centres: Vec<Centre>,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Crop {
    file: String,
    region: [u32; 4],
    flip: bool,
    side: usize,
    interpolation: Interpolation,
}

#[derive(Deserialize)]
struct Centre {
    file: String,
    side: usize,
    resize: usize,
    interpolation: Interpolation,
}

#[derive(Deserialize)]
struct Draw {
    size: [u32; 2],
    least_scale: f64,
    seed: u64,
    epoch: usize,
    index: usize,
    region: [u32; 4],
    flip: bool,
}

/// The folder of the images, below `SWA_PARITY_DIR` if that is set.
fn folder() -> PathBuf {
    let vectors = match std::env::var_os("SWA_PARITY_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors"),
    };
    vectors.join("images_any_size")
}

fn decoded(file: &str) -> Decoded {
    decode(&folder().join(file), |_| Ok(())).unwrap_or_else(|error| panic!("{error}"))
}

/// Calls `test` with the description of what is expected, and a function that reads a tensor.
fn expected(test: impl FnOnce(Description, &dyn Fn(&str) -> (Vec<usize>, Vec<f32>))) {
    let file = std::fs::read(folder().join("expected.safetensors")).unwrap();
    let (_, head) = SafeTensors::read_metadata(&file).unwrap();
    let description = &head.metadata().as_ref().unwrap()["description"];
    let tensors = SafeTensors::deserialize(&file).unwrap();
    test(serde_json::from_str(description).unwrap(), &|name| {
        let tensor = tensors.tensor(name).unwrap();
        let values = match tensor.dtype() {
            Dtype::U8 => tensor.data().iter().copied().map(f32::from).collect(),
            Dtype::F32 => {
                let words = tensor.data().as_chunks().0.iter();
                words.map(|word| f32::from_le_bytes(*word)).collect()
            }
            other => panic!("{other:?}"),
        };
        (tensor.shape().to_vec(), values)
    });
}

fn region([left, top, width, height]: [u32; 4]) -> Region {
    Region {
        left,
        top,
        width,
        height,
    }
}

/// The values that differ, and the greatest difference.
#[derive(Debug, Default)]
struct Differences {
    values: usize,
    differ: usize,
    sum: f64,
    greatest: f32,
}

impl Differences {
    fn add(&mut self, ours: &[f32], theirs: &[f32]) {
        assert_eq!(ours.len(), theirs.len());
        for (one, other) in ours.iter().zip(theirs) {
            let difference = (one - other).abs();
            self.values += 1;
            self.differ += usize::from(difference > 0.0);
            self.sum += f64::from(difference);
            self.greatest = self.greatest.max(difference);
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.values as f64
    }
}

/// A table that leaves bytes as they are.
fn bytes() -> [[f32; 256]; CHANNELS] {
    [std::array::from_fn(|byte| byte as f32); CHANNELS]
}

/// The three planes of an image that is interleaved.
fn planes(samples: &[u8], flip: bool, side: usize, table: &[[f32; 256]; CHANNELS]) -> Vec<f32> {
    let mut planes = vec![f32::NAN; samples.len()];
    write_planes(samples, flip, side, table, &mut planes);
    planes
}

#[test]
fn files_are_decoded_as_torchvision_decodes_them() {
    expected(|description, tensor| {
        assert_eq!(description.decoded.len(), 38);
        for (file, name) in &description.decoded {
            let image = decoded(file);
            let (shape, pixels) = tensor(name);
            assert_eq!(
                [image.height as usize, image.width as usize, 3],
                *shape,
                "{file}"
            );
            let samples: Vec<f32> = image.samples.iter().copied().map(f32::from).collect();
            let mut differences = Differences::default();
            differences.add(&samples, &pixels);
            if file.ends_with("jpg") {
                // Two decoders, each within what the standard allows.
                let mean = differences.mean();
                assert!(mean < 0.5, "{file}: {mean}");
                assert!(differences.greatest <= 4.0, "{file}: {differences:?}");
            } else {
                assert_eq!(differences.differ, 0, "{file}");
            }
        }
    });
}

#[test]
fn random_crops_are_drawn_as_torchvision_draws_them() {
    expected(|description, _| {
        assert_eq!(description.draws.len(), 60);
        for draw in description.draws {
            let place = [draw.epoch, draw.index];
            let mut stream = Stream::new(Purpose::Augmentation, draw.seed, &place);
            let drawn = Region::random(draw.size, draw.least_scale, &mut stream);
            assert_eq!(drawn, region(draw.region), "{:?}", draw.size);
            assert_eq!(stream.coin(), draw.flip, "{:?}", draw.size);
        }
    });
}

#[test]
fn crops_are_resized_as_torchvision_resizes_them() {
    expected(|description, tensor| {
        let mut differences = Differences::default();
        for (number, crop) in description.crops.iter().enumerate() {
            let view = View {
                side: crop.side,
                interpolation: crop.interpolation,
                ..View::TORCHVISION
            };
            let samples = resize::crop(&decoded(&crop.file), region(crop.region), &view);
            let ours = planes(&samples, crop.flip, crop.side, &bytes());
            let (_, theirs) = tensor(&format!("crop.{number}"));
            let theirs: Vec<u8> = theirs.into_iter().map(|value| value as u8).collect();
            differences.add(&ours, &planes(&theirs, false, crop.side, &bytes()));
        }
        assert!(differences.values > 6_000, "{differences:?}");
        assert_eq!(differences.differ, 0, "{differences:?}");
    });
}

#[test]
fn centres_are_torchvisions_with_its_normalisation() {
    expected(|description, tensor| {
        let table = Normalization::IMAGENET.table();
        let mut differences = Differences::default();
        for (number, centre) in description.centres.iter().enumerate() {
            let view = View {
                side: centre.side,
                resize: centre.resize,
                interpolation: centre.interpolation,
                ..View::TORCHVISION
            };
            let samples = resize::centre(&decoded(&centre.file), &view);
            let (_, theirs) = tensor(&format!("centre.{number}"));
            differences.add(&planes(&samples, false, centre.side, &table), &theirs);
        }
        assert!(differences.values >= 3_000, "{differences:?}");
        assert_eq!(differences.differ, 0, "{differences:?}");
    });
}
