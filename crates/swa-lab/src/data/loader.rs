//! The loader of batches.
//!
//! Burn's own `DataLoaderBuilder::shuffle` (0.22.1) carries a generator from epoch to epoch, so
//! that a resumed run, which starts with a fresh one, sees another order than an uninterrupted run.
//! This loader carries nothing but the number of the epoch.

use std::fmt;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use super::augmentation::Augmentation;
use super::batch::{BatchMaker, HostBatch, ImageBatch, Variation};
use super::error::DataError;
use super::images::{Content, Images};
#[cfg(doc)]
use super::normalization::Normalization;
use super::prefetch::Prefetch;
use super::random::{Purpose, Stream};

/// The progress of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The number of complete epochs, which is the number of the current one, counted from 0.
    pub epoch: usize,
    /// The number of batches of the current epoch that are done (on each device, if there are
    /// several).
    pub batches: usize,
}

/// Serves images in batches: shuffled, augmented, and normalised, decoded ones by [`Normalization::CIFAR10`], and those in files by
/// [`Normalization::IMAGENET`].
///
/// Its batches depend only on the seed, the epoch and the images' indices. They are made ahead in
/// threads of their own, and put on the device in the thread that asks for them. The last batch of a
/// pass holds what is left, which may be less than the batch size.
///
/// It comes in three kinds: [`training`](Self::training), [`reestimation`](Self::reestimation) and
/// [`evaluation`](Self::evaluation).
///
/// # Images in files
///
/// An image in a file is decoded when its batch is made, two batches at a time, in a thread for each core; two finished batches
/// wait at most. With [`Augmentation::ResizedCropAndFlip`] it is a random part of the image, else its centre, as
/// [`View`](super::View) says.
///
/// A file that cannot be read is an error of the batch that it is in, and ends the pass; or, as
/// [`View::skip_unreadable`](super::View::skip_unreadable) says, that batch has an image less. Of a batch of which nothing is left, a training pass
/// serves the next image that can be read, so that there are as many batches as a schedule counts, and other passes nothing. If no image
/// of a pass can be read, that is an error.
///
/// # Several devices
///
/// A [`slice`](DataLoader::slice) serves a range of the *shuffled order* of every epoch: the slices
/// for several devices share out each epoch anew, and together serve each image once. The devices'
/// generators are seeded apart. Each slice keeps its own count of epochs, so all must be iterated
/// alike, as Burn's multi-device training does.
#[derive(Debug)]
pub struct EpochLoader {
    images: Arc<Images>,
    /// The part of each pass's order that is served.
    range: Range<usize>,
    batch_size: usize,
    pass: Pass,
    device: Device,
    watch: Watch,
    /// The position at which the next pass begins. It changes only if the loader is for training.
    next: Mutex<Position>,
}

/// The purpose of a pass over the images.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Training {
        seed: u64,
        augmentation: Augmentation,
    },
    Reestimation {
        seed: u64,
        augmentation: Augmentation,
    },
    Evaluation,
}

impl EpochLoader {
    /// A loader to train with: every [`iter`](DataLoader::iter) serves the next epoch, in an order
    /// and with an augmentation of its own.
    ///
    /// Before it hands out a batch, it seeds the device's random generator with a hash of the seed,
    /// the epoch and the batch, so that the numbers that the training step draws there (for
    /// dropout) depend only on these. No state of the device has to be saved to resume. On most
    /// backends that generator belongs to the whole process: train one model at a time for runs
    /// that can be repeated.
    ///
    /// # Errors
    ///
    /// [`DataError::EmptySet`] without images, [`DataError::ZeroBatchSize`] if the batch size is 0.
    pub fn training(
        images: Arc<Images>,
        batch_size: usize,
        augmentation: Augmentation,
        seed: u64,
        device: &Device,
    ) -> Result<Self, DataError> {
        let pass = Pass::Training { seed, augmentation };
        Self::new(images, batch_size, pass, device)
    }

