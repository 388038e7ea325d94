//! Sizes of dynamic dims, for figures that need numbers.

use std::collections::BTreeMap;

use planish_ir::{Dim, Model, Type};

/// The sizes that the user gave, completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// By name of the dim, or `INPUT.AXIS` where it has none.
    pub bindings: BTreeMap<String, u64>,
    /// Those that the user left open and that were taken as 1.
    pub assumed: Vec<String>,
}

impl Sizes {
    /// Takes every dim of the model's inputs that is open and not among `given` as 1.
    pub fn complete(model: &Model, given: &[(String, u64)]) -> Sizes {
        let mut sizes = Sizes { bindings: given.iter().cloned().collect(), assumed: Vec::new() };
        for name in dynamic_dims(model) {
            if !sizes.bindings.contains_key(&name) {
                sizes.bindings.insert(name.clone(), 1);
                sizes.assumed.push(name);
            }
        }
        sizes
    }

    /// A line for the user, if anything was assumed.
    pub fn note(&self) -> Option<String> {
        let list: Vec<String> = self.assumed.iter().map(|n| format!("{n} = 1")).collect();
        (!list.is_empty()).then(|| format!("MACs are for {}; other sizes by --dim NAME=N", list.join(", ")))
    }
}

/// The dims of a model's inputs that have no fixed size: their names, or `INPUT.AXIS`, each once, in order.
pub fn dynamic_dims(model: &Model) -> Vec<String> {
    let g = &model.graph;
    let mut names: Vec<String> = Vec::new();
    for &input in g.inputs() {
        for (axis, dim) in g.ty(input).and_then(Type::shape).unwrap_or_default().iter().enumerate() {
            let found: Vec<String> = match dim {
                Dim::Known(_) => continue,
                Dim::Unknown => vec![format!("{}.{axis}", g.name_of(input))],
                Dim::Symbolic(_) => dim.names().map(str::to_owned).collect(),
            };
            for name in found {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_one() {
        let model = planish_ir::text::parse(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,?,S,3] x) => (float[N,?,S,3] y) { y = Relu (x) }"#,
        )
        .unwrap();
        assert_eq!(dynamic_dims(&model), ["N", "x.1", "S"]);
        let sizes = Sizes::complete(&model, &[("S".into(), 7)]);
        assert_eq!(sizes.assumed, ["N", "x.1"]);
        assert_eq!(sizes.bindings["S"], 7);
        assert_eq!(sizes.note().unwrap(), "MACs are for N = 1, x.1 = 1; other sizes by --dim NAME=N");
    }
}
