//! The model that the `Learner` trains.

use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use swa_models::{Network, PreResNet, Vgg, WideResNet};

use crate::data::ImageBatch;
use crate::run::interruption::Interruption;

/// A network that classifies images.
pub trait ImageNetwork: Module + ModuleDisplay + 'static {
    /// Logits `[batch, classes]` of images `[batch, 3, height, width]`.
    fn logits(&self, images: Tensor<4>) -> Tensor<2>;
}

macro_rules! image_networks {
    ($($network:ty),*) => {$(
        impl ImageNetwork for $network {
            fn logits(&self, images: Tensor<4>) -> Tensor<2> {
                self.forward(images)
            }
        }
    )*};
}

image_networks!(Network, PreResNet, Vgg, WideResNet);

/// Passes a batch through a network, for a re-estimation of BatchNorm. Returns the number of images.
pub(crate) fn pass(network: &Network, batch: ImageBatch) -> usize {
    let images = batch.images.dims()[0];
    network.logits(batch.images);
    images
}

/// A network with cross-entropy as its loss.
#[derive(Module, Debug)]
pub struct Classifier<N: ImageNetwork> {
    network: N,
    #[module(skip)]
    interruption: Arc<Interruption>,
    #[module(skip)]
    images_at_once: Option<usize>,
}

impl<N: ImageNetwork> Classifier<N> {
    /// `network`, whose training stops when `interruption` says so.
    pub fn new(network: N, interruption: Arc<Interruption>) -> Self {
        Self {
            network,
            interruption,
            images_at_once: None,
        }
    }

    /// The same, with a training step that computes this many images at once, so that a device need not hold what a whole batch
    /// leaves for the backward pass. The gradients of the parts add up to those of the batch, but for BatchNorm, which sees the
    /// parts one by one.
    ///
    /// Burn's own accumulation counts batches of the loader, from one epoch to the next: a run could not stop and go on within such
    /// a group.
    pub(crate) fn with_images_at_once(self, images: usize) -> Self {
        Self {
            images_at_once: Some(images),
            ..self
        }
    }

    /// The network.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// The network alone.
    pub fn into_network(self) -> N {
        self.network
    }

    /// The output holds the loss of each image, so that its metric weights a smaller last batch by
    /// its size.
    fn classify(&self, batch: ImageBatch) -> ClassificationOutput {
        let logits = self.network.logits(batch.images);
        let loss = cross_entropy(logits.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, logits, batch.labels)
    }
}

/// `batch` in parts of `images`, of which the last may have fewer.
fn parts(batch: ImageBatch, images: usize) -> impl Iterator<Item = ImageBatch> {
    let labels = batch.labels.split(images, 0);
    let pairs = batch.images.split(images, 0).into_iter().zip(labels);
    pairs.map(|(images, labels)| ImageBatch { images, labels })
}

/// `-log softmax(logits)[label]` of each image: shape `[batch]`, from `[batch, classes]` and `[batch]`.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let labels = labels.unsqueeze_dim::<2>(1);
    log_softmax(logits, 1)
        .gather(1, labels)
        .squeeze_dim(1)
        .neg()
}

impl<N: ImageNetwork> Classifier<N> {
    /// A training step that computes `images` of the batch at once.
    fn step_in_parts(&self, batch: ImageBatch, images: usize) -> TrainOutput<ClassificationOutput> {
        let all = batch.labels.dims()[0];
        let labels = batch.labels.clone();
        let mut sum = GradientsAccumulator::new();
        let (mut losses, mut logits) = (Vec::new(), Vec::new());
        for part in parts(batch, images) {
            let output = self.classify(part);
            let gradients = (output.loss.clone().sum() / all as f64).backward();
            sum.accumulate(self, GradientsParams::from_grads(gradients, self));
            losses.push(output.loss.detach());
            logits.push(output.output.detach());
        }
        TrainOutput {
            grads: sum.grads(),
            item: ClassificationOutput::new(Tensor::cat(losses, 0), Tensor::cat(logits, 0), labels),
        }
    }
}

impl<N: ImageNetwork> TrainStep for Classifier<N> {
    type Input = ImageBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageBatch) -> TrainOutput<ClassificationOutput> {
        match self.images_at_once {
            Some(images) if images < batch.labels.dims()[0] => self.step_in_parts(batch, images),
            _whole => {
                let output = self.classify(batch);
                let gradients = output.loss.clone().mean().backward();
                TrainOutput::new(self, gradients, output)
            }
        }
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let trained = optimizer.step(learning_rate, self, gradients);
        trained.interruption.after_step(optimizer);
        trained
    }
}

impl<N: ImageNetwork> InferenceStep for Classifier<N> {
    type Input = ImageBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageBatch) -> ClassificationOutput {
        self.classify(batch)
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::SgdConfig;
    use burn::tensor::{Device, Distribution};
    use swa_core::Weights;
    use swa_models::VggConfig;

    use super::*;

    #[test]
    fn a_batch_in_parts_has_the_gradients_of_the_whole() {
        let device = Device::flex().autodiff();
        device.seed(1);
        let vgg = VggConfig::new(16).with_width_divisor(32).with_dropout(0.0);
        let vgg = vgg.init(&device).unwrap();
        let batch = ImageBatch {
            images: Tensor::random([7, 3, 32, 32], Distribution::Default, &device),
            labels: Tensor::arange(0..7, &device),
        };
        // With a rate of 1, a step is the gradient. Seven images are two parts of three, and one.
        let step = |classifier: Classifier<Vgg>| {
            let output = TrainStep::step(&classifier, batch.clone());
            let shapes = (output.item.loss.dims(), output.item.output.dims());
            assert_eq!(shapes, ([7], [7, 10]));
            let loss = output.item.loss.mean().into_scalar::<f32>();
            let trained = SgdConfig::new().init().step(1.0, classifier, output.grads);
            (Weights::of(&trained).unwrap(), loss)
        };
        let classifier = || Classifier::new(vgg.clone(), Arc::default());
        let begun = Weights::of(&classifier()).unwrap();
        let (whole, loss) = step(classifier());
        let (parts, loss_of_parts) = step(classifier().with_images_at_once(3));
        let distance = |to: &Weights| whole.distance(to).unwrap();
        assert!(
            distance(&parts) < 1e-5 * distance(&begun),
            "{}",
            distance(&parts)
        );
        assert!(
            (loss - loss_of_parts).abs() < 1e-6,
            "{loss} {loss_of_parts}"
        );
    }
}