    /// A loader to re-estimate BatchNorm's statistics with: every [`iter`](DataLoader::iter) serves
    /// the same pass, shuffled and augmented as in training but by random numbers of its own.
    ///
    /// However often it was iterated before, in this process or another, it serves the same bits.
    ///
    /// # Errors
    ///
    /// As [`training`](Self::training).
    pub fn reestimation(
        images: Arc<Images>,
        batch_size: usize,
        augmentation: Augmentation,
        seed: u64,
        device: &Device,
    ) -> Result<Self, DataError> {
        let pass = Pass::Reestimation { seed, augmentation };
        Self::new(images, batch_size, pass, device)
    }

    /// A loader to evaluate with: every [`iter`](DataLoader::iter) serves all images as they are,
    /// in their own order.
    ///
    /// # Errors
    ///
    /// As [`training`](Self::training).
    pub fn evaluation(
        images: Arc<Images>,
        batch_size: usize,
        device: &Device,
    ) -> Result<Self, DataError> {
        Self::new(images, batch_size, Pass::Evaluation, device)
    }

    fn new(
        images: Arc<Images>,
        batch_size: usize,
        pass: Pass,
        device: &Device,
    ) -> Result<Self, DataError> {
        if images.is_empty() {
            return Err(DataError::EmptySet);
        }
        if batch_size == 0 {
            return Err(DataError::ZeroBatchSize);
        }
        match pass {
            Pass::Training { augmentation, .. } | Pass::Reestimation { augmentation, .. } => {
                fits(augmentation, &images)?;
            }
            Pass::Evaluation => {}
        }
        Ok(Self {
            range: 0..images.len(),
            images,
            batch_size,
            pass,
            device: device.clone(),
            watch: Watch::default(),
            next: Mutex::default(),
        })
    }

