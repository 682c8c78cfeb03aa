//! A folder of images: `train/CLASS/*.{png,jpg,jpeg}` and `test/CLASS/*`, or with the classes in groups,
//! `train/GROUP/CLASS/*` and `test/GROUP/CLASS/*`, as in fast.ai's copy of CIFAR-100.
//!
//! Classes are numbered, and images ordered, by name, so that the data set is the same on every
//! machine. Hidden files and files of other kinds are ignored.
//!
//! Burn's `ImageFolderDataset` decodes an image whenever it is asked for one, in the order in which
//! the file system lists them. This module decodes all images once, on all cores.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, ImageDecoder, ImageReader};

use super::error::DataError;
use super::images::{CHANNELS, IMAGE_BYTES, ImageSet, Images, SIDE};
use super::source::LoadProgress;

/// The folder to train on.
pub(super) const TRAIN: &str = "train";

/// The folder to test on.
pub(super) const TEST: &str = "test";

/// File name extensions of images, in lower case.
const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Classes that a label of one byte can tell apart.
const MAX_CLASSES: usize = 256;

/// Loads `folder/train` and `folder/test`.
///
/// Images of other colour types are converted to 8-bit RGB; an alpha channel is dropped.
///
/// # Errors
///
/// Returns an error that names the folder or file if it cannot be read, if `train` and `test` have
/// no classes or different ones, if a class has no image, or if an image cannot be decoded or is
/// not of 32×32 pixels. Of several bad images, the first is named.
pub(super) fn load(folder: &Path, progress: LoadProgress<'_>) -> Result<ImageSet, DataError> {
    let train = classes(&folder.join(TRAIN))?;
    let test = classes(&folder.join(TEST))?;
    check_same_classes(folder, &train, &test)?;
    let class_names = train.iter().map(|class| class.name.clone()).collect();
    let train = Files::list(&train)?;
    let test = Files::list(&test)?;

    let total = train.paths.len() + test.paths.len();
    let done = AtomicUsize::new(0);
    let decoded = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    Ok(ImageSet {
        train: Arc::new(train.decode(&decoded)?),
        test: Arc::new(test.decode(&decoded)?),
        class_names,
    })
}

/// The entries of `folder` that are not hidden, sorted by name.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: folder.into(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// A class, in a folder of its name.
struct Class {
    name: String,
    folder: PathBuf,
}

/// The classes in `folder`, sorted by name: the folders in it. A folder that holds folders but no
/// image is a group, and its folders are the classes.
fn classes(folder: &Path) -> Result<Vec<Class>, DataError> {
    let folders = |folder: &Path| -> Result<Vec<PathBuf>, DataError> {
        let mut paths = entries(folder)?;
        paths.retain(|path| path.is_dir());
        Ok(paths)
    };
    let mut classes = Vec::new();
    for inner in folders(folder)? {
        let has_images = entries(&inner)?.iter().any(|path| is_image(path));
        let grouped = if has_images {
            Vec::new()
        } else {
            folders(&inner)?
        };
        if grouped.is_empty() {
            classes.push(inner)
        } else {
            classes.extend(grouped)
        }
    }
    let name = |folder: &PathBuf| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut classes: Vec<Class> = classes
        .into_iter()
        .map(|folder| Class {
            name: name(&folder),
            folder,
        })
        .collect();
    classes.sort_by(|one, other| one.name.cmp(&other.name));
    match classes.len() {
        0 => Err(DataError::NoClasses {
            path: folder.into(),
        }),
        1..=MAX_CLASSES => Ok(classes),
        found => Err(DataError::TooManyClasses {
            path: folder.into(),
            found,
        }),
    }
}

/// Checks that the classes to test on are those to train on.
fn check_same_classes(folder: &Path, train: &[Class], test: &[Class]) -> Result<(), DataError> {
    let first_missing = |from: &[Class], of: &[Class]| {
        let missing = |class: &&Class| from.iter().all(|other| other.name != class.name);
        of.iter().find(missing).map(|class| class.name.clone())
    };
    let (class, present, absent) = match (first_missing(test, train), first_missing(train, test)) {
        (Some(class), _) => (class, TRAIN, TEST),
        (None, Some(class)) => (class, TEST, TRAIN),
        (None, None) => return Ok(()),
    };
    Err(DataError::ClassesDiffer {
        path: folder.into(),
        class,
        present,
        absent,
    })
}

/// Image files and their labels.
struct Files {
    paths: Vec<PathBuf>,
    labels: Vec<u8>,
}

impl Files {
    /// The image files of all `classes`, class by class.
    fn list(classes: &[Class]) -> Result<Self, DataError> {
        let (mut paths, mut labels) = (Vec::new(), Vec::new());
        for (label, class) in classes.iter().enumerate() {
            let before = paths.len();
            let files = entries(&class.folder)?;
            paths.extend(files.into_iter().filter(|path| is_image(path)));
            if paths.len() == before {
                return Err(DataError::EmptyClass {
                    path: class.folder.clone(),
                });
            }
            labels.resize(paths.len(), label as u8);
        }
        Ok(Self { paths, labels })
    }

