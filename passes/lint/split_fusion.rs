//! A pair separates operators that would be one.
//!
//! Rule       between a Conv and its BatchNormalization, and between a Conv, Gemm or MatMul and its Relu, there is no QuantizeLinear
//! Why        TensorRT fuses them into one layer, and a pair in between keeps it from that
//! Do         quantize behind the activation function; fold the normalization before quantizing (`bn-into-conv`)
//! Reference  TensorRT, working with quantized types, placement of Q/DQ

use super::{
    Found, Lint,
    view::{Half, View},
};

pub(super) struct SplitFusion;

impl Lint for SplitFusion {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids().filter(|g| g.half == Half::Quantize) {
            let before = grid.node.input(0).and_then(|v| view.graph.producer(v)).map(|(_, n)| n.op.name.as_str());
            let wanted: &[&str] = match before {
                Some("Conv" | "ConvTranspose") => &["BatchNormalization", "Relu"],
                Some("Gemm" | "MatMul") => &["Relu"],
                _ => continue,
            };
            let codes = grid.node.output(0).into_iter().flat_map(|v| view.readers(v));
            let reals = codes.filter(|(_, n, _)| n.op.is("DequantizeLinear")).filter_map(|(_, n, _)| n.output(0));
            let behind = reals.flat_map(|v| view.readers(v)).find(|(_, n, _)| wanted.iter().any(|op| n.op.is(op)));
            if let (Some((_, next, _)), Some(before)) = (behind, before) {
                let problem = format!("it stands between a {before} and its {}", next.op.name);
                found.at(grid.id, grid.node.input(0), problem, format!("quantize behind the {}", next.op.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn pairs_behind_pass_and_pairs_between_are_found() {
        let of = |nodes: &str| {
            findings(
                "split-fusion",
                Tensorrt,
                17,
                "float[N,1,4,4] x",
                "float s = {0.1}, int8 z = {0}, float[2,1,1,1] w",
                nodes,
            )
        };
        assert!(
            of("c = Conv (x, w) r = Relu (c) q = QuantizeLinear (r, s, z) y = DequantizeLinear (q, s, z)").is_empty()
        );
        assert!(
            of("c = Conv (x, w) q = QuantizeLinear (c, s, z) d = DequantizeLinear (q, s, z) y = Conv (d, w)")
                .is_empty()
        );
        insta::assert_debug_snapshot!(of("c = Conv (x, w) q = QuantizeLinear (c, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)"), @r#"
        [
            "q QuantizeLinear [c]: it stands between a Conv and its Relu; quantize behind the Relu",
        ]
        "#);
    }
}
