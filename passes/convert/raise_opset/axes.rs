//! Axes that became inputs: Squeeze, Unsqueeze and ReduceSum in opset 13, the other reductions in 18, DFT in 20.

use planish_ir::{Dims, Tensor};

use super::draft::{Draft, Input};

/// `axes` is optional, and so is the input.
pub(super) fn optional(d: &mut Draft<'_>) -> Result<(), String> {
    if let Some(axes) = d.take_ints("axes")? {
        d.set_input(1, Input::Made("axes", Tensor::ints(&axes)));
    }
    Ok(())
}

/// `axes` must be there.
pub(super) fn required(d: &mut Draft<'_>) -> Result<(), String> {
    let axes = d.take_ints("axes")?.ok_or("its attribute \"axes\" is missing")?;
    d.set_input(1, Input::Made("axes", Tensor::ints(&axes)));
    Ok(())
}

/// The default was axis 1 and is now the last one before the complex parts, so that it has to be spelled out.
pub(super) fn dft(d: &mut Draft<'_>) -> Result<(), String> {
    let axis = d.take_int("axis")?.unwrap_or(1);
    let scalar = Tensor::from_i64(Dims::new(), &[axis]).map_err(|e| e.to_string())?;
    d.set_input(2, Input::Made("axis", scalar));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{convert::RaiseOpset, testing::check};

    #[test]
    fn axes_become_inputs() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 6, opset_import: ["" : 11]>
            g (float[2,1,3] x) => (float[2,3,1] y, float z, float[2,1,1] m) {
                s = Squeeze <axes = [1]> (x)
                y = Unsqueeze <axes = [2]> (s)
                z = ReduceSum <keepdims = 0> (x)
                m = ReduceMean <axes = [-1]> (x)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[2,1,3] x) => (float[2,3,1] y, float z, float[2,1,1] m)
        <
          int64[1] s_axes = {1},
          int64[1] y_axes = {2},
          int64[1] m_axes = {-1}
        >
        {
          s = Squeeze (x, s_axes)
          y = Unsqueeze (s, y_axes)
          z = ReduceSum <keepdims = 0> (x)
          m = ReduceMean (x, m_axes)
        }
        "#);
    }

    #[test]
    fn the_axis_of_a_dft_is_spelled_out() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,8,9,1] x) => (float[1,8,9,2] y) { y = DFT (x) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1,8,9,1] x) => (float[1,8,9,2] y)
        <
          int64 y_axis = {1}
        >
        {
          y = DFT (x, "", y_axis)
        }
        "#);
    }
}