    /// The same with a watch. It is told of a batch that cannot be made; in training, before the batch that comes before is handed out.
    pub fn with_watch(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    /// The same training loader, begun at `position`: its first [`iter`](DataLoader::iter) serves
    /// what is left of that epoch, the next one the whole epoch after it, and so on. If nothing is
    /// left of it, the first serves nothing, so that what follows an epoch's training can still be
    /// done.
    ///
    /// The other kinds of loader stay as they are.
    ///
    /// # Errors
    ///
    /// [`DataError::StartBeyondEpoch`] if an epoch has not as many batches as are done.
    pub fn starting_at(self, position: Position) -> Result<Self, DataError> {
        let epoch_batches = self.num_batches();
        if position.batches > epoch_batches {
            return Err(DataError::StartBeyondEpoch {
                batches: position.batches,
                epoch_batches,
            });
        }
        if let Pass::Training { .. } = self.pass {
            *self.next() = position;
        }
        Ok(self)
    }

    /// The number of batches in a whole pass.
    pub fn num_batches(&self) -> usize {
        self.range.len().div_ceil(self.batch_size)
    }

    fn next(&self) -> MutexGuard<'_, Position> {
        // A position is valid even if a thread panicked while it held the lock: it is written in
        // one go.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy that serves `range` of each pass on `device`, begun where this one is.
    fn copy(&self, range: Range<usize>, device: &Device) -> Self {
        Self {
            images: self.images.clone(),
            range,
            batch_size: self.batch_size,
            pass: self.pass,
            device: device.clone(),
            watch: self.watch.clone(),
            next: Mutex::new(*self.next()),
        }
    }

    /// The pass that begins at `start`.
    fn pass(&self, start: Position) -> EpochIterator {
        let mut order: Vec<u32> = (0..self.images.len() as u32).collect();
        let Position { epoch, batches } = start;
        let (purpose, seed, augmentation) = match self.pass {
            Pass::Training { seed, augmentation } => {
                Stream::new(Purpose::Order, seed, &[epoch]).shuffle(&mut order);
                (Purpose::Augmentation, seed, augmentation)
            }
            Pass::Reestimation { seed, augmentation } => {
                Stream::new(Purpose::ReestimationOrder, seed, &[]).shuffle(&mut order);
                (Purpose::ReestimationAugmentation, seed, augmentation)
            }
            Pass::Evaluation => (Purpose::Augmentation, 0, Augmentation::None),
        };
        let trains = matches!(self.pass, Pass::Training { .. });
        let maker = BatchMaker::new(
            self.images.clone(),
            order[self.range.clone()].to_vec(),
            self.batch_size,
            Variation {
                augmentation,
                purpose,
                seed,
                epoch,
            },
            trains,
        );
        let end = self.num_batches();
        // The slices for several devices may differ by a batch: this one may have fewer than the
        // largest.
        let batch = batches.min(end);
        EpochIterator {
            batches: Prefetch::new(batch..end, maker.threads(), move |batch| maker.batch(batch))
                .peekable(),
            batch,
            batch_size: self.batch_size,
            items: self.range.len(),
            served: false,
            left_out: 0,
            failed: false,
            watch: self.watch.clone(),
            looks_ahead: trains,
            device: self.device.clone(),
            device_seed: match self.pass {
                Pass::Training { seed, .. } => Some(DeviceSeed {
                    seed,
                    epoch,
                    slice: self.range.start,
                }),
                Pass::Reestimation { .. } | Pass::Evaluation => None,
            },
        }
    }
}

/// Checks that an augmentation is one for these images.
fn fits(augmentation: Augmentation, images: &Images) -> Result<(), DataError> {
    let (augmentation, kind) = match (augmentation, &images.content) {
        (Augmentation::CropAndFlip(_), Content::Files(_)) => {
            ("a crop of a padded image", "decoded images")
        }
        (Augmentation::ResizedCropAndFlip, Content::Decoded(_)) => {
            ("a resized crop", "images in files")
        }
        _ => return Ok(()),
    };
    Err(DataError::OtherAugmentation { augmentation, kind })
}

impl DataLoader<ImageBatch> for EpochLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        let mut next = self.next();
        let start = *next;
        if let Pass::Training { .. } = self.pass {
            *next = Position {
                epoch: start.epoch + 1,
                batches: 0,
            };
        }
        drop(next);
        Box::new(self.pass(start))
    }

    fn num_items(&self) -> usize {
        self.range.len()
    }

    /// A copy for `device`, begun where this loader is; from then on each counts its own epochs.
    ///
    /// Burn's `Learner` takes such a copy before it trains, so the loader that it was given stays
    /// at its start.
    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        Arc::new(self.copy(self.range.clone(), device))
    }

    /// A copy that serves the items from `start` to before `end` of every pass; what lies beyond
    /// the last item is left out.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        let bound = |place: usize| self.range.end.min(self.range.start + place);
        let range = bound(start)..bound(end).max(bound(start));
        Arc::new(self.copy(range, &self.device))
    }
}

/// A function that is told why a batch cannot be made.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Tell>>);

type Tell = dyn Fn(&DataError) + Send + Sync;

