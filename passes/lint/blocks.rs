//! Blocks of a size or a shape that the target does not have.
//!
//! Rule       weights in blocks have them along one axis that the blocks divide: int4 of 64 or 128 elements and with an even last axis,
//!            float8 of 32, float4 of 16 or 32
//! Why        TensorRT has kernels for no others
//! Do         quantize anew with such blocks
//! Reference  TensorRT, working with quantized types

use planish_ir::DType;

use super::{Found, Lint, view::View};

pub(super) struct Blocks;

impl Lint for Blocks {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids().filter(|g| g.block() > 0) {
            let Some(value) = grid.node.input(0) else { continue };
            let sizes: &[i64] = match grid.dtype(view) {
                Some(DType::I4) => &[64, 128],
                Some(DType::F8E4M3FN) => &[32],
                Some(DType::F4E2M1) => &[16, 32],
                Some(other) => {
                    let advice = "give each output channel one scale, or use int4 for blocks";
                    found.at(grid.id, Some(value), format!("{other} has blocks"), advice);
                    continue;
                }
                None => continue,
            };
            if !sizes.contains(&grid.block()) {
                let list: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                let advice = format!("use blocks of {} elements", list.join(" or "));
                found.at(grid.id, Some(value), format!("its blocks have {} elements", grid.block()), advice);
            }
            let Some(shape) = view.facts.fact(value).shape() else { continue };
            let along = grid.axis(view).and_then(|a| shape.get(a)?.known());
            if let (Some(size), Ok(block)) = (along, u64::try_from(grid.block()))
                && size % block != 0
            {
                let problem = format!("its blocks of {block} elements do not divide an axis of {size}");
                found.at(grid.id, Some(value), problem, "pad the axis, or leave the weight as it is");
            }
            let last = shape.last().and_then(planish_ir::Dim::known);
            if grid.dtype(view) == Some(DType::I4) && last.is_some_and(|n| n % 2 != 0) {
                found.at(
                    grid.id,
                    Some(value),
                    "its last axis is odd, and holds two elements in a byte",
                    "pad the axis",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    fn of(ty: &str, dims: [u64; 2], block: u64) -> Vec<String> {
        let scales = dims[0].div_ceil(block);
        let weights = format!("{ty}[{},{}] w, float[{scales},{}] s", dims[0], dims[1], dims[1]);
        let nodes = format!("d = DequantizeLinear <axis = 0, block_size = {block}> (w, s) y = MatMul (x, d)");
        findings("blocks", Tensorrt, 21, &format!("float[N,{}] x", dims[0]), &weights, &nodes)
    }

    #[test]
    fn sizes_of_the_target_pass() {
        assert!(of("int4", [128, 8], 64).is_empty());
        assert!(of("int4", [128, 8], 128).is_empty());
        assert!(of("float8e4m3fn", [64, 8], 32).is_empty());
    }

    #[test]
    fn others_are_found() {
        insta::assert_debug_snapshot!(of("int4", [128, 8], 32), @r#"
        [
            "d DequantizeLinear [w]: its blocks have 32 elements; use blocks of 64 or 128 elements",
        ]
        "#);
        insta::assert_debug_snapshot!(of("int4", [100, 7], 64), @r#"
        [
            "d DequantizeLinear [w]: its blocks of 64 elements do not divide an axis of 100; pad the axis, or leave the weight as it is",
            "d DequantizeLinear [w]: its last axis is odd, and holds two elements in a byte; pad the axis",
        ]
        "#);
        insta::assert_debug_snapshot!(of("int8", [128, 8], 64), @r#"
        [
            "d DequantizeLinear [w]: int8 has blocks; give each output channel one scale, or use int4 for blocks",
        ]
        "#);
    }
}
