//! A folder of images of 32×32 pixels, all decoded into memory.
//!
//! Burn's `ImageFolderDataset` decodes an image whenever it is asked for one, in the order in which
//! the file system lists them. This module decodes all images once, on all cores.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::class_folders::{ClassFolders, Files, Noted};
use super::error::DataError;
use super::image_file::{Header, decode};
use super::images::{CHANNELS, IMAGE_BYTES, ImageSet, Images, SIDE};
use super::source::LoadProgress;

/// The folder to test on.
pub(super) const TEST: &str = "test";

/// Classes that a label of one byte can tell apart.
const MOST_CLASSES: usize = 256;

/// Loads `folder/train` and `folder/test`.
///
/// Images of other colour types are converted to 8-bit RGB; an alpha channel is dropped, and so is the
/// low byte of a sample of 16 bits (in a PNM file, the sample is rounded). This is as in Pillow, except
/// that a grey image of 16 bits keeps its shades: Pillow makes white what is above 255.
///
/// # Errors
///
/// Those of [`ClassFolders::list`], and an error that names the file if an image is damaged, or not of
/// 32×32 pixels. Of several bad images, the first is named.
pub(super) fn load(folder: &Path, progress: LoadProgress<'_>) -> Result<ImageSet, DataError> {
    let found = ClassFolders::list(folder, TEST, MOST_CLASSES, &|_, _| {})?;
    let total = found.train.names.len() + found.test.names.len();
    let done = AtomicUsize::new(0);
    let decoded = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let mut turned = Noted::default();
    let train = decode_all(&found.train, &decoded, &mut turned)?;
    let test = decode_all(&found.test, &decoded, &mut turned)?;
    let mut notes = found.notes;
    if let Some(images) = turned.counted(["image", "images"], folder) {
        notes.push(format!(
            "{}: took {images}, as stored, though with an EXIF orientation: it is not applied, as in torchvision",
            folder.display()
        ));
    }
    Ok(ImageSet {
        train: Arc::new(train),
        test: Arc::new(test),
        class_names: found.class_names,
        notes,
    })
}

/// Decodes all `files`, on all cores, and calls `decoded` after each. Notes those that are to be turned.
fn decode_all(
    files: &Files,
    decoded: &(dyn Fn() + Sync),
    turned: &mut Noted,
) -> Result<Images, DataError> {
    let mut pixels = vec![0; files.names.len() * IMAGE_BYTES];
    let images = files
        .names
        .par_iter()
        .zip(pixels.par_chunks_exact_mut(IMAGE_BYTES));
    let are_turned: Vec<Result<bool, DataError>> = images
        .map(|(name, pixels)| {
            let is_turned = decode_planes(&files.folder.join(name), pixels);
            decoded();
            is_turned
        })
        .collect();
    // In order, so that the first bad image is named, whichever thread finds one first.
    for (name, is_turned) in files.names.iter().zip(are_turned) {
        if is_turned? {
            turned.add(&files.folder.join(name));
        }
    }
    // There are no more classes than that.
    let labels = files.labels.iter().map(|label| *label as u8).collect();
    Ok(Images::new(pixels, labels))
}