impl Watch {
    /// A watch that calls `tell`.
    pub fn new(tell: impl Fn(&DataError) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    fn tell(&self, error: &DataError) {
        if let Some(tell) = &self.0 {
            tell(error);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// The values that seed the device's generator, together with the batch.
#[derive(Debug, Clone, Copy)]
struct DeviceSeed {
    seed: u64,
    epoch: usize,
    /// The beginning of the slice, which differs between devices.
    slice: usize,
}

impl DeviceSeed {
    fn at(self, batch: usize) -> u64 {
        Stream::new(Purpose::Device, self.seed, &[self.epoch, batch, self.slice]).next_u64()
    }
}

/// One pass over the images.
#[derive(Debug)]
struct EpochIterator {
    batches: Peekable<Prefetch<Result<HostBatch, DataError>>>,
    /// The number of the next batch.
    batch: usize,
    batch_size: usize,
    /// The number of images in the pass.
    items: usize,
    /// True once a batch was served.
    served: bool,
    /// The number of images in the batches of which none could be read.
    left_out: usize,
    /// True once there was an error.
    failed: bool,
    watch: Watch,
    /// True if the watch is told of the next batch. A re-estimation may take the first few batches alone.
    looks_ahead: bool,
    device: Device,
    device_seed: Option<DeviceSeed>,
}

impl EpochIterator {
    /// The number of images in the batches before the next one.
    fn items_done(&self) -> usize {
        self.items.min(self.batch * self.batch_size)
    }

    /// The next batch that has images.
    fn next_batch(&mut self) -> Option<Result<HostBatch, DataError>> {
        loop {
            match self.batches.next() {
                Some(Ok(batch)) if batch.len() == 0 => {
                    let before = self.items_done();
                    self.batch += 1;
                    self.left_out += self.items_done() - before;
                }
                None if self.left_out > 0 && !self.served => {
                    let images = self.left_out;
                    return Some(Err(DataError::NoneReadable { images }));
                }
                batch => return batch,
            }
        }
    }
}

impl Iterator for EpochIterator {
    type Item = Result<ImageBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = match self.next_batch()? {
            Ok(batch) => batch,
            Err(error) => {
                self.failed = true;
                self.watch.tell(&error);
                return Some(Err(DatasetError::new(error)));
            }
        };
        if self.looks_ahead
            && let Some(Err(error)) = self.batches.peek()
        {
            self.watch.tell(error);
        }
        // The seed is set here and not where the batch was made, because the step that is about to
        // draw runs in this thread. It is set for every batch and not once an epoch, because a run
        // that resumes amid an epoch cannot know how much the earlier steps have drawn.
        if let Some(device_seed) = self.device_seed {
            self.device.seed(device_seed.at(self.batch));
        }
        self.batch += 1;
        self.served = true;
        Some(Ok(batch.into_tensors(&self.device)))
    }
}

impl DataLoaderIterator<ImageBatch> for EpochIterator {
    /// Counts items, including those before the start position and those that were left out.
    fn progress(&self) -> Progress {
        Progress::new(self.items_done(), self.items, Some("items".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::augmentation::Padding;
    use super::super::images::IMAGE_BYTES;
    use super::super::normalization::Normalization;

    const CROP_AND_FLIP: Augmentation = Augmentation::CropAndFlip(Padding::Reflect);

    /// Images of noise; the first pixel of each is its index, and so is its label.
    fn images(items: usize) -> Arc<Images> {
        let mut stream = Stream::new(Purpose::SyntheticTest, 0, &[]);
        let noise = (0..items * IMAGE_BYTES).map(|_| stream.below(256) as u8);
        let mut pixels: Vec<u8> = noise.collect();
        for index in 0..items {
            pixels[index * IMAGE_BYTES] = index as u8;
        }
        Arc::new(Images::new(
            pixels,
            (0..items).map(|index| index as u8).collect(),
        ))
    }

    fn training(items: usize, batch_size: usize, seed: u64) -> EpochLoader {
        let device = Device::flex().autodiff();
        EpochLoader::training(images(items), batch_size, CROP_AND_FLIP, seed, &device).unwrap()
    }

    /// A batch as bits: labels and pixels.
    type Bits = (Vec<i64>, Vec<u32>);

    fn bits(batch: Result<ImageBatch, DatasetError>) -> Bits {
        let batch = batch.unwrap();
        let pixels: Vec<f32> = batch.images.into_data().try_to_vec().unwrap();
        (
            batch.labels.into_data().iter::<i64>().collect(),
            pixels.into_iter().map(f32::to_bits).collect(),
        )
    }

    /// The next pass of `loader`.
    fn pass(loader: &dyn DataLoader<ImageBatch>) -> Vec<Bits> {
        loader.iter().map(bits).collect()
    }

    fn labels(pass: &[Bits]) -> Vec<i64> {
        pass.iter().flat_map(|(labels, _)| labels.clone()).collect()
    }

    fn sorted(mut labels: Vec<i64>) -> Vec<i64> {
        labels.sort_unstable();
        labels
    }

    #[test]
    fn each_epoch_serves_every_image_once_in_an_order_of_its_own() {
        let loader = training(50, 8, 1);
        let (first, second) = (labels(&pass(&loader)), labels(&pass(&loader)));
        assert_eq!(sorted(first.clone()), (0..50).collect::<Vec<_>>());
        assert_eq!(sorted(second.clone()), (0..50).collect::<Vec<_>>());
        assert_ne!(first, second);
        assert_ne!(first, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_batch_holds_what_is_left() {
        let loader = training(50, 8, 1);
        let sizes: Vec<usize> = pass(&loader)
            .iter()
            .map(|(labels, _)| labels.len())
            .collect();
        assert_eq!(sizes, [8, 8, 8, 8, 8, 8, 2]);
        assert_eq!(loader.num_batches(), 7);
        assert_eq!(loader.num_items(), 50);
    }

    #[test]
    fn an_image_comes_with_its_own_label_and_normalised() {
        let images = images(50);
        let device = Device::flex();
        let loader =
            EpochLoader::training(images.clone(), 8, Augmentation::None, 1, &device).unwrap();
        let table = Normalization::CIFAR10.table();
        for (labels, pixels) in pass(&loader) {
            for (label, pixels) in labels.iter().zip(pixels.chunks(IMAGE_BYTES)) {
                let image = images.image(*label as usize);
                assert_eq!(f32::from_bits(pixels[0]), table[0][*label as usize]);
                assert_eq!(
                    f32::from_bits(pixels[3071]),
                    table[2][usize::from(image[3071])]
                );
            }
        }
    }

    #[test]
    fn a_batch_is_of_shape_batch_3_32_32_and_on_the_loaders_device() {
        let device = Device::flex().autodiff();
        let loader = training(50, 8, 1).to_device(&device);
        let batch = loader.iter().next().unwrap().unwrap();
        assert_eq!(batch.images.dims(), [8, 3, 32, 32]);
        assert_eq!(batch.labels.dims(), [8]);
        assert_eq!(batch.images.device(), device);
    }

    #[test]
    fn every_epoch_augments_anew() {
        let device = Device::flex();
        let loader = EpochLoader::training(images(1), 1, CROP_AND_FLIP, 1, &device).unwrap();
        let passes: Vec<_> = (0..5).map(|_| pass(&loader)).collect();
        assert!(passes.iter().any(|pass| *pass != passes[0]));
    }

    #[test]
    fn a_resumed_loader_serves_the_bits_of_an_uninterrupted_one() {
        let uninterrupted = training(50, 8, 3);
        let epochs: Vec<_> = (0..4).map(|_| pass(&uninterrupted)).collect();

        for (epoch, batches) in [(0, 0), (2, 0), (1, 3), (2, 6), (1, 7)] {
            let position = Position { epoch, batches };
            let resumed = training(50, 8, 3).starting_at(position).unwrap();
            // Burn's Learner takes a copy before it trains.
            let resumed = resumed.to_device(&Device::flex().autodiff());
            assert_eq!(pass(&*resumed), epochs[epoch][batches..], "{position:?}");
            assert_eq!(pass(&*resumed), epochs[epoch + 1], "after {position:?}");
        }
    }

    #[test]
    fn a_copy_begins_where_the_loader_is_and_leaves_it_there() {
        let loader = training(50, 8, 3);
        let first = pass(&loader);
        let copy = loader.to_device(&Device::flex());
        let second = pass(&*copy);
        assert_ne!(first, second);
        assert_eq!(pass(&loader), second);
    }

    #[test]
    fn an_epoch_that_was_left_early_is_over() {
        let (whole, left) = (training(50, 8, 3), training(50, 8, 3));
        pass(&whole);
        left.iter().next();
        assert_eq!(pass(&left), pass(&whole));
    }

    #[test]
    fn seeds_make_different_runs() {
        assert_ne!(
            labels(&pass(&training(50, 8, 1))),
            labels(&pass(&training(50, 8, 2)))
        );
    }

    #[test]
    fn progress_counts_items_and_those_done_before_the_start() {
        let position = Position {
            epoch: 4,
            batches: 5,
        };
        let loader = training(50, 8, 1).starting_at(position).unwrap();
        let mut iterator = loader.iter();
        let mut progress = vec![iterator.progress()];
        while iterator.next().is_some() {
            progress.push(iterator.progress());
        }
        let items: Vec<usize> = progress
            .iter()
            .map(|progress| progress.items_processed)
            .collect();
        assert_eq!(items, [40, 48, 50]);
        assert!(progress[2].is_completed());
        assert_eq!(progress[0].unit.as_deref(), Some("items"));
    }

    #[test]
    fn slices_share_out_every_epoch() {
        let (whole, sliced) = (training(50, 8, 1), training(50, 8, 1));
        let slices = [sliced.slice(0, 20), sliced.slice(20, 50)];
        for _ in 0..2 {
            let shares = slices.each_ref().map(|slice| labels(&pass(&**slice)));
            assert_eq!(shares.each_ref().map(Vec::len), [20, 30]);
            assert_eq!(shares.concat(), labels(&pass(&whole)));
        }
        let part_of_a_slice = sliced.slice(20, 50).slice(5, 10);
        assert_eq!(
            labels(&pass(&*part_of_a_slice)),
            labels(&pass(&training(50, 8, 1)))[25..30]
        );
        assert_eq!(sliced.slice(40, 90).num_items(), 10);
        assert_eq!(pass(&*sliced.slice(60, 90)), []);
    }

    #[test]
    fn a_resumed_slice_skips_its_own_batches() {
        let position = Position {
            epoch: 1,
            batches: 2,
        };
        let (whole, resumed) = (training(50, 8, 1), training(50, 8, 1));
        let resumed = resumed.starting_at(position).unwrap();
        let whole = whole.slice(0, 25);
        pass(&*whole);
        assert_eq!(pass(&*resumed.slice(0, 25)), pass(&*whole)[2..]);
    }

    #[test]
    fn a_reestimation_pass_is_always_the_same_and_no_training_epoch() {
        let loader =
            || EpochLoader::reestimation(images(50), 8, CROP_AND_FLIP, 3, &Device::flex()).unwrap();
        let (once, again) = (
            loader(),
            loader().starting_at(Position {
                epoch: 2,
                batches: 1,
            }),
        );
        let again = again.unwrap();
        let first = pass(&once);
        assert_eq!(pass(&once), first);
        assert_eq!(pass(&again), first);
        assert_eq!(sorted(labels(&first)), (0..50).collect::<Vec<_>>());
        assert_ne!(labels(&first), (0..50).collect::<Vec<_>>());
        assert_ne!(labels(&first), labels(&pass(&training(50, 8, 3))));
    }

    #[test]
    fn an_evaluation_pass_serves_all_images_as_they_are_in_order() {
        let images = images(50);
        let loader = EpochLoader::evaluation(images.clone(), 8, &Device::flex()).unwrap();
        let first = pass(&loader);
        assert_eq!(pass(&loader), first);
        assert_eq!(labels(&first), (0..50).collect::<Vec<_>>());
        let table = Normalization::CIFAR10.table();
        let expected: Vec<u32> = images.image(9)[..1024]
            .iter()
            .map(|&byte| table[0][usize::from(byte)].to_bits())
            .collect();
        assert_eq!(first[1].1[IMAGE_BYTES..][..1024], expected);
    }

    #[test]
    fn empty_sets_and_batches_and_starts_beyond_the_end_are_refused() {
        let device = Device::flex();
        let error = |result: Result<EpochLoader, DataError>| result.unwrap_err().to_string();
        assert_eq!(
            error(EpochLoader::evaluation(images(0), 8, &device)),
            "the set to load batches from holds no images: give it at least one"
        );
        assert_eq!(
            error(EpochLoader::evaluation(images(5), 0, &device)),
            "the batch size is 0: give at least 1"
        );
        assert_eq!(
            error(training(50, 8, 1).starting_at(Position {
                epoch: 3,
                batches: 8
            })),
            "cannot start after 8 batches of an epoch that has 7: the position was saved with \
             other data or another batch size; resume with what the run was started with"
        );
    }
}
