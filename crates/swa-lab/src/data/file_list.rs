//! Images in files, of any size, decoded whenever they are asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use unicode_normalization::UnicodeNormalization;

use super::class_folders::Files;
use super::error::DataError;
use super::image_file::{Decoded, decode};
use super::view::View;
use crate::output::note;

/// The number of pixels that an image has at most: Pillow refuses more (twice its `MAX_IMAGE_PIXELS`) as a decompression bomb.
const MOST_PIXELS: u64 = 178_956_970;

/// The treatment of an image that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It ends the pass with an error that names it.
    Fails,
    /// It is left out, and said once.
    LeftOut,
}

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
    folder: PathBuf,
    names: Vec<Box<Path>>,
    sizes: Vec<u64>,
    view: View,
    unreadable: Unreadable,
    /// The places of those that could not be read.
    left_out: Mutex<BTreeSet<u32>>,
}

impl FileList {
    /// All `files`.
    pub(super) fn new(files: Files, view: View, unreadable: Unreadable) -> Self {
        let chosen = (0..files.names.len() as u32).collect();
        let all = AllFiles {
            folder: files.folder,
            names: files.names,
            sizes: files.sizes,
            view,
            unreadable,
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
        let path = self.all.folder.join(self.name(place));
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

        if self.all.unreadable == Unreadable::Fails {
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
        let size = self.all.sizes[self.chosen[place] as usize];
        checksum.update(&size.to_le_bytes());
    }

    fn name(&self, place: usize) -> &Path {
        &self.all.names[self.chosen[place] as usize]
    }
}
