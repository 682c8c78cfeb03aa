//! Images in files, of any size, decoded whenever they are asked for.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use unicode_normalization::UnicodeNormalization;

use super::class_folders::Files;
use super::error::DataError;
use super::image_file::{Decoded, decode};
use super::view::View;
use crate::output::note;

/// The number of pixels that an image has at most: Pillow refuses more (twice its `MAX_IMAGE_PIXELS`) as a decompression bomb.
const MOST_PIXELS: u64 = 178_956_970;

/// Some of the image files of a folder. They are read whenever they are asked for.
///
/// In memory is a name for each, of some hundred bytes: 130 MB for ImageNet.
#[derive(Debug, Clone)]
pub(super) struct FileList {
    all: Arc<AllFiles>,
    /// The places in that list of those that are meant.
    chosen: Vec<u32>,
}

#[derive(Debug)]
struct AllFiles {
    files: Files,
    view: View,
    /// The places of those that could not be read.
    left_out: Mutex<BTreeSet<u32>>,
}

impl FileList {
    /// All `files`.
    pub(super) fn new(files: Files, view: View) -> Self {
        let chosen = (0..files.names.len() as u32).collect();
        let all = AllFiles {
            files,
            view,
            left_out: Mutex::default(),
        };
        Self {
            all: Arc::new(all),
            chosen,
        }
    }

    /// Those at these places of this list.
    pub(super) fn of(&self, places: impl Iterator<Item = usize>) -> Self {
        Self {
            all: self.all.clone(),
            chosen: places.map(|place| self.chosen[place]).collect(),
        }
    }

    /// The view that a network gets of them.
    pub(super) fn view(&self) -> &View {
        &self.all.view
    }

    /// Decodes the image at `place`.
    pub(super) fn decode(&self, place: usize) -> Result<Decoded, DataError> {
        let path = self.all.files.folder.join(self.name(place));
        decode(&path, |header| {
            let (width, height) = (header.width, header.height);
            let pixels = u64::from(width) * u64::from(height);
            if pixels > MOST_PIXELS {
                Err(DataError::TooManyPixels {
                    path: path.clone(),
                    width,
                    height,
                    most: MOST_PIXELS,
                })
            } else if pixels == 0 {
                Err(DataError::UnreadableImage {
                    path: path.clone(),
                    reason: "it has no pixels".to_owned(),
                })
            } else if header.is_grey_of_16_bits {
                Err(DataError::GreyOf16Bits { path: path.clone() })
            } else {
                Ok(())
            }
        })
    }

    /// Takes note that the image at `place` cannot be read, or returns the error.
    pub(super) fn leave_out(&self, place: usize, error: DataError) -> Result<(), DataError> {
        /// The number of images that are named.
        const SAID: usize = 10;

        if !self.all.view.skip_unreadable {
            return Err(error);
        }
        let mut left_out = self.left_out();
        if left_out.insert(self.chosen[place]) {
            match left_out.len() {
                count if count <= SAID => note(format!("left out: {error}")),
                count if count == SAID + 1 => {
                    note("left out: more images that cannot be read, which are not named");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The number of images that were left out so far, of all in the folder.
    pub(super) fn count_left_out(&self) -> usize {
        self.left_out().len()
    }

    fn left_out(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        // A set is valid even if a thread panicked while it held the lock.
        let set = self.all.left_out.lock();
        set.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the name and size of the image at `place` into a checksum. A name may be in another of Unicode's forms.
    pub(super) fn checksum(&self, place: usize, checksum: &mut crc32fast::Hasher) {
        for part in self.name(place).components() {
            let name: String = part.as_os_str().to_string_lossy().nfc().collect();
            checksum.update(name.as_bytes());
            checksum.update(b"/");
        }
        let size = self.all.files.sizes[self.chosen[place] as usize];
        checksum.update(&size.to_le_bytes());
    }

    fn name(&self, place: usize) -> &Path {
        &self.all.files.names[self.chosen[place] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8], content: &[u8]) -> Vec<u8> {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(kind);
        checksum.update(content);
        [
            &(content.len() as u32).to_be_bytes()[..],
            kind,
            content,
            &checksum.finalize().to_be_bytes(),
        ]
        .concat()
    }

    fn png(side: u32) -> Vec<u8> {
        let size = [side.to_be_bytes(), side.to_be_bytes()].concat();
        let head = chunk(b"IHDR", &[&size[..], &[8, 2, 0, 0, 0]].concat());
        let data = chunk(b"IDAT", &[0x78, 0x9C, 3, 0, 0, 0, 0, 1]);
        [b"\x89PNG\r\n\x1a\n", &head[..], &data, &chunk(b"IEND", &[])].concat()
    }

    fn bmp(side: u32) -> Vec<u8> {
        let mut file = b"BM".to_vec();
        file.extend([54, 0, 54, 40, side, side].map(u32::to_le_bytes).concat());
        file.extend([1, 24].map(u16::to_le_bytes).concat());
        file.extend([0; 24]);
        file
    }

    fn tiff(side: u32) -> Vec<u8> {
        let tags = [
            (256, side),
            (257, side),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, side),
            (279, 1),
        ];
        let mut file = b"II*\0\x08\0\0\0\x09\0".to_vec();
        for (tag, value) in tags {
            file.extend([tag, 4].map(u16::to_le_bytes).concat());
            file.extend([1, value].map(u32::to_le_bytes).concat());
        }
        file.extend([0; 4]);
        file
    }

    fn webp(side: u32) -> Vec<u8> {
        let side = (side - 1).to_le_bytes();
        let canvas = [&[0x10, 0, 0, 0], &side[..3], &side[..3]].concat();
        let chunks = [
            b"WEBPVP8X\x0a\0\0\0",
            &canvas[..],
            b"VP8L\x04\0\0\0\x2f\0\0\0",
        ]
        .concat();
        [b"RIFF", &(chunks.len() as u32).to_le_bytes()[..], &chunks].concat()
    }

    fn jpeg(side: u32) -> Vec<u8> {
        let name = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/images/baseline_420.jpg"
        );
        let mut file = std::fs::read(name).unwrap();
        let frame = file.windows(2).position(|it| it == [0xFF, 0xC0]).unwrap();
        let side = (side as u16).to_be_bytes();
        file[frame + 5..][..4].copy_from_slice(&[side, side].concat());
        file
    }

    #[test]
    fn an_image_larger_than_the_limit_takes_no_memory() {
        let side = 40_000;
        let pnm = format!("P6 {side} {side} 255\n").into_bytes();
        let folder = tempfile::tempdir().unwrap();
        for (name, file) in [
            ("a.png", png(side)),
            ("a.bmp", bmp(side)),
            ("a.tif", tiff(side)),
            ("a.webp", webp(side)),
            ("a.jpg", jpeg(side)),
            ("a.ppm", pnm),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, file).unwrap();
            let files = Files {
                folder: folder.path().into(),
                names: vec![Path::new(name).into()],
                sizes: vec![0],
                labels: vec![0],
            };
            let list = FileList::new(files, View::TORCHVISION);
            let mut error = None;
            let memory = allocation_counter::measure(|| error = list.decode(0).err());
            assert_eq!(
                error.unwrap().to_string(),
                format!(
                    "{}: 40000x40000 pixels, at most 178956970 in all are read; make it smaller, or move it elsewhere",
                    path.display()
                )
            );
            assert!(memory.bytes_max < 200_000, "{name}: {}", memory.bytes_max);
        }
    }
}
