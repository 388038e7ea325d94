//! A mapped file as a buffer for prost to decode from, which leaves the mapping alone.
//!
//! A look at one byte of a mapping can bring in two megabytes, and a model has a header in front of every weight. So what lies
//! between the weights is read through a small window, and a weight becomes a slice of the mapping without being looked at.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::mapped::MappedFile;

/// How much is read at a time.
const WINDOW_BYTES: usize = 1 << 14;

/// Smaller fields are copied, because whoever uses one would bring in its surroundings.
const SLICE_FROM: usize = 4096;

/// Reads a mapped file from start to end. After a failure it seems to be at its end.
pub(crate) struct Window {
    file: Arc<MappedFile>,
    whole: Bytes,
    buffer: Vec<u8>,
    /// What of `buffer` is ahead; empty only at the end.
    ahead: std::ops::Range<usize>,
    /// Where in the file the reader is.
    position: usize,
    state: io::Result<()>,
}

impl Window {
    pub(crate) fn new(file: Arc<MappedFile>) -> Self {
        let whole = file.bytes();
        let mut window = Self { file, whole, buffer: vec![0; WINDOW_BYTES], ahead: 0..0, position: 0, state: Ok(()) };
        window.fill();
        window
    }

    /// How far the reader came, and whether it was stopped by a failure to read.
    pub(crate) fn finish(self) -> (usize, io::Result<()>) {
        (self.position, self.state)
    }

    fn fill(&mut self) {
        let count = self.buffer.len().min(self.whole.len() - self.position);
        self.ahead = 0..count;
        let room = self.buffer.get_mut(..count).unwrap_or_default();
        if let Err(error) = self.file.read_at(self.position as u64, room) {
            self.state = Err(error);
            self.ahead = 0..0;
        }
    }
}

impl Buf for Window {
    fn remaining(&self) -> usize {
        if self.state.is_ok() { self.whole.len() - self.position } else { 0 }
    }

    fn chunk(&self) -> &[u8] {
        self.buffer.get(self.ahead.clone()).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        // Callers ask `remaining` first, but a failure may have come in between.
        let count = count.min(self.remaining());
        self.position += count;
        self.ahead.start += count;
        if self.ahead.start >= self.ahead.end && self.state.is_ok() {
            self.fill();
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let count = count.min(self.remaining());
        if count >= SLICE_FROM {
            let slice = self.whole.slice(self.position..self.position + count);
            self.advance(count);
            return slice;
        }
        let mut copy = Vec::with_capacity(count);
        while copy.len() < count && self.has_remaining() {
            let piece = self.chunk();
            let piece = piece.get(..piece.len().min(count - copy.len())).unwrap_or_default();
            copy.extend_from_slice(piece);
            let length = piece.len();
            self.advance(length);
        }
        copy.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_and_large_ones_are_slices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let content: Vec<u8> = (0..10 * WINDOW_BYTES).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let mut window = Window::new(file.clone());
        let mut at = 0;
        for count in [0, 1, SLICE_FROM - 1, SLICE_FROM, WINDOW_BYTES - 7, 3, WINDOW_BYTES, 2 * WINDOW_BYTES, 100] {
            let bytes = window.copy_to_bytes(count);
            assert!(bytes == content[at..at + count]);
            assert_eq!(file.offset_of(&bytes), (count >= SLICE_FROM).then_some(at as u64));
            at += count;
            assert_eq!(window.remaining(), content.len() - at);
            assert_eq!(window.get_u8(), content[at]);
            at += 1;
        }
        window.advance(window.remaining());
        assert!(window.chunk().is_empty());
        assert_eq!(window.finish().0, content.len());
    }

    #[test]
    fn a_file_that_shrank_is_an_error_and_an_early_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, vec![1; 3 * WINDOW_BYTES]).unwrap();
        let mut window = Window::new(MappedFile::open(&path).unwrap());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(WINDOW_BYTES as u64).unwrap();
        assert_eq!(window.copy_to_bytes(WINDOW_BYTES + 100).len(), WINDOW_BYTES + 100);
        assert_eq!(window.remaining(), 0);
        window.advance(5);
        assert!(window.finish().1.is_err());
    }
}
