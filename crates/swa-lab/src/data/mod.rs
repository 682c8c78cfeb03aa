//! The images: their sources, and the batches made of them.
//!
//! [`DataSource`] names the data set and loads it into memory, once ([`ImageSet`]). [`EpochLoader`]
//! serves its images as normalised, augmented batches whose content depends on nothing but the
//! seed, the epoch and the index, so that a resumed run sees the bits that an uninterrupted one
//! would have seen.

mod augmentation;
mod batch;
mod cifar_binary;
mod download;
mod error;
mod image_file;
mod image_folder;
mod images;
mod loader;
mod normalization;
mod prefetch;
mod random;
mod source;
mod synthetic;
mod truncated_jpeg;

pub use augmentation::{Augmentation, Padding, Placement};
pub use batch::ImageBatch;
pub use error::DataError;
pub use images::{CHANNELS, IMAGE_BYTES, ImageSet, Images, SIDE};
pub use loader::{EpochLoader, Position};
pub use normalization::Normalization;
pub use source::{DataSource, LoadProgress};
pub use synthetic::Synthetic;
