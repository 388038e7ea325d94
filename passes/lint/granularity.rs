//! Scales along an axis that the target does not take them along.
//!
//! Rule       activations have one scale; weights have one, or one for each output channel: of a Conv along axis 0, of a ConvTranspose
//!            along axis 1, of a Gemm or MatMul along the axis of the columns
//! Why        TensorRT multiplies the sum of integers by one number for each output channel
//! Do         quantize anew along that axis
//! Reference  TensorRT, working with quantized types

use planish_ir::Node;

use super::{
    Found, Lint,
    view::{Grid, View},
};

pub(super) struct Granularity;

impl Lint for Granularity {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids().filter(|g| g.block() == 0 && g.is_per_tensor(view) == Some(false)) {
            let Some((value, output)) = grid.node.input(0).zip(grid.node.output(0)) else { continue };
            if !view.is_weight(value) {
                let advice = "give it one scale for all elements";
                found.at(grid.id, Some(value), "an activation has several scales", advice);
                continue;
            }
            for (_, reader, slot) in view.readers(output) {
                let Some(wanted) = channels(view, reader, slot) else { continue };
                if grid.axis(view).is_some_and(|axis| axis != wanted) {
                    let problem = format!(
                        "its scales are along axis {}, but the output channels of the {} along axis {wanted}",
                        axis_of(view, &grid),
                        reader.op.name
                    );
                    found.at(grid.id, Some(value), problem, "quantize the weight along its output channels");
                }
            }
        }
    }
}

fn axis_of(view: &View<'_>, grid: &Grid<'_>) -> String {
    grid.axis(view).map_or_else(|| "?".into(), |a| a.to_string())
}

/// The axis of output channels of the weight at a slot; `None` for what is no weight of a linear operator.
fn channels(view: &View<'_>, reader: &Node, slot: usize) -> Option<usize> {
    if reader.is_local() || slot != 1 || !reader.op.domain.is_empty() {
        return None;
    }
    match reader.op.name.as_str() {
        "Conv" => Some(0),
        "ConvTranspose" => Some(1),
        "Gemm" => Some(if reader.attrs.int("transB").unwrap_or(0) != 0 { 0 } else { 1 }),
        "MatMul" => view.facts.fact(reader.input(1)?).shape()?.len().checked_sub(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    fn of(inputs: &str, nodes: &str) -> Vec<String> {
        let weights =
            "float s = {0.1}, float[1] one = {0.1}, float[4] f = {1.0, 1.0, 1.0, 1.0}, int8[4,4] m, int8[4,4,1,1] k";
        findings("granularity", Tensorrt, 17, inputs, weights, nodes)
    }

    #[test]
    fn output_channels_pass() {
        assert!(of("float[N,4] x", "d = DequantizeLinear <axis = 1> (m, f) y = MatMul (x, d)").is_empty());
        assert!(of("float[N,4] x", "d = DequantizeLinear <axis = 0> (m, f) y = Gemm <transB = 1> (x, d)").is_empty());
        assert!(of("float[N,4,2,2] x", "d = DequantizeLinear <axis = 0> (k, f) y = Conv (x, d)").is_empty());
        assert!(of("float[N,4,2,2] x", "d = DequantizeLinear <axis = 1> (k, f) y = ConvTranspose (x, d)").is_empty());
        assert!(of("float[N,4] x", "q = QuantizeLinear (x, one) y = DequantizeLinear (q, one)").is_empty());
    }

    #[test]
    fn other_axes_are_found() {
        insta::assert_debug_snapshot!(of("float[N,4] x", "d = DequantizeLinear <axis = 0> (m, f) y = MatMul (x, d)"), @r#"
        [
            "d DequantizeLinear [m]: its scales are along axis 0, but the output channels of the MatMul along axis 1; quantize the weight along its output channels",
        ]
        "#);
        assert_eq!(of("float[N,4,2,2] x", "d = DequantizeLinear (k, f) y = Conv (x, d)").len(), 1);
        insta::assert_debug_snapshot!(of("float[N,4] x", "q = QuantizeLinear (x, f) y = DequantizeLinear (q, s)"), @r#"
        [
            "q QuantizeLinear [x]: an activation has several scales; give it one scale for all elements",
        ]
        "#);
    }
}
