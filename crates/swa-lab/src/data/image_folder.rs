//! A folder of images: `train/CLASS/` and `test/CLASS/`, as torchvision's `ImageFolder` has them, or with the classes in groups,
//! `train/GROUP/CLASS/` and `test/GROUP/CLASS/`, as in fast.ai's copy of CIFAR-100.
//!
//! A class's images are in its folder and in those below it. If no folder in `train` and `test` has an image of its own, and one
//! has several folders, they are groups, and the folders in them are the classes.
//!
//! Classes are numbered by their names in `train`, and images ordered by theirs, so that the data set is the same on every
//! machine. In `test`, a class is found by its name in whichever of Unicode's forms. Every file whose name is that of an image is
//! taken, or is an error; what is passed over is counted.
//!
//! Burn's `ImageFolderDataset` decodes an image whenever it is asked for one, in the order in which
//! the file system lists them. This module decodes all images once, on all cores.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::DataError;
use super::image_file::{Kind, decode};
use super::images::{IMAGE_BYTES, ImageSet, Images, same_name};
use super::source::LoadProgress;

/// The folder to train on.
pub(super) const TRAIN: &str = "train";

/// The folder to test on.
pub(super) const TEST: &str = "test";

/// Classes that a label of one byte can tell apart.
const MAX_CLASSES: usize = 256;

/// Loads `folder/train` and `folder/test`.
///
/// Images of other colour types are converted to 8-bit RGB; an alpha channel is dropped, and so is the
/// low byte of a sample of 16 bits (in a PNM file, the sample is rounded). This is as in Pillow, except
/// that a grey image of 16 bits keeps its shades: Pillow makes white what is above 255.
///
/// # Errors
///
/// Returns an error that names the folder or file if it cannot be read, if `train` and `test` have
/// no classes or different ones, if a class has no image, or if an image is in no class, of no
/// format that can be read, damaged, or not of 32×32 pixels. Of several bad images, the first is
/// named.
pub(super) fn load(folder: &Path, progress: LoadProgress<'_>) -> Result<ImageSet, DataError> {
    let mut passed_over = Noted::default();
    let [train, test] = [TRAIN, TEST].map(|split| folder.join(split));
    for beside in all_entries(folder)? {
        if beside != train && beside != test {
            passed_over.add(&beside);
        }
    }
    let splits = [Split::list(&train)?, Split::list(&test)?];
    let grouped = are_groups(&splits)?;
    let [train, test] = splits.map(|split| split.classes(grouped, &mut passed_over));
    let (train, test) = (train?, test?);
    let test = in_the_order_of(folder, &train, test)?;
    let class_names = train.iter().map(|class| class.name.clone()).collect();
    let train = Files::list(&train, &mut passed_over)?;
    let test = Files::list(&test, &mut passed_over)?;

    let total = train.paths.len() + test.paths.len();
    let done = AtomicUsize::new(0);
    let decoded = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let mut turned = Noted::default();
    let train = train.decode(&decoded, &mut turned)?;
    let test = test.decode(&decoded, &mut turned)?;
    Ok(ImageSet {
        train: Arc::new(train),
        test: Arc::new(test),
        class_names,
        notes: notes(folder, grouped, &passed_over, &turned),
    })
}

/// Some paths, counted.
#[derive(Default)]
struct Noted {
    count: usize,
    example: PathBuf,
}

impl Noted {
    fn add(&mut self, path: &Path) {
        if self.count == 0 {
            self.example = path.into();
        }
        self.count += 1;
    }

    /// The number of these paths, and one of them, all in `folder`.
    fn counted(&self, [one, several]: [&str; 2], folder: &Path) -> String {
        let example = self.example.strip_prefix(folder).unwrap_or(&self.example);
        let what = if self.count == 1 { one } else { several };
        format!("{} {what}, such as {}", self.count, example.display())
    }
}

