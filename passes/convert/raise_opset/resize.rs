//! Upsample and Resize.
//!
//! Up to opset 10 there is one way to find the source of an element: its index divided by the scale, and for `nearest`
//! the element before that place. Resize-11 calls it `asymmetric` and `floor`, and defaults to something else.

use planish_ir::{Dims, Tensor};

use super::draft::{Draft, Input};

/// Upsample-9: the scales became an input.
pub(super) fn scales(d: &mut Draft<'_>) -> Result<(), String> {
    let scales = d.take_floats("scales")?.ok_or("its attribute \"scales\" is missing")?;
    let tensor = Tensor::from_f32(Dims::from_slice(&[scales.len() as u64]), &scales).map_err(|e| e.to_string())?;
    d.set_input(1, Input::Made("scales", tensor));
    Ok(())
}

/// Upsample is gone in opset 10; Resize-10 is the same under another name.
pub(super) fn upsample(d: &mut Draft<'_>) -> Result<(), String> {
    d.op = "Resize".to_owned();
    Ok(())
}

/// Resize-11: the scales moved behind the new region of interest, and the way to find the source has to be named.
pub(super) fn old_rule(d: &mut Draft<'_>) -> Result<(), String> {
    let nearest = d.str("mode").is_none_or(|mode| mode == "nearest");
    if nearest && d.constant(1).and_then(|t| t.to_f64().ok()).is_some_and(|s| s.iter().any(|&s| skips_unevenly(s))) {
        let reason = "it makes its input smaller by a factor that is no integer, and which element is then the nearest \
                      one was first laid down in opset 11";
        return Err(reason.into());
    }
    let scales = d.input(1);
    d.set_input(1, Input::Absent);
    d.set_input(2, scales);
    d.set("coordinate_transformation_mode", "asymmetric");
    if nearest {
        d.set("nearest_mode", "floor");
    }
    // An optional input only since opset 13, but an empty one means the same at any version.
    let empty = Tensor::from_f32(Dims::from_slice(&[0]), &[]).map_err(|e| e.to_string())?;
    d.set_input(1, Input::Made("roi", empty));
    Ok(())
}

/// True where an index divided by the scale can fall between two elements without an agreed way to round it.
fn skips_unevenly(scale: f64) -> bool {
    scale < 1.0 && (1.0 / scale).fract().abs() > 1e-6
}

/// Resize-13: of scales and sizes only one may be given, where before the other was empty; and a mode is gone.
pub(super) fn either_or(d: &mut Draft<'_>) -> Result<(), String> {
    if d.has_input(3) {
        let no_sizes = d.constant(3).is_some_and(|t| t.elements() == 0);
        d.set_input(if no_sizes { 3 } else { 2 }, Input::Absent);
    }
    if d.str("coordinate_transformation_mode") != Some("tf_half_pixel_for_nn") {
        return Ok(());
    }
    // floor((i + 0.5) / s) is (i + 0.5) / s - 0.5 rounded half up.
    if d.str("mode").is_none_or(|mode| mode == "nearest") && d.str("nearest_mode") == Some("floor") {
        d.set("coordinate_transformation_mode", "half_pixel");
        d.set("nearest_mode", "round_prefer_ceil");
        return Ok(());
    }
    Err("its coordinate_transformation_mode \"tf_half_pixel_for_nn\" is gone, and its nearest_mode is not \"floor\""
        .into())
}

#[cfg(test)]
mod tests {
    use crate::{
        convert::{RaiseOpset, raise_opset::tests::refusal},
        testing::check,
    };

    #[test]
    fn upsample_becomes_resize() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 4, opset_import: ["" : 7]>
            g (float[1,2,3,4] x) => (float[1,2,6,8] y) { [up] y = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1,2,3,4] x) => (float[1,2,6,8] y)
        <
          float[0] up_roi = {},
          float[4] up_scales = {1.0, 1.0, 2.0, 2.0}
        >
        {
          [up] y = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, up_roi, up_scales)
        }
        "#);
    }

    #[test]
    fn sizes_push_scales_out() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 6, opset_import: ["" : 11]>
            g (float[1,1,2,2] x) => (float[1,1,4,4] y)
            <float[0] none = {}, int64[4] sizes = {1, 1, 4, 4}>
            {
                y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor">
                    (x, none, none, sizes)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1,1,2,2] x) => (float[1,1,4,4] y)
        <
          float[0] none = {},
          int64[4] sizes = {1, 1, 4, 4}
        >
        {
          y = Resize <coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_ceil"> (x, none, "", sizes)
        }
        "#);
    }

    #[test]
    fn refuses_what_was_left_open() {
        let text = r#"<ir_version: 5, opset_import: ["" : 10]>
            g (float[10] x) => (float[7] y) <float[1] scales = {0.7}> { y = Resize (x, scales) }"#;
        insta::assert_snapshot!(
            refusal(text),
            @r#"the node "y" (Resize) has no equivalent in opset 11: it makes its input smaller by a factor that is no integer, and which element is then the nearest one was first laid down in opset 11"#
        );
    }
}
