//! The layers of a dense block, which PyTorch counts from 1 and names.

use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::tensor::{Device, Tensor};

use super::densenet::DenseLayer;

/// Layers that each see the outputs of all earlier ones. Their paths are `denselayer1`, `denselayer2` and so on.
#[derive(Debug, Clone)]
pub(super) struct DenseBlock(Vec<DenseLayer>);

impl DenseBlock {
    pub(super) fn new(channels: usize, layers: usize, growth_rate: usize, device: &Device) -> Self {
        let channels = (0..layers).map(|layer| channels + layer * growth_rate);
        let layers = channels.map(|channels| DenseLayer::new(channels, growth_rate, device));
        Self(layers.collect())
    }

    /// `[batch, channels, height, width]` to the same with `growth_rate` more channels for every layer.
    pub(super) fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        self.0.iter().fold(input, |features, layer| {
            let new_features = layer.forward(features.clone());
            Tensor::cat(vec![features, new_features], 1)
        })
    }
}

/// The container that a visitor is told of, for the module that holds the layers.
const CONTAINER: &str = "Struct:DenseBlock";

fn layer_name(index: usize) -> String {
    format!("denselayer{}", index + 1)
}

/// The derived one would number the layers of the `Vec` from 0.
impl Module for DenseBlock {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to_device(device))
    }

    fn train(self) -> Self {
        Self(self.0.train())
    }

    fn valid(&self) -> Self {
        Self(self.0.valid())
    }

    fn materialize(self) -> Self {
        Self(self.0.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        for (index, layer) in self.0.iter().enumerate() {
            let name = layer_name(index);
            visitor.enter_module(&name, CONTAINER);
            layer.visit(visitor);
            visitor.exit_module(&name, CONTAINER);
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        let layers = self.0.into_iter().enumerate().map(|(index, layer)| {
            let name = layer_name(index);
            mapper.enter_module(&name, CONTAINER);
            let mapped = layer.map(mapper);
            mapper.exit_module(&name, CONTAINER);
            mapped
        });
        Self(layers.collect())
    }
}

impl ModuleDisplay for DenseBlock {
    fn format(&self, settings: DisplaySettings) -> String {
        self.0.format(settings)
    }
}

impl ModuleDisplayDefault for DenseBlock {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}
