//! A zero point does not fit its scale or its tensor.
//!
//! Rule       a zero point has the shape of the scale and the type of the quantized tensor; several scales have as many elements as the axis
//! Why        ONNX defines no other, and runtimes disagree on what they make of them
//! Do         store scale and zero point in one shape; `legalize` does for scalars and vectors of one element
//! Reference  ONNX QuantizeLinear-21, DequantizeLinear-21

use super::{Found, Lint, view::View};

pub(super) struct GridShape;

impl Lint for GridShape {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids() {
            let Some(scale) = grid.node.input(1) else { continue };
            let shape = |v| view.facts.fact(v).shape();
            if let Some(zero) = grid.node.input(2) {
                if let (Some(s), Some(z)) = (shape(scale), shape(zero))
                    && (s.len() != z.len() || s.iter().zip(z).any(|(a, b)| !a.compatible(b)))
                {
                    let problem = format!("its zero point {} and its scale {} differ in shape", show(z), show(s));
                    found.at(grid.id, Some(zero), problem, "store both in one shape");
                }
                if let (Some(own), Some(codes)) = (view.dtype(Some(zero)), grid.dtype(view))
                    && own != codes
                {
                    let problem = format!("its zero point is {own}, but the quantized tensor {codes}");
                    found.at(grid.id, Some(zero), problem, "give the zero point the type of the quantized tensor");
                }
            }
            let axis = grid.axis(view).and_then(|a| shape(grid.node.input(0)?)?.get(a));
            if let (Some([count]), Some(size), 0) = (shape(scale), axis, grid.block())
                && *count != planish_ir::Dim::Known(1)
                && !count.compatible(size)
            {
                let problem = format!("it has {count} scales along an axis of {size}");
                found.at(grid.id, Some(scale), problem, "name the axis that the scales are along");
            }
        }
    }
}

fn show(dims: &[planish_ir::Dim]) -> String {
    planish_ir::infer::shape::show(dims)
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Generic;

    #[test]
    fn grids_of_one_shape_pass_and_others_are_found() {
        let of = |weights: &str, nodes: &str| {
            findings("grid-shape", Generic, 17, "float[N,4] x, int8[2,3] c", weights, nodes)
        };
        assert!(of("float s = {0.1}, int8 z = {0}", "y = QuantizeLinear (x, s, z)").is_empty());
        assert!(of("float[4] s, int8[4] z", "y = QuantizeLinear (x, s, z)").is_empty());
        insta::assert_debug_snapshot!(of("float s = {0.1}, int8[1] z = {0}", "y = QuantizeLinear (x, s, z)"), @r#"
        [
            "y QuantizeLinear [z]: its zero point [1] and its scale [] differ in shape; store both in one shape",
        ]
        "#);
        insta::assert_debug_snapshot!(of("float s = {0.1}, uint8 z = {0}", "y = DequantizeLinear (c, s, z)"), @r#"
        [
            "y DequantizeLinear [z]: its zero point is uint8, but the quantized tensor int8; give the zero point the type of the quantized tensor",
        ]
        "#);
        insta::assert_debug_snapshot!(of("float[2] s = {0.1, 0.1}", "y = DequantizeLinear (c, s)"), @r#"
        [
            "y DequantizeLinear [s]: it has 2 scales along an axis of 3; name the axis that the scales are along",
        ]
        "#);
    }
}
