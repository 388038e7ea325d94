//! What a model wants to be fed.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use planish_ir::{DType, Dim, Model};

use super::Options;

/// An input of the main graph.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// `None` if the model does not even say how many axes it has.
    pub(super) shape: Option<Vec<Dim>>,
    /// The model brings a value of its own, so a source may leave it out.
    pub(super) optional: bool,
}

/// The inputs of a model, in order. Fails on types for which there are no samples.
pub(super) fn of_model(model: &Model) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for &id in model.graph.inputs() {
        let Some(value) = model.graph.value(id) else { continue };
        let name = value.name().to_owned();
        let optional = value.has_default();
        let Some(ty) = value.ty().and_then(|t| t.as_tensor()) else {
            if optional {
                continue;
            }
            bail!("the input {name:?} is no tensor ({}), and samples can only be tensors", describe(value.ty()));
        };
        if ty.dtype == DType::String {
            bail!("the input {name:?} holds strings, for which there are no samples; cut the model behind them");
        }
        // Some exporters write a question mark where they know no name.
        let open = |d: &Dim| if d.names().any(|n| n == "?") { Dim::Unknown } else { d.clone() };
        let shape = ty.shape.as_ref().map(|dims| dims.iter().map(open).collect());
        inputs.push(Input { name, dtype: ty.dtype, shape, optional });
    }
    Ok(inputs)
}

/// A note on inputs that no source has anything for, as they have defaults.
pub(super) fn defaults_kept(inputs: &[&Input]) -> Option<String> {
    match inputs {
        [] => None,
        [one] => Some(format!("the input {:?} keeps its default", one.name)),
        [one, ..] => Some(format!("{} inputs keep their defaults, {:?} for one", inputs.len(), one.name)),
    }
}

/// Fails if a size or range is given for something that the model does not have: it would silently do nothing.
pub(super) fn check_names(inputs: &[Input], options: &Options) -> Result<()> {
    let axes =
        |i: &Input| -> Vec<(usize, Dim)> { i.shape.clone().unwrap_or_default().into_iter().enumerate().collect() };
    let mut dims = BTreeSet::new();
    for input in inputs {
        for (axis, dim) in axes(input) {
            dims.extend(dim.names().map(str::to_owned));
            if dim == Dim::Unknown {
                dims.insert(format!("{}.{axis}", input.name));
            }
        }
    }
    if let Some(name) = options.dims.keys().chain(options.sizes.keys()).find(|n| !dims.contains(*n)) {
        bail!("no input of the model has a dim {name:?}; {}", list("those without a size are", &dims));
    }
    let integers: BTreeSet<String> = inputs.iter().filter(|i| i.dtype.is_integer()).map(|i| i.name.clone()).collect();
    if let Some(name) = options.ranges.keys().find(|n| !integers.contains(*n)) {
        bail!(
            "a range is given for {name:?}, which is no integer input; {}",
            list("those of the model are", &integers)
        );
    }
    Ok(())
}

fn list(what: &str, names: &BTreeSet<String>) -> String {
    match names.is_empty() {
        true => "there are none".to_owned(),
        false => format!("{what} {}", names.iter().cloned().collect::<Vec<_>>().join(", ")),
    }
}

fn describe(ty: Option<&planish_ir::Type>) -> String {
    ty.map_or_else(|| "its type is not declared".to_owned(), ToString::to_string)
}
