//! The device by name.

use burn::tensor::Device;
use thiserror::Error;

/// A name of no device, or of one that this program was built without.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// No such device.
    #[error(
        "there is no device `{0}`: take flex (the CPU), wgpu, vulkan, metal, cuda or rocm, \
         and put an index behind it to pick one of several, as in cuda:1"
    )]
    Unknown(String),

    /// Left out of the build.
    #[error(
        "this program was built without `{name}`: build it with \
         `cargo build --release --bin cifar --features {name},fusion,autotune`"
    )]
    NotBuilt {
        /// The device, which is the name of the feature as well.
        name: &'static str,
    },
}

/// The device that `--device` names: `flex`, or `wgpu`, `vulkan`, `metal`, `cuda` or `rocm` with or
/// without the index of one of several, as in `cuda:1`.
///
/// # Errors
///
/// [`DeviceError`] for a name of no device, or of one that this program was built without.
pub fn parse(text: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown(text.to_owned());
    let (name, index) = match text.split_once(':') {
        None => (text, None),
        Some((name, index)) => (name, Some(index.parse::<usize>().map_err(|_| unknown())?)),
    };
    match (name, index) {
        ("flex", None) => flex(),
        ("wgpu", index) => wgpu(index),
        ("vulkan", index) => vulkan(index),
        ("metal", index) => metal(index),
        ("cuda", index) => cuda(index.unwrap_or(0)),
        ("rocm", index) => rocm(index.unwrap_or(0)),
        _ => Err(unknown()),
    }
}

/// A device that is there if its feature is.
macro_rules! device {
    ($function:ident, $feature:literal, $argument:ty, $make:expr) => {
        #[cfg(feature = $feature)]
        fn $function(argument: $argument) -> Result<Device, DeviceError> {
            let make: fn($argument) -> Device = $make;
            Ok(make(argument))
        }

        #[cfg(not(feature = $feature))]
        fn $function(_argument: $argument) -> Result<Device, DeviceError> {
            Err(DeviceError::NotBuilt { name: $feature })
        }
    };
}

#[cfg(feature = "flex")]
fn flex() -> Result<Device, DeviceError> {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn flex() -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { name: "flex" })
}

device!(wgpu, "wgpu", Option<usize>, |index| Device::wgpu(kind(
    index
)));
device!(vulkan, "vulkan", Option<usize>, |index| Device::vulkan(
    kind(index)
));
device!(metal, "metal", Option<usize>, |index| Device::metal(kind(
    index
)));
device!(cuda, "cuda", usize, |index| Device::cuda(index));
device!(rocm, "rocm", usize, |index| Device::rocm(index));

/// The graphics card that wgpu picks, or one of several.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn kind(index: Option<usize>) -> burn::tensor::DeviceKind {
    match index {
        None => burn::tensor::DeviceKind::default(),
        Some(index) => burn::tensor::DeviceKind::DiscreteGpu(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "flex")]
    fn flex_is_a_device() {
        assert_eq!(parse("flex"), Ok(Device::flex()));
    }

    #[test]
    fn a_name_of_no_device_is_an_error_that_lists_them() {
        for name in ["gpu", "flex:1", "cuda:first", ""] {
            let error = parse(name).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
            assert!(error.contains("cuda:1"), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "rocm"))]
    fn a_device_left_out_of_the_build_names_the_feature() {
        let error = parse("rocm:2").unwrap_err().to_string();
        assert!(error.contains("--features rocm"), "{error}");
    }
}