    /// Decodes all files, on all cores, and calls `decoded` after each.
    fn decode(self, decoded: &(dyn Fn() + Sync)) -> Result<Images, DataError> {
        let mut pixels = vec![0; self.paths.len() * IMAGE_BYTES];
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.paths.len().div_ceil(threads);
        let decode_share = |(paths, pixels): (&[PathBuf], &mut [u8])| {
            for (path, pixels) in paths.iter().zip(pixels.chunks_exact_mut(IMAGE_BYTES)) {
                decode_image(path, pixels)?;
                decoded();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let shares = self.paths.chunks(share);
            let workers: Vec<_> = shares
                .zip(pixels.chunks_mut(share * IMAGE_BYTES))
                .map(|share| scope.spawn(move || decode_share(share)))
                .collect();
            // Joined in order, so that the first bad image is named, whichever thread finds one
            // first.
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(Images::new(pixels, self.labels))
    }
}

/// Tells whether the path is that of an image, by its file name.
fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|extension| {
            EXTENSIONS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(extension))
        })
        && path.is_file()
}

/// Decodes one file into `[3, 32, 32]` bytes. Its size is checked before its pixels are decoded.
fn decode_image(path: &Path, pixels: &mut [u8]) -> Result<(), DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.into(),
        source,
    };
    let undecodable = |error: image::ImageError| DataError::UnreadableImage {
        path: path.into(),
        reason: one_line(&error.to_string()),
    };
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    let decoder = ImageReader::new(file)
        .with_guessed_format()
        .map_err(unreadable)?
        .into_decoder()
        .map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (SIDE as u32, SIDE as u32) {
        return Err(DataError::ImageSize {
            path: path.into(),
            width,
            height,
        });
    }
    let image = DynamicImage::from_decoder(decoder)
        .map_err(undecodable)?
        .into_rgb8();
    for (channel, plane) in pixels.chunks_exact_mut(SIDE * SIDE).enumerate() {
        let interleaved = image.as_raw().iter().skip(channel).step_by(CHANNELS);
        for (pixel, value) in plane.iter_mut().zip(interleaved) {
            *pixel = *value;
        }
    }
    Ok(())
}

