//! A buffer for prost to encode into that never holds the message: weights pass it by.
//!
//! prost computes lengths ahead without looking at the weights, and hands every `bytes` field over in one piece. A piece that is
//! part of a mapped file is copied from that file to the new one by the system, so that it never enters this process. The
//! output equals `encode_to_vec` by construction, as it is the same code that encodes.

use std::fs::File;
use std::io::{self, Write};
use std::mem;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};
use prost::Message;

use crate::sources::Sources;

/// Small pieces are gathered up to this size.
const BUFFER_BYTES: usize = 1 << 18;

/// From this size on, bytes of a mapped file are fetched by a call of their own instead of through the mapping.
const READ_FROM: usize = 512;

/// From this size on, that call is worth being a copy from file to file.
const COPY_FROM: usize = 1 << 16;

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

    /// Append `bytes`, from file to file if they are part of a mapped one.
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
        let length = bytes.len() as u64;
        self.position += length;
        if bytes.len() < READ_FROM {
            return self.gather(bytes);
        }
        let Some((file, offset)) = self.sources.locate(bytes) else { return self.gather(bytes) };
        if bytes.len() >= COPY_FROM {
            self.flush()?;
            return file.copy_range(offset, length, self.file);
        }
        if bytes.len() > self.buffer.len() - self.filled {
            self.flush()?;
        }
        let end = self.filled + bytes.len();
        let Some(room) = self.buffer.get_mut(self.filled..end) else { return self.gather(bytes) };
        file.read_at(offset, room)?;
        self.filled = end;
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
    use crate::mapped::MappedFile;

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
