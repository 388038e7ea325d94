//! Files as memory, so that weights are read only where somebody looks at them.
//!
//! All unsafe code of reading is here. What makes it sound is that nobody shortens or rewrites a model while it is mapped;
//! the writer of this crate keeps to that by renaming a new file over the old one, whose bytes live on until they are unmapped.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file mapped for reading, and the open file itself.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Locked because its read position is shared state.
    file: Mutex<File>,
    /// The same file, for reads that name their position.
    #[cfg(unix)]
    reader: File,
}

impl MappedFile {
    /// Map the file at `path`. Nothing of it is read yet.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        // Asked before opening, because opening a pipe would wait for its writer.
        let kind = fs::metadata(path).map_err(Error::io("open", path))?;
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "a special file" };
            return Err(Error::NotAFile { path: path.to_owned(), what });
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        let map = map(&file).map_err(Error::io("map", path))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            map,
            #[cfg(unix)]
            reader: file.try_clone().map_err(Error::io("open", path))?,
            file: Mutex::new(file),
        }))
    }

    /// Where the file was when it was mapped.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// The whole file. Slices of the result keep the mapping alive.
    pub(crate) fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Owner(Arc::clone(self)))
    }

    /// Where in the file `slice` lies, if it is a non-empty part of this mapping.
    pub(crate) fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let offset = slice.as_ptr().addr().checked_sub(self.map.as_ptr().addr())?;
        let end = offset.checked_add(slice.len())?;
        (!slice.is_empty() && end <= self.map.len()).then_some(offset as u64)
    }

    /// Give back the memory of `range`, widened to whole pages; they are read from the file again when next looked at.
    /// Does nothing where the system has no such call.
    pub fn release(&self, range: Range<u64>) {
        let size = self.size();
        let (start, end) = (range.start.min(size), range.end.min(size));
        if let (Ok(start), Ok(len)) = (usize::try_from(start), usize::try_from(end.saturating_sub(start)))
            && len > 0
        {
            drop_pages(&self.map, start, len);
        }
    }

    /// Hand the whole file to `each` in order, in pieces, each of which is given back before the next is read. Faster than
    /// reading into a buffer, because nothing is copied.
    pub fn scan(&self, mut each: impl FnMut(&[u8])) {
        const PIECE: usize = 4 << 20;
        let mut start: u64 = 0;
        for piece in self.map.chunks(PIECE) {
            each(piece);
            let end = start + piece.len() as u64;
            self.release(start..end);
            start = end;
        }
    }

    /// Fill `buffer` from `offset` on, through the file instead of the mapping, whose pages therefore stay out of memory.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(offset, buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.ended_early(),
            _ => error,
        })
    }

    #[cfg(unix)]
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.reader, buffer, offset)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buffer)
    }

    /// Append a part of this file to `target`. Where the system can, it copies by itself, or even shares the blocks.
    pub(crate) fn copy_range(&self, offset: u64, length: u64, target: &mut File) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        let copied = io::copy(&mut (&mut *file).take(length), target)?;
        if copied == length { Ok(()) } else { Err(self.ended_early()) }
    }

    fn ended_early(&self) -> io::Error {
        let what = format!("{} ended early while it was read: was it changed?", self.path.display());
        io::Error::new(io::ErrorKind::UnexpectedEof, what)
    }
}

/// What a `Bytes` over a mapping owns.
struct Owner(Arc<MappedFile>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

#[expect(unsafe_code, reason = "the only way to map a file")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only and shared with the file. A process that shortens or rewrites the file meanwhile breaks
    // this, as it would break any reader of the file; this crate itself only ever renames new files into place.
    unsafe { Mmap::map(file) }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "dropping pages is declared unsafe because it would lose writes to private memory")]
fn drop_pages(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the mapping is shared, file-backed and never written to. Its pages hold what the file holds, and are read
    // from there again, so the bytes that other threads see do not change.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
}

#[cfg(not(unix))]
fn drop_pages(_: &Mmap, _: usize, _: usize) {}
