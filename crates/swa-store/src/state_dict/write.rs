//! Writing a state dict to a SafeTensors file.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::serde::Serialize;
use burn::store::bridge;
use burn::store::burn_pack::AtomicFile;
use burn::tensor::{BoolStore, DType};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::{Entry, StateDict, StateDictError};

/// The key in a file's metadata of the library whose tensors it holds. `accelerate` and `transformers` refuse a file that has
/// metadata, but not this.
pub(super) const FORMAT: &str = "format";

/// The name of PyTorch under [`FORMAT`].
const PYTORCH: &str = "pt";

/// The header of a SafeTensors file. In that of SafeTensors (0.8.0), the metadata are a `HashMap`, which is written in another
/// order every time.
#[derive(Serialize)]
#[serde(crate = "burn::serde")]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    tensors: Metadata,
}

impl StateDict {
    /// Writes a SafeTensors file, for `load_state_dict(safetensors.torch.load_file(...), strict=True)`.
    ///
    /// Its metadata say `format: pt`, as those of PyTorch's own files do, unless [`with_metadata`](Self::with_metadata) set
    /// another format. The same state dict gives the same file, byte for byte.
    ///
    /// # Errors
    ///
    /// [`StateDictError::Write`]. The file is written under another name and then moved, so an existing file stays as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), StateDictError> {
        let path = path.as_ref();
        self.write_to(path).map_err(|reason| StateDictError::Write {
            path: path.to_owned(),
            reason,
        })
    }

    fn write_to(&self, path: &Path) -> Result<(), String> {
        let tensors = self.entries.values().map(|entry| {
            let (dtype, cast) = dtype_in_file(entry)?;
            Ok((dtype, cast, entry))
        });
        let mut tensors: Vec<_> = tensors.collect::<Result<_, String>>()?;
        // As SafeTensors itself does: so each tensor's place is a multiple of its elements' size.
        tensors.sort_by_key(|(dtype, ..)| std::cmp::Reverse(*dtype));
        let header = self.header(&tensors)?;

        let failed = |error: std::io::Error| error.to_string();
        let (scratch, file) = AtomicFile::create(path).map_err(|error| error.to_string())?;
        let mut file = BufWriter::new(file);
        let length = header.len() as u64;
        file.write_all(&length.to_le_bytes()).map_err(failed)?;
        file.write_all(&header).map_err(failed)?;
        for (_, cast, entry) in tensors {
            let unreadable = |error: String| format!("`{}` cannot be read: {error}", entry.name);
            let data = bridge::to_data(entry).map_err(|error| unreadable(error.to_string()))?;
            let data = data
                .try_cast(cast)
                .map_err(|error| unreadable(error.to_string()))?;
            file.write_all(data.as_bytes()).map_err(failed)?;
        }
        // This closes the file, which can be moved then.
        drop(
            file.into_inner()
                .map_err(|error| failed(error.into_error()))?,
        );
        scratch.commit().map_err(|error| error.to_string())
    }

    /// The header of a file that holds `tensors` in this order.
    fn header(&self, tensors: &[(Dtype, DType, &Entry)]) -> Result<Vec<u8>, String> {
        let mut end = 0;
        let infos = tensors.iter().map(|&(dtype, _, entry)| {
            let start = end;
            end += entry.shape.num_elements() * dtype.bitsize() / 8;
            let info = TensorInfo {
                dtype,
                shape: entry.shape.to_vec(),
                data_offsets: (start, end),
            };
            (entry.name.clone(), info)
        });
        let tensors = Metadata::new(None, infos.collect()).map_err(|error| error.to_string())?;
        let mut metadata = BTreeMap::from([(FORMAT, PYTORCH)]);
        let given = self.metadata.iter();
        metadata.extend(given.map(|(key, value)| (key.as_str(), value.as_str())));
        let header = Header { metadata, tensors };
        let mut header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
        // The tensors begin at a multiple of eight bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }
}

/// The dtype under which a tensor is written, as SafeTensors and as Burn name it.
fn dtype_in_file(entry: &Entry) -> Result<(Dtype, DType), String> {
    let dtype = match entry.dtype {
        DType::F64 => Dtype::F64,
        DType::F32 | DType::Flex32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
        // burn-store (0.22.1) reads no SafeTensors file with a U16 in it.
        DType::U16 => return Ok((Dtype::I32, DType::I32)),
        DType::Bool(_) => return Ok((Dtype::BOOL, DType::Bool(BoolStore::Native))),
        DType::QFloat(_) => {
            return Err(format!(
                "`{}` is quantised, which has no place in a state dict: expected floats, ints or bools. \
                 Export the network before it is quantised",
                entry.name
            ));
        }
    };
    Ok((dtype, entry.dtype))
}
