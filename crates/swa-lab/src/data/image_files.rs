//! A folder of images of any sizes, ImageNet's layout: `train/CLASS/` and `val/CLASS/`.

use std::path::Path;
use std::sync::Arc;

use super::class_folders::{ClassFolders, TRAIN, entries, in_words};
use super::error::DataError;
use super::file_list::Unreadable;
use super::images::{ImageSet, Images};
use super::view::View;

/// The folders to test on: the first that is there.
const TESTS: [&str; 2] = ["val", "test"];

/// Classes that a label of two bytes can tell apart.
const MOST_CLASSES: usize = 1 << 16;

impl ImageSet {
    /// The images in `folder/train/CLASS/` and `folder/val/CLASS/`, or `folder/test/CLASS/` where there is no `val`: JPEG, PNG and
    /// other files of any sizes, which are decoded whenever a loader serves them.
    ///
    /// What is decoded is what `torchvision.datasets.ImageFolder` loads, with Pillow's `convert("RGB")`; see
    /// [`EpochLoader`](super::EpochLoader) for what becomes of it.
    ///
    /// # Errors
    ///
    /// Returns an error that names the folder or file if one cannot be listed, if the two folders have no classes or different
    /// ones, if a class has no image, if an image is in no class or of no format that can be read, or if the view is invalid.
    pub fn of_files(folder: &Path, view: View, unreadable: Unreadable) -> Result<Self, DataError> {
        view.check()?;
        if !folder.exists() {
            return Err(DataError::NoImageFolder {
                path: folder.into(),
                found: "no such folder".to_owned(),
            });
        }
        if !folder.is_dir() {
            return Err(DataError::NotAFolder {
                path: folder.into(),
            });
        }
        let is_there = |split: &&str| folder.join(split).is_dir();
        let (true, Some(test)) = (is_there(&TRAIN), TESTS.into_iter().find(is_there)) else {
            return Err(DataError::NoImageFolder {
                path: folder.into(),
                found: format!("found {}", in_words(&entries(folder)?)),
            });
        };
        let found = ClassFolders::list(folder, test, MOST_CLASSES)?;
        let [train, test] = [found.train, found.test]
            .map(|files| Arc::new(Images::of_files(files, view, unreadable)));
        Ok(Self {
            train,
            test,
            class_names: found.class_names,
            notes: found.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use burn::data::dataloader::DataLoader;
    use burn::tensor::Device;
    use image::RgbImage;

    use crate::data::{Augmentation, EpochLoader, Normalization, Position};

    const VIEW: View = View {
        side: 8,
        resize: 10,
        interpolation: super::super::Interpolation::Bilinear,
        least_scale: 0.08,
    };

    /// Saves an image of one colour, whose red is `red`.
    fn save(folder: &Path, file: &str, [width, height]: [u32; 2], red: u8) {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = RgbImage::from_pixel(width, height, image::Rgb([red, 0, 255]));
        image.save(path).unwrap();
    }

    /// Two classes with six images each to train on, and one to test on.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (label, class) in ["cat", "dog"].into_iter().enumerate() {
            for n in 0..6 {
                let size = [5 + 7 * n, 40 - 5 * n];
                let red = 10 * (6 * label as u8 + n as u8);
                save(folder.path(), &format!("train/{class}/{n}.png"), size, red);
            }
            save(folder.path(), &format!("val/{class}/0.png"), [30, 30], 200);
        }
        folder
    }

    fn load(folder: &tempfile::TempDir, unreadable: Unreadable) -> Result<ImageSet, DataError> {
        ImageSet::of_files(folder.path(), VIEW, unreadable)
    }

    fn error(folder: &tempfile::TempDir) -> String {
        let error = load(folder, Unreadable::Fails).err().unwrap().to_string();
        error.replace(folder.path().to_str().unwrap(), "DIR")
    }

    fn training(images: &Arc<Images>) -> EpochLoader {
        let augmentation = Augmentation::ResizedCropAndFlip;
        EpochLoader::training(images.clone(), 5, augmentation, 3, &Device::flex()).unwrap()
    }

    /// The labels and the first pixel's byte of red of each image of the next pass.
    fn pass(loader: &EpochLoader) -> Vec<Vec<(i64, u8)>> {
        let batches = loader.iter().map(|batch| {
            let batch = batch.unwrap();
            let [_, channels, height, width] = batch.images.dims();
            assert_eq!([channels, height, width], [3, 8, 8]);
            let pixels: Vec<f32> = batch.images.into_data().try_to_vec().unwrap();
            let Normalization { mean, std } = Normalization::IMAGENET;
            let reds = pixels.chunks(3 * 8 * 8).map(|image| {
                assert!(image[..64].iter().all(|value| *value == image[0]));
                ((image[0] * std[0] + mean[0]) * 255.0).round() as u8
            });
            let labels = batch.labels.into_data().iter::<i64>().collect::<Vec<_>>();
            labels.into_iter().zip(reds).collect()
        });
        batches.collect()
    }

    #[test]
    fn an_epoch_serves_every_file_once_with_its_label() {
        let folder = folder();
        let images = load(&folder, Unreadable::Fails).unwrap();
        assert_eq!(images.class_names, ["cat", "dog"]);
        assert_eq!((images.train.len(), images.test.len()), (12, 2));
        let loader = training(&images.train);
        let (first, second) = (pass(&loader), pass(&loader));
        assert_ne!(first, second);
        for pass in [first, second] {
            assert_eq!(pass.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 2]);
            let mut served = pass.concat();
            served.sort_unstable();
            let all = (0..12).map(|n| (i64::from(n >= 6), 10 * n as u8));
            assert!(served.into_iter().eq(all));
        }
    }

    #[test]
    fn a_resumed_pass_does_not_read_what_is_skipped() {
        let folder = folder();
        let images = load(&folder, Unreadable::Fails).unwrap();
        let whole = pass(&training(&images.train));
        for (_, red) in &whole[0] {
            let (class, n) = (["cat", "dog"][usize::from(*red >= 60)], red / 10 % 6);
            std::fs::remove_file(folder.path().join(format!("train/{class}/{n}.png"))).unwrap();
        }
        let position = Position {
            epoch: 0,
            batches: 1,
        };
        let resumed = training(&images.train).starting_at(position).unwrap();
        assert_eq!(pass(&resumed), whole[1..]);
    }

    #[test]
    fn a_folder_without_train_or_val_is_named_with_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), "train/cat/1.png", [9, 9], 0);
        save(folder.path(), "valid/cat/1.png", [9, 9], 0);
        assert_eq!(
            error(&folder),
            "DIR: expected a folder with train/CLASS/ and val/CLASS/ (or test/CLASS/), found train, valid"
        );
    }
}
