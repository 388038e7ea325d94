//! Attributes that became inputs: Slice and TopK in opset 10, Clip and Pad in 11, Dropout in 12, Split in 13.

use planish_ir::{Attrs, DType, Dim, Dims, Ref, Tensor, Type};

use super::draft::{Draft, Input};

/// Clip-11.
pub(super) fn clip(d: &mut Draft<'_>) -> Result<(), String> {
    bound(d, 1, "min", f32::MIN)?;
    bound(d, 2, "max", f32::MAX)
}

/// The old default is the range of float32, which bounds only wider elements; now the default is the range of the type.
fn bound(d: &mut Draft<'_>, slot: usize, name: &'static str, old_default: f32) -> Result<(), String> {
    let value = match d.take_float(name)? {
        Some(value) => value,
        None if d.known_dtype(0) == Some(DType::F64) => old_default,
        None => return Ok(()),
    };
    let scalar = scalar(d, value)?;
    d.set_input(slot, Input::Made(name, scalar));
    Ok(())
}

/// Pad-11.
pub(super) fn pad(d: &mut Draft<'_>) -> Result<(), String> {
    let pads = d.take_ints("pads")?.ok_or("its attribute \"pads\" is missing")?;
    d.set_input(1, Input::Made("pads", Tensor::ints(&pads)));
    let value = d.take_float("value")?.unwrap_or(0.0);
    // Zero is the default, and only this mode looks at the value. (Minus zero is not the default.)
    if value.to_bits() != 0 && d.str("mode").is_none_or(|mode| mode == "constant") {
        let scalar = scalar(d, value)?;
        d.set_input(2, Input::Made("value", scalar));
    }
    Ok(())
}

/// Slice-10.
pub(super) fn slice(d: &mut Draft<'_>) -> Result<(), String> {
    let starts = d.take_ints("starts")?.ok_or("its attribute \"starts\" is missing")?;
    let ends = d.take_ints("ends")?.ok_or("its attribute \"ends\" is missing")?;
    d.set_input(1, Input::Made("starts", Tensor::ints(&starts)));
    d.set_input(2, Input::Made("ends", Tensor::ints(&ends)));
    if let Some(axes) = d.take_ints("axes")? {
        d.set_input(3, Input::Made("axes", Tensor::ints(&axes)));
    }
    Ok(())
}

/// TopK-10.
pub(super) fn top_k(d: &mut Draft<'_>) -> Result<(), String> {
    let k = d.take_int("k")?.ok_or("its attribute \"k\" is missing")?;
    d.set_input(1, Input::Made("k", Tensor::ints(&[k])));
    Ok(())
}

/// Split-13.
pub(super) fn split(d: &mut Draft<'_>) -> Result<(), String> {
    if let Some(split) = d.take_ints("split")? {
        d.set_input(1, Input::Made("split", Tensor::ints(&split)));
    }
    Ok(())
}

/// Split-18 wants to be told into how many parts it splits evenly; before, the outputs said it.
pub(super) fn even_split(d: &mut Draft<'_>) -> Result<(), String> {
    if !d.has_input(1) {
        let parts = i64::try_from(d.outputs()).map_err(|e| e.to_string())?;
        d.set("num_outputs", parts);
    }
    Ok(())
}

/// Dropout-10 makes its mask of booleans; before, it had the type of the data. (What a mask holds where nothing is
/// dropped was laid down in opset 12 only.)
pub(super) fn dropout_mask(d: &mut Draft<'_>) -> Result<(), String> {
    if !d.has_output(1) {
        return Ok(());
    }
    let dtype = d.dtype(0)?;
    let (mask, graph) = d.output(1)?;
    let numbers = d.helper("mask", "Cast", [Ref::Value(mask)], Attrs::new().with("to", i64::from(dtype.code())));
    let shape = graph.ty(mask).and_then(Type::shape).or_else(|| d.shape(0)).map(<[Dim]>::to_vec);
    d.move_output(mask, numbers, shape.map(|shape| Type::tensor(DType::Bool, shape)));
    Ok(())
}

/// Dropout-12. Without the new input `training_mode` it is at rest, as it was before.
pub(super) fn dropout(d: &mut Draft<'_>) -> Result<(), String> {
    if let Some(ratio) = d.take_float("ratio")? {
        d.set_input(1, Input::Made("ratio", Tensor::scalar_f32(ratio)));
    }
    Ok(())
}

/// A number of the type of the first input.
fn scalar(d: &Draft<'_>, value: f32) -> Result<Tensor, String> {
    Tensor::from_f64_as(d.dtype(0)?, Dims::new(), &[f64::from(value)]).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use crate::{
        convert::{RaiseOpset, raise_opset::tests::refusal},
        testing::check,
    };

    #[test]
    fn attributes_become_inputs() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 4, opset_import: ["" : 9]>
            g (float16[4,8] x) => (float16[2,3] top, int64[2,3] at, float16[2,6] p) {
                c = Clip <min = 0.0> (x)
                a, b = Split <axis = 0, split = [1, 3]> (c)
                s = Slice <axes = [0], starts = [1], ends = [3]> (b)
                top, at = TopK <k = 3> (s)
                p = Pad <pads = [0, 1, 0, 2], value = 1.0> (top)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float16[4,8] x) => (float16[2,3] top, int64[2,3] at, float16[2,6] p)
        <
          float16 c_min = {0},  # 0.0
          int64[2] a_split = {1, 3},
          int64[1] s_starts = {1},
          int64[1] s_ends = {3},
          int64[1] s_axes = {0},
          int64[1] top_k = {3},
          int64[4] p_pads = {0, 1, 0, 2},
          float16 p_value = {15360}  # 1.0
        >
        {
          c = Clip (x, c_min)
          a, b = Split <axis = 0> (c, a_split)
          s = Slice (b, s_starts, s_ends, s_axes)
          top, at = TopK (s, top_k)
          p = Pad (top, p_pads, p_value)
        }
        "#);
    }

    #[test]
    fn an_even_split_counts_its_outputs() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 7, opset_import: ["" : 13]> g (float[4] x) => (float[2] a, float[2] b) { a, b = Split (x) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[4] x) => (float[2] a, float[2] b) {
          a, b = Split <num_outputs = 2> (x)
        }
        "#);
    }

    #[test]
    fn the_mask_of_a_dropout_stays_a_number() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 4, opset_import: ["" : 9]>
            g (float[4] x) => (float[4] y, float[4] m) { y, m = Dropout <ratio = 0.25> (x) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[4] x) => (float[4] y, float[4] m)
        <
          float y_ratio = {0.25}
        >
        {
          y, m_1 = Dropout (x, y_ratio)
          [y_mask] m = Cast <to = 1> (m_1)
        }
        "#);
    }

    #[test]
    fn the_type_of_a_bound_must_be_known() {
        let text = r#"<ir_version: 4, opset_import: ["" : 9, "my" : 1]>
            g (float[4] x) => (float[4] y) { a = my.Op (x) [clip] y = Clip <max = 6.0> (a) }"#;
        insta::assert_snapshot!(
            refusal(text),
            @r#"the node "clip" (Clip) has no equivalent in opset 11: the element type of its input "a" is unknown; declare it in the model"#
        );
    }
}