/// The lines for the user about what was loaded.
fn notes(folder: &Path, grouped: bool, passed_over: &Noted, turned: &Noted) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |text: String| notes.push(format!("{}: {text}", folder.display()));
    if grouped {
        note(format!(
            "no folder in {TRAIN}/ and {TEST}/ has an image of its own: the folders in them are the classes"
        ));
    }
    if passed_over.count > 0 {
        let entries = passed_over.counted(["entry", "entries"], folder);
        note(format!(
            "passed over {entries}: hidden, not an image by the extension, or beside {TRAIN}/ and {TEST}/"
        ));
    }
    if turned.count > 0 {
        let images = turned.counted(["image", "images"], folder);
        note(format!(
            "took {images}, as stored, though with an EXIF orientation: it is not applied, as in torchvision"
        ));
    }
    notes
}

/// The entries of `folder` that are not hidden, sorted by name.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = all_entries(folder)?;
    paths.retain(|path| !is_hidden(path));
    Ok(paths)
}

fn all_entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: folder.into(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

/// The content of a folder, in the order of the names.
#[derive(Default)]
struct Content {
    folders: Vec<PathBuf>,
    images: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl Content {
    fn of(folder: &Path) -> Result<Self, DataError> {
        let mut content = Self::default();
        for path in all_entries(folder)? {
            if is_hidden(&path) {
                content.others.push(path);
                continue;
            }
            let unreadable = |source| DataError::Unreadable {
                path: path.clone(),
                source,
            };
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                    let target = fs::read_link(&path).map_err(unreadable)?;
                    return Err(DataError::BrokenLink { path, target });
                }
                Err(error) => return Err(unreadable(error)),
            };
            match Kind::of(&path) {
                _ if metadata.is_dir() => content.folders.push(path),
                Kind::Other => content.others.push(path),
                Kind::ImageNotRead => {
                    return Err(DataError::UnsupportedImage {
                        path,
                        reason: "images with this extension are not read".to_owned(),
                    });
                }
                Kind::Image if metadata.is_file() => content.images.push(path),
                Kind::Image => return Err(unreadable(io::Error::other("it is no file"))),
            }
        }
        Ok(content)
    }
}

/// `train` or `test`.
struct Split {
    folder: PathBuf,
    content: Content,
}

/// A class, in a folder of its name.
struct Class {
    name: String,
    folder: PathBuf,
}

/// Tells whether the folders in `train` and `test` are groups of classes: none has an image of its own, and one has several folders.
/// (A class whose images are all in one folder below it is no group.)
fn are_groups(splits: &[Split; 2]) -> Result<bool, DataError> {
    let mut any = false;
    for folder in splits.iter().flat_map(|split| &split.content.folders) {
        let content = Content::of(folder)?;
        if !content.images.is_empty() {
            return Ok(false);
        }
        any |= content.folders.len() > 1;
    }
    Ok(any)
}

impl Split {
    fn list(folder: &Path) -> Result<Self, DataError> {
        let content = Content::of(folder)?;
        match content.images.first() {
            Some(path) => Err(DataError::ImageWithoutClass { path: path.clone() }),
            None => Ok(Self {
                folder: folder.into(),
                content,
            }),
        }
    }

    /// The classes, sorted by name.
    fn classes(self, grouped: bool, passed_over: &mut Noted) -> Result<Vec<Class>, DataError> {
        let mut pass_over = |others: &[PathBuf]| others.iter().for_each(|it| passed_over.add(it));
        pass_over(&self.content.others);
        let mut folders = Vec::new();
        for folder in self.content.folders {
            let inner = if grouped {
                Content::of(&folder)?
            } else {
                Content::default()
            };
            if inner.folders.is_empty() {
                // A group without classes is one without images.
                folders.push(folder);
            } else {
                pass_over(&inner.others);
                folders.extend(inner.folders);
            }
        }
        let mut classes: Vec<Class> = folders
            .into_iter()
            .map(|folder| {
                let name = folder.file_name().unwrap_or_default();
                Class {
                    name: name.to_string_lossy().into_owned(),
                    folder,
                }
            })
            .collect();
        classes.sort_by(|one, other| one.name.cmp(&other.name));
        match classes.len() {
            0 => Err(DataError::NoClasses { path: self.folder }),
            1..=MAX_CLASSES => {
                check_names(&classes)?;
                Ok(classes)
            }
            found => Err(DataError::TooManyClasses {
                path: self.folder,
                found,
            }),
        }
    }
}

