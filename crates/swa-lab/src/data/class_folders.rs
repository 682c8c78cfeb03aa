//! The folders of classes in a folder of images, and the files in them: `train/CLASS/` and `test/CLASS/`, as torchvision's
//! `ImageFolder` has them, or with the classes in groups, `train/GROUP/CLASS/` and `test/GROUP/CLASS/`, as in fast.ai's copy of
//! CIFAR-100.
//!
//! A class's images are in its folder and in those below it. If no folder in `train` and `test` has an image of its own, and one
//! has several folders, they are groups, and the folders in them are the classes.
//!
//! Classes are numbered by their names in `train`, and images ordered by theirs, so that the data set is the same on every
//! machine. In `test`, a class is found by its name in whichever of Unicode's forms. Every file whose name is that of an image is
//! taken, or is an error; what is passed over is counted.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::error::DataError;
use super::image_file::Kind;
use super::images::same_name;
use super::source::LoadProgress;

/// The folder to train on.
pub(super) const TRAIN: &str = "train";

/// The image files of a folder, to train and to test on.
pub(super) struct ClassFolders {
    pub(super) train: Files,
    pub(super) test: Files,
    pub(super) class_names: Vec<String>,
    /// Lines for the user about what was found.
    pub(super) notes: Vec<String>,
}

/// Image files in a folder.
#[derive(Debug)]
pub(super) struct Files {
    /// The folder that the names are relative to.
    pub(super) folder: PathBuf,
    /// The files' names, class by class, and in each by name.
    pub(super) names: Vec<Box<Path>>,
    /// The number of bytes of each.
    pub(super) sizes: Vec<u64>,
    /// The class of each.
    pub(super) labels: Vec<u16>,
}

impl ClassFolders {
    /// Lists the images in `folder/train`, and those in the folder beside it that is named `test`. Tells `progress` the number of classes
    /// that are listed, and of all, of both folders.
    ///
    /// # Errors
    ///
    /// Returns an error that names the folder or file if it cannot be read, if the two have no classes, more than `most_classes`,
    /// or different ones, if a class has no image, or if an image is in no class or of no format that can be read.
    pub(super) fn list(
        folder: &Path,
        test: &str,
        most_classes: usize,
        progress: LoadProgress<'_>,
    ) -> Result<Self, DataError> {
        let names = [TRAIN, test];
        let mut passed_over = Noted::default();
        let folders = names.map(|split| folder.join(split));
        for beside in all_entries(folder)? {
            if !folders.contains(&beside) {
                passed_over.add(&beside);
            }
        }
        let [train, test] = &folders;
        let splits = [Split::list(train)?, Split::list(test)?];
        let grouped = are_groups(&splits)?;
        let [train, test] =
            splits.map(|split| split.classes(grouped, most_classes, &mut passed_over));
        let (train, test) = (train?, test?);
        let test = in_the_order_of(folder, names, &train, test)?;
        let class_names = train.iter().map(|class| class.name.clone()).collect();
        let (done, all) = (Cell::new(0), train.len() + test.len());
        let listed = || {
            done.set(done.get() + 1);
            progress(done.get(), all);
        };
        Ok(Self {
            train: Files::list(folder, &train, &mut passed_over, &listed)?,
            test: Files::list(folder, &test, &mut passed_over, &listed)?,
            class_names,
            notes: notes(folder, names, grouped, &passed_over),
        })
    }
}

/// Some paths, counted.
#[derive(Default)]
pub(super) struct Noted {
    count: usize,
    example: PathBuf,
}

impl Noted {
    pub(super) fn add(&mut self, path: &Path) {
        if self.count == 0 {
            self.example = path.into();
        }
        self.count += 1;
    }

    /// The number of these paths, and one of them, all in `folder`; nothing if there are none.
    pub(super) fn counted(&self, [one, several]: [&str; 2], folder: &Path) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let example = self.example.strip_prefix(folder).unwrap_or(&self.example);
        let what = if self.count == 1 { one } else { several };
        Some(format!(
            "{} {what}, such as {}",
            self.count,
            example.display()
        ))
    }
}

/// The lines for the user about what was found.
fn notes(
    folder: &Path,
    [train, test]: [&str; 2],
    grouped: bool,
    passed_over: &Noted,
) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |text: String| notes.push(format!("{}: {text}", folder.display()));
    if grouped {
        note(format!(
            "no folder in {train}/ and {test}/ has an image of its own: the folders in them are the classes"
        ));
    }
    if let Some(entries) = passed_over.counted(["entry", "entries"], folder) {
        note(format!(
            "passed over {entries}: hidden, not an image by the extension, or beside {train}/ and {test}/"
        ));
    }
    notes
}

