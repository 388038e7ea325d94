//! Texts to numbers, by a tokenizer.json.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokenizers::{PaddingDirection, PostProcessor, Tokenizer, TruncationParams};

use super::{Role, Text};

/// What models call the token that fills up, in the order in which it is looked for.
const PAD_NAMES: &[&str] = &["[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>"];

/// A tokenizer, and what it fills up with.
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    path: PathBuf,
    pad: Pad,
    pads_left: bool,
}

/// The token that fills up.
#[derive(Debug, Clone, Copy)]
enum Pad {
    Known(u32),
    /// It has none.
    Zero,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("pad", &self.pad).field("pads_left", &self.pads_left).finish_non_exhaustive()
    }
}

/// One text as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    ids: Vec<i64>,
    mask: Vec<i64>,
    types: Vec<i64>,
}

impl Tokens {
    /// Reads the tokenizer that the settings name, or that lies beside the texts.
    pub(super) fn open(text: &Text) -> Result<Tokens> {
        let path = match &text.tokenizer {
            Some(path) => path.clone(),
            None => beside(&text.file).context(
                "no tokenizer is given; give the model's tokenizer.json with text.tokenizer or --tokenizer, or put it \
                 beside the model or the texts",
            )?,
        };
        let mut tokenizer = Tokenizer::from_file(&path)
            .map_err(|e| anyhow!("{e}"))
            .with_context(|| format!("the tokenizer {} cannot be used", path.display()))?;
        let padding = tokenizer.get_padding().map(|p| (p.pad_id, matches!(p.direction, PaddingDirection::Left)));
        let named = || PAD_NAMES.iter().find_map(|name| tokenizer.token_to_id(name));
        let pad = padding.map(|(id, _)| id).or_else(named).map_or(Pad::Zero, Pad::Known);
        let pads_left = padding.is_some_and(|(_, left)| left);
        tokenizer.with_padding(None);
        Ok(Tokens { tokenizer, path, pad, pads_left })
    }

    /// Where the tokenizer was read from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// After how many tokens the tokenizer itself cuts.
    pub(super) fn length(&self) -> Option<u32> {
        self.tokenizer.get_truncation().and_then(|t| u32::try_from(t.max_length).ok())
    }

    /// Cuts texts after so many tokens, special ones included.
    pub(super) fn cut_at(&mut self, length: u32) -> Result<()> {
        let added = self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        ensure!(
            u64::from(length) > added as u64,
            "the tokenizer puts {added} tokens around a text, so {length} are too few; give a larger text.length"
        );
        let old = self.tokenizer.get_truncation().cloned().unwrap_or_default();
        let cut = TruncationParams { max_length: usize::try_from(length)?, ..old };
        if let Err(e) = self.tokenizer.with_truncation(Some(cut)) {
            bail!("the tokenizer cannot cut texts after {length} tokens: {e}");
        }
        Ok(())
    }

    /// What the user should know if texts are filled up.
    pub(super) fn pad_note(&self) -> Option<String> {
        matches!(self.pad, Pad::Zero)
            .then(|| "the tokenizer has no token to fill up with, and 0 is taken for it".to_owned())
    }

    /// The tokens of a text, with those that the model wants at its ends.
    pub(super) fn row(&self, text: &str) -> Result<Row> {
        let encoding = self.tokenizer.encode(text, true).map_err(|e| anyhow!("the tokenizer fails: {e}"))?;
        let whole = |numbers: &[u32]| numbers.iter().map(|&n| i64::from(n)).collect();
        Ok(Row {
            ids: whole(encoding.get_ids()),
            mask: whole(encoding.get_attention_mask()),
            types: whole(encoding.get_type_ids()),
        })
    }

    /// Fills a row up.
    pub(super) fn pad(&self, row: &mut Row, length: usize) {
        let missing = length.saturating_sub(row.len());
        let id = match self.pad {
            Pad::Known(id) => i64::from(id),
            Pad::Zero => 0,
        };
        for (values, fill) in [(&mut row.ids, id), (&mut row.mask, 0), (&mut row.types, 0)] {
            let at = if self.pads_left { 0 } else { values.len() };
            values.splice(at..at, std::iter::repeat_n(fill, missing));
        }
    }
}

/// The tokenizer in the folder of a file.
pub(in crate::data) fn beside(file: &Path) -> Option<PathBuf> {
    let path = file.parent()?.join("tokenizer.json");
    path.is_file().then_some(path)
}

impl Row {
    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The numbers for an input.
    pub(super) fn of(&self, role: Role) -> Vec<i64> {
        match role {
            Role::Ids => self.ids.clone(),
            Role::Mask => self.mask.clone(),
            Role::Types => self.types.clone(),
            // Counted from the first token that is not filled up; what stands before it counts as 0.
            Role::Positions => {
                let first = self.mask.iter().take_while(|&&m| m == 0).count();
                (0..self.ids.len()).map(|i| i64::try_from(i.saturating_sub(first)).unwrap_or(i64::MAX)).collect()
            }
        }
    }
}