/// Decodes the file at `path` into `[3, 32, 32]` bytes, and tells whether it is to be turned.
fn decode_planes(path: &Path, pixels: &mut [u8]) -> Result<bool, DataError> {
    let image = decode(path, |header: &Header| {
        if (header.width, header.height) == (SIDE as u32, SIDE as u32) {
            Ok(())
        } else {
            Err(DataError::ImageSize {
                path: path.into(),
                width: header.width,
                height: header.height,
            })
        }
    })?;
    for (channel, plane) in pixels.chunks_exact_mut(SIDE * SIDE).enumerate() {
        let interleaved = image.samples.iter().skip(channel).step_by(CHANNELS);
        for (pixel, value) in plane.iter_mut().zip(interleaved) {
            *pixel = *value;
        }
    }
    Ok(image.turned)
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

    /// The notes on what was loaded.
    fn notes(folder: &tempfile::TempDir, images: &ImageSet) -> Vec<String> {
        let folder = folder.path().to_str().unwrap();
        images
            .notes
            .iter()
            .map(|note| note.replace(folder, "DIR"))
            .collect()
    }

    /// The blue values of all images, in order. They tell the images apart.
    fn blues(images: &Images) -> Vec<u8> {
        (0..images.len())
            .map(|index| images.image(index)[2048])
            .collect()
    }

    fn labels(images: &Images) -> Vec<u16> {
        (0..images.len()).map(|index| images.label(index)).collect()
    }

    #[test]
    fn classes_in_groups_are_numbered_by_their_own_names() {
        let folder = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            save(folder.path(), &format!("{split}/fish/ray/1.png"), 1);
            save(folder.path(), &format!("{split}/fish/trout/1.png"), 3);
            save(folder.path(), &format!("{split}/insects/bee/1.png"), 2);
        }
        let images = load_quietly(&folder).unwrap();
        assert_eq!(images.class_names, ["bee", "ray", "trout"]);
        let grouped = "DIR: no folder in train/ and test/ has an image of its own: the folders in them are the classes";
        assert_eq!(notes(&folder, &images), [grouped]);
        // The last byte is blue.
        let blue = |label| {
            let mut indices = 0..images.train.len();
            let index = indices.find(|&index| images.train.label(index) == label);
            *images.train.image(index.unwrap()).last().unwrap()
        };
        assert_eq!([blue(0), blue(1), blue(2)], [2, 1, 3]);
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
        let passed_over = "DIR: passed over 5 entries, such as labels.txt: hidden, not an image by the extension, or beside train/ and test/";
        assert_eq!(notes(&folder, &images), [passed_over]);

        std::fs::remove_file(folder.path().join("labels.txt")).unwrap();
        std::fs::remove_file(folder.path().join("train/cat/Thumbs.db")).unwrap();
        std::fs::remove_dir(folder.path().join("train/.cache")).unwrap();
        std::fs::remove_file(folder.path().join("train/cat/._1.png")).unwrap();
        let images = load_quietly(&folder).unwrap();
        let passed_over = "DIR: passed over 1 entry, such as test/.DS_Store: hidden, not an image by the extension, or beside train/ and test/";
        assert_eq!(notes(&folder, &images), [passed_over]);
    }

    #[test]
    fn images_of_every_readable_format_are_taken() {
        let folder = folder();
        assert_eq!(load_quietly(&folder).unwrap().notes, [""; 0]);
        for (n, name) in [
            "2.bmp", "3.WEBP", "4.tif", "5.TIFF", "6.ppm", "7.JPG", "8.jpeg",
        ]
        .into_iter()
        .enumerate()
        {
            save(folder.path(), &format!("train/cat/{name}"), n as u8);
        }
        // Named by torchvision, and told by their content.
        for name in ["9.pgm", "a.jfif", "b.jpe", "d.pnm"] {
            let png = folder.path().join("train/cat/1.png");
            std::fs::copy(png, folder.path().join("train/cat").join(name)).unwrap();
        }
        let images = load_quietly(&folder).unwrap();
        assert_eq!(images.train.len(), 2 + 7 + 4);
        assert_eq!(images.notes, [""; 0]);
    }

    #[test]
    fn an_image_of_a_format_that_is_not_read_is_named() {
        for name in ["2.gif", "2.HEIC", "2.avif", "more/2.jxl"] {
            let folder = folder();
            let path = folder.path().join("train/cat").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "anything").unwrap();
            assert_eq!(
                error(&folder),
                format!(
                    "DIR/train/cat/{name}: an image that cannot be read: images with this extension are not \
                     read; convert it to PNG, or move it elsewhere"
                )
            );
        }
    }

    #[test]
    fn images_in_folders_below_a_class_are_of_that_class() {
        let folder = folder();
        save(folder.path(), "train/cat/more/1.png", 30);
        save(folder.path(), "train/cat/more/and/more/1.png", 40);
        // All of its images are below.
        save(folder.path(), "train/eel/a/1.png", 50);
        save(folder.path(), "test/eel/b/1.png", 60);
        let images = load_quietly(&folder).unwrap();
        assert_eq!(images.class_names, ["cat", "dog", "eel"]);
        assert_eq!(blues(&images.train), [10, 30, 40, 20, 50]);
        assert_eq!(labels(&images.train), [0, 0, 0, 1, 2]);
        assert_eq!(blues(&images.test), [11, 21, 60]);
        assert_eq!(images.notes, [""; 0]);
    }

    #[test]
    fn classes_of_which_each_has_one_folder_are_no_groups() {
        let folder = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            save(folder.path(), &format!("{split}/cat/originals/1.png"), 10);
            save(folder.path(), &format!("{split}/dog/originals/1.png"), 20);
        }
        let images = load_quietly(&folder).unwrap();
        assert_eq!(images.class_names, ["cat", "dog"]);
        assert_eq!(blues(&images.train), [10, 20]);
        assert_eq!(images.notes, [""; 0]);
    }

    #[test]
    fn an_image_beside_the_classes_is_named() {
        let folder = folder();
        save(folder.path(), "test/1.png", 0);
        assert_eq!(
            error(&folder),
            "DIR/test/1.png: is an image in no class's folder; move it into that of its class, or elsewhere"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_named_with_its_target() {
        use std::os::unix::fs::symlink;

        for link in ["train/cat/2.png", "train/eel", "test/cat/more"] {
            let folder = folder();
            symlink("/no/such/thing", folder.path().join(link)).unwrap();
            assert_eq!(
                error(&folder),
                format!(
                    "DIR/{link}: is a link that leads nowhere, to /no/such/thing; put the file or folder there, \
                     or remove the link"
                )
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_to_images_and_folders_are_followed_but_not_in_circles() {
        use std::os::unix::fs::symlink;

        let (folder, elsewhere) = (folder(), tempfile::tempdir().unwrap());
        save(elsewhere.path(), "pictures/1.png", 30);
        let pictures = elsewhere.path().join("pictures");
        symlink(&pictures, folder.path().join("train/cat/more")).unwrap();
        symlink(
            pictures.join("1.png"),
            folder.path().join("train/dog/2.png"),
        )
        .unwrap();
        let images = load_quietly(&folder).unwrap();
        assert_eq!(blues(&images.train), [10, 30, 20, 30]);

        symlink("..", folder.path().join("train/cat/parent")).unwrap();
        assert_eq!(
            error(&folder),
            "DIR/train/cat/parent/cat: is a link to a folder that it is in; remove the link"
        );
    }

    #[test]
    fn a_class_is_found_in_either_form_of_unicode() {
        let [composed, decomposed] = ["caf\u{e9}", "cafe\u{301}"];
        for [train, test] in [[composed, decomposed], [decomposed, composed]] {
            let folder = folder();
            // Between the two forms, by their bytes.
            for (split, name, blue) in [("train", train, 30), ("test", test, 40)] {
                save(folder.path(), &format!("{split}/{name}/1.png"), blue);
                save(folder.path(), &format!("{split}/cafu/1.png"), blue + 1);
            }
            let images = load_quietly(&folder).unwrap();

            let label = |images: &Images, blue| {
                let place = blues(images).iter().position(|it| *it == blue);
                images.label(place.unwrap())
            };
            let cafe = label(&images.train, 30);
            assert_eq!(images.class_names[usize::from(cafe)], train);
            assert_eq!(label(&images.test, 40), cafe);
            assert_eq!(label(&images.test, 41), label(&images.train, 31));
            let other_form = images.class_names.iter().map(|name| match name {
                name if name == train => test.to_owned(),
                name => name.clone(),
            });
            assert!(images.has_classes(&other_form.collect::<Vec<_>>()));
            assert!(!images.has_classes(&images.class_names[1..]));
        }
    }

    #[test]
    fn two_classes_of_one_name_are_both_named() {
        let folder = folder();
        for name in ["caf\u{e9}", "cafe\u{301}"] {
            save(folder.path(), &format!("train/{name}/1.png"), 0);
        }
        assert_eq!(
            error(&folder),
            "DIR/train/cafe\u{301} and DIR/train/caf\u{e9} are two classes of the same name; the names are the \
             same text in two forms of Unicode; rename one, or put the images of both into one folder"
        );

        let folder = tempfile::tempdir().unwrap();
        for class in ["fish/cod", "fish/ray", "suns/ray"] {
            for split in ["train", "test"] {
                save(folder.path(), &format!("{split}/{class}/1.png"), 0);
            }
        }
        assert_eq!(
            error(&folder),
            "DIR/train/fish/ray and DIR/train/suns/ray are two classes of the same name; rename one, or put \
             the images of both into one folder"
        );
    }

    #[test]
    fn images_to_be_turned_are_counted() {
        let folder = folder();
        let turned = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images/turned");
        for (extension, place) in [
            ("jpg", "train/dog"),
            ("png", "test/cat"),
            ("tif", "test/cat"),
        ] {
            let file = folder.path().join(place).join(format!("2.{extension}"));
            std::fs::copy(format!("{turned}.{extension}"), file).unwrap();
        }
        let images = load_quietly(&folder).unwrap();
        let turned = "DIR: took 2 images, such as train/dog/2.jpg, as stored, though with an EXIF orientation: it is \
                      not applied, as in torchvision";
        assert_eq!(notes(&folder, &images), [turned]);
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
            "DIR/test/dog: no images: expected at least one .png, .jpg, .bmp, .webp, .tif or .ppm file for the \
             class"
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
            "DIR: class bat is in train/ and not in test/, class eel is in test/ and not in train/; both must \
             have the same classes"
        );
        for number in 0..22 {
            save(folder.path(), &format!("train/bat{number:02}/1.png"), 0);
        }
        let many = error(&folder);
        assert!(
            many.starts_with("DIR: classes bat, bat00, bat01, ")
                && many
                    .contains(", bat18 and 3 more are in train/ and not in test/, class eel is in"),
            "{many}"
        );
    }

    #[test]
    fn a_file_in_the_place_of_a_class_is_named() {
        let folder = folder();
        save(folder.path(), "test/eel/1.png", 0);
        std::fs::write(folder.path().join("train/eel"), "").unwrap();
        assert_eq!(
            error(&folder),
            "DIR/train/eel: is a file, not a folder with the images of that class; put the folder there, or remove \
             the class everywhere"
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
                && truncated.ends_with("; replace it, or move it elsewhere")
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
            "DIR/test/cat/1.png: expected 32x32 pixels, found 32x28; resize it, or move it elsewhere"
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
