//! The images of a run: loaded with progress on the screen, and known again when it is resumed.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::Failure;
use crate::data::{DataSource, ImageSet, View};
use crate::output::say;
use crate::run::model_file::given_of;
use crate::run::progress::Progress;

/// Loads what `--data` names, and shows how far it is, and what there is to note about it. With a `view`, that is a folder of images
/// of any size.
///
/// # Errors
///
/// [`DataError`](crate::data::DataError), of one line, or [`ConfigError`](super::config::ConfigError) for an invalid view.
pub fn load_images(
    data: &str,
    view: Option<View>,
    progress: &Progress,
) -> Result<ImageSet, Failure> {
    let (mut progress, label) = match view {
        None => (progress.clone(), "loading"),
        Some(_) => (Progress::of_classes(), "listing"),
    };
    progress.begin(label, 0);
    let shown = Mutex::new(progress.clone());
    let show = |done, total| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.set_total(total);
        shown.set(done);
    };
    let images = match view {
        None => data.parse::<DataSource>()?.load(&show),
        Some(view) => {
            view.validate()?;
            ImageSet::of_files(Path::new(data), view, &show)
        }
    };
    progress.end();
    let images = images?;
    images.notes.iter().for_each(say);
    Ok(images)
}

/// The origin of a network, a run or a file, and what it says about its images.
pub struct Origin<'a> {
    /// The run's folder, or the file.
    pub path: &'a Path,
    /// The location of a run's images.
    pub data: Option<&'a str>,
    /// The way in which the network sees images of any size, if it does.
    pub view: Option<View>,
}

/// Loads the images of networks that are looked at together: those at `given`, or else the runs' own. Returns their location, too.
///
/// # Errors
///
/// If the runs have theirs in different places, or the networks see images differently, or those of [`load_images`].
pub fn load_common_images(
    given: Option<&str>,
    origins: &[Origin<'_>],
    progress: &Progress,
) -> Result<(String, ImageSet), Failure> {
    let first = origins.first().ok_or("there is no network")?;
    let mut others = origins.iter();
    if let Some(other) = others.find(|other| !View::score_alike(first.view, other.view)) {
        return Err(format!(
            "the network in {} is given {}, and that in {} {}: name networks that are given the same",
            first.path.display(),
            given_of(first.view),
            other.path.display(),
            given_of(other.view),
        )
        .into());
    }
    let mut known = origins.iter().filter_map(|it| Some((it.path, it.data?)));
    let data = match (given, known.next()) {
        (Some(given), _) => given,
        (None, None) if first.view.is_some() => {
            return Err(
                "say with --data where the images are: a folder with train/CLASS/* and val/CLASS/*"
                    .into(),
            );
        }
        (None, None) => "synthetic",
        (None, Some((path, data))) => match known.find(|(_, other)| !is_same_place(other, data)) {
            None => data,
            Some((other_path, other)) => {
                return Err(format!(
                    "{} is of {data} and {} of {other}: say with --data on which images to score them",
                    path.display(),
                    other_path.display(),
                )
                .into());
            }
        },
    };
    let view = first.view.map(|view| View {
        skip_unreadable: origins
            .iter()
            .any(|it| it.view.is_some_and(|view| view.skip_unreadable)),
        ..view
    });
    Ok((data.to_owned(), load_images(data, view, progress)?))
}

/// Tells whether two locations of images are the same, or lead to the same folder.
fn is_same_place(one: &str, other: &str) -> bool {
    let folders = [one, other].map(std::fs::canonicalize);
    one == other || matches!(folders, [Ok(one), Ok(other)] if one == other)
}

/// The images of a run, as `images.json` holds them, so that they are known again wherever they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImagesRecord {
    /// The number of images that it trains on.
    train: usize,
    /// The number of images that it is scored on.
    scored: usize,
    /// The names of their classes, in Unicode's composed form (NFC): file systems differ in it.
    class_names: Vec<String>,
    /// The CRC-32 of all their pixels and labels, in order; of images in files, of the files' names and sizes and their labels.
    checksum: u32,
}

