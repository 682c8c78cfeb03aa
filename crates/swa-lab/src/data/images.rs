//! Images, decoded in memory or in files.

use std::sync::Arc;

use unicode_normalization::UnicodeNormalization;

use super::class_folders::Files;
use super::error::DataError;
use super::file_list::FileList;
use super::random::{Purpose, Stream};
use super::view::View;

/// Height and width of a decoded image, in pixels.
pub const SIDE: usize = 32;

/// Planes of an image: red, green, blue.
pub const CHANNELS: usize = 3;

/// Bytes of a decoded image: [`CHANNELS`] planes of [`SIDE`] rows of [`SIDE`] pixels.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;

/// Labelled colour images: decoded ones of 32×32 pixels in memory, or files of any size.
///
/// A decoded image is stored as CIFAR's binary files store it: the red plane, then the green, then the
/// blue, each row by row.
#[derive(Debug, Clone)]
pub struct Images {
    pub(super) content: Content,
    labels: Vec<u16>,
}

/// The pixels of images.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// `[n, 3, 32, 32]`.
    Decoded(Vec<u8>),
    Files(FileList),
}

impl Images {
    /// The images with these pixels, `[n, 3, 32, 32]` in one piece, and these `n` labels.
    ///
    /// # Panics
    ///
    /// Panics if there are not [`IMAGE_BYTES`] pixels for each label.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>) -> Self {
        assert_eq!(
            pixels.len(),
            labels.len() * IMAGE_BYTES,
            "{} labels need {IMAGE_BYTES} bytes of pixels each",
            labels.len()
        );
        Self {
            content: Content::Decoded(pixels),
            labels: labels.into_iter().map(u16::from).collect(),
        }
    }

    /// Images in files.
    pub(super) fn of_files(mut files: Files, view: View) -> Self {
        let labels = std::mem::take(&mut files.labels);
        Self {
            content: Content::Files(FileList::new(files, view)),
            labels,
        }
    }

    /// Height and width of the images that a loader makes of these, in pixels.
    pub fn side(&self) -> usize {
        match &self.content {
            Content::Decoded(_) => SIDE,
            Content::Files(files) => files.view().side,
        }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Tells whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of the decoded image `index`, `[3, 32, 32]`.
    ///
    /// # Panics
    ///
    /// Panics if there is no such image, or if it is in a file.
    pub fn image(&self, index: usize) -> &[u8] {
        match &self.content {
            Content::Decoded(pixels) => &pixels[index * IMAGE_BYTES..][..IMAGE_BYTES],
            Content::Files(_) => panic!("image {index} is in a file"),
        }
    }

    /// The class of image `index`: its place in [`ImageSet::class_names`].
    ///
    /// # Panics
    ///
    /// Panics if there is no such image.
    pub fn label(&self, index: usize) -> u16 {
        self.labels[index]
    }

    /// The number of different images that could not be read so far and were left out, of all that these were chosen from.
    pub fn left_out(&self) -> usize {
        match &self.content {
            Content::Decoded(_) => 0,
            Content::Files(files) => files.count_left_out(),
        }
    }

    /// Takes all images into a checksum, in order: their pixels and labels, or the names, sizes and labels of their files.
    pub(crate) fn checksum(&self, checksum: &mut crc32fast::Hasher) {
        for index in 0..self.len() {
            let label = self.label(index).to_le_bytes();
            match &self.content {
                Content::Decoded(_) => {
                    checksum.update(self.image(index));
                    // Decoded images have labels of one byte, and runs began with that checksum.
                    checksum.update(&label[..1]);
                }
                Content::Files(files) => {
                    files.checksum(index, checksum);
                    checksum.update(&label);
                }
            }
        }
    }

    /// A random choice of `items` images, with equally many of each class. If the number of classes
    /// does not divide `items`, some classes have one image fewer. Of a class that has too few
    /// images, all are taken.
    ///
    /// With the same seed, a smaller subset is a part of a larger one. The images keep their order.
    ///
    /// # Errors
    ///
    /// [`DataError::TooFewImages`] if there are not `items` images.
    pub fn subset(&self, items: usize, seed: u64) -> Result<Self, DataError> {
        Ok(self.split(items, seed)?.0)
    }

    /// A [`subset`](Self::subset) of `items` images, and the images that are not in it.
    ///
    /// # Errors
    ///
    /// [`DataError::TooFewImages`] if there are not `items` images.
    pub fn split(&self, items: usize, seed: u64) -> Result<(Self, Self), DataError> {
        if items > self.len() {
            return Err(DataError::TooFewImages {
                requested: items,
                available: self.len(),
            });
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        Stream::new(Purpose::Subset, seed, &[]).shuffle(&mut order);

        // An image's round is how many of its class come before it: taking whole rounds takes the
        // classes in turn.
        let mut seen = vec![0_usize; u16::MAX as usize + 1];
        let mut chosen: Vec<(usize, usize)> = order
            .into_iter()
            .map(|index| {
                let seen = &mut seen[usize::from(self.label(index))];
                *seen += 1;
                (*seen, index)
            })
            .collect();
        chosen.sort_by_key(|&(round, _)| round);
        let rest = chosen.split_off(items);
        Ok((self.of(chosen), self.of(rest)))
    }

    /// The images of these indices, in their own order.
    fn of(&self, mut chosen: Vec<(usize, usize)>) -> Self {
        chosen.sort_by_key(|&(_, index)| index);
        let indices = || chosen.iter().map(|&(_, index)| index);
        Self {
            content: match &self.content {
                Content::Decoded(_) => Content::Decoded(
                    indices()
                        .flat_map(|index| self.image(index))
                        .copied()
                        .collect(),
                ),
                Content::Files(files) => Content::Files(files.of(indices())),
            },
            labels: indices().map(|index| self.label(index)).collect(),
        }
    }
}

/// A data set: images to train on, images to test on, and the names of their classes.
#[derive(Debug, Clone)]
pub struct ImageSet {
    /// The images to train on.
    pub train: Arc<Images>,
    /// The images to test on.
    pub test: Arc<Images>,
    /// The name of each class; a label is an index into it.
    pub class_names: Vec<String>,
    /// Lines for the user about what was loaded: what was passed over, and how many images are to be turned.
    pub notes: Vec<String>,
}

impl ImageSet {
    /// Tells whether these are the names of the classes, in their order. A name may be in another of Unicode's forms.
    pub fn has_classes(&self, names: &[String]) -> bool {
        let mut pairs = self.class_names.iter().zip(names);
        self.class_names.len() == names.len() && pairs.all(|(one, other)| same_name(one, other))
    }
}

/// Tells whether two names are the same text: `é` is one character or two, an `e` and its accent.
pub(super) fn same_name(one: &str, other: &str) -> bool {
    one.nfc().eq(other.nfc())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images whose pixels all hold the image's index.
    fn numbered(labels: &[u8]) -> Images {
        let pixels = (0..labels.len()).flat_map(|index| [index as u8; IMAGE_BYTES]);
        Images::new(pixels.collect(), labels.to_vec())
    }

    fn count(images: &Images, label: u16) -> usize {
        images.labels.iter().filter(|&&l| l == label).count()
    }

    #[test]
    fn a_subset_is_balanced_even_if_the_images_are_sorted_by_class() {
        let images = numbered(&[vec![0; 40], vec![1; 40], vec![2; 40]].concat());
        let subset = images.subset(20, 7).unwrap();
        let mut counts = [0, 1, 2].map(|label| count(&subset, label));
        counts.sort_unstable();
        assert_eq!(counts, [6, 7, 7]);
    }

    #[test]
    fn a_subset_keeps_the_order_and_each_images_label() {
        let labels: Vec<u8> = (0..60).map(|index| index % 7).collect();
        let subset = numbered(&labels).subset(21, 3).unwrap();
        let indices: Vec<u8> = (0..subset.len()).map(|i| subset.image(i)[0]).collect();
        assert!(indices.is_sorted());
        for (i, &index) in indices.iter().enumerate() {
            assert_eq!(subset.label(i), u16::from(labels[usize::from(index)]));
        }
    }

    #[test]
    fn a_subset_depends_on_its_seed_and_holds_every_smaller_one() {
        let images = numbered(&[vec![0; 50], vec![1; 50]].concat());
        let firsts =
            |subset: Images| -> Vec<u8> { (0..subset.len()).map(|i| subset.image(i)[0]).collect() };
        let large = firsts(images.subset(30, 1).unwrap());
        let small = firsts(images.subset(10, 1).unwrap());
        assert!(small.iter().all(|index| large.contains(index)));
        assert_ne!(large, firsts(images.subset(30, 2).unwrap()));
    }

    #[test]
    fn a_split_serves_every_image_once_and_keeps_the_order() {
        let images = numbered(&[vec![0; 6], vec![1; 6]].concat());
        let (part, rest) = images.split(4, 1).unwrap();
        assert_eq!((count(&part, 0), count(&part, 1)), (2, 2));
        assert_eq!((count(&rest, 0), count(&rest, 1)), (4, 4));
        let firsts = |images: &Images| (0..images.len()).map(|i| images.image(i)[0]).collect();
        let [part, rest]: [Vec<u8>; 2] = [firsts(&part), firsts(&rest)];
        assert!(part.is_sorted() && rest.is_sorted());
        let mut all = [part, rest].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..12));
    }

    #[test]
    fn a_subset_takes_all_of_a_class_that_has_too_few() {
        let images = numbered(&[vec![0; 2], vec![1; 30]].concat());
        let subset = images.subset(20, 0).unwrap();
        assert_eq!((count(&subset, 0), count(&subset, 1)), (2, 18));
    }

    #[test]
    fn more_images_than_there_are_cannot_be_chosen() {
        assert_eq!(
            numbered(&[0, 1]).subset(3, 0).unwrap_err().to_string(),
            "3 images were asked for, but there are 2: ask for at most 2"
        );
    }
}
