//! Small changes: names, defaults, and types that are no longer allowed.

use planish_ir::DType;

use super::draft::Draft;

/// Scatter is gone in opset 11; ScatterElements is the same under another name.
pub(super) fn scatter(d: &mut Draft<'_>) -> Result<(), String> {
    d.op = "ScatterElements".to_owned();
    Ok(())
}

/// GridSample-20 is no longer about images only, so that its modes lost their `bi`.
pub(super) fn grid_sample(d: &mut Draft<'_>) -> Result<(), String> {
    match d.str("mode") {
        Some("bilinear") => d.set("mode", "linear"),
        Some("bicubic") => d.set("mode", "cubic"),
        _ => {}
    }
    Ok(())
}

/// RoiAlign-16 can shift by half an element and does so by default.
pub(super) fn roi_align(d: &mut Draft<'_>) -> Result<(), String> {
    d.set("coordinate_transformation_mode", "output_half_pixel");
    Ok(())
}

/// Erf-13 is for floats only. An unknown type passes: no runtime ever had it for integers.
pub(super) fn erf(d: &mut Draft<'_>) -> Result<(), String> {
    match d.known_dtype(0) {
        Some(dtype) if dtype.is_integer() || dtype == DType::Bool => Err(format!("it is applied to {dtype}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        convert::{RaiseOpset, raise_opset::tests::refusal},
        testing::check,
    };

    #[test]
    fn names_and_defaults() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 5, opset_import: ["" : 10]>
            g (float[1,1,4,4] x, int64[1,1,4,4] i, float[2,4] boxes, int64[2] of) => (float[1,1,4,4] y, float[2,1,3,3] z) {
                y = Scatter <axis = 3> (x, i, x)
                z = RoiAlign <output_height = 3, output_width = 3> (x, boxes, of)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1,1,4,4] x, int64[1,1,4,4] i, float[2,4] boxes, int64[2] of) => (float[1,1,4,4] y, float[2,1,3,3] z) {
          y = ScatterElements <axis = 3> (x, i, x)
          z = RoiAlign <coordinate_transformation_mode = "output_half_pixel", output_height = 3, output_width = 3> (x, boxes, of)
        }
        "#);
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 8, opset_import: ["" : 16]>
            g (float[1,1,4,4] x, float[1,2,2,2] at) => (float[1,1,2,2] y) { y = GridSample <mode = "bicubic"> (x, at) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1,1,4,4] x, float[1,2,2,2] at) => (float[1,1,2,2] y) {
          y = GridSample <mode = "cubic"> (x, at)
        }
        "#);
    }

    #[test]
    fn refuses_erf_of_integers() {
        let text = r#"<ir_version: 4, opset_import: ["" : 9]> g (int32[3] x) => (int32[3] y) { y = Erf (x) }"#;
        insta::assert_snapshot!(
            refusal(text),
            @r#"the node "y" (Erf) has no equivalent in opset 13: it is applied to int32"#
        );
    }
}
