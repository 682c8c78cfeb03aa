//! Writing a state dict to a SafeTensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::store::bridge;
use burn::store::burn_pack::AtomicFile;
use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, View};

use super::{Entry, StateDict, StateDictError};

impl StateDict {
    /// Writes a SafeTensors file, for `load_state_dict(safetensors.torch.load_file(...), strict=True)`.
    ///
    /// # Errors
    ///
    /// [`StateDictError::Write`]. The file is written under another name and then moved, so an existing file stays as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), StateDictError> {
        let path = path.as_ref();
        let failed = |reason: String| StateDictError::Write {
            path: path.to_owned(),
            reason,
        };
        let tensors = self.entries.values().map(|entry| {
            let data = WholeTensor::read(entry)?;
            Ok((entry.name.as_str(), data))
        });
        let tensors: Vec<_> = tensors.collect::<Result<_, _>>().map_err(&failed)?;
        let metadata: HashMap<_, _> = self.metadata.clone().into_iter().collect();
        let metadata = (!metadata.is_empty()).then_some(metadata);

        let (scratch, reserved) =
            AtomicFile::create(path).map_err(|error| failed(error.to_string()))?;
        // The permissions of any new file. SafeTensors (0.8.0) replaces it by a file that only its owner can read.
        let permissions = reserved.metadata().map(|metadata| metadata.permissions());
        drop(reserved);
        safetensors::serialize_to_file(tensors, metadata, scratch.path())
            .map_err(|error| failed(error.to_string()))?;
        permissions
            .and_then(|permissions| fs::set_permissions(scratch.path(), permissions))
            .map_err(|error| failed(error.to_string()))?;
        scratch.commit().map_err(|error| failed(error.to_string()))
    }
}

/// A tensor with its data. SafeTensors has no error for data that cannot be read while it writes.
struct WholeTensor {
    data: TensorData,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl WholeTensor {
    fn read(entry: &Entry) -> Result<Self, String> {
        let data = bridge::to_data(entry).map_err(|error| error.to_string())?;
        let dtype = match entry.dtype {
            DType::F64 => Dtype::F64,
            DType::F32 | DType::Flex32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            other => {
                return Err(format!(
                    "`{}` is of {other:?}, which has no place in a state dict: expected a float. \
                     Export the network before it is quantised",
                    entry.name
                ));
            }
        };
        Ok(Self {
            shape: data.shape().to_vec(),
            data,
            dtype,
        })
    }
}

impl View for WholeTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.data.as_bytes().into()
    }

    fn data_len(&self) -> usize {
        self.data.as_bytes().len()
    }
}
