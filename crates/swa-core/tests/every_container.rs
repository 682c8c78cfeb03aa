//! The functional test: the average *is* the mean of the weights that SGD passed through, for a
//! module that nests every container Burn knows.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_swa_test_support::parameters::{assert_is_mean_of, weights};
use swa_core::{Average, EqualWeights};

const CLASSES: usize = 3;

#[derive(Module, Debug)]
enum Head {
    Linear(Linear),
    Convolution(Conv2d),
}

#[derive(Module, Debug)]
struct Everything {
    convolution: Conv2d,
    norm: BatchNorm,
    embedding: Embedding,
    in_a_vec: Vec<Linear>,
    in_an_array: [Linear; 2],
    in_a_tuple: (Linear, BatchNorm),
    there: Option<Linear>,
    not_there: Option<Linear>,
    nested: Vec<Option<(Linear, [Linear; 1])>>,
    head: Head,
    /// The same parameter as `in_a_vec[0].weight`.
    shared: Param<Tensor<2>>,
}

impl Everything {
    fn new(device: &Device) -> Self {
        let linear = || LinearConfig::new(4, 4).init(device);
        let in_a_vec = vec![linear(), linear()];
        Self {
            convolution: Conv2dConfig::new([1, 4], [3, 3])
                .with_bias(false)
                .init(device),
            norm: BatchNormConfig::new(4).init(device),
            embedding: EmbeddingConfig::new(CLASSES, 4).init(device),
            in_an_array: [linear(), linear()],
            in_a_tuple: (linear(), BatchNormConfig::new(4).init(device)),
            there: Some(linear()),
            not_there: None,
            nested: vec![None, Some((linear(), [linear()]))],
            head: Head::Linear(LinearConfig::new(4, CLASSES).init(device)),
            shared: in_a_vec[0].weight.clone(),
            in_a_vec,
        }
    }

    fn forward(&self, images: Tensor<4>, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [batch, ..] = images.dims();
        let features = self.norm.forward(self.convolution.forward(images));
        let mut hidden = features
            .reshape([batch, 4, 9])
            .mean_dim(2)
            .reshape([batch, 4]);
        hidden = hidden + self.embedding.forward(tokens).reshape([batch, 4]);
        hidden = hidden.matmul(self.shared.val());
        let (first, norm) = &self.in_a_tuple;
        let (second, [third]) = self.nested[1].as_ref().expect("made with one");
        let layers = self.in_a_vec.iter().chain(&self.in_an_array);
        for layer in layers.chain(&self.there).chain([first, second, third]) {
            hidden = hidden.clone() + layer.forward(hidden).tanh();
        }
        match &self.head {
            Head::Linear(head) => head.forward(norm.forward(hidden)),
            Head::Convolution(_) => unreachable!("made with a linear head"),
        }
    }
}

#[test]
fn the_average_is_the_mean_of_what_sgd_passed_through() {
    let device = Device::default().autodiff();
    let mut model = Everything::new(&device);
    let momentum = MomentumConfig::new().with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let mut average = Average::new(&model, EqualWeights).unwrap();
    let mut collected = Vec::new();

    for step in 0..12 {
        let images = Tensor::<4>::random([8, 1, 5, 5], Distribution::Default, &device);
        let tokens = Tensor::<2, Int>::from_data([[0], [1], [2], [0], [1], [2], [0], [1]], &device);
        let loss = model.forward(images, tokens).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.1, model, gradients);
        // An optimizer updates only the first of two parameters with the same id: tie them again.
        model.shared = model.in_a_vec[0].weight.clone();
        if step >= 5 {
            average.update(&model).unwrap();
            collected.push(weights(&model));
        }
    }

    assert_eq!(average.updates(), 7);
    // Convolution, embedding, shared parameter, two BatchNorms and nine linear layers.
    assert_eq!(collected[0].len(), 1 + 1 + 1 + 4 + 18);
    for (path, values) in &collected[0] {
        let moved = *values != collected[6][path];
        assert!(moved, "{path} did not change: nothing was tested");
    }
    let collected: Vec<_> = collected.iter().collect();
    assert_is_mean_of(&average.model().unwrap(), &collected);
}
