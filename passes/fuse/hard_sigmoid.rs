//! Recognize a HardSigmoid that is spelled out, also inside a HardSwish.
//!
//! Before     y = Clip (x + a, 0, h) / h   ·   y = z * Clip (x + a, 0, h) / h
//! After      y = HardSigmoid <1/h, a/h> (x)   ·   y = z * HardSigmoid <1/h, a/h> (x)
//! When       a and h are scalar constants, h > 0; the division may be a multiplication by 1/h
//! Refuses    what is between has other readers or is a graph output · bounds that are not constant · types other than
//!            float16, float and double · opset < 6
//! Numerics   Reassociated
//! Reference  Howard et al., Searching for MobileNetV3, ICCV 2019, §5.2; ONNX HardSigmoid-6

use planish_ir::{Attr, Attrs, DType, Node, NodeId, Numerics, OpName, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HardSigmoid {}

impl Pass for HardSigmoid {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for HardSigmoid {
    fn roots(&self) -> &'static [&'static str] {
        &["Div", "Mul"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        // Before opset 7 operands are aligned by attributes.
        if node.is_local() || cx.opset() < 7 {
            return Err(Skip::NoMatch);
        }
        let g = cx.graph;
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let (divided, divisor) = quotient(cx, node)?;
        if let Ok(gate) = Gate::of(cx, divided, divisor) {
            let mut patch = Patch::new(Numerics::Reassociated, format!("HardSigmoid {:?}", g.name_of(output)));
            let new = gate.node(cx, &mut patch, id, output);
            patch.replace(output, new);
            return Ok(patch);
        }
        // The gate is a factor of what is divided.
        let (product_id, product) = g.producer(divided).filter(|(_, n)| n.op.is("Mul")).ok_or(Skip::NoMatch)?;
        let (slot, clip, gate) = (0..2)
            .find_map(|slot| {
                let v = product.input(slot)?;
                Some((slot, v, Gate::of(cx, v, divisor).ok()?))
            })
            .ok_or(Skip::NoMatch)?;
        let is_only_user = |v: ValueId| g.only_user(v).is_some();
        if !is_only_user(clip) || !is_only_user(divided) {
            return Err(Skip::because("what is between has other readers or is a graph output"));
        }
        let mut patch = Patch::new(Numerics::Reassociated, format!("HardSigmoid {:?}", g.name_of(output)));
        let new = gate.node(cx, &mut patch, id, clip);
        patch.set_input(product_id, slot, Some(new));
        patch.replace(output, divided);
        Ok(patch)
    }
}

/// The scalar by which the node divides, and what it divides.
fn quotient(cx: &RuleContext<'_>, node: &Node) -> Result<(ValueId, f64), Skip> {
    let (a, b) = (node.input(0).ok_or(Skip::NoMatch)?, node.input(1).ok_or(Skip::NoMatch)?);
    let found = match (scalar(cx, a), scalar(cx, b), node.op.is("Div")) {
        (None, Some(h), true) => Some((a, h)),
        (None, Some(f), false) => Some((a, 1.0 / f)),
        (Some(f), None, false) => Some((b, 1.0 / f)),
        _ => None,
    };
    found.filter(|(_, h)| *h > 0.0 && h.is_finite()).ok_or(Skip::NoMatch)
}

/// A constant of one element that adds no axis to what has at least one.
fn scalar(cx: &RuleContext<'_>, v: ValueId) -> Option<f64> {
    let float = |d: DType| matches!(d, DType::F16 | DType::F32);
    cx.graph.constant(v).filter(|t| t.rank() == 0 || t.dims() == [1]).filter(|t| float(t.dtype()))?.single_f64()
}

/// `Clip (x + offset, 0, height)`.
struct Gate {
    x: ValueId,
    offset: f64,
    height: f64,
}

impl Gate {
    fn of(cx: &RuleContext<'_>, v: ValueId, height: f64) -> Result<Gate, Skip> {
        let g = cx.graph;
        let by = |v: ValueId, op: &str| g.producer(v).map(|(_, n)| n).filter(|n| n.op.is(op) && !n.is_local());
        let clip = by(v, "Clip").ok_or(Skip::NoMatch)?;
        let bound = |slot: usize, name: &str| match clip.input(slot) {
            Some(b) => g.constant(b).and_then(Tensor::single_f64),
            None => clip.attrs.float(name).map(f64::from),
        };
        // The factor may have been rounded to the type when it was inverted.
        let rounding = match cx.graph.ty(v).and_then(planish_ir::Type::dtype) {
            Some(DType::F16) => 1e-3,
            _ => 1e-6,
        };
        let near = |a: f64, b: f64| (a - b).abs() <= rounding * b.abs();
        if bound(1, "min") != Some(0.0) || !bound(2, "max").is_some_and(|max| near(max, height)) {
            return Err(Skip::NoMatch);
        }
        let height = bound(2, "max").ok_or(Skip::NoMatch)?;
        let sum_id = clip.input(0).ok_or(Skip::NoMatch)?;
        let sum = by(sum_id, "Add").ok_or(Skip::NoMatch)?;
        let (a, b) = (sum.input(0).ok_or(Skip::NoMatch)?, sum.input(1).ok_or(Skip::NoMatch)?);
        let (x, offset) = match (scalar(cx, a), scalar(cx, b)) {
            (None, Some(offset)) => (a, offset),
            (Some(offset), None) => (b, offset),
            _ => return Err(Skip::NoMatch),
        };
        // A scalar plus a list of one number is a list of one.
        let same_rank = cx.facts.fact(x).shape().is_some_and(|s| !s.is_empty());
        match same_rank && offset.is_finite() && g.only_user(sum_id).is_some() && g.only_user(v).is_some() {
            true => Ok(Gate { x, offset, height }),
            false => Err(Skip::NoMatch),
        }
    }

    fn node(&self, cx: &RuleContext<'_>, patch: &mut Patch, origin: NodeId, old: ValueId) -> planish_ir::Ref {
        let attrs = Attrs::new()
            .with("alpha", Attr::Float((1.0 / self.height) as f32))
            .with("beta", Attr::Float((self.offset / self.height) as f32));
        let node = patch.node(OpName::onnx("HardSigmoid"), [Some(self.x.into())]).in_place_of(origin).attrs(attrs);
        node.output(cx.graph.name_of(old), cx.graph.ty(old).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    fn model(opset: i64, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,4] x) => (float[N,4] y)
            <float[1] three = {{3.0}}, float zero = {{0.0}}, float six = {{6.0}}, float sixth = {{0.16666667}}, float two = {{2.0}}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn gates_alone() {
        insta::assert_snapshot!(check::<HardSigmoid>(&model(
            12, "r = Relu (x)\n a = Add (r, three)\n c = Clip (a, zero, six)\n y = Div (c, six)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 12]>
        g (float[N,4] x) => (float[N,4] y)
        <
          float sixth = {0.16666667},
          float two = {2.0}
        >
        {
          r = Relu (x)
          y = HardSigmoid <alpha = 0.16666667, beta = 0.5> (r)
        }
        "#);
    }

    #[test]
    fn gates_of_a_product_and_the_attributes_of_old_versions() {
        insta::assert_snapshot!(check::<HardSigmoid>(&model(
            10, "r = Relu (x)\n a = Add (three, r)\n c = Clip <min = 0.0, max = 6.0> (a)\n m = Mul (r, c)\n y = Mul (sixth, m)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 10]>
        g (float[N,4] x) => (float[N,4] y)
        <
          float zero = {0.0},
          float six = {6.0},
          float two = {2.0}
        >
        {
          r = Relu (x)
          c_1 = HardSigmoid <alpha = 0.16666667, beta = 0.5> (r)
          y = Mul (r, c_1)
        }
        "#);
    }

    #[test]
    fn leaves_other_bounds_and_readers_alone() {
        for nodes in [
            "a = Add (x, three)\n c = Clip (a, zero, six)\n y = Div (c, two)",
            "a = Add (x, three)\n c = Clip (a, two, six)\n y = Div (c, six)",
            "a = Add (x, three)\n c = Clip (a, zero, six)\n d = Div (c, six)\n y = Mul (d, a)",
        ] {
            assert!(refusals::<HardSigmoid>(&model(12, nodes)).is_empty());
        }
        assert_eq!(
            refusals::<HardSigmoid>(&model(
                12,
                "a = Add (x, three)\n c = Clip (a, zero, six)\n m = Mul (x, c)\n d = Div (m, six)\n y = Mul (d, m)"
            )),
            ["what is between has other readers or is a graph output"]
        );
    }

    #[test]
    fn a_divisor_that_is_not_the_bound_is_refused() {
        for (ty, divisor) in [("float", "6.005"), ("double", "6.0")] {
            let text = format!(
                r#"<ir_version: 8, opset_import: ["" : 17]> g ({ty}[N,4] x) => ({ty}[N,4] y)
                <{ty} a = {{3.0}}, {ty} z = {{0.0}}, {ty} h = {{6.0}}, {ty} k = {{{divisor}}}> {{
                    p = Add (x, a)
                    q = Clip (p, z, h)
                    y = Div (q, k)
                }}"#
            );
            assert!(check::<HardSigmoid>(&text).contains("Clip"), "{ty}");
        }
    }
}
