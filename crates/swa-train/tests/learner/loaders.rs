//! Loaders that are watched, that fail, or that count in another way.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use burn_swa_test_support::network::Net;
use burn_swa_test_support::points::{Batch, ITEMS, loader};
use swa_train::Swa;

/// A loader that counts the passes over it, and fails in one of them, counted from 1.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) passes: Arc<AtomicUsize>,
    fails_in: usize,
    /// The wrapper whose number of updates each pass reads, if there is one.
    pub(crate) asked: Arc<Mutex<Option<Swa<Net>>>>,
    loader: Arc<dyn DataLoader<Batch>>,
}

impl Watched {
    /// A loader that fails in pass `fails_in`, or never if that is 0.
    pub(crate) fn failing_in(fails_in: usize) -> Self {
        Self {
            passes: Arc::default(),
            fails_in,
            asked: Arc::default(),
            loader: loader(),
        }
    }
}

impl DataLoader<Batch> for Watched {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        if let Some(swa) = &*self.asked.lock().unwrap() {
            assert_eq!(swa.average().unwrap().updates(), swa.updates());
        }
        if self.passes.fetch_add(1, Ordering::SeqCst) + 1 == self.fails_in {
            Box::new(Unreadable)
        } else {
            self.loader.iter()
        }
    }

    fn num_items(&self) -> usize {
        self.loader.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            loader: self.loader.to_device(device),
            ..self.clone()
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            loader: self.loader.slice(start, end),
            ..self.clone()
        })
    }
}

struct Unreadable;

impl Iterator for Unreadable {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(Err(DatasetError::new(io::Error::other("disk on fire"))))
    }
}

impl DataLoaderIterator<Batch> for Unreadable {
    fn progress(&self) -> Progress {
        Progress::new(0, ITEMS, None)
    }
}

/// A loader whose progress counts the items that are left, and so falls.
pub(crate) struct CountingDown(pub(crate) Arc<dyn DataLoader<Batch>>);

impl DataLoader<Batch> for CountingDown {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(Remaining(self.0.iter()))
    }

    fn num_items(&self) -> usize {
        self.0.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self(self.0.to_device(device)))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self(self.0.slice(start, end)))
    }
}

struct Remaining<'a>(Box<dyn DataLoaderIterator<Batch> + 'a>);

impl Iterator for Remaining<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl DataLoaderIterator<Batch> for Remaining<'_> {
    fn progress(&self) -> Progress {
        Progress::new(ITEMS - self.0.progress().items_processed, ITEMS, None)
    }
}
