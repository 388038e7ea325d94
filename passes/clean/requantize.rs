//! Remove a QuantizeLinear that gives back what its DequantizeLinear took.
//!
//! Before     d = DequantizeLinear (q, s, z);  r = QuantizeLinear (d, s, z)
//! After      readers of r read q
//! When       scale, zero point, axis and block size are the same constants, q and r have one integer type of at most 16
//!            bits, and scales are float32 far from the ends of its range: then rounding (q - z) * s / s gives q - z
//! Refuses    other parameters · scales so small or large that the product may leave the normal numbers
//! Numerics   Exact
//! Reference  both roundings together move (q - z) * s / s by less than 2^-22 of it, and 2^16 of that is far below 1/2
//!
//! Pairs the other way round, QuantizeLinear before DequantizeLinear, are what a model is quantized with, and stay.

use planish_ir::{DType, Graph, Node, NodeId, Numerics, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Requantize {}

impl Pass for Requantize {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Requantize {
    fn roots(&self) -> &'static [&'static str] {
        &["QuantizeLinear"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
        let g = cx.graph;
        let (real, output) = node.input(0).zip(node.output(0)).ok_or(Skip::NoMatch)?;
        let (_, other) = g.producer(real).filter(|(_, n)| n.op.is("DequantizeLinear")).ok_or(Skip::NoMatch)?;
        if node.is_local() || other.is_local() {
            return Err(Skip::NoMatch);
        }
        let quantized = other.input(0).ok_or(Skip::NoMatch)?;
        let (from, to) = (cx.facts.fact(quantized).dtype(), cx.facts.fact(output).dtype());
        let small = matches!(from, Some(DType::I4 | DType::U4 | DType::I8 | DType::U8 | DType::I16 | DType::U16));
        if !small || from != to {
            return Err(Skip::because("the types before and after are not one integer type of at most 16 bits"));
        }
        if cx.facts.fact(real).dtype() != Some(DType::F32) || node.attrs.get("precision").is_some() {
            return Err(Skip::because("the numbers between are not computed in float32"));
        }
        same_grid(g, node, other)?;
        let mut patch = Patch::new(Numerics::Exact, format!("QuantizeLinear {:?}", g.name_of(output)));
        patch.replace(output, quantized);
        Ok(patch)
    }
}

/// Holds that a QuantizeLinear gives back the codes that a DequantizeLinear took, if they are of the same type.
pub(crate) fn same_grid(g: &Graph, quantize: &Node, dequantize: &Node) -> Result<(), Skip> {
    scales(g, quantize, dequantize)?;
    match same_zero_point(g, quantize.input(2), dequantize.input(2)) {
        true => Ok(()),
        false => Err(Skip::because("the zero points differ, or are no constants")),
    }
}

/// Holds that the scales are the same, and along the same axis.
fn scales(g: &Graph, node: &Node, other: &Node) -> Result<(), Skip> {
    // The largest quotient that is still normal, and the largest product that is still finite, with room to spare.
    const RANGE: std::ops::RangeInclusive<f32> = 1e-30..=1e30;
    let (Some(a), Some(b)) = (g.constant_input(node, 1), g.constant_input(other, 1)) else {
        return Err(Skip::because("the scales are no constants"));
    };
    if !same(a, b) || a.dtype() != DType::F32 {
        return Err(Skip::because("the scales differ"));
    }
    let int = |n: &Node, name: &str, default: i64| n.attrs.int(name).unwrap_or(default);
    let placed = |name, default| int(node, name, default) == int(other, name, default);
    if a.rank() > 0 && !(placed("axis", 1) && placed("block_size", 0)) {
        return Err(Skip::because("the scales are along different axes"));
    }
    match a.iter_f32().is_ok_and(|mut values| values.all(|s| RANGE.contains(&s))) {
        true => Ok(()),
        false => Err(Skip::because("a scale is not between 1e-30 and 1e30")),
    }
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    a.dtype() == b.dtype() && a.dims() == b.dims() && a.digest() == b.digest()
}

/// One that is left out is zero.
fn same_zero_point(g: &Graph, a: Option<ValueId>, b: Option<ValueId>) -> bool {
    let zero = |v: ValueId| g.constant(v).and_then(|t| t.to_i64().ok()).is_some_and(|t| t.iter().all(|&z| z == 0));
    match (a, b) {
        (None, None) => true,
        (Some(v), None) | (None, Some(v)) => zero(v),
        (Some(a), Some(b)) => matches!((g.constant(a), g.constant(b)), (Some(a), Some(b)) if same(a, b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn a_pair_between_two_pairs_goes() {
        insta::assert_snapshot!(check::<Requantize>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2,N] x) => (float[2,N] y)
            <float s = {0.1}, float t = {0.1}, uint8 z = {128}, uint8 w = {128}> {
                q = QuantizeLinear (x, s, z)
                d = DequantizeLinear (q, s, z)
                r = QuantizeLinear (d, t, w)
                y = DequantizeLinear (r, s, z)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2,N] x) => (float[2,N] y)
        <
          float s = {0.1},
          uint8 z = {128}
        >
        {
          q = QuantizeLinear (x, s, z)
          y = DequantizeLinear (q, s, z)
        }
        "#);
    }

    #[test]
    fn refuses_other_parameters() {
        let model = |s: &str, t: &str, z: &str, dtype: &str, axis: i64| {
            format!(
                r#"<ir_version: 8, opset_import: ["" : 17]>
                g ({dtype}[2,2] q) => ({dtype}[2,2] y)
                <float[2] s = {{{s}}}, float[2] t = {{{t}}}, {dtype}[2] z = {{{z}}}, {dtype}[2] w = {{0, 1}}> {{
                    d = DequantizeLinear <axis = 1> (q, s, z)
                    r = QuantizeLinear <axis = {axis}> (d, t, w)
                    y = Identity (r)
                }}"#
            )
        };
        let reason = |text: String| refusals::<Requantize>(&text).join("; ");
        assert_eq!(reason(model("0.1, 0.2", "0.1, 0.3", "0, 1", "int8", 1)), "the scales differ");
        assert_eq!(
            reason(model("0.1, 0.2", "0.1, 0.2", "0, 2", "int8", 1)),
            "the zero points differ, or are no constants"
        );
        assert_eq!(reason(model("0.1, 0.2", "0.1, 0.2", "0, 1", "int8", 0)), "the scales are along different axes");
        assert_eq!(
            reason(model("0.1, 1e-38", "0.1, 1e-38", "0, 1", "int8", 1)),
            "a scale is not between 1e-30 and 1e30"
        );
    }

    #[test]
    fn refuses_another_type_and_scales_that_the_caller_gives() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (uint8[2] q, float t) => (int8[2] y, uint8[2] z) <float s = {0.5}, int8 zero = {0}> {
                d = DequantizeLinear (q, s)
                y = QuantizeLinear (d, s, zero)
                e = DequantizeLinear (q, t)
                z = QuantizeLinear (e, t)
            }"#;
        assert_eq!(
            refusals::<Requantize>(text),
            ["the types before and after are not one integer type of at most 16 bits", "the scales are no constants"]
        );
    }
}
