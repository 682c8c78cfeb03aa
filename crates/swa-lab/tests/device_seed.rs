//! A resumed run draws the same numbers from the device's random generator, for dropout for
//! example.
//!
//! On most backends the whole process shares that generator, so this test has a process to itself.

use burn::data::dataloader::DataLoader;
use burn::tensor::{Device, Distribution, Tensor};
use swa_lab::data::{Augmentation, DataSource, EpochLoader, Position, Synthetic};

/// The last of `draws_per_step` draws at every batch from `position` to the end of the next epoch;
/// an epoch has three batches.
fn draws(position: Position, draws_per_step: usize) -> Vec<Vec<f32>> {
    let source = DataSource::Synthetic(Synthetic {
        seed: 0,
        train: 20,
        test: 1,
    });
    let images = source.load(&|_, _| {}).unwrap().train;
    let device = Device::flex();
    let loader = EpochLoader::training(images, 8, Augmentation::None, 1, &device)
        .unwrap()
        .starting_at(position)
        .unwrap();
    let draw = || Tensor::<1>::random([4], Distribution::Default, &device);
    let mut steps = Vec::new();
    for _epoch in 0..2 {
        for _batch in loader.iter() {
            let mut drawn = Vec::new();
            for _ in 0..draws_per_step {
                drawn = draw().into_data().try_to_vec().unwrap();
            }
            steps.push(drawn);
        }
    }
    steps
}

#[test]
fn what_a_step_draws_depends_on_epoch_and_batch_alone() {
    let whole = draws(Position::default(), 1);
    assert_eq!(whole.len(), 6);

    let amid_epoch = Position {
        epoch: 0,
        batches: 2,
    };
    assert_eq!(draws(amid_epoch, 1), whole[2..]);
    let after_epoch = Position {
        epoch: 1,
        batches: 0,
    };
    assert_eq!(draws(after_epoch, 1)[..3], whole[3..]);

    assert!((1..6).all(|step| whole[step] != whole[0]));
    // A step's second draw continues its first one.
    assert_ne!(draws(Position::default(), 2), whole);
}