impl ImagesRecord {
    pub(crate) fn of(images: &ImageSet) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        for part in [&images.train, &images.test] {
            part.checksum(&mut checksum);
        }
        Self {
            train: images.train.len(),
            scored: images.test.len(),
            class_names: images
                .class_names
                .iter()
                .map(|name| name.nfc().collect())
                .collect(),
            checksum: checksum.finalize(),
        }
    }

    /// The numbers of images to train on and to score on.
    pub(crate) fn counts(&self) -> [usize; 2] {
        [self.train, self.scored]
    }

    /// The number of classes.
    pub(crate) fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// The first difference from those that the run began with, in words.
    pub(crate) fn difference(&self, began: &Self) -> Option<String> {
        let lacks = |names: &[String], name: &&String| !names.contains(name);
        let new = self
            .class_names
            .iter()
            .find(|name| lacks(&began.class_names, name));
        let gone = began
            .class_names
            .iter()
            .find(|name| lacks(&self.class_names, name));
        if let Some(class) = new {
            Some(format!("the class `{class}` is new"))
        } else if let Some(class) = gone {
            Some(format!("the class `{class}` is missing"))
        } else if self.class_names != began.class_names {
            Some("the classes come in another order".to_owned())
        } else if self.train != began.train {
            let (here, there) = (self.train, began.train);
            Some(format!(
                "there are {here} images to train on, and there were {there}"
            ))
        } else if self.scored != began.scored {
            let (here, there) = (self.scored, began.scored);
            Some(format!(
                "there are {here} images to score on, and there were {there}"
            ))
        } else if self.checksum != began.checksum {
            Some("there are as many, with other pixels, labels or names".to_owned())
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::{IMAGE_BYTES, Images};

    fn images(pixels: [u8; 3], labels: [u8; 3]) -> ImageSet {
        let part = |pixels: &[u8], labels: &[u8]| {
            let pixels = pixels
                .iter()
                .flat_map(|&pixel| [pixel; IMAGE_BYTES])
                .collect();
            Arc::new(Images::new(pixels, labels.to_vec()))
        };
        ImageSet {
            train: part(&pixels[..2], &labels[..2]),
            test: part(&pixels[2..], &labels[2..]),
            class_names: vec!["cat".to_owned(), "dog".to_owned()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn one_folder_under_two_paths_is_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images");
        for path in [&path, &folder.path().join("other")] {
            std::fs::create_dir(path).unwrap();
        }
        let path = path.to_str().unwrap();
        assert!(is_same_place(path, &format!("{path}/../images/")));
        assert!(!is_same_place(path, &format!("{path}/../other")));
        assert!(is_same_place("synthetic", "synthetic"));
        assert!(!is_same_place("synthetic", path));
    }

    #[test]
    fn the_same_images_are_known_again_and_others_are_told_apart() {
        let began = ImagesRecord::of(&images([1, 2, 3], [0, 1, 0]));
        let difference = |now: &ImageSet| ImagesRecord::of(now).difference(&began);
        let mut now = images([1, 2, 3], [0, 1, 0]);
        assert_eq!(difference(&now), None);

        let others = Some("there are as many, with other pixels, labels or names".to_owned());
        assert_eq!(difference(&images([1, 2, 4], [0, 1, 0])), others);
        assert_eq!(difference(&images([2, 1, 3], [0, 1, 0])), others);
        assert_eq!(difference(&images([1, 2, 3], [0, 0, 0])), others);

        now.train = now.test.clone();
        let fewer = "there are 1 images to train on, and there were 2";
        assert_eq!(difference(&now).as_deref(), Some(fewer));
        now.class_names.push("cow".to_owned());
        assert_eq!(difference(&now).as_deref(), Some("the class `cow` is new"));
        now.class_names = vec!["cat".to_owned()];
        assert_eq!(
            difference(&now).as_deref(),
            Some("the class `dog` is missing")
        );
    }
}
