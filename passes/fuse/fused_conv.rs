//! Give a convolution the sum and the activation behind it, for onnxruntime on CPUs.
//!
//! Before     c = Conv (x, w, b?);  s = Add (c, z);  y = Relu (s)
//! After      y = com.microsoft.FusedConv <activation = "Relu"> (x, w, b?, z)
//! When       the target is onnxruntime-cpu; type float; z has the shape of c; the activation is Relu, Clip with constant bounds,
//!            HardSigmoid, LeakyRelu, Sigmoid or Tanh; either of the two may be missing
//! Refuses    what is between has other readers or is a graph output · z is broadcast, or its shape is not proven · the convolution
//!            has a summand or an activation already · a sum without a constant bias, or of what no convolution or pool makes
//! Numerics   Reassociated
//! Reference  ONNX Runtime contrib operators, FusedConv
//!
//! onnxruntime makes the same of it when it loads a model, if it finds it; so what is gained are nodes. It computes convolutions in a blocked
//! layout, but a fused one only if it has a constant bias and adds what is in that layout too; else the fused node is the slower one.

use planish_ir::{Attr, Attrs, DType, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Pass, Rule, RuleContext, Shape, Skip, Target,
    clean::operands::{dims, same_dims},
};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FusedConv {}

const DOMAIN: &str = "com.microsoft";
/// Inputs of the fused operator.
const BIAS: usize = 2;
const SUMMAND: usize = 3;

impl Pass for FusedConv {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for FusedConv {
    fn roots(&self) -> &'static [&'static str] {
        &["Add", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if cx.target != Target::OnnxruntimeCpu || node.is_local() {
            return Err(Skip::NoMatch);
        }
        let sum = node.op.is("Add");
        let convs = (0..=usize::from(sum)).filter_map(|slot| Some((slot, convolution(cx, node.input(slot)?)?)));
        // Of two convolutions that one is taken that has room for it, and whose own result nobody else needs.
        let all: Vec<_> = convs.collect();
        let Some(&(slot, (value, conv))) = all
            .iter()
            .find(|(_, (v, conv))| !is_taken(conv, sum) && cx.graph.only_user(*v).is_some())
            .or_else(|| all.iter().find(|(_, (_, conv))| !is_taken(conv, sum)))
        else {
            return Err(match all.is_empty() {
                true => Skip::NoMatch,
                false => Skip::because("the convolution before it has a summand or an activation already"),
            });
        };
        if cx.facts.fact(value).dtype() != Some(DType::F32) {
            return Err(Skip::because("onnxruntime has the operator for float only"));
        }
        if cx.graph.only_user(value).is_none() {
            let name = cx.graph.name_of(value);
            return Err(Skip::because(format!("{name:?} has other readers or is a graph output")));
        }
        let mut inputs: Vec<Option<ValueId>> = (0..=SUMMAND).map(|slot| conv.input(slot)).collect();
        let mut attrs = conv.attrs.clone();
        if sum {
            let other = node.input(1 - slot).ok_or(Skip::NoMatch)?;
            if !dims(cx, other).zip(dims(cx, value)).is_some_and(|(a, b)| same_dims(a, b)) {
                return Err(Skip::because(format!(
                    "{:?} is not known to have the shape that the convolution makes",
                    cx.graph.name_of(other)
                )));
            }
            if !is_blocked(cx, other) {
                let name = cx.graph.name_of(other);
                return Err(Skip::because(format!(
                    "onnxruntime would leave the blocked layout to add {name:?}, which no convolution makes"
                )));
            }
            if conv.input(BIAS).is_none_or(|b| cx.graph.constant(b).is_none()) {
                return Err(Skip::because(
                    "onnxruntime would leave the blocked layout: the convolution has no constant bias",
                ));
            }
            inputs[SUMMAND] = Some(other);
        } else {
            activate(cx, node, &mut attrs)?;
        }
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let mut patch = Patch::new(Numerics::Reassociated, format!("{} {:?} into its convolution", node.op, node.name));
        patch.import(DOMAIN, 1);
        let last = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let new = patch
            .node(OpName::new(DOMAIN, "FusedConv"), inputs.into_iter().take(last).map(|v| v.map(Ref::from)))
            .attrs(attrs)
            .name(conv.name.clone())
            .in_place_of(id)
            .output(cx.graph.name_of(output), cx.graph.ty(output).cloned());
        patch.replace(output, new);
        Ok(patch)
    }
}

/// The convolution that makes a value.
fn convolution<'a>(cx: &RuleContext<'a>, value: ValueId) -> Option<(ValueId, &'a Node)> {
    let (_, node) = cx.graph.producer(value).filter(|(_, n)| !n.is_local())?;
    (node.op.is("Conv") || is_fused(node)).then_some((value, node))
}

