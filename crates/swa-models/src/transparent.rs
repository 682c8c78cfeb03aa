//! Enums of modules, without the variants in parameter paths.

/// Implements Burn's module traits for an enum with one module per variant. Its paths are those of the module inside.
///
/// The derived [`Module`](burn::module::Module) (see [`burn_0_22`](crate::burn_0_22)) would make a path
/// `features.0.Convolution.weight` where PyTorch has `features.0.weight`.
macro_rules! transparent_module {
    ($name:ident { $($variant:ident),+ $(,)? }) => {
        impl burn::module::Module for $name {
            fn collect_devices(&self, devices: burn::module::Devices) -> burn::module::Devices {
                match self {
                    $(Self::$variant(module) => module.collect_devices(devices)),+
                }
            }

            fn fork(self, device: &burn::tensor::Device) -> Self {
                match self {
                    $(Self::$variant(module) => Self::$variant(module.fork(device))),+
                }
            }

            fn to_device(self, device: &burn::tensor::Device) -> Self {
                match self {
                    $(Self::$variant(module) => Self::$variant(module.to_device(device))),+
                }
            }

            fn train(self) -> Self {
                match self {
                    $(Self::$variant(module) => Self::$variant(module.train())),+
                }
            }

            fn valid(&self) -> Self {
                match self {
                    $(Self::$variant(module) => Self::$variant(module.valid())),+
                }
            }

            fn materialize(self) -> Self {
                match self {
                    $(Self::$variant(module) => Self::$variant(module.materialize())),+
                }
            }

            fn visit<Visitor: burn::module::ModuleVisitor>(&self, visitor: &mut Visitor) {
                match self {
                    $(Self::$variant(module) => module.visit(visitor)),+
                }
            }

            fn map<Mapper: burn::module::ModuleMapper>(self, mapper: &mut Mapper) -> Self {
                match self {
                    $(Self::$variant(module) => Self::$variant(module.map(mapper))),+
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self {
                    $(Self::$variant(module) => core::fmt::Display::fmt(module, f)),+
                }
            }
        }

        impl burn::module::ModuleDisplay for $name {
            fn format(&self, settings: burn::module::DisplaySettings) -> String {
                match self {
                    $(Self::$variant(module) => module.format(settings)),+
                }
            }
        }

        impl burn::module::ModuleDisplayDefault for $name {
            fn content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
                match self {
                    $(Self::$variant(module) => module.content(content)),+
                }
            }

            fn num_params(&self) -> usize {
                burn::module::Module::num_params(self)
            }
        }
    };
}

pub(crate) use transparent_module;
