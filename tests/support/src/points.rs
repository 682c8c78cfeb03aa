//! Points on a spiral, in three classes: the data of [`Net`](crate::network::Net).

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The total number of points: five batches, of which the last is small.
pub const ITEMS: usize = 70;

/// The number of points of a batch.
pub const BATCH: usize = 16;

/// Points and their classes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The points: `[batch, 2]`.
    pub input: Tensor<2>,
    /// The class of each, 0 to 2: `[batch]`.
    pub targets: Tensor<1, Int>,
}

/// All points, in batches, in the same order every time.
pub fn loader() -> Arc<dyn DataLoader<Batch>> {
    loader_of(0..ITEMS, BATCH)
}

/// The points with these numbers, in this order, in batches of `batch_size`.
pub fn loader_of(
    points: impl IntoIterator<Item = usize>,
    batch_size: usize,
) -> Arc<dyn DataLoader<Batch>> {
    let points = points.into_iter().map(|index| {
        let t = index as f32 * 0.7;
        let target = (index % 3) as i64;
        ([t.cos() + target as f32, t.sin() * 3.0], target)
    });
    DataLoaderBuilder::new(ToBatch)
        .batch_size(batch_size)
        .build(InMemDataset::new(points.collect()))
}

type Point = ([f32; 2], i64);

struct ToBatch;

impl Batcher<Point, Batch> for ToBatch {
    fn batch(&self, points: Vec<Point>, device: &Device) -> Batch {
        let input: Vec<f32> = points.iter().flat_map(|(input, _)| *input).collect();
        let targets: Vec<i64> = points.iter().map(|(_, target)| *target).collect();
        Batch {
            input: Tensor::from_data(TensorData::new(input, [points.len(), 2]), device),
            targets: Tensor::from_data(TensorData::new(targets, [points.len()]), device),
        }
    }
}
