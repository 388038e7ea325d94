//! Cast once instead of twice.
//!
//! Before     y = Cast <to = c> (Cast <to = b> (x))       x of type a
//! After      y = Cast <to = c> (x), or readers of y read x if c is a
//! When       b holds every value of a: integers in wider integers, floats in wider floats, small integers in floats
//! Refuses    a first cast that may lose something · a last one of which the result depends on the type that it comes
//!            from: from floats to integers, which no standard says beyond their range, and to strings
//! Numerics   Exact
//! Reference  ONNX Cast-21

use planish_ir::{DType, Node, NodeId, Numerics, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::{is_plain, producer};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Casts {}

impl Pass for Casts {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Casts {
    fn roots(&self) -> &'static [&'static str] {
        &["Cast"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let (middle, output) = node.input(0).zip(node.output(0)).ok_or(Skip::NoMatch)?;
        let (_, first) = producer(cx, middle, "Cast").filter(|_| is_plain(node)).ok_or(Skip::NoMatch)?;
        let source = first.input(0).ok_or(Skip::NoMatch)?;
        let to = |n: &Node| n.attrs.int("to").and_then(|c| i32::try_from(c).ok()).and_then(DType::from_code);
        let from = cx.facts.fact(source).dtype();
        let (Some(a), Some(b), Some(c)) = (from, to(first), to(node)) else { return Err(Skip::NoMatch) };
        if !holds(b, a) {
            return Err(Skip::because(format!("{b} does not hold every {a}")));
        }
        if !(holds(c, a) || (is_whole(a) && is_whole(b) && c != DType::String) || (a.is_float() && is_ieee(c))) {
            return Err(Skip::because(format!("what becomes of a {b} that {c} cannot hold depends on its type")));
        }
        let mut patch = Patch::new(Numerics::Exact, format!("Cast {:?}", cx.graph.name_of(output)));
        if a == c && !cx.graph.is_output(output) {
            patch.replace(output, source);
        } else {
            patch.set_input(id, 0, Some(source.into()));
        }
        Ok(patch)
    }
}

const fn is_whole(d: DType) -> bool {
    d.is_integer() || matches!(d, DType::Bool)
}

const fn is_ieee(d: DType) -> bool {
    matches!(d, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

/// True if every value of type `b` is one of type `a` too.
fn holds(a: DType, b: DType) -> bool {
    use DType::{BF16, Bool, F16, F32, F64, U2, U4, U8, U16, U32, U64};
    let unsigned = |d| matches!(d, U2 | U4 | U8 | U16 | U32 | U64);
    // Bits of integers that a float holds exactly, a sign apart.
    let mantissa = |d| match d {
        F64 => 53,
        F32 => 24,
        F16 => 11,
        BF16 => 8,
        _ => 0,
    };
    let narrow = |d: DType| d.bits() - u64::from(!unsigned(d));
    match (a, b) {
        _ if a == b => true,
        (_, Bool) => a.is_integer() || is_ieee(a),
        _ if a.is_integer() && b.is_integer() => {
            (unsigned(a) == unsigned(b) && a.bits() > b.bits()) || (!unsigned(a) && unsigned(b) && a.bits() > b.bits())
        }
        _ if is_ieee(a) && b.is_integer() => narrow(b) <= mantissa(a),
        (F64, F32 | F16 | BF16) | (F32, F16 | BF16) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn a_cast_that_loses_nothing_goes() {
        insta::assert_snapshot!(check::<Casts>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int32[N] i, float16[N] h, bool[N] b) => (float[N] y, float16[N] z, bool[N] c, int8[N] d) {
                i64 = Cast <to = 7> (i)
                y = Cast <to = 1> (i64)
                d = Cast <to = 3> (i64)
                f = Cast <to = 1> (h)
                h2 = Cast <to = 10> (f)
                z = Relu (h2)
                n = Cast <to = 1> (b)
                b2 = Cast <to = 9> (n)
                c = Not (b2)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int32[N] i, float16[N] h, bool[N] b) => (float[N] y, float16[N] z, bool[N] c, int8[N] d) {
          y = Cast <to = 1> (i)
          z = Relu (h)
          c = Not (b)
          d = Cast <to = 3> (i)
        }
        "#);
    }

    #[test]
    fn refuses_what_loses_or_is_not_defined() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64[N] i, float[N] f, float16[N] h) => (int64[N] y, float[N] z, int8[N] w, string[N] s) {
                a = Cast <to = 6> (i)
                y = Cast <to = 7> (a)
                b = Cast <to = 10> (f)
                z = Cast <to = 1> (b)
                c = Cast <to = 1> (h)
                w = Cast <to = 3> (c)
                d = Cast <to = 11> (f)
                s = Cast <to = 8> (d)
            }"#;
        insta::assert_debug_snapshot!(refusals::<Casts>(text), @r#"
        [
            "int32 does not hold every int64",
            "float16 does not hold every float",
            "what becomes of a float that int8 cannot hold depends on its type",
            "what becomes of a double that string cannot hold depends on its type",
        ]
        "#);
    }

    #[test]
    fn types_hold_types() {
        use DType::*;
        let pairs = [(I64, I32), (I16, U8), (F32, I16), (F32, U16), (F64, U32), (F16, U8), (F32, BF16), (BF16, I8)];
        assert!(pairs.iter().all(|&(a, b)| holds(a, b) && !holds(b, a)));
        let not = [(U64, I32), (U8, I8), (I8, U8), (F32, I32), (F64, I64), (F16, BF16), (BF16, F16), (F16, I16)];
        assert!(not.iter().all(|&(a, b)| !holds(a, b)));
    }
}