/// True for what onnxruntime makes in its blocked layout.
fn is_blocked(cx: &RuleContext<'_>, value: ValueId) -> bool {
    let pools = ["AveragePool", "MaxPool"];
    let producer = cx.graph.producer(value).map(|(_, n)| n).filter(|n| !n.is_local());
    producer.is_some_and(|n| n.op.is("Conv") || is_fused(n) || pools.iter().any(|p| n.op.is(p)))
}

fn is_fused(node: &Node) -> bool {
    node.op == OpName::new(DOMAIN, "FusedConv")
}

/// True if a convolution has no room for a summand, or else for an activation. The activation comes last.
fn is_taken(conv: &Node, sum: bool) -> bool {
    let is_active = is_fused(conv) && conv.attrs.str("activation").is_some_and(|a| !a.is_empty());
    is_active || (sum && conv.input(SUMMAND).is_some())
}

/// Adds what an activation is to the attributes of the convolution.
fn activate(cx: &RuleContext<'_>, node: &Node, attrs: &mut Attrs) -> Result<(), Skip> {
    let float = |name: &str, default: f32| node.attrs.float(name).unwrap_or(default);
    let parameters = match node.op.name.as_str() {
        // Up to opset 10 bounds are attributes.
        "Clip" => {
            let bound = |slot: usize, name: &str, open: f32| match node.input(slot) {
                None => Ok(float(name, open)),
                Some(v) => {
                    let constant = cx.graph.constant(v).and_then(Tensor::single_f64);
                    constant.map(|b| b as f32).ok_or_else(|| Skip::because("a bound of Clip is not constant"))
                }
            };
            let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
            // The operator leaves open what it makes of anything else.
            if !(low <= high && low.is_finite() && high.is_finite()) {
                return Err(Skip::because(format!("the bounds of Clip are {low} and {high}")));
            }
            vec![low, high]
        }
        "HardSigmoid" => vec![float("alpha", 0.2), float("beta", 0.5)],
        "LeakyRelu" => vec![float("alpha", 0.01)],
        _ => Vec::new(),
    };
    attrs.set("activation", Attr::from(node.op.name.as_str()));
    if !parameters.is_empty() {
        attrs.set("activation_params", Attr::Floats(parameters));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_for, refusals_for};

    const RESIDUAL: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v> {
            c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            r = Relu (c)
            d = Conv (r, v, b)
            s = Add (r, d)
            y = Relu (s)
        }"#;

    #[test]
    fn a_residual_block_is_two_nodes() {
        insta::assert_snapshot!(check_for(FusedConv::default(), Target::OnnxruntimeCpu, RESIDUAL), @r#"
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y)
        <
          float[4,4,3,3] w,  # 0135808c0666, 144 elements
          float[4] b = {0.5791523, -0.68649244, -0.99834424, 0.38279986},
          float[4,4,1,1] v = {0.77641994, -0.48786107, -0.81765884, -0.72036576, 0.16217944, -0.5599823, -0.11930957, 0.5239647, 0.2438087, 0.2093259, -0.30513218, 0.24076474, -0.15358439, 0.48576754, -0.7439066, -0.0023620883}
        >
        {
          r = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (x, w, b)
          y = com.microsoft.FusedConv <activation = "Relu"> (r, v, b, r)
        }
        "#);
    }

    #[test]
    fn other_targets_keep_standard_operators() {
        assert!(!check::<FusedConv>(RESIDUAL).contains("FusedConv"));
    }

    #[test]
    fn a_sum_goes_to_the_convolution_that_nobody_else_reads() {
        let after = check_for(
            FusedConv::default(),
            Target::OnnxruntimeCpu,
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,4,8,8] x) => (float[1,4,8,8] y)
            <float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u, float[4] o> {
                a = Conv (x, w)
                b = Conv (a, v, o)
                s = Add (a, b)
                c = Conv (s, u, o)
                y = Add (s, c)
            }"#,
        );
        let nodes: Vec<&str> = after.lines().filter(|l| l.contains("Conv") || l.contains("Add")).collect();
        insta::assert_snapshot!(nodes.join("\n"), @"
        a = Conv (x, w)
        s = com.microsoft.FusedConv (a, v, o, a)
        y = com.microsoft.FusedConv (s, u, o, s)
        ");
    }

    #[test]
    fn parameters_come_along() {
        let activations = [
            "Clip (c, zero, six)",
            "Clip (c, , six)",
            "HardSigmoid (c)",
            "HardSigmoid <alpha = 0.5> (c)",
            "LeakyRelu (c)",
            "Sigmoid (c)",
            "Tanh (c)",
        ];
        let fused = activations.map(|activation| {
            let after = check_for(
                FusedConv::default(),
                Target::OnnxruntimeCpu,
                &format!(
                    r#"<ir_version: 8, opset_import: ["" : 17]>
                    g (float[1,4,8,8] x) => (float[1,4,8,8] y)
                    <float[4,4,1,1] w, float zero = {{0.0}}, float six = {{6.0}}> {{
                        c = Conv (x, w)
                        y = {activation}
                    }}"#
                ),
            );
            after.lines().filter(|l| l.contains("FusedConv")).collect::<String>()
        });
        insta::assert_snapshot!(fused.join("\n"), @r#"
        y = com.microsoft.FusedConv <activation = "Clip", activation_params = [0.0, 6.0]> (x, w)
        y = com.microsoft.FusedConv <activation = "Clip", activation_params = [-3.4028235e38, 6.0]> (x, w)
        y = com.microsoft.FusedConv <activation = "HardSigmoid", activation_params = [0.2, 0.5]> (x, w)
        y = com.microsoft.FusedConv <activation = "HardSigmoid", activation_params = [0.5, 0.5]> (x, w)
        y = com.microsoft.FusedConv <activation = "LeakyRelu", activation_params = [0.01]> (x, w)
        y = com.microsoft.FusedConv <activation = "Sigmoid"> (x, w)
        y = com.microsoft.FusedConv <activation = "Tanh"> (x, w)
        "#);
    }

    #[test]
    fn refuses() {
        let all = [
            // Broadcast.
            "c = Conv (x, w)  y = Add (c, b)",
            // Out of the blocked layout.
            "c = Conv (x, w, o)  y = Add (c, x)",
            "c = Conv (x, w)  d = Conv (c, w)  y = Add (c, d)",
            // Of another type.
            "h = Cast <to = 10> (x)  k = Cast <to = 10> (w)  c = Conv (h, k)  r = Relu (c)  y = Cast <to = 1> (r)",
            // Of two that could take it none is free.
            "c = Conv (x, w)  d = Conv (x, w)  s = Add (c, d)  t = Add (c, d)  y = Mul (s, t)",
            // Read twice.
            "c = Conv (x, w)  r = Relu (c)  y = Add (r, c)",
            // Bounds that are computed, and such between which nothing lies.
            "c = Conv (x, w)  m = ReduceMax <keepdims = 0> (x)  y = Clip (c, m)",
            "c = Conv (x, w)  y = Clip (c, six, zero)",
        ];
        let reasons = all.map(|nodes| {
            let text = format!(
                r#"<ir_version: 8, opset_import: ["" : 17]>
                g (float[1,4,8,8] x) => (float[1,4,8,8] y)
                <float[4,4,1,1] w, float[1,4,1,1] b, float[4] o, float zero = {{0.0}}, float six = {{6.0}}> {{ {nodes} }}"#
            );
            refusals_for(FusedConv::default(), Target::OnnxruntimeCpu, &text).join("\n")
        });
        insta::assert_snapshot!(reasons.join("\n"), @r#"
        "b" is not known to have the shape that the convolution makes
        onnxruntime would leave the blocked layout to add "x", which no convolution makes
        onnxruntime would leave the blocked layout: the convolution has no constant bias
        onnxruntime has the operator for float only
        "c" has other readers or is a graph output
        "c" has other readers or is a graph output
        "c" has other readers or is a graph output
        "c" has other readers or is a graph output
        a bound of Clip is not constant
        the bounds of Clip are 6 and 0
        "#);
    }
}
