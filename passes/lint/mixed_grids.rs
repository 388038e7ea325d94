//! An operator that moves elements stands between two grids.
//!
//! Rule       Reshape, Transpose, MaxPool and the like have the same scale, zero point and type before and behind them
//! Why        ONNX Runtime lets them run on integers only then; otherwise everything is dequantized, moved, and quantized again
//! Do         give both sides one grid
//! Reference  ONNX Runtime 1.32, graphs after optimization

use super::{
    Found, Lint,
    kernel::moves,
    view::{Grid, View},
};

pub(super) struct MixedGrids;

impl Lint for MixedGrids {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes().filter(|(_, n)| moves(n)) {
            let Some(before) = node.input(0).and_then(|v| view.dequantized(v)) else { continue };
            for output in node.outputs().iter().flatten() {
                let behind =
                    view.readers(*output).find(|(_, n, _)| super::view::half(n) == Some(super::view::Half::Quantize));
                let Some((q, quantize, _)) = behind else { continue };
                let behind = Grid { id: q, node: quantize, half: super::view::Half::Quantize };
                if !same(view, &before, &behind) && !view.is_weight(*output) {
                    found.at(
                        id,
                        Some(*output),
                        "its output is on another grid than its input, so that it moves floats",
                        "quantize its output with the scale, zero point and type of its input",
                    );
                }
            }
        }
    }
}

fn same(view: &View<'_>, a: &Grid<'_>, b: &Grid<'_>) -> bool {
    let parameter = |slot: usize| {
        let (x, y) = (a.node.input(slot), b.node.input(slot));
        match (x.map(|v| view.constant(v)), y.map(|v| view.constant(v))) {
            (None, None) => true,
            (Some(Some(x)), Some(Some(y))) => x.elements() == 1 && x.raw() == y.raw() && x.dtype() == y.dtype(),
            // A zero point of 0 may be left out.
            (None, Some(Some(z))) | (Some(Some(z)), None) => z.single_i64() == Some(0),
            _ => x == y,
        }
    };
    a.dtype(view) == b.dtype(view) && parameter(1) && parameter(2)
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    fn of(op: &str, behind: &str) -> Vec<String> {
        let weights = "float s = {0.1}, float same = {0.1}, float t = {0.2}, uint8 z = {3}, uint8 zero = {0}, int64[2] shape = {4, -1}";
        let nodes = format!(
            "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) c = {op} r = QuantizeLinear (c, {behind}) y = DequantizeLinear (r, {behind})"
        );
        findings("mixed-grids", OnnxruntimeCpu, 17, "float[N,4] x", weights, &nodes)
    }

    #[test]
    fn one_grid_passes() {
        assert!(of("Transpose (d)", "same, z").is_empty());
        assert!(of("Tanh (d)", "t, z").is_empty());
    }

    #[test]
    fn two_grids_are_found() {
        insta::assert_debug_snapshot!(of("Reshape (d, shape)", "t, z"), @r#"
        [
            "c Reshape [c]: its output is on another grid than its input, so that it moves floats; quantize its output with the scale, zero point and type of its input",
        ]
        "#);
        assert_eq!(of("Transpose (d)", "s, zero").len(), 1);
        assert_eq!(of("Transpose (d)", "s").len(), 1);
    }
}
