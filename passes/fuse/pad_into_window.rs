//! Fold Pad into the padding of the convolution or pool behind it.
//!
//! Before     p = Pad (x, pads, value?);  y = Conv (p, w, b?)  ·  MaxPool (p)  ·  AveragePool (p)
//! After      y = Conv (x, w, b?) with those pads; AveragePool then counts the border, as it did before
//! When       mode is constant, pads are constant, not negative and on spatial axes only; the value is 0 before Conv, ConvInteger
//!            and AveragePool, -∞ before MaxPool, or 0 where nothing is negative and every window reaches the input
//! Refuses    p has other readers or is a graph output · another value or mode · pads of batch or channels · auto_pad = SAME ·
//!            pools: a border as wide as the kernel, which runtimes refuse; sizes rounded up; an average that already has
//!            a border and does not count it
//! Numerics   Exact before MaxPool with -∞; else Reassociated, since runtimes sum a border that they add themselves in another order
//! Reference  ONNX Conv-11, MaxPool-12, AveragePool-11, Pad-18

use planish_ir::{Attr, DType, Node, NodeId, Numerics, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PadIntoWindow {}

impl Pass for PadIntoWindow {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for PadIntoWindow {
    fn roots(&self) -> &'static [&'static str] {
        &["AveragePool", "Conv", "ConvInteger", "MaxPool"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let g = cx.graph;
        let padded = node.input(0).ok_or(Skip::NoMatch)?;
        let (_, pad) = g.producer(padded).filter(|(_, n)| n.op.is("Pad") && !n.is_local()).ok_or(Skip::NoMatch)?;
        let x = pad.input(0).ok_or(Skip::NoMatch)?;
        if node.is_local() {
            return Err(Skip::NoMatch);
        }
        if g.only_user(padded).is_none() {
            return Err(Skip::because(format!("{:?} has other readers or is a graph output", g.name_of(padded))));
        }
        if pad.attrs.str("mode").unwrap_or("constant") != "constant" {
            return Err(Skip::because("it pads with copies of the input"));
        }
        let rank = cx.facts.fact(x).shape().or_else(|| cx.facts.fact(padded).shape()).map(<[_]>::len);
        let rank = rank.ok_or_else(|| Skip::because("the rank of what is padded is not known"))?;
        let border = border(cx, pad, rank)?;
        let numerics = value_fits(cx, node, pad, x)?;
        let mut attrs = node.attrs.clone();
        let old = match node.attrs.str("auto_pad").unwrap_or("NOTSET") {
            "VALID" => None,
            "NOTSET" => node.attrs.ints("pads"),
            _ => return Err(Skip::because("auto_pad depends on the padded size")),
        };
        let new: Option<Vec<i64>> = border
            .iter()
            .enumerate()
            .map(|(i, &n)| n.checked_add(old.map_or(Some(0), |old| old.get(i).copied())?))
            .collect();
        let new = new.ok_or_else(|| Skip::because("its pads do not fit those of the window"))?;
        if node.op.is("MaxPool") || node.op.is("AveragePool") {
            pool_allows(node, &new)?;
        }
        if node.op.is("AveragePool") {
            let counts = node.attrs.int("count_include_pad").unwrap_or(0) != 0;
            if !counts && old.is_some_and(|old| old.iter().any(|&n| n != 0)) {
                return Err(Skip::because("the average does not count the border that it has"));
            }
            attrs.set("count_include_pad", Attr::Int(1));
        }
        attrs.remove("auto_pad");
        attrs.set("pads", Attr::Ints(new));
        let mut patch = Patch::new(numerics, format!("{} {:?} pads itself", node.op, node.name));
        patch.set_input(id, 0, Some(x.into()));
        patch.set_attrs(id, attrs);
        Ok(patch)
    }
}

/// What is added before and behind each spatial axis, in the order of a window's `pads`.
fn border(cx: &RuleContext<'_>, pad: &Node, rank: usize) -> Result<Vec<i64>, Skip> {
    let pads = match pad.input(1) {
        Some(v) => cx.graph.constant(v).and_then(|t| t.to_i64().ok()),
        None => pad.attrs.ints("pads").map(<[i64]>::to_vec),
    };
    let pads = pads.ok_or_else(|| Skip::because("its pads are not constant"))?;
    let axes: Vec<usize> = match pad.input(3) {
        None => (0..rank).collect(),
        Some(v) => {
            let axes = cx.graph.constant(v).and_then(|t| t.to_i64().ok());
            let axes = axes.ok_or_else(|| Skip::because("its axes are not constant"))?;
            let axes = axes.into_iter().map(|a| planish_ir::infer::axis(a, rank));
            axes.collect::<Result<_, _>>().map_err(Skip::because)?
        }
    };
    let (before, behind) = pads.split_at(pads.len() / 2);
    if before.len() != axes.len() || behind.len() != axes.len() || rank < 3 {
        return Err(Skip::NoMatch);
    }
    let spatial = rank - 2;
    let mut border = vec![0; spatial * 2];
    for ((&axis, &before), &behind) in axes.iter().zip(before).zip(behind) {
        if before < 0 || behind < 0 {
            return Err(Skip::because("it crops"));
        }
        match axis.checked_sub(2) {
            Some(i) => {
                for (slot, n) in [(i, before), (i + spatial, behind)] {
                    if let Some(b) = border.get_mut(slot) {
                        *b = n;
                    }
                }
            }
            None if before == 0 && behind == 0 => {}
            None => return Err(Skip::because("it pads batch or channels")),
        }
    }
    Ok(border)
}

/// Refuses a value that is not what the window pads with.
fn value_fits(cx: &RuleContext<'_>, node: &Node, pad: &Node, x: ValueId) -> Result<Numerics, Skip> {
    let value = match pad.input(2) {
        Some(v) => {
            let t = cx.graph.constant(v);
            let number = t.and_then(|t| t.single_f64().or_else(|| Tensor::single_i64(t).map(|n| n as f64)));
            number.ok_or_else(|| Skip::because("the value that it pads with is not constant"))?
        }
        None => f64::from(pad.attrs.float("value").unwrap_or(0.0)),
    };
    let padded_with = |what: &str| Err(Skip::because(format!("it pads with {value}, not with {what}")));
    match node.op.name.as_str() {
        "MaxPool" if value == f64::NEG_INFINITY => Ok(Numerics::Exact),
        "MaxPool" if value == 0.0 && is_not_negative(cx, x) => Ok(Numerics::Reassociated),
        "MaxPool" => padded_with("-∞, and the input may be less"),
        _ if value != 0.0 => padded_with("0"),
        // What an integer convolution pads with is its zero point.
        "ConvInteger"
            if node.input(2).is_some_and(|z| cx.graph.constant(z).and_then(Tensor::single_i64) != Some(0)) =>
        {
            padded_with("the zero point")
        }
        _ => Ok(Numerics::Reassociated),
    }
}

/// True if no element can be below zero.
fn is_not_negative(cx: &RuleContext<'_>, x: ValueId) -> bool {
    const NEVER: &[&str] = &["Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt"];
    let Some((_, node)) = cx.graph.producer(x).filter(|(_, n)| !n.is_local()) else { return false };
    let least = match (node.op.is("Clip"), node.input(1)) {
        (false, _) => None,
        (true, Some(least)) => cx.graph.constant(least).and_then(Tensor::single_f64),
        (true, None) => node.attrs.float("min").map(f64::from),
    };
    // The smallest integer is its own absolute value.
    let is_float = cx.facts.fact(x).dtype().is_some_and(DType::is_float);
    NEVER.iter().any(|op| node.op.is(op)) || (is_float && node.op.is("Abs")) || least.is_some_and(|l| l >= 0.0)
}

/// Refuses a border that a pool would not take, or with which a window would lie outside the input.
fn pool_allows(node: &Node, pads: &[i64]) -> Result<(), Skip> {
    if node.outputs().iter().skip(1).any(Option::is_some) {
        return Err(Skip::because("it returns indices, which would count without the border"));
    }
    if node.attrs.int("ceil_mode").unwrap_or(0) != 0 {
        return Err(Skip::because("the pool's size is rounded up, and what lies beyond the border counts differently"));
    }
    if node.attrs.ints("dilations").is_some_and(|d| d.iter().any(|&n| n != 1)) {
        return Err(Skip::because("the pool has gaps, so that a window could see the border alone"));
    }
    let kernel = node.attrs.ints("kernel_shape").ok_or(Skip::NoMatch)?;
    match kernel.len() * 2 == pads.len() && pads.iter().zip(kernel.iter().cycle()).all(|(p, k)| p < k) {
        true => Ok(()),
        false => Err(Skip::because("the border would be as wide as the pool's kernel")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    const PADS: &str = "int64[8] p = {0, 0, 1, 2, 0, 0, 3, 0}";

    fn model(opset: i64, constants: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,1,8,8] x) => (float[N,1,A,B] y) <{constants}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn a_convolution_adds_it_to_its_own() {
        insta::assert_snapshot!(check::<PadIntoWindow>(&model(
            17, &format!("{PADS}, float[1,1,3,3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}"),
            "a = Pad (x, p)\n y = Conv <pads = [1, 1, 1, 1]> (a, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,8,8] x) => (float[N,1,A,B] y)
        <
          float[1,1,3,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}
        >
        {
          y = Conv <pads = [2, 3, 4, 1]> (x, w)
        }
        "#);
    }

    #[test]
    fn axes_and_the_attributes_of_old_versions() {
        insta::assert_snapshot!(check::<PadIntoWindow>(&model(
            18, "int64[2] p = {1, 2}, int64[1] ax = {-1}, float v = {0.0}, float[1,1,1,1] w = {1}",
            "a = Pad (x, p, v, ax)\n y = Conv <auto_pad = \"VALID\"> (a, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N,1,8,8] x) => (float[N,1,A,B] y)
        <
          float[1,1,1,1] w = {1.0}
        >
        {
          y = Conv <pads = [0, 1, 0, 2]> (x, w)
        }
        "#);
        insta::assert_snapshot!(check::<PadIntoWindow>(&model(
            10, "float[1,1,1,1] w = {1}",
            "a = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 0]> (x)\n y = Conv (a, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 10]>
        g (float[N,1,8,8] x) => (float[N,1,A,B] y)
        <
          float[1,1,1,1] w = {1.0}
        >
        {
          y = Conv <pads = [1, 2, 3, 0]> (x, w)
        }
        "#);
    }

    #[test]
    fn pools() {
        insta::assert_snapshot!(check::<PadIntoWindow>(&model(
            17, PADS, "a = Pad (x, p)\n y = AveragePool <kernel_shape = [4, 4]> (a)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,8,8] x) => (float[N,1,A,B] y) {
          y = AveragePool <count_include_pad = 1, kernel_shape = [4, 4], pads = [1, 2, 3, 0]> (x)
        }
        "#);
        insta::assert_snapshot!(check::<PadIntoWindow>(&model(
            17, PADS, "r = Relu (x)\n a = Pad (r, p)\n y = MaxPool <kernel_shape = [4, 4]> (a)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,8,8] x) => (float[N,1,A,B] y) {
          r = Relu (x)
          y = MaxPool <kernel_shape = [4, 4], pads = [1, 2, 3, 0]> (r)
        }
        "#);
    }

    fn refused(pad: &str, window: &str) -> Vec<String> {
        let constants = format!(
            "{PADS}, int64[8] channels = {{0, 1, 0, 0, 0, 0, 0, 0}}, int64[8] crop = {{0, 0, -1, 0, 0, 0, 0, 0}}, float one = {{1.0}}, float[1,1,1,1] w = {{1}}"
        );
        refusals::<PadIntoWindow>(&model(17, &constants, &format!("a = {pad}\n y = {window}")))
    }

    #[test]
    fn refuses_what_a_window_cannot_do() {
        let conv = "Conv (a, w)";
        assert_eq!(refused("Pad <mode = \"edge\"> (x, p)", conv), ["it pads with copies of the input"]);
        assert_eq!(refused("Pad (x, p, one)", conv), ["it pads with 1, not with 0"]);
        assert_eq!(refused("Pad (x, channels)", conv), ["it pads batch or channels"]);
        assert_eq!(refused("Pad (x, crop)", conv), ["it crops"]);
        assert_eq!(
            refused("Pad (x, p)", "Conv <auto_pad = \"SAME_UPPER\"> (a, w)"),
            ["auto_pad depends on the padded size"]
        );
        assert_eq!(
            refused("Pad (x, p)", "MaxPool <kernel_shape = [4, 4]> (a)"),
            ["it pads with 0, not with -∞, and the input may be less"]
        );
        assert_eq!(
            refused("Pad (x, p)", "AveragePool <kernel_shape = [3, 3]> (a)"),
            ["the border would be as wide as the pool's kernel"]
        );
        assert_eq!(
            refused("Pad (x, p)", "AveragePool <kernel_shape = [4, 4], pads = [1, 0, 0, 0]> (a)"),
            ["the average does not count the border that it has"]
        );
        assert_eq!(
            refused("Pad (x, p)", "AveragePool <kernel_shape = [4, 4], ceil_mode = 1> (a)"),
            ["the pool's size is rounded up, and what lies beyond the border counts differently"]
        );
    }

    #[test]
    fn refuses_other_readers() {
        let text = model(
            17,
            &format!("{PADS}, float[1,1,1,1] w = {{1}}"),
            "a = Pad (x, p)\n c = Conv (a, w)\n y = Add (a, c)",
        );
        assert_eq!(refusals::<PadIntoWindow>(&text), [r#""a" has other readers or is a graph output"#]);
    }

    #[test]
    fn the_smallest_integer_has_no_absolute_value() {
        let model = |ty: &str| {
            format!(
                r#"<ir_version: 8, opset_import: ["" : 17]> g ({ty}[N,1,2,2] x) => ({ty}[N,1,A,B] y)
                <int64[8] p = {{0,0,1,1,0,0,1,1}}> {{
                    a = Abs (x)
                    b = Pad (a, p)
                    y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
                }}"#
            )
        };
        assert!(check::<PadIntoWindow>(&model("int8")).contains("Pad"));
        assert!(!check::<PadIntoWindow>(&model("float")).contains("Pad "));
    }
}
