//! Inferred types, stored in the model.

use super::{GraphFacts, engine::fill, shape};
use crate::{Graph, Type, ValueId};

/// Stores types of a graph and its subgraphs.
pub(super) fn store(g: &mut Graph, facts: &GraphFacts) {
    let values: Vec<(ValueId, Type)> = g
        .values()
        .filter_map(|(id, v)| {
            let known = &shape::without_open(facts.ty(id)?);
            let merged = match v.ty() {
                Some(declared) if !declared.compatible(known) => return None,
                Some(declared) => keep_names(declared, known),
                None => known.clone(),
            };
            (v.ty() != Some(&merged)).then_some((id, merged))
        })
        .collect();
    for (id, ty) in values {
        g.set_inferred_type(id, ty);
    }
    for ((node, index), inner) in &facts.inner {
        if let Some(body) = g.subgraphs_mut(*node).nth(*index) {
            store(body, inner);
        }
    }
}

/// The declared type with its gaps filled; also a declared name stays that is known to be a number.
fn keep_names(declared: &Type, known: &Type) -> Type {
    match (declared.as_tensor(), known.as_tensor()) {
        (Some(_), Some(_)) => fill(declared, known),
        _ => declared.merge(known),
    }
}
