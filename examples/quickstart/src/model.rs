//! A small convolutional network with BatchNorm. Nothing here knows of SWA.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, activation::relu};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

use crate::digits::{Digits, SIDE};

const CHANNELS: [usize; 3] = [1, 8, 16];

#[derive(Module, Debug)]
pub(crate) struct Model {
    convolutions: Vec<(Conv2d, BatchNorm)>,
    pool: MaxPool2d,
    output: Linear,
}

impl Model {
    pub(crate) fn new(device: &Device) -> Self {
        let convolution = |channels: &[usize]| {
            let convolution = Conv2dConfig::new([channels[0], channels[1]], [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .with_bias(false);
            let norm = BatchNormConfig::new(channels[1]);
            (convolution.init(device), norm.init(device))
        };
        Self {
            convolutions: CHANNELS.windows(2).map(convolution).collect(),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            output: LinearConfig::new(CHANNELS[2] * SIDE * SIDE / 16, 10).init(device),
        }
    }

    /// Logits of shape `[batch, 10]` for images of shape `[batch, 1, SIDE, SIDE]`.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let features = self
            .convolutions
            .iter()
            .fold(images, |images, (convolution, norm)| {
                self.pool
                    .forward(relu(norm.forward(convolution.forward(images))))
            });
        self.output.forward(features.flatten(1, 3))
    }

    /// The digit on an image of shape `[1, SIDE, SIDE]`.
    pub(crate) fn classify(&self, image: Tensor<3>) -> i64 {
        let logits = self.forward(image.unsqueeze());
        logits.argmax(1).into_scalar()
    }

    fn output(&self, batch: Digits) -> ClassificationOutput {
        let output = self.forward(batch.images);
        let loss = CrossEntropyLossConfig::new()
            .init(&output.device())
            .forward(output.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, output, batch.labels)
    }
}

impl TrainStep for Model {
    type Input = Digits;
    type Output = ClassificationOutput;

    fn step(&self, batch: Digits) -> TrainOutput<ClassificationOutput> {
        let output = self.output(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Model {
    type Input = Digits;
    type Output = ClassificationOutput;

    fn step(&self, batch: Digits) -> ClassificationOutput {
        self.output(batch)
    }
}
