//! A pair of QuantizeLinear and DequantizeLinear serves no integer kernel.
//!
//! Rule       of each pair the operator before it or one behind it is an integer kernel, or moves elements on one grid
//! Why        otherwise the pair rounds and costs two passes over the tensor, and nothing gets faster
//! Do         take the pair away; where it is there to have the grid of a neighbour, quantize that neighbour
//! Reference  ONNX Runtime 1.32, graphs after optimization

use std::collections::BTreeSet;

use planish_ir::NodeId;

use super::{
    Found, Lint,
    kernel::{Kernel, kernel, moves},
    view::{Half, View},
};

pub(super) struct IdlePair;

impl Lint for IdlePair {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        // Kernels, and the quantizations that are a part of one.
        let mut kernels: BTreeSet<NodeId> = BTreeSet::new();
        for (id, node) in view.nodes() {
            if let Kernel::Integer(q) = kernel(view, node) {
                kernels.insert(id);
                kernels.extend(q);
            }
        }
        for grid in view.grids().filter(|g| g.half == Half::Quantize && !kernels.contains(&g.id)) {
            let (Some(real), Some(codes)) = (grid.node.input(0), grid.node.output(0)) else { continue };
            let is_moved = view.graph.producer(real).is_some_and(|(_, n)| moves(n));
            if view.is_weight(real) || is_moved {
                continue;
            }
            let Some(all) = view
                .readers(codes)
                .map(|(_, n, _)| n.op.is("DequantizeLinear").then_some(n))
                .collect::<Option<Vec<_>>>()
            else {
                continue;
            };
            let useful = all.iter().filter_map(|n| n.output(0)).any(|real| {
                view.readers(real).any(|(id, n, _)| kernels.contains(&id) || moves(n)) || view.graph.is_output(codes)
            });
            if !all.is_empty() && !useful {
                found.at(
                    grid.id,
                    Some(real),
                    "no integer kernel reads what this pair gives, and none makes what it takes",
                    "take the pair away",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    fn of(nodes: &str) -> Vec<String> {
        findings(
            "idle-pair",
            OnnxruntimeCpu,
            17,
            "float[N,4] x",
            "float s = {0.1}, uint8 z = {3}, int8[4,5] w, float t = {0.5}",
            nodes,
        )
    }

    #[test]
    fn pairs_at_a_kernel_pass() {
        assert!(of("q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) v = DequantizeLinear (w, t) y = MatMul (d, v)").is_empty());
        // The last pair belongs to the sum, and ends the region of integers.
        assert!(of("q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) c = Add (d, d) r = QuantizeLinear (c, s, z) e = DequantizeLinear (r, s, z) y = Tanh (e)").is_empty());
    }

    #[test]
    fn a_pair_around_nothing_is_found() {
        insta::assert_debug_snapshot!(of("q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Tanh (d)"), @r#"
        [
            "q QuantizeLinear [x]: no integer kernel reads what this pair gives, and none makes what it takes; take the pair away",
        ]
        "#);
    }
}