/// The names of the entries of `folder` that are not hidden, sorted.
pub(super) fn entries(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut paths = all_entries(folder)?;
    paths.retain(|path| !is_hidden(path));
    let names = paths.iter().filter_map(|path| path.file_name());
    Ok(names
        .map(|name| name.to_string_lossy().into_owned())
        .collect())
}

/// The first `shown` of these names, and the number of the others.
fn first_of(names: &[String], shown: usize) -> String {
    match names.len().checked_sub(shown) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..shown].join(", ")),
    }
}

/// The first of these names.
pub(super) fn in_words(names: &[String]) -> String {
    /// The number of names that are said.
    const SHOWN: usize = 5;

    match names {
        [] => "nothing".into(),
        names => first_of(names, SHOWN),
    }
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
    /// The images, and the number of bytes of each.
    images: Vec<(PathBuf, u64)>,
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
                Kind::Image if metadata.is_file() => {
                    content.images.push((path, metadata.len()));
                }
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
            Some((path, _)) => Err(DataError::ImageWithoutClass { path: path.clone() }),
            None => Ok(Self {
                folder: folder.into(),
                content,
            }),
        }
    }

    /// The classes, sorted by name.
    fn classes(
        self,
        grouped: bool,
        most: usize,
        passed_over: &mut Noted,
    ) -> Result<Vec<Class>, DataError> {
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
            found if found > most => Err(DataError::TooManyClasses {
                path: self.folder,
                found,
                most,
            }),
            _ => {
                check_names(&classes)?;
                Ok(classes)
            }
        }
    }
}

/// Checks that no two classes have the same name.
fn check_names(classes: &[Class]) -> Result<(), DataError> {
    let mut seen = HashMap::new();
    for class in classes {
        let name: String = class.name.nfc().collect();
        if let Some(first) = seen.insert(name, class) {
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
    [in_train, in_test]: [&str; 2],
    train: &[Class],
    mut test: Vec<Class>,
) -> Result<Vec<Class>, DataError> {
    let (mut ordered, mut only_in_train) = (Vec::new(), Vec::new());
    for class in train {
        match test.iter().position(|it| same_name(&it.name, &class.name)) {
            Some(place) => ordered.push(test.remove(place)),
            None => only_in_train.push(class.name.clone()),
        }
    }
    let only_in_test: Vec<String> = test.into_iter().map(|class| class.name).collect();
    for (names, absent) in [(&only_in_train, in_test), (&only_in_test, in_train)] {
        for name in names {
            let path = folder.join(absent).join(name);
            if path.is_file() {
                return Err(DataError::ClassIsAFile { path });
            }
        }
    }
    if only_in_train.is_empty() && only_in_test.is_empty() {
        return Ok(ordered);
    }
    Err(DataError::ClassesDiffer {
        path: folder.into(),
        differences: [
            difference(&only_in_train, in_train, in_test),
            difference(&only_in_test, in_test, in_train),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", "),
    })
}

/// The classes that are in one folder only, in words.
fn difference(names: &[String], present: &str, absent: &str) -> Option<String> {
    /// The number of names that the message has.
    const SHOWN: usize = 20;

    let (classes, are) = match names.len() {
        0 => return None,
        1 => ("class", "is"),
        _ => ("classes", "are"),
    };
    Some(format!(
        "{classes} {} {are} in {present}/ and not in {absent}/",
        first_of(names, SHOWN)
    ))
}

impl Files {
    /// The image files of all `classes`, class by class. Calls `listed` after each.
    fn list(
        folder: &Path,
        classes: &[Class],
        passed_over: &mut Noted,
        listed: &dyn Fn(),
    ) -> Result<Self, DataError> {
        let mut files = Self {
            folder: folder.into(),
            names: Vec::new(),
            sizes: Vec::new(),
            labels: Vec::new(),
        };
        for (label, class) in classes.iter().enumerate() {
            let before = files.names.len();
            files.add(&class.folder, &mut Vec::new(), passed_over)?;
            if files.names.len() == before {
                return Err(DataError::EmptyClass {
                    path: class.folder.clone(),
                });
            }
            files.labels.resize(files.names.len(), label as u16);
            listed();
        }
        Ok(files)
    }

    /// Adds the images in `folder`, and then those in the folders in it. `within` are the folders that it is in.
    fn add(
        &mut self,
        folder: &Path,
        within: &mut Vec<PathBuf>,
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
        for (path, size) in content.images {
            let name = path.strip_prefix(&self.folder).unwrap_or(&path);
            self.names.push(name.into());
            self.sizes.push(size);
        }
        content.others.iter().for_each(|path| passed_over.add(path));
        within.push(real);
        for inner in content.folders {
            self.add(&inner, within, passed_over)?;
        }
        within.pop();
        Ok(())
    }
}
