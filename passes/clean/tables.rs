//! Compute on the rows of a constant table before some of them are picked.
//!
//! Before     g = Gather <axis = 0> (t, i);  y = f (g, c)     t and c constants
//! After      u = f (t, c');  y = Gather <axis = 0> (u, i)    `fold-constants` makes a constant of u
//! When       f works on one element at a time and is deterministic; c is a number or a row; nobody else reads t and g
//! Refuses    constants that differ between rows, or that would make the table larger · tables above a megabyte, which folding
//!            would not store
//! Numerics   Exact: the same numbers, computed once
//! Reference  –

use planish_ir::{Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, Type, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    fold::MAX_BYTES,
    operands::{dims, is_plain},
};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {}

impl Pass for Tables {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Tables {
    fn roots(&self) -> &'static [&'static str] {
        &["Gather"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, gather: &Node) -> Result<Patch, Skip> {
        let (Some(t), Some(i), Some(g)) = (gather.input(0), gather.input(1), gather.output(0)) else {
            return Err(Skip::NoMatch);
        };
        let Some(table) = cx.graph.constant(t).filter(|t| t.rank() > 0) else { return Err(Skip::NoMatch) };
        if !is_plain(gather) || gather.attrs.int("axis").unwrap_or(0) != 0 || cx.graph.users(t).len() != 1 {
            return Err(Skip::NoMatch);
        }
        let (reader_id, reader, _) = cx.graph.only_user(g).ok_or(Skip::NoMatch)?;
        op::of(reader).filter(|s| s.traits.elementwise && s.traits.pure).ok_or(Skip::NoMatch)?;
        let y = reader.output(0).filter(|_| reader.outputs().len() == 1 && is_plain(reader)).ok_or(Skip::NoMatch)?;
        let picked = dims(cx, g).ok_or(Skip::NoMatch)?.len();
        let result = dims(cx, y).ok_or(Skip::NoMatch)?.len();
        if reader.inputs().iter().filter(|v| **v == Some(g)).count() != 1 || result != picked {
            return Err(Skip::NoMatch);
        }
        let operands: Option<Vec<Option<Tensor>>> = reader
            .inputs()
            .iter()
            .map(|v| match v {
                Some(v) if *v == g => Some(None),
                Some(v) => row(cx.graph.constant(*v)?, table).map(Some),
                None => Some(None),
            })
            .collect();
        let operands = operands.ok_or(Skip::NoMatch)?;
        if table.byte_len() > MAX_BYTES {
            return Err(Skip::because("the table is too large to be folded"));
        }
        let name = cx.graph.name_of(t);
        let mut patch = Patch::new(Numerics::Exact, format!("{} of the table {name:?}", reader.op));
        let mut inputs: Vec<Option<Ref>> = Vec::new();
        for (v, operand) in reader.inputs().iter().zip(operands) {
            inputs.push(match (v, operand) {
                (Some(v), Some(constant)) => Some(patch.constant(cx.graph.name_of(*v), constant)),
                (Some(v), None) if *v == g => Some(Ref::from(t)),
                _ => None,
            });
        }
        let dtype = cx.facts.ty(y).and_then(Type::dtype).ok_or(Skip::NoMatch)?;
        let shape = table.dims().iter().map(|&d| planish_ir::Dim::from(d));
        let made = patch
            .node(reader.op.clone(), inputs)
            .attrs(reader.attrs.clone())
            .in_place_of(reader_id)
            .output(format!("{name}_{}", reader.op.name.to_lowercase()), Some(Type::tensor(dtype, shape)));
        let gather =
            patch.node(OpName::onnx("Gather"), [made, Ref::from(i)]).attrs(gather.attrs.clone()).in_place_of(id);
        let gather = gather.output(cx.graph.name_of(y), cx.graph.ty(y).cloned());
        patch.replace(y, gather);
        Ok(patch)
    }
}

/// A constant as it stands beside a row of the table; `None` if it differs between rows, or is larger than a row.
fn row(constant: &Tensor, table: &Tensor) -> Option<Tensor> {
    let leading = constant.dims().iter().take_while(|&&d| d == 1).count();
    let own = constant.dims().get(leading..)?;
    let of_row = table.dims().get(1..)?;
    let fits = own.len() <= of_row.len() && own.iter().rev().zip(of_row.iter().rev()).all(|(a, b)| *a == 1 || a == b);
    fits.then(|| constant.with_dims(own).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, parse};

    fn model(constants: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (int64[N,3] i) => (float[N,3,2] y)
            <float[4,2] t = {{1, 2, 3, 4, 5, 6, 7, 8}}{constants}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn a_row_is_added_to_the_table() {
        insta::assert_snapshot!(check::<Tables>(&model(
            ", float[1,1,2] b = {1, 2}", "g = Gather (t, i)  a = Add (b, g)  y = Relu (a)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,3] i) => (float[N,3,2] y)
        <
          float[4,2] t = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0},
          float[2] b = {1.0, 2.0}
        >
        {
          t_add = Add (b, t)
          a = Gather (t_add, i)
          y = Relu (a)
        }
        "#);
    }

    #[test]
    fn stays() {
        let same = |constants: &str, nodes: &str| {
            let text = model(constants, nodes);
            assert_eq!(check::<Tables>(&text), planish_ir::text::print(&parse(&text)));
        };
        same(", float[3,1] b = {1, 2, 3}", "g = Gather (t, i)  y = Add (g, b)");
        same(", float[1,1,1,2] b = {1, 2}", "g = Gather (t, i)  a = Add (g, b)  s = Shape (g)  y = Reshape (a, s)");
        same("", "g = Gather (t, i)  y = Mul (g, g)");
        same("", "g = Gather (t, i)  h = Neg (g)  y = Mul (g, h)");
    }
}
