//! Sizes of dynamic dims, for figures that need numbers.

use std::collections::BTreeMap;

use planish_ir::{Dim, Model, Type};

use crate::failure::{Failure, Kind, Result};

/// The sizes that the user gave, completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// By name of the dim, or `INPUT.AXIS` where it has none.
    pub bindings: BTreeMap<String, u64>,
    /// Those that the user left open and that were taken as 1.
    pub assumed: Vec<String>,
}

impl Sizes {
    /// Takes every dim of the models' inputs that is open and not among `given` as 1. Fails if none of the models has a
    /// dim that is given, because its size would silently mean nothing.
    pub fn complete(models: &[&Model], given: &[(String, u64)]) -> Result<Sizes> {
        let mut sizes = Sizes { bindings: given.iter().cloned().collect(), assumed: Vec::new() };
        let mut names: Vec<String> = Vec::new();
        for name in models.iter().flat_map(|m| dynamic_dims(m)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if let Some((wrong, _)) = given.iter().find(|(n, _)| !names.contains(n)) {
            let known = match names.is_empty() {
                true => "all sizes are fixed".to_owned(),
                false => format!("those without a size are {}", names.join(", ")),
            };
            return Err(Failure::message(Kind::Config, format!("no input has a dim {wrong:?}; {known}")));
        }
        for name in names {
            if !sizes.bindings.contains_key(&name) {
                sizes.bindings.insert(name.clone(), 1);
                sizes.assumed.push(name);
            }
        }
        Ok(sizes)
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
        let sizes = Sizes::complete(&[&model], &[("S".into(), 7)]).unwrap();
        assert_eq!(sizes.assumed, ["N", "x.1"]);
        assert_eq!(sizes.bindings["S"], 7);
        assert_eq!(sizes.note().unwrap(), "MACs are for N = 1, x.1 = 1; other sizes by --dim NAME=N");
        let error = Sizes::complete(&[&model, &model], &[("T".into(), 7)]).unwrap_err();
        assert_eq!(error.to_string(), "no input has a dim \"T\"; those without a size are N, x.1, S");
        assert_eq!(error.kind, Kind::Config);
    }
}
