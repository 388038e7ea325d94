//! Files of texts, tokenized when a run needs them.
//!
//! If fewer samples are asked for than there are texts, they are spread evenly over the file. Only their places in the
//! file are kept in memory.

mod lines;
mod roles;
mod tokens;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, ensure};
use planish_ir::{DType, Dims, Model, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Make, Options, Samples, Tensors,
    arrays::{Sizes, convert, open_batch},
    images::run_sizes,
    inputs::Input,
    named, spread,
};
use lines::{Line, Lines};
use roles::Feed;
pub(super) use roles::Role;
pub(super) use tokens::beside as tokenizer_beside;
use tokens::{Row, Tokens};

/// Texts as samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// A .txt file with one text per line, or a .jsonl file with one JSON object per line. Empty lines do not count.
    pub file: PathBuf,
    /// The model's tokenizer.json, as the Hugging Face libraries write it. Without it, the one beside the model or beside
    /// the file of texts is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Where in a JSON object the text is; `text` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Tokens per text, at most: what is longer is cut. By default what the model fixes, or else what the tokenizer says, or
    /// else 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// How long the texts of a run are made; `batch` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
    /// What inputs with unusual names take, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Role>,
}

/// How far texts are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// To the longest one of the run: none at all for one text per run.
    Batch,
    /// To `length`.
    Length,
}

/// Tokens per text where nobody says anything.
const LENGTH: u32 = 128;

/// Texts that are ready to be tokenized.
#[derive(Debug)]
struct Prepared {
    lines: Lines,
    chosen: Vec<Line>,
    tokens: Tokens,
    /// Tokens to fill up to, if not to the longest of a run.
    padded: Option<usize>,
    feeds: Vec<Feed>,
    /// Texts per run.
    batch: usize,
    options: Options,
}

/// All samples of a file.
pub(super) fn from_file(text: &Text, model: &Model, inputs: &[Input], options: &Options) -> Result<Samples> {
    open(text, model, inputs, options).with_context(|| format!("texts in {}", text.file.display()))
}

fn open(text: &Text, model: &Model, inputs: &[Input], options: &Options) -> Result<Samples> {
    let mut notes = Vec::new();
    let feeds = roles::assign(text, model, inputs, &mut notes)?;
    let lines = Lines::open(&text.file, text.field.as_deref())?;
    let all = lines.all()?;
    let total = all.len() as u64;
    let chosen = spread(all, options.samples, "texts", &mut notes);
    for line in &chosen {
        lines.text(line)?;
    }
    let fixed = fixed_length(&feeds, options)?;
    let mut tokens = Tokens::open(text)?;
    let length = match (text.length, fixed) {
        (Some(0), _) => anyhow::bail!("text.length: at least one token is needed"),
        (Some(asked), Some(n)) if asked > n => {
            anyhow::bail!("text.length: {asked} tokens were asked for, but the model takes {n}")
        }
        (Some(asked), _) => asked,
        (None, Some(n)) => n,
        (None, None) => match tokens.length() {
            Some(n) => n,
            None => {
                notes.push(format!("texts are cut after {LENGTH} tokens; text.length sets another limit"));
                LENGTH
            }
        },
    };
    tokens.cut_at(length)?;
    ensure!(
        fixed.is_none() || text.padding != Some(Padding::Batch),
        "text.padding: the model takes exactly {} tokens, so texts must be filled up: padding: length",
        fixed.unwrap_or_default()
    );
    let padded = match (fixed, text.padding) {
        (Some(n), _) => Some(n),
        (None, Some(Padding::Length)) => Some(length),
        (None, _) => None,
    };
    let per_run = match feeds.iter().all(|f| f.has_batch) {
        true => open_batch(feeds.iter().map(|f| &f.input), options, &mut notes)?,
        false => 1,
    };
    if padded.is_some() || per_run > 1 {
        notes.extend(tokens.pad_note());
    }
    let is_exact = |f: &Feed| f.has_batch && f.first_dim().is_some();
    let sizes = run_sizes(chosen.len() as u64, per_run, feeds.iter().any(is_exact), &mut notes);
    ensure!(!sizes.is_empty(), "there are {total} texts, too few for a single run of {per_run}");
    let padded = padded.map(usize::try_from).transpose()?;
    let batch = usize::try_from(per_run)?;
    let files = vec![named(&text.file), named(tokens.path())];
    let prepared = Prepared { lines, chosen, tokens, padded, feeds, batch, options: options.clone() };
    Ok(Samples { sizes, notes, files, ..Samples::made(prepared) })
}

/// How many tokens the model takes, if that is fixed.
fn fixed_length(feeds: &[Feed], options: &Options) -> Result<Option<u32>> {
    let lengths = feeds.iter().filter_map(|f| f.length(options));
    Ok(lengths.min().map(u32::try_from).transpose()?)
}

impl Make for Prepared {
    fn make(&self, run: usize, samples: u64) -> Result<Tensors> {
        let start = run.saturating_mul(self.batch);
        let mut rows: Vec<Row> = Vec::new();
        for line in self.chosen.iter().skip(start).take(usize::try_from(samples)?) {
            let place = || self.lines.place(line);
            let row = self.tokens.row(&self.lines.text(line)?).with_context(place)?;
            ensure!(row.len() > 0, "{}: the tokenizer makes no token of it", place());
            for feed in &self.feeds {
                feed.check_range(&row).with_context(place)?;
            }
            rows.push(row);
        }
        let longest = rows.iter().map(Row::len).max().context("there is no such run")?;
        let length = self.padded.unwrap_or(longest).max(longest);
        for row in &mut rows {
            self.tokens.pad(row, length);
        }
        let mut tensors = Tensors::new();
        let mut sizes = Sizes::new(&self.options);
        for feed in &self.feeds {
            let values: Vec<i64> = rows.iter().flat_map(|r| r.of(feed.role)).collect();
            let mut dims = Dims::new();
            if feed.has_batch {
                dims.push(samples);
            }
            dims.push(length as u64);
            let tensor = typed(&feed.input, dims, &values)?;
            sizes.check(&feed.input, tensor.dims())?;
            tensors.insert(feed.input.name.clone(), tensor);
        }
        Ok(tensors)
    }
}

/// Integers in the type of an input. A mask may be of floats.
fn typed(input: &Input, dims: Dims, values: &[i64]) -> Result<Tensor> {
    match input.dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
            let floats: Vec<f64> = values.iter().map(|&v| v as f64).collect();
            Ok(Tensor::from_f64_as(input.dtype, dims, &floats)?)
        }
        _ => convert(&Tensor::from_i64(dims, values)?, input, &mut Vec::new()),
    }
}

#[cfg(test)]
mod tests;
