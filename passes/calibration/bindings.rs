//! The sizes that a sample gives to a model's open dims.

use planish_ir::{Dim, Model, infer::Bindings};

use crate::Tensors;

/// Sizes of the named dims of a model's inputs, as they are in a sample; those without a name are called `input.axis`.
pub fn bindings(model: &Model, sample: &Tensors) -> Bindings {
    sizes(model, |input, axis| sample.get(input)?.dims().get(axis).copied())
}

/// The same, as if each were 1.
pub fn unit_bindings(model: &Model) -> Bindings {
    sizes(model, |_, _| Some(1))
}

fn sizes(model: &Model, size: impl Fn(&str, usize) -> Option<u64>) -> Bindings {
    let mut bindings = Bindings::new();
    for value in model.graph.inputs().iter().filter_map(|&v| model.graph.value(v)) {
        let shape = value.ty().and_then(|t| t.as_tensor()).and_then(|t| t.shape.as_ref());
        for (axis, dim) in shape.into_iter().flatten().enumerate() {
            let Some(size) = size(value.name(), axis) else { continue };
            match dim {
                Dim::Known(_) => {}
                Dim::Symbolic(_) => {
                    let mut names = dim.names();
                    // A name by itself; inputs have no sizes that are computed.
                    if let (Some(name), None) = (names.next(), names.next()) {
                        bindings.entry(name.to_owned()).or_insert(size);
                    }
                }
                Dim::Unknown => {
                    bindings.insert(format!("{}.{axis}", value.name()), size);
                }
            }
        }
    }
    bindings
}