/// Checks that no two classes have the same name.
fn check_names(classes: &[Class]) -> Result<(), DataError> {
    for (index, class) in classes.iter().enumerate() {
        let mut before = classes[..index].iter();
        if let Some(first) = before.find(|other| same_name(&other.name, &class.name)) {
            return Err(DataError::SameClass {
                first: first.folder.clone(),
                second: class.folder.clone(),
                hint: if first.name == class.name {
                    ""
                } else {
                    "; the names are the same text in two forms of Unicode"
                },
            });
        }
    }
    Ok(())
}

/// The classes to test on, in the order of those to train on, which have the same names.
fn in_the_order_of(
    folder: &Path,
    train: &[Class],
    mut test: Vec<Class>,
) -> Result<Vec<Class>, DataError> {
    let differ = |class: &Class, present, absent| DataError::ClassesDiffer {
        path: folder.into(),
        class: class.name.clone(),
        present,
        absent,
    };
    let mut ordered = Vec::new();
    for class in train {
        let place = test.iter().position(|it| same_name(&it.name, &class.name));
        let place = place.ok_or_else(|| differ(class, TRAIN, TEST))?;
        ordered.push(test.remove(place));
    }
    match test.first() {
        None => Ok(ordered),
        Some(class) => Err(differ(class, TEST, TRAIN)),
    }
}

/// Image files and their labels.
struct Files {
    paths: Vec<PathBuf>,
    labels: Vec<u8>,
}

impl Files {
    /// The image files of all `classes`, class by class.
    fn list(classes: &[Class], passed_over: &mut Noted) -> Result<Self, DataError> {
        let (mut paths, mut labels) = (Vec::new(), Vec::new());
        for (label, class) in classes.iter().enumerate() {
            let before = paths.len();
            list_images(&class.folder, &mut Vec::new(), &mut paths, passed_over)?;
            if paths.len() == before {
                return Err(DataError::EmptyClass {
                    path: class.folder.clone(),
                });
            }
            labels.resize(paths.len(), label as u8);
        }
        Ok(Self { paths, labels })
    }

    /// Decodes all files, on all cores, and calls `decoded` after each. Notes those that are to be turned.
    fn decode(self, decoded: &(dyn Fn() + Sync), turned: &mut Noted) -> Result<Images, DataError> {
        let mut pixels = vec![0; self.paths.len() * IMAGE_BYTES];
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.paths.len().div_ceil(threads);
        let decode_share = |(paths, pixels): (&[PathBuf], &mut [u8])| {
            let mut turned = Vec::new();
            for (path, pixels) in paths.iter().zip(pixels.chunks_exact_mut(IMAGE_BYTES)) {
                if decode(path, pixels)? {
                    turned.push(path.clone());
                }
                decoded();
            }
            Ok(turned)
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
                let of_share = worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                of_share.iter().for_each(|path| turned.add(path));
                Ok(())
            })
        })?;
        Ok(Images::new(pixels, self.labels))
    }
}

/// Lists the images in `folder`, and then those in the folders in it. `within` are the folders that it is in.
fn list_images(
    folder: &Path,
    within: &mut Vec<PathBuf>,
    images: &mut Vec<PathBuf>,
    passed_over: &mut Noted,
) -> Result<(), DataError> {
    let real = folder
        .canonicalize()
        .map_err(|source| DataError::Unreadable {
            path: folder.into(),
            source,
        })?;
    if within.contains(&real) {
        return Err(DataError::LinkToItself {
            path: folder.into(),
        });
    }
    let content = Content::of(folder)?;
    images.extend(content.images);
    content.others.iter().for_each(|path| passed_over.add(path));
    within.push(real);
    for inner in content.folders {
        list_images(&inner, within, images, passed_over)?;
    }
    within.pop();
    Ok(())
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

    fn labels(images: &Images) -> Vec<u8> {
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
