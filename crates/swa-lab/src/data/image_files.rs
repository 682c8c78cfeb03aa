//! A folder of images of any sizes, ImageNet's layout: `train/CLASS/` and `val/CLASS/`.

use std::path::Path;
use std::sync::Arc;

use super::class_folders::{ClassFolders, TRAIN, entries, in_words};
use super::error::DataError;
use super::images::{ImageSet, Images};
use super::source::LoadProgress;
use super::view::View;

/// The folders to test on: the first that is there.
const TESTS: [&str; 2] = ["val", "test"];

/// Classes that a label of two bytes can tell apart.
const MOST_CLASSES: usize = 1 << 16;

impl ImageSet {
    /// The images in `folder/train/CLASS/` and `folder/val/CLASS/`, or `folder/test/CLASS/` where there is no `val`: JPEG, PNG and
    /// other files of any sizes, which are decoded whenever a loader serves them.
    ///
    /// The `view` is one that was checked, as that of a run's settings is. `progress` is told the number of classes that are listed, and of all, of both folders.
    ///
    /// The pixels are those that `torchvision.datasets.ImageFolder` loads, with Pillow's `convert("RGB")`; see
    /// [`EpochLoader`](super::EpochLoader) for what becomes of it.
    ///
    /// # Errors
    ///
    /// Returns an error that names the folder or file if one cannot be listed, if the two folders have no classes or different
    /// ones, if a class has no image, or if an image is in no class or of no format that can be read.
    pub fn of_files(
        folder: &Path,
        view: View,
        progress: LoadProgress<'_>,
    ) -> Result<Self, DataError> {
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
        let found = ClassFolders::list(folder, test, MOST_CLASSES, progress)?;
        let [train, test] =
            [found.train, found.test].map(|files| Arc::new(Images::of_files(files, view)));
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
        skip_unreadable: false,
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

    fn load(folder: &tempfile::TempDir) -> Result<ImageSet, DataError> {
        ImageSet::of_files(folder.path(), VIEW, &|_, _| {})
    }

    /// The images of a folder of which those that cannot be read are left out.
    fn load_readable(folder: &tempfile::TempDir) -> ImageSet {
        let skip_unreadable = true;
        let view = View {
            skip_unreadable,
            ..VIEW
        };
        ImageSet::of_files(folder.path(), view, &|_, _| {}).unwrap()
    }

    fn error(folder: &tempfile::TempDir) -> String {
        let error = load(folder).err().unwrap().to_string();
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
    fn a_listing_is_counted_in_the_classes_of_both_folders() {
        let folder = folder();
        let told = std::sync::Mutex::new(Vec::new());
        let progress = |done, all| told.lock().unwrap().push((done, all));
        ImageSet::of_files(folder.path(), VIEW, &progress).unwrap();
        assert_eq!(told.into_inner().unwrap(), [(1, 4), (2, 4), (3, 4), (4, 4)]);
    }

    #[test]
    fn an_epoch_serves_every_file_once_with_its_label() {
        let folder = folder();
        let images = load(&folder).unwrap();
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
        let images = load(&folder).unwrap();
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

    #[test]
    fn without_val_the_images_to_test_on_are_in_test() {
        let folder = folder();
        let [val, test] = ["val", "test"].map(|name| folder.path().join(name));
        std::fs::rename(val, &test).unwrap();
        let images = load(&folder).unwrap();
        assert_eq!(images.test.len(), 2);
        std::fs::remove_dir_all(test.join("dog")).unwrap();
        assert_eq!(
            error(&folder),
            "DIR: class dog is in train/ and not in test/; both must have the same classes"
        );
    }

    #[test]
    fn a_subset_is_of_the_same_files() {
        let folder = folder();
        let images = load(&folder).unwrap().train;
        let (some, rest) = images.split(4, 1).unwrap();
        let served = |images: Images| {
            let loader = EpochLoader::evaluation(Arc::new(images), 5, &Device::flex());
            pass(&loader.unwrap()).concat()
        };
        let (some, rest) = (served(some), served(rest));
        assert_eq!((some.len(), rest.len()), (4, 8));
        let cats = some.iter().filter(|(label, _)| *label == 0).count();
        assert_eq!(cats, 2);
        let mut all = [some, rest].concat();
        all.sort_unstable();
        assert!(
            all.into_iter()
                .map(|(_, red)| red)
                .eq((0..12).map(|n| 10 * n))
        );
    }

    #[test]
    fn files_are_known_again_by_name_size_and_class() {
        let folder = folder();
        let checksum = || {
            let mut checksum = crc32fast::Hasher::new();
            load(&folder).unwrap().train.checksum(&mut checksum);
            checksum.finalize()
        };
        let began = checksum();
        assert_eq!(checksum(), began);
        let cat = |name: &str| folder.path().join("train/cat").join(name);
        std::fs::rename(cat("0.png"), cat("00.png")).unwrap();
        let renamed = checksum();
        assert_ne!(renamed, began);
        let longer = [std::fs::read(cat("1.png")).unwrap(), vec![0]].concat();
        std::fs::write(cat("1.png"), longer).unwrap();
        assert_ne!(checksum(), renamed);
    }

    #[test]
    fn a_file_lost_in_training_ends_the_pass_and_is_named() {
        let folder = folder();
        let images = load(&folder).unwrap();
        let loader = training(&images.train);
        let (_, red) = pass(&loader)[0][0];
        let lost = folder.path().join(format!(
            "train/{}/{}.png",
            ["cat", "dog"][usize::from(red >= 60)],
            red / 10 % 6
        ));
        std::fs::remove_file(&lost).unwrap();
        let batches: Vec<_> = loader.iter().collect();
        let (last, before) = batches.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok) && batches.len() <= 3);
        let error = last.as_ref().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: cannot be read: ", lost.display()))
                && error.lines().count() == 1,
            "{error}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_out_if_so_asked() {
        let folder = folder();
        std::fs::write(folder.path().join("train/cat/3.png"), "plain text").unwrap();
        let images = load_readable(&folder).train;
        let loader = training(&images);
        for _ in 0..2 {
            let mut iterator = loader.iter();
            let sizes = (&mut iterator).map(|batch| batch.unwrap().labels.dims()[0]);
            assert_eq!(sizes.sum::<usize>(), 11);
            assert!(iterator.progress().is_completed());
        }
        assert_eq!(images.left_out(), 1);
        assert_eq!(images.subset(5, 0).unwrap().left_out(), 1);
    }

    #[test]
    fn an_epoch_has_as_many_batches_whatever_is_left_out() {
        let folder = folder();
        let images = load_readable(&folder);
        for n in 0..5 {
            std::fs::remove_file(folder.path().join(format!("train/cat/{n}.png"))).unwrap();
        }
        std::fs::remove_file(folder.path().join("val/cat/0.png")).unwrap();
        let (augmentation, device) = (Augmentation::ResizedCropAndFlip, Device::flex());
        let train = images.train.clone();
        let loader = EpochLoader::training(train, 1, augmentation, 3, &device).unwrap();
        let served = pass(&loader);
        assert_eq!(served.len(), 12);
        assert!(served.concat().iter().all(|(_, red)| *red >= 50));

        // An evaluation counts no image twice.
        let evaluation = EpochLoader::evaluation(images.test.clone(), 1, &device).unwrap();
        assert_eq!(pass(&evaluation), [[(1, 200)]]);
        std::fs::remove_file(folder.path().join("val/dog/0.png")).unwrap();
        let batches: Vec<_> = evaluation.iter().collect();
        assert_eq!(batches.len(), 1);
        let error = batches[0].as_ref().unwrap_err().to_string();
        assert_eq!(
            error,
            "none of 2 images can be read; check the folder of images"
        );
    }

    #[test]
    fn a_grey_image_of_16_bits_is_refused_by_its_name() {
        let folder = folder();
        let path = folder.path().join("val/dog/0.png");
        let of_pillow = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/images/sixteen_bits.png"
        );
        std::fs::copy(of_pillow, &path).unwrap();
        let images = load(&folder).unwrap();
        let loader = EpochLoader::evaluation(images.test, 5, &Device::flex()).unwrap();
        let error = loader.iter().next().unwrap().unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{}: a grey image of 16 bits, most of whose shades torchvision makes white; convert it to 8 bits, or \
                 move it elsewhere",
                path.display()
            )
        );
    }

    #[test]
    fn augmentations_are_for_one_kind_of_images() {
        let folder = folder();
        let files = load(&folder).unwrap().train;
        let decoded = Arc::new(Images::new(vec![0; crate::data::IMAGE_BYTES], vec![0]));
        let error = |images: &Arc<Images>, augmentation| {
            let device = Device::flex();
            let loader = EpochLoader::training(images.clone(), 5, augmentation, 3, &device);
            loader.unwrap_err().to_string()
        };
        assert_eq!(
            error(
                &files,
                Augmentation::CropAndFlip(crate::data::Padding::Zero)
            ),
            "a crop of a padded image is for decoded images; use another augmentation for these images"
        );
        assert_eq!(
            error(&decoded, Augmentation::ResizedCropAndFlip),
            "a resized crop is for images in files; use another augmentation for these images"
        );
    }
}
