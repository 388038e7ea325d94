//! Statistics that are kept from one run to the next.

use planish_ir::Model;

use super::{Samples, Statistic, Want};
use crate::Engine;

/// What a collection of statistics depends on.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The models, as they are now.
    pub models: &'a [&'a Model],
    /// What they are run on.
    pub samples: &'a dyn Samples,
    /// Who runs them.
    pub engine: &'a dyn Engine,
    /// Of each statistic, what it is and which values it reads.
    pub statistics: &'a [String],
}

/// Takes the record of a statistic, or says why it is none.
pub type Take<'a> = &'a mut dyn FnMut(usize, &[u8]) -> Result<(), String>;

/// Keeps statistics. Whatever goes wrong inside is no reason to fail: they are collected anew.
pub trait Store: Sync {
    /// What statistics are kept under; two collections have the same key only if they have the same result. `None` if these
    /// are not to be kept.
    fn key(&self, asked: &Asked<'_>) -> Option<String>;

    /// Hands out the record of every statistic, by its number from 0 to `count`. False if there are no such records, or if they
    /// are damaged, or if one is refused.
    fn load(&self, key: &str, count: usize, take: Take<'_>) -> bool;

    /// Keeps the records of `count` statistics.
    fn save(&self, key: &str, count: usize, record: &mut dyn FnMut(usize) -> Vec<u8>);
}

/// What each of the wants is, in words that no other one has; `None` if one of them cannot be kept.
pub(super) fn identities<S: Statistic>(wants: &[Want<S>]) -> Option<Vec<String>> {
    wants.iter().map(|w| Some(format!("{} of {:?}", w.statistic.identity()?, w.reads))).collect()
}

/// Statistics out of a store.
pub(super) fn restored<S: Statistic>(store: &dyn Store, key: &str, wants: &[Want<S>]) -> Option<Vec<S>> {
    let mut found = Vec::with_capacity(wants.len());
    let mut take = |at: usize, bytes: &[u8]| {
        let want = wants.get(at).filter(|_| at == found.len()).ok_or("it is not in order")?;
        found.push(want.statistic.restore(bytes)?);
        Ok(())
    };
    let is_whole = store.load(key, wants.len(), &mut take);
    (is_whole && found.len() == wants.len()).then_some(found)
}

/// Numbers one after the other, as bytes.
#[derive(Debug, Default)]
pub struct Record(Vec<u8>);

impl Record {
    /// An empty one.
    pub fn new() -> Record {
        Record::default()
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, n: u64) -> Record {
        self.0.extend(n.to_le_bytes());
        self
    }

    /// Adds a float, with all its bits.
    #[must_use]
    pub fn float(self, x: f64) -> Record {
        self.number(x.to_bits())
    }

    /// Adds how many there are, and then each.
    #[must_use]
    pub fn floats(self, values: impl ExactSizeIterator<Item = f64>) -> Record {
        let counted = self.number(values.len() as u64);
        values.fold(counted, Record::float)
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what a [`Record`] wrote, in the same order.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begins.
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// A number. Fails if nothing is left.
    pub fn number(&mut self) -> Result<u64, String> {
        let (first, rest) = self.0.split_first_chunk::<8>().ok_or("it is too short")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    /// A float.
    pub fn float(&mut self) -> Result<f64, String> {
        self.number().map(f64::from_bits)
    }

    /// As many numbers of a list as there are, which cannot be more than there are bytes.
    pub fn count(&mut self) -> Result<usize, String> {
        let count = self.number()?;
        usize::try_from(count).ok().filter(|&n| n <= self.0.len() / 8).ok_or_else(|| "it is too short".to_owned())
    }

    /// A list of floats.
    pub fn floats(&mut self) -> Result<Vec<f64>, String> {
        (0..self.count()?).map(|_| self.float()).collect()
    }

    /// Fails if something is left.
    pub fn end(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err("it is too long".to_owned()) }
    }
}
