//! Where samples come from: arrays in files, images, text, or a seeded generator.
//!
//! | source | layout |
//! |---|---|
//! | `.npz` file | one array per model input, named like it, samples along the first axis |
//! | folder of `.npy` | `INPUT.npy` per input, laid out like the arrays of an `.npz`; or one file per run: `INPUT_K.npy`, or `K.npy` if the model has one input |
//! | folder of images | one sample per `.jpg` or `.png`, also in subfolders |
//! | text | one sample per line of a `.txt`, or per object of a `.jsonl` |
//! | random | shapes and types from the model's inputs |
//!
//! An array that has as many axes as the model's input is cut along its first axis into batches; one that has one axis
//! more holds a whole input per entry. Whatever is guessed, converted, ignored or left over is said in
//! [`Samples::notes`], for the caller to print.
//!
//! A run's inputs are made when it takes place, and not kept: only arrays of an `.npz` are in memory as a whole, once.

mod arrays;
mod images;
mod inputs;
mod npy;
mod random;
mod ranges;
mod text;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use planish_ir::{Dims, Model};
use planish_passes::SampleError;
pub use planish_passes::Tensors;

pub use images::{Colors, Fit, Images, Interpolation, Layout, Preprocess, Size};
pub use text::{Padding, Text};

/// Where samples come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// An `.npz` file.
    Npz(PathBuf),
    /// A folder of `.npy` files.
    Folder(PathBuf),
    /// A folder of images.
    Images(Box<Images>),
    /// A file of texts.
    Text(Text),
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
    /// Sizes that random samples take in turn for dims that `dims` leaves open, by the same names; by default 8 and 16, or larger
    /// ones if these are [too small](Samples::wider).
    /// Never empty.
    pub sizes: BTreeMap<String, Vec<u64>>,
    /// How many times these default sizes were found too small: [`Samples::wider`].
    pub widened: usize,
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

/// Makes the inputs of runs.
trait Make: fmt::Debug + Send + Sync {
    /// The inputs of the run with this number, which holds so many samples.
    fn make(&self, run: usize, samples: u64) -> Result<Tensors>;

    /// Their shapes, in the order of their names.
    fn shapes(&self, run: usize, samples: u64) -> Result<Vec<Dims>> {
        Ok(self.make(run, samples)?.values().map(|t| Dims::from_slice(t.dims())).collect())
    }
}

#[derive(Clone, Debug)]
enum Inputs {
    /// They are there, or share the bytes of arrays that are.
    Held(Vec<Tensors>),
    /// They are made for each run anew.
    Made(Arc<dyn Make>),
}

/// Samples that can be run.
#[derive(Clone, Debug)]
pub struct Samples {
    inputs: Inputs,
    /// How many samples each run holds.
    sizes: Vec<u64>,
    /// So many runs see every size that open dims take in turn.
    turns: usize,
    /// The files that they are in, and what these are called inside their folder; in order.
    pub files: Vec<(String, PathBuf)>,
    /// They are drawn, so they say nothing about what the model will see.
    pub random: bool,
    /// What the user should know about how they came about, a sentence each.
    pub notes: Vec<String>,
    /// How to draw them with larger sizes, where nobody chose these.
    wider: Option<(u64, Options)>,
}

impl Default for Samples {
    fn default() -> Samples {
        Samples {
            inputs: Inputs::Held(Vec::new()),
            sizes: Vec::new(),
            turns: 0,
            files: Vec::new(),
            random: false,
            notes: Vec::new(),
            wider: None,
        }
    }
}

/// Some runs, and how many samples they are.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    of: &'a Samples,
    runs: usize,
    /// How many samples they hold together.
    pub samples: u64,
}

impl Samples {
    fn made(make: impl Make + 'static) -> Samples {
        Samples { inputs: Inputs::Made(Arc::new(make)), ..Samples::default() }
    }

    /// Adds a run of so many samples, whose inputs are there.
    fn push(&mut self, batch: Tensors, samples: u64) {
        if let Inputs::Held(held) = &mut self.inputs {
            held.push(batch);
            self.sizes.push(samples);
        }
    }

    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }

    /// How many runs they take.
    pub const fn runs(&self) -> usize {
        self.sizes.len()
    }

    /// The inputs of a run.
    pub fn inputs(&self, run: usize) -> Result<Cow<'_, Tensors>> {
        let size = *self.sizes.get(run).context("there is no such run")?;
        match &self.inputs {
            Inputs::Held(held) => held.get(run).map(Cow::Borrowed).context("there is no such run"),
            Inputs::Made(make) => make.make(run, size).map(Cow::Owned),
        }
    }

    /// Runs whose inputs are there, of one sample each.
    pub fn held(runs: Vec<Tensors>) -> Samples {
        Samples { sizes: vec![1; runs.len()], inputs: Inputs::Held(runs), ..Samples::default() }
    }

    /// Other ones for the same model, with larger sizes of open axes, for models that cannot run with small ones. None if these were
    /// not drawn, or the user gave all sizes, or there are no larger ones.
    pub fn wider(&self, model: &Model) -> Option<Result<Samples>> {
        let (seed, options) = self.wider.as_ref()?;
        Some(Source::Random { seed: *seed }.load(model, options))
    }

    /// The inputs of all runs.
    pub fn all(&self) -> Result<Vec<Tensors>> {
        (0..self.runs()).map(|i| Ok(self.inputs(i)?.into_owned())).collect()
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
        Runs { of: self, runs, samples }
    }
}

