//! SafeTensors files: opened without reading a tensor, and written a tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use burn::serde::Serialize;
use burn::store::bridge;
use burn::store::burn_pack::{AtomicFile, Tensor as Entry};
use burn::tensor::{BoolStore, Bytes, DType};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// The key in a file's metadata of the library whose tensors it holds. `accelerate` and `transformers` refuse a file that has
/// metadata, but not this.
pub(crate) const FORMAT: &str = "format";

/// The name of PyTorch under [`FORMAT`].
pub(crate) const PYTORCH: &str = "pt";

/// The number of bytes in which a file says how long its header is.
const LENGTH_BYTES: usize = 8;

/// The longest header that SafeTensors (0.8.0) reads.
const LONGEST_HEADER: u64 = 100_000_000;

/// Tells whether a file begins like a SafeTensors file: with the length of a JSON object in eight bytes, and its brace. Files of
/// `torch.save` begin like an archive or a pickle, neither of which has a brace there.
pub(crate) fn is_safetensors(first_bytes: &[u8]) -> bool {
    first_bytes.get(LENGTH_BYTES) == Some(&b'{')
}

/// The first bytes of a file, which tell its kind.
pub(crate) fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The reason why a file could not be opened.
#[derive(Debug)]
pub(crate) enum Unreadable {
    Io(io::Error),
    Damaged(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Tensors by their names, and metadata.
pub(crate) type Contents = (BTreeMap<String, Entry>, BTreeMap<String, String>);

/// The tensors of a file, each of which is read when its bytes are asked for.
pub(crate) fn open(path: &Path) -> Result<Contents, Unreadable> {
    let damaged = |reason: String| Unreadable::Damaged(reason);
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; LENGTH_BYTES];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let begin = length.saturating_add(LENGTH_BYTES as u64);
    if length > LONGEST_HEADER || begin > size {
        return Err(damaged(format!(
            "its header is said to have {length} bytes, and the file has {size}"
        )));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    // This checks that the tensors lie one behind the other, and are as long as their shapes say.
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
    let end = header.data_len() as u64;
    if begin.checked_add(end) != Some(size) {
        return Err(damaged(format!(
            "its tensors are said to have {end} bytes, and the file has {} for them",
            size - begin
        )));
    }

    let values = Bytes::from_file(path, end, begin);
    let mut entries = BTreeMap::new();
    for (name, info) in header.tensors() {
        let dtype = burn_dtype(info.dtype).ok_or_else(|| {
            damaged(format!(
                "`{name}` is {:?}, which Burn has not: expected floats of 16 to 64 bits, ints or bools",
                info.dtype
            ))
        })?;
        let (start, end) = info.data_offsets;
        let bytes = values.view(start, end);
        let bytes = bytes.map_err(|error| damaged(format!("`{name}`: {error:?}")))?;
        let entry = Entry::new(name.clone(), dtype, info.shape.clone(), None, bytes);
        entries.insert(name, entry);
    }
    let metadata = header.metadata().iter().flatten();
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone()));
    Ok((entries, metadata.collect()))
}

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

/// Writes a file beside its place, and moves it there. The same tensors and metadata give the same bytes.
///
/// `values` writes the values of an entry in a dtype, which is the entry's own wherever SafeTensors has it. The metadata say
/// `format: pt`, unless they have another format.
pub(crate) fn write<'a>(
    path: &Path,
    entries: impl Iterator<Item = &'a Entry>,
    metadata: &BTreeMap<String, String>,
    mut values: impl FnMut(&Entry, DType, &mut (dyn Write + Send)) -> Result<(), String>,
) -> Result<(), String> {
    let tensors = entries.map(|entry| {
        let (dtype, cast) = dtype_in_file(entry)?;
        Ok((dtype, cast, entry))
    });
    let mut tensors: Vec<_> = tensors.collect::<Result<_, String>>()?;
    // As SafeTensors itself does: so each tensor's place is a multiple of its elements' size.
    tensors.sort_by_key(|(dtype, ..)| std::cmp::Reverse(*dtype));
    let header = header(&tensors, metadata)?;

    let failed = |error: io::Error| error.to_string();
    let (scratch, file) = AtomicFile::create(path).map_err(|error| error.to_string())?;
    let mut file = BufWriter::new(file);
    let length = header.len() as u64;
    file.write_all(&length.to_le_bytes()).map_err(failed)?;
    file.write_all(&header).map_err(failed)?;
    for (_, cast, entry) in tensors {
        values(entry, cast, &mut file)?;
    }
    // This closes the file, which can be moved then.
    drop(
        file.into_inner()
            .map_err(|error| failed(error.into_error()))?,
    );
    scratch.commit().map_err(|error| error.to_string())
}

/// Writes the values of an entry in a dtype.
pub(crate) fn write_values(
    entry: &Entry,
    dtype: DType,
    file: &mut (dyn Write + Send),
) -> Result<(), String> {
    let unreadable = |error: String| format!("`{}` cannot be read: {error}", entry.name);
    let data = bridge::to_data(entry).map_err(|error| unreadable(error.to_string()))?;
    let data = data
        .try_cast(dtype)
        .map_err(|error| unreadable(error.to_string()))?;
    let written = file.write_all(data.as_bytes());
    written.map_err(|error| error.to_string())
}

/// The header of a file that holds `tensors` in this order.
fn header(
    tensors: &[(Dtype, DType, &Entry)],
    given: &BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
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
    let given = given.iter();
    metadata.extend(given.map(|(key, value)| (key.as_str(), value.as_str())));
    let header = Header { metadata, tensors };
    let mut header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    // The tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
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

/// The dtype that Burn has for one of a file, if it has one.
fn burn_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool(BoolStore::Native),
        _ => return None,
    })
}
