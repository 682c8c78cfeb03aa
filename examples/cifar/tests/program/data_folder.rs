//! Folders of images, and their faults.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use image::{Rgb, RgbImage};

/// A record of CIFAR-10's binary files: a label and 32 by 32 pixels of three bytes.
const RECORD_BYTES: u64 = 3_073;

/// A binary file of CIFAR-10, with 10,000 black images of airplanes, unless its length or labels
/// are changed.
pub(crate) struct BinaryFile {
    pub(crate) bytes: u64,
    /// A record, counted from 0, and its label.
    pub(crate) label: Option<(u64, u8)>,
}

impl BinaryFile {
    /// As it should be.
    pub(crate) const WHOLE: Self = Self {
        bytes: 30_730_000,
        label: None,
    };

    pub(crate) fn write_to(&self, path: &Path) {
        let mut file = File::create(path).unwrap();
        file.set_len(self.bytes).unwrap();
        if let Some((record, label)) = self.label {
            file.seek(SeekFrom::Start(record * RECORD_BYTES)).unwrap();
            file.write_all(&[label]).unwrap();
        }
    }
}

/// Writes `train/CLASS/` and `test/CLASS/` with images of the class's own colour.
pub(crate) fn write_image_folder(folder: &Path, classes: &[&str], images_per_class: u8) {
    for split in ["train", "test"] {
        for (class, name) in (0_u8..).zip(classes) {
            let folder = folder.join(split).join(name);
            fs::create_dir_all(&folder).unwrap();
            for image in 0..images_per_class {
                RgbImage::from_pixel(32, 32, Rgb([80 * class, 10 * image, 200]))
                    .save(folder.join(format!("{image}.png")))
                    .unwrap();
            }
        }
    }
}