impl planish_passes::Samples for Samples {
    fn len(&self) -> usize {
        self.runs()
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Tensors>, SampleError> {
        self.inputs(index).map_err(|e| SampleError(format!("{e:#}")))
    }

    fn shapes(&self, index: usize) -> Result<Vec<Dims>, SampleError> {
        let shapes = match (&self.inputs, self.sizes.get(index)) {
            (Inputs::Made(make), Some(&size)) => make.shapes(index, size),
            _ => self.inputs(index).map(|t| t.values().map(|t| Dims::from_slice(t.dims())).collect()),
        };
        shapes.map_err(|e| SampleError(format!("{e:#}")))
    }
}

impl<'a> Runs<'a> {
    /// How many runs there are.
    pub const fn len(&self) -> usize {
        self.runs
    }

    /// True if there is none.
    pub const fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// The inputs of a run.
    pub fn inputs(&self, run: usize) -> Result<Cow<'a, Tensors>> {
        self.of.inputs(run)
    }
}

/// A file with its own name.
fn named(path: &Path) -> (String, PathBuf) {
    (path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()), path.to_owned())
}

/// As many of the items as there should be samples, spread evenly over all of them: lists are often sorted.
fn spread<T>(items: Vec<T>, samples: Option<u64>, what: &str, notes: &mut Vec<String>) -> Vec<T> {
    let held = items.len() as u64;
    let Some(wanted) = samples else { return items };
    if wanted >= held {
        if wanted > held {
            notes.push(format!("samples: {wanted} were asked for, but there are only {held} {what}"));
        }
        return items;
    }
    notes.push(format!("samples: {wanted} of the {held} {what}, spread evenly over all of them"));
    // Number i of the chosen ones is the item i · held / wanted.
    let mut next = (0..wanted).map(|i| u128::from(i) * u128::from(held) / u128::from(wanted)).peekable();
    let is_chosen = |(i, _): &(usize, T)| next.next_if(|&n| n == *i as u128).is_some();
    items.into_iter().enumerate().filter(is_chosen).map(|(_, item)| item).collect()
}

impl Source {
    /// The source that a path denotes: a folder of arrays or of images, a file of texts, or else an `.npz` file. What the
    /// path does not say is as the settings' defaults. A folder is one of arrays if there is an `.npy` file in it.
    pub fn of_path(path: &Path) -> Source {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match (path.is_dir(), extension.as_str()) {
            (true, _) if arrays::npy_files(path).is_ok_and(|files| files.is_empty()) => {
                Source::Images(Box::new(Images { folder: path.to_owned(), ..Images::default() }))
            }
            (true, _) => Source::Folder(path.to_owned()),
            (false, "txt" | "jsonl") => Source::Text(Text { file: path.to_owned(), ..Text::default() }),
            (false, _) => Source::Npz(path.to_owned()),
        }
    }

    /// Texts without a tokenizer take the one that lies beside the model, if there is one.
    pub fn look_beside(&mut self, model: &Path) {
        if let Source::Text(text) = self
            && text.tokenizer.is_none()
        {
            text.tokenizer = text::tokenizer_beside(model);
        }
    }

    /// Makes the samples for a model. Fails if they do not fit its inputs, and says how.
    pub fn load(&self, model: &Model, options: &Options) -> Result<Samples> {
        let inputs = inputs::of_model(model)?;
        inputs::check_names(&inputs, options)?;
        let mut samples = match self {
            Source::Npz(path) => arrays::from_npz(path, &inputs, options),
            Source::Folder(path) => arrays::from_folder(path, &inputs, options),
            Source::Images(images) => images::from_folder(images, &inputs, options),
            Source::Text(text) => text::from_file(text, model, &inputs, options),
            Source::Random { seed } => random::draw(*seed, model, &inputs, options),
        }?;
        if let Source::Npz(path) = self {
            samples.files = vec![named(path)];
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_their_samples() {
        let mut samples = Samples::default();
        [2, 3, 4].into_iter().for_each(|n| samples.push(Tensors::new(), n));
        let first = |wanted| (samples.first(wanted).len(), samples.first(wanted).samples);
        assert_eq!([first(1), first(2), first(4), first(100)], [(1, 2), (1, 2), (2, 5), (3, 9)]);
        assert_eq!(samples.count(), 9);
    }

    #[test]
    fn what_is_chosen_is_spread_over_all() {
        let mut notes = Vec::new();
        let mut chosen = |wanted| spread((0..10).collect::<Vec<_>>(), Some(wanted), "texts", &mut notes);
        assert_eq!([chosen(1), chosen(3), chosen(4)], [vec![0], vec![0, 3, 6], vec![0, 2, 5, 7]]);
        assert_eq!(chosen(10), chosen(99));
        assert_eq!(notes[1], "samples: 3 of the 10 texts, spread evenly over all of them");
        assert_eq!(notes[3], "samples: 99 were asked for, but there are only 10 texts");
    }
}
