//! Decoded images, in memory.

use std::sync::Arc;

use unicode_normalization::UnicodeNormalization;

use super::error::DataError;
use super::random::{Purpose, Stream};

/// Height and width of an image, in pixels.
pub const SIDE: usize = 32;

/// Planes of an image: red, green, blue.
pub const CHANNELS: usize = 3;

/// Bytes of an image: [`CHANNELS`] planes of [`SIDE`] rows of [`SIDE`] pixels.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;

/// Labelled colour images of 32×32 pixels, as bytes.
///
/// An image is stored as CIFAR's binary files store it: the red plane, then the green, then the
/// blue, each row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
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
        Self { pixels, labels }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Tells whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of image `index`, `[3, 32, 32]`.
    ///
    /// # Panics
    ///
    /// Panics if there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        &self.pixels[index * IMAGE_BYTES..][..IMAGE_BYTES]
    }

    /// The class of image `index`: its place in [`ImageSet::class_names`].
    ///
    /// # Panics
    ///
    /// Panics if there is no such image.
    pub fn label(&self, index: usize) -> u8 {
        self.labels[index]
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
        let mut seen = [0_usize; u8::MAX as usize + 1];
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
        let mut images = Self::default();
        for (_, index) in chosen {
            images.pixels.extend_from_slice(self.image(index));
            images.labels.push(self.label(index));
        }
        images
    }
}

/// A data set: images to train on, images to test on, and the names of their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    fn count(images: &Images, label: u8) -> usize {
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
            assert_eq!(subset.label(i), labels[usize::from(index)]);
        }
    }

    #[test]
    fn a_subset_depends_on_its_seed_and_holds_every_smaller_one() {
        let images = numbered(&[vec![0; 50], vec![1; 50]].concat());
        let firsts = |subset: Images| -> Vec<u8> {
            subset
                .pixels
                .chunks(IMAGE_BYTES)
                .map(|image| image[0])
                .collect()
        };
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
