//! The images: their sources, and the batches made of them.
//!
//! [`DataSource`] names a data set of small images and loads it into memory, once ([`ImageSet`]);
//! [`ImageSet::of_files`] lists a folder of images of any size, which are decoded whenever they are
//! served, as the [`View`] says. [`EpochLoader`] serves its images as normalised, augmented batches whose content depends on nothing but the
//! seed, the epoch and the index, so that a resumed run sees the bits that an uninterrupted one
//! would have seen.

mod augmentation;
mod batch;
mod cifar_binary;
mod class_folders;
mod download;
mod error;
mod file_list;
mod image_file;
mod image_files;
mod image_folder;
mod images;
mod loader;
mod normalization;
mod prefetch;
mod random;
mod resize;
mod resized_crop;
mod source;
mod synthetic;
#[cfg(test)]
mod torchvision_vectors;
mod truncated_jpeg;
mod view;

pub use augmentation::{Augmentation, Padding, Placement};
pub use batch::ImageBatch;
pub use error::DataError;
pub use images::{CHANNELS, IMAGE_BYTES, ImageSet, Images, SIDE};
pub use loader::{EpochLoader, Position, Watch};
pub use normalization::Normalization;
pub use source::{DataSource, LoadProgress};
pub use synthetic::Synthetic;
pub use view::{Interpolation, View};
