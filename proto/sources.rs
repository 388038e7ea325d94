//! The files behind a model's weights: finding external data, and telling where bytes come from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::limits::tensor_byte_len;
use crate::location;
use crate::mapped::MappedFile;
use crate::onnx::TensorProto;
use crate::onnx::tensor_proto::DataLocation;

/// How much [`Sources::read`] holds at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The mapped files of one model: its own, and each external data file once, from its first use on.
///
/// It is handed to the writer with the model, so that weights nobody changed go from file to file without passing through
/// memory. A model that was built in memory has the [`Default`], which knows no file and no folder.
#[derive(Debug, Default)]
pub struct Sources {
    /// Where external data may lie: the folder of the model's path and, if that is a link, the folder of the file it means.
    folders: Vec<PathBuf>,
    files: Mutex<Vec<Arc<MappedFile>>>,
}

impl Sources {
    /// For a model without a file whose external data lies in `folder`.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folders: vec![folder.into()], files: Mutex::default() }
    }

    /// For the model in `file`, opened by way of `path`.
    pub fn of_model(path: &Path, file: Arc<MappedFile>) -> Self {
        let mut folders = vec![folder_of(path)];
        if path.is_symlink()
            && let Ok(real) = fs::canonicalize(path)
        {
            folders.push(folder_of(&real));
        }
        Self { folders, files: Mutex::new(vec![file]) }
    }

    /// The folder that relative locations start from; none for a model that came as bytes.
    pub fn folder(&self) -> Option<&Path> {
        self.folders.first().map(PathBuf::as_path)
    }

    /// The files opened so far: the model's own first, if it came from one, then its data files in the order of first use.
    pub fn files(&self) -> Vec<Arc<MappedFile>> {
        self.lock().clone()
    }

    /// The fixed-width little-endian bytes of `tensor`, inline or external, checked against its type and shape; `None` if it
    /// has none, so that its elements are in a typed field, or it is empty or broken.
    ///
    /// # Errors
    /// If type and shape give no size or another one than the data has, or the external data cannot be had.
    pub fn raw(&self, tensor: &TensorProto) -> Result<Option<Bytes>> {
        if tensor.data_location() == DataLocation::External {
            return self.external(tensor).map(Some);
        }
        let Some(raw) = tensor.raw_data.as_ref().filter(|raw| !raw.is_empty()) else { return Ok(None) };
        expect_length(tensor, raw.len() as u64)?;
        Ok(Some(raw.clone()))
    }

    /// The external bytes of `tensor`, as a slice of its mapped file. No byte is read or reserved.
    ///
    /// # Errors
    /// If the entries are malformed, the location is refused or missing, the tensor's type and shape give no size or not the
    /// stated length, or the file is too short.
    pub fn external(&self, tensor: &TensorProto) -> Result<Bytes> {
        let place = Place::of(tensor)?;
        let length = match place.length {
            Some(length) => expect_length(tensor, length)?,
            None => byte_len(tensor)?,
        };
        let file = self.data_file(tensor, place.location)?;
        let past_end = || Error::PastEnd {
            tensor: tensor.name().to_owned(),
            path: file.path().to_owned(),
            offset: place.offset,
            length,
            size: file.size(),
        };
        let end = place.offset.checked_add(length).filter(|&end| end <= file.size()).ok_or_else(past_end)?;
        let (Ok(start), Ok(end)) = (usize::try_from(place.offset), usize::try_from(end)) else {
            return Err(past_end());
        };
        Ok(file.bytes().slice(start..end))
    }

    /// The file that `bytes` is a part of, and where it starts there, in bytes; `None` for memory of any other kind.
    pub fn locate(&self, bytes: &[u8]) -> Option<(Arc<MappedFile>, u64)> {
        self.lock().iter().find_map(|file| Some((Arc::clone(file), file.offset_of(bytes)?)))
    }

    /// Give back the memory under `bytes` if they are part of a mapped file. They stay readable, at the price of reading the
    /// file again. For whoever has gone through a large weight and will not come back soon.
    pub fn release(&self, bytes: &[u8]) {
        if let Some((file, offset)) = self.locate(bytes) {
            file.release(offset..offset.saturating_add(bytes.len() as u64));
        }
    }

    /// Hand `bytes` to `each` in order, in pieces of at most 1 MiB, without leaving them in memory: those of a mapped file are
    /// read into one small buffer.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let Some((file, mut offset)) = self.locate(bytes) else {
            bytes.chunks(CHUNK_BYTES).for_each(each);
            return Ok(());
        };
        let mut buffer = vec![0; CHUNK_BYTES.min(bytes.len())];
        for piece in bytes.chunks(CHUNK_BYTES) {
            let piece = buffer.get_mut(..piece.len()).unwrap_or_default();
            file.read_at(offset, piece)?;
            each(piece);
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Fill `buffer` with what `bytes` holds, which must be as long, without leaving it in memory.
    ///
    /// # Errors
    /// If the lengths differ, or the file cannot be read.
    pub fn read_into(&self, bytes: &[u8], buffer: &mut [u8]) -> io::Result<()> {
        if bytes.len() != buffer.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match self.locate(bytes) {
            Some((file, offset)) => file.read_at(offset, buffer),
            None => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn data_file(&self, tensor: &TensorProto, location: &str) -> Result<Arc<MappedFile>> {
        let path = location::resolve(location, &self.folders).map_err(|source| Error::Location {
            tensor: tensor.name().to_owned(),
            location: location.escape_debug().to_string(),
            source,
        })?;
        let mut files = self.lock();
        if let Some(known) = files.iter().find(|file| file.path() == path) {
            return Ok(Arc::clone(known));
        }
        let file = MappedFile::open(&path)?;
        files.push(Arc::clone(&file));
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<MappedFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of `TensorProto.external_data` that place a tensor in a file.
struct Place<'a> {
    location: &'a str,
    /// In bytes.
    offset: u64,
    /// In bytes; without it the tensor's type and shape decide.
    length: Option<u64>,
}

impl<'a> Place<'a> {
    fn of(tensor: &'a TensorProto) -> Result<Self> {
        let bad = |key, problem: String| Error::ExternalEntry { tensor: tensor.name().to_owned(), key, problem };
        let entry = |key: &'static str| {
            let mut found = tensor.external_data.iter().filter(|entry| entry.key() == key);
            let value = found.next().map(|entry| entry.value());
            // Readers disagree which one counts.
            if found.next().is_some() { Err(bad(key, "is given twice".to_owned())) } else { Ok(value) }
        };
        let number = |key: &'static str| match entry(key)? {
            None => Ok(None),
            Some(text) => {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let value = if digits { text.parse().ok() } else { None };
                value
                    .map(Some)
                    .ok_or_else(|| bad(key, format!("is \"{}\", not a number of bytes", text.escape_debug())))
            }
        };
        let location = entry("location")?.ok_or_else(|| bad("location", "is missing".to_owned()))?;
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

fn byte_len(tensor: &TensorProto) -> Result<u64> {
    tensor_byte_len(tensor.data_type(), &tensor.dims)
        .map_err(|source| Error::Size { tensor: tensor.name().to_owned(), source })
}

fn expect_length(tensor: &TensorProto, found: u64) -> Result<u64> {
    let expected = byte_len(tensor)?;
    if found == expected {
        return Ok(expected);
    }
    Err(Error::WrongLength { tensor: tensor.name().to_owned(), expected, found })
}

/// The folder of the file at `path`; a bare name lies in the current one.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    }
}
