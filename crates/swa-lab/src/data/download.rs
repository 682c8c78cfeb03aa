//! CIFAR-10 and CIFAR-100 by download.
//!
//! `burn-dataset` downloads fast.ai's copies of them (the original pixels, as PNG files) and
//! unpacks them into the user's cache. There they are read like any other folder of images.

use std::panic::{self, UnwindSafe};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn_dataset::vision::{CifarDataset, CifarType};

use super::cifar_binary;
use super::error::DataError;
use super::image_file::one_line;
use super::image_folder;
use super::images::ImageSet;
use super::source::LoadProgress;

/// A data set that `burn-dataset` downloads.
pub(super) struct Download {
    name: &'static str,
    /// The official archive that holds the same.
    archive: &'static str,
    /// The folder in its cache that burn-dataset 0.22.1 unpacks the data set to. Its API does not
    /// say so.
    folder: &'static str,
    images: CifarType,
}

/// CIFAR-10.
pub(super) const CIFAR10: Download = Download {
    name: "CIFAR-10",
    archive: cifar_binary::CIFAR10.archive,
    folder: "cifar10",
    images: CifarType::Cifar10,
};

/// CIFAR-100.
pub(super) const CIFAR100: Download = Download {
    name: "CIFAR-100",
    archive: cifar_binary::CIFAR100.archive,
    folder: "cifar100",
    images: CifarType::Cifar100,
};

/// The numbers of images to train and to test on, in both data sets.
const SIZES: (usize, usize) = (50_000, 10_000);

impl Download {
    fn error(&self, reason: String) -> DataError {
        DataError::Download {
            name: self.name,
            archive: self.archive,
            reason,
        }
    }
}

/// Loads a data set from the user's cache, and downloads it first if it is not there.
///
/// # Errors
///
/// Returns an error if the download fails, or if the cache holds only a part of the data set.
pub(super) fn load(
    download: &'static Download,
    progress: LoadProgress<'_>,
) -> Result<ImageSet, DataError> {
    let cache = dirs::cache_dir()
        .ok_or_else(|| download.error("this user has no cache folder".to_owned()))?;
    let folder = cache.join("burn-dataset").join(download.folder);
    load_cached(download, &folder, SIZES, progress, || {
        CifarDataset::new(download.images);
    })
}

/// Loads the data set of `sizes` images that `fetch` leaves in `folder`.
fn load_cached(
    download: &Download,
    folder: &Path,
    sizes: (usize, usize),
    progress: LoadProgress<'_>,
    fetch: impl FnOnce() + UnwindSafe,
) -> Result<ImageSet, DataError> {
    if !folder.exists() {
        catch_panic(fetch).map_err(|reason| download.error(reason))?;
    }

    // A download that was cut short leaves a folder that burn-dataset 0.22.1 then takes for a
    // complete one.
    let damaged = |reason| DataError::DamagedDownload {
        path: folder.into(),
        reason,
    };
    let mut images =
        image_folder::load(folder, progress).map_err(|error| damaged(error.to_string()))?;
    // The user did not lay it out.
    images.notes.clear();
    let found = (images.train.len(), images.test.len());
    if found != sizes {
        return Err(damaged(format!(
            "expected {} images to train and {} to test on, found {} and {}",
            sizes.0, sizes.1, found.0, found.1
        )));
    }
    Ok(images)
}

/// Runs `download`, which reports its errors as panics, and returns the message in one line.
fn catch_panic(download: impl FnOnce() + UnwindSafe) -> Result<(), String> {
    /// The beginning of the message of an `unwrap` that panics.
    const UNWRAPPED: &str = "called `Result::unwrap()` on an `Err` value: ";

    /// Without this lock, two calls at once could each restore the other's silent hook.
    static HOOK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = HOOK.lock().unwrap_or_else(PoisonError::into_inner);

    // The hook would print the panic and its place in burn-dataset. It belongs to the whole
    // process: a panic in another thread meanwhile is not printed. But the data is loaded before
    // there are other threads.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(download);
    panic::set_hook(hook);
    result.map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("burn-dataset gave no reason");
        one_line(message.strip_prefix(UNWRAPPED).unwrap_or(message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files of a download: `train` and `test` images of one class.
    fn unpack(folder: &Path, train: usize, test: usize) {
        for (split, images) in [("train", train), ("test", test)] {
            let folder = folder.join(split).join("frog");
            std::fs::create_dir_all(&folder).unwrap();
            for n in 0..images {
                let path = folder.join(format!("{n}.png"));
                image::RgbImage::new(32, 32).save(path).unwrap();
            }
        }
    }

    fn load_into(cache: &Path, download: impl FnOnce() + UnwindSafe) -> Result<ImageSet, String> {
        let folder = cache.join("cifar10");
        load_cached(&CIFAR10, &folder, (3, 2), &|_, _| {}, download)
            .map_err(|error| error.to_string().replace(cache.to_str().unwrap(), "CACHE"))
    }

    #[test]
    fn what_was_downloaded_is_loaded_and_not_downloaded_again() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("cifar10");
        let images = load_into(cache.path(), || unpack(&folder, 3, 2)).unwrap();
        assert_eq!((images.train.len(), images.test.len()), (3, 2));
        assert_eq!(images.class_names, ["frog"]);
        let again = load_into(cache.path(), || unreachable!("downloaded twice")).unwrap();
        assert_eq!((again.train.len(), again.test.len()), (3, 2));
    }

    #[test]
    fn a_failed_download_is_one_line_with_its_reason_and_a_remedy() {
        let cache = tempfile::tempdir().unwrap();
        let download = || panic!("called `Result::unwrap()` on an `Err` value: no route\nto host");
        let error = load_into(cache.path(), download).unwrap_err();
        assert_eq!(
            error,
            "downloading CIFAR-10 failed: no route to host; check the network, or get \
             https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz elsewhere, unpack it, and \
             point --data at the folder"
        );
    }

    #[test]
    fn a_partial_download_names_the_folder_to_delete() {
        let cache = tempfile::tempdir().unwrap();
        unpack(&cache.path().join("cifar10"), 2, 2);
        let error = load_into(cache.path(), || ()).unwrap_err();
        assert_eq!(
            error,
            "CACHE/cifar10: the downloaded data set is incomplete or damaged (expected 3 images to \
             train and 2 to test on, found 2 and 2); delete this folder and run again"
        );
    }

    #[test]
    fn a_download_without_test_images_names_the_folder_to_delete() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("cifar10");
        std::fs::create_dir_all(folder.join("train/frog")).unwrap();
        let error = load_into(cache.path(), || ()).unwrap_err();
        assert!(
            error.starts_with("CACHE/cifar10: the downloaded data set is incomplete or damaged (")
                && error.ends_with("); delete this folder and run again")
                && error.lines().count() == 1,
            "{error}"
        );
    }
}
