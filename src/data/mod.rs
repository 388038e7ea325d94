//! Where samples come from: arrays in files, or a seeded generator.
//!
//! | source | layout |
//! |---|---|
//! | `.npz` file | one array per model input, named like it, samples along the first axis |
//! | folder of `.npy` | `INPUT.npy` per input, laid out like the arrays of an `.npz`; or one file per run: `INPUT_K.npy`, or `K.npy` if the model has one input |
//! | random | shapes and types from the model's inputs |
//!
//! An array that has as many axes as the model's input is cut along its first axis into batches; one that has one axis
//! more holds a whole input per entry. Whatever is guessed, converted, ignored or left over is said in
//! [`Samples::notes`], for the caller to print.

mod arrays;
mod inputs;
mod npy;
mod random;
mod ranges;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use planish_ir::Model;
use planish_passes::EngineError;
pub use planish_passes::Tensors;

/// The arrays of a folder of `.npy` files, by their names without the extension.
pub fn npy_files(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    arrays::npy_files(folder)
}

/// Where samples come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An `.npz` file.
    Npz(PathBuf),
    /// A folder of `.npy` files.
    Folder(PathBuf),
    /// Drawn: floats from the standard normal distribution, integers uniformly from a range, bools by coin.
    Random {
        /// The same seed draws the same samples, on every machine.
        seed: u64,
    },
}

/// How to make batches of the samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// At most this many samples; for [`Source::Random`] exactly this many, 16 if it is not given.
    pub samples: Option<u64>,
    /// Samples per run, where the model leaves it open; 1 if it is not given (2 and 3 in turn for [`Source::Random`],
    /// because a size of 1 hides mistakes in the handling of the batch axis).
    pub batch: Option<u64>,
    /// Sizes of the model's named dims, by name, and of unnamed ones by `INPUT.AXIS`.
    pub dims: BTreeMap<String, u64>,
    /// Sizes that random samples take in turn for dims that `dims` leaves open, by the same names; 8 and 16 by default.
    /// Never empty.
    pub sizes: BTreeMap<String, Vec<u64>>,
    /// Range of the numbers drawn for an integer input, by its name; the upper end is exclusive.
    pub ranges: BTreeMap<String, (i64, i64)>,
}

impl Options {
    /// Without the sizes and ranges for what this model does not have.
    pub fn fitting(&self, model: &Model) -> Options {
        let dims = crate::sizes::dynamic_dims(model);
        let mut fitting = self.clone();
        fitting.dims.retain(|name, _| dims.contains(name));
        fitting.sizes.retain(|name, _| dims.contains(name));
        fitting.ranges.retain(|name, _| model.graph.inputs().iter().any(|&v| model.graph.name_of(v) == *name));
        fitting
    }
}

/// Samples that are ready to be run.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The inputs of one run each.
    pub batches: Vec<Tensors>,
    /// How many samples each batch holds.
    pub sizes: Vec<u64>,
    /// So many runs see every size that open dims take in turn.
    pub turns: usize,
    /// What the user should know about how they came about, a sentence each.
    pub notes: Vec<String>,
}

/// Some runs, and how many samples they are.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    /// The inputs of one run each.
    pub batches: &'a [Tensors],
    /// How many samples they hold together.
    pub samples: u64,
}

impl Samples {
    /// Adds a run of so many samples.
    fn push(&mut self, batch: Tensors, samples: u64) {
        self.batches.push(batch);
        self.sizes.push(samples);
    }

    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }

    /// The first runs that hold at least `wanted` samples together and see every size; all of them if there are fewer.
    pub fn first(&self, wanted: u64) -> Runs<'_> {
        let (mut runs, mut samples) = (0, 0u64);
        for &size in &self.sizes {
            if samples >= wanted && runs >= self.turns {
                break;
            }
            (runs, samples) = (runs + 1, samples.saturating_add(size));
        }
        Runs { batches: self.batches.get(..runs).unwrap_or_default(), samples }
    }
}

impl planish_passes::Samples for Samples {
    fn len(&self) -> usize {
        self.batches.len()
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Tensors>, EngineError> {
        let run = self.batches.get(index).map(Cow::Borrowed);
        run.ok_or_else(|| EngineError::Failed { message: format!("there is no sample {index}") })
    }
}

impl Source {
    /// The source that a path denotes: a folder, or else an `.npz` file.
    pub fn of_path(path: &Path) -> Source {
        match path.is_dir() {
            true => Source::Folder(path.to_owned()),
            false => Source::Npz(path.to_owned()),
        }
    }

    /// Makes the samples for a model. Fails if they do not fit its inputs, and says how.
    pub fn load(&self, model: &Model, options: &Options) -> anyhow::Result<Samples> {
        let inputs = inputs::of_model(model)?;
        inputs::check_names(&inputs, options)?;
        match self {
            Source::Npz(path) => arrays::from_npz(path, &inputs, options),
            Source::Folder(path) => arrays::from_folder(path, &inputs, options),
            Source::Random { seed } => random::draw(*seed, model, &inputs, options),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_their_samples() {
        let mut samples = Samples::default();
        [2, 3, 4].into_iter().for_each(|n| samples.push(Tensors::new(), n));
        let first = |wanted| (samples.first(wanted).batches.len(), samples.first(wanted).samples);
        assert_eq!([first(1), first(2), first(4), first(100)], [(1, 2), (1, 2), (2, 5), (3, 9)]);
        assert_eq!(samples.count(), 9);
    }
}
