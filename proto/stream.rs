//! A buffer for prost to encode into that never holds the message: weights pass it by.
//!
//! prost computes lengths ahead without looking at the weights, and hands every `bytes` field over in one piece. A piece that is
//! part of a mapped file goes through a small buffer, and not through the mapping, or is copied from file to file by the system
//! where whole blocks go to where blocks begin, as it may share them. Others it would copy page by page, each into two. The output
//! equals `encode_to_vec` by construction, as it is the same code that encodes.

use std::fs::File;
use std::io::{self, Write};
use std::mem;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};
use prost::Message;

use crate::mapped::MappedFile;
use crate::sources::Sources;

/// What is written at a time: enough for the system to take pages in bulk, little enough for a core's cache.
const BUFFER_BYTES: usize = 1 << 20;

/// From this size on, bytes of a mapped file are fetched by a call of their own instead of through the mapping.
const READ_FROM: usize = 512;

/// From this size on, whole blocks are worth a copy from file to file.
const COPY_FROM: usize = 1 << 16;

/// File systems share parts of files that begin at multiples of this.
const BLOCK: u64 = 4096;

/// Writes to a file from its current position on. The first failure is kept, and what comes after it is ignored.
pub(crate) struct Stream<'a> {
    file: &'a mut File,
    sources: &'a Sources,
    /// Always of `BUFFER_BYTES`.
    buffer: Box<[u8]>,
    /// How much of `buffer` is waiting.
    filled: usize,
    /// Bytes accepted so far, waiting ones included.
    position: u64,
    state: io::Result<()>,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(file: &'a mut File, sources: &'a Sources) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { file, sources, buffer, filled: 0, position: 0, state: Ok(()) }
    }

    /// Append an encoded message.
    pub(crate) fn message(&mut self, message: &impl Message) {
        // Fails only for lack of room, which a stream does not know.
        let _ = message.encode(self);
    }

    /// Append zeros up to a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: u64) {
        while self.state.is_ok() && !self.position.is_multiple_of(alignment) {
            self.put_u8(0);
        }
    }

    /// Append `bytes`, without the mapping if they are part of a mapped file.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if self.state.is_ok() {
            self.state = self.try_bytes(bytes);
        }
    }

    /// Write what is waiting, and tell how many bytes were written in all, or what went wrong first.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        mem::replace(&mut self.state, Ok(()))?;
        self.flush()?;
        Ok(self.position)
    }

    fn try_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.position;
        self.position += bytes.len() as u64;
        if bytes.len() < READ_FROM {
            return self.gather(bytes);
        }
        let Some((file, offset)) = self.sources.locate(bytes) else { return self.gather(bytes) };
        if bytes.len() >= COPY_FROM && offset.is_multiple_of(BLOCK) && start.is_multiple_of(BLOCK) {
            self.flush()?;
            return file.copy_range(offset, bytes.len() as u64, self.file);
        }
        self.read(&file, offset, bytes.len())
    }

    /// Append `length` bytes of `file` from `offset` on.
    fn read(&mut self, file: &MappedFile, mut offset: u64, mut length: usize) -> io::Result<()> {
        while length > 0 {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let end = self.buffer.len().min(self.filled.saturating_add(length));
            let room = self.buffer.get_mut(self.filled..end).unwrap_or_default();
            file.read_at(offset, room)?;
            offset += room.len() as u64;
            length -= room.len();
            self.filled = end;
        }
        Ok(())
    }

    fn gather(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.buffer.len() - self.filled {
            self.flush()?;
        }
        let end = self.filled + bytes.len();
        let Some(room) = self.buffer.get_mut(self.filled..end) else { return self.file.write_all(bytes) };
        room.copy_from_slice(bytes);
        self.filled = end;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let waiting = self.buffer.get(..mem::take(&mut self.filled)).unwrap_or_default();
        self.file.write_all(waiting)
    }
}