/// `text` without its line breaks.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use image::RgbImage;

    /// Saves an image whose pixels encode where they are: red the row, green the column, blue
    /// `blue`.
    fn save(folder: &Path, file: &str, blue: u8) {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = RgbImage::from_fn(32, 32, |x, y| image::Rgb([y as u8, x as u8, blue]));
        image.save(path).unwrap();
    }

    /// Two classes with an image each, to train and to test on.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (n, split) in ["train", "test"].into_iter().enumerate() {
            save(folder.path(), &format!("{split}/cat/1.png"), 10 + n as u8);
            save(folder.path(), &format!("{split}/dog/1.png"), 20 + n as u8);
        }
        folder
    }

    fn load_quietly(folder: &tempfile::TempDir) -> Result<ImageSet, DataError> {
        load(folder.path(), &|_, _| {})
    }

    fn error(folder: &tempfile::TempDir) -> String {
        let error = load_quietly(folder).unwrap_err().to_string();
        error.replace(folder.path().to_str().unwrap(), "DIR")
    }

    /// The blue values of all images, in order. They tell the images apart.
    fn blues(images: &Images) -> Vec<u8> {
        (0..images.len())
            .map(|index| images.image(index)[2048])
            .collect()
    }

    fn labels(images: &Images) -> Vec<u8> {
        (0..images.len()).map(|index| images.label(index)).collect()
    }

    #[test]
    fn classes_in_groups_are_numbered_by_their_own_names() {
        let folder = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            save(folder.path(), &format!("{split}/fish/ray/1.png"), 1);
            save(folder.path(), &format!("{split}/insects/bee/1.png"), 2);
        }
        let images = load_quietly(&folder).unwrap();
        assert_eq!(images.class_names, ["bee", "ray"]);
        // The last byte is blue.
        let blue = |label| {
            let mut indices = 0..images.train.len();
            let index = indices.find(|&index| images.train.label(index) == label);
            *images.train.image(index.unwrap()).last().unwrap()
        };
        assert_eq!([blue(0), blue(1)], [2, 1]);
    }

    #[test]
    fn classes_and_images_are_sorted_by_name() {
        let folder = folder();
        save(folder.path(), "train/ant/b.png", 3);
        save(folder.path(), "train/ant/a.PNG", 2);
        save(folder.path(), "train/ant/B.png", 1);
        save(folder.path(), "test/ant/a.png", 4);
        let images = load_quietly(&folder).unwrap();
        assert_eq!(images.class_names, ["ant", "cat", "dog"]);
        assert_eq!(blues(&images.train), [1, 2, 3, 10, 20]);
        assert_eq!(labels(&images.train), [0, 0, 0, 1, 2]);
        assert_eq!(blues(&images.test), [4, 11, 21]);
        assert_eq!(labels(&images.test), [0, 1, 2]);
    }

    #[test]
    fn pixels_are_planes_of_rows() {
        let images = load_quietly(&folder()).unwrap();
        let image = images.train.image(1);
        // Row 2, column 5, in the planes red, green and blue.
        assert_eq!([image[69], image[1024 + 69], image[2048 + 69]], [2, 5, 20]);
    }

    #[test]
    fn a_jpeg_and_a_png_of_one_image_differ_by_its_compression_only() {
        let folder = folder();
        save(folder.path(), "train/cat/2.jpg", 10);
        save(folder.path(), "train/cat/3.jpeg", 10);
        let images = load_quietly(&folder).unwrap().train;
        assert_eq!(images.len(), 4);
        for jpeg in [1, 2] {
            let pairs = images.image(0).iter().zip(images.image(jpeg));
            assert!(
                pairs
                    .map(|(png, jpeg)| png.abs_diff(*jpeg))
                    .all(|difference| difference < 12)
            );
        }
    }

    #[test]
    fn grey_images_have_three_equal_planes() {
        let folder = folder();
        let path = folder.path().join("train/cat/1.png");
        image::GrayImage::from_pixel(32, 32, image::Luma([77]))
            .save(path)
            .unwrap();
        assert_eq!(
            load_quietly(&folder).unwrap().train.image(0),
            [77; IMAGE_BYTES]
        );
    }

    #[test]
    fn other_files_and_hidden_ones_are_passed_over() {
        let folder = folder();
        for file in [
            "labels.txt",
            "train/cat/Thumbs.db",
            "train/cat/._1.png",
            "test/.DS_Store",
        ] {
            std::fs::write(folder.path().join(file), "not an image").unwrap();
        }
        std::fs::create_dir(folder.path().join("train/.cache")).unwrap();
        let images = load_quietly(&folder).unwrap();
        assert_eq!((images.train.len(), images.class_names.len()), (2, 2));
    }

    #[test]
    fn progress_counts_every_image_once() {
        let calls = std::sync::Mutex::new(Vec::new());
        load(folder().path(), &|done, total| {
            calls.lock().unwrap().push((done, total))
        })
        .unwrap();
        let mut calls = calls.into_inner().unwrap();
        calls.sort_unstable();
        assert_eq!(calls, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    }

    #[test]
    fn an_empty_class_is_named() {
        let folder = folder();
        std::fs::rename(
            folder.path().join("test/dog/1.png"),
            folder.path().join("test/dog/1.txt"),
        )
        .unwrap();
        assert_eq!(
            error(&folder),
            "DIR/test/dog: no images: expected at least one .png, .jpg or .jpeg file for the class"
        );
    }

    #[test]
    fn a_class_that_only_one_side_has_is_named() {
        let folder = folder();
        save(folder.path(), "test/eel/1.png", 0);
        assert_eq!(
            error(&folder),
            "DIR: class eel is in test/ and not in train/; both must have the same classes"
        );
        save(folder.path(), "train/bat/1.png", 0);
        assert_eq!(
            error(&folder),
            "DIR: class bat is in train/ and not in test/; both must have the same classes"
        );
    }

    #[test]
    fn a_folder_without_classes_is_named() {
        let folder = folder();
        std::fs::remove_dir_all(folder.path().join("train")).unwrap();
        std::fs::create_dir(folder.path().join("train")).unwrap();
        assert_eq!(
            error(&folder),
            "DIR/train: no classes: expected a folder of images for each class"
        );
    }

    #[test]
    fn an_unreadable_image_is_named_with_the_reason() {
        let folder = folder();
        let path = folder.path().join("train/dog/1.png");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let truncated = error(&folder);
        assert!(
            truncated.starts_with("DIR/train/dog/1.png: not a readable image: ")
                && truncated.ends_with("; replace or delete it")
                && truncated.lines().count() == 1,
            "{truncated}"
        );

        std::fs::write(&path, "plain text").unwrap();
        let text = error(&folder);
        assert!(
            text.starts_with("DIR/train/dog/1.png: not a readable image: "),
            "{text}"
        );
    }

    #[test]
    fn an_image_of_another_size_is_named_with_both_sizes() {
        let folder = folder();
        RgbImage::new(32, 28)
            .save(folder.path().join("test/cat/1.png"))
            .unwrap();
        assert_eq!(
            error(&folder),
            "DIR/test/cat/1.png: expected 32x32 pixels, found 32x28; resize or delete it"
        );
    }

    #[test]
    fn of_several_bad_images_the_first_is_named() {
        let folder = folder();
        for n in 2..40 {
            std::fs::write(folder.path().join(format!("train/cat/{n:02}.png")), "bad").unwrap();
        }
        assert!(error(&folder).starts_with("DIR/train/cat/02.png: "));
    }
}
