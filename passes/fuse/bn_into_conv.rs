//! Fold BatchNormalization into the convolution or matrix product before it.
//!
//! Before     c = Conv (x, w, b?);  y = BatchNormalization (c, γ, β, μ, σ²)
//! After      y = Conv (x, w', b')        w' = w·γ/√(σ²+ε)   b' = (b-μ)·γ/√(σ²+ε) + β, per output channel
//! When       Conv, ConvTranspose or Gemm (of rank 2); w, b, γ, β, μ and σ² are constants
//! Refuses    training mode · c has other readers or is a graph output · an operand is no constant · Gemm whose bias is
//!            not one per column or absent, or whose alpha or beta is not 1
//! Numerics   Reassociated; computed in 64 bits and rounded once
//! Reference  Jacob et al., Quantization and Training of Neural Networks, CVPR 2018, §3.2; ONNX BatchNormalization-15

use planish_ir::{DType, Node, NodeId, Numerics, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BnIntoConv {}

impl Pass for BnIntoConv {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for BnIntoConv {
    fn roots(&self) -> &'static [&'static str] {
        &["BatchNormalization"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, bn: &Node) -> Result<Patch, Skip> {
        let g = cx.graph;
        let input = bn.input(0).ok_or(Skip::NoMatch)?;
        let output = bn.output(0).ok_or(Skip::NoMatch)?;
        let (linear_id, linear) = g.producer(input).ok_or(Skip::NoMatch)?;
        let layout = Layout::of(linear)?;
        if g.only_user(input).is_none() {
            return Err(Skip::because(format!("{:?} has other readers or is a graph output", g.name_of(input))));
        }
        // Before version 14 training is what extra outputs ask for; from then on an attribute does.
        if bn.attrs.int("training_mode").unwrap_or(0) != 0 || bn.outputs().iter().skip(1).any(Option::is_some) {
            return Err(Skip::because("it is in training mode"));
        }
        if bn.attrs.int("spatial").unwrap_or(1) == 0 {
            return Err(Skip::because("spatial = 0 normalizes every position on its own"));
        }
        let weight_id = linear.input(1).ok_or(Skip::NoMatch)?;
        let weight = constant(cx, weight_id, "the weight")?;
        let bias = linear.input(2).map(|b| constant(cx, b, "the bias")).transpose()?;
        let statistics = |slot: usize| -> Result<Vec<f64>, Skip> {
            let id = bn.input(slot).ok_or(Skip::NoMatch)?;
            floats(constant(cx, id, ["", "the scale", "the offset", "the mean", "the variance"][slot])?)
        };
        let (gamma, beta, mean, variance) = (statistics(1)?, statistics(2)?, statistics(3)?, statistics(4)?);
        let channels = gamma.len();
        let bias = match bias {
            Some(b) if b.dims() == [channels as u64] => floats(b)?,
            Some(_) => return Err(Skip::because("the bias is not one number per output channel")),
            None => vec![0.0; channels],
        };
        if [beta.len(), mean.len(), variance.len()] != [channels; 3] {
            return Err(Skip::because("its statistics differ in length"));
        }
        let epsilon = f64::from(bn.attrs.float("epsilon").unwrap_or(1e-5));
        let factor: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        if !factor.iter().all(|f| f.is_finite()) {
            return Err(Skip::because("scale / √(variance + epsilon) is not finite in some channel"));
        }
        let offset: Vec<f64> = (0..channels).map(|c| (bias[c] - mean[c]) * factor[c] + beta[c]).collect();

        let scaled = layout.scale(weight, &factor)?;
        let dtype = weight.dtype();
        let offset = rounded(dtype, &[channels as u64], &offset)?;
        let mut patch =
            Patch::new(Numerics::Reassociated, format!("{} {:?} takes {:?}", linear.op, linear.name, bn.name));
        let name = g.name_of(weight_id);
        let w = patch.constant(name.clone(), scaled);
        let bias_name = linear.input(2).map_or_else(|| format!("{name}_bias"), |b| g.name_of(b));
        let b = patch.constant(bias_name, offset);
        let fused = patch
            .node(linear.op.clone(), [linear.input(0).map(Into::into), Some(w), Some(b)])
            .in_place_of(linear_id)
            .attrs(linear.attrs.clone())
            .output(g.name_of(output), g.ty(output).cloned());
        patch.replace(output, fused);
        Ok(patch)
    }
}

fn constant<'a>(cx: &RuleContext<'a>, id: ValueId, what: &str) -> Result<&'a Tensor, Skip> {
    cx.graph.constant(id).ok_or_else(|| Skip::because(format!("{what} {:?} is no constant", cx.graph.name_of(id))))
}

/// The numbers as a tensor, if all of them are in the range of its type.
fn rounded(dtype: DType, dims: &[u64], values: &[f64]) -> Result<Tensor, Skip> {
    let t = Tensor::from_f64_as(dtype, dims, values).map_err(|e| Skip::because(e.to_string()))?;
    match t.to_f64() {
        Ok(v) if v.iter().all(|x| x.is_finite()) => Ok(t),
        _ => Err(Skip::because(format!("a folded weight or offset is not finite in {dtype}"))),
    }
}

fn floats(t: &Tensor) -> Result<Vec<f64>, Skip> {
    t.to_f64().map_err(|e| Skip::because(e.to_string()))
}

