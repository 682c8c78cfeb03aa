//! The device by name.

use burn::tensor::Device;
use thiserror::Error;

/// The device where none is named.
pub const DEFAULT_DEVICE: &str = "flex";

/// The reason why a name does not give a device.
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
         `cargo build --release --bin {} --features {name},fusion,autotune`",
        crate::provenance::program()
    )]
    NotBuilt {
        /// The device, which is the name of the feature as well.
        name: &'static str,
    },

    /// No such hardware, or no driver for it.
    #[error(
        "this machine has {found} devices for `{name}`: take an index below that, install the driver, \
         or take another device"
    )]
    NotThere {
        /// The device.
        name: &'static str,
        /// The number of such devices.
        found: usize,
    },
}

/// The device that `--device` names: `flex`, or `wgpu`, `vulkan`, `metal`, `cuda` or `rocm` with or
/// without the index of one of several, as in `cuda:1`.
///
/// # Errors
///
/// [`DeviceError`] if there is no such name, or the program was built without that device, or the
/// machine does not have it.
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
        ("cuda", index) => cuda(index),
        ("rocm", index) => rocm(index),
        _ => Err(unknown()),
    }
}

/// Tells whether kernels are compiled, in every process anew, for the device that a name stands for, as for all but the CPU.
pub(crate) fn compiles_kernels(text: &str) -> bool {
    text != DEFAULT_DEVICE
}

/// Tells whether the device that a name stands for multiplies 32-bit numbers in TF32, of which eleven bits count. CubeCL (0.11)
/// does so where tensor cores take it, for convolutions too: on CUDA.
pub fn multiplies_in_tf32(text: &str) -> bool {
    text.split(':').next() == Some("cuda")
}

#[cfg(feature = "flex")]
fn flex() -> Result<Device, DeviceError> {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn flex() -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { name: "flex" })
}

/// A device that is there if its feature and the hardware are; without an index, the one that Burn takes.
macro_rules! accelerator {
    ($function:ident, $feature:literal, $type:ident, $default:expr) => {
        #[cfg(feature = $feature)]
        fn $function(index: Option<usize>) -> Result<Device, DeviceError> {
            let found = Device::enumerate(burn::tensor::DeviceType::$type).into_vec();
            let count = found.len();
            let device = match index {
                Some(index) => found.into_iter().nth(index),
                None => (count > 0).then(|| $default),
            };
            device.ok_or(DeviceError::NotThere {
                name: $feature,
                found: count,
            })
        }

        #[cfg(not(feature = $feature))]
        fn $function(_index: Option<usize>) -> Result<Device, DeviceError> {
            Err(DeviceError::NotBuilt { name: $feature })
        }
    };
}

accelerator!(wgpu, "wgpu", Wgpu, Device::wgpu(Default::default()));
accelerator!(vulkan, "vulkan", Vulkan, Device::vulkan(Default::default()));
accelerator!(metal, "metal", Metal, Device::metal(Default::default()));
accelerator!(cuda, "cuda", Cuda, Device::cuda(0));
accelerator!(rocm, "rocm", Rocm, Device::rocm(0));

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
