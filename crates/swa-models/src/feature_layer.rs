//! One layer of a VGG's `features`, named by nothing but its position.

use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::nn::{BatchNorm, Relu};
use burn::tensor::{Device, Tensor};

/// A layer that maps images to images: what PyTorch's `nn.Sequential` holds in a VGG.
///
/// Its [`Module`] is written by hand: the derived one (see [`burn_0_22`](crate::burn_0_22)) would make a path
/// `features.0.Convolution.weight` where PyTorch has `features.0.weight`.
#[derive(Debug, Clone)]
pub(crate) enum FeatureLayer {
    Convolution(Conv2d),
    BatchNorm(BatchNorm),
    Relu(Relu),
    MaxPool(MaxPool2d),
}

/// Evaluates an expression on the layer inside.
macro_rules! with_layer {
    ($self:expr, $layer:ident => $value:expr) => {
        match $self {
            FeatureLayer::Convolution($layer) => $value,
            FeatureLayer::BatchNorm($layer) => $value,
            FeatureLayer::Relu($layer) => $value,
            FeatureLayer::MaxPool($layer) => $value,
        }
    };
}

/// Evaluates an expression on the layer inside, and wraps the layer it gives in the same variant.
macro_rules! map_layer {
    ($self:expr, $layer:ident => $value:expr) => {
        match $self {
            FeatureLayer::Convolution($layer) => FeatureLayer::Convolution($value),
            FeatureLayer::BatchNorm($layer) => FeatureLayer::BatchNorm($value),
            FeatureLayer::Relu($layer) => FeatureLayer::Relu($value),
            FeatureLayer::MaxPool($layer) => FeatureLayer::MaxPool($value),
        }
    };
}

impl FeatureLayer {
    /// `[batch, channels_in, height, width]` to `[batch, channels_out, height_out, width_out]`.
    pub(crate) fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        with_layer!(self, layer => layer.forward(input))
    }
}

impl Module for FeatureLayer {
    fn collect_devices(&self, devices: Devices) -> Devices {
        with_layer!(self, layer => layer.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        map_layer!(self, layer => layer.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        map_layer!(self, layer => layer.to_device(device))
    }

    fn train(self) -> Self {
        map_layer!(self, layer => layer.train())
    }

    fn valid(&self) -> Self {
        map_layer!(self, layer => layer.valid())
    }

    fn materialize(self) -> Self {
        map_layer!(self, layer => layer.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        with_layer!(self, layer => layer.visit(visitor))
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        map_layer!(self, layer => layer.map(mapper))
    }
}

impl ModuleDisplay for FeatureLayer {
    fn format(&self, settings: DisplaySettings) -> String {
        with_layer!(self, layer => layer.format(settings))
    }
}

impl ModuleDisplayDefault for FeatureLayer {
    fn content(&self, content: Content) -> Option<Content> {
        with_layer!(self, layer => layer.content(content))
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}
