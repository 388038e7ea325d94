//! Multiply the weights of two linear operators without anything between them.
//!
//! Before     c = MatMul or Gemm (x, w1, b1?);  y = MatMul or Gemm (c, w2, b2?)  ·  c = Conv (x, w1, b1?);  y = Conv 1×1 (c, w2, b2?)
//! After      y = MatMul, Gemm or Conv (x, w1·w2, b1·w2 + b2)
//! When       all weights and biases are constants, and the product of the weights has fewer elements than the two, so that
//!            multiplications and bytes fall alike: low-rank factors stay factors
//! Refuses    c has other readers or is a graph output · weights with other readers · alpha, beta or transA of a Gemm · groups,
//!            strides or pads of the second convolution · groups of the first · more than 2^30 multiplications to fold
//! Numerics   Reassociated; computed in 64 bits and rounded once
//! Reference  associativity of matrix products

use planish_ir::{Attrs, Node, NodeId, Numerics, OpName, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::linear::{floats, pads, rounded};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinearChain {}

/// Multiplications that folding may take: about a second.
const MAX_MULTIPLICATIONS: usize = 1 << 30;

impl Pass for LinearChain {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for LinearChain {
    fn roots(&self) -> &'static [&'static str] {
        &["Conv", "Gemm", "MatMul"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
        let g = cx.graph;
        let between = node.input(0).ok_or(Skip::NoMatch)?;
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let (first_id, first_node) = g.producer(between).ok_or(Skip::NoMatch)?;
        if first_node.op.is("Conv") != node.op.is("Conv") {
            return Err(Skip::NoMatch);
        }
        let (first, second) = (Matrix::of(cx, first_node)?, Matrix::of(cx, node)?);
        if node.op.is("Conv") {
            let steps = node.attrs.ints("strides").is_some_and(|s| s.iter().any(|&n| n != 1));
            if second.inner != 1 || steps || pads(node) {
                return Err(Skip::NoMatch);
            }
        }
        if first.rows != second.columns {
            return Err(Skip::NoMatch);
        }
        // Elements of the product, and of the two.
        let size = |a: usize, b: usize| a.checked_mul(b).ok_or(Skip::NoMatch);
        let width = size(first.columns, first.inner)?;
        let product = size(second.rows, width)?;
        if product >= size(first.rows, width)?.saturating_add(size(second.rows, second.columns)?) {
            return Err(Skip::because("the product of the weights is larger than the two"));
        }
        if g.only_user(between).is_none() {
            return Err(Skip::because(format!("{:?} has other readers or is a graph output", g.name_of(between))));
        }
        if let Some(w) = [first.weight, second.weight].into_iter().find(|&w| g.users(w).len() > 1) {
            return Err(Skip::because(format!("the weight {:?} has other readers", g.name_of(w))));
        }
        if size(product, first.rows)? > MAX_MULTIPLICATIONS {
            return Err(Skip::because("it takes too many multiplications to fold"));
        }
        let (a, b) = (first.values()?, second.values()?);
        let mut c = vec![0.0; product];
        for (row, factors) in c.chunks_mut(width.max(1)).zip(b.chunks(second.columns.max(1))) {
            for (factor, source) in factors.iter().zip(a.chunks(width.max(1))) {
                row.iter_mut().zip(source).for_each(|(y, x)| *y += factor * x);
            }
        }
        let dtype = first.tensor.dtype();
        let is_conv = node.op.is("Conv");
        let dims: Vec<u64> = match is_conv {
            true => [second.rows as u64].into_iter().chain(first.tensor.dims().iter().skip(1).copied()).collect(),
            false => vec![width as u64, second.rows as u64],
        };
        let stored = if is_conv { c } else { transposed(&c, width) };
        let weight = rounded(dtype, &dims, &stored)?;
        let bias = match (&first.bias, &second.bias) {
            (None, None) => None,
            (one, two) => {
                let one = one.clone().unwrap_or_else(|| vec![0.0; first.rows]);
                let two = two.clone().unwrap_or_else(|| vec![0.0; second.rows]);
                let rows = b.chunks(second.columns.max(1)).zip(&two);
                let sums = rows.map(|(row, two)| row.iter().zip(&one).map(|(w, x)| w * x).sum::<f64>() + two);
                Some(rounded(dtype, &[second.rows as u64], &sums.collect::<Vec<f64>>())?)
            }
        };
        let note = format!("{} {:?} and {:?} are one", node.op, first_node.name, node.name);
        let mut patch = Patch::new(Numerics::Reassociated, note);
        let mut inputs =
            vec![first_node.input(0).map(Into::into), Some(patch.constant(g.name_of(first.weight), weight))];
        if let Some(bias) = bias {
            inputs.push(Some(patch.constant(format!("{}_bias", g.name_of(first.weight)), bias)));
        }
        let (op, attrs) = match (is_conv, inputs.len()) {
            (true, _) => ("Conv", first_node.attrs.clone()),
            // Its operands have rank 2, since one of the two was a Gemm.
            (false, 3) => ("Gemm", Attrs::new()),
            (false, _) if first_node.op.is("MatMul") && node.op.is("MatMul") => ("MatMul", Attrs::new()),
            (false, _) if cx.opset() >= 11 => ("Gemm", Attrs::new()),
            _ => return Err(Skip::NoMatch),
        };
        let new = patch
            .node(OpName::onnx(op), inputs)
            .in_place_of(first_id)
            .attrs(attrs)
            .output(g.name_of(output), g.ty(output).cloned());
        patch.replace(output, new);
        Ok(patch)
    }
}

fn transposed(values: &[f64], width: usize) -> Vec<f64> {
    (0..width).flat_map(|j| values.iter().skip(j).step_by(width.max(1)).copied()).collect()
}

/// A weight as a matrix of output channels by input channels times the rest.
struct Matrix<'a> {
    weight: ValueId,
    tensor: &'a Tensor,
    rows: usize,
    columns: usize,
    inner: usize,
    /// Input channels come first.
    is_transposed: bool,
    bias: Option<Vec<f64>>,
}

impl<'a> Matrix<'a> {
    fn of(cx: &RuleContext<'a>, node: &Node) -> Result<Matrix<'a>, Skip> {
        if !node.op.domain.is_empty() || node.is_local() {
            return Err(Skip::NoMatch);
        }
        let int = |name: &str, default: i64| node.attrs.int(name).unwrap_or(default);
        let one = |name: &str| node.attrs.float(name).is_none_or(|v| v == 1.0);
        let is_transposed = match node.op.name.as_str() {
            "Conv" if int("group", 1) == 1 => false,
            "MatMul" => true,
            "Gemm" if int("transA", 0) == 0 && one("alpha") && one("beta") => int("transB", 0) == 0,
            _ => return Err(Skip::NoMatch),
        };
        let weight = node.input(1).ok_or(Skip::NoMatch)?;
        let tensor = cx.graph.constant(weight).ok_or(Skip::NoMatch)?;
        let rank_fits = if node.op.is("Conv") { tensor.rank() >= 3 } else { tensor.rank() == 2 };
        if !rank_fits || tensor.elements() == 0 || !tensor.dtype().is_float() || tensor.dtype().bits() < 16 {
            return Err(Skip::NoMatch);
        }
        let sizes: Vec<usize> =
            tensor.dims().iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>().map_err(|_| Skip::NoMatch)?;
        let [a, b, rest @ ..] = &*sizes else { return Err(Skip::NoMatch) };
        let (rows, columns) = if is_transposed { (*b, *a) } else { (*a, *b) };
        let bias = match node.input(2) {
            None => None,
            Some(b) => {
                let t = cx.graph.constant(b).ok_or(Skip::NoMatch)?;
                let per_channel =
                    t.rank() <= 2 && t.elements() == rows as u64 && t.dims().last() == Some(&(rows as u64));
                Some(if per_channel { floats(t)? } else { return Err(Skip::NoMatch) })
            }
        };
        let inner = rest.iter().product();
        Ok(Matrix { weight, tensor, rows, columns, inner, is_transposed, bias })
    }

    /// The elements, output channels first.
    fn values(&self) -> Result<Vec<f64>, Skip> {
        let values = floats(self.tensor)?;
        Ok(if self.is_transposed { transposed(&values, self.rows) } else { values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    fn model(inputs: &str, outputs: &str, constants: &str, nodes: &str) -> String {
        format!(r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{constants}> {{ {nodes} }}"#)
    }

    #[test]
    fn products() {
        insta::assert_snapshot!(check::<LinearChain>(&model(
            "float[B,N,2] x", "float[B,N,1] y", "float[2,3] w = {1, 2, 3, 4, 5, 6}, float[3,1] v = {1, 10, 100}",
            "c = MatMul (x, w)\n y = MatMul (c, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[B,N,2] x) => (float[B,N,1] y)
        <
          float[2,1] w = {321.0, 654.0}
        >
        {
          y = MatMul (x, w)
        }
        "#);
        insta::assert_snapshot!(check::<LinearChain>(&model(
            "float[N,2] x", "float[N,1] y",
            "float[3,2] w = {1, 4, 2, 5, 3, 6}, float[3] b = {1, 2, 3}, float[3,1] v = {1, 10, 100}, float[1] d = {0.5}",
            "c = Gemm <transB = 1> (x, w, b)\n y = Gemm (c, v, d)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,1] y)
        <
          float[2,1] w = {321.0, 654.0},
          float[1] w_bias = {321.5}
        >
        {
          y = Gemm (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn convolutions() {
        insta::assert_snapshot!(check::<LinearChain>(&model(
            "float[N,1,4,4] x", "float[N,1,4,4] y",
            "float[2,1,3,1] w = {1, 2, 3, 4, 5, 6}, float[2] b = {1, 2}, float[1,2,1,1] v = {10, 100}",
            "c = Conv <pads = [1, 0, 1, 0]> (x, w, b)\n y = Conv (c, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,1,4,4] y)
        <
          float[1,1,3,1] w = {410.0, 520.0, 630.0},
          float[1] w_bias = {210.0}
        >
        {
          y = Conv <pads = [1, 0, 1, 0]> (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn refuses_low_rank_factors_readers_and_strides() {
        let low = model(
            "float[N,4] x",
            "float[N,4] y",
            "float[4,1] w = {1, 2, 3, 4}, float[1,4] v = {1, 2, 3, 4}",
            "c = MatMul (x, w)\n y = MatMul (c, v)",
        );
        assert_eq!(refusals::<LinearChain>(&low), ["the product of the weights is larger than the two"]);
        let w = "float[2,2] w = {1, 2, 3, 4}";
        let shared = model("float[N,2] x", "float[N,2] y", w, "c = MatMul (x, w)\n y = MatMul (c, w)");
        assert_eq!(refusals::<LinearChain>(&shared), [r#"the weight "w" has other readers"#]);
        let read = model(
            "float[N,2] x",
            "float[N,2] y, float[N,2] c",
            &format!("{w}, float[2,2] v = {{1, 2, 3, 4}}"),
            "c = MatMul (x, w)\n y = MatMul (c, v)",
        );
        assert_eq!(refusals::<LinearChain>(&read), [r#""c" has other readers or is a graph output"#]);
        let strided = model(
            "float[N,1,4,4] x",
            "float[N,1,2,2] y",
            "float[2,1,1,1] w = {1, 2}, float[1,2,1,1] v = {10, 100}",
            "c = Conv (x, w)\n y = Conv <strides = [2, 2]> (c, v)",
        );
        assert!(refusals::<LinearChain>(&strided).is_empty());
    }
}