/// Where the output channels are in a weight: the dims are `[outer, channels / groups, inner]` after flattening, and
/// channel number = group · (channels / groups) + position, the group being the slow part of `outer`.
struct Layout {
    axis: usize,
    groups: u64,
}

impl Layout {
    fn of(node: &Node) -> Result<Layout, Skip> {
        if !node.op.domain.is_empty() {
            return Err(Skip::NoMatch);
        }
        match node.op.name.as_str() {
            "Conv" => Ok(Layout { axis: 0, groups: 1 }),
            "ConvTranspose" => {
                let groups = u64::try_from(node.attrs.int("group").unwrap_or(1)).map_err(|_| Skip::NoMatch)?;
                Ok(Layout { axis: 1, groups })
            }
            "Gemm" => {
                let one = |name| node.attrs.float(name).is_none_or(|v| v == 1.0);
                if !one("alpha") || !one("beta") {
                    return Err(Skip::because("alpha or beta of the Gemm is not 1"));
                }
                Ok(Layout { axis: if node.attrs.int("transB").unwrap_or(0) == 0 { 1 } else { 0 }, groups: 1 })
            }
            _ => Err(Skip::NoMatch),
        }
    }

    /// Multiplies each output channel by its factor.
    fn scale(&self, weight: &Tensor, factor: &[f64]) -> Result<Tensor, Skip> {
        let dims = weight.dims();
        let misfit = || Skip::because(format!("the weight's dims {dims:?} do not fit {} channels", factor.len()));
        let per_group = *dims.get(self.axis).ok_or_else(misfit)?;
        let outer: u64 = dims[..self.axis].iter().product();
        let inner: u64 = dims[self.axis + 1..].iter().product();
        let fits = self.groups > 0
            && per_group.checked_mul(self.groups) == Some(factor.len() as u64)
            && (self.axis == 0 || outer.is_multiple_of(self.groups));
        if !fits || inner == 0 || per_group == 0 {
            return Err(misfit());
        }
        let rows_per_group = (outer / self.groups).max(1);
        let mut values = floats(weight)?;
        for (i, row) in values.chunks_mut(usize::try_from(inner).map_err(|_| misfit())?).enumerate() {
            let i = i as u64;
            let group = if self.axis == 0 { 0 } else { (i / per_group) / rows_per_group };
            let channel = group * per_group + i % per_group;
            let f = factor.get(usize::try_from(channel).map_err(|_| misfit())?).ok_or_else(misfit)?;
            row.iter_mut().for_each(|w| *w *= f);
        }
        rounded(weight.dtype(), dims, &values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    const BN: &str =
        "float[2] s = {2.0, 6.0}, float[2] o = {0.5, -0.5}, float[2] m = {1.0, 2.0}, float[2] v = {3.0, 8.0}";

    fn model(inputs: &str, outputs: &str, weights: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{weights}, {BN}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn conv_takes_scale_and_offset() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,1,4,4] x", "float[N,2,4,4] y", "float[2,1,1,1] w = {1.0, 10.0}",
            "[conv] c = Conv (x, w)\n [bn] y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,2,4,4] y)
        <
          float[2,1,1,1] w = {1.0, 20.0},
          float[2] w_bias = {-0.5, -4.5}
        >
        {
          [conv] y = Conv (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn transposed_convolution_with_groups() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,2,4,4] x", "float[N,2,4,4] y", "float[2,1,1,1] w = {1.0, 10.0}, float[2] b = {1.0, 1.0}",
            "c = ConvTranspose <group = 2> (x, w, b)\n y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <
          float[2,1,1,1] w = {1.0, 20.0},
          float[2] b = {0.5, -2.5}
        >
        {
          y = ConvTranspose <group = 2> (x, w, b)
        }
        "#);
    }

    #[test]
    fn gemm_scales_columns() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,2] x", "float[N,2] y", "float[2,2] w = {1.0, 2.0, 3.0, 4.0}",
            "c = Gemm (x, w)\n y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2,2] w = {1.0, 4.0, 3.0, 8.0},
          float[2] w_bias = {-0.5, -4.5}
        >
        {
          y = Gemm (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn refuses_weights_that_leave_the_range() {
        let large = model(
            "float[N,1,4,4] x",
            "float[N,2,4,4] y",
            "float[2,1,1,1] w = {1.0, 2e38}",
            "c = Conv (x, w)\n y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        );
        assert_eq!(refusals::<BnIntoConv>(&large), ["a folded weight or offset is not finite in float"]);
    }

    #[test]
    fn refuses_other_readers_and_weights_that_can_be_overridden() {
        let shared = model(
            "float[N,1,4,4] x",
            "float[N,2,4,4] y, float[N,2,4,4] c",
            "float[2,1,1,1] w = {1.0, 10.0}",
            "c = Conv (x, w)\n y = BatchNormalization (c, s, o, m, v)",
        );
        assert_eq!(refusals::<BnIntoConv>(&shared), [r#""c" has other readers or is a graph output"#]);
        let overridable = model(
            "float[N,1,4,4] x, float[2,1,1,1] w",
            "float[N,2,4,4] y",
            "float[2] unused = {1.0, 10.0}",
            "c = Conv (x, w)\n y = BatchNormalization (c, s, o, m, v)",
        );
        assert_eq!(refusals::<BnIntoConv>(&overridable), [r#"the weight "w" is no constant"#]);
    }
}