#[expect(unsafe_code, reason = "the trait through which prost writes is unsafe to implement")]
// SAFETY: `chunk_mut` hands out the part of `buffer` after `filled`, which is initialized and never empty, and `advance_mut`
// moves `filled` within `buffer`. No code here trusts `filled` without a bounds check.
unsafe impl BufMut for Stream<'_> {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        self.filled = self.buffer.len().min(self.filled.saturating_add(count));
        self.position += count as u64;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.filled == self.buffer.len() {
            let flushed = self.flush();
            if self.state.is_ok() {
                self.state = flushed;
            }
        }
        UninitSlice::new(self.buffer.get_mut(self.filled..).unwrap_or_default())
    }

    fn put<T: Buf>(&mut self, mut source: T) {
        while source.has_remaining() {
            let piece = source.chunk();
            let length = piece.len();
            self.bytes(piece);
            source.advance(length);
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if self.state.is_ok() {
            self.position += bytes.len() as u64;
            self.state = self.gather(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use bytes::Bytes;

    use super::*;

    fn written(fill: impl FnOnce(&mut Stream<'_>), sources: &Sources) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let mut stream = Stream::new(&mut file, sources);
        fill(&mut stream);
        let count = stream.finish().unwrap();
        let mut all = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all.len() as u64, count);
        all
    }

    #[test]
    fn pieces_of_every_size_arrive_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let content: Vec<u8> = (0..3_000_000_u64).map(|i| ((i * 7919) >> 5) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let sources = Sources::of_model(&path, file.clone());
        let mapped: Bytes = file.bytes();
        let sizes = [1, 511, 512, 65_535, 65_536, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 1_000_000];

        let mut expected = Vec::new();
        let all = written(
            |stream| {
                for (i, size) in sizes.into_iter().enumerate() {
                    stream.put(mapped.slice(i..i + size));
                    stream.put_slice(&content[..size]);
                    stream.put(&content[i..i + size]);
                    stream.put_u8(9);
                    expected.extend([&content[i..i + size], &content[..size], &content[i..i + size], &[9]].concat());
                }
            },
            &sources,
        );
        assert!(all == expected);
    }

    #[test]
    fn blocks_that_go_to_blocks_and_others_arrive_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let content: Vec<u8> = (0..3 * BUFFER_BYTES + 777).map(|i| ((i * 7919) >> 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let sources = Sources::of_model(&path, file.clone());
        for (before, offset) in [(0, 0), (0, 4096), (8192, 4096), (1, 4096), (4096, 5), (BUFFER_BYTES - 3, 7)] {
            for length in [COPY_FROM - 1, COPY_FROM, 2 * BUFFER_BYTES + 9] {
                let part = offset..offset + length;
                let all = written(
                    |stream| {
                        stream.put_slice(&content[..before]);
                        stream.put(file.bytes().slice(part.clone()));
                        stream.put_u8(9);
                    },
                    &sources,
                );
                assert!(all == [&content[..before], &content[part], &[9]].concat(), "{before}, {offset}, {length}");
            }
        }
    }

    #[test]
    fn a_file_that_shrank_is_said_to_have_ended_early() {
        let folder = tempfile::tempdir().unwrap();
        for offset in [0, 1] {
            let path = folder.path().join(format!("data{offset}"));
            std::fs::write(&path, vec![1; 3 * BUFFER_BYTES]).unwrap();
            let mapped = MappedFile::open(&path).unwrap();
            let sources = Sources::of_model(&path, mapped.clone());
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(BUFFER_BYTES as u64).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            let mut stream = Stream::new(&mut file, &sources);
            stream.put(mapped.bytes().slice(offset..));
            let error = stream.finish().unwrap_err();
            assert!(error.to_string().contains("ended early"), "{error}");
        }
    }

    #[test]
    fn writing_through_the_buffer_itself_keeps_its_contract() {
        let expected: Vec<u8> = (0..2 * BUFFER_BYTES + 5).map(|i| (i % 251) as u8).collect();
        let all = written(
            |stream| {
                for &byte in &expected {
                    stream.chunk_mut()[0..1].copy_from_slice(&[byte]);
                    #[expect(unsafe_code, reason = "the contract of BufMut")]
                    // SAFETY: one byte was just initialized.
                    unsafe {
                        stream.advance_mut(1);
                    }
                }
                stream.align(4096);
            },
            &Sources::default(),
        );
        assert!(all.starts_with(&expected));
        assert_eq!(all.len() % 4096, 0);
    }
}
