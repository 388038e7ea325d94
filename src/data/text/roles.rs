//! Which input of a model takes what a tokenizer gives.

use anyhow::{Result, bail, ensure};
use planish_ir::{DType, Model};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Text, tokens::Row};
use crate::data::{
    Options,
    inputs::{Input, defaults_kept},
    ranges::index_range,
};

/// What a tokenizer gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Numbers of the tokens.
    Ids,
    /// 1 for tokens, 0 for what is filled up.
    Mask,
    /// Which of the texts of a pair a token belongs to.
    Types,
    /// 0, 1, 2, … along the tokens.
    Positions,
}

/// An input and what it takes.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) input: Input,
    pub(super) role: Role,
    /// The first axis is the batch.
    pub(super) has_batch: bool,
    /// How many entries the table has in which the model looks the numbers up.
    rows: Option<i64>,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Role::Ids => "token ids",
            Role::Mask => "the attention mask",
            Role::Types => "token types",
            Role::Positions => "positions",
        }
    }

    /// What a name says.
    fn of_name(name: &str) -> Option<Role> {
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|p| name.contains(p));
        match () {
            () if has(&["mask"]) => Some(Role::Mask),
            () if has(&["tokentype", "segment"]) => Some(Role::Types),
            () if has(&["position"]) => Some(Role::Positions),
            () if has(&["inputid", "tokenid", "inputtoken"])
                || ["ids", "tokens", "inputs"].contains(&name.as_str()) =>
            {
                Some(Role::Ids)
            }
            () => None,
        }
    }
}

impl Feed {
    /// What the model fixes of the first axis.
    pub(super) fn first_dim(&self) -> Option<u64> {
        self.input.shape.as_ref()?.first()?.known()
    }

    /// Tokens per text, if the model or `--dim` fixes them.
    pub(super) fn length(&self, options: &Options) -> Option<u64> {
        let axis = usize::from(self.has_batch);
        let dim = self.input.shape.as_ref()?.get(axis)?;
        let unnamed = || options.dims.get(&format!("{}.{axis}", self.input.name)).copied();
        dim.bind(&options.dims).known().or_else(unnamed)
    }

    /// Fails on a token that the model has no entry for.
    pub(super) fn check_range(&self, row: &Row) -> Result<()> {
        let Some(rows) = self.rows else { return Ok(()) };
        if let Some(wrong) = row.of(self.role).into_iter().find(|&v| v >= rows) {
            let what = match self.role {
                Role::Ids => "is this the model's own tokenizer?",
                Role::Mask | Role::Types => "the input may have another meaning; say it with text.inputs",
                Role::Positions => "give a smaller text.length",
            };
            bail!(
                "{} for {:?} reach {wrong}, but the model knows only 0 to {}; {what}",
                self.role.name(),
                self.input.name,
                rows - 1
            );
        }
        Ok(())
    }
}

/// Says what every input takes. Fails if one takes nothing that a tokenizer gives.
pub(super) fn assign(text: &Text, model: &Model, inputs: &[Input], notes: &mut Vec<String>) -> Result<Vec<Feed>> {
    if let Some(name) = text.inputs.keys().find(|n| inputs.iter().all(|i| i.name != **n)) {
        let names: Vec<String> = inputs.iter().map(|i| format!("{:?}", i.name)).collect();
        bail!("text.inputs: the model has no input {name:?}; its inputs are {}", names.join(", "));
    }
    let given = |i: &Input| text.inputs.get(&i.name).copied();
    let is_table = |i: &Input| i.dtype.is_integer() && index_range(model, &i.name).is_some();
    let known = |i: &Input| given(i).or_else(|| Role::of_name(&i.name));
    let has_ids = inputs.iter().any(|i| known(i) == Some(Role::Ids));
    // An input of another name that looks up in a table can only be the tokens, if nothing else is.
    let lone: Vec<&Input> = inputs.iter().filter(|i| known(i).is_none() && is_table(i)).collect();
    let (mut feeds, mut kept) = (Vec::new(), Vec::new());
    for input in inputs {
        let guess = match lone.as_slice() {
            [one] if !has_ids && one.name == input.name => Some(Role::Ids),
            _ => None,
        };
        let Some(role) = known(input).or(guess) else {
            if input.optional {
                kept.push(input);
                continue;
            }
            bail!(
                "the input {:?} ({}) takes nothing that a tokenizer gives, as far as its name says; say with \
                 text.inputs.{} what it takes (ids, mask, types or positions), or prepare all inputs yourself, as an .npz \
                 file",
                input.name,
                input.dtype,
                input.name
            );
        };
        let has_batch = match input.shape.as_ref().map_or(2, Vec::len) {
            2 => true,
            1 => false,
            n => bail!(
                "the input {:?} should take {}, but has {n} axes instead of batch and tokens; prepare all inputs \
                 yourself, as an .npz file",
                input.name,
                role.name()
            ),
        };
        ensure!(
            input.dtype.is_integer() || (role == Role::Mask && (input.dtype.is_float() || input.dtype == DType::Bool)),
            "the input {:?} should take {}, but is {}",
            input.name,
            role.name(),
            input.dtype
        );
        let rows = index_range(model, &input.name).map(|(_, end)| end).filter(|_| role != Role::Mask);
        if given(input).is_none() {
            notes.push(format!("the input {:?} takes {}", input.name, role.name()));
        }
        feeds.push(Feed { input: input.clone(), role, has_batch, rows });
    }
    ensure!(
        feeds.iter().any(|f| f.role == Role::Ids),
        "no input of the model takes token ids, as far as names say; say with text.inputs which one does"
    );
    notes.extend(defaults_kept(&kept));
    Ok(feeds)
}
