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
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use planish_ir::Model;
pub use planish_passes::Tensors;

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
    /// Samples per run, where the model leaves it open; 1 if it is not given (2 for [`Source::Random`], because a size
    /// of 1 hides mistakes in the handling of the batch axis).
    pub batch: Option<u64>,
    /// Sizes of the model's named dims, by name, and of unnamed ones by `INPUT.AXIS`.
    pub dims: BTreeMap<String, u64>,
    /// Range of the numbers drawn for an integer input, by its name; the upper end is exclusive.
    pub ranges: BTreeMap<String, (i64, i64)>,
}

/// Samples that are ready to be run.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The inputs of one run each.
    pub batches: Vec<Tensors>,
    /// How many samples the batches hold together.
    pub count: u64,
    /// What the user should know about how they came about, a sentence each.
    pub notes: Vec<String>,
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
    pub fn load(&self, model: &Model, options: &Options) -> Result<Samples> {
        let inputs = inputs::of_model(model)?;
        inputs::check_names(&inputs, options)?;
        match self {
            Source::Npz(path) => arrays::from_npz(path, &inputs, options),
            Source::Folder(path) => arrays::from_folder(path, &inputs, options),
            Source::Random { seed } => random::draw(*seed, model, &inputs, options),
        }
    }
}
