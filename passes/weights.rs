//! How passes read large weights.
//!
//! A weight is usually a slice of a mapped file. Looking at a few of its bytes through the mapping brings up to two megabytes
//! of them into memory, and a model has thousands of weights; so a pass that only looks, without computing with all
//! elements, reads through this.

use std::io;

use planish_ir::Tensor;

/// Reads weights without keeping them in memory.
pub trait Weights: Sync {
    /// Fills `buffer` with raw bytes of a tensor, from byte `offset` on. Fails beyond its end, for strings, and if the file
    /// cannot be read.
    fn read(&self, tensor: &Tensor, offset: usize, buffer: &mut [u8]) -> io::Result<()>;

    /// Is told that a pass has gone through these bytes of a weight and will not come back soon.
    fn release(&self, bytes: &[u8]);
}

/// Weights that are in memory anyway.
#[derive(Debug, Clone, Copy)]
pub struct InMemory;

impl Weights for InMemory {
    fn read(&self, tensor: &Tensor, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(part(tensor, offset, buffer.len())?);
        Ok(())
    }

    fn release(&self, _: &[u8]) {}
}

/// A part of a tensor's raw bytes, not looked at.
pub fn part(tensor: &Tensor, offset: usize, length: usize) -> io::Result<&[u8]> {
    let raw = tensor.raw().map_or(&[] as &[u8], |b| b);
    let end = offset.checked_add(length);
    end.and_then(|end| raw.get(offset..end)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
